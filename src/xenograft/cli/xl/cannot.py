# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of xl that can't do anything here: each says why, in one line, with exit status 1."""

from __future__ import annotations

import click

from xenograft.toolstack.errors import Failure

_PCI = "there is no host hardware to hand to a guest"
_PSR = "the machine's processor has no Platform Shared Resource monitoring or control"
_TPM = "virtual TPMs have no back end here"
_DISPLAY = "virtual displays have no back end here"
_SOUND = "virtual sound cards have no back end here"
_USB = "there is no USB here"
_FLASK = "there is no Flask security policy: every domain may do what its privileges say"

REASONS: dict[str, str] = {
    "pci-attach": _PCI,
    "pci-detach": _PCI,
    "pci-list": _PCI,
    "pci-assignable-add": _PCI,
    "pci-assignable-remove": _PCI,
    "pci-assignable-list": _PCI,
    "vncviewer": "guests have no VNC display here; xg console shows their console",
    "vtpm-attach": _TPM,
    "vtpm-detach": _TPM,
    "vdispl-attach": _DISPLAY,
    "vdispl-detach": _DISPLAY,
    "vsnd-attach": _SOUND,
    "vsnd-detach": _SOUND,
    "getenforce": _FLASK,
    "setenforce": _FLASK,
    "loadpolicy": _FLASK,
    "remus": "checkpointing a guest to another host isn't supported",
    "devd": "the host service serves devices itself, for as long as it runs",
    "psr-hwinfo": _PSR,
    "psr-cmt-attach": _PSR,
    "psr-cmt-detach": _PSR,
    "psr-cmt-show": _PSR,
    "psr-cat-set": _PSR,
    "psr-cat-show": _PSR,
    "psr-mba-set": _PSR,
    "psr-mba-show": _PSR,
    "usbctrl-attach": _USB,
    "usbctrl-detach": _USB,
    "usbdev-attach": _USB,
    "usbdev-detach": _USB,
    "usb-list": _USB,
    "qemu-monitor-command": "no QEMU is the device model of any guest here",
}


def command(name: str) -> click.Command:
    """The command of that name, which says why it can't."""
    reason = REASONS[name]

    @click.command(
        name=name,
        help=f"Not here: {reason}.",
        short_help=f"(not here: {reason})",
        context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
    )
    @click.argument("words", nargs=-1, metavar="[ARGUMENT]...")
    def refuse(words: tuple[str, ...]) -> None:
        raise Failure(f"xg {name} can't be done: {reason}")

    return refuse


def __getattr__(attribute: str) -> click.Command:
    """`pci_attach` and so on, for the table of commands."""
    name = attribute.replace("_", "-")
    if name in REASONS:
        return command(name)
    raise AttributeError(attribute)

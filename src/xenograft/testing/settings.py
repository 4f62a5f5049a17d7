# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test wants its guests to be: the options of markers and of pytest's configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from xenograft.toolstack.errors import UserError, unknown

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Settings:
    """Of a guest, and of the machine that it runs on; hashable, so that equal ones can share."""

    kernel: str = "debian-cloud"
    """A file, or an image's name (`xg image list`)."""
    ramdisk: str = "driver-initrd"
    cmdline: str = "console=hvc0 quiet"
    type: str = "pvh"
    memory: int | str = 256
    """MiB, or text such as "1G"."""
    vcpus: int = 1
    disk: tuple[str, ...] = ()
    """Devices, as in xl.cfg."""
    vif: tuple[str, ...] = ()
    p9: tuple[str, ...] = ()
    channel: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    """Kernel modules (files) that are loaded once the guest is up, in their order."""
    prompt: str = r"[#$] (\x1b\[6n)?$"
    """What its console shows when it waits for a command (a regular expression)."""
    boot_timeout: float = 120.0
    """Seconds of the machine's time until its first prompt."""
    timeout: float = 60.0
    """Seconds of the machine's time that a command may take."""
    clock: Literal["virtual", "real"] = "virtual"
    cpus: int = 1
    """Physical CPUs of the machine."""
    sched: str = "credit2"
    bridges: tuple[str, ...] = ()
    host_timeout: float = 300.0
    """Seconds of the host's time that a test may take."""


MACHINE_OPTIONS = ("clock", "cpus", "sched", "bridges", "host_timeout")
GUEST_OPTIONS = tuple(
    field.name for field in fields(Settings) if field.name not in MACHINE_OPTIONS[1:4]
)
INI_OPTIONS = ("kernel", "ramdisk", "cmdline", "type", "memory", "vcpus", "prompt", "clock")
INI_NUMBERS = ("boot_timeout", "timeout", "host_timeout")
_FILES = ("kernel", "ramdisk", "modules")


def with_options(
    settings: Settings, what: str, known: Iterable[str], given: Mapping[str, Any], base: Path
) -> Settings:
    """Settings with other values; relative paths of files count from the folder `base`.

    `what` is named in errors.  Raises UserError, one line.
    """
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{what}: {unknown('option', name, known)}")
        if name in _FILES:
            several = isinstance(value, (list, tuple))
            value = [_file(one, base) for one in value] if several else _file(value, base)
        changes[name] = _checked(what, name, value)
    return replace(settings, **changes)


def _file(value: object, base: Path) -> object:
    """A file beside the test if there is one, else the name as it is (of an image, or absolute)."""
    if isinstance(value, (str, Path)):
        path = base / value
        return str(path) if path.exists() else str(value)
    return value


_HINTS = get_type_hints(Settings)


def _checked(what: str, name: str, value: Any) -> Any:
    """A value of the right type.  Raises UserError."""
    hint = _HINTS[name]
    if hint == tuple[str, ...]:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, (list, tuple)) or not all(isinstance(one, str) for one in words):
            raise UserError(f"{what}: {name} is a list of texts, not {value!r}")
        return tuple(words)
    if name == "clock":
        if value not in ("virtual", "real"):
            raise UserError(f"{what}: clock is 'virtual' or 'real', not {value!r}")
        return value
    kinds = {int: (int,), float: (int, float), str: (str,)}.get(hint, (int, str))
    if isinstance(value, bool) or not isinstance(value, kinds):
        names = "a text" if kinds[-1] is str else "a number"
        raise UserError(f"{what}: {name} is {names}, not {value!r}")
    if isinstance(value, (int, float)) and value <= 0:
        raise UserError(f"{what}: {name} is more than 0, not {value!r}")
    return value


# -- where they come from -----------------------------------------------------------------------
def of_item(item: pytest.Item) -> Settings:
    """What pytest's configuration and a test's markers say.  Raises UserError."""
    config = item.config
    given: dict[str, object] = {}
    for name in (*INI_OPTIONS, *INI_NUMBERS):
        text = config.getini(f"xen_{name}")
        if text:
            given[name] = _number(name, text) if name in (*INI_NUMBERS, "vcpus") else text
    root = config.rootpath if config.inipath is None else config.inipath.parent
    settings = with_options(Settings(), "pytest's configuration", given, given, root)
    folder = item.path.parent
    for marker, known in (("xen_machine", MACHINE_OPTIONS), ("xen_guest", GUEST_OPTIONS)):
        # The nearest comes first, and has the last word.
        for mark in reversed(list(item.iter_markers(marker))):
            if mark.args:
                raise UserError(f"{marker}: give its options by name, as memory=512")
            settings = with_options(settings, marker, known, mark.kwargs, folder)
    return settings


def _number(name: str, text: str) -> float | int:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise UserError(f"pytest's configuration: xen_{name} is a number, not {text!r}") from None

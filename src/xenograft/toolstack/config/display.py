# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfb=` and `vkb=` specifications: frame buffer, keyboard and pointer (xl.cfg(5) of Xen 4.17)."""

from __future__ import annotations

import msgspec

from xenograft.toolstack.config.pairs import flag, pairs
from xenograft.toolstack.config.values import number, one_of
from xenograft.toolstack.errors import UserError

_VFB_FLAGS = ("vnc", "vncunused", "sdl", "opengl")
_VFB_TEXTS = (
    *("vnclisten", "vncdisplay", "vncpasswd", "vncviewer", "display", "xauthority", "keymap"),
    "backend",
)
_VFB_KEPT = ("vnclisten", "vncdisplay", "keymap", "backend")
_VKB_FLAGS = {
    "feature-disable-keyboard": "disable_keyboard",
    "feature-disable-pointer": "disable_pointer",
    "feature-abs-pointer": "abs_pointer",
    "feature-raw-pointer": "raw_pointer",
    "feature-multi-touch": "multi_touch",
}
_VKB_NUMBERS = {
    "multi-touch-width": "touch_width",
    "multi-touch-height": "touch_height",
    "multi-touch-num-contacts": "touch_contacts",
    "width": "width",
    "height": "height",
}
_VKB_TEXTS = ("unique-id", "backend-type", "backend", "id")
MAX_EDGE = 8192


class Vfb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One frame buffer; it comes with a keyboard and pointer."""

    vnc: bool = False
    """Asked for, in vain: there is no VNC server."""
    vnclisten: str = ""
    vncdisplay: str = ""
    keymap: str = ""
    backend: str = ""


class Vkb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One keyboard and pointer."""

    unique_id: str = ""
    backend: str = ""
    disable_keyboard: bool = False
    disable_pointer: bool = False
    abs_pointer: bool = True
    raw_pointer: bool = False
    multi_touch: bool = False
    touch_width: int = 0
    touch_height: int = 0
    touch_contacts: int = 0
    width: int = 0
    height: int = 0


def _edge(what: str, text: str) -> int:
    value = number(text, what)
    if not 1 <= value <= MAX_EDGE:
        raise UserError(f"{what}: {value} is out of range (1 to {MAX_EDGE})")
    return value


def parse_vfb(text: str) -> Vfb:
    """One frame buffer, as ``vnc=0`` or nothing at all.  Raises UserError."""
    values = pairs("vfb", text, (*_VFB_FLAGS, *_VFB_TEXTS))
    flags = {name: flag(f"vfb: {name}", values[name]) for name in _VFB_FLAGS if name in values}
    for name in ("sdl", "opengl"):
        if flags.get(name):
            raise UserError(f"vfb: {name}=1 isn't supported: no window is opened on the host")
    texts = {name: values[name] for name in _VFB_KEPT if name in values}
    return msgspec.structs.replace(Vfb(vnc=flags.get("vnc", False)), **texts)


def parse_vkb(text: str) -> Vkb:
    """One keyboard and pointer; the empty text is one with all defaults.  Raises UserError."""
    values = pairs("vkb", text, (*_VKB_FLAGS, *_VKB_NUMBERS, *_VKB_TEXTS))
    one_of(values.get("backend-type", "qemu"), ("qemu", "linux"), "vkb: backend-type")
    flags = {
        field: flag(f"vkb: {name}", values[name])
        for name, field in _VKB_FLAGS.items()
        if name in values
    }
    numbers = {
        field: _edge(f"vkb: {name}", values[name])
        for name, field in _VKB_NUMBERS.items()
        if name in values
    }
    if flags.get("multi_touch") and not all(
        numbers.get(name) for name in ("touch_width", "touch_height", "touch_contacts")
    ):
        raise UserError(
            "vkb: feature-multi-touch=1 needs multi-touch-width=, multi-touch-height= and"
            " multi-touch-num-contacts="
        )
    identity = values.get("unique-id", values.get("id", ""))
    vkb = Vkb(unique_id=identity, backend=values.get("backend", ""))
    return msgspec.structs.replace(vkb, **flags, **numbers)

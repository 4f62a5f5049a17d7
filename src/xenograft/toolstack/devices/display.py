# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfb=` and `vkb=` as nodes of the store (libxl's device_vfb_add and device_vkb_add)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.toolstack.devices.record import DeviceRecord

if TYPE_CHECKING:
    from xenograft.toolstack.config.display import Vfb, Vkb


def vfb_record(vfb: Vfb, devid: int, domid: int, backend_domid: int = 0) -> DeviceRecord:
    """The nodes of a frame buffer for domain `domid`."""
    backend = {"vnc": "0", "sdl": "0", "opengl": "0"}
    if vfb.keymap:
        backend["keymap"] = vfb.keymap
    return DeviceRecord(
        kind="vfb",
        devid=devid,
        domid=domid,
        backend_domid=backend_domid,
        backend=backend,
        frontend={},
    )


def vkb_record(vkb: Vkb, devid: int, domid: int, backend_domid: int = 0) -> DeviceRecord:
    """The nodes of a keyboard and pointer for domain `domid`."""
    backend = {"backend-type": "qemu"}
    for name in ("disable_keyboard", "disable_pointer", "abs_pointer", "raw_pointer"):
        if getattr(vkb, name):
            backend[f"feature-{name.replace('_', '-')}"] = "1"
    backend.setdefault("feature-abs-pointer", "0")
    if vkb.multi_touch:
        backend |= {
            "feature-multi-touch": "1",
            "multi-touch-width": str(vkb.touch_width),
            "multi-touch-height": str(vkb.touch_height),
            "multi-touch-num-contacts": str(vkb.touch_contacts),
        }
    for name in ("width", "height"):
        if getattr(vkb, name):
            backend[name] = str(getattr(vkb, name))
    if vkb.unique_id:
        backend["unique-id"] = vkb.unique_id
    return DeviceRecord(
        kind="vkbd",
        devid=devid,
        domid=domid,
        backend_domid=backend_domid,
        backend=backend,
        frontend={},
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""`disk=`: a configured disk as nodes of the store (libxl's device_disk_add of Xen 4.17)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from xenograft.toolstack.devices.record import DeviceRecord
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from xenograft.backends.block.images.image import Image
    from xenograft.toolstack.config.disk import Disk

_UNKNOWN = ("vhd", "qcow", "qed")


def disk_record(disk: Disk, domid: int, backend_domid: int = 0) -> DeviceRecord:
    """The nodes of a disk for domain `domid`."""
    plain = disk.format in ("raw", "empty")
    params = disk.target if plain else f"{disk.format}:{disk.target}"
    device_type = "cdrom" if disk.cdrom else "disk"
    return DeviceRecord(
        kind="vbd",
        devid=disk.device_number,
        domid=domid,
        backend_domid=backend_domid,
        backend={
            "params": params,
            "script": disk.script or "/etc/xen/scripts/block",
            "removable": "1" if disk.cdrom else "0",
            "bootable": "1",
            "dev": disk.vdev,
            "type": "phy" if plain else "qdisk",
            "mode": "r" if disk.readonly else "w",
            "device-type": device_type,
            "discard-enable": "1" if disk.discard and not disk.readonly else "0",
            "specification": disk.specification,
        },
        frontend={
            "virtual-device": str(disk.device_number),
            "device-type": device_type,
            "trusted": "1" if disk.trusted else "0",
        },
    )


def check_served(disk: Disk) -> None:
    """Raise UserError if it's a kind of disk that domain 0 can't serve, whatever is in it."""
    if disk.specification != "xen":
        raise UserError(f"disk {disk.vdev}: specification={disk.specification} isn't served here")
    if disk.script not in ("", "block"):
        raise UserError(
            f"disk {disk.vdev}: script={disk.script} isn't supported: no hotplug scripts are run;"
            " name a file, a device of the host or nbd://HOST:PORT/NAME by target="
        )
    if disk.format in _UNKNOWN:
        raise UserError(
            f"disk {disk.vdev}: {disk.target}: format {disk.format} isn't supported; convert the"
            " image with qemu-img convert -O qcow2"
        )


def open_disk(disk: Disk) -> Image | None:
    """Open what is behind a disk; None for an empty drive.

    Raises UserError, one line: the image is missing, in use, corrupt, of an unknown format …
    """
    from xenograft.backends.block.images.image import ImageError
    from xenograft.backends.block.images.open import open_image

    check_served(disk)
    if disk.format == "empty":
        return None
    try:
        return open_image(disk.target, disk.format, disk.readonly)
    except ImageError as error:
        raise UserError(f"disk {disk.vdev}: {error}") from None


def hint(disk: Disk) -> str | None:
    """What whoever gave a disk that can be served may have forgotten; None: nothing."""
    from xenograft.backends.block.images.image import ImageError
    from xenograft.backends.block.images.open import probe

    with suppress(ImageError):
        if disk.format == "raw" and probe(disk.target) == "qcow2":
            return (
                f"disk {disk.vdev}: {disk.target} is a qcow2 image, and the guest is given the"
                " bytes of its file; with format=qcow2 it has the disk in it"
            )
    return None


def is_remote(disk: Disk) -> bool:
    """Whether domain 0 gets it from a server, which may take its time to answer."""
    from xenograft.backends.block.images.nbd import is_nbd

    return disk.specification == "xen" and not disk.backend and is_nbd(disk.target)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are too large for a console: by a disk that is plugged in for a moment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.toolstack.config.disk import device_number, parse_disk

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain

VDEV = "xvdzz"
"""The disk's name in the guest: one that nobody else will want."""

WORTH_IT = 32 << 10
"""Bytes from which on a disk is quicker than the console."""

_SECTOR = 512
_LOOK_SECONDS = 0.005


@contextmanager
def lent_disk(
    domain: Domain, size: int, data: bytes, connect: Callable[[], None], timeout: float
) -> Iterator[Path]:
    """A disk of `size` bytes at least, which begins with `data`, for as long as the block lasts.

    `connect` waits until the guest has it.  Yields the image; it's gone from the guest when the
    block ends.  Raises UserError.
    """
    with tempfile.TemporaryDirectory(prefix="xenograft-") as folder:
        image = Path(folder) / "disk"
        image.write_bytes(data)
        with image.open("r+b") as file:
            file.truncate(-(-max(size, 1) // _SECTOR) * _SECTOR)
        number = device_number(VDEV)
        domain.devices.attach_disk(parse_disk(f"format=raw,vdev={VDEV},access=rw,target={image}"))
        try:
            connect()
            yield image
        finally:
            if not domain.ended:
                _take_away(domain, number, timeout)


def _take_away(domain: Domain, number: int, timeout: float) -> None:
    """Unplug the disk, whether the guest agrees in time or not."""
    gone: list[None] = []
    if domain.devices.find("vbd", number) is None:
        return
    domain.devices.detach("vbd", number, lambda: gone.append(None))
    deadline = domain.machine.now + timeout
    while not gone and not domain.ended and domain.machine.now < deadline:
        domain.machine.run(_LOOK_SECONDS, lambda: bool(gone) or domain.ended)
    if not gone and not domain.ended:
        domain.devices.remove("vbd", number)

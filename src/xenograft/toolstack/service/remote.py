# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks whose server may take its time to answer, or be away: no other guest waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from xenograft.toolstack.devices.disk import is_remote, open_disk
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service.messages import Failure

if TYPE_CHECKING:
    from xenograft.backends.block.images.image import Image
    from xenograft.toolstack.config.disk import Disk
    from xenograft.toolstack.service.service import Service

T = TypeVar("T")


async def with_disks(service: Service, disks: Iterable[Disk], work: Callable[[], T]) -> T:
    """Have the machine's thread do `work`, which attaches `disks`; the remote ones are open then.

    Raises Failure.
    """
    opened = await _open([disk for disk in disks if is_remote(disk)])

    def call() -> T:
        waiting = service.host.machine.services.opened
        waiting.update(opened)
        try:
            return work()
        finally:
            _close(waiting.pop(disk, None) for disk in opened)

    return await service.thread.call(call)


async def _open(disks: list[Disk]) -> dict[Disk, Image]:
    found = await asyncio.gather(
        *(asyncio.to_thread(open_disk, disk) for disk in disks), return_exceptions=True
    )
    opened: dict[Disk, Image] = {}
    errors: list[BaseException] = []
    for disk, image in zip(disks, found, strict=True):
        if isinstance(image, BaseException):
            errors.append(image)
        elif image is not None:
            opened[disk] = image
    if errors:
        _close(opened.values())
        if isinstance(errors[0], UserError):
            raise Failure(str(errors[0])) from None
        raise errors[0]
    return opened


def _close(images: Iterable[Image | None]) -> None:
    for image in images:
        if image is not None:
            image.close()

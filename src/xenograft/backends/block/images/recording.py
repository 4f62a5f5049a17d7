# SPDX-License-Identifier: GPL-2.0-or-later
"""A storage that keeps every write and flush, to try what a power cut would leave.

`states` gives what the disk may hold if the power fails after some of the operations: all that
was written before the last completed flush, and any part of what was written since.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from xenograft.backends.block.images.image import Buffer, Storage, WrappedImage

ATOM = 512
"""Bytes that reach a disk together or not at all."""


class Recorded(NamedTuple):
    """One operation: "write" (`data` at `offset`), "discard", "resize" (to `size`), "flush"."""

    name: str
    offset: int = 0
    size: int = 0
    data: bytes = b""


class RecordingStorage(WrappedImage):
    """Passes everything on to `inner`, and keeps it in `log`."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self._inner = inner
        self._lock = threading.Lock()
        self.log: list[Recorded] = []
        self.start = inner.read(0, inner.size)
        """What it held at the beginning."""

    def write(self, offset: int, data: Buffer) -> None:
        with self._lock:
            self._inner.write(offset, data)
            self.log.append(Recorded("write", offset, len(data), bytes(data)))

    def flush(self) -> None:
        with self._lock:
            self._inner.flush()
            self.log.append(Recorded("flush"))

    def discard(self, offset: int, size: int) -> None:
        with self._lock:
            self._inner.discard(offset, size)
            self.log.append(Recorded("discard", offset, size))

    def reserve(self, offset: int, size: int) -> None:
        self._inner.reserve(offset, size)

    def resize(self, size: int) -> None:
        with self._lock:
            self._inner.resize(size)
            self.log.append(Recorded("resize", size=size))


def after_power_cut(
    start: bytes | bytearray, log: Iterable[Recorded], survives: Callable[[int, int], bool]
) -> bytearray:
    """What is on the disk if the power fails after the operations of `log`.

    Everything before the last flush is there.  Of what came later, `survives(operation, atom)`
    decides for each piece of 512 bytes of each write.
    """
    operations = list(log)
    flushed = max((i for i, one in enumerate(operations) if one.name == "flush"), default=-1)
    disk = bytearray(start)

    def reach(end: int) -> None:
        if len(disk) < end:
            disk.extend(bytes(end - len(disk)))

    for index, one in enumerate(operations):
        lasting = index < flushed
        match one.name:
            case "write":
                for atom, at in enumerate(range(0, one.size, ATOM)):
                    if lasting or survives(index, atom):
                        part = one.data[at : at + ATOM]
                        reach(one.offset + at + len(part))
                        disk[one.offset + at : one.offset + at + len(part)] = part
            case "discard":
                if lasting or survives(index, 0):
                    reach(one.offset + one.size)
                    disk[one.offset : one.offset + one.size] = bytes(one.size)
            case "resize":
                if lasting or survives(index, 0):
                    del disk[one.size :]
                    reach(one.size)
    return disk

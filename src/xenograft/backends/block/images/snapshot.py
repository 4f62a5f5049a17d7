# SPDX-License-Identifier: GPL-2.0-or-later
"""An image's contents at one moment, for others to go on from while the image is in use.

A disk that is forked has three parts: the `Origin`, which stays the image that its guest
writes; a `Snapshot`, which keeps what the origin is about to overwrite; and an `Overlay` for
each clone, which holds what the clone has written.  Nothing is copied before it is overwritten.

What snapshots and overlays hold is in files without a name, which go with the process.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenograft.backends.block.images.image import Buffer, Fill, WrappedImage

if TYPE_CHECKING:
    from xenograft.backends.block.images.image import Image

CLUSTER = 4096
"""Bytes of the units that are kept: a guest's page, so that most writes need nothing read."""

_CHUNK = 1 << 20
_KEPT = b"\1"


class _Clusters:
    """Some clusters of an image of `size` bytes, in a sparse file without a name."""

    def __init__(self, size: int, folder: str | None) -> None:
        self.size = size
        # A byte each: memory that nobody has written to costs nothing.
        self._kept = bytearray(-(-size // CLUSTER))
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._fd = self._file.fileno()

    def runs(self, offset: int, size: int) -> Iterator[tuple[bool, int, int]]:
        """The bytes asked for in pieces that are kept, or aren't: (kept, offset, size)."""
        end = offset + size
        while offset < end:
            index = offset // CLUSTER
            kept = self._kept[index]
            last = self._kept.find(1 - kept, index, -(-end // CLUSTER))
            stop = end if last < 0 else min(end, last * CLUSTER)
            yield bool(kept), offset, stop - offset
            offset = stop

    def read(self, offset: int, size: int) -> bytes:
        """Kept bytes."""
        data = os.pread(self._fd, size, offset)
        return data + bytes(size - len(data))

    def write(self, offset: int, data: Buffer) -> None:
        """Keep bytes; the clusters at both ends have to be whole, or kept already."""
        view, at = memoryview(data), offset
        while view:
            done = os.pwrite(self._fd, view, at)
            view, at = view[done:], at + done
        self.mark(offset, len(data))

    def mark(self, offset: int, size: int) -> None:
        """What is in these clusters is kept; nothing was written: zeros."""
        first, last = offset // CLUSTER, -(-(offset + size) // CLUSTER)
        self._kept[first:last] = _KEPT * (last - first)

    def has(self, offset: int) -> bool:
        """Whether the cluster that this byte is in is kept."""
        return bool(self._kept[offset // CLUSTER])

    def close(self) -> None:
        self._file.close()


def _around(offset: int, size: int, whole: int) -> tuple[int, int]:
    """The clusters around some bytes, as (offset, size) within an image of `whole` bytes."""
    start = offset - offset % CLUSTER
    end = min(-(-(offset + size) // CLUSTER) * CLUSTER, whole)
    return start, end - start


class Snapshot:
    """What an `Origin` held when this was made. `close` it once for each `share` and the making."""

    def __init__(self, origin: Origin, folder: str | None) -> None:
        self._origin = origin
        self.size = origin.size
        self._old = _Clusters(self.size, folder)
        self._lock = threading.Lock()
        self._users = 1

    @property
    def path(self) -> str:
        return self._origin.path

    @property
    def origin(self) -> Origin:
        """The image that it's of."""
        return self._origin

    def revert(self) -> None:
        """Have the origin hold again what it held.  Raises OSError.

        Nothing may be under way.  Other snapshots of it stay as they are.
        """
        for kept, at, length in list(self._old.runs(0, self.size)):
            for start in range(at, at + length, _CHUNK) if kept else ():
                step = min(_CHUNK, at + length - start)
                self._origin.write(start, self._old.read(start, step))

    def share(self) -> Snapshot:
        """The same for one more user."""
        self._users += 1
        return self

    def read(self, offset: int, size: int) -> bytes:
        """Bytes as they were; zeros beyond the end.  Raises OSError."""
        within = max(0, min(size, self.size - offset))
        parts = []
        with self._lock:
            # Under the lock: what isn't kept isn't overwritten before we have it.
            for kept, at, length in self._old.runs(offset, within):
                parts.append(
                    self._old.read(at, length)
                    if kept
                    else bytes(self._origin.image.read(at, length))
                )
        parts.append(bytes(size - within))
        return b"".join(parts)

    def keep(self, offset: int, size: int) -> None:
        """The origin is about to overwrite these bytes.  Raises OSError."""
        start, length = _around(offset, max(0, min(size, self.size - offset)), self.size)
        while length > 0:
            step = min(length, _CHUNK)
            with self._lock:
                for kept, at, run in self._old.runs(start, step):
                    if kept:
                        continue
                    data = self._origin.image.read(at, run)
                    if any(data):
                        self._old.write(at, data)
                    else:
                        self._old.mark(at, run)
            start, length = start + step, length - step

    def close(self) -> None:
        self._users -= 1
        if not self._users:
            self._origin.forget(self)
            self._old.close()


class Origin(WrappedImage):
    """An image that goes on being used, and whose snapshots stay as they are."""

    def __init__(self, image: Image) -> None:
        super().__init__(image)
        self._snapshots: list[Snapshot] = []
        self._closed = False

    def snapshot(self, folder: str | None = None) -> Snapshot:
        """What is in the image now; nothing may be under way.

        `folder`: where the host keeps what is overwritten (default: for temporary files).
        Raises OSError.
        """
        snapshot = Snapshot(self, folder)
        self._snapshots.append(snapshot)
        return snapshot

    def forget(self, snapshot: Snapshot) -> None:
        """A snapshot has no user any more."""
        self._snapshots.remove(snapshot)
        if self._closed and not self._snapshots:
            self.image.close()

    def reopen(self) -> Origin:
        """Use it again after `close`, as long as a snapshot has kept it open."""
        self._closed = False
        return self

    def _keep(self, offset: int, size: int) -> None:
        for snapshot in list(self._snapshots):
            snapshot.keep(offset, size)

    def write(self, offset: int, data: Buffer) -> None:
        self._keep(offset, len(data))
        self.image.write(offset, data)

    def discard(self, offset: int, size: int) -> None:
        self._keep(offset, size)
        self.image.discard(offset, size)

    def close(self) -> None:
        """The image itself stays open, and locked, until the last snapshot goes."""
        self._closed = True
        if not self._snapshots:
            self.image.close()


class Overlay:
    """A disk of its own that begins with a snapshot's contents."""

    def __init__(self, base: Snapshot, readonly: bool = False, folder: str | None = None) -> None:
        """Takes over `base` (see `Snapshot.share`).  Raises OSError."""
        self._base = base
        self.size = base.size
        self.readonly = readonly
        self.discard_granularity = 0 if readonly else CLUSTER
        self._own = _Clusters(base.size, folder)
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        return self._base.path

    def read(self, offset: int, size: int) -> bytes:
        within = max(0, min(size, self.size - offset))
        with self._lock:
            parts = [
                self._own.read(at, length) if kept else self._base.read(at, length)
                for kept, at, length in self._own.runs(offset, within)
            ]
        return b"".join((*parts, bytes(size - within)))

    def read_now(self, offset: int, size: int) -> bytes | None:
        return None

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        return 0

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data)[: max(0, self.size - offset)]
        if not view:
            return
        start, length = _around(offset, len(view), self.size)
        end, stop = offset + len(view), start + length
        with self._lock:
            # What the write leaves of its first and last clusters comes from below.
            if offset > start and not self._own.has(start):
                self._own.write(start, self._base.read(start, min(CLUSTER, length)))
            if end < stop and not self._own.has(end):
                last = end - end % CLUSTER
                self._own.write(last, self._base.read(last, stop - last))
            self._own.write(offset, view)

    def flush(self) -> None:
        """Nothing here outlives the process."""

    def discard(self, offset: int, size: int) -> None:
        """Whole clusters become zeros that take no room."""
        first = -(-offset // CLUSTER) * CLUSTER
        last = min(offset + size, self.size)
        last -= last % CLUSTER if last < self.size else 0
        for at in range(first, last, _CHUNK):
            length = min(_CHUNK, last - at)
            with self._lock:
                for kept, start, run in list(self._own.runs(at, length)):
                    if kept:
                        self._own.write(start, bytes(run))
                    else:
                        self._own.mark(start, run)

    def refresh(self) -> int:
        return self.size

    def close(self) -> None:
        self._own.close()
        self._base.close()

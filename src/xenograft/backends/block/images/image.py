# SPDX-License-Identifier: GPL-2.0-or-later
"""What a disk image can do, whatever its format.

Images are read and written by several threads at once.  Two requests that overlap may be done
in either order, as with any disk; `flush` makes all that was written before it lasting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

Fill: TypeAlias = Callable[[int, int], int]
"""Reads from (file descriptor, offset) what it needs, and returns how many bytes there were."""

SECTOR_SIZE = 512
"""Images are as long as so many whole bytes fit in; what is left over isn't reached."""


class ImageError(Exception):
    """An image can't be used: one line that says which and why."""


class Image(Protocol):
    """Bytes that can be read and written at any offset below `size`.

    All methods but `read_now` may take long, and raise OSError.
    """

    @property
    def path(self) -> str:
        """Where it is, for messages."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def readonly(self) -> bool: ...
    @property
    def discard_granularity(self) -> int:
        """Bytes of the units that `discard` can give back; 0: it can't."""
        ...

    def read(self, offset: int, size: int) -> bytes | bytearray:
        """`size` bytes; beyond the end, and where nothing was written, zeros."""
        ...

    def read_now(self, offset: int, size: int) -> bytes | bytearray | None:
        """The same if it needs no waiting, else None.  Never raises."""
        ...

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        """Have `fill` read these bytes where they lie in a file; returns what it returns.

        0 if they lie nowhere or not together, or if that needs waiting.  Never raises.
        """
        ...

    def write(self, offset: int, data: Buffer) -> None: ...
    def flush(self) -> None:
        """What was written is on stable storage when this returns."""
        ...

    def discard(self, offset: int, size: int) -> None:
        """What is there is no longer needed; it reads as zeros, or as before."""
        ...

    def refresh(self) -> int:
        """Look how large the image is by now; returns `size`."""
        ...

    def close(self) -> None: ...


class Storage(Image, Protocol):
    """What an image format is kept in: an image that grows when it is written beyond its end."""

    def resize(self, size: int) -> None: ...
    def reserve(self, offset: int, size: int) -> None:
        """See that the host has room for what is written there later.  Raises OSError."""
        ...


class ZeroImage:
    """Nothing but zeros: what is behind an image without a backing file."""

    def __init__(self, size: int) -> None:
        self.path = "zeros"
        self.size = size
        self.readonly = True
        self.discard_granularity = 0

    def read(self, offset: int, size: int) -> bytes:
        return bytes(size)

    def read_now(self, offset: int, size: int) -> bytes:
        return bytes(size)

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        return 0

    def write(self, offset: int, data: Buffer) -> None:
        raise PermissionError("zeros can't be written")

    def flush(self) -> None:
        pass

    def discard(self, offset: int, size: int) -> None:
        raise PermissionError("zeros can't be written")

    def refresh(self) -> int:
        return self.size

    def close(self) -> None:
        pass


class WrappedImage:
    """Another image as it is; classes that derive from it say what differs."""

    def __init__(self, image: Image) -> None:
        self.image = image

    @property
    def path(self) -> str:
        return self.image.path

    @property
    def size(self) -> int:
        return self.image.size

    @property
    def readonly(self) -> bool:
        return self.image.readonly

    @property
    def discard_granularity(self) -> int:
        return self.image.discard_granularity

    def read(self, offset: int, size: int) -> bytes | bytearray:
        return self.image.read(offset, size)

    def read_now(self, offset: int, size: int) -> bytes | bytearray | None:
        return self.image.read_now(offset, size)

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        return self.image.fill_now(offset, size, fill)

    def write(self, offset: int, data: Buffer) -> None:
        self.image.write(offset, data)

    def flush(self) -> None:
        self.image.flush()

    def discard(self, offset: int, size: int) -> None:
        self.image.discard(offset, size)

    def refresh(self) -> int:
        return self.image.refresh()

    def close(self) -> None:
        self.image.close()

# SPDX-License-Identifier: GPL-2.0-or-later
"""An image that fails when a test says so: what a worn-out disk looks like to its guest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from xenograft.backends.block.images.image import Buffer, Fill, Image, WrappedImage

Decision = Callable[[str, int, int], int]
"""(operation: "read", "write", "flush" or "discard", offset, size): 0, or the errno to fail with.
It is called by one thread at a time."""


class FaultyImage(WrappedImage):
    """Everything as `image` has it, but for what `decide` wants to fail."""

    def __init__(self, image: Image, decide: Decision) -> None:
        super().__init__(image)
        self.decide = decide
        """May be exchanged."""
        self._lock = threading.Lock()

    def _ask(self, operation: str, offset: int, size: int) -> None:
        with self._lock:
            error = self.decide(operation, offset, size)
        if error:
            raise OSError(error, os.strerror(error))

    def read(self, offset: int, size: int) -> bytes | bytearray:
        self._ask("read", offset, size)
        return self.image.read(offset, size)

    def read_now(self, offset: int, size: int) -> bytes | bytearray | None:
        # All reads go by `read`, where they are counted.
        return None

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        return 0

    def write(self, offset: int, data: Buffer) -> None:
        self._ask("write", offset, len(data))
        self.image.write(offset, data)

    def flush(self) -> None:
        self._ask("flush", 0, 0)
        self.image.flush()

    def discard(self, offset: int, size: int) -> None:
        self._ask("discard", offset, size)
        self.image.discard(offset, size)

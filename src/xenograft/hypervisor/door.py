# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door through which the host reaches into the machine: input, requests, signals.

The machine's thread alone changes the machine.  Other threads `post` a function; file
descriptors are watched; both are served between two slices, at a time of the machine's clock
that is handed to the receiver.  What came in, and when, can be recorded.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable


class Door:
    """Host input, served by the machine loop.

    `kick` is called (from any thread) when something was posted, to end a slice under way.
    """

    def __init__(self) -> None:
        self._posted: deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._watched = 0
        self._closed = False
        # Reentrant: a signal handler may wake the thread that is waking itself.
        self._lock = threading.RLock()
        self.kick: Callable[[], None] = _nothing

    def post(self, function: Callable[[], None]) -> None:
        """Have the machine's thread call `function` soon. May be called from any thread."""
        self._posted.append(function)
        self.wake()

    def wake(self) -> None:
        """End a slice or a wait under way. May be called from any thread and signal handlers."""
        # A full pipe wakes the machine as well.
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._wake_write, b"x")
        self.kick()

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` on the machine's thread whenever `fd` can be read."""
        self._selector.register(fd, selectors.EVENT_READ, ready)
        self._watched += 1

    def unwatch(self, fd: int) -> None:
        """Undo `watch`. Raises KeyError if it isn't watched."""
        self._selector.unregister(fd)
        self._watched -= 1

    def expect(self, count: int) -> None:
        """`count` more operations of other threads are under way that will `post` (or fewer)."""
        self._watched += count

    @property
    def may_open(self) -> bool:
        """Whether input is to come: a descriptor is watched, or an operation is under way."""
        return self._watched > 0 or bool(self._posted)

    def serve(self, timeout: float | None = 0.0) -> bool:
        """Serve what is there; wait for it at most `timeout` seconds (None: for ever).

        Returns whether anything was served.
        """
        served = False
        if self._posted:
            timeout = 0.0
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                try:
                    os.read(self._wake_read, 4096)
                except BlockingIOError:
                    continue
            else:
                key.data()
                served = True
        while self._posted:
            self._posted.popleft()()
            served = True
        return served

    def close(self) -> None:
        """Let go of the descriptors; waking does nothing from now on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)


def _nothing() -> None:
    pass

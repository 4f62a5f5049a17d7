# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest's console: output kept in a window, input queued until the ring has room.

The back end runs in the embedded control domain: it binds the event channel that the toolstack
left for it, and is called when the guest has written or read.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from xenograft.backends.console.ring import ConsoleRing, PageMemory
from xenograft.hypervisor.events.channels import EventChannels

WINDOW = 1 << 20
"""Bytes of output that are kept."""

INPUT_LIMIT = 1 << 20
"""Bytes of input that wait at most; more is refused (`send` says how much it took)."""


class ConsoleState(msgspec.Struct, frozen=True):
    """What `ConsoleBackend.save` keeps: window, what went before it, waiting input."""

    window: bytes
    dropped: int
    waiting: bytes


class ConsoleBackend:
    """Serves one console. `listeners` are called with each piece of output, as bytes."""

    def __init__(
        self,
        memory: PageMemory,
        page_maddr: int,
        events: EventChannels,
        guest_domid: int,
        guest_port: int,
        release: Callable[[], None] | None = None,
    ) -> None:
        """`events` are those of the control domain; raises XenError if the port isn't for it.

        The page must stay the guest's until `release` is called, when the console is closed.
        """
        self._ring = ConsoleRing(memory, page_maddr)
        self._release = release
        self._events = events
        self._window = bytearray()
        self._waiting = bytearray()
        self.dropped = 0
        """Bytes of output that the window has lost: the offset of its first byte."""
        self.served: list[Callable[[], None]] = []
        """Called whenever the guest has written or read, after that was served."""
        self.listeners: list[Callable[[bytes], None]] = []
        self.paused = False
        """Whether output is left in the ring for now, where it holds up the guest."""
        self.port: int | None = events.bind_interdomain(guest_domid, guest_port)
        events.attach(self.port, self._event)

    def _event(self, _port: int) -> None:
        """The guest has written something, or made room for input."""
        data = b"" if self.paused else self._ring.read()
        if data:
            self._window += data
            if len(self._window) > WINDOW:
                excess = len(self._window) - WINDOW
                del self._window[:excess]
                self.dropped += excess
            self._notify()
            for listener in list(self.listeners):
                listener(data)
        if self._waiting:
            self._push()
        for served in list(self.served):
            served()

    def _notify(self) -> None:
        if self.port is not None:
            self._events.send(self.port)

    def _push(self) -> None:
        taken = self._ring.write(bytes(self._waiting[:4096]))
        if taken:
            del self._waiting[:taken]
            self._notify()

    def send(self, data: bytes) -> int:
        """Type `data` at the guest's console; returns how many bytes were taken."""
        room = INPUT_LIMIT - len(self._waiting)
        self._waiting += data[:room]
        self._push()
        return min(len(data), room)

    @property
    def waiting(self) -> int:
        """Bytes of input that the guest has not had room for yet."""
        return len(self._waiting)

    @property
    def unread(self) -> int:
        """Bytes of input that the guest has not read yet, in the ring or waiting for room."""
        return self._ring.unread() + len(self._waiting)

    @property
    def output(self) -> bytes:
        """The output that is kept."""
        return bytes(self._window)

    @property
    def end(self) -> int:
        """How many bytes the guest has written in all."""
        return self.dropped + len(self._window)

    def since(self, offset: int) -> bytes:
        """What was written from byte `offset` of all output on, as far as it is kept."""
        return bytes(self._window[max(offset - self.dropped, 0) :])

    def resume(self) -> None:
        """Take output again after `paused`."""
        self.paused = False
        if self.port is not None:
            self._event(0)

    def drain(self) -> None:
        """Take what is left in the ring (the guest won't notify any more: it has ended)."""
        if self.port is not None:
            self.resume()

    def close(self) -> None:
        """Let go of the event channel and the page. The output stays readable."""
        if self.port is not None:
            self._events.close(self.port)
            self.port = None
            if self._release is not None:
                self._release()

    def save(self) -> ConsoleState:
        return ConsoleState(bytes(self._window), self.dropped, bytes(self._waiting))

    def restore(self, state: ConsoleState) -> None:
        self._window = bytearray(state.window)
        self.dropped = state.dropped
        self._waiting = bytearray(state.waiting)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Consoles and their viewers: each sees the last output, then what comes; any may type.

A viewer that reads slowly loses output, and is told so; it holds up neither the guest nor the
other viewers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

WINDOW = 1 << 20
"""Bytes of output that are kept for slow viewers."""
FIRST_LOOK = 64 << 10
"""Bytes of the past that a new viewer is shown at most."""
_CHUNK = 64 << 10
_TYPED = 4096
_PATIENCE = 0.05
"""Seconds between two tries to type at a guest that doesn't read."""

Type = Callable[[bytes], Awaitable[int]]
"""Types at the guest's console; returns how many bytes were taken."""


class ConsoleHub:
    """One console of one domain. All methods are for the event loop's thread."""

    def __init__(self, type_: Type) -> None:
        self._type = type_
        self._window = bytearray()
        self._dropped = 0
        self._ended = False
        self._successor: ConsoleHub | None = None
        self._final = False
        self._changed = asyncio.Event()
        self.viewers = 0

    def feed(self, data: bytes) -> None:
        """Output of the guest."""
        self._window += data
        excess = len(self._window) - WINDOW
        if excess > 0:
            del self._window[:excess]
            self._dropped += excess
        self._wake()

    def end(self) -> None:
        """The domain has gone; a successor may come until `finish`."""
        self._ended = True
        self._wake()

    def finish(self, successor: ConsoleHub | None) -> None:
        """No more comes from here: those who follow go on with the successor, if there is one."""
        self._ended = self._final = True
        self._successor = successor
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- viewers -------------------------------------------------------------------------
    async def view(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, follow: bool
    ) -> None:
        """Serve a viewer until he leaves or the domain ends."""
        sending = asyncio.create_task(self._send(writer, follow))
        reading = asyncio.create_task(self._read(reader, follow))
        try:
            await asyncio.wait([sending, reading], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, reading):
                task.cancel()
            await asyncio.gather(sending, reading, return_exceptions=True)

    async def _send(self, writer: asyncio.StreamWriter, follow: bool) -> None:
        hub: ConsoleHub = self
        offset = hub._first_offset()
        while True:
            changed = hub._changed
            if offset < hub._dropped:
                writer.write(b"\r\n[%d bytes of output were lost]\r\n" % (hub._dropped - offset))
                offset = hub._dropped
            start = offset - hub._dropped
            data = bytes(hub._window[start : start + _CHUNK])
            if data:
                writer.write(data)
                await writer.drain()
                offset += len(data)
            elif hub._ended and (hub._final or not follow):
                if not follow or hub._successor is None:
                    return
                hub, offset = hub._successor, 0
            else:
                await changed.wait()

    def _first_offset(self) -> int:
        """Where a new viewer begins: at the start of a line, if he isn't shown everything."""
        if len(self._window) <= FIRST_LOOK:
            return self._dropped
        start = len(self._window) - FIRST_LOOK
        newline = self._window.find(b"\n", start)
        return self._dropped + (start if newline < 0 else newline + 1)

    async def _read(self, reader: asyncio.StreamReader, follow: bool) -> None:
        while data := await reader.read(_TYPED):
            hub: ConsoleHub = self
            while follow and hub._successor is not None:
                hub = hub._successor
            while data and not hub._ended:
                taken = await hub._type(data)
                data = data[taken:]
                if data:
                    await asyncio.sleep(_PATIENCE)

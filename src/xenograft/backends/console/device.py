# SPDX-License-Identifier: GPL-2.0-or-later
"""A further console on xenbus (``backend/console/<domid>/<number>``), numbers from 1 on.

public/io/console.h, docs/misc/console.txt and docs/misc/channel.txt: the front end allocates
the ring and its event channel, unlike that of the first console.  `connection` says what the
host's end is; without one there's only the Python side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from xenograft.abi.errno import Errno
from xenograft.backends.console.console import ConsoleBackend, ConsoleState
from xenograft.backends.console.line import Line, LineError, PtyLine, SocketLine
from xenograft.backends.xenbus.device import DeviceError, XenbusDevice

if TYPE_CHECKING:
    from xenograft.backends.xenbus.host import BackendHost

_INPUT_ROOM = 64 << 10
"""What the guest may leave unread before the host's end has to wait."""


class ConsoleDevice(XenbusDevice):
    """A channel."""

    kind: ClassVar[str] = "console"
    saved = ConsoleState

    def __init__(self, host: BackendHost, path: str, domid: int, devid: int) -> None:
        super().__init__(host, path, domid, devid)
        self.backend: ConsoleBackend | None = None
        """The ring's end, while a front end is connected."""
        self.line: Line | None = None
        """The host's end."""
        self.on_connected: list[Callable[[ConsoleBackend], None]] = []
        """Called each time that a front end has connected."""

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return self.read("name", "") or ""

    # -- states ----------------------------------------------------------------------------------
    def offer(self) -> None:
        if self.line is None:
            self.line = self._open()
        if isinstance(self.line, PtyLine):
            self.host.store.write(f"{self.frontend}/tty", self.line.name)

    def _open(self) -> Line | None:
        connection = self.read("connection")
        hypervisor = self.host.hypervisor
        try:
            if connection == "socket":
                path = self.read("path", "") or ""
                return SocketLine(path, hypervisor, self._typed, self._room)
            if connection == "pty":
                return PtyLine(hypervisor, self._typed, self._room)
        except LineError as error:
            raise DeviceError(Errno.EIO, str(error)) from None
        return None

    def connect(self) -> None:
        ref, port = self.frontend_number("ring-ref"), self.frontend_number("port")
        page = self.host.map(self.domid, ref)
        try:
            self.backend = ConsoleBackend(
                self.host.memory,
                page.maddr,
                self.host.domain.events,
                self.domid,
                port,
                page.unmap,
            )
        except BaseException:
            page.unmap()
            raise
        self.backend.listeners.append(self._said)
        self.backend.served.append(self._served)

    def connected(self) -> None:
        backend = self.backend
        if backend is None:
            return
        for callback in list(self.on_connected):
            callback(backend)
        if self.line is not None:
            self.line.listen()
        backend.resume()

    def disconnect(self) -> None:
        backend, self.backend = self.backend, None
        if self.line is not None:
            self.line.hold()
        if backend is not None:
            backend.close()

    def release(self) -> None:
        line, self.line = self.line, None
        if line is not None:
            line.close()

    def lend(self) -> None:
        self.release()

    def take_back(self) -> None:
        if self.line is None:
            self.line = self._open()
            if self.line is not None and self.backend is not None:
                self.line.listen()

    # -- both ways -------------------------------------------------------------------------------
    def _said(self, data: bytes) -> None:
        """The guest has written."""
        if self.line is not None:
            self.line.send(data)
            if self.line.full and self.backend is not None:
                self.backend.paused = True

    def _room(self) -> None:
        """The host's end takes output again."""
        if self.backend is not None and self.backend.paused:
            self.backend.resume()

    def _typed(self, data: bytes) -> int:
        """The host's end has sent; returns how much more may come."""
        if self.backend is None:
            return 0
        self.backend.send(data)
        return _INPUT_ROOM - self.backend.waiting

    def _served(self) -> None:
        backend = self.backend
        if self.line is not None and backend is not None and backend.waiting < _INPUT_ROOM // 2:
            self.line.listen()

    # -- persistence -----------------------------------------------------------------------------
    def save(self) -> ConsoleState | None:
        """Output that is kept, and input that waits; None: nobody is connected."""
        return None if self.backend is None else self.backend.save()

    def restore(self, state: ConsoleState) -> None:
        """Go on where a saved device has stopped; the front end is connected already."""
        if self.backend is not None:
            self.backend.restore(state)
            self.backend.resume()

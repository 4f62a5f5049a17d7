# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's end of a channel: a Unix socket for one program at a time, or a pseudo-terminal.

Everything happens on the machine's thread: descriptors are watched at the machine's door, and
never block.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import tty
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.timers import Timer

PENDING = 64 << 10
"""Bytes for the host that wait at most before the guest is held up, or they are dropped."""

_CHUNK = 4096
_RETRY_NS = 1_000_000


class LineError(Exception):
    """The host's end can't be made; one line."""


class Line(ABC):
    """One host's end.

    `received` is called with what the host has sent, and returns how much more it may send;
    `ready` when there's room for output again.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        received: Callable[[bytes], int],
        ready: Callable[[], None],
    ) -> None:
        self._hypervisor = hypervisor
        self._received = received
        self._ready = ready
        self._pending = bytearray()
        self._timer: Timer | None = None
        self._watched: int | None = None
        self._held = True

    @property
    def full(self) -> bool:
        """Whether the guest should wait with more output."""
        return len(self._pending) >= PENDING

    @abstractmethod
    def _descriptor(self) -> int | None:
        """What is read and written; None: nobody is there."""

    def _lost(self) -> None:  # noqa: B027  # a terminal is never lost
        """The program at the other end has gone."""

    def send(self, data: bytes) -> None:
        """Output for the host; what nobody is there to read is dropped."""
        if self._descriptor() is not None:
            self._pending += data
            self._flush()

    def _flush(self) -> None:
        while self._pending and (descriptor := self._descriptor()) is not None:
            try:
                done = os.write(descriptor, self._pending[: 1 << 16])
            except BlockingIOError:
                break
            except OSError:
                self._drop()
                return
            del self._pending[:done]
        if self._pending and self._timer is None:
            timers, now = self._hypervisor.timers, self._hypervisor.clock.now()
            self._timer = timers.add(now + _RETRY_NS, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self._flush()
        if not self.full:
            self._ready()

    def _drop(self) -> None:
        self._pending.clear()
        self._unwatch()
        self._lost()
        self._ready()

    def _watch(self) -> None:
        descriptor = self._descriptor()
        if descriptor is not None and self._watched is None and not self._held:
            self._watched = descriptor
            self._hypervisor.door.watch(descriptor, self._readable)

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._hypervisor.door.unwatch(self._watched)
            self._watched = None

    def _readable(self) -> None:
        descriptor = self._descriptor()
        if descriptor is None:
            return
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            if error.errno == errno.EIO:
                return
        if not data:
            self._drop()
            return
        if self._received(data) < _CHUNK:
            # The guest doesn't read: the program waits as it would at any pipe.
            self.hold()

    def hold(self) -> None:
        """Nobody takes input: who sends it has to wait."""
        self._held = True
        self._unwatch()

    def listen(self) -> None:
        """The guest has room for input (again)."""
        self._held = False
        self._watch()

    def close(self) -> None:
        """Let go of the host's end; a second time does nothing."""
        self._unwatch()
        self._hypervisor.timers.cancel(self._timer)
        self._timer = None
        self._pending.clear()


class SocketLine(Line):
    """A Unix socket at `path` that one program connects to at a time."""

    def __init__(
        self,
        path: str,
        hypervisor: Hypervisor,
        received: Callable[[bytes], int],
        ready: Callable[[], None],
    ) -> None:
        """Raises LineError."""
        super().__init__(hypervisor, received, ready)
        self.path = path
        self._client: socket.socket | None = None
        self._server = _bind(path)
        self._inode = Path(path).stat().st_ino
        hypervisor.door.watch(self._server.fileno(), self._accept)

    def _descriptor(self) -> int | None:
        return None if self._client is None else self._client.fileno()

    def _accept(self) -> None:
        try:
            client, _ = self._server.accept()
        except OSError:
            return
        if self._client is not None and _has_left(self._client):
            self._drop()
        if self._client is not None:
            # One at a time, as with QEMU's: two would each get half of what the guest says.
            client.close()
            return
        client.setblocking(False)
        self._client = client
        self._watch()

    def _lost(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        super().close()
        self._lost()
        if self._server.fileno() < 0:
            return
        self._hypervisor.door.unwatch(self._server.fileno())
        self._server.close()
        try:
            # Somebody else's socket may be there by now.
            if Path(self.path).stat().st_ino == self._inode:
                Path(self.path).unlink()
        except OSError:
            return


def _has_left(client: socket.socket) -> bool:
    """Whether a program that nobody listens to at the moment has closed its end."""
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _bind(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _clear_stale(path)
        server.bind(path)
        os.chmod(path, 0o600)  # noqa: PTH101
        server.listen(8)
        server.setblocking(False)
    except OSError as error:
        server.close()
        # Python reports a path that's too long without an errno.
        raise LineError(f"{path}: {error.strerror or error}") from None
    except LineError:
        server.close()
        raise
    return server


def _clear_stale(path: str) -> None:
    """Remove a socket that an earlier run has left; anything else stays and is an error."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise LineError(f"{path}: is there already, and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            Path(path).unlink()
            return
    raise LineError(f"{path}: another program listens there")


class PtyLine(Line):
    """A pseudo-terminal; `name` is the terminal for programs to open."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        received: Callable[[bytes], int],
        ready: Callable[[], None],
    ) -> None:
        """Raises LineError."""
        super().__init__(hypervisor, received, ready)
        try:
            self._master, self._slave = os.openpty()
        except OSError as error:
            raise LineError(f"no pseudo-terminal: {error.strerror or error}") from None
        # The other side stays open here: it's there for the next program when one has left.
        self.name = os.ttyname(self._slave)
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)

    def _descriptor(self) -> int | None:
        return self._master if self._master >= 0 else None

    @property
    def full(self) -> bool:
        # A terminal doesn't tell whether anybody reads it: the guest must not wait for that.
        return False

    def send(self, data: bytes) -> None:
        super().send(data)
        excess = len(self._pending) - PENDING
        if excess > 0:
            del self._pending[:excess]

    def close(self) -> None:
        super().close()
        if self._master >= 0:
            os.close(self._master)
            os.close(self._slave)
            self._master = -1

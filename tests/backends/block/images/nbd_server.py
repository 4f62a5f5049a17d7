# SPDX-License-Identifier: GPL-2.0-or-later
"""An NBD server that can be slow, stand still, die, and forget what wasn't flushed."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path

_NBDMAGIC, _IHAVEOPT, _OPTION_REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
READ, WRITE, DISC, FLUSH = 0, 1, 2, 3


class NbdServer:
    """Serves `stable` on a Unix socket, with a cache that only a flush makes stable."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.stable = bytearray(size)
        self.cache = bytearray(size)
        self.seen: list[tuple[int, int]] = []
        """(command, offset) of all requests."""
        self.going = threading.Event()
        """Cleared, it takes requests and answers nobody."""
        self.going.set()
        self.asked = threading.Condition()
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.path}"

    def start(self) -> NbdServer:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._spawn(self._accept, self._listener)
        return self

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def die(self, *, forget: bool = True) -> None:
        """Break all connections; `forget`: what wasn't flushed is lost."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self.path.unlink(missing_ok=True)
        connections, self._connections = self._connections, []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        was_going = self.going.is_set()
        self.going.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._threads.clear()
        if not was_going:
            self.going.clear()
        if forget:
            self.cache[:] = self.stable

    def wait_for(self, count: int) -> None:
        """Until so many requests have come."""
        with self.asked:
            assert self.asked.wait_for(lambda: len(self.seen) >= count, 30)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self._connections.append(connection)
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(struct.pack(">QQH", _NBDMAGIC, _IHAVEOPT, 3))
            receive(connection, 4)
            _, option, length = struct.unpack(">QII", receive(connection, 16))
            receive(connection, length)
            info = struct.pack(">HQH", 0, len(self.stable), 1 | 1 << 2)
            for kind, payload in ((3, info), (1, b"")):
                head = struct.pack(">QIII", _OPTION_REPLY, option, kind, len(payload))
                connection.sendall(head + payload)
            while self._one(connection):
                pass

    def _one(self, connection: socket.socket) -> bool:
        head = struct.unpack(">IHHQQI", receive(connection, 28))
        _, _, command, cookie, offset, size = head
        data = receive(connection, size) if command == WRITE else b""
        with self.asked:
            self.seen.append((command, offset))
            self.asked.notify_all()
        if command == DISC:
            return False
        if not self.going.is_set():
            self.going.wait()
            return False
        with self._lock:
            if command == WRITE:
                self.cache[offset : offset + size] = data
            elif command == FLUSH:
                self.stable[:] = self.cache
            answer = bytes(self.cache[offset : offset + size]) if command == READ else b""
        connection.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + answer)
        return True


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < size:
        got = connection.recv(size - len(data))
        if not got:
            raise ConnectionResetError
        data += got
    return data

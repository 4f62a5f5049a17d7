# SPDX-License-Identifier: GPL-2.0-or-later
"""The store's Unix socket, for the tools of the control domain.

The tools find it by the environment variable XENSTORED_PATH.  Whoever may open the socket has
domain 0's rights; it's made for its owner alone.

The server runs inside another loop: `fileno` becomes readable when `poll` has something to do.
Or it runs by itself: `start` gives it a thread, which holds `lock` whenever it touches the
store; everybody else must hold it too.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from xenograft.store import wire
from xenograft.store.connection import Connection
from xenograft.store.service import Xenstore

Lock = contextlib.AbstractContextManager[object]
"""What everybody holds who touches the store, if a server runs in a thread of its own."""

_READ_SIZE = 64 << 10
_BURST = 64
"""Requests of one client that are answered before the others get their turn."""

_BACKLOG_MAX = 1 << 20
"""A client that leaves this much unread isn't read from, until it has caught up."""

_BATCH = 64 << 10


class _Client:
    """One connected program."""

    def __init__(self, server: SocketServer, sock: socket.socket, connection: Connection) -> None:
        self.server = server
        self.sock = sock
        self.connection = connection
        self.reader = wire.MessageReader()
        self.sending = b""
        self.events = selectors.EVENT_READ
        self.ended = False
        connection.notify = self.wake

    def wake(self) -> None:
        """There is output: it's sent at the end of the poll under way, or by the next one."""
        self.server.has_output(self)

    def receive(self) -> None:
        """Take in what has come, and answer a burst of it."""
        if self.sending or self.connection.output_bytes > _BACKLOG_MAX:
            return
        try:
            data = self.sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # It may have closed its sending side only: what it has asked is still answered.
            self.ended = True
        else:
            self.reader.feed(data)
        self.work()

    def work(self) -> None:
        """Answer requests that have come in; more than a burst of them has to wait."""
        store, connection, reader = self.server.store, self.connection, self.reader
        try:
            for _ in range(_BURST):
                message = reader.next()
                if message is None:
                    break
                store.process(connection, message)
        except wire.ProtocolError:
            self.server.drop(self)
            return
        if reader.ready():
            self.server.more_to_do(self)
        elif self.ended:
            self.wake()

    def flush(self) -> None:
        """Send what the socket takes; ask to be called again for the rest."""
        connection = self.connection
        try:
            while True:
                if not self.sending:
                    # Nearly always there's just one reply to send.
                    message = connection.take()
                    if message is None:
                        break
                    self.sending = message if not connection.has_output else self._batch(message)
                sent = self.sock.send(self.sending)
                self.sending = self.sending[sent:]
        except BlockingIOError:
            if connection.overflowed:
                self.server.drop(self)
                return
        except OSError:
            self.server.drop(self)
            return
        if self.ended and not self.sending and not self.reader.ready():
            self.server.drop(self)
        else:
            self.server.watch(self, selectors.EVENT_WRITE if self.sending else selectors.EVENT_READ)

    def _batch(self, message: bytes) -> bytes:
        """The message and those that wait behind it, to be sent in one go."""
        parts, size = [message], len(message)
        while size < _BATCH and (following := self.connection.take()) is not None:
            parts.append(following)
            size += len(following)
        return b"".join(parts)


class SocketServer:
    """A listening socket at `path`, and the clients that have come.

    A socket that nobody listens on any more is replaced; one that is in use raises OSError
    (EADDRINUSE), and so does a path where no socket can be made.
    """

    def __init__(
        self,
        store: Xenstore,
        path: Path,
        lock: Lock | None = None,
    ) -> None:
        self.store = store
        self.path = path
        self.lock = lock if lock is not None else threading.RLock()
        self._clients: set[_Client] = set()
        self._output: dict[_Client, None] = {}
        self._unfinished: deque[_Client] = deque()
        self._polling = False
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._full = False
        """Whether nobody is let in, for want of descriptors."""
        self._listener = _listen(path)
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._woken, selectors.EVENT_READ, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- in another loop ----------------------------------------------------------------------
    def fileno(self) -> int:
        """A descriptor that is readable when `poll` has something to do.

        Raises OSError where the system's selector has none.
        """
        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            raise OSError("this system's selector has no file descriptor")
        number: int = fileno()
        return number

    def poll(self, timeout: float | None = 0) -> None:
        """Do what there is to do; wait for it for at most `timeout` seconds (None: for ever)."""
        ready = self._selector.select(0 if self._unfinished else timeout)
        with self.lock:
            self._polling = True
            try:
                for _ in range(len(self._unfinished)):
                    client = self._unfinished.popleft()
                    if client in self._clients:
                        client.work()
                for key, events in ready:
                    self._serve(key.fileobj, key.data, events)
                while self._output:
                    client = next(iter(self._output))
                    del self._output[client]
                    client.flush()
            finally:
                self._polling = False
            if self._unfinished:
                self._wake()

    def _serve(self, fileobj: object, client: _Client | None, events: int) -> None:
        if client is not None:
            # It may have been dropped by one before it.
            if client in self._clients:
                if events & selectors.EVENT_WRITE:
                    client.flush()
                else:
                    client.receive()
        elif fileobj is self._listener:
            self._accept()
        else:
            with contextlib.suppress(BlockingIOError):
                while self._woken.recv(4096):
                    continue

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            # It hung up again; or there are no descriptors until another one leaves.
            if error.errno in (errno.EMFILE, errno.ENFILE) and self._clients:
                self._selector.unregister(self._listener)
                self._full = True
            return
        sock.setblocking(False)
        client = _Client(self, sock, self.store.connect())
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, client)

    # -- what clients ask for -----------------------------------------------------------------
    def has_output(self, client: _Client) -> None:
        """There are messages for a client."""
        self._output[client] = None
        if not self._polling:
            self._wake()

    def more_to_do(self, client: _Client) -> None:
        """A client has more requests than a burst."""
        self._unfinished.append(client)

    def watch(self, client: _Client, events: int) -> None:
        """Wait until a client's socket can be read, or written."""
        if client.events != events and client in self._clients:
            client.events = events
            self._selector.modify(client.sock, events, client)

    def drop(self, client: _Client) -> None:
        """End a client's connection."""
        if client in self._clients:
            self._clients.remove(client)
            self._output.pop(client, None)
            self._selector.unregister(client.sock)
            client.sock.close()
            self.store.disconnect(client.connection)
            if self._full:
                self._full = False
                self._selector.register(self._listener, selectors.EVENT_READ, None)

    def _wake(self) -> None:
        # A full pipe means that it's awake already.
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    # -- by itself ----------------------------------------------------------------------------
    def start(self) -> None:
        """Serve in a thread of its own until `close`."""
        self._thread = threading.Thread(target=self._run, name="xenstore", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            self.poll(None)

    def close(self) -> None:
        """Hang up on all clients and remove the socket."""
        self._stopping = True
        if self._thread is not None:
            self._wake()
            self._thread.join()
            self._thread = None
        with self.lock:
            for client in list(self._clients):
                self.drop(client)
        self._selector.close()
        for sock in (self._listener, self._woken, self._waker):
            sock.close()
        self.path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that a server has left behind.  Nothing else is ever removed."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)

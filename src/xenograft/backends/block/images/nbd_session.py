# SPDX-License-Identifier: GPL-2.0-or-later
"""One connection to an NBD server, from its address to the chosen export.

Facts: NBD's doc/proto.md and doc/uri.md (fixed newstyle handshake, simple replies).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from typing import TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from xenograft.backends.block.images.image import Buffer, ImageError

_NBDMAGIC = 0x4E42444D41474943
_IHAVEOPT = 0x49484156454F5054
_OPTION_REPLY = 0x0003E889045565A9
_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513
_REPLY = struct.Struct(">IIQ")
_REPLY_MAGIC = 0x67446698

_FLAG_FIXED_NEWSTYLE = 1 << 0
_FLAG_NO_ZEROES = 1 << 1
_OPT_EXPORT_NAME, _OPT_GO = 1, 7
_REP_ACK, _REP_INFO = 1, 3
_REP_ERROR = 1 << 31
_REP_ERR_UNSUP = _REP_ERROR | 1
_REP_ERR_TLS_REQD = _REP_ERROR | 5

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_TRIM = 1 << 0, 1 << 1, 1 << 2, 1 << 5
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM = 0, 1, 2, 3, 4

MAX_TRANSFER = 32 << 20
_GREETING_S = 10.0
"""How long connecting and choosing an export may take together."""

_DEFAULT_PORT = 10809
_DEAD_MS = 30_000
"""After so long without a sign of life from the server's host, a TCP connection is given up."""

Address: TypeAlias = str | tuple[str, int]
"""A Unix socket's path, or host and port."""


def is_nbd(path: str) -> bool:
    """Whether a path is an NBD URI, or QEMU's older ``nbd:host:port``."""
    return path.startswith(("nbd:", "nbd+unix:", "nbd+vsock:", "nbds:", "nbds+unix:"))


def parse_uri(path: str) -> tuple[Address, str]:
    """Socket address and export name.  Raises ImageError."""
    if path.startswith("nbd:") and not path.startswith("nbd://"):
        return _parse_old(path)
    parts = urlsplit(path)
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme.startswith("nbds"):
        raise ImageError(f"{path}: NBD over TLS isn't supported; put a tunnel before it")
    if parts.scheme == "nbd+unix":
        sockets = parse_qs(parts.query).get("socket", [])
        if len(sockets) != 1 or parts.netloc:
            raise ImageError(f"{path}: name the socket, as in nbd+unix:///NAME?socket=PATH")
        return sockets[0], name
    try:
        host, port = parts.hostname, parts.port or _DEFAULT_PORT
    except ValueError:
        raise ImageError(f"{path}: not a port number") from None
    if not host or parts.scheme != "nbd":
        raise ImageError(f"{path}: name the server, as in nbd://HOST:PORT/NAME")
    return (host, port), name


def _parse_old(path: str) -> tuple[Address, str]:
    """``nbd:unix:PATH[:exportname=NAME]`` or ``nbd:HOST:PORT[:exportname=NAME]``."""
    rest, _, name = path.removeprefix("nbd:").partition(":exportname=")
    host, _, port = rest.partition(":")
    if host == "unix" and port:
        return port, name
    if host and port.isdigit():
        return (host, int(port)), name
    raise ImageError(f"{path}: name the server, as in nbd://HOST:PORT/NAME")


class NbdSession:
    """A connection whose export is chosen; raises ImageError if that can't be had.

    Its methods raise OSError when the connection breaks; `end` breaks it, from any thread.
    """

    def __init__(self, path: str, readonly: bool) -> None:
        self.path = path
        self.size = 0
        self.flags = 0
        address, name = parse_uri(path)
        self._deadline: float | None = time.monotonic() + _GREETING_S
        try:
            self._socket = _connect(address)
        except OSError as error:
            raise ImageError(f"{path}: can't connect: {error.strerror or error}") from None
        try:
            self._negotiate(name.encode())
            if self.flags & READ_ONLY and not readonly:
                raise ImageError(f"{path}: the server gives it read-only; add access=ro")
            self._deadline = None
            self._socket.settimeout(None)
        except ConnectionError:
            self._socket.close()
            raise ImageError(f"{path}: the NBD server has hung up") from None
        except TimeoutError:
            self._socket.close()
            raise ImageError(f"{path}: the NBD server doesn't answer") from None
        except OSError as error:
            self._socket.close()
            raise ImageError(f"{path}: {error.strerror or error}") from None
        except BaseException:
            self._socket.close()
            raise

    # -- the beginning ---------------------------------------------------------------------------
    def _negotiate(self, name: bytes) -> None:
        magic, option_magic, flags = struct.unpack(">QQH", self._get(18))
        if magic != _NBDMAGIC or option_magic != _IHAVEOPT or not flags & _FLAG_FIXED_NEWSTYLE:
            raise ImageError(f"{self.path}: not an NBD server of the fixed newstyle protocol")
        no_zeroes = flags & _FLAG_NO_ZEROES
        self._socket.sendall(struct.pack(">I", _FLAG_FIXED_NEWSTYLE | no_zeroes))
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self._socket.sendall(struct.pack(">QII", _IHAVEOPT, _OPT_GO, len(data)) + data)
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self._get(20))
            if magic != _OPTION_REPLY or option != _OPT_GO or length > MAX_TRANSFER:
                raise ImageError(f"{self.path}: the NBD server answers nonsense")
            payload = self._get(length)
            if kind == _REP_ACK:
                break
            if kind == _REP_ERR_UNSUP:
                self._export_name(name, bool(no_zeroes))
                break
            if kind == _REP_ERR_TLS_REQD:
                raise ImageError(f"{self.path}: the NBD server wants TLS, which isn't supported")
            if kind & _REP_ERROR:
                said = " ".join(payload.decode("utf-8", "replace")[:200].split())
                raise ImageError(f"{self.path}: the NBD server refuses: {said or hex(kind)}")
            if kind == _REP_INFO and len(payload) >= 12 and payload[:2] == b"\0\0":
                self.size, self.flags = struct.unpack_from(">QH", payload, 2)
        if not self.flags & HAS_FLAGS:
            raise ImageError(f"{self.path}: the NBD server answers nonsense")

    def _export_name(self, name: bytes, no_zeroes: bool) -> None:
        """The old way to choose an export, for servers that don't know the new one."""
        self._socket.sendall(struct.pack(">QII", _IHAVEOPT, _OPT_EXPORT_NAME, len(name)) + name)
        self.size, self.flags = struct.unpack(">QH", self._get(10))
        if not no_zeroes:
            self._get(124)

    def _get(self, size: int) -> bytes:
        parts = []
        while size:
            if self._deadline is not None:
                # A server that sends a byte now and then must not hold up the machine.
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(errno.ETIMEDOUT, "the NBD server doesn't answer")
                self._socket.settimeout(left)
            data = self._socket.recv(min(size, 1 << 20))
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the NBD server has hung up")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    # -- requests --------------------------------------------------------------------------------
    def send(self, command: int, cookie: int, offset: int, size: int, data: Buffer = b"") -> None:
        """Send a request: one thread at a time."""
        self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, command, cookie, offset, size))
        if data:
            self._socket.sendall(data)

    def reply(self) -> tuple[int, int]:
        """(error, cookie) of the next reply; data of a read follow it."""
        magic, error, cookie = _REPLY.unpack(self._get(_REPLY.size))
        if magic != _REPLY_MAGIC:
            raise ConnectionError(errno.EPROTO, "the NBD server answers nonsense")
        return error, cookie

    def data(self, size: int) -> bytes:
        """What follows the reply to a read."""
        return self._get(size)

    def say_goodbye(self) -> None:
        """Tell the server that no more requests follow, if that can be said at once."""
        farewell = _REQUEST.pack(_REQUEST_MAGIC, 0, CMD_DISC, 0, 0, 0)
        with contextlib.suppress(OSError):
            self._socket.send(farewell, socket.MSG_DONTWAIT)

    def end(self) -> None:
        """Break the connection: whoever sends or waits gets an OSError."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


def _connect(address: Address) -> socket.socket:
    if isinstance(address, tuple):
        connection = socket.create_connection(address, _GREETING_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A host that has lost its power never says so.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MS)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_GREETING_S)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection

# SPDX-License-Identifier: GPL-2.0-or-later
"""Images served over NBD: a client of the fixed newstyle protocol.

Facts: NBD's doc/proto.md and doc/uri.md.  Simple replies only; requests of several threads are
under way at once, told apart by their cookies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from urllib.parse import parse_qs, unquote, urlsplit

from xenograft.backends.block.images.image import Buffer, Fill, ImageError

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
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3

_HAS_FLAGS, _READ_ONLY, _SEND_FLUSH, _SEND_TRIM = 1 << 0, 1 << 1, 1 << 2, 1 << 5
_CMD_READ, _CMD_WRITE, _CMD_DISC, _CMD_FLUSH, _CMD_TRIM = 0, 1, 2, 3, 4

_MAX_TRANSFER = 32 << 20
_TIMEOUT = 10.0
_DEFAULT_PORT = 10809
_ERRORS = {1: errno.EPERM, 5: errno.EIO, 12: errno.ENOMEM, 22: errno.EINVAL, 28: errno.ENOSPC}


def is_nbd(path: str) -> bool:
    """Whether a path is an NBD URI, or QEMU's older ``nbd:host:port``."""
    return path.startswith(("nbd://", "nbd+unix://", "nbd:"))


def parse_uri(path: str) -> tuple[str | tuple[str, int], str]:
    """Socket address (a path, or host and port) and export name.  Raises ImageError."""
    if path.startswith("nbd:") and not path.startswith("nbd://"):
        return _parse_old(path)
    parts = urlsplit(path)
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        sockets = parse_qs(parts.query).get("socket", [])
        if len(sockets) != 1 or parts.netloc:
            raise ImageError(f"{path}: name the socket, as in nbd+unix:///NAME?socket=PATH")
        return sockets[0], name
    try:
        host, port = parts.hostname, parts.port or _DEFAULT_PORT
    except ValueError:
        raise ImageError(f"{path}: not a port number") from None
    if not host:
        raise ImageError(f"{path}: name the server, as in nbd://HOST:PORT/NAME")
    return (host, port), name


def _parse_old(path: str) -> tuple[str | tuple[str, int], str]:
    """``nbd:unix:PATH[:exportname=NAME]`` or ``nbd:HOST:PORT[:exportname=NAME]``."""
    rest, _, name = path.removeprefix("nbd:").partition(":exportname=")
    host, _, port = rest.partition(":")
    if host == "unix" and port:
        return port, name
    if host and port.isdigit():
        return (host, int(port)), name
    raise ImageError(f"{path}: name the server, as in nbd://HOST:PORT/NAME")


class _Pending:
    """A request that was sent."""

    __slots__ = ("data", "error", "event", "size")

    def __init__(self, size: int) -> None:
        self.event = threading.Event()
        self.size = size
        self.data = b""
        self.error = 0


class NbdImage:
    """An export; raises ImageError if it can't be had.

    When the connection breaks, every request under way or to come fails with EIO.
    """

    def __init__(self, path: str, readonly: bool = False) -> None:
        self.path = path
        self.readonly = readonly
        self.size = 0
        self._flags = 0
        self._send_lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._pending_lock = threading.Lock()
        self._next_cookie = 0
        self._broken = False
        address, name = parse_uri(path)
        try:
            self._socket = _connect(address)
        except OSError as error:
            raise ImageError(f"{path}: can't connect: {error.strerror or error}") from None
        try:
            self._negotiate(name.encode())
            if self._flags & _READ_ONLY and not readonly:
                raise ImageError(f"{path}: the server gives it read-only; add access=ro")
            self._socket.settimeout(None)
        except ConnectionError:
            self._socket.close()
            raise ImageError(f"{path}: the NBD server has hung up") from None
        except OSError as error:
            self._socket.close()
            raise ImageError(f"{path}: {error.strerror or error}") from None
        except BaseException:
            self._socket.close()
            raise
        trims = bool(self._flags & _SEND_TRIM) and not readonly
        self.discard_granularity = 4096 if trims else 0
        self._reader = threading.Thread(target=self._receive, name="xenograft-nbd", daemon=True)
        self._reader.start()

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
            if magic != _OPTION_REPLY or option != _OPT_GO or length > _MAX_TRANSFER:
                raise ImageError(f"{self.path}: the NBD server answers nonsense")
            payload = self._get(length)
            if kind == _REP_ACK:
                break
            if kind == _REP_ERR_UNSUP:
                self._export_name(name, bool(no_zeroes))
                break
            if kind & _REP_ERROR:
                said = payload.decode("utf-8", "replace")[:200].strip()
                raise ImageError(f"{self.path}: the NBD server refuses: {said or hex(kind)}")
            if kind == _REP_INFO and len(payload) >= 12 and payload[:2] == b"\0\0":
                self.size, self._flags = struct.unpack_from(">QH", payload, 2)
        if not self._flags & _HAS_FLAGS:
            raise ImageError(f"{self.path}: the NBD server answers nonsense")

    def _export_name(self, name: bytes, no_zeroes: bool) -> None:
        """The old way to choose an export, for servers that don't know the new one."""
        self._socket.sendall(struct.pack(">QII", _IHAVEOPT, _OPT_EXPORT_NAME, len(name)) + name)
        self.size, self._flags = struct.unpack(">QH", self._get(10))
        if not no_zeroes:
            self._get(124)

    def _get(self, size: int) -> bytes:
        parts = []
        while size:
            data = self._socket.recv(min(size, 1 << 20))
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the NBD server has hung up")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    # -- requests --------------------------------------------------------------------------------
    def _receive(self) -> None:
        """The thread that takes replies."""
        with contextlib.suppress(OSError):
            while True:
                magic, error, cookie = _REPLY.unpack(self._get(_REPLY.size))
                with self._pending_lock:
                    pending = self._pending.pop(cookie, None)
                if magic != _REPLY_MAGIC or pending is None:
                    break
                try:
                    if not error and pending.size:
                        pending.data = self._get(pending.size)
                except OSError:
                    pending.error = 5
                    pending.event.set()
                    raise
                pending.error = error
                pending.event.set()
        with self._pending_lock:
            self._broken = True
            left, self._pending = self._pending, {}
        for pending in left.values():
            pending.error = 5
            pending.event.set()

    def _request(
        self, command: int, offset: int, size: int, data: Buffer = b"", reply: int = 0
    ) -> bytes:
        pending = _Pending(reply)
        with self._pending_lock:
            if self._broken:
                raise OSError(errno.EIO, f"{self.path}: the connection is broken")
            self._next_cookie += 1
            cookie = self._next_cookie
            self._pending[cookie] = pending
        header = _REQUEST.pack(_REQUEST_MAGIC, 0, command, cookie, offset, size)
        with self._send_lock:
            try:
                self._socket.sendall(header)
                if data:
                    self._socket.sendall(data)
            except OSError:
                # The reader wakes up from this, and fails everything under way.
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
        pending.event.wait()
        if pending.error:
            number = _ERRORS.get(pending.error, errno.EIO)
            raise OSError(number, f"{self.path}: {os.strerror(number)}")
        return pending.data

    def read(self, offset: int, size: int) -> bytes:
        inside = max(min(size, self.size - offset), 0)
        parts = []
        for at in range(offset, offset + inside, _MAX_TRANSFER):
            length = min(_MAX_TRANSFER, offset + inside - at)
            parts.append(self._request(_CMD_READ, at, length, reply=length))
        return b"".join(parts) + bytes(size - inside)

    def read_now(self, offset: int, size: int) -> None:
        return None

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        return 0

    def write(self, offset: int, data: Buffer) -> None:
        if self.readonly:
            raise OSError(errno.EROFS, f"{self.path}: opened read-only")
        view = memoryview(data)
        for at in range(0, len(view), _MAX_TRANSFER):
            part = view[at : at + _MAX_TRANSFER]
            self._request(_CMD_WRITE, offset + at, len(part), part)

    def flush(self) -> None:
        if self._flags & _SEND_FLUSH and not self.readonly:
            self._request(_CMD_FLUSH, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        if self.discard_granularity:
            for at in range(offset, offset + size, 1 << 30):
                self._request(_CMD_TRIM, at, min(1 << 30, offset + size - at))

    def refresh(self) -> int:
        return self.size

    def close(self) -> None:
        with self._send_lock, contextlib.suppress(OSError):
            header = _REQUEST.pack(_REQUEST_MAGIC, 0, _CMD_DISC, 0, 0, 0)
            if not self._broken:
                self._socket.sendall(header)
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()


def _connect(address: str | tuple[str, int]) -> socket.socket:
    if isinstance(address, tuple):
        connection = socket.create_connection(address, _TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_TIMEOUT)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection

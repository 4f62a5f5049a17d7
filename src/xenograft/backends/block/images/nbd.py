# SPDX-License-Identifier: GPL-2.0-or-later
"""Images served over NBD, across breaks of the connection.

Requests of several threads are under way at once, told apart by their cookies.  When the
connection breaks, they wait for the next one, and are sent again there.  A server that was
restarted may have lost what it had acknowledged and not flushed, so that is kept here until a
flush, and written again first: what a flush promises holds across restarts.
"""

from __future__ import annotations

import errno
import os
import threading
import time

from xenograft.backends.block.images.image import Buffer, Fill, ImageError
from xenograft.backends.block.images.nbd_session import (
    CMD_FLUSH,
    CMD_READ,
    CMD_TRIM,
    CMD_WRITE,
    MAX_TRANSFER,
    SEND_FLUSH,
    SEND_TRIM,
    NbdSession,
    is_nbd,
    parse_uri,
)

__all__ = ["NbdImage", "is_nbd", "parse_uri"]

RECONNECT_S = 60.0
"""How long requests wait for a server that is away, before they fail."""

_FIRST_TRY_S, _LAST_TRY_S = 0.05, 2.0
_KEPT_BYTES = 32 << 20
"""Acknowledged writes that are kept at most; then they're flushed, asked for or not."""

_ERRORS = {1: errno.EPERM, 5: errno.EIO, 12: errno.ENOMEM, 22: errno.EINVAL, 28: errno.ENOSPC}


class _Request:
    """A request on its way, or a write that was answered and not yet flushed."""

    __slots__ = (
        "answer",
        "command",
        "cookie",
        "covers",
        "data",
        "error",
        "event",
        "offset",
        "size",
    )

    def __init__(self, command: int, offset: int, size: int, data: Buffer) -> None:
        self.command = command
        self.offset = offset
        self.size = size
        self.data = data
        self.cookie = 0
        self.event = threading.Event()
        self.answer = b""
        self.error = 0
        self.covers: list[int] = []
        """Writes that a flush makes lasting."""


class NbdImage:
    """An export; raises ImageError if it can't be had.

    Once the server has been away for `patience` seconds, requests fail with EIO until it's back.
    They fail for good after `abort`, and if what comes back isn't the same export.
    """

    def __init__(self, path: str, readonly: bool = False, *, patience: float = RECONNECT_S) -> None:
        self.path = path
        self.readonly = readonly
        self._patience = patience
        session = NbdSession(path, readonly)
        self.size = session.size
        self._flushes = bool(session.flags & SEND_FLUSH) and not readonly
        trims = bool(session.flags & SEND_TRIM) and not readonly
        self.discard_granularity = 4096 if trims else 0
        self._send_lock = threading.Lock()
        self._condition = threading.Condition()
        # All below is under the condition's lock.
        self._session: NbdSession | None = session
        self._live = True
        """Whether requests may go to the session: all that was owed before is done there."""
        self._pending: dict[int, _Request] = {}
        self._kept: dict[int, _Request] = {}
        self._kept_bytes = 0
        self._last_cookie = 0
        self._away = False
        """Whether the server has been away for too long."""
        self._flush_failed = False
        self._over: str | None = None
        """Why there will be no more answers."""
        self._stop = threading.Event()
        self._reader = threading.Thread(
            target=self._run, args=(session,), name="xenograft-nbd", daemon=True
        )
        self._reader.start()

    # -- the thread that takes replies, and connects again ---------------------------------------
    def _run(self, session: NbdSession | None) -> None:
        while session is not None:
            try:
                while True:
                    self._take(session)
            except OSError:
                pass
            with self._condition:
                self._session, self._live = None, False
            session.end()
            session.close()
            session = self._reconnect()
        with self._condition:
            self._over = self._over or "the connection is broken"
            self._fail_pending()

    def _take(self, session: NbdSession) -> None:
        """One reply.  Raises OSError if the connection breaks, or makes no sense."""
        error, cookie = session.reply()
        with self._condition:
            request = self._pending.get(cookie)
        if request is None:
            raise ConnectionError(errno.EPROTO, "the NBD server answers what nobody asked")
        if not error and request.command == CMD_READ:
            request.answer = session.data(request.size)
        self._answered(request, error)

    def _answered(self, request: _Request, error: int) -> None:
        with self._condition:
            self._pending.pop(request.cookie, None)
            if request.command == CMD_WRITE and not error and self._flushes:
                self._kept[request.cookie] = request
                self._kept_bytes += request.size
            elif request.command == CMD_FLUSH:
                if error:
                    self._flush_failed = True
                else:
                    for cookie in request.covers:
                        if (kept := self._kept.pop(cookie, None)) is not None:
                            self._kept_bytes -= kept.size
        request.error = error
        request.event.set()

    def _fail_pending(self) -> None:
        """Answer all that is under way with EIO (the lock is held)."""
        for request in self._pending.values():
            request.error = 5
            request.event.set()
        self._pending.clear()
        self._condition.notify_all()

    def _reconnect(self) -> NbdSession | None:
        """A new connection, on which all that was owed is done; None: there will be none."""
        give_up = time.monotonic() + self._patience
        pause = _FIRST_TRY_S
        while not self._stop.wait(pause):
            pause = min(2 * pause, _LAST_TRY_S)
            if time.monotonic() >= give_up:
                with self._condition:
                    self._away = True
                    self._fail_pending()
            session = None
            try:
                session = NbdSession(self.path, self.readonly)
                self._resume(session)
            except (ImageError, OSError):
                with self._condition:
                    self._session = None
                if session is not None:
                    session.close()
                if self._over:
                    return None
                continue
            return session
        return None

    def _resume(self, session: NbdSession) -> None:
        """Bring a new connection to where the last one was.

        One request after the other: a server may do what it has together in any order.
        """
        with self._condition:
            self._check_over()
            if session.size != self.size:
                self._over = f"the server's export has {session.size} bytes now, not {self.size}"
                self._check_over()
            # Where `abort` finds it.
            self._session = session
            owed = [self._kept[cookie] for cookie in sorted(self._kept)]
            owed += [self._pending[cookie] for cookie in sorted(self._pending)]
        for request in owed:
            kept = request.cookie in self._kept
            session.send(
                request.command, request.cookie, request.offset, request.size, request.data
            )
            error, cookie = session.reply()
            if cookie != request.cookie:
                raise ConnectionError(errno.EPROTO, "the NBD server answers what nobody asked")
            if not error and request.command == CMD_READ:
                request.answer = session.data(request.size)
            if not kept:
                self._answered(request, error)
            elif error:
                with self._condition:
                    self._over = "the server has lost what was written to it"
        with self._condition:
            self._check_over()
            self._live, self._away = True, False
            self._condition.notify_all()

    def _check_over(self) -> None:
        """Raises OSError if there will be no more answers (the lock is held)."""
        if self._over:
            raise OSError(errno.EIO, f"{self.path}: {self._over}")

    # -- requests --------------------------------------------------------------------------------
    def _request(self, command: int, offset: int, size: int, data: Buffer = b"") -> bytes:
        request = _Request(command, offset, size, data)
        with self._condition:
            session = self._await_session()
            if command == CMD_FLUSH:
                if self._flush_failed:
                    raise OSError(errno.EIO, f"{self.path}: an earlier flush has failed")
                request.covers = list(self._kept)
            self._last_cookie += 1
            request.cookie = self._last_cookie
            self._pending[request.cookie] = request
        with self._send_lock:
            try:
                session.send(command, request.cookie, offset, size, data)
            except OSError:
                # The reader wakes up from this, and sends the request again elsewhere.
                session.end()
        request.event.wait()
        if request.error:
            number = _ERRORS.get(request.error, errno.EIO)
            raise OSError(number, f"{self.path}: {self._over or os.strerror(number)}")
        return request.answer

    def _await_session(self) -> NbdSession:
        """The connection, once there is one (the lock is held).  Raises OSError."""
        while True:
            self._check_over()
            if self._live and self._session is not None:
                return self._session
            if self._away:
                raise OSError(errno.EIO, f"{self.path}: the server is away")
            self._condition.wait()

    def read(self, offset: int, size: int) -> bytes:
        inside = max(min(size, self.size - offset), 0)
        parts = []
        for at in range(offset, offset + inside, MAX_TRANSFER):
            length = min(MAX_TRANSFER, offset + inside - at)
            parts.append(self._request(CMD_READ, at, length))
        return b"".join(parts) + bytes(size - inside)

    def read_now(self, offset: int, size: int) -> None:
        return None

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        return 0

    def write(self, offset: int, data: Buffer) -> None:
        if self.readonly:
            raise OSError(errno.EROFS, f"{self.path}: opened read-only")
        view = memoryview(data)
        if not view.readonly:
            view = memoryview(bytes(view))  # it may be sent again when the caller has changed it
        for at in range(0, len(view), MAX_TRANSFER):
            part = view[at : at + MAX_TRANSFER]
            self._request(CMD_WRITE, offset + at, len(part), part)
        if self._kept_bytes > _KEPT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Raises OSError, and then ever again, as a raw image's does."""
        if self._flushes:
            self._request(CMD_FLUSH, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        if self.discard_granularity:
            for at in range(offset, offset + size, 1 << 30):
                self._request(CMD_TRIM, at, min(1 << 30, offset + size - at))

    def refresh(self) -> int:
        return self.size

    # -- the end ---------------------------------------------------------------------------------
    def abort(self) -> None:
        """Nobody wants answers any more: all requests fail, at once."""
        self._end("the disk is gone", goodbye=False)

    def _end(self, why: str, goodbye: bool) -> None:
        with self._condition:
            self._over = self._over or why
            session = self._session
            self._fail_pending()
        self._stop.set()
        if session is not None:
            if goodbye:
                session.say_goodbye()
            session.end()

    def close(self) -> None:
        self._end("closed", goodbye=True)
        # It may be connecting just now; then it ends a little later, by itself.
        self._reader.join(1.0)

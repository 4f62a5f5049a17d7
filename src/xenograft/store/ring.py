# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's connection by its shared page (docs/misc/xenstore-ring.txt, io/xs_wire.h).

The page belongs to the guest: its indices are checked each time they are read, and a domain
whose ring makes no sense is told so in the page and not listened to any more, until it asks
for a reconnection or is introduced again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from xenograft.abi.io.xs_wire import (
    XENSTORE_CONNECTED,
    XENSTORE_ERROR_NONE,
    XENSTORE_ERROR_PROTO,
    XENSTORE_ERROR_RINGIDX,
    XENSTORE_RECONNECT,
    XENSTORE_RING_SIZE,
    XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION,
    xenstore_domain_interface,
)
from xenograft.store import wire
from xenograft.store.connection import Connection
from xenograft.store.service import Xenstore

_REQ = xenstore_domain_interface.offsetof("req")
_RSP = xenstore_domain_interface.offsetof("rsp")
_INDICES = xenstore_domain_interface.offsetof("req_cons")
_REQ_CONS = _INDICES
_RSP_CONS = xenstore_domain_interface.offsetof("rsp_cons")
_RSP_PROD = xenstore_domain_interface.offsetof("rsp_prod")
_FEATURES = xenstore_domain_interface.offsetof("server_features")
_CONNECTION = xenstore_domain_interface.offsetof("connection")
_ERROR = xenstore_domain_interface.offsetof("error")

BURST = 16
"""Requests of a domain that are answered before others get their turn."""

SERVER_FEATURES = XENSTORE_SERVER_FEATURE_RECONNECTION | XENSTORE_SERVER_FEATURE_ERROR


class RingPage(Protocol):
    """The shared page: `offset` and sizes stay within 4096."""

    def read(self, offset: int, size: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...


class RingRecord(msgspec.Struct, frozen=True):
    """What a transport holds in between: requests and replies that passed in part, `bad`."""

    received: bytes
    sending: bytes
    bad: bool


class RingTransport:
    """Carries a connection's messages over a page; `notify` signals the event channel.

    Call `handle` whenever the domain has signalled.  `rebound` is told of a new (gfn, port)
    when the domain is introduced again, and may give a new page.  `defer`, if given, is called
    when more than BURST requests are there: whoever owns the loop is to call `handle` again
    after it has looked at others.
    """

    def __init__(
        self,
        store: Xenstore,
        connection: Connection,
        page: RingPage,
        notify: Callable[[], None],
        rebound: Callable[[int, int], RingPage] | None = None,
        closed: Callable[[], None] | None = None,
        defer: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._connection = connection
        self._page = page
        self._notify = notify
        self._rebound = rebound
        self._closed = closed
        self._defer = defer
        self._burst = 0
        self._reader = wire.MessageReader()
        self._sending = b""
        self._bad = False
        self._busy = False
        connection.notify = self.handle
        self._announce()

    @property
    def bad(self) -> bool:
        """Whether the domain's ring made no sense, and it isn't listened to."""
        return self._bad

    def handle(self) -> None:
        """Look at the page: take requests out, put replies and events in."""
        if self._busy or self._connection.closed:
            return
        self._busy = True
        try:
            if self._word(_CONNECTION) == XENSTORE_RECONNECT:
                self._reconnect()
            moved = False
            self._burst = 0
            # Each round empties the request ring at most once; what the guest adds while we
            # look, it has to signal again.
            for _ in range(1 + XENSTORE_RING_SIZE // wire.HEADER_SIZE):
                if self._bad:
                    break
                sent = self._send()
                received = self._receive()
                moved = moved or sent or received
                if not (self._process() or received):
                    break
            if moved:
                self._notify()
            if self._defer is not None and self._burst >= BURST:
                self._defer()
        finally:
            self._busy = False

    def resume(self) -> None:
        self.handle()

    def rebind(self, gfn: int, port: int) -> None:
        if self._rebound is not None:
            self._page = self._rebound(gfn, port)
        self._clear()
        self._page.write(_INDICES, bytes(16))
        self._bad = False
        self._announce()
        self.handle()

    def close(self) -> None:
        self._connection.notify = None
        if self._closed is not None:
            self._closed()

    def save(self) -> RingRecord:
        """The state that isn't in the page."""
        return RingRecord(self._reader.rest(), self._sending, self._bad)

    def restore(self, record: RingRecord) -> None:
        self._reader.clear()
        self._reader.feed(record.received)
        self._sending = record.sending
        self._bad = record.bad

    # -- inside -----------------------------------------------------------------------------
    def _announce(self) -> None:
        self._set_word(_FEATURES, SERVER_FEATURES)
        self._set_word(_ERROR, XENSTORE_ERROR_NONE)
        if self._word(_CONNECTION) == XENSTORE_RECONNECT:
            # Somebody has told the guest to wait for us.
            self._set_word(_CONNECTION, XENSTORE_CONNECTED)
            self._notify()

    def _reconnect(self) -> None:
        """The guest wants to begin anew: empty rings, nothing outstanding."""
        self._store.drop_watches_and_transactions(self._connection)
        self._clear()
        self._bad = False
        self._page.write(_INDICES, bytes(16))
        self._set_word(_ERROR, XENSTORE_ERROR_NONE)
        self._set_word(_CONNECTION, XENSTORE_CONNECTED)
        self._notify()

    def _clear(self) -> None:
        self._connection.drop_output()
        self._reader.clear()
        self._sending = b""

    def _fail(self, error: int) -> None:
        """The ring is of no use: drop what the domain had going, and say why in the page."""
        self._bad = True
        self._store.drop_watches_and_transactions(self._connection)
        self._clear()
        self._set_word(_ERROR, error)
        self._notify()

    def _receive(self) -> bool:
        """Take what the request ring holds, once all that came before has been answered."""
        if self._bad or self._reader.ready():
            return False
        cons, prod = self._pair(_REQ_CONS)
        used = prod - cons & 0xFFFFFFFF
        if used > XENSTORE_RING_SIZE:
            self._fail(XENSTORE_ERROR_RINGIDX)
            return False
        if not used:
            return False
        start = cons % XENSTORE_RING_SIZE
        data = self._page.read(_REQ + start, min(used, XENSTORE_RING_SIZE - start))
        if len(data) < used:
            data += self._page.read(_REQ, used - len(data))
        self._reader.feed(data)
        self._set_word(_REQ_CONS, prod)
        return True

    def _process(self) -> bool:
        """Answer the requests that have come in whole, as far as the domain is listened to."""
        progress = False
        try:
            while self._store.listens_to(self._connection):
                if self._defer is not None and self._burst >= BURST:
                    break
                message = self._reader.next()
                if message is None:
                    break
                progress = True
                self._burst += 1
                self._store.process(self._connection, message)
        except wire.ProtocolError:
            self._fail(XENSTORE_ERROR_PROTO)
        return progress

    def _send(self) -> bool:
        """Put as much into the reply ring as there's room for."""
        sent = False
        while self._sending or self._connection.has_output:
            cons, prod = self._pair(_RSP_CONS)
            used = prod - cons & 0xFFFFFFFF
            if used > XENSTORE_RING_SIZE:
                self._fail(XENSTORE_ERROR_RINGIDX)
                return False
            room = XENSTORE_RING_SIZE - used
            if not room:
                break
            if not self._sending:
                self._sending = self._connection.take() or b""
            data, self._sending = self._sending[:room], self._sending[room:]
            start = prod % XENSTORE_RING_SIZE
            first = data[: XENSTORE_RING_SIZE - start]
            self._page.write(_RSP + start, first)
            if len(first) < len(data):
                self._page.write(_RSP, data[len(first) :])
            self._set_word(_RSP_PROD, prod + len(data) & 0xFFFFFFFF)
            sent = True
        return sent

    def _pair(self, offset: int) -> tuple[int, int]:
        data = self._page.read(offset, 8)
        return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")

    def _word(self, offset: int) -> int:
        return int.from_bytes(self._page.read(offset, 4), "little")

    def _set_word(self, offset: int, value: int) -> None:
        self._page.write(offset, value.to_bytes(4, "little"))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that speak the wire protocol to a store in the same process, and a guest's ring."""

from __future__ import annotations

from xenograft.abi.io import xs_wire
from xenograft.abi.io.xs_wire import xenstore_domain_interface as Page
from xenograft.store import wire
from xenograft.store.connection import Connection
from xenograft.store.ring import RingTransport
from xenograft.store.service import Xenstore

OK = b"OK\0"


class Peer:
    """A client on a bare connection: every request is a packed message, as is every answer."""

    def __init__(self, store: Xenstore, domid: int = 0, connection: Connection | None = None):
        self.store = store
        self.connection = connection if connection is not None else store.connect(domid)
        self.events: list[tuple[str, str]] = []
        self._req_id = 0

    def send(self, operation: int, payload: bytes = b"\0", tx: int = 0) -> bytes | str:
        """The reply's payload, or the name of the error."""
        self._req_id += 1
        self.store.process(self.connection, wire.Message(operation, self._req_id, tx, payload))
        replies = [message for message in self.drain() if message.type != xs_wire.XS_WATCH_EVENT]
        assert len(replies) == 1
        reply = replies[0]
        assert (reply.req_id, reply.tx_id) == (self._req_id, tx)
        if reply.type == xs_wire.XS_ERROR:
            assert reply.payload.endswith(b"\0")
            return reply.payload[:-1].decode()
        assert reply.type == operation
        return reply.payload

    def drain(self) -> list[wire.Message]:
        """All messages that wait; events are noted in `events` too."""
        reader = wire.MessageReader()
        while (data := self.connection.take()) is not None:
            reader.feed(data)
        messages = []
        while (message := reader.next()) is not None:
            messages.append(message)
            if message.type == xs_wire.XS_WATCH_EVENT:
                path, token = message.payload.split(b"\0")[:2]
                self.events.append((path.decode(), token.decode()))
        assert not len(reader)
        return messages

    def take_events(self) -> list[tuple[str, str]]:
        """Watch events since the last call, as (path, token)."""
        self.drain()
        events, self.events = self.events, []
        return events

    # -- shorthands -------------------------------------------------------------------------
    def read(self, path: str, tx: int = 0) -> bytes | str:
        return self.send(xs_wire.XS_READ, path.encode() + b"\0", tx)

    def write(self, path: str, value: bytes | str = b"", tx: int = 0) -> bytes | str:
        data = value.encode() if isinstance(value, str) else value
        return self.send(xs_wire.XS_WRITE, path.encode() + b"\0" + data, tx)

    def mkdir(self, path: str, tx: int = 0) -> bytes | str:
        return self.send(xs_wire.XS_MKDIR, path.encode() + b"\0", tx)

    def rm(self, path: str, tx: int = 0) -> bytes | str:
        return self.send(xs_wire.XS_RM, path.encode() + b"\0", tx)

    def ls(self, path: str, tx: int = 0) -> list[str] | str:
        reply = self.send(xs_wire.XS_DIRECTORY, path.encode() + b"\0", tx)
        return reply if isinstance(reply, str) else reply.decode().split("\0")[:-1]

    def get_perms(self, path: str, tx: int = 0) -> list[str] | str:
        reply = self.send(xs_wire.XS_GET_PERMS, path.encode() + b"\0", tx)
        return reply if isinstance(reply, str) else reply.decode().split("\0")[:-1]

    def set_perms(self, path: str, *words: str, tx: int = 0) -> bytes | str:
        payload = "\0".join((path, *words, "")).encode()
        return self.send(xs_wire.XS_SET_PERMS, payload, tx)

    def watch(self, path: str, token: str = "t", *depth: str) -> bytes | str:
        return self.send(xs_wire.XS_WATCH, "\0".join((path, token, *depth, "")).encode())

    def unwatch(self, path: str, token: str = "t") -> bytes | str:
        return self.send(xs_wire.XS_UNWATCH, f"{path}\0{token}\0".encode())

    def start(self) -> int:
        reply = self.send(xs_wire.XS_TRANSACTION_START)
        assert isinstance(reply, bytes), reply
        return int(reply[:-1])

    def end(self, tx: int, commit: bool = True) -> bytes | str:
        return self.send(xs_wire.XS_TRANSACTION_END, b"T\0" if commit else b"F\0", tx)


def introduced(store: Xenstore, domid: int) -> Peer:
    """A domain that is introduced, and its peer; its home is made as a toolstack does."""
    store.introduce(domid, 0, 1)
    dom0 = Peer(store)
    home = f"/local/domain/{domid}"
    assert dom0.mkdir(home) == OK
    assert dom0.set_perms(home, f"n{domid}") == OK
    store.disconnect(dom0.connection)
    return Peer(store, connection=store.domains[domid].connection)


class GuestRing:
    """The guest's side of the shared page, as a kernel uses it."""

    def __init__(self, store: Xenstore, domid: int = 1) -> None:
        self.store = store
        self.page = bytearray(4096)
        self.signals = 0
        self.transport: RingTransport
        self._reader = wire.MessageReader()
        self._req_id = 0
        store.connector = self._connect
        store.introduce(domid, 0x1234, 5)

    def _connect(self, connection: Connection, gfn: int, port: int) -> RingTransport:
        self.connection = connection
        self.transport = RingTransport(self.store, connection, self, self._signal)
        return self.transport

    def _signal(self) -> None:
        self.signals += 1

    # -- RingPage ---------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= 4096
        return bytes(self.page[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset <= offset + len(data) <= Page.sizeof()
        self.page[offset : offset + len(data)] = data

    # -- indices ----------------------------------------------------------------------------
    def get(self, field: str) -> int:
        offset = Page.offsetof(field)
        return int.from_bytes(self.page[offset : offset + 4], "little")

    def put(self, field: str, value: int) -> None:
        offset = Page.offsetof(field)
        self.page[offset : offset + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")

    # -- bytes ------------------------------------------------------------------------------
    def push(self, data: bytes) -> bytes:
        """Write what there's room for; returns the rest."""
        prod, cons = self.get("req_prod"), self.get("req_cons")
        room = 1024 - (prod - cons & 0xFFFFFFFF)
        now, rest = data[:room], data[room:]
        for i, byte in enumerate(now):
            self.page[(prod + i) % 1024] = byte
        self.put("req_prod", prod + len(now))
        return rest

    def pull(self, limit: int = 1024) -> bytes:
        """Read at most `limit` bytes of replies."""
        cons, prod = self.get("rsp_cons"), self.get("rsp_prod")
        size = min(prod - cons & 0xFFFFFFFF, limit)
        data = bytes(self.page[1024 + (cons + i) % 1024] for i in range(size))
        self.put("rsp_cons", cons + size)
        return data

    def messages(self) -> list[wire.Message]:
        """All messages that have come, signalling as the ring is emptied."""
        found = []
        while data := self.pull():
            self._reader.feed(data)
            while (message := self._reader.next()) is not None:
                found.append(message)
            self.transport.handle()
        return found

    def ask(self, operation: int, payload: bytes, tx: int = 0) -> wire.Message:
        """One request and its reply; events in between are dropped."""
        self._req_id += 1
        rest = wire.pack(operation, self._req_id, tx, payload)
        found: list[wire.Message] = []
        while rest:
            rest = self.push(rest)
            self.transport.handle()
            found += self.messages()
        [reply] = [message for message in found if message.req_id == self._req_id]
        return reply

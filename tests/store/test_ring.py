# SPDX-License-Identifier: GPL-2.0-or-later
"""The shared ring: a guest's kernel on one side, and guests that mean no good."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.support import OK, GuestRing, Peer, introduced
from xenograft.abi.io import xs_wire
from xenograft.store import wire
from xenograft.store.fairness import CREDIT_INTERVAL_NS
from xenograft.store.service import Xenstore


@pytest.fixture
def store() -> Xenstore:
    return Xenstore()


@pytest.fixture
def guest(store: Xenstore) -> GuestRing:
    guest = GuestRing(store)
    dom0 = Peer(store)
    dom0.mkdir("/local/domain/1")
    dom0.set_perms("/local/domain/1", "n1")
    return guest


def test_features_are_announced(guest: GuestRing) -> None:
    assert guest.get("server_features") == 3
    assert guest.get("error") == xs_wire.XENSTORE_ERROR_NONE
    assert guest.signals == 0


def test_a_request_and_its_reply(store: Xenstore, guest: GuestRing) -> None:
    assert guest.ask(xs_wire.XS_WRITE, b"data/x\0hello").payload == OK
    assert guest.ask(xs_wire.XS_READ, b"data/x\0").payload == b"hello"
    assert guest.signals > 0
    assert Peer(store).read("/local/domain/1/data/x") == b"hello"
    reply = guest.ask(xs_wire.XS_READ, b"nothing\0")
    assert (reply.type, reply.payload) == (xs_wire.XS_ERROR, b"ENOENT\0")


def test_indices_may_begin_anywhere(guest: GuestRing) -> None:
    for start in (1000, 0xFFFFFFF0):
        for field in ("req_cons", "req_prod", "rsp_cons", "rsp_prod"):
            guest.put(field, start)
        assert guest.ask(xs_wire.XS_WRITE, b"x\0" + b"v" * 700).payload == OK
        assert guest.ask(xs_wire.XS_READ, b"x\0").payload == b"v" * 700


def test_messages_larger_than_the_ring(guest: GuestRing) -> None:
    value = bytes(range(256)) * 7
    assert guest.ask(xs_wire.XS_WRITE, b"x\0" + value).payload == OK
    assert guest.ask(xs_wire.XS_READ, b"x\0").payload == value


def test_many_requests_in_one_ring(guest: GuestRing) -> None:
    request = wire.pack(xs_wire.XS_GET_DOMAIN_PATH, 7, 0, b"1\0")
    assert guest.push(request * 56) == b""
    guest.transport.handle()
    replies = guest.messages()
    assert len(replies) == 56
    assert {reply.payload for reply in replies} == {b"/local/domain/1\0"}


def test_a_burst_is_deferred_where_there_is_a_loop(guest: GuestRing) -> None:
    deferred: list[bool] = []
    guest.transport._defer = lambda: deferred.append(True)
    guest.push(wire.pack(xs_wire.XS_GET_DOMAIN_PATH, 7, 0, b"1\0") * 30)
    guest.transport.handle()
    assert guest.connection.unread_replies == 0
    first = guest.pull()
    assert len(first) < 1024
    assert deferred == [True]
    guest.transport.handle()
    assert len(first + guest.pull()) == 30 * (16 + len("/local/domain/1") + 1)


def test_one_byte_at_a_time(guest: GuestRing) -> None:
    for byte in wire.pack(xs_wire.XS_WRITE, 1, 0, b"x\0v"):
        guest.push(bytes([byte]))
        guest.transport.handle()
    assert [message.payload for message in guest.messages()] == [OK]


def test_watch_events_come_by_themselves(store: Xenstore, guest: GuestRing) -> None:
    guest.ask(xs_wire.XS_WATCH, b"x\0tok\0")
    guest.messages()
    signals = guest.signals
    Peer(store).write("/local/domain/1/x/y", "1")
    assert guest.signals == signals + 1
    [event] = guest.messages()
    assert (event.type, event.payload) == (xs_wire.XS_WATCH_EVENT, b"x/y\0tok\0")


def test_a_guest_that_reads_nothing_is_not_listened_to(guest: GuestRing) -> None:
    """Its replies fill the ring; then its requests stay where they are."""
    request = wire.pack(xs_wire.XS_GET_DOMAIN_PATH, 7, 0, b"1\0")
    for _ in range(40):
        guest.push(request * 10)
        guest.transport.handle()
    assert guest.connection.unread_replies <= guest.store.quota.outstanding
    assert guest.get("req_prod") - guest.get("req_cons") > 900
    for _ in range(50):
        guest.messages()
        if guest.get("req_prod") == guest.get("req_cons"):
            break
    assert guest.get("req_prod") == guest.get("req_cons")
    assert guest.connection.unread_replies == 0


def test_nothing_to_do_makes_no_signal(guest: GuestRing) -> None:
    guest.transport.handle()
    assert guest.signals == 0


# -- reconnection -----------------------------------------------------------------------------
def test_reconnection_begins_anew(store: Xenstore, guest: GuestRing) -> None:
    guest.ask(xs_wire.XS_WATCH, b"x\0tok\0")
    guest.ask(xs_wire.XS_TRANSACTION_START, b"\0")
    guest.push(wire.pack(xs_wire.XS_WRITE, 1, 0, b"half\0" + b"v" * 100)[:30])
    guest.transport.handle()
    guest.put("connection", xs_wire.XENSTORE_RECONNECT)
    signals = guest.signals
    guest.transport.handle()
    assert guest.get("connection") == xs_wire.XENSTORE_CONNECTED
    assert guest.signals == signals + 1
    assert [guest.get(f) for f in ("req_cons", "req_prod", "rsp_cons", "rsp_prod")] == [0] * 4
    assert not guest.connection.watches
    assert not guest.connection.transactions
    assert guest.ask(xs_wire.XS_READ, b"half\0").payload == b"ENOENT\0"


def test_a_guest_told_to_wait_is_connected_at_introduction(store: Xenstore) -> None:
    class Waiting(GuestRing):
        def _connect(self, connection, gfn, port):  # type: ignore[no-untyped-def]
            self.put("connection", xs_wire.XENSTORE_RECONNECT)
            return super()._connect(connection, gfn, port)

    guest = Waiting(store)
    assert guest.get("connection") == xs_wire.XENSTORE_CONNECTED
    assert guest.signals == 1


def test_introduced_again(store: Xenstore, guest: GuestRing) -> None:
    guest.ask(xs_wire.XS_WATCH, b"x\0tok\0")
    guest.put("req_prod", 5000)
    guest.transport.handle()
    assert guest.transport.bad
    store.introduce(1, 0x99, 8)
    assert not guest.transport.bad
    assert (store.domains[1].gfn, store.domains[1].port) == (0x99, 8)
    assert not guest.connection.watches
    assert guest.ask(xs_wire.XS_MKDIR, b"x\0").payload == OK


def test_released(store: Xenstore, guest: GuestRing) -> None:
    store.release(1)
    before = bytes(guest.page)
    guest.push(wire.pack(xs_wire.XS_READ, 1, 0, b"x\0"))
    cons = guest.get("req_cons")
    guest.transport.handle()
    assert guest.get("req_cons") == cons
    assert bytes(guest.page[1024:2048]) == before[1024:2048]


# -- hostile guests ---------------------------------------------------------------------------
@pytest.mark.parametrize("field", ["req_prod", "req_cons", "rsp_prod", "rsp_cons"])
def test_impossible_indices(guest: GuestRing, field: str) -> None:
    guest.ask(xs_wire.XS_WATCH, b"x\0tok\0")
    guest.put(field, guest.get(field) + 0x80000000)
    guest.push(wire.pack(xs_wire.XS_READ, 1, 0, b"x\0"))
    Peer(guest.store).write("/local/domain/1/x", "")
    guest.transport.handle()
    assert guest.transport.bad
    assert guest.get("error") == xs_wire.XENSTORE_ERROR_RINGIDX
    assert not guest.connection.watches
    # It isn't heard any more, until it asks for a new beginning.
    guest.transport.handle()
    guest.put("connection", xs_wire.XENSTORE_RECONNECT)
    guest.transport.handle()
    assert guest.get("error") == xs_wire.XENSTORE_ERROR_NONE
    assert guest.ask(xs_wire.XS_MKDIR, b"x\0").payload == OK


def test_a_payload_too_long(guest: GuestRing) -> None:
    guest.push(wire.HEADER.pack(xs_wire.XS_READ, 1, 0, 4097))
    guest.transport.handle()
    assert guest.transport.bad
    assert guest.get("error") == xs_wire.XENSTORE_ERROR_PROTO


def test_a_paused_domain_is_answered_later(store: Xenstore) -> None:
    due: list[tuple[int, object]] = []

    class Timers:
        def add(self, deadline_ns: int, callback: object) -> None:
            due.append((deadline_ns, callback))

    store = Xenstore(now=lambda: 0, timers=Timers())  # type: ignore[arg-type]
    guest = GuestRing(store)
    for _ in range(5):
        store.credit.punish(1)
    guest.push(wire.pack(xs_wire.XS_GET_DOMAIN_PATH, 1, 0, b"1\0"))
    guest.transport.handle()
    assert guest.messages() == []
    assert due[0][0] == CREDIT_INTERVAL_NS
    due[0][1]()  # type: ignore[operator]
    assert len(guest.messages()) == 1


STEP = st.one_of(
    st.tuples(st.just("poke"), st.integers(0, 2075), st.integers(0, 255)),
    st.tuples(
        st.just("index"),
        st.sampled_from(["req_cons", "req_prod", "rsp_cons", "rsp_prod", "connection"]),
        st.integers(0, 0xFFFFFFFF),
    ),
    st.tuples(
        st.just("request"), st.integers(0, 24), st.sampled_from([b"", b"x\0", b"x\0t\0", b"T\0"])
    ),
    st.tuples(st.just("read"), st.integers(0, 1024), st.none()),
    st.tuples(st.just("dom0"), st.none(), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEP, max_size=40))
def test_whatever_a_guest_does_to_its_page(steps: list[tuple[str, object, object]]) -> None:
    """No exception, no access outside the page, no endless loop; others aren't disturbed."""
    store = Xenstore()
    other, dom0 = introduced(store, 2), Peer(store)
    guest = GuestRing(store)
    other.watch("x")
    other.take_events()
    dom0.set_perms("/local/domain/2", "n2", "b1")
    for kind, a, b in steps:
        match kind:
            case "poke":
                guest.page[a] = b  # type: ignore[index, call-overload]
            case "index":
                guest.put(a, b)  # type: ignore[arg-type]
            case "request":
                guest.push(wire.pack(a, 1, 0, b))  # type: ignore[arg-type]
            case "read":
                guest.pull(a)  # type: ignore[arg-type]
            case "dom0":
                dom0.write("/local/domain/1/x", "1")
        guest.transport.handle()
    assert other.write("x", "1") == OK
    assert other.take_events() == [("x", "t")]
    guest.put("connection", xs_wire.XENSTORE_RECONNECT)
    guest.transport.handle()
    assert guest.ask(xs_wire.XS_GET_DOMAIN_PATH, b"1\0").payload == b"/local/domain/1\0"

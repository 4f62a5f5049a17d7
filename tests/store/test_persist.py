# SPDX-License-Identifier: GPL-2.0-or-later
"""The store's state carried as bytes into a fresh store."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.support import OK, GuestRing, Peer, introduced
from xenograft.abi.io import xs_wire
from xenograft.store import persist, wire
from xenograft.store.ring import RingRecord
from xenograft.store.service import Xenstore


def carried(store: Xenstore) -> tuple[Xenstore, dict[int, Peer]]:
    """A fresh store with the state of another, and peers of its domains."""
    record = msgspec.msgpack.decode(
        msgspec.msgpack.encode(persist.save(store)), type=persist.StoreRecord
    )
    fresh = Xenstore()
    persist.restore(fresh, record)
    assert persist.save(fresh) == record
    return fresh, {d: Peer(fresh, connection=x.connection) for d, x in fresh.domains.items()}


def test_the_tree_survives() -> None:
    store = Xenstore()
    dom0 = Peer(store)
    dom0.write("/a/b", b"\0\xff")
    dom0.set_perms("/a", "n0", "r1", "b2")
    dom0.send(xs_wire.XS_CONTROL, b"quota\0set\0nodes\x0077\0")
    before = dom0.send(xs_wire.XS_DIRECTORY_PART, b"/a\x000\0")
    fresh, _ = carried(store)
    again = Peer(fresh)
    assert again.read("/a/b") == b"\0\xff"
    assert again.get_perms("/a") == ["n0", "r1", "b2"]
    assert again.send(xs_wire.XS_DIRECTORY_PART, b"/a\x000\0") == before
    assert fresh.quota.nodes == 77
    assert again.send(xs_wire.XS_CONTROL, b"check\0") == OK


def test_domains_and_watches_survive() -> None:
    store = Xenstore()
    guest, stub = introduced(store, 1), introduced(store, 2)
    Peer(store).send(xs_wire.XS_SET_TARGET, b"2\x001\0")
    guest.watch("x", "tok")
    guest.watch("/local/domain/1/y", "deep", "1")
    store.shut_down(2)
    stub.take_events()
    guest.take_events()
    fresh, peers = carried(store)
    assert fresh.domains[2].shutdown
    assert fresh.domains[2].connection.who.target == 1
    dom0 = Peer(fresh)
    dom0.write("/local/domain/1/x/z", "")
    dom0.write("/local/domain/1/y/z/z", "")
    assert peers[1].take_events() == [("x/z", "tok")]
    assert peers[1].connection.memory == guest.connection.memory
    assert peers[1].watch("x", "tok") == "EEXIST"


def test_unread_messages_survive() -> None:
    store = Xenstore()
    guest = introduced(store, 1)
    guest.watch("x")
    store.process(guest.connection, wire.Message(xs_wire.XS_READ, 9, 0, b"x\0"))
    Peer(store).write("/local/domain/1/x", "")
    _, peers = carried(store)
    assert peers[1].connection.unread_replies == 1
    messages = peers[1].drain()
    assert [message.req_id for message in messages] == [9, 0] or [
        message.req_id for message in messages
    ] == [0, 9]


@pytest.mark.parametrize("disturbed", [False, True])
def test_open_transactions_survive(disturbed: bool) -> None:
    store = Xenstore()
    guest = introduced(store, 1)
    guest.write("x", "1")
    tx = guest.start()
    guest.read("x", tx)
    guest.write("y", "2", tx)
    if disturbed:
        Peer(store).write("/local/domain/1/x", "changed")
    else:
        Peer(store).write("/elsewhere", "changed")
    fresh, peers = carried(store)
    assert peers[1].read("y") == "ENOENT"
    assert peers[1].read("y", tx) == b"2"
    assert peers[1].end(tx) == ("EAGAIN" if disturbed else OK)
    assert Peer(fresh).read("/local/domain/1/y") == ("ENOENT" if disturbed else b"2")
    assert peers[1].start() == tx + 1


def test_a_ring_goes_on_in_the_middle_of_messages() -> None:
    store = Xenstore()
    guest = GuestRing(store)
    dom0 = Peer(store)
    dom0.write("/local/domain/1/x", b"v" * 2000)
    dom0.set_perms("/local/domain/1", "n1")
    dom0.set_perms("/local/domain/1/x", "n1")
    request = wire.pack(xs_wire.XS_WRITE, 2, 0, b"y\0" + b"w" * 100)
    guest.push(wire.pack(xs_wire.XS_READ, 1, 0, b"x\0") + request[:50])
    guest.transport.handle()  # half a reply is in the ring, half a request is out of it
    ring = msgspec.msgpack.decode(msgspec.msgpack.encode(guest.transport.save()), type=RingRecord)
    record = persist.save(store)

    fresh = Xenstore()
    again = GuestRing.__new__(GuestRing)
    again.store, again.page, again.signals = fresh, bytearray(guest.page), 0
    again._reader, again._req_id = wire.MessageReader(), 0
    fresh.connector = again._connect
    persist.restore(fresh, record)
    again.transport.restore(ring)
    assert again.transport.save() == ring
    first = again.messages()
    again.push(request[50:])
    again.transport.handle()
    [read, write] = first + again.messages()
    assert (read.req_id, read.payload) == (1, b"v" * 2000)
    assert (write.req_id, write.payload) == (2, OK)


def test_only_a_fresh_store_can_be_restored() -> None:
    store = Xenstore()
    record = persist.save(store)
    Peer(store)
    with pytest.raises(ValueError, match="fresh"):
        persist.restore(store, record)
    with pytest.raises(ValueError, match="root"):
        persist.restore(Xenstore(), msgspec.structs.replace(record, nodes=()))


PATHS = st.sampled_from(["/a", "/a/b", "/a/b/c", "x", "x/y", "/d"])


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["write", "mkdir", "rm", "watch", "start", "perms"]),
            PATHS,
            st.integers(0, 2),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_any_state_survives(steps: list[tuple[str, str, int, bool]]) -> None:
    store = Xenstore()
    dom0, guest = Peer(store), introduced(store, 1)
    for op, path, tx, privileged in steps:
        peer = dom0 if privileged else guest
        match op:
            case "watch":
                peer.watch(path)
            case "start":
                peer.send(xs_wire.XS_TRANSACTION_START)
            case "perms":
                peer.set_perms(path, "b1", tx=tx)
            case "write":
                peer.write(path, "v", tx)
            case _:
                getattr(peer, op)(path, tx)
    _, peers = carried(store)
    assert peers[1].read("/a") == guest.read("/a")

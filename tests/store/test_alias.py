# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that go on under another number than the one they know."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store.support import OK, Peer, introduced
from xenograft.abi.errno import XenError
from xenograft.abi.io import xs_wire
from xenograft.store import persist
from xenograft.store.alias import Alias, renumbered
from xenograft.store.service import Xenstore

numbers = st.integers(0, 32751)
names = st.text("abcxyz0123456789-_@", min_size=1, max_size=6)
paths = st.lists(
    st.one_of(
        names,
        numbers.map(str),
        st.sampled_from(["local", "domain", "backend", "error", "libxl", "vbd", "state"]),
    ),
    max_size=8,
).map(lambda parts: "/" + "/".join(parts))


@given(paths, numbers, numbers)
def test_only_whole_parts_of_known_shapes_change(path: str, old: int, new: int) -> None:
    told = Alias(new, (old,)).inward(path.encode()).decode()
    before, after = path.split("/"), told.split("/")
    assert len(before) == len(after)
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    for i in changed:
        assert (before[i], after[i]) == (str(old), str(new))
        own = i == 3 and before[1:3] == ["local", "domain"]
        served = before[1:3] == ["local", "domain"] and before[i - 2] == "backend" and i in (6, 7)
        assert own or served
    assert len(changed) <= 1


@given(paths, numbers, numbers)
def test_a_path_comes_back_as_it_was(path: str, old: int, new: int) -> None:
    if str(new) not in path.split("/"):
        there = renumbered(path, old, new)
        assert renumbered(there, new, old) == path


@given(st.lists(numbers, min_size=1, max_size=5), names)
def test_a_fork_of_a_fork_knows_all_its_numbers(lives: list[int], rest: str) -> None:
    alias = Alias(lives[0], ())
    for number in lives[1:]:
        alias = alias.next(number)
    for number in lives:
        assert alias.inward(f"/local/domain/{number}/{rest}".encode()) == (
            f"/local/domain/{lives[-1]}/{rest}".encode()
        )


def revived(store: Xenstore, old: int, new: int) -> Peer:
    """Domain `new` goes on as `old`, through bytes; the old one goes."""
    record = msgspec.msgpack.decode(
        msgspec.msgpack.encode(persist.save_domain(store, old)), type=persist.DomainRecord
    )
    store.release(old)
    peer = introduced(store, new)
    persist.restore_domain(store, persist.moved(record, new))
    return peer


def test_a_guest_goes_on_with_its_watches() -> None:
    store = Xenstore()
    guest, dom0 = introduced(store, 3), Peer(store)
    back = "/local/domain/0/backend/vbd/{}/51712/state"
    dom0.write(back.format(3), "4")
    dom0.set_perms(back.format(3), "n0", "r3")
    assert guest.watch(back.format(3), "abs") == OK
    assert guest.watch("device", "rel") == OK
    tx = guest.start()
    guest.write("device/x", "1", tx)
    guest.take_events()
    for old, new in ((3, 8), (8, 4), (4, 9)):
        guest = revived(store, old, new)
        dom0.write(back.format(new), "4")
        dom0.set_perms(back.format(new), "n0", f"r{new}")
        dom0.write(f"/local/domain/{new}/device", "")
        # It hears of what it asked for, as it asked for it.
        assert set(guest.take_events()) == {(back.format(3), "abs"), ("device", "rel")}
        assert guest.read(back.format(3)) == b"4"
        assert guest.read(back.format(new)) == b"4"
        assert guest.read("/local/domain/3/device") == b""
    # What it had under way has to be done again.
    assert guest.read("device/x", tx) == b"1"
    assert guest.end(tx) == "EAGAIN"
    assert guest.read("device/x") == "ENOENT"
    assert guest.unwatch(back.format(3), "abs") == OK
    assert guest.watch(back.format(3), "again") == OK
    dom0.write(back.format(9), "5")
    assert (back.format(3), "again") in guest.take_events()
    dom0.rm(back.format(9))
    assert guest.take_events() == [(back.format(3), "again")]


def test_a_record_that_makes_no_sense_is_refused() -> None:
    store = Xenstore()
    guest = introduced(store, 3)
    record = persist.save_domain(store, 3)
    for bad in (
        persist.TransactionRecord(0, (), True),
        persist.TransactionRecord(1 << 32, (), True),
        persist.TransactionRecord(1, ((xs_wire.XS_CONTROL, b"x\0"),), True),
        persist.TransactionRecord(1, ((99, b""),), True),
    ):
        wrong = msgspec.structs.replace(record, transactions=(bad,))
        with pytest.raises(XenError):
            persist.restore_domain(store, wrong)
        store.drop_watches_and_transactions(guest.connection)

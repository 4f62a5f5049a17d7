# SPDX-License-Identifier: GPL-2.0-or-later
"""Transactions: isolation, commit, conflicts, and that commits are as if one after the other."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.store.support import OK, Peer, introduced
from xenograft.abi.io import xs_wire
from xenograft.store import tree
from xenograft.store.fairness import CREDIT_INTERVAL_NS, HISTORY_MAX
from xenograft.store.service import Xenstore


@pytest.fixture
def store() -> Xenstore:
    return Xenstore()


@pytest.fixture
def a(store: Xenstore) -> Peer:
    return Peer(store)


@pytest.fixture
def b(store: Xenstore) -> Peer:
    return Peer(store)


def test_changes_are_seen_after_the_commit_only(a: Peer, b: Peer) -> None:
    tx = a.start()
    a.write("/x", "1", tx)
    assert a.read("/x", tx) == b"1"
    assert a.read("/x") == b.read("/x") == "ENOENT"
    assert a.end(tx) == OK
    assert b.read("/x") == b"1"
    assert a.read("/x", tx) == "ENOENT"


def test_a_transaction_sees_the_store_of_its_start(a: Peer, b: Peer) -> None:
    b.write("/x", "old")
    tx = a.start()
    b.write("/x", "new")
    assert a.read("/x", tx) == b"old"
    assert a.end(tx) == OK  # it has changed nothing: no conflict


def test_an_aborted_transaction_leaves_nothing(a: Peer) -> None:
    tx = a.start()
    a.write("/x", "1", tx)
    assert a.end(tx, commit=False) == OK
    assert a.read("/x") == "ENOENT"
    assert a.end(tx) == "ENOENT"


def test_errors_of_transactions(a: Peer) -> None:
    assert a.read("/", tx=5) == "ENOENT"
    assert a.end(0) == "ENOENT"
    tx = a.start()
    assert a.send(xs_wire.XS_TRANSACTION_START, tx=tx) == "EBUSY"
    assert a.send(xs_wire.XS_TRANSACTION_END, b"T", tx) == "EINVAL"
    assert a.end(tx) == OK


def test_ids_belong_to_their_connection(a: Peer, b: Peer) -> None:
    tx = a.start()
    assert b.read("/", tx) == "ENOENT"
    assert b.start() == tx


def test_ids_in_use_are_skipped(a: Peer) -> None:
    assert (a.start(), a.start()) == (1, 2)
    a.end(1)
    assert a.start() == 3
    a.connection.next_tx_id = 1 << 32
    assert a.start() == 1
    assert a.start() == 4


def test_what_another_has_read_and_changed_is_a_conflict(a: Peer, b: Peer) -> None:
    a.write("/x", "1")
    tx = a.start()
    value = a.read("/x", tx)
    assert isinstance(value, bytes)
    a.write("/y", value, tx)
    b.write("/x", "2")
    assert a.end(tx) == "EAGAIN"
    assert a.read("/y") == "ENOENT"


def test_changes_elsewhere_are_no_conflict(a: Peer, b: Peer) -> None:
    a.write("/x", "1")
    tx = a.start()
    a.read("/x", tx)
    a.write("/y", "1", tx)
    b.write("/z", "2")
    b.write("/x", "1")  # the same as before: nobody could tell
    assert a.end(tx) == OK
    assert [a.read(path) for path in ("/y", "/z")] == [b"1", b"2"]


def test_both_may_write_the_same_node(a: Peer, b: Peer) -> None:
    """A blind write depends on nothing; the later commit wins."""
    tx = a.start()
    a.write("/x", "a", tx)
    b.write("/x", "b")
    assert a.end(tx) == OK
    assert b.read("/x") == b"a"


def test_an_error_is_an_answer_too(a: Peer, b: Peer) -> None:
    tx = a.start()
    assert a.read("/x", tx) == "ENOENT"
    a.write("/y", "there was no x", tx)
    b.write("/x", "")
    assert a.end(tx) == "EAGAIN"


def test_listings_and_permissions_are_answers(a: Peer, b: Peer) -> None:
    a.mkdir("/d")
    first, second = a.start(), a.start()
    a.ls("/d", first)
    a.get_perms("/d", second)
    a.write("/first", "", first)
    a.write("/second", "", second)
    b.write("/d/new")
    assert a.end(second) == OK
    assert a.end(first) == "EAGAIN"
    third = a.start()
    a.get_perms("/d", third)
    a.write("/third", "", third)
    b.set_perms("/d", "r0")
    assert a.end(third) == "EAGAIN"


def test_long_answers_are_compared(a: Peer, b: Peer) -> None:
    a.write("/x", "v" * 3000)
    tx = a.start()
    a.read("/x", tx)
    a.write("/y", "", tx)
    b.write("/x", "v" * 2999 + "w")
    assert a.end(tx) == "EAGAIN"


def test_the_requests_of_a_guests_transaction_are_limited(store: Xenstore) -> None:
    store.quota.transaction_requests = 5
    guest = introduced(store, 1)
    tx = guest.start()
    assert [guest.write("x", "", tx) for _ in range(6)] == [OK] * 5 + ["ENOSPC"]
    assert guest.end(tx) == OK
    dom0 = Peer(store)
    tx = dom0.start()
    assert [dom0.write("/x", "", tx) for _ in range(6)] == [OK] * 6


def test_quotas_hold_across_a_replay(store: Xenstore) -> None:
    guest, dom0 = introduced(store, 1), Peer(store)
    store.quota.nodes = 3
    tx = guest.start()
    assert guest.write("a", "", tx) == OK
    guest.write("b", "")
    guest.write("c", "")
    assert guest.end(tx) == "EAGAIN"  # no room any more: it would be answered differently
    assert store.state.owned[1] == 3
    assert dom0.send(xs_wire.XS_CONTROL, b"check\0") == OK


def test_watches_and_resets_ignore_transactions(a: Peer) -> None:
    tx = a.start()
    assert a.send(xs_wire.XS_WATCH, b"/x\0t\0", tx) == OK
    assert a.send(xs_wire.XS_UNWATCH, b"/x\0t\0", 999) == OK
    assert a.send(xs_wire.XS_RESET_WATCHES) == OK
    assert a.end(tx) == "ENOENT"


def test_the_end_of_a_connection_ends_its_transactions(store: Xenstore, a: Peer, b: Peer) -> None:
    a.start()
    store.disconnect(a.connection)
    assert not store._open
    store.disconnect(a.connection)
    assert b.write("/x") == OK


# -- fairness -----------------------------------------------------------------------------------
class Timers:
    """Time that passes when it's told to."""

    def __init__(self) -> None:
        self.now = 0
        self.due: list[tuple[int, object]] = []

    def add(self, deadline_ns: int, callback: object) -> None:
        self.due.append((deadline_ns, callback))

    def advance(self, ns: int) -> None:
        end = self.now + ns
        while self.due and min(self.due, key=lambda d: d[0])[0] <= end:
            first = min(self.due, key=lambda d: d[0])
            self.due.remove(first)
            self.now = first[0]
            first[1]()  # type: ignore[operator]
        self.now = end


def test_who_keeps_causing_conflicts_has_to_wait() -> None:
    timers = Timers()
    store = Xenstore(now=lambda: timers.now, timers=timers)  # type: ignore[arg-type]
    victim, culprit, bystander = Peer(store), introduced(store, 1), introduced(store, 2)
    culprit.write("x", "0")
    for round_ in range(5):
        assert store.listens_to(culprit.connection), round_
        tx = victim.start()
        victim.read("/local/domain/1/x", tx)
        victim.write("/result", "", tx)
        bystander.write("y", str(round_))
        culprit.write("x", str(round_ + 1))
        assert victim.end(tx) == "EAGAIN"
    assert not store.listens_to(culprit.connection)
    assert store.listens_to(bystander.connection)
    timers.advance(CREDIT_INTERVAL_NS)
    assert store.listens_to(culprit.connection)
    timers.advance(4 * CREDIT_INTERVAL_NS)
    assert store.credit.save() == ()
    assert not timers.due


def test_nobody_is_blamed_for_his_own_conflicts() -> None:
    timers = Timers()
    store = Xenstore(now=lambda: timers.now, timers=timers)  # type: ignore[arg-type]
    guest = introduced(store, 1)
    tx = guest.start()
    guest.read("x", tx)
    guest.write("y", "", tx)
    guest.write("x", "")
    assert guest.end(tx) == "EAGAIN"
    assert store.credit.save() == ()


def test_without_time_nobody_loses_points(store: Xenstore, a: Peer) -> None:
    guest = introduced(store, 1)
    for i in range(10):
        tx = a.start()
        a.read("/local/domain/1/x", tx)
        a.write("/y", "", tx)
        guest.write("x", str(i))
        assert a.end(tx) == "EAGAIN"
    assert store.listens_to(guest.connection)


def test_paused_domains_get_their_points_in_turn() -> None:
    timers = Timers()
    store = Xenstore(now=lambda: timers.now, timers=timers)  # type: ignore[arg-type]
    peers = [introduced(store, domid) for domid in (1, 2)]
    for _ in range(5):
        for domid in (1, 2):
            store.credit.punish(domid)
    assert [store.listens_to(p.connection) for p in peers] == [False, False]
    timers.advance(CREDIT_INTERVAL_NS)
    assert [store.listens_to(p.connection) for p in peers] == [True, False]
    timers.advance(CREDIT_INTERVAL_NS)
    assert [store.listens_to(p.connection) for p in peers] == [True, True]


def test_history_is_kept_for_open_transactions_only(store: Xenstore, a: Peer) -> None:
    guest = introduced(store, 1)
    guest.write("x", "0")
    assert len(store.history) == 0
    first = a.start()
    guest.write("x", "1")
    second = a.start()
    guest.write("x", "2")
    assert len(store.history) == 2
    a.end(first)
    assert len(store.history) == 1
    a.end(second)
    assert len(store.history) == 0
    a.start()
    for i in range(3 * HISTORY_MAX):
        guest.write("x", str(i))
    assert len(store.history) == HISTORY_MAX


def test_memory_stays_flat(store: Xenstore) -> None:
    peers = [introduced(store, domid) for domid in range(1, 9)]

    def churn(rounds: int) -> None:
        for i in range(rounds):
            peer = peers[i % 8]
            tx = peer.start()
            peer.write("counter", str(i), tx)
            peer.write(f"tmp/{i % 50}", "x" * 50, tx)
            peers[(i + 1) % 8].write("other", str(i))
            peer.end(tx)

    churn(800)
    gc.collect()
    tracemalloc.start()
    churn(200)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    churn(1600)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 60_000


# -- the model ----------------------------------------------------------------------------------
PATHS = st.sampled_from(["/a", "/a/b", "/a/c", "/d", "/d/e/f"])


class Serializable(RuleBasedStateMachine):
    """Three clients with transactions at once.  The model is a dict that is changed by each
    commit as a whole; a commit that succeeds must have read what the model held just then."""

    @initialize()
    def start(self) -> None:
        self.store = Xenstore()
        self.peers = [Peer(self.store) for _ in range(3)]
        self.open: list[tuple[int, list[tuple[str, str, object]]] | None] = [None] * 3
        self.model: dict[str, bytes] = {}
        self.commits = 0

    def parents(self, path: str) -> list[str]:
        names = path.split("/")[1:]
        return ["/" + "/".join(names[:i]) for i in range(1, len(names))]

    def apply(self, model: dict[str, bytes], op: str, path: str, value: object) -> object:
        if op == "read":
            return model.get(path, "ENOENT")
        if op == "ls":
            if path not in model:
                return "ENOENT"
            below = (p for p in model if p.startswith(path + "/"))
            return sorted({p[len(path) + 1 :].split("/")[0] for p in below})
        if op == "write":
            for parent in self.parents(path):
                model.setdefault(parent, b"")
            assert isinstance(value, bytes)
            model[path] = value
            return OK
        parent = self.parents(path)[-1:]
        if path not in model and parent and parent[0] not in model:
            return "ENOENT"
        for gone in [p for p in model if p == path or p.startswith(path + "/")]:
            del model[gone]
        return OK

    def do(self, who: int, op: str, path: str, value: bytes = b"") -> None:
        peer, running = self.peers[who], self.open[who]
        tx = running[0] if running else 0
        answer = peer.write(path, value, tx) if op == "write" else getattr(peer, op)(path, tx)
        if running is None:
            assert answer == self.apply(self.model, op, path, value)
        else:
            running[1].append((op, path, (value, answer)))

    @rule(who=st.integers(0, 2), path=PATHS, value=st.binary(max_size=2))
    def write(self, who: int, path: str, value: bytes) -> None:
        self.do(who, "write", path, value)

    @rule(who=st.integers(0, 2), op=st.sampled_from(["read", "ls", "rm"]), path=PATHS)
    def other(self, who: int, op: str, path: str) -> None:
        self.do(who, op, path)

    @rule(who=st.integers(0, 2))
    def begin(self, who: int) -> None:
        if self.open[who] is None:
            self.open[who] = (self.peers[who].start(), [])

    @rule(who=st.integers(0, 2), commit=st.booleans())
    def finish(self, who: int, commit: bool) -> None:
        running = self.open[who]
        if running is None:
            return
        self.open[who] = None
        result = self.peers[who].end(running[0], commit)
        model = dict(self.model)
        same = all(
            self.apply(model, op, path, value) == answer
            for op, path, (value, answer) in running[1]  # type: ignore[misc]
        )
        changed = any(op in ("write", "rm") for op, _, _ in running[1])
        if not commit:
            assert result == OK
        elif result == OK and changed:
            # Those that only tried to remove what wasn't there have changed nothing either.
            if same:
                self.model = model
            else:
                assert self.contents() == self.model
        elif result == OK:
            assert not changed
        else:
            assert result == "EAGAIN"
            assert not same

    def contents(self) -> dict[str, bytes]:
        return {
            "/" + "/".join(parts): node.value
            for parts, node in tree.walk(self.store.state.root)
            if parts and not parts[0].startswith("@")
        }

    @invariant()
    @precondition(lambda self: hasattr(self, "store"))
    def the_store_is_as_modelled(self) -> None:
        assert self.contents() == self.model


TestSerializable = Serializable.TestCase
TestSerializable.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches: who hears of what, under which path, and when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.support import OK, Peer, introduced
from xenograft.abi.io import xs_wire
from xenograft.store import wire
from xenograft.store.service import Xenstore


@pytest.fixture
def store() -> Xenstore:
    return Xenstore()


@pytest.fixture
def dom0(store: Xenstore) -> Peer:
    return Peer(store)


@pytest.fixture
def watcher(store: Xenstore) -> Peer:
    return Peer(store)


@pytest.fixture
def guest(store: Xenstore) -> Peer:
    return introduced(store, 1)


def quiet(peer: Peer, path: str, token: str = "t", *depth: str) -> None:
    """Watch, and take the first event away."""
    assert peer.watch(path, token, *depth) == OK
    assert (path, token) in peer.take_events()


def test_a_watch_fires_once_at_first(dom0: Peer) -> None:
    assert dom0.watch("/nowhere/yet", "tok") == OK
    assert dom0.take_events() == [("/nowhere/yet", "tok")]


def test_the_reply_comes_before_its_events(store: Xenstore) -> None:
    peer = Peer(store)
    store.process(peer.connection, wire.Message(xs_wire.XS_WATCH, 1, 0, b"/a\0t\0"))
    store.process(peer.connection, wire.Message(xs_wire.XS_WRITE, 2, 0, b"/a\0v"))
    kinds = [message.type for message in peer.drain()]
    # The second event is the same as the first, which hasn't been read yet.
    assert kinds == [xs_wire.XS_WATCH, xs_wire.XS_WATCH_EVENT, xs_wire.XS_WRITE]


def test_changes_at_and_below_are_heard(dom0: Peer, watcher: Peer) -> None:
    quiet(watcher, "/a")
    dom0.write("/a", "1")
    dom0.write("/a/b/c", "2")
    dom0.mkdir("/a/m")
    dom0.mkdir("/a/m")  # there already: no change
    dom0.set_perms("/a/b", "r0")
    dom0.rm("/a/b/c")
    dom0.rm("/a/b/c")
    dom0.write("/ab", "not below")
    dom0.write("/", "above")
    assert (
        watcher.take_events()
        == [(path, "t") for path in ("/a", "/a/b/c", "/a/m", "/a/b", "/a/b/c")][:4]
    )


def test_identical_unread_events_are_sent_once(dom0: Peer, watcher: Peer) -> None:
    quiet(watcher, "/a")
    for i in range(5):
        dom0.write("/a", str(i))
    assert watcher.take_events() == [("/a", "t")]
    dom0.write("/a", "again")
    assert watcher.take_events() == [("/a", "t")]


def test_removal_above_is_told_by_ones_own_path(dom0: Peer, watcher: Peer) -> None:
    dom0.write("/a/b/c/d", "")
    quiet(watcher, "/a/b/c")
    quiet(watcher, "/a/b/nothing", "n")
    quiet(watcher, "/a", "top")
    dom0.rm("/a/b")
    assert sorted(watcher.take_events()) == [("/a/b", "top"), ("/a/b/c", "t")]


def test_relative_watches_hear_relative_paths(dom0: Peer, guest: Peer) -> None:
    quiet(guest, "device")
    dom0.write("/local/domain/1/device/vif/0/state", "1")
    guest.write("device/vbd", "")
    assert guest.take_events() == [("device/vif/0/state", "t"), ("device/vbd", "t")]
    quiet(guest, "/local/domain/1/x", "abs")
    guest.write("x", "")
    assert guest.take_events() == [("/local/domain/1/x", "abs")]


def test_depth_limits_how_far_below(dom0: Peer, watcher: Peer) -> None:
    quiet(watcher, "/a", "d0", "0")
    quiet(watcher, "/a", "d1", "1")
    quiet(watcher, "/", "r1", "1")
    dom0.write("/a", "")
    dom0.write("/a/b", "")
    dom0.write("/a/b/c", "")
    assert watcher.take_events() == [("/a", "r1"), ("/a", "d0"), ("/a", "d1"), ("/a/b", "d1")]


def test_unwatch(dom0: Peer, watcher: Peer) -> None:
    quiet(watcher, "/a", "one")
    quiet(watcher, "/a", "two")
    assert watcher.watch("/a", "one") == "EEXIST"
    assert watcher.unwatch("/a", "one") == OK
    assert watcher.unwatch("/a", "one") == "ENOENT"
    assert watcher.unwatch("/b", "two") == "ENOENT"
    dom0.write("/a", "")
    assert watcher.take_events() == [("/a", "two")]


def test_reset_watches(dom0: Peer, watcher: Peer, store: Xenstore) -> None:
    quiet(watcher, "/a")
    assert watcher.send(xs_wire.XS_RESET_WATCHES) == OK
    dom0.write("/a", "")
    assert watcher.take_events() == []
    assert len(store.watches) == 0


def test_transactions_are_heard_of_when_committed(dom0: Peer, watcher: Peer) -> None:
    quiet(watcher, "/")
    tx = dom0.start()
    dom0.write("/x", "1", tx)
    dom0.rm("/y", tx)
    dom0.write("/z/w", "1", tx)
    assert watcher.take_events() == []
    dom0.end(tx)
    assert watcher.take_events() == [("/x", "t"), ("/z/w", "t")]
    tx = dom0.start()
    dom0.write("/x", "2", tx)
    dom0.end(tx, commit=False)
    assert watcher.take_events() == []


def test_a_replayed_transaction_is_heard_of_too(dom0: Peer, watcher: Peer) -> None:
    quiet(watcher, "/x")
    tx = dom0.start()
    dom0.write("/x", "1", tx)
    watcher.write("/y", "")
    assert dom0.end(tx) == OK
    assert watcher.take_events() == [("/x", "t")]


# -- permissions ----------------------------------------------------------------------------------
def test_unreadable_changes_are_not_heard_of(dom0: Peer, guest: Peer) -> None:
    quiet(guest, "/top", "top")
    dom0.write("/top/secret", "")
    dom0.rm("/top/secret")
    assert guest.take_events() == []
    dom0.write("/top/open", "")
    dom0.set_perms("/top/open", "n0", "r1")
    dom0.write("/top/open", "v")
    assert guest.take_events() == [("/top/open", "top")]


def test_removal_of_a_readable_node_is_heard_of(dom0: Peer, guest: Peer) -> None:
    dom0.write("/top/open", "")
    dom0.set_perms("/top/open", "n0", "r1")
    quiet(guest, "/top/open")
    dom0.rm("/top")
    assert guest.take_events() == [("/top/open", "t")]


def test_loss_of_the_right_to_read_is_heard_of(dom0: Peer, guest: Peer) -> None:
    dom0.write("/top", "")
    dom0.set_perms("/top", "n0", "r1")
    quiet(guest, "/top")
    dom0.set_perms("/top", "n0")
    dom0.write("/top", "secret")
    assert guest.take_events() == [("/top", "t")]


def test_a_readable_parent_is_enough(dom0: Peer, guest: Peer) -> None:
    dom0.write("/top", "")
    dom0.set_perms("/top", "r0")
    quiet(guest, "/top")
    dom0.write("/top/x", "")
    dom0.set_perms("/top/x", "n0")
    guest.take_events()
    dom0.write("/top/x", "hidden")
    assert guest.take_events() == [("/top/x", "t")]


# -- special watches ------------------------------------------------
def test_domains_coming_and_going(store: Xenstore, watcher: Peer) -> None:
    quiet(watcher, "@introduceDomain", "in")
    quiet(watcher, "@releaseDomain", "out")
    store.introduce(5, 1, 1)
    store.introduce(5, 1, 2)  # anew: not told of
    store.introduce(6, 1, 1)
    assert watcher.take_events() == [("@introduceDomain", "in")] * 2
    store.shut_down(5)
    store.shut_down(5)
    assert watcher.take_events() == [("@releaseDomain", "out")]
    store.resume(5)
    store.shut_down(5)
    store.release(5)
    store.release(5)
    store.shut_down(77)
    assert watcher.take_events() == [("@releaseDomain", "out")] * 2


def test_special_watches_by_domain(store: Xenstore, watcher: Peer) -> None:
    quiet(watcher, "@releaseDomain", "d", "1")
    quiet(watcher, "@introduceDomain", "i", "1")
    quiet(watcher, "@releaseDomain/6", "six")
    store.introduce(5, 1, 1)
    store.introduce(6, 1, 1)
    store.release(5)
    store.release(6)
    assert watcher.take_events() == [
        ("@introduceDomain/5", "i"),
        ("@introduceDomain/6", "i"),
        ("@releaseDomain/5", "d"),
        ("@releaseDomain/6", "d"),
        ("@releaseDomain/6", "six"),
    ]


def test_guests_hear_of_domains_only_if_they_may(store: Xenstore, dom0: Peer, guest: Peer) -> None:
    quiet(guest, "@releaseDomain")
    store.introduce(5, 1, 1)
    store.release(5)
    assert guest.take_events() == []
    dom0.set_perms("@releaseDomain", "n0", "r1")
    guest.take_events()
    store.introduce(5, 1, 1)
    store.release(5)
    assert guest.take_events() == [("@releaseDomain", "t")]


def test_the_nodes_that_go_with_a_domain_are_heard_of(store: Xenstore, watcher: Peer) -> None:
    guest = introduced(store, 1)
    guest.write("device/vif/0/state", "1")
    quiet(watcher, "/local/domain/1/device/vif/0/state")
    quiet(watcher, "/local/domain", "home")
    store.release(1)
    assert watcher.take_events() == [
        ("/local/domain/1", "home"),
        ("/local/domain/1/device/vif/0/state", "t"),
    ]


# -- limits -------------------------------------------------------------------------------------
def test_events_too_long_for_the_protocol_are_not_sent(dom0: Peer) -> None:
    token = "t" * 3000
    quiet(dom0, "/a", token)
    assert dom0.write("/a/" + "b" * 1500, "") == OK
    assert dom0.take_events() == []


def test_a_guest_that_reads_nothing_loses_events(store: Xenstore, dom0: Peer) -> None:
    store.quota.memory = 100_000
    guest = introduced(store, 1)
    quiet(guest, "x", "t" * 100)
    for i in range(2000):
        dom0.write(f"/local/domain/1/x/{i}", "")
    assert guest.connection.output_bytes <= 130_000
    assert guest.connection.overflowed
    assert 0 < len(guest.take_events()) < 2000


def test_callbacks_of_transports_run_at_the_end_of_a_request(store: Xenstore, dom0: Peer) -> None:
    watcher, reader = Peer(store), Peer(store)
    seen: list[object] = []
    quiet(watcher, "/a")
    watcher.connection.notify = lambda: seen.append(reader.read("/a"))
    dom0.write("/a", "now")
    assert seen == [b"now"]


def test_a_failing_callback_leaves_the_store_in_order(store: Xenstore, dom0: Peer) -> None:
    watcher = Peer(store)
    quiet(watcher, "/a")

    def fail() -> None:
        raise RuntimeError("a bug of ours")

    watcher.connection.notify = fail
    with pytest.raises(RuntimeError):
        store.process(dom0.connection, wire.Message(xs_wire.XS_WRITE, 1, 0, b"/a\0v"))
    watcher.connection.notify = None
    dom0.drain()
    assert dom0.write("/a", "w") == OK


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda n: "/" + "/".join(n))


@settings(max_examples=100, deadline=None)
@given(
    watched=st.lists(NAMES, min_size=1, max_size=6, unique=True),
    steps=st.lists(st.tuples(st.sampled_from(["write", "mkdir", "rm"]), NAMES), max_size=20),
)
def test_against_a_model(watched: list[str], steps: list[tuple[str, str]]) -> None:
    store = Xenstore()
    dom0, watcher = Peer(store), Peer(store)
    for path in watched:
        quiet(watcher, path, path)
    watcher.take_events()
    nodes: set[str] = set()

    def below(path: str, top: str) -> bool:
        return path == top or path.startswith(top + "/")

    for op, path in steps:
        existed = path in nodes
        gone = {n for n in nodes if below(n, path)}
        answer = getattr(dom0, op)(path)
        expected: set[tuple[str, str]] = set()
        if op == "rm":
            nodes -= gone
            if existed:
                expected = {(path, w) for w in watched if below(path, w)}
                expected |= {(w, w) for w in watched if w in gone and w != path}
        else:
            parts = path.split("/")[1:]
            nodes |= {"/" + "/".join(parts[: i + 1]) for i in range(len(parts))}
            if op == "write" or not existed:
                expected = {(path, w) for w in watched if below(path, w)}
        assert answer in (OK, "ENOENT")
        assert set(watcher.take_events()) == expected

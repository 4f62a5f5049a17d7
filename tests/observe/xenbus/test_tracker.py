# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tracker makes of a store's requests: real back ends, and front ends played by tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.scene import Guest, scene
from xenograft.abi.io import xs_wire
from xenograft.observe.log import Subject, listeners
from xenograft.observe.xenbus.report import report
from xenograft.observe.xenbus.tracker import View, XenbusTracker
from xenograft.store.client import StoreClient
from xenograft.toolstack.config.p9 import P9
from xenograft.toolstack.devices.p9 import p9_record


@pytest.fixture
def guest() -> Iterator[Guest]:
    with scene() as one:
        yield one.guest()


@pytest.fixture
def tracker(guest: Guest) -> Iterator[XenbusTracker]:
    one = XenbusTracker(lambda domid: domid in guest.scene.xen.domains)
    with guest.scene.xen.instruments.listening(one):
        yield one


def attach(guest: Guest, folder: Path) -> str:
    record = p9_record(P9("share", str(folder)), 0, guest.domid)
    guest.attach(record)
    return record.frontend_path


def test_a_stuck_device(guest: Guest, tracker: XenbusTracker, tmp_path: Path) -> None:
    path = attach(guest, tmp_path)
    guest.write(path, version=1, num_rings=1)
    (device,) = tracker.devices()
    assert device.name == "9pfs/0"
    assert device.front is not None
    assert device.back is not None
    assert (device.front.state, device.back.state) == ("Initialising", "InitWait")
    assert device.next == (
        "front end: set up its rings, then write Initialised (missing: ring-ref0, event-channel-0)"
    )
    now = guest.scene.xen.clock.now() + 2_500_000_000
    text = report(tracker.view(now))
    assert "d1 Initialising for 2.500 s" in text
    assert "0 violations" in text


def test_the_timeline_has_the_writes(guest: Guest, tracker: XenbusTracker, tmp_path: Path) -> None:
    path = attach(guest, tmp_path)
    with guest.store.transaction() as tx:
        tx.write(f"{path}/state", "6")
        tx.write(f"{path}/note", "before the state, whatever the order")
    changes = [(one.end, one.old, one.new, one.by) for one in tracker.changes]
    assert changes == [
        ("back", "Unknown", "Initialising", 0),
        ("front", "Unknown", "Initialising", 0),
        ("back", "Initialising", "InitWait", 0),
        ("front", "Initialising", "Closed", guest.domid),
        ("back", "InitWait", "Closed", 0),
    ]
    assert {name for name, _value, _by in tracker.changes[2].writes} == {
        "versions",
        "max-rings",
        "max-ring-page-order",
    }
    note = ("note", "before the state, whatever the order", guest.domid)
    assert tracker.changes[3].writes == (note,)


def test_who_wrote_what_is_told(guest: Guest, tracker: XenbusTracker, tmp_path: Path) -> None:
    """The toolstack's hand in a front end's directory isn't taken for the front end's."""
    path = attach(guest, tmp_path)
    guest.scene.client.write(f"{path}/meddled", "1")
    guest.store.write(f"{path}/state", "4")
    text = report(tracker.view(0))
    assert "front end: Initialising -> Connected (meddled=1 by d0)\n" in text
    guest.scene.client.write(f"{path}/version", "x")
    assert "VIOLATION: " in report(tracker.view(0)).splitlines()[-3]
    guest.scene.client.write(f"{path}/state", "6")
    assert "front end: Connected -> Closed by d0 (version=x)\n" in report(tracker.view(0))


def test_an_aborted_transaction_did_nothing(
    guest: Guest, tracker: XenbusTracker, tmp_path: Path
) -> None:
    path = attach(guest, tmp_path)
    before = len(tracker.changes)

    def change_mind() -> None:
        with guest.store.transaction() as tx:
            tx.write(f"{path}/state", "3")
            raise KeyError

    with pytest.raises(KeyError):
        change_mind()
    other = StoreClient(guest.scene.services.store)
    guest.store.request(xs_wire.XS_TRANSACTION_START, b"\0")
    with other.transaction() as tx:
        tx.write("/x", "same number, another client")
    assert len(tracker.changes) == before
    assert tracker.violations == tracker.violations.__class__([], tracker.violations.maxlen)


def test_violations_are_named(guest: Guest, tracker: XenbusTracker, tmp_path: Path) -> None:
    path = attach(guest, tmp_path)
    guest.write(path, ring_ref0="abc")
    guest.write(path, state=3)
    texts = [(one.end, one.by, one.text) for one in tracker.violations]
    assert texts == [
        ("front", guest.domid, "ring-ref0 is 'abc', not a number"),
        ("front", guest.domid, "Initialised without version, num-rings, event-channel-0"),
    ]
    (device,) = tracker.devices()
    assert device.back is not None
    assert (device.back.state, device.back.error is not None) == ("Closing", True)
    text = report(tracker.view(0))
    assert "VIOLATION: Initialised without version" in text
    assert "9pfs/0: d0 says: -22 " in text
    assert "2 violations" in text


def test_relative_paths_are_the_guests(
    guest: Guest, tracker: XenbusTracker, tmp_path: Path
) -> None:
    attach(guest, tmp_path)
    guest.store.write("device/9pfs/0/state", "6")
    assert tracker.changes[-2].new == "Closed"


def test_devices_go(guest: Guest, tracker: XenbusTracker, tmp_path: Path) -> None:
    attach(guest, tmp_path)
    guest.devices.remove("9pfs", 0)
    assert tracker.devices() == []
    # The front end's directory goes first; the back end says Closed before its own does.
    assert [(one.end, one.new) for one in tracker.changes][-3:] == [
        ("front", "removed"),
        ("back", "Closed"),
        ("back", "removed"),
    ]
    assert "no devices" in report(tracker.view(0))


def test_a_tracker_that_comes_late(guest: Guest, tmp_path: Path) -> None:
    attach(guest, tmp_path)
    tracker = XenbusTracker()
    tracker.scan(guest.scene.client)
    (device,) = tracker.devices(guest.domid)
    assert device.front is not None
    assert device.back is not None
    assert (device.front.state, device.back.state) == ("Initialising", "InitWait")
    assert device.back.since is None
    assert "d0 InitWait  " in report(tracker.view(5))
    assert tracker.devices(99) == []


def test_a_view_is_plain_data(guest: Guest, tracker: XenbusTracker, tmp_path: Path) -> None:
    path = attach(guest, tmp_path)
    guest.write(path, state=3)
    view = tracker.view(7)
    again = msgspec.json.decode(msgspec.json.encode(view), type=View)
    assert again == view
    assert report(again) == report(view)
    assert tracker.view(7, 99) == View(7, (), (), ())


def test_a_front_end_alone(guest: Guest, tracker: XenbusTracker, tmp_path: Path) -> None:
    attach(guest, tmp_path)
    guest.scene.client.rm(f"/local/domain/0/backend/9pfs/{guest.domid}")
    (device,) = tracker.devices()
    assert device.back is None
    assert device.next.startswith("toolstack: make the back end's directory")
    assert "not there" in report(tracker.view(0))


def test_nobody_listens_at_no_cost(guest: Guest) -> None:
    store = guest.scene.services.store
    assert store.on_request is None
    with guest.scene.xen.instruments.listening(XenbusTracker()):
        assert store.on_request is not None
    assert store.on_request is None


def test_log_lines(guest: Guest, tmp_path: Path) -> None:
    lines: list[str] = []
    xen = guest.scene.xen
    subjects = [Subject.parse("xenbus=9pfs/*"), Subject.parse("xenstore=*/state")]
    for listener in listeners(xen, subjects, lines.append):
        xen.instruments.add(listener)
    path = attach(guest, tmp_path)
    guest.write(path, state=6)
    text = "\n".join(lines)
    assert "d1 9pfs/0 front end: Initialising -> Closed" in text
    assert f'XS_WRITE("{path}/state", "6") = "OK"' in text
    assert "in transaction" in text
    # A filter for another device lets nothing through.
    quiet: list[str] = []
    (other,) = listeners(xen, [Subject.parse("xenbus=vbd/1")], quiet.append)
    with xen.instruments.listening(other):
        guest.write(path, state=1)
    assert quiet == []


OPERATIONS = st.sampled_from([xs_wire.XS_WRITE, xs_wire.XS_RM, xs_wire.XS_TRANSACTION_END])
PATHS = st.sampled_from(
    [
        b"device/vbd/1",
        b"device/vbd/1/state",
        b"device/vbd/1/ring-ref",
        b"/local/domain/0/backend/vbd/1/1/state",
        b"/local/domain/0/backend/vbd/1/1/frontend",
        b"/local/domain/0/error/backend/vbd/1/1/error",
        b"/local/domain/1",
        b"/",
        b"@x",
    ]
)
VALUES = st.one_of(
    st.sampled_from([b"", b"1", b"4", b"99", b"/local/domain/1/device/vbd/1", b"T", b"F"]),
    st.binary(max_size=8),
)


@settings(deadline=None)
@given(st.lists(st.tuples(OPERATIONS, PATHS, VALUES, st.integers(0, 2)), max_size=40))
def test_any_requests(requests: list[tuple[int, bytes, bytes, int]]) -> None:
    tracker = XenbusTracker()
    for operation, path, value, tx_id in requests:
        tracker.xenstore_request(0, 1, operation, path + b"\0" + value, b"OK\0", tx_id)
    assert report(tracker.view(1))

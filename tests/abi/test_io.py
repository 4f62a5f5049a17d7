# SPDX-License-Identifier: GPL-2.0-or-later
"""Index arithmetic of shared rings, and names of the device protocols."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.io import console, ring, xenbus, xs_wire
from xenograft.abi.io.blkif import blkif_request, blkif_response
from xenograft.abi.io.netif import netif_rx_request, netif_tx_request
from xenograft.abi.io.xen_9pfs import xen_9pfs_data_intf, xen_9pfs_header

index = st.integers(0, 0xFFFFFFFF)


def test_ring_sizes_of_the_known_protocols() -> None:
    """32 block requests and 256 network requests fit a page, as every front end assumes."""
    entry = max(blkif_request.sizeof(), blkif_response.sizeof())
    assert ring.ring_size(4096, entry) == 32
    assert ring.ring_size(4096, netif_tx_request.sizeof()) == 256
    assert ring.ring_size(4096, netif_rx_request.sizeof()) == 256
    assert ring.ring_size(64, 8) == 0


def test_slots() -> None:
    assert ring.slot_offset(0, 32, 112) == 64
    assert ring.slot_offset(33, 32, 112) == 64 + 112


@given(index, st.integers(0, 256))
def test_unconsumed_wraps(consumer: int, waiting: int) -> None:
    producer = (consumer + waiting) & 0xFFFFFFFF
    assert ring.unconsumed(producer, consumer) == waiting
    assert ring.free_requests(256, producer, consumer) == 256 - waiting
    assert not ring.request_producer_overflow(producer, consumer, 256)
    assert ring.request_consumer_overflow(producer, consumer, 256) == (waiting == 256)


@given(index)
def test_overflow(consumer: int) -> None:
    assert ring.request_producer_overflow((consumer + 257) & 0xFFFFFFFF, consumer, 256)
    assert ring.response_producer_overflow((consumer - 1) & 0xFFFFFFFF, consumer, 256)
    assert not ring.response_producer_overflow((consumer + 256) & 0xFFFFFFFF, consumer, 256)


@given(index, st.integers(1, 64), st.integers(-100, 100))
def test_notify_when_the_event_index_is_passed(old: int, step: int, event: int) -> None:
    new = (old + step) & 0xFFFFFFFF
    wanted = (old + event) & 0xFFFFFFFF
    # The event index is passed if it's one of old + 1 .. new.
    assert ring.must_notify(new, old, wanted) == (1 <= event <= step)


@given(st.integers(0, 6), index, st.data())
def test_flex_ring(order: int, consumer: int, data: st.DataObject) -> None:
    size = ring.flex_ring_size(order)
    assert size == (4096 << order) // 2
    waiting = data.draw(st.integers(0, size))
    producer = (consumer + waiting) & 0xFFFFFFFF
    assert ring.flex_queued(producer, consumer, size) == waiting


def test_masks() -> None:
    assert console.MASK_XENCONS_IDX(2049, 2048) == 1
    assert xs_wire.MASK_XENSTORE_IDX(1025) == 1


def test_xenstore_names() -> None:
    assert xs_wire.XS_NAMES[xs_wire.XS_READ] == "XS_READ"
    assert xs_wire.XS_NAMES[0] == "XS_CONTROL"
    message = xs_wire.xsd_sockmsg(type=xs_wire.XS_WATCH_EVENT, len=4)
    assert repr(message) == "xsd_sockmsg(type=XS_WATCH_EVENT, req_id=0, tx_id=0, len=4)"


def test_xenbus_states() -> None:
    assert xenbus.XenbusStateConnected == 4
    assert str(int(xenbus.XenbusState.Closed)) == "6"


def test_9pfs() -> None:
    assert xen_9pfs_header.sizeof() == 7
    assert xen_9pfs_data_intf.offsetof("out_cons") == 64
    assert xen_9pfs_data_intf.offsetof("ring_order") == 128

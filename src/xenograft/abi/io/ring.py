# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/ring.h: the page that split drivers share, and its index arithmetic.

A shared ring begins with a 64-byte header (`sring`); requests and responses, both of the size
of the larger one, share the slots that follow.  Indices run freely modulo 2**32.
"""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, octets, u32

SRING_HEADER_SIZE = 64
XEN_PAGE_SHIFT = 12
_MASK = 0xFFFFFFFF


class sring(Struct):
    """Producer indices, and how far each side wants to sleep; the slots follow."""

    req_prod: u32
    req_event: u32
    rsp_prod: u32
    rsp_event: u32
    pvt_pad: Annotated[bytes, octets(4)]
    pad: Annotated[bytes, octets(44)]


class flex_ring_interface(Struct):
    """xen_flex_ring's header page (9pfs, pvcalls); `ring_order` and the grants follow pads."""

    in_cons: u32
    in_prod: u32
    pad1: Annotated[bytes, octets(56)]
    out_cons: u32
    out_prod: u32
    pad2: Annotated[bytes, octets(56)]
    ring_order: u32


def ring_size(page_bytes: int, entry_bytes: int) -> int:
    """Slots of a ring: the largest power of two that fits."""
    room = (page_bytes - SRING_HEADER_SIZE) // entry_bytes
    return 1 << room.bit_length() - 1 if room > 0 else 0


def slot_offset(index: int, slots: int, entry_bytes: int) -> int:
    """Byte offset in the page of the slot for `index`."""
    return SRING_HEADER_SIZE + (index & slots - 1) * entry_bytes


def unconsumed(producer: int, consumer: int) -> int:
    """How many entries lie between the two indices."""
    return producer - consumer & _MASK


def free_requests(slots: int, req_prod_pvt: int, rsp_cons: int) -> int:
    """RING_FREE_REQUESTS: slots that a front end may still fill."""
    return slots - unconsumed(req_prod_pvt, rsp_cons)


def must_notify(new: int, old: int, event: int) -> bool:
    """RING_PUSH_*_AND_CHECK_NOTIFY: whether the step from `old` to `new` passes `event`."""
    return (new - event & _MASK) < (new - old & _MASK)


def request_producer_overflow(producer: int, rsp_prod_pvt: int, slots: int) -> bool:
    """RING_REQUEST_PROD_OVERFLOW: a front end claims more requests than there are slots."""
    return unconsumed(producer, rsp_prod_pvt) > slots


def request_consumer_overflow(consumer: int, rsp_prod_pvt: int, slots: int) -> bool:
    """RING_REQUEST_CONS_OVERFLOW: no slot is left for the next response."""
    return unconsumed(consumer, rsp_prod_pvt) >= slots


def response_producer_overflow(producer: int, rsp_cons: int, slots: int) -> bool:
    """RING_RESPONSE_PROD_OVERFLOW: a back end claims more responses than there are slots."""
    return unconsumed(producer, rsp_cons) > slots


def flex_ring_size(order: int) -> int:
    """XEN_FLEX_RING_SIZE: bytes of each half of 2**order pages."""
    return 1 << order + XEN_PAGE_SHIFT - 1


def flex_queued(producer: int, consumer: int, size: int) -> int:
    """Bytes that wait in a flexible ring; a full one looks different from an empty one."""
    if producer == consumer:
        return 0
    producer &= size - 1
    consumer &= size - 1
    if producer == consumer:
        return size
    return producer - consumer if producer > consumer else size - (consumer - producer)

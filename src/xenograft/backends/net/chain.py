# SPDX-License-Identifier: GPL-2.0-or-later
"""The slots of the transmit ring that make up one packet (public/io/netif.h, "Guest transmit").

Pure: slots as they lay in the ring in, packets' descriptions out.  Nothing a slot says is used
before it's checked here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from xenograft.abi.io.netif import (
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_MAX,
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_EXTRA_TYPE_NONE,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    XEN_NETIF_NR_SLOTS_MIN,
    NETTXF_extra_info,
    NETTXF_more_data,
    netif_extra_info,
    netif_tx_request,
)
from xenograft.backends.net.headers import ETH_HLEN
from xenograft.engine.protocol import PAGE_SIZE

_REQUEST = struct.Struct("<IHHHH")
"""netif_tx_request: gref, offset, flags, id, size.  There are too many for its class."""
assert _REQUEST.size == netif_tx_request.sizeof()

SLOTS_MAX = XEN_NETIF_NR_SLOTS_MIN
"""Slots with data that a packet may have: what front ends may count on (XEN_NETIF_NR_SLOTS_MIN)."""


@dataclass(slots=True)
class Part:
    """Bytes of a packet in a granted page."""

    gref: int
    offset: int
    size: int


@dataclass(slots=True)
class Chain:
    """One packet's slots."""

    ids: list[int | None] = field(default_factory=list)
    """For each slot taken, the identifier to answer with; None for extras."""
    requests: list[Part] = field(default_factory=list)
    """Those with data; the sizes are what each one holds."""
    flags: int = 0
    """NETTXF_* of the packet."""
    size: int = 0
    """Bytes of the packet."""
    gso_type: int = 0
    gso_size: int = 0
    multicast_add: bytes | None = None
    multicast_del: bytes | None = None
    error: str | None = None
    """What's wrong with it; then nothing but `ids` may be used."""


def next_chain(slots: Sequence[bytes], start: int = 0) -> tuple[Chain, int] | None:
    """The packet that begins at `slots[start]`, and where the next one begins.

    None if its end isn't among the slots.  A packet that makes no sense has an `error`, and
    still ends where its flags say.
    """
    chain = Chain()
    at = start
    gref, offset, flags, ident, size = _REQUEST.unpack(slots[at])
    chain.ids.append(ident)
    chain.requests.append(Part(gref, offset, size))
    chain.flags = flags
    chain.size = size
    at += 1
    if flags & NETTXF_extra_info:
        more = True
        while more:
            if at >= len(slots):
                return None
            more = _extra(chain, netif_extra_info.unpack(slots[at][:8]))
            chain.ids.append(None)
            at += 1
    while flags & NETTXF_more_data:
        if at >= len(slots):
            return None
        gref, offset, flags, ident, size = _REQUEST.unpack(slots[at])
        chain.ids.append(ident)
        chain.requests.append(Part(gref, offset, size))
        at += 1
    chain.error = chain.error or _check(chain)
    return chain, at


def _extra(chain: Chain, extra: netif_extra_info) -> bool:
    """Note an extra slot; returns whether another one follows."""
    kind = extra.type
    if kind == XEN_NETIF_EXTRA_TYPE_GSO:
        gso = extra.u.gso
        if gso.type not in (XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6):
            chain.error = f"GSO type {gso.type}"
        elif not gso.size:
            chain.error = "GSO size 0"
        chain.gso_type, chain.gso_size = gso.type, gso.size
    elif kind == XEN_NETIF_EXTRA_TYPE_MCAST_ADD:
        chain.multicast_add = bytes(extra.u.mcast.addr)
    elif kind == XEN_NETIF_EXTRA_TYPE_MCAST_DEL:
        chain.multicast_del = bytes(extra.u.mcast.addr)
    elif kind == XEN_NETIF_EXTRA_TYPE_NONE or kind >= XEN_NETIF_EXTRA_TYPE_MAX:
        chain.error = f"extra info of type {kind}"
    # The others are of use to nobody here: a sender's hash, since each receiver has its own key,
    # and its headroom for XDP programs, which is about its own pages.
    return bool(extra.flags & XEN_NETIF_EXTRA_FLAG_MORE)


def _check(chain: Chain) -> str | None:
    """What's wrong with the sizes, if anything; sets that of the first slot to its own."""
    if chain.multicast_add is not None or chain.multicast_del is not None:
        return None
    if len(chain.requests) > SLOTS_MAX:
        return f"{len(chain.requests)} slots, more than {SLOTS_MAX}"
    if chain.size < ETH_HLEN:
        return f"{chain.size} bytes are no Ethernet frame"
    first = chain.requests[0]
    rest = sum(request.size for request in chain.requests[1:])
    if rest > chain.size:
        return f"parts of {rest} bytes in a packet of {chain.size}"
    first.size = chain.size - rest
    for request in chain.requests:
        if request.offset + request.size > PAGE_SIZE:
            return f"{request.size} bytes at {request.offset} cross the page's border"
    return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""A queue of a network interface: its transmit and its receive ring."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol

from xenograft.abi.io.netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_HASH,
    XEN_NETIF_EXTRA_TYPE_XDP,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_gso_prefix,
    NETRXF_more_data,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    _netif_extra_info_u,
    _netif_extra_info_u_gso,
    _netif_extra_info_u_hash,
    _netif_extra_info_u_xdp,
    netif_extra_info,
    netif_rx_request,
    netif_rx_response,
    netif_tx_request,
    netif_tx_response,
)
from xenograft.backends.net.chain import Chain, next_chain
from xenograft.backends.net.control import PacketHash
from xenograft.backends.net.packet import BadPacket, Packet, check_gso
from xenograft.backends.ring import BackRing, RingError
from xenograft.engine.protocol import PAGE_SIZE, Granted
from xenograft.hypervisor.grants.status import GrantError

TX_ENTRY_SIZE = max(netif_tx_request.sizeof(), netif_tx_response.sizeof())
RX_REQUEST_SIZE = netif_rx_request.sizeof()
RX_ENTRY_SIZE = max(netif_rx_request.sizeof(), netif_rx_response.sizeof())

HEADROOM_MAX = 2048
"""Bytes that a front end may have left free in its pages; Linux asks for 256."""

RX_QUEUE_BYTES = 8 << 20
RX_QUEUE_PACKETS = 4096
"""What may wait for room in the receive ring; more is dropped, as on any full link."""

# What each packet needs several of; the structures' own classes take their time.
_tx_response = struct.Struct("<Hh").pack
_rx_request = struct.Struct("<HxxI").unpack
_rx_response = struct.Struct("<HHHh").pack
_part = struct.Struct("=IHH").pack
"""A part of a page as `MachineMemory.exchange` has it."""

_NULL = _tx_response(0, NETIF_RSP_NULL)
assert netif_tx_response(id=7, status=-1).pack() == _tx_response(7, -1)
assert netif_rx_response(id=7, offset=6, flags=5, status=-1).pack() == _rx_response(7, 6, 5, -1)


@lru_cache(16)
def _gso_extra(kind: int, size: int) -> bytes:
    """The one extra slot of a packet that stands for several segments."""
    gso = _netif_extra_info_u(gso=_netif_extra_info_u_gso(size=size, type=kind))
    return netif_extra_info(type=XEN_NETIF_EXTRA_TYPE_GSO, flags=0, u=gso).pack()


def _flags(packet: Packet, extras: list[bytes]) -> int:
    """What the first response of a packet says of it."""
    flags = NETRXF_extra_info if extras else 0
    if packet.csum_blank:
        return flags | NETRXF_csum_blank | NETRXF_data_validated
    return flags | NETRXF_data_validated if packet.validated else flags


class Grants(Protocol):
    """Copies from and to pages of the front end's.  Raise GrantError and IndexError."""

    def copy_all_from(self, parts: bytes, /) -> bytes | None: ...
    def copy_all_to(self, parts: bytes, data: bytes, /) -> bool: ...
    def copy_from(self, ref: int, offset: int, size: int, /) -> bytes: ...
    def copy_to(self, ref: int, offset: int, data: bytes, /) -> None: ...
    def describe(self) -> Granted | None: ...


Put = Callable[[int, int, Granted, int, int, bytes, bytes], int]
"""`_core.netif_put` for the pages of one ring."""


class TxRing:
    """Packets from the guest.

    `send` is called with each one, `multicast` with an address and whether it's to be added;
    the latter answers whether there was room.  What a guest gets wrong is answered with an
    error, and told to `complain`.
    """

    def __init__(
        self,
        ring: BackRing,
        grants: Grants,
        *,
        send: Callable[[Packet], None],
        multicast: Callable[[bytes, bool], bool],
        complain: Callable[[str], None],
        notify: Callable[[], None],
    ) -> None:
        self.ring = ring
        self._grants = grants
        self._send = send
        self._multicast = multicast
        self._complain = complain
        self._notify = notify
        self._slots: list[bytes] = []

    def serve(self, limit: int = 1 << 16) -> int:
        """Take up to about `limit` requests and answer them; returns the bytes that were sent.

        Raises RingError.
        """
        sent = 0
        self._slots += self.ring.take(limit)
        at, slots = 0, self._slots
        while at < len(slots):
            got = next_chain(slots, at)
            if got is None:
                if self.ring.waiting() and limit:
                    break
                # A front end shows packets as a whole: the rest of this one will never come.
                self._complain("a packet without its end")
                idents = [netif_tx_request.unpack(slot).id for slot in slots[at:]]
                self.ring.respond_all([_tx_response(one, NETIF_RSP_ERROR) for one in idents])
                at = len(slots)
                break
            chain, at = got
            sent += self._packet(chain)
        self._slots = slots[at:]
        if self.ring.push():
            self._notify()
        return sent

    def _packet(self, chain: Chain) -> int:
        status, sent = NETIF_RSP_OKAY, 0
        try:
            if chain.error is not None:
                raise BadPacket(chain.error)
            if chain.multicast_add is not None or chain.multicast_del is not None:
                if chain.multicast_del is not None:
                    self._multicast(chain.multicast_del, False)
                added = chain.multicast_add is None or self._multicast(chain.multicast_add, True)
                status = NETIF_RSP_OKAY if added else NETIF_RSP_ERROR
            else:
                packet = self._read(chain)
                sent = len(packet.data)
                self._send(packet)
        except (BadPacket, GrantError, IndexError) as error:
            self._complain(str(error))
            status = NETIF_RSP_ERROR
        self.ring.respond_all(
            [_NULL if ident is None else _tx_response(ident, status) for ident in chain.ids]
        )
        return sent

    def _read(self, chain: Chain) -> Packet:
        used = [one for one in chain.requests if one.size]
        data = self._grants.copy_all_from(
            b"".join([_part(one.gref, one.offset, one.size) for one in used])
        )
        if data is None:
            copy = self._grants.copy_from
            data = b"".join([copy(one.gref, one.offset, one.size) for one in used])
        packet = Packet(
            data,
            bool(chain.flags & NETTXF_csum_blank) or bool(chain.gso_size),
            bool(chain.flags & (NETTXF_data_validated | NETTXF_csum_blank)),
            chain.gso_type,
            chain.gso_size,
        )
        if packet.gso_size:
            check_gso(packet)
        return packet


class RxFeatures(NamedTuple):
    """What the front end can take."""

    sg: bool = False
    csum_v4: bool = True
    csum_v6: bool = False
    gso_types: frozenset[int] = frozenset()
    gso_prefix_types: frozenset[int] = frozenset()
    headroom: int = 0
    """Bytes left free at the start of each packet, for XDP programs."""


class RxRing:
    """Packets for the guest, which wait here until the ring has room for them."""

    def __init__(
        self,
        ring: BackRing,
        grants: Grants,
        features: RxFeatures,
        *,
        complain: Callable[[str], None],
        notify: Callable[[], None],
        put: Put | None = None,
    ) -> None:
        """`put` brings a packet into plain pages, where the native core can do so."""
        self.ring = ring
        self.features = features
        self._native = put
        self._grants = grants
        self._complain = complain
        self._notify = notify
        self._waiting: deque[tuple[Packet, PacketHash | None]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Packets that wait."""
        return len(self._waiting)

    def queue(self, packet: Packet, hashed: PacketHash | None = None) -> bool:
        """Take a packet, in a form that the front end can take; False if there's no room."""
        size = len(packet.data)
        full = self._bytes + size > RX_QUEUE_BYTES or len(self._waiting) >= RX_QUEUE_PACKETS
        alone = not self.features.sg and size + self.features.headroom > PAGE_SIZE
        if full or alone:
            return False
        self._waiting.append((packet, hashed))
        self._bytes += size
        return True

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self._bytes = 0

    def flush(self) -> None:
        """Put into the ring what it has room for.  Raises RingError."""
        ring = self.ring
        while self._waiting:
            packet, hashed = self._waiting[0]
            extras = self._extras(packet, hashed)
            count = self._slots(packet, extras)
            if not ring.await_requests(count):
                break
            self._waiting.popleft()
            self._bytes -= len(packet.data)
            if self._put_natively(packet, extras):
                continue
            slots = ring.take(count)
            if len(slots) < count:
                raise RingError("receive requests were taken back")
            self._put(packet, slots, extras)
        if ring.push():
            self._notify()

    def _is_prefixed(self, packet: Packet) -> bool:
        return bool(packet.gso_size) and packet.gso_type in self.features.gso_prefix_types

    def _slots(self, packet: Packet, extras: list[bytes]) -> int:
        data = -(-(len(packet.data) + self.features.headroom) // PAGE_SIZE)
        return data + len(extras) + self._is_prefixed(packet)

    def _put_natively(self, packet: Packet, extras: list[bytes]) -> bool:
        """Take the slots and `_put` in one call, if packet and pages are plain; False: nothing."""
        ring, put = self.ring, self._native
        if put is None or ring.watched or self._is_prefixed(packet):
            return False
        granted = self._grants.describe()
        if granted is None:
            return False
        used = put(
            ring.req_cons,
            ring.rsp_prod_pvt,
            granted,
            self.features.headroom,
            _flags(packet, extras),
            b"".join(extras),
            packet.data,
        )
        ring.answered(used)
        return used > 0

    def _put(self, packet: Packet, slots: list[bytes], extras: list[bytes]) -> None:
        """A packet into as many slots as it needs."""
        data, headroom = packet.data, self.features.headroom
        requests = [_rx_request(slot[:RX_REQUEST_SIZE]) for slot in slots]
        answers: list[bytes] = []
        if self._is_prefixed(packet):
            prefix = _rx_response(
                requests.pop(0)[0],
                packet.gso_size,
                NETRXF_gso_prefix | NETRXF_more_data,
                NETIF_RSP_OKAY,
            )
            answers.append(prefix)
        # The slots behind the first are used up by extras; their identifiers aren't told.
        del requests[1 : 1 + len(extras)]
        idents, grefs = zip(*requests, strict=True)
        first = min(len(data), PAGE_SIZE - headroom)
        full, last = divmod(len(data) - first, PAGE_SIZE)
        sizes = [first, *[PAGE_SIZE] * full, *([last] if last else [])]
        offsets = [headroom, *[0] * (len(sizes) - 1)]
        parts = b"".join(map(_part, grefs, offsets, sizes))
        if self._grants.copy_all_to(parts, data):
            statuses = sizes
        else:
            ends = list(accumulate(sizes))
            statuses = [
                self._copy(gref, offset, data[end - size : end])
                for gref, offset, size, end in zip(grefs, offsets, sizes, ends, strict=True)
            ]
        flags = [*[NETRXF_more_data] * (len(sizes) - 1), 0]
        flags[0] |= _flags(packet, extras)
        responses = list(map(_rx_response, idents, offsets, flags, statuses))
        self.ring.respond_all([*answers, responses[0], *extras, *responses[1:]])

    def _copy(self, gref: int, offset: int, part: bytes) -> int:
        """Copy into one page; returns the status."""
        try:
            self._grants.copy_to(gref, offset, part)
        except (GrantError, IndexError) as error:
            self._complain(f"receive buffer: {error}")
            return NETIF_RSP_ERROR
        return len(part)

    def _extras(self, packet: Packet, hashed: PacketHash | None) -> list[bytes]:
        """The extra slots of a packet, each but the last with XEN_NETIF_EXTRA_FLAG_MORE."""
        if not self.features.headroom and hashed is None:
            plain = packet.gso_size and not self._is_prefixed(packet)
            return [_gso_extra(packet.gso_type, packet.gso_size)] if plain else []
        found: list[tuple[int, _netif_extra_info_u]] = []
        if packet.gso_size and not self._is_prefixed(packet):
            gso = _netif_extra_info_u_gso(size=packet.gso_size, type=packet.gso_type)
            found.append((XEN_NETIF_EXTRA_TYPE_GSO, _netif_extra_info_u(gso=gso)))
        if self.features.headroom:
            xdp = _netif_extra_info_u_xdp(headroom=self.features.headroom)
            found.append((XEN_NETIF_EXTRA_TYPE_XDP, _netif_extra_info_u(xdp=xdp)))
        if hashed is not None:
            value = _netif_extra_info_u_hash(
                type=hashed.type.bit_length() - 1,
                algorithm=hashed.algorithm,
                value=hashed.value.to_bytes(4, "little"),
            )
            found.append((XEN_NETIF_EXTRA_TYPE_HASH, _netif_extra_info_u(hash=value)))
        last = len(found) - 1
        return [
            netif_extra_info(
                type=kind, flags=XEN_NETIF_EXTRA_FLAG_MORE if index < last else 0, u=what
            ).pack()
            for index, (kind, what) in enumerate(found)
        ]

# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end's side of a 9pfs ring (public/io/9pfs.h): two streams of bytes, one each way.

The interface page holds the indices and the grants of the data pages; their first half carries
answers, the second requests.  Our own indices are kept here and only written to the page; a
front end's index, whatever it is, means at most a full ring.
"""

from __future__ import annotations

import msgspec

from xenograft.abi.io.ring import flex_queued, flex_ring_size
from xenograft.abi.io.xen_9pfs import xen_9pfs_data_intf
from xenograft.backends.ring import RingError, SharedPages
from xenograft.backends.xen_9pfs.protocol import HEADER_SIZE, header

_MASK = 0xFFFFFFFF
_at = xen_9pfs_data_intf.offsetof
_IN_CONS, _IN_PROD = _at("in_cons"), _at("in_prod")
_OUT_CONS, _OUT_PROD = _at("out_cons"), _at("out_prod")
_ORDER = _at("ring_order")
_REFS = xen_9pfs_data_intf.sizeof()


class FlexRingState(msgspec.Struct, frozen=True):
    """The indices that are ours."""

    out_cons: int
    in_prod: int


def read_order(interface: SharedPages, limit: int) -> int:
    """How many data pages there are, as a power of two.  Raises RingError beyond 1 to `limit`."""
    order = interface.read_u32(_ORDER)
    if not 1 <= order <= limit:
        raise RingError(f"ring_order {order}; it can be 1 to {limit}")
    return order


def read_refs(interface: SharedPages, order: int) -> list[int]:
    """The grants of the data pages."""
    data = interface.read(_REFS, 4 << order)
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


class FlexRing:
    """Messages from and to one front end.  `data` are the pages of both halves."""

    def __init__(self, interface: SharedPages, data: SharedPages, order: int) -> None:
        self._interface = interface
        self._data = data
        self.size = flex_ring_size(order)
        """Bytes of each half; no message is longer."""
        # Whoever was here before us has left its indices in the page.
        self._out_cons = interface.read_u32(_OUT_CONS)
        self._in_prod = interface.read_u32(_IN_PROD)

    def take(self) -> bytes | None:
        """The next request, if all of it is there.  Raises RingError for an impossible one."""
        queued = flex_queued(self._interface.read_u32(_OUT_PROD), self._out_cons, self.size)
        if queued < HEADER_SIZE:
            return None
        size = header(self._read(HEADER_SIZE)).size
        if not HEADER_SIZE <= size <= self.size:
            raise RingError(f"a message of {size} bytes in a ring of {self.size}")
        if queued < size:
            return None
        message = self._read(size)
        # The front end may have changed it since: this copy is what counts.
        message = size.to_bytes(4, "little") + message[4:]
        self._out_cons = self._out_cons + size & _MASK
        self._interface.write_u32(_OUT_CONS, self._out_cons)
        return message

    def _read(self, size: int) -> bytes:
        start = self._out_cons & self.size - 1
        first = min(size, self.size - start)
        data = self._data.read(self.size + start, first)
        return data if first == size else data + self._data.read(self.size, size - first)

    def put(self, message: bytes) -> bool:
        """Add an answer; False if there's no room for all of it now."""
        queued = flex_queued(self._in_prod, self._interface.read_u32(_IN_CONS), self.size)
        if len(message) > self.size - queued:
            return False
        start = self._in_prod & self.size - 1
        first = min(len(message), self.size - start)
        self._data.write(start, message[:first])
        if first < len(message):
            self._data.write(0, message[first:])
        # A front end that sees the index sees a whole message behind it.
        self._in_prod = self._in_prod + len(message) & _MASK
        self._interface.write_u32(_IN_PROD, self._in_prod)
        return True

    def save(self) -> FlexRingState:
        return FlexRingState(self._out_cons, self._in_prod)

    def restore(self, state: FlexRingState) -> None:
        self._out_cons, self._in_prod = state.out_cons, state.in_prod

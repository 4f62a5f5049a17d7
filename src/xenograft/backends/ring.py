# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end's side of a split driver's shared ring (public/io/ring.h).

The ring's pages belong to a guest that may write anything into them at any time.  So nothing is
believed twice: indices of our own are kept here and only ever written to the page, the front
end's are checked against the size of the ring each time they are read, and an entry is copied
out before anybody looks at it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from xenograft.abi.io.ring import SRING_HEADER_SIZE, must_notify, ring_size, sring
from xenograft.engine.protocol import PAGE_SIZE

if TYPE_CHECKING:
    from xenograft.backends.tap import RingTap

_MASK = 0xFFFFFFFF
_REQ_PROD = sring.offsetof("req_prod")
_REQ_EVENT = sring.offsetof("req_event")
_RSP_PROD = sring.offsetof("rsp_prod")
_RSP_EVENT = sring.offsetof("rsp_event")


class PageMemory(Protocol):
    """The part of `engine.protocol.MachineMemory` that shared pages need."""

    def read(self, maddr: int, size: int, /) -> bytes: ...
    def write(self, maddr: int, data: bytes, /) -> None: ...
    def read_u32(self, maddr: int, /) -> int: ...
    def write_u32(self, maddr: int, value: int, /) -> None: ...


class RingError(Exception):
    """The front end has broken the ring's protocol: nothing in the ring can be believed."""


class SharedPages:
    """Pages that lie side by side for the front end, wherever their frames are.

    `maddrs` are the machine addresses of the pages, in order.  Accesses beyond them raise
    IndexError.
    """

    __slots__ = ("_maddrs", "memory", "size")

    def __init__(self, memory: PageMemory, maddrs: Sequence[int]) -> None:
        self.memory = memory
        self._maddrs = tuple(maddrs)
        self.size = len(self._maddrs) * PAGE_SIZE

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise IndexError(f"bytes {offset} (+{size}) are outside the shared pages")

    @property
    def packed(self) -> bytes:
        """The machine addresses, 64 bits each: for the native core."""
        return struct.pack(f"={len(self._maddrs)}Q", *self._maddrs)

    def read(self, offset: int, size: int) -> bytes:
        self._check(offset, size)
        at = offset % PAGE_SIZE
        if at + size <= PAGE_SIZE and size:
            return self.memory.read(self._maddrs[offset // PAGE_SIZE] + at, size)
        parts = []
        while size:
            at = offset % PAGE_SIZE
            part = min(size, PAGE_SIZE - at)
            parts.append(self.memory.read(self._maddrs[offset // PAGE_SIZE] + at, part))
            offset += part
            size -= part
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        done = 0
        while done < len(data):
            at = offset % PAGE_SIZE
            part = data[done : done + PAGE_SIZE - at]
            self.memory.write(self._maddrs[offset // PAGE_SIZE] + at, part)
            offset += len(part)
            done += len(part)

    def address(self, offset: int) -> int:
        """The machine address of a byte.  Raises IndexError beyond the pages."""
        self._check(offset, 1)
        return self._maddrs[offset // PAGE_SIZE] + offset % PAGE_SIZE

    def read_u32(self, offset: int) -> int:
        """An aligned word."""
        self._check(offset, 4)
        return self.memory.read_u32(self._maddrs[offset // PAGE_SIZE] + offset % PAGE_SIZE)

    def write_u32(self, offset: int, value: int) -> None:
        self._check(offset, 4)
        self.memory.write_u32(self._maddrs[offset // PAGE_SIZE] + offset % PAGE_SIZE, value)


class RingState(msgspec.Struct, frozen=True):
    """What `BackRing.save` keeps; the rest is in the pages."""

    req_cons: int
    rsp_prod_pvt: int
    rsp_prod: int


class BackRing:
    """A ring of slots that requests come in by and responses go out by.

    `entry_size` is that of the larger of request and response, in the front end's layout.  The
    indices go on where the page's `rsp_prod` says (BACK_RING_ATTACH).  Raises RingError if the
    front end claims more requests than there are slots.
    """

    __slots__ = (
        "_entry",
        "_memory",
        "_pages",
        "_req_event_at",
        "_req_prod_at",
        "_rsp_event_at",
        "_rsp_prod",
        "_rsp_prod_at",
        "req_cons",
        "rsp_prod_pvt",
        "slots",
        "tap",
    )

    def __init__(self, pages: SharedPages, entry_size: int) -> None:
        self._pages = pages
        self._entry = entry_size
        self.slots = ring_size(pages.size, entry_size)
        # The indices are looked at all the time, and always in the same places.
        self._memory = pages.memory
        self._req_prod_at = pages.address(_REQ_PROD)
        self._req_event_at = pages.address(_REQ_EVENT)
        self._rsp_prod_at = pages.address(_RSP_PROD)
        self._rsp_event_at = pages.address(_RSP_EVENT)
        start = pages.read_u32(_RSP_PROD)
        self.req_cons = start
        """Requests taken (free-running)."""
        self.rsp_prod_pvt = start
        """Responses written, those not yet shown among them (free-running)."""
        self._rsp_prod = start
        self.tap: RingTap | None = None
        """Who sees what passes."""
        self.waiting()

    def waiting(self) -> int:
        """How many requests can be taken.  Raises RingError for an impossible producer index."""
        producer = self._memory.read_u32(self._req_prod_at)
        if producer - self.rsp_prod_pvt & _MASK > self.slots:
            raise RingError(
                f"req_prod {producer:#x} is more than {self.slots} ahead of"
                f" rsp_prod {self.rsp_prod_pvt:#x}"
            )
        count = producer - self.req_cons & _MASK
        # The index went backwards, behind what was taken already.
        if count > self.slots:
            raise RingError(f"req_prod {producer:#x} is behind req_cons {self.req_cons:#x}")
        return count

    def unchecked_waiting(self) -> int:
        """How many requests the front end claims to have put in: any number of 32 bits."""
        return self._memory.read_u32(self._req_prod_at) - self.req_cons & _MASK

    @property
    def outstanding(self) -> int:
        """Requests that were taken and have had no response."""
        return self.req_cons - self.rsp_prod_pvt & _MASK

    def take(self, limit: int = 1 << 16, size: int | None = None) -> list[bytes]:
        """Copies of up to `limit` new requests, each of `size` bytes (default: a whole slot).

        Raises RingError.
        """
        count = min(self.waiting(), limit)
        entry, slots, pages = self._entry, self.slots, self._pages
        size = entry if size is None else size
        taken: list[bytes] = []
        while count:
            first = self.req_cons & slots - 1
            run = min(count, slots - first)
            data = pages.read(SRING_HEADER_SIZE + first * entry, run * entry)
            taken += [data[at : at + size] for at in range(0, run * entry, entry)]
            self.req_cons = self.req_cons + run & _MASK
            count -= run
        if self.tap is not None:
            self.tap.requests(taken)
        return taken

    @property
    def watched(self) -> bool:
        """Whether somebody listens to what passes, so that each slot must come by here."""
        return self.tap is not None and self.tap.active

    def answered(self, count: int) -> None:
        """So many requests, the next ones, have been taken and answered by others."""
        self.req_cons = self.req_cons + count & _MASK
        self.rsp_prod_pvt = self.rsp_prod_pvt + count & _MASK

    def respond(self, data: bytes) -> None:
        """Put a response into the next slot; the front end sees it after `push`.

        Raises ValueError if there was no request for it.
        """
        if not self.outstanding:
            raise ValueError("a response without a request")
        slot = self.rsp_prod_pvt & self.slots - 1
        self._pages.write(SRING_HEADER_SIZE + slot * self._entry, data[: self._entry])
        if self.tap is not None:
            self.tap.responses((data,))
        self.rsp_prod_pvt = self.rsp_prod_pvt + 1 & _MASK

    def respond_all(self, slots: list[bytes]) -> None:
        """The same for several, each of them a whole slot at most.  Raises ValueError."""
        if len(slots) > self.outstanding:
            raise ValueError("more responses than requests")
        entry, at = self._entry, self.rsp_prod_pvt & self.slots - 1
        data = b"".join(slots)
        if len(data) < len(slots) * entry:
            data = b"".join([slot.ljust(entry, b"\0") for slot in slots])
        room = (self.slots - at) * entry
        self._pages.write(SRING_HEADER_SIZE + at * entry, data[:room])
        if len(data) > room:
            self._pages.write(SRING_HEADER_SIZE, data[room:])
        if self.tap is not None:
            self.tap.responses(slots)
        self.rsp_prod_pvt = self.rsp_prod_pvt + len(slots) & _MASK

    def push(self) -> bool:
        """Show the responses; returns whether the front end wants to be notified."""
        old, new = self._rsp_prod, self.rsp_prod_pvt
        if old == new:
            return False
        self._rsp_prod = new
        self._memory.write_u32(self._rsp_prod_at, new)
        return must_notify(new, old, self._memory.read_u32(self._rsp_event_at))

    def final_check(self) -> bool:
        """Ask to be notified of the next request; True if one is there already.

        Raises RingError.
        """
        if self.waiting():
            return True
        self._memory.write_u32(self._req_event_at, self.req_cons + 1 & _MASK)
        return self.waiting() > 0

    def await_requests(self, count: int) -> bool:
        """Ask to be notified once `count` requests wait; True if they do already.

        Raises RingError.
        """
        if self.waiting() >= count:
            return True
        self._memory.write_u32(self._req_event_at, self.req_cons + count & _MASK)
        return self.waiting() >= count

    def save(self) -> RingState:
        return RingState(self.req_cons, self.rsp_prod_pvt, self._rsp_prod)

    def restore(self, state: RingState) -> None:
        self.req_cons = state.req_cons
        self.rsp_prod_pvt = state.rsp_prod_pvt
        self._rsp_prod = state.rsp_prod

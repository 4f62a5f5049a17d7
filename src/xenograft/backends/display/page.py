# SPDX-License-Identifier: GPL-2.0-or-later
"""The page that vfb and vkbd share with their front end: two rings of events of 40 bytes.

fbif.h and kbdif.h have the same layout but for the sizes of the rings.  The front end's index
means at most a full ring, whatever it is; ours are kept here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.io.kbdif import xenkbd_page

if TYPE_CHECKING:
    from xenograft.backends.ring import SharedPages
    from xenograft.backends.xenbus.device import XenbusDevice
    from xenograft.backends.xenbus.host import ForeignPage, MappedPages

EVENT_SIZE = 40
MAX_WAITING = 4096
"""Events that wait for room; more are refused."""

_MASK = 0xFFFFFFFF
_at = xenkbd_page.offsetof
_IN_CONS, _IN_PROD = _at("in_cons"), _at("in_prod")
_OUT_CONS, _OUT_PROD = _at("out_cons"), _at("out_prod")


def map_page(device: XenbusDevice) -> MappedPages | ForeignPage:
    """The front end's page: by its grant, or as older front ends name it, by its gfn."""
    if device.read_frontend("page-gref") is not None:
        return device.host.map_pages(device.domid, [device.frontend_number("page-gref")])
    return device.host.map_foreign(device.domid, device.frontend_number("page-ref", limit=1 << 52))


class EventPageState(msgspec.Struct, frozen=True):
    """Indices that are ours, and events that wait for room."""

    in_prod: int
    out_cons: int
    waiting: tuple[bytes, ...]


class EventPage:
    """Both rings.  `in_ring` and `out_ring`: (offset in the page, number of slots)."""

    def __init__(
        self, page: SharedPages, in_ring: tuple[int, int], out_ring: tuple[int, int]
    ) -> None:
        self._page = page
        self._in_offset, self._in_slots = in_ring
        self._out_offset, self._out_slots = out_ring
        self._in_prod = page.read_u32(_IN_PROD)
        self._out_cons = page.read_u32(_OUT_CONS)
        self._waiting: deque[bytes] = deque()

    def __len__(self) -> int:
        """Events that wait for room."""
        return len(self._waiting)

    def send(self, event: bytes) -> bool:
        """Queue an event for the front end; False if too many wait already."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(event.ljust(EVENT_SIZE, b"\0"))
        return True

    def flush(self) -> bool:
        """Put events into the ring as far as there's room; whether there were any."""
        page, put = self._page, False
        while self._waiting:
            used = self._in_prod - page.read_u32(_IN_CONS) & _MASK
            if used >= self._in_slots:
                break
            slot = self._in_offset + self._in_prod % self._in_slots * EVENT_SIZE
            page.write(slot, self._waiting.popleft())
            self._in_prod = self._in_prod + 1 & _MASK
            page.write_u32(_IN_PROD, self._in_prod)
            put = True
        return put

    def take(self) -> list[bytes]:
        """The front end's events."""
        page, events = self._page, []
        producer = page.read_u32(_OUT_PROD)
        if producer - self._out_cons & _MASK > self._out_slots:
            # It can't be: what the ring holds now is all that there is to believe.
            self._out_cons = producer - self._out_slots & _MASK
        while self._out_cons != producer:
            slot = self._out_offset + self._out_cons % self._out_slots * EVENT_SIZE
            events.append(page.read(slot, EVENT_SIZE))
            self._out_cons = self._out_cons + 1 & _MASK
        page.write_u32(_OUT_CONS, self._out_cons)
        return events

    def save(self) -> EventPageState:
        return EventPageState(self._in_prod, self._out_cons, tuple(self._waiting))

    def restore(self, state: EventPageState) -> None:
        self._in_prod, self._out_cons = state.in_prod, state.out_cons
        self._waiting = deque(state.waiting)

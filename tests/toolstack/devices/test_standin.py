# SPDX-License-Identifier: GPL-2.0-or-later
"""The ledger of a ring whose back end may die: it knows what is owed, whatever the order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.io.blkif import BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY
from xenograft.abi.io.ring import SRING_HEADER_SIZE, ring_size, sring
from xenograft.backends.block.protocol import LAYOUTS, Layout, Request, pack_segments
from xenograft.backends.ring import BackRing, SharedPages
from xenograft.engine.fake_memory import FakeMemory
from xenograft.toolstack.devices.standin import RingLedger

PAGE = 0x3000


class Front:
    """A front end: puts requests into the ring, takes answers out."""

    def __init__(self, pages: SharedPages, layout: Layout) -> None:
        self.pages, self.layout = pages, layout
        self.slots = ring_size(pages.size, layout.slot_size)
        self.produced = self.consumed = 0
        self.free = list(range(self.slots))
        self.waiting: dict[int, int] = {}

    def put(self, operation: int) -> bool:
        if not self.free:
            return False
        ident = self.free.pop()
        data = self.layout.request(Request(ident, operation, 0, pack_segments(((1, 0, 7),))))
        at = SRING_HEADER_SIZE + self.produced % self.slots * self.layout.slot_size
        self.pages.write(at, data)
        self.produced += 1
        self.pages.write_u32(sring.offsetof("req_prod"), self.produced)
        self.waiting[ident] = operation
        return True

    def take(self) -> None:
        while self.consumed != self.pages.read_u32(sring.offsetof("rsp_prod")):
            at = SRING_HEADER_SIZE + self.consumed % self.slots * self.layout.slot_size
            ident, operation = self.layout.identify(self.pages.read(at, self.layout.request_size))
            del operation
            ident = int.from_bytes(self.pages.read(at, 8), "little")
            self.consumed += 1
            del self.waiting[ident]
            self.free.append(ident)


@pytest.mark.parametrize("bits", [32, 64])
@given(data=st.data())
def test_the_ledger_is_what_the_front_end_waits_for(bits: int, data: st.DataObject) -> None:
    layout = LAYOUTS[bits]
    pages = SharedPages(FakeMemory(16), [PAGE])
    front, back = Front(pages, layout), BackRing(pages, layout.slot_size)
    ledger = RingLedger(pages, layout)
    held: list[bytes] = []
    chance = random.Random(data.draw(st.integers(0, 1 << 32)))
    for _ in range(data.draw(st.integers(1, 60))):
        front.take()
        for _ in range(chance.randrange(6)):
            front.put(chance.choice((BLKIF_OP_READ, BLKIF_OP_WRITE)))
        ledger.look()
        held += back.take()
        # Answers come in any order.
        chance.shuffle(held)
        for _ in range(chance.randrange(len(held) + 1)):
            ident, operation = layout.identify(held.pop())
            back.respond(layout.response(ident, operation, BLKIF_RSP_OKAY))
        back.push()
        ledger.look()
        owed = dict(layout.identify(one) for one in held)
        assert ledger.outstanding == owed
    assert not ledger.broken


def test_a_front_end_that_breaks_the_ring_has_no_ledger() -> None:
    layout = LAYOUTS[64]
    pages = SharedPages(FakeMemory(16), [PAGE])
    front, ledger = Front(pages, layout), RingLedger(pages, layout)
    front.put(BLKIF_OP_READ)
    ledger.look()
    assert ledger.outstanding
    pages.write_u32(sring.offsetof("req_prod"), 1000)
    ledger.look()
    assert ledger.broken
    assert not ledger.outstanding
    pages.write_u32(sring.offsetof("req_prod"), 1)
    ledger.look()
    assert not ledger.outstanding

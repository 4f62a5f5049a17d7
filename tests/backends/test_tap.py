# SPDX-License-Identifier: GPL-2.0-or-later
"""Ring traffic as lines, while somebody listens."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.scene import Scene, scene
from xenograft.abi.io.blkif import BLKIF_OP_DISCARD, BLKIF_OP_READ, BLKIF_OP_WRITE
from xenograft.abi.io.ring import SRING_HEADER_SIZE, sring
from xenograft.backends.block.protocol import LAYOUTS, Request, pack_segments
from xenograft.backends.block.show import request_shower, response_shower
from xenograft.backends.net.show import RxResponses, TxRequests, rx_request, tx_response
from xenograft.backends.ring import BackRing, SharedPages
from xenograft.backends.tap import RingTap
from xenograft.observe.log import Subject, listeners
from xenograft.toolstack.config.display import Vkb
from xenograft.toolstack.devices.display import vkb_record


@pytest.fixture
def world() -> Iterator[Scene]:
    with scene() as one:
        yield one


def test_a_ring_is_tapped_while_somebody_listens(world: Scene) -> None:
    guest = world.guest()
    device = guest.attach(vkb_record(Vkb(), 0, guest.domid))
    page = guest.page()
    guest.xen.space.write(page << 12, bytes(4096))
    mfn, _ = guest.xen.p2m.lookup(page)
    ring = BackRing(SharedPages(world.xen.memory, [mfn << 12]), 16)
    ring.tap = RingTap(device, "tx", lambda slot: slot[:2].decode(), lambda slot: slot.decode())
    lines: list[str] = []

    def serve(data: bytes) -> None:
        index = ring.req_cons
        guest.xen.space.write((page << 12) + SRING_HEADER_SIZE + index % ring.slots * 16, data)
        guest.write_u32(page, sring.offsetof("req_prod"), index + 1)
        assert ring.take() == [data.ljust(16, b"\0")]
        ring.respond(b"done")

    serve(b"a1")
    for listener in listeners(world.xen, [Subject.parse("rings=vkbd/*")], lines.append):
        world.xen.instruments.add(listener)
    serve(b"b2")
    assert lines == ["  0.000000 d1 vkbd/0 tx > b2", "  0.000000 d1 vkbd/0 tx < done"]


@pytest.mark.parametrize("bits", [32, 64])
def test_block(bits: int) -> None:
    layout = LAYOUTS[bits]
    show = request_shower(layout)
    read = Request(5, BLKIF_OP_READ, 2048, pack_segments(((12, 0, 7), (13, 0, 3))))
    assert show(layout.request(read)) == "READ id=0x5 sector=2048 segments=[12:0-7, 13:0-3]"
    indirect = Request(6, BLKIF_OP_WRITE, 0, b"", 20, (9,))
    assert show(layout.request(indirect)) == "WRITE id=0x6 sector=0 segments=20 in [9]"
    discard = Request(7, BLKIF_OP_DISCARD, 8, nr_sectors=16)
    assert show(layout.request(discard)) == "DISCARD id=0x7 sector=8 sectors=16"
    bad = bytes([99]) + layout.request(read)[1:]
    assert show(bad) == "99 id=0x5 (operation 99)"
    answer = response_shower(layout)
    assert answer(layout.response(5, BLKIF_OP_READ, 0)) == "READ id=0x5 OKAY"
    assert answer(layout.response(5, BLKIF_OP_READ, -1)) == "READ id=0x5 ERROR"


def test_net() -> None:
    show = TxRequests()
    with_extra = struct.pack("<IHHHH", 9, 66, 8 | 1, 3, 1514)
    assert show(with_extra) == "gref=9 offset=66 size=1514 flags=csum_blank|extra_info id=3"
    extra = struct.pack("<BBHBBH", 1, 0, 1448, 1, 0, 0).ljust(12, b"\0")
    assert show(extra).startswith("extra type=1 ")
    plain = struct.pack("<IHHHH", 9, 0, 0, 4, 60)
    assert show(plain) == "gref=9 offset=0 size=60 flags=0 id=4"
    assert tx_response(struct.pack("<Hh", 4, -1)) == "id=4 ERROR"
    assert rx_request(struct.pack("<HHI", 7, 0, 30)) == "gref=30 id=7"
    responses = RxResponses()
    assert responses(struct.pack("<HHHh", 7, 0, 1, 60)) == (
        "id=7 offset=0 size=60 flags=data_validated"
    )
    assert responses(struct.pack("<HHHh", 7, 0, 0, -1)) == "id=7 offset=0 ERROR flags=0"


@settings(deadline=None)
@given(st.lists(st.binary(min_size=112, max_size=112), max_size=8))
def test_any_slot_can_be_shown(slots: list[bytes]) -> None:
    showers = [TxRequests(), RxResponses(), tx_response, rx_request]
    for layout in LAYOUTS.values():
        showers += [request_shower(layout), response_shower(layout)]
    for shower in showers:
        for slot in slots:
            assert "\n" not in shower(slot)

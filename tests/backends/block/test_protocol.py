# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests and responses in both layouts."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.io.blkif import blkif_request, blkif_request_segment
from xenograft.backends.block.protocol import (
    LAYOUTS,
    MAX_INDIRECT_SEGMENTS,
    SEGMENTS_PER_PAGE,
    BadRequest,
    Request,
    check_range,
    layout_of,
    pack_segments,
    parse_segments,
    transfer_size,
)

U64 = st.integers(0, (1 << 64) - 1)
SEGMENT = st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 255), st.integers(0, 255))
LAYOUT = st.sampled_from([LAYOUTS[32], LAYOUTS[64]])


def test_sizes_are_those_of_the_header() -> None:
    """sizeof(struct blkif_request) and blkif_response, as compilers lay them out."""
    assert (LAYOUTS[32].slot_size, LAYOUTS[64].slot_size) == (108, 112)
    assert (len(LAYOUTS[32].response(1, 2, 3)), len(LAYOUTS[64].response(1, 2, 3))) == (12, 16)


def test_names_of_layouts() -> None:
    assert layout_of(None) is layout_of("x86_64-abi") is LAYOUTS[64]
    assert layout_of("x86_32-abi") is LAYOUTS[32]
    assert layout_of("arm-abi") is None
    assert layout_of("vax-abi") is None


@given(
    LAYOUT,
    U64,
    st.sampled_from([0, 1]),
    U64,
    st.lists(SEGMENT, min_size=1, max_size=11).map(tuple),
)
def test_transfers(
    layout: object, ident: int, operation: int, sector: int, segments: tuple[tuple[int, int, int]]
) -> None:
    assert isinstance(layout, type(LAYOUTS[64]))
    request = Request(ident, operation, sector, pack_segments(segments))
    data = layout.request(request)
    assert len(data) == layout.slot_size
    assert layout.parse(data) == request
    assert layout.parse(data).segments == segments
    assert layout.identify(data) == (ident, operation)
    # The same as the structure that abi declares.
    shown = blkif_request.unpack(data[: layout.request_size], layout.bits)
    assert (shown.operation, shown.id, shown.sector_number) == (operation, ident, sector)
    assert shown.nr_segments == len(segments)
    assert [(one.gref, one.first_sect, one.last_sect) for one in shown.seg[: len(segments)]] == [
        *segments
    ]


@given(LAYOUT, U64, st.sampled_from([0, 1]), U64, st.integers(1, MAX_INDIRECT_SEGMENTS), st.data())
def test_indirect(
    layout: object, ident: int, operation: int, sector: int, count: int, data: st.DataObject
) -> None:
    assert isinstance(layout, type(LAYOUTS[64]))
    pages = -(-count // SEGMENTS_PER_PAGE)
    refs = tuple(data.draw(st.lists(st.integers(1, 1 << 31), min_size=pages, max_size=pages)))
    request = Request(ident, operation, sector, b"", count, refs)
    assert layout.parse(layout.request(request)) == request
    # Answers name what was done: Linux's front end gives up a disk that says INDIRECT.
    assert layout.identify(layout.request(request)) == (ident, operation)


@given(LAYOUT, U64, U64, U64)
def test_discards(layout: object, ident: int, sector: int, count: int) -> None:
    assert isinstance(layout, type(LAYOUTS[64]))
    request = Request(ident, 5, sector, nr_sectors=count)
    assert layout.parse(layout.request(request)) == request


@given(LAYOUT, st.binary(min_size=112, max_size=112))
def test_any_bytes(layout: object, data: bytes) -> None:
    assert isinstance(layout, type(LAYOUTS[64]))
    try:
        request = layout.parse(data[: layout.request_size])
    except BadRequest as bad:
        assert bad.status in (-1, -2)  # noqa: PT017
        return
    assert (request.id, request.operation) == layout.identify(data)
    assert len(request.segments) <= 11
    assert request.nr_segments <= MAX_INDIRECT_SEGMENTS
    assert len(request.indirect) == -(-request.nr_segments // SEGMENTS_PER_PAGE)


@pytest.mark.parametrize("bits", [32, 64])
def test_responses(bits: int) -> None:
    data = LAYOUTS[bits].response(0xFFFF_FFFF_FFFF_FFFE, 5, -2)
    assert struct.unpack("<QBxh", data[:12]) == (0xFFFF_FFFF_FFFF_FFFE, 5, -2)
    assert not any(data[12:])


@given(st.lists(SEGMENT, max_size=512).map(tuple))
def test_segments(segments: tuple[tuple[int, int, int], ...]) -> None:
    packed = pack_segments(segments)
    assert len(packed) == len(segments) * blkif_request_segment.sizeof()
    assert parse_segments(packed) == segments


@given(st.lists(SEGMENT, min_size=1, max_size=20).map(tuple))
def test_size_of_transfers(segments: tuple[tuple[int, int, int], ...]) -> None:
    good = all(first <= last <= 7 for _, first, last in segments)
    if good:
        assert transfer_size(segments) == 512 * sum(last - first + 1 for _, first, last in segments)
    else:
        with pytest.raises(BadRequest, match="of a page"):
            transfer_size(segments)


@given(U64, st.integers(0, 1 << 64), st.integers(0, 1 << 60))
def test_ranges(sector: int, count: int, sectors: int) -> None:
    if sector + count <= sectors:
        check_range(sector, count, sectors)
    else:
        with pytest.raises(BadRequest):
            check_range(sector, count, sectors)

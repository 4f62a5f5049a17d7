# SPDX-License-Identifier: GPL-2.0-or-later
"""blkif requests, out of the layouts that front ends use (public/io/blkif.h): pure.

A request is checked here for all that can be told from itself and the size of the disk; whether
its grants are any good shows when they are mapped.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from xenograft.abi.io import protocols
from xenograft.abi.io.blkif import (
    BLKIF_DISCARD_SECURE,
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST,
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    blkif_request,
    blkif_request_discard,
    blkif_request_indirect,
    blkif_request_segment,
    blkif_response,
)
from xenograft.engine.protocol import PAGE_SIZE

SECTOR_SHIFT: Final = 9
SECTOR_SIZE: Final = 1 << SECTOR_SHIFT
SECTORS_PER_PAGE: Final = PAGE_SIZE >> SECTOR_SHIFT

MAX_INDIRECT_SEGMENTS: Final = 256
"""What `feature-max-indirect-segments` says, as in Linux's blkback."""

_SEGMENT = struct.Struct("<IBBxx")
assert _SEGMENT.size == blkif_request_segment.sizeof()
SEGMENT_SIZE: Final = _SEGMENT.size
SEGMENTS_PER_PAGE: Final = PAGE_SIZE // SEGMENT_SIZE

_READ_WRITE = (BLKIF_OP_READ, BLKIF_OP_WRITE)
_TRANSFERS = (*_READ_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE)

FLUSHES = (BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER)
FLUSH_FAILED: Final = -5
"""How a flush that failed is answered: blkif.h's BLKIF_RSP_ERROR stands for -EIO, and this is it.

Linux takes BLKIF_RSP_ERROR for an empty flush as a sign that the disk needs none, and reports
success; any other status is the I/O error that it is (drivers/block/xen-blkfront.c).
"""


def failure(operation: int) -> int:
    """The status that tells a front end that its request could not be done."""
    return FLUSH_FAILED if operation in FLUSHES else BLKIF_RSP_ERROR


Segment = tuple[int, int, int]
"""(grant reference, first sector, last sector) within a page."""


class BadRequest(Exception):
    """A request that can't be done: `status` (BLKIF_RSP_*) is the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Request(NamedTuple):
    """A request. `operation` is the one meant, and answered, where the request is indirect."""

    id: int
    operation: int
    sector: int
    packed: bytes = b""
    """The segments, as the front end has written them (see `pack_segments`)."""
    nr_segments: int = 0
    """Of an indirect request: how many are in the pages `indirect`."""
    indirect: tuple[int, ...] = ()
    nr_sectors: int = 0
    """Of a discard."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of a request that isn't indirect."""
        return parse_segments(self.packed)


class Layout:
    """Requests and responses as a front end of one ABI lays them out."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.request_size = blkif_request.sizeof(bits)
        response_size = blkif_response.sizeof(bits)
        self.slot_size = max(self.request_size, response_size)
        at = blkif_request.offsetof
        gap = at("id", bits) - 4
        self._header = struct.Struct(f"<BBH{gap}xQQ")
        self._segments = at("seg", bits)
        indirect = blkif_request_indirect.offsetof("indirect_grefs", bits)
        self._indirect = struct.Struct(f"<{indirect}x{BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST}I")
        self._nr_sectors = blkif_request_discard.offsetof("nr_sectors", bits)
        self._response = struct.Struct(f"<QBxh{response_size - 12}x")

    def identify(self, data: bytes) -> tuple[int, int]:
        """(id, operation) of a request, however wrong it is otherwise.

        Of an indirect one it's what is done: Linux disables a disk whose answers say INDIRECT.
        """
        operation, indirect, _, ident, _ = self._header.unpack_from(data)
        return ident, indirect if operation == BLKIF_OP_INDIRECT else operation

    def parse(self, data: bytes) -> Request:
        """A request from its slot. Raises BadRequest."""
        operation, count, handle, ident, sector = self._header.unpack_from(data)
        if operation in _TRANSFERS:
            if count > BLKIF_MAX_SEGMENTS_PER_REQUEST:
                raise BadRequest(BLKIF_RSP_ERROR, f"{count} segments")
            if not count and operation in _READ_WRITE:
                raise BadRequest(BLKIF_RSP_ERROR, "no segments")
            start = self._segments
            return Request(ident, operation, sector, data[start : start + count * SEGMENT_SIZE])
        if operation == BLKIF_OP_INDIRECT:
            # The byte of nr_segments says the operation, the handle's place how many there are.
            if count not in _READ_WRITE:
                raise BadRequest(BLKIF_RSP_ERROR, f"indirect operation {count}")
            if not 0 < handle <= MAX_INDIRECT_SEGMENTS:
                raise BadRequest(BLKIF_RSP_ERROR, f"{handle} indirect segments")
            pages = -(-handle // SEGMENTS_PER_PAGE)
            grefs = self._indirect.unpack_from(data)[:pages]
            return Request(ident, count, sector, b"", handle, grefs)
        if operation == BLKIF_OP_DISCARD:
            if count & BLKIF_DISCARD_SECURE:
                raise BadRequest(BLKIF_RSP_EOPNOTSUPP, "secure discard")
            (nr_sectors,) = struct.unpack_from("<Q", data, self._nr_sectors)
            return Request(ident, operation, sector, nr_sectors=nr_sectors)
        raise BadRequest(BLKIF_RSP_EOPNOTSUPP, f"operation {operation}")

    def response(self, ident: int, operation: int, status: int) -> bytes:
        """A response, padded to its size."""
        return self._response.pack(ident, operation, status)

    def request(self, request: Request) -> bytes:
        """A slot that holds a request: the front end's part, for tests and tools."""
        if request.indirect:
            data = bytearray(
                self._header.pack(
                    BLKIF_OP_INDIRECT,
                    request.operation,
                    request.nr_segments,
                    request.id,
                    request.sector,
                )
            )
            size = self._indirect.size
            data.extend(bytes(size - len(data)))
            at = size - 4 * BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST
            for index, ref in enumerate(request.indirect):
                struct.pack_into("<I", data, at + 4 * index, ref)
        else:
            data = bytearray(
                self._header.pack(
                    request.operation,
                    len(request.packed) // SEGMENT_SIZE,
                    0,
                    request.id,
                    request.sector,
                )
            )
            if request.operation == BLKIF_OP_DISCARD:
                data.extend(bytes(self._nr_sectors - len(data)))
                data += struct.pack("<Q", request.nr_sectors)
            else:
                data.extend(bytes(self._segments - len(data)))
                data += request.packed
        return bytes(data).ljust(self.slot_size, b"\0")


LAYOUTS: Final = {32: Layout(32), 64: Layout(64)}
"""By the `bits` of `xenograft.abi.struct`."""


def layout_of(protocol: str | None) -> Layout | None:
    """The layout of a `protocol` node (None: the native one); None if it's unknown."""
    if protocol is None:
        return LAYOUTS[64]
    bits = protocols.PROTOCOL_BITS.get(protocol)
    return None if bits is None else LAYOUTS[bits]


def parse_segments(data: bytes) -> tuple[Segment, ...]:
    """The segments of an indirect page, or of as much of it as is used."""
    return tuple(_SEGMENT.iter_unpack(data))


def pack_segments(segments: tuple[Segment, ...]) -> bytes:
    """The reverse of `parse_segments`."""
    return b"".join(_SEGMENT.pack(*segment) for segment in segments)


def transfer_size(segments: tuple[Segment, ...]) -> int:
    """Bytes of all segments.  Raises BadRequest if one isn't within its page."""
    sectors = 0
    for _, first, last in segments:
        if first > last or last >= SECTORS_PER_PAGE:
            raise BadRequest(BLKIF_RSP_ERROR, f"sectors {first} to {last} of a page")
        sectors += last - first + 1
    return sectors << SECTOR_SHIFT


def check_range(sector: int, nr_sectors: int, sectors: int) -> None:
    """Raises BadRequest if a range isn't within a disk of `sectors`."""
    if sector > sectors or nr_sectors > sectors - sector:
        raise BadRequest(BLKIF_RSP_ERROR, f"sectors {sector} (+{nr_sectors}) of {sectors}")

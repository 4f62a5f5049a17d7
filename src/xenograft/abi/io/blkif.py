# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/blkif.h: the block protocol's ring entries.

A ring slot is as large as the larger of `blkif_request` and `blkif_response`."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, array, grant_ref_t, i16, only, u8, u16, u64

# blkif_request.operation.
BLKIF_OP_READ = 0
BLKIF_OP_WRITE = 1
BLKIF_OP_WRITE_BARRIER = 2
BLKIF_OP_FLUSH_DISKCACHE = 3
BLKIF_OP_RESERVED_1 = 4
BLKIF_OP_DISCARD = 5
BLKIF_OP_INDIRECT = 6

# Limits.
BLKIF_MAX_SEGMENTS_PER_REQUEST = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST = 8

# blkif_request_discard.flag.
BLKIF_DISCARD_SECURE = 1 << 0

# blkif_response.status.
BLKIF_RSP_EOPNOTSUPP = -2
BLKIF_RSP_ERROR = -1
BLKIF_RSP_OKAY = 0

# The info node.
VDISK_CDROM = 1
VDISK_REMOVABLE = 2
VDISK_READONLY = 4


class blkif_request_segment(Struct):
    """Sectors (512 bytes, both ends included) of a granted page."""

    gref: grant_ref_t
    first_sect: u8
    last_sect: u8


class blkif_request(Struct):
    """Read, write, barrier or flush."""

    operation: u8
    nr_segments: u8
    handle: u16
    id: u64
    sector_number: u64
    seg: Annotated[list[blkif_request_segment], array(blkif_request_segment, 11)]


class blkif_request_discard(Struct):
    """BLKIF_OP_DISCARD."""

    operation: u8
    flag: u8
    handle: u16
    id: u64
    sector_number: u64
    nr_sectors: u64


class blkif_request_indirect(Struct):
    """BLKIF_OP_INDIRECT: the segments are in granted pages."""

    operation: u8
    indirect_op: u8
    nr_segments: u16
    id: u64
    sector_number: u64
    handle: u16
    indirect_grefs: Annotated[list[int], array(grant_ref_t, 8)]
    # i386 only: it makes the structure 64 bytes long.
    pad: Annotated[int, only(32, u64)]


class blkif_response(Struct):
    """The answer to a request."""

    id: u64
    operation: u8
    status: i16

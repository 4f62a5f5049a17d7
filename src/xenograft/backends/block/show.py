# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests and responses of blkif as lines for people."""

from __future__ import annotations

from collections.abc import Callable

from xenograft.abi.io import blkif
from xenograft.backends.block.protocol import BadRequest, Layout

OPERATIONS = {
    blkif.BLKIF_OP_READ: "READ",
    blkif.BLKIF_OP_WRITE: "WRITE",
    blkif.BLKIF_OP_WRITE_BARRIER: "WRITE_BARRIER",
    blkif.BLKIF_OP_FLUSH_DISKCACHE: "FLUSH_DISKCACHE",
    blkif.BLKIF_OP_DISCARD: "DISCARD",
    blkif.BLKIF_OP_INDIRECT: "INDIRECT",
}
_STATUS = {
    blkif.BLKIF_RSP_OKAY: "OKAY",
    blkif.BLKIF_RSP_ERROR: "ERROR",
    blkif.BLKIF_RSP_EOPNOTSUPP: "EOPNOTSUPP",
}


def request_shower(layout: Layout) -> Callable[[bytes], str]:
    """Shows a request's slot: ``READ id=0x5 sector=2048 segments=[12:0-7]``."""

    def show(slot: bytes) -> str:
        ident, operation = layout.identify(slot)
        try:
            request = layout.parse(slot)
        except BadRequest as bad:
            return f"{OPERATIONS.get(operation, operation)} id={ident:#x} ({bad})"
        words = [OPERATIONS[request.operation], f"id={ident:#x}", f"sector={request.sector}"]
        if request.indirect:
            words.append(f"segments={request.nr_segments} in {list(request.indirect)}")
        elif request.segments:
            parts = [f"{ref}:{first}-{last}" for ref, first, last in request.segments]
            words.append(f"segments=[{', '.join(parts)}]")
        if request.nr_sectors:
            words.append(f"sectors={request.nr_sectors}")
        return " ".join(words)

    return show


def response_shower(layout: Layout) -> Callable[[bytes], str]:
    """Shows a response's slot: ``READ id=0x5 OKAY``."""

    def show(slot: bytes) -> str:
        response = blkif.blkif_response.unpack(slot, layout.bits)
        name = OPERATIONS.get(response.operation, response.operation)
        return f"{name} id={response.id:#x} {_STATUS.get(response.status, response.status)}"

    return show

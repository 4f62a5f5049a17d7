# SPDX-License-Identifier: GPL-2.0-or-later
"""The contents of a domain's memory, as far as there are any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.memory.runs import RunSet

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain

CHUNK_PAGES = 256
_ZERO_PAGE = bytes(PAGE_SIZE)


def contents(domain: Domain) -> Iterator[tuple[int, bytes]]:
    """Pieces of memory as (guest-physical address, bytes): whole pages, 1 MiB at most.

    Pages of zeros are left out, and what the guest has never touched isn't even looked at.
    """
    memory = domain.memory
    for gfn, mfn, count, _ in domain.space.entries():
        own = RunSet(memory.data(mfn, count))
        for frame in domain.pool.special:
            own.discard(frame)
        for start, length in own.runs():
            for first in range(start, start + length, CHUNK_PAGES):
                pages = min(CHUNK_PAGES, start + length - first)
                yield from _pieces(domain, gfn + first - mfn, first, pages)


def _pieces(domain: Domain, gfn: int, mfn: int, pages: int) -> Iterator[tuple[int, bytes]]:
    data = domain.memory.read(mfn << PAGE_SHIFT, pages << PAGE_SHIFT)
    used = [
        data[at : at + PAGE_SIZE] != _ZERO_PAGE for at in range(0, pages << PAGE_SHIFT, PAGE_SIZE)
    ]
    if all(used):
        yield gfn << PAGE_SHIFT, data
        return
    at = 0
    while at < pages:
        if not used[at]:
            at += 1
            continue
        end = used.index(False, at) if False in used[at:] else pages
        yield gfn + at << PAGE_SHIFT, data[at << PAGE_SHIFT : end << PAGE_SHIFT]
        at = end

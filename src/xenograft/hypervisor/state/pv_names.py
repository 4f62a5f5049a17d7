# SPDX-License-Identifier: GPL-2.0-or-later
"""Which page of a PV guest is which frame, and where the guest itself keeps a list of that.

shared_info tells the list's place, in one of two ways: as an address, with the root of page tables
that map it there (p2m_vaddr, p2m_cr3), or, the older one, as a tree: a page of the frames of pages
of the frames of the list's pages (pfn_to_mfn_frame_list_list).  In both the numbers are machine
frames, as wide as the guest's words.  Only the list is carried over; the guest sets up the way to
it anew when it wakes.  What it tells may be wrong by mistake or by intent: all of it is checked.

Facts: public/arch-x86/xen.h (arch_shared_info); map_p2m_list() and map_p2m_tree() in
tools/libs/guest/xg_sr_save_x86_pv.c of Xen 4.17 (what is asked of the guest's numbers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from xenograft.abi.arch_x86.xen import (
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    HYPERVISOR_VIRT_START_32,
    arch_shared_info,
)
from xenograft.abi.xen import shared_info
from xenograft.arch.x86.pv import cr3_frame
from xenograft.arch.x86.registers import is_canonical
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.state.records import StateError

if TYPE_CHECKING:
    from xenograft.engine.pv import PvMemory
    from xenograft.hypervisor.domain import Domain

PTE_P = 1
MFN_MASK = 0x000F_FFFF_FFFF_F000
LARGEST = 1 << 24
"""Pages that a record may name (64 GiB)."""
_LEVELS = {64: 4, 32: 3}


class Names:
    """Which page is which frame, of a domain that stands still."""

    def __init__(self, domain: Domain) -> None:
        """Raises StateError if the guest has given two frames one name."""
        self.domain = domain
        self.memory = cast("PvMemory", domain.memory)
        self.pfns = {mfn: self.memory.m2p(mfn) for mfn in domain.pool.pages}
        self.mfns = {pfn: mfn for mfn, pfn in self.pfns.items()}
        if len(self.mfns) != len(self.pfns) or any(pfn >= LARGEST for pfn in self.mfns):
            raise StateError(f"{domain.name}: its machine-to-physical table makes no sense")

    def pfn(self, mfn: int, what: str) -> int:
        """Raises StateError if the frame isn't the domain's."""
        if mfn not in self.pfns:
            raise StateError(f"{self.domain.name}: {what} is in no page of its own ({mfn:#x})")
        return self.pfns[mfn]

    def level(self, mfn: int) -> int:
        """0: it's no page table."""
        kind, count, _, _ = self.memory.types(mfn)
        return kind if count and 1 <= kind <= 4 else 0


def list_of_frames(names: Names, info: bytes) -> tuple[int, ...]:
    """pfns of the pages of the guest's list of its frames, up to its last page's entry.

    `info` is its shared_info.  Raises StateError, one line, for a place where the list can't be.
    """
    domain = names.domain
    arch = shared_info.unpack(info, domain.bits).arch
    last = max(names.mfns)
    if arch.max_pfn <= last:
        raise StateError(
            f"{domain.name}: the list of its frames ends before its last page"
            f" (max_pfn {arch.max_pfn:#x}, page {last:#x})"
        )
    if arch.p2m_cr3:
        found = _by_address(names, arch, last)
    elif arch.pfn_to_mfn_frame_list_list:
        found = _by_tree(names, arch, last)
    else:
        raise StateError(
            f"{domain.name} doesn't tell where the list of its frames is"
            " (neither p2m_cr3 nor pfn_to_mfn_frame_list_list)"
        )
    return tuple(_leaf(names, mfn, index) for index, mfn in enumerate(found))


def _leaf(names: Names, mfn: int, index: int) -> int:
    what = f"page {index} of the list of its frames"
    pfn = names.pfn(mfn, what)
    if names.level(mfn):  # it would be written to
        raise StateError(f"{names.domain.name}: {what} is a page table ({mfn:#x})")
    return pfn


# -- by address ------------------------------------------------------------------------------------
def _by_address(names: Names, arch: arch_shared_info, last: int) -> Iterator[int]:
    """Frames of the list's pages, by the guest's own page tables.  Raises StateError."""
    domain, bits = names.domain, names.domain.bits
    per_page = PAGE_SIZE // (bits // 8)
    start = arch.p2m_vaddr
    end = start + ((arch.max_pfn - 1) // per_page + 1) * PAGE_SIZE - 1
    if start % PAGE_SIZE or not _can_be_there(start, end, bits):
        raise StateError(
            f"{domain.name}: the list of its frames can't be at {start:#x}"
            f" (p2m_vaddr; max_pfn {arch.max_pfn:#x})"
        )
    root = cr3_frame(arch.p2m_cr3, bits)
    names.pfn(root, "the root of its list of frames (p2m_cr3)")
    for index in range(last // per_page + 1):
        yield _walk(names, root, start + (index << PAGE_SHIFT))


def _can_be_there(start: int, end: int, bits: int) -> bool:
    """Whether a guest of this width can have a mapping there, beside Xen's own."""
    if bits == 32:
        return end < HYPERVISOR_VIRT_START_32
    canonical = is_canonical(start) and is_canonical(end)
    return canonical and (end < HYPERVISOR_VIRT_START or start >= HYPERVISOR_VIRT_END)


def _walk(names: Names, root: int, va: int) -> int:
    """The frame behind an address, by tables of the domain's own.  Raises StateError."""
    frame = root
    for level in range(_LEVELS[names.domain.bits], 0, -1):
        if names.level(frame) != level:
            raise StateError(
                f"{names.domain.name}: the list of its frames isn't behind page tables"
                f" (address {va:#x}: frame {frame:#x} is none of level {level})"
            )
        slot = va >> PAGE_SHIFT + 9 * (level - 1) & 511
        entry = names.memory.read_u64((frame << PAGE_SHIFT) + slot * 8)
        frame = (entry & MFN_MASK) >> PAGE_SHIFT
        if not entry & PTE_P:
            raise StateError(
                f"{names.domain.name}: the list of its frames isn't all mapped"
                f" (address {va:#x}, level {level})"
            )
        names.pfn(frame, f"what maps the list of its frames at {va:#x} (level {level})")
    return frame


# -- by tree ---------------------------------------------------------------------------------------
def _by_tree(names: Names, arch: arch_shared_info, last: int) -> Iterator[int]:
    """The same, by the pages that name pages.  Raises StateError."""
    per_page = PAGE_SIZE // (names.domain.bits // 8)
    if arch.max_pfn > per_page**3:
        raise StateError(
            f"{names.domain.name}: max_pfn {arch.max_pfn:#x} is more than a list of frames can have"
        )
    top = arch.pfn_to_mfn_frame_list_list
    upper = _page_of_frames(names, top, "the list of lists of its frames")
    left = last // per_page + 1
    for index in range(last // per_page**2 + 1):
        lower = _page_of_frames(names, upper[index], f"list {index} of lists of its frames")
        yield from lower[:left]
        left -= per_page


def _page_of_frames(names: Names, mfn: int, what: str) -> tuple[int, ...]:
    names.pfn(mfn, what)
    bits = names.domain.bits
    page = names.memory.read(mfn << PAGE_SHIFT, PAGE_SIZE)
    return struct.unpack("<512Q" if bits == 64 else "<1024I", page)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The frames of a grant table that the granting guest sees, and the entries in them.

Version 1 entries have 8 bytes: flags, domid, frame.  Version 2 entries have 16, for whole pages,
parts of pages and other domains' grants, and keep the flags of use (GTF_reading, GTF_writing)
apart, in status frames.

Facts: public/grant_table.h; shared_entry_header(), nr_grant_entries(), gnttab_clear_flags() in
xen/common/grant_table.c.
"""

from __future__ import annotations

from typing import NamedTuple

from xenograft.abi.grant_table import (
    GTF_reading,
    GTF_sub_page,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE, MachineMemory

V1_SIZE = 8
V2_SIZE = 16
STATUS_SIZE = 2
V1_PER_PAGE = PAGE_SIZE // V1_SIZE
V2_PER_PAGE = PAGE_SIZE // V2_SIZE
STATUS_PER_PAGE = PAGE_SIZE // STATUS_SIZE

_USE_BITS = (GTF_reading.bit_length() - 1, GTF_writing.bit_length() - 1)


def status_frames_for(grant_frames: int) -> int:
    """How many status frames go with so many grant frames."""
    return -(-grant_frames * V2_PER_PAGE // STATUS_PER_PAGE)


def grant_frames_for(status_frames: int) -> int:
    """How many grant frames so many status frames are enough for."""
    return -(-status_frames * STATUS_PER_PAGE // V2_PER_PAGE)


class Page(NamedTuple):
    """What an entry grants: bytes start … start+length of the granter's frame `gfn`."""

    gfn: int
    start: int = 0
    length: int = PAGE_SIZE
    is_sub_page: bool = False


class SharedEntries:
    """The shared frames (and status frames) of one grant table, as frames of machine memory."""

    __slots__ = ("frames", "memory", "status", "version")

    def __init__(self, memory: MachineMemory) -> None:
        self.memory = memory
        self.version = 1
        self.frames: list[int] = []
        self.status: list[int] = []

    def __len__(self) -> int:
        """The number of entries."""
        return len(self.frames) * (V1_PER_PAGE if self.version == 1 else V2_PER_PAGE)

    def maddr(self, ref: int) -> int:
        """Machine address of an entry. Raises IndexError beyond the table."""
        per_page, size = (V1_PER_PAGE, V1_SIZE) if self.version == 1 else (V2_PER_PAGE, V2_SIZE)
        return self.frames[ref // per_page] << PAGE_SHIFT | ref % per_page * size

    def status_maddr(self, ref: int) -> int:
        """Where the flags of use are: in the entry (version 1), or in a status frame."""
        if self.version == 1:
            return self.maddr(ref)
        at = ref % STATUS_PER_PAGE * STATUS_SIZE
        return self.status[ref // STATUS_PER_PAGE] << PAGE_SHIFT | at

    # -- reading -----------------------------------------------------------------------------
    def header(self, ref: int) -> int:
        """Flags (low half) and domid (high half), as one atomic value."""
        return self.memory.read_u32(self.maddr(ref))

    def flags(self, ref: int) -> int:
        return self.header(ref) & 0xFFFF

    def is_transitive(self, ref: int) -> bool:
        """Whether the entry stands for another domain's grant."""
        return self.version == 2 and self.flags(ref) & GTF_type_mask == GTF_transitive

    def page(self, ref: int) -> Page:
        """What a grant of a page, or of a part of one, gives."""
        at = self.maddr(ref)
        if self.version == 1:
            return Page(self.memory.read_u32(at + 4))
        gfn = self.memory.read_u64(at + 8)
        if not self.flags(ref) & GTF_sub_page:
            return Page(gfn)
        extent = self.memory.read_u32(at + 4)
        return Page(gfn, extent & 0xFFFF, extent >> 16, True)

    def transitive(self, ref: int) -> tuple[int, int]:
        """(domid, ref) of the grant that a transitive entry stands for."""
        at = self.maddr(ref)
        return self.memory.read_u32(at + 4) & 0xFFFF, self.memory.read_u32(at + 8)

    def status_flags(self, ref: int) -> int:
        """The flags of use, and in version 1 all others too."""
        return int.from_bytes(self.memory.read(self.status_maddr(ref), 2), "little")

    # -- writing -------------------------------------------------------------------------------
    def set_frame(self, ref: int, frame: int) -> None:
        """Write an entry's frame."""
        if self.version == 1:
            self.memory.write_u32(self.maddr(ref) + 4, frame & 0xFFFFFFFF)
        else:
            self.memory.write_u64(self.maddr(ref) + 8, frame)

    def write_v1(self, ref: int, flags: int, domid: int, frame: int) -> None:
        """Write an entry as version 1 has it, in the version in force."""
        use = flags & (GTF_reading | GTF_writing)
        if self.version == 2:
            self.memory.write(self.status_maddr(ref), use.to_bytes(2, "little"))
            flags &= ~use
        self.set_frame(ref, frame)
        self.memory.write_u32(self.maddr(ref), flags | domid << 16)

    def set_use(self, ref: int, flags: int) -> None:
        """Set flags of use, each atomically."""
        at, shift = self._use_word(ref)
        for bit in _USE_BITS:
            if flags >> bit & 1:
                self.memory.test_and_set_bit(at, bit + shift)

    def clear_use(self, ref: int, flags: int) -> None:
        """Clear flags of use, each atomically."""
        at, shift = self._use_word(ref)
        for bit in _USE_BITS:
            if flags >> bit & 1:
                self.memory.test_and_clear_bit(at, bit + shift)

    def _use_word(self, ref: int) -> tuple[int, int]:
        """The 32-bit word that holds the flags of use, and where they begin in it."""
        at = self.status_maddr(ref)
        return at & ~3, at % 4 * 8

    def swap(self, a: int, b: int) -> None:
        """Exchange two entries that nobody uses, with their flags of use."""
        size = V1_SIZE if self.version == 1 else V2_SIZE
        self._swap(self.maddr(a), self.maddr(b), size)
        if self.version == 2:
            self._swap(self.status_maddr(a), self.status_maddr(b), STATUS_SIZE)

    def _swap(self, a: int, b: int, size: int) -> None:
        first, second = self.memory.read(a, size), self.memory.read(b, size)
        self.memory.write(a, second)
        self.memory.write(b, first)

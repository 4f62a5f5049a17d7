# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's own page tables in the address space of PV guests, in frames of Xen's own.

Each root table of a PV guest has slots that belong to Xen.  Two of them are filled here: the
machine-to-physical table, the same for all domains and for reading alone, and the descriptor
tables of the domain's vCPUs.

Facts: public/arch-x86/xen-x86_64.h and xen-x86_32.h (where the machine-to-physical table is);
init_xen_l4_slots() and init_xen_pae_l2_slots() in xen/arch/x86 of Xen 4.17.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from xenograft.abi.arch_x86.xen import MACH2PHYS_VIRT_END_32, MACH2PHYS_VIRT_START_32
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import DOMID_XEN
from xenograft.arch.x86.pv import GDT_LDT_PAGES, reserved_gdt
from xenograft.engine.protocol import P2M_PRESENT, PAGE_SHIFT, PAGE_SIZE, AddressSpace

if TYPE_CHECKING:
    from xenograft.engine.pv import PvMemory

# Present, accessed and dirty from the start: the processor has nothing to write there.
_P, _RW, _US, _AD, _NX = 1, 2, 4, 0x60, 1 << 63
_TABLE = _P | _RW | _US | _AD
_XEN_TABLE = _P | _RW | _AD
_READ_ONLY = _P | _US | _AD | _NX
_ENTRIES = 512
COMPAT_FIRST_XEN_SLOT = MACH2PHYS_VIRT_START_32 >> 21 & 511


class _Frames:
    """Frames of Xen's own, taken one by one."""

    def __init__(self, memory: PvMemory) -> None:
        self.memory = memory
        self.mfns: list[int] = []

    def take(self, data: bytes = b"") -> int:
        """The mfn of a frame with these contents. Raises XenError(ENOMEM)."""
        try:
            ((mfn, _),) = self.memory.alloc(DOMID_XEN)
        except MemoryError:
            raise XenError(Errno.ENOMEM) from None
        self.mfns.append(mfn)
        if data:
            self.memory.write(mfn << PAGE_SHIFT, data)
        return mfn

    def table(self, entries: list[int], first: int = 0) -> int:
        """A page table with entries from slot `first` on."""
        return self.take(bytes(8 * first) + struct.pack(f"<{len(entries)}Q", *entries))

    def run(self, count: int) -> int:
        """The first of `count` frames in a row. Raises XenError(ENOMEM)."""
        wanted = count
        while True:
            try:
                extents = self.memory.alloc(DOMID_XEN, wanted)
            except MemoryError:
                raise XenError(Errno.ENOMEM) from None
            found = next((mfn for mfn, length in extents if length >= count), None)
            for mfn, length in extents:
                if found is None or mfn != found:
                    self.memory.free(mfn, length)
                elif length > count:
                    self.memory.free(mfn + count, length - count)
            if found is not None:
                self.mfns.extend(range(found, found + count))
                return found
            wanted += max(count, wanted // 2)

    def close(self) -> None:
        for mfn in self.mfns:
            self.memory.free(mfn)
        self.mfns.clear()


def _levels(frames: _Frames, mfns: list[int], flags: int) -> list[int]:
    """Tables of one level over `mfns`, in order."""
    return [
        frames.table([mfn << PAGE_SHIFT | flags for mfn in mfns[at : at + _ENTRIES]])
        for at in range(0, len(mfns), _ENTRIES)
    ]


class XenMappings:
    """What all PV domains of a machine share; made when the first of them is."""

    def __init__(self, memory: PvMemory) -> None:
        self._frames = frames = _Frames(memory)
        self.memory = memory
        wide = -(-memory.frames * 8 // PAGE_SIZE)
        narrow = -(-memory.frames * 4 // PAGE_SIZE)
        first, first32 = frames.run(wide), frames.run(narrow)
        memory.use_m2p(first << PAGE_SHIFT, first32 << PAGE_SHIFT)
        l1 = _levels(frames, list(range(first, first + wide)), _READ_ONLY)
        l2 = _levels(frames, l1, _TABLE)
        l3 = _levels(frames, l2, _TABLE)
        self.m2p_l4e = l3[0] << PAGE_SHIFT | _TABLE
        """The root entry of the machine-to-physical table of 64-bit guests."""
        room = (MACH2PHYS_VIRT_END_32 - MACH2PHYS_VIRT_START_32) >> PAGE_SHIFT
        shown = list(range(first32, first32 + min(narrow, room)))
        entries = [mfn << PAGE_SHIFT | _TABLE for mfn in _levels(frames, shown, _READ_ONLY)]
        entries += [0] * (_ENTRIES - COMPAT_FIRST_XEN_SLOT - len(entries))
        self.compat_l2 = struct.pack(f"<{len(entries)}Q", *entries)
        """Xen's entries in the last table of level 2 of a 32-bit guest."""
        self.reserved_gdt = {bits: frames.take(reserved_gdt(bits)) for bits in (64, 32)}

    def show(self, space: AddressSpace) -> None:
        """Let a domain's processor reach these frames, without writing them."""
        for mfn in self._frames.mfns:
            space.map(mfn, mfn, 1, P2M_PRESENT)


class DomainMappings:
    """Where a domain's root tables map the descriptor tables of its vCPUs."""

    def __init__(self, xen: XenMappings, space: AddressSpace, vcpus: int, bits: int) -> None:
        self._frames = frames = _Frames(xen.memory)
        gdt = xen.reserved_gdt[bits]
        per_table = _ENTRIES // GDT_LDT_PAGES
        empty = [0] * GDT_LDT_PAGES
        empty[14] = gdt << PAGE_SHIFT | _P | _AD | _NX
        tables = [
            frames.table(empty * min(per_table, vcpus - at)) for at in range(0, vcpus, per_table)
        ]
        l2 = frames.table([mfn << PAGE_SHIFT | _XEN_TABLE for mfn in tables])
        l3 = frames.table([l2 << PAGE_SHIFT | _XEN_TABLE])
        self.perdomain_l4e = l3 << PAGE_SHIFT | _XEN_TABLE
        self._tables = tables
        self.roots: list[int] = []
        if bits == 32:
            # The root tables of a 32-bit guest are Xen's: slot 0 is the guest's own table.
            self.roots = [frames.table([self.perdomain_l4e], 260) for _ in range(vcpus)]
        for mfn in frames.mfns:
            space.map(mfn, mfn, 1, P2M_PRESENT)

    def descriptors(self, vcpu_id: int) -> int:
        """Machine address of the entries that map a vCPU's GDT and LDT."""
        per_table = _ENTRIES // GDT_LDT_PAGES
        table = self._tables[vcpu_id // per_table] << PAGE_SHIFT
        return table + vcpu_id % per_table * GDT_LDT_PAGES * 8

    def close(self) -> None:
        self._frames.close()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest-physical memory map of a PVH guest: RAM, the hole below 4 GiB, special pages, E820.

As libxl and libxenguest 4.17 lay it out (libxl__build_hvm and domain_construct_memmap for a
guest without device model; alloc_magic_pages_hvm): RAM from 0 without a VGA hole, up to the
lowest of the things in the hole, which is the ACPI information page at 0xfc000000; the rest
from 4 GiB on.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from xenograft.abi.hvm import params
from xenograft.abi.hvm.start_info import (
    XEN_HVM_MEMMAP_TYPE_ACPI,
    XEN_HVM_MEMMAP_TYPE_RAM,
    XEN_HVM_MEMMAP_TYPE_RESERVED,
)

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
GIB4 = 1 << 32

ACPI_INFO_ADDRESS = 0xFC000000
"""ACPI_INFO_PHYSICAL_ADDRESS: the tables begin a page above it."""
LAPIC_BASE_ADDRESS = 0xFEE00000
SPECIAL_FIRST_GFN = 0xFEFF8
"""X86_HVM_END_SPECIAL_REGION - X86_HVM_NR_SPECIAL_PAGES."""
SPECIAL_PAGES = 8
LOW_MEMORY_END = min(ACPI_INFO_ADDRESS, LAPIC_BASE_ADDRESS, SPECIAL_FIRST_GFN << PAGE_SHIFT)
"""Where RAM stops below 4 GiB."""


class E820Type(IntEnum):
    """Kinds of memory that a map here has (XEN_HVM_MEMMAP_TYPE_*)."""

    RAM = XEN_HVM_MEMMAP_TYPE_RAM
    RESERVED = XEN_HVM_MEMMAP_TYPE_RESERVED
    ACPI = XEN_HVM_MEMMAP_TYPE_ACPI


class E820Entry(msgspec.Struct, frozen=True):
    """One range of the map, in bytes."""

    addr: int
    size: int
    type: E820Type


class SpecialPages(msgspec.Struct, frozen=True):
    """gfns of the pages that toolstack and hypervisor share with the guest.

    All are populated and zero, but for the identity page table.  The hypervisor parameters
    that tell of them are given by `hvm_params`.
    """

    paging: int = SPECIAL_FIRST_GFN + 0
    access: int = SPECIAL_FIRST_GFN + 1
    sharing: int = SPECIAL_FIRST_GFN + 2
    bufioreq: int = SPECIAL_FIRST_GFN + 3
    xenstore: int = SPECIAL_FIRST_GFN + 4
    ioreq: int = SPECIAL_FIRST_GFN + 5
    ident_pt: int = SPECIAL_FIRST_GFN + 6
    console: int = SPECIAL_FIRST_GFN + 7

    def hvm_params(self) -> dict[int, int]:
        """HVM_PARAM_* to value: gfns, but for IDENT_PT, which is a guest-physical address."""
        return {
            params.HVM_PARAM_STORE_PFN: self.xenstore,
            params.HVM_PARAM_BUFIOREQ_PFN: self.bufioreq,
            params.HVM_PARAM_IOREQ_PFN: self.ioreq,
            params.HVM_PARAM_CONSOLE_PFN: self.console,
            params.HVM_PARAM_PAGING_RING_PFN: self.paging,
            params.HVM_PARAM_MONITOR_RING_PFN: self.access,
            params.HVM_PARAM_SHARING_RING_PFN: self.sharing,
            params.HVM_PARAM_IDENT_PT: self.ident_pt << PAGE_SHIFT,
        }


def identity_page_table() -> bytes:
    """A 32-bit page directory that maps 4 GiB one to one by 4 MiB pages (HVM_PARAM_IDENT_PT)."""
    flags = 0x01 | 0x02 | 0x04 | 0x20 | 0x40 | 0x80  # P, RW, US, A, D, PS
    return b"".join((index << 22 | flags).to_bytes(4, "little") for index in range(1024))


def page_up(address: int) -> int:
    """The next page boundary at or above an address."""
    return (address + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


def ram_ranges(memory: int) -> tuple[tuple[int, int], ...]:
    """(gfn, pages) of a guest's RAM, one range or two; `memory` in bytes, whole pages."""
    pages = memory >> PAGE_SHIFT
    low = min(pages, LOW_MEMORY_END >> PAGE_SHIFT)
    high = pages - low
    ranges = ((0, low),)
    return (*ranges, (GIB4 >> PAGE_SHIFT, high)) if high else ranges


def e820_map(memory: int, acpi: tuple[tuple[int, int], ...] = ()) -> tuple[E820Entry, ...]:
    """The map in the order in which libxl writes it: low RAM, special, ACPI, high RAM.

    `acpi`: (address, bytes) of the ACPI modules; their addresses are rounded down to pages.
    """
    entries = []
    for gfn, pages in ram_ranges(memory):
        entries.append(E820Entry(gfn << PAGE_SHIFT, pages << PAGE_SHIFT, E820Type.RAM))
    special = [
        E820Entry(SPECIAL_FIRST_GFN << PAGE_SHIFT, SPECIAL_PAGES << PAGE_SHIFT, E820Type.RESERVED)
    ]
    for address, size in acpi:
        offset = address & PAGE_SIZE - 1
        special.append(E820Entry(address - offset, size + offset, E820Type.ACPI))
    return (entries[0], *special, *entries[1:])

# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory map: RAM ranges, the hole, special pages, E820."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.hvm import params
from xenograft.toolstack.build.memory_map import (
    LOW_MEMORY_END,
    E820Type,
    SpecialPages,
    e820_map,
    identity_page_table,
    page_up,
    ram_ranges,
)

ACPI = ((0xFC008000, 64), (0xFC000000, 0x1000), (0xFC001000, 0x7000))


def test_map_of_the_reference_guest() -> None:
    # A PVH guest of 128 MiB on Xen 4.17 saw (apart from Linux's own hole below 1 MiB, and with
    # the three ACPI ranges joined, since they touch):
    seen = [
        (0x0, 0x7FFFFFF, E820Type.RAM),
        (0xFC000000, 0xFC00803F, E820Type.ACPI),
        (0xFEFF8000, 0xFEFFFFFF, E820Type.RESERVED),
    ]
    entries = sorted((e.addr, e.addr + e.size - 1, e.type) for e in e820_map(128 << 20, ACPI))
    joined: list[tuple[int, int, E820Type]] = []
    for first, last, kind in entries:
        if joined and joined[-1][2] == kind and joined[-1][1] + 1 == first:
            joined[-1] = (joined[-1][0], last, kind)
        else:
            joined.append((first, last, kind))
    assert joined == seen


def test_order_is_libxls() -> None:
    kinds = [entry.type for entry in e820_map(8 << 30, ACPI)]
    ram, reserved, acpi = E820Type.RAM, E820Type.RESERVED, E820Type.ACPI
    assert kinds == [ram, reserved, acpi, acpi, acpi, ram]


def test_rsdp_below_1_mib_is_rounded_down_to_its_page() -> None:
    entry = e820_map(64 << 20, ((0xFFFC0, 64),))[2]
    assert (entry.addr, entry.size) == (0xFF000, 0x1000)


def test_hole() -> None:
    assert LOW_MEMORY_END == 0xFC000000
    assert ram_ranges(LOW_MEMORY_END) == ((0, 0xFC000),)
    assert ram_ranges(LOW_MEMORY_END + 4096) == ((0, 0xFC000), (0x100000, 1))
    assert ram_ranges(8 << 30) == ((0, 0xFC000), (0x100000, 0x104000))


@given(st.integers(1, 16 << 18))
def test_all_memory_is_mapped_once_and_outside_the_hole(pages: int) -> None:
    ranges = ram_ranges(pages << 12)
    assert sum(count for _, count in ranges) == pages
    entries = sorted(e820_map(pages << 12, ACPI), key=lambda entry: entry.addr)
    for low, high in pairwise(entries):
        assert low.addr + low.size <= high.addr
    ram = [(e.addr >> 12, e.size >> 12) for e in entries if e.type is E820Type.RAM]
    assert tuple(ram) == ranges
    assert all(not 0xFC000 <= gfn < 0x100000 for gfn, _ in ranges)


def test_special_pages() -> None:
    special = SpecialPages()
    # As a real Xen 4.17 gave them to the reference guest: xenstore and console pages.
    assert (special.xenstore, special.console) == (0xFEFFC, 0xFEFFF)
    gfns = [getattr(special, name) for name in special.__struct_fields__]
    assert gfns == list(range(0xFEFF8, 0xFF000))
    assert special.hvm_params() == {
        params.HVM_PARAM_STORE_PFN: 0xFEFFC,
        params.HVM_PARAM_BUFIOREQ_PFN: 0xFEFFB,
        params.HVM_PARAM_IOREQ_PFN: 0xFEFFD,
        params.HVM_PARAM_CONSOLE_PFN: 0xFEFFF,
        params.HVM_PARAM_PAGING_RING_PFN: 0xFEFF8,
        params.HVM_PARAM_MONITOR_RING_PFN: 0xFEFF9,
        params.HVM_PARAM_SHARING_RING_PFN: 0xFEFFA,
        params.HVM_PARAM_IDENT_PT: 0xFEFFE000,
    }


def test_identity_page_table() -> None:
    entries = struct.unpack("<1024I", identity_page_table())
    assert [entry >> 22 for entry in entries] == list(range(1024))
    assert {entry & 0x3FFFFF for entry in entries} == {0xE7}


def test_page_up() -> None:
    assert [page_up(at) for at in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]

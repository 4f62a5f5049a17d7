# SPDX-License-Identifier: GPL-2.0-or-later
"""public/arch-x86/hvm/start_info.h: what a PVH kernel finds at its entry point (ebx)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, named, u32, u64, x32, x64

XEN_HVM_START_MAGIC_VALUE = 0x336EC578

# hvm_memmap_table_entry.type (those of E820).
XEN_HVM_MEMMAP_TYPE_RAM = 1
XEN_HVM_MEMMAP_TYPE_RESERVED = 2
XEN_HVM_MEMMAP_TYPE_ACPI = 3
XEN_HVM_MEMMAP_TYPE_NVS = 4
XEN_HVM_MEMMAP_TYPE_UNUSABLE = 5
XEN_HVM_MEMMAP_TYPE_DISABLED = 6
XEN_HVM_MEMMAP_TYPE_PMEM = 7

MEMMAP_TYPE_NAMES: dict[int, str] = {
    number: name
    for name, number in sorted(globals().items())
    if name.startswith("XEN_HVM_MEMMAP_TYPE_") and isinstance(number, int)
}
"""Memory type to name."""


class hvm_start_info(Struct):
    """Version 1; version 0 ends before memmap_paddr."""

    magic: x32
    version: u32
    flags: x32
    nr_modules: u32
    modlist_paddr: x64
    cmdline_paddr: x64
    rsdp_paddr: x64
    memmap_paddr: x64
    memmap_entries: u32
    reserved: u32


class hvm_modlist_entry(Struct):
    """One module (the first is the ramdisk)."""

    paddr: x64
    size: u64
    cmdline_paddr: x64
    reserved: u64


class hvm_memmap_table_entry(Struct):
    """One range of the memory map."""

    addr: x64
    size: x64
    type: Annotated[int, named(u32, MEMMAP_TYPE_NAMES)]
    reserved: u32

# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hvm/e820.h, and the entries that XENMEM_memory_map returns."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, named, u32, x64

# Where hvmloader finds the map of an HVM guest.
HVM_E820_PAGE = 0x00090000
HVM_E820_NR_OFFSET = 0x000001E8
HVM_E820_OFFSET = 0x000002D0

# The hole below 4 GiB.
HVM_BELOW_4G_RAM_END = 0xF0000000
HVM_BELOW_4G_MMIO_START = HVM_BELOW_4G_RAM_END
HVM_BELOW_4G_MMIO_LENGTH = (1 << 32) - HVM_BELOW_4G_MMIO_START

# Types of BIOS INT 15h, AX=E820h.
E820_RAM = 1
E820_RESERVED = 2
E820_ACPI = 3
E820_NVS = 4
E820_UNUSABLE = 5

E820_NAMES: dict[int, str] = {
    E820_RAM: "E820_RAM",
    E820_RESERVED: "E820_RESERVED",
    E820_ACPI: "E820_ACPI",
    E820_NVS: "E820_NVS",
    E820_UNUSABLE: "E820_UNUSABLE",
}
"""Type to name."""


class e820entry(Struct, packed=True):
    """One entry: 20 bytes, without padding."""

    addr: x64
    size: x64
    type: Annotated[int, named(u32, E820_NAMES)]

# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory type range registers of a vCPU: kept and checked, without effect on memory.

Facts: xen/arch/x86/hvm/mtrr.c (8 variable ranges, fixed ranges, write-combining).  A PVH guest
starts with the MTRRs enabled and write-back as default type (docs/misc/pvh.pandoc).
"""

from __future__ import annotations

from typing import Final

MSR_MTRRcap: Final = 0xFE
MSR_MTRRdefType: Final = 0x2FF
MSR_IA32_MTRR_PHYSBASE0: Final = 0x200
MTRR_VCNT: Final = 8

MTRR_TYPE_WRBACK: Final = 6
MTRRdefType_FE: Final = 1 << 10
MTRRdefType_E: Final = 1 << 11

FIXED: Final = (0x250, 0x258, 0x259, *range(0x268, 0x270))
"""MSR_MTRRfix64K_00000, fix16K_80000, fix16K_A0000, fix4K_C0000 to fix4K_F8000."""
_VALID_TYPES: Final = frozenset((0, 1, 4, 5, 6))
_FIXED_INDEX: Final = {msr: index for index, msr in enumerate(FIXED)}


class Mtrr:
    """The registers: `def_type`, `fixed` (in the order of FIXED), `variable` (base, mask, …)."""

    __slots__ = ("def_type", "fixed", "variable")

    def __init__(self, pvh: bool = True) -> None:
        self.def_type = MTRRdefType_E | MTRR_TYPE_WRBACK if pvh else 0
        self.fixed = [0] * len(FIXED)
        self.variable = [0] * (2 * MTRR_VCNT)

    def read(self, msr: int) -> int | None:
        """The register's value; None: it doesn't exist."""
        if msr == MSR_MTRRcap:
            return 1 << 10 | 1 << 8 | MTRR_VCNT
        if msr == MSR_MTRRdefType:
            return self.def_type
        if msr in _FIXED_INDEX:
            return self.fixed[_FIXED_INDEX[msr]]
        if 0 <= msr - MSR_IA32_MTRR_PHYSBASE0 < 2 * MTRR_VCNT:
            return self.variable[msr - MSR_IA32_MTRR_PHYSBASE0]
        return None

    def write(self, msr: int, value: int, phys_bits: int) -> bool:
        """Set a register; False (#GP) for reserved bits, bad types, and MTRRcap."""
        if msr == MSR_MTRRdefType:
            if value & ~0xCFF or value & 0xFF not in _VALID_TYPES:
                return False
            self.def_type = value
            return True
        if msr in _FIXED_INDEX:
            if not all(byte in _VALID_TYPES for byte in value.to_bytes(8, "little")):
                return False
            self.fixed[_FIXED_INDEX[msr]] = value
            return True
        index = msr - MSR_IA32_MTRR_PHYSBASE0
        if not 0 <= index < 2 * MTRR_VCNT:
            return False
        if self.variable[index] == value:
            return True
        reserved = ~((1 << phys_bits) - 1) | (0x7FF if index & 1 else 0xF00)
        # As in Xen, the low byte is checked as a type in masks as well (it is 0 there).
        if value & 0xFF not in _VALID_TYPES or value & reserved:
            return False
        self.variable[index] = value
        return True

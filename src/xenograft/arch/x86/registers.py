# SPDX-License-Identifier: GPL-2.0-or-later
"""Bits of x86 registers, with the names that Xen gives them (asm/x86-defns.h, asm/msr-index.h)."""

from __future__ import annotations

from typing import Final

X86_EFLAGS_MBS: Final = 1 << 1
"""Must be set."""
X86_EFLAGS_TF: Final = 1 << 8
X86_EFLAGS_IF: Final = 1 << 9
X86_EFLAGS_VM: Final = 1 << 17
X86_EFLAGS_AC: Final = 1 << 18

X86_CR0_PE: Final = 1 << 0
X86_CR0_ET: Final = 1 << 4
X86_CR0_WP: Final = 1 << 16
X86_CR0_NW: Final = 1 << 29
X86_CR0_CD: Final = 1 << 30
X86_CR0_PG: Final = 1 << 31

X86_CR4_VME: Final = 1 << 0
X86_CR4_PVI: Final = 1 << 1
X86_CR4_TSD: Final = 1 << 2
X86_CR4_DE: Final = 1 << 3
X86_CR4_PSE: Final = 1 << 4
X86_CR4_PAE: Final = 1 << 5
X86_CR4_MCE: Final = 1 << 6
X86_CR4_PGE: Final = 1 << 7
X86_CR4_PCE: Final = 1 << 8
X86_CR4_OSFXSR: Final = 1 << 9
X86_CR4_OSXMMEXCPT: Final = 1 << 10
X86_CR4_UMIP: Final = 1 << 11
X86_CR4_FSGSBASE: Final = 1 << 16
X86_CR4_PCIDE: Final = 1 << 17
X86_CR4_OSXSAVE: Final = 1 << 18
X86_CR4_SMEP: Final = 1 << 20
X86_CR4_SMAP: Final = 1 << 21
X86_CR4_PKE: Final = 1 << 22

EFER_SCE: Final = 1 << 0
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
EFER_NXE: Final = 1 << 11
EFER_SVME: Final = 1 << 12
EFER_FFXSE: Final = 1 << 14
EFER_KNOWN_MASK: Final = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME | EFER_FFXSE

X86_DR6_DEFAULT: Final = 0xFFFF0FF0
X86_DR7_DEFAULT: Final = 0x00000400

MSR_IA32_CR_PAT_RESET: Final = 0x0007040600070406
"""PAT at reset: WB, WT, UC-, UC, twice."""

X86_EXC_UD: Final = 6
X86_EXC_GP: Final = 13
X86_EXC_PF: Final = 14


def is_canonical(address: int) -> bool:
    """Whether bits 47 to 63 of a 64-bit address are equal.

    >>> is_canonical(0xFFFF800000000000), is_canonical(0x800000000000)
    (True, False)
    """
    return address >> 47 in (0, 0x1FFFF)

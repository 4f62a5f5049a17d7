# SPDX-License-Identifier: GPL-2.0-or-later
"""Register offsets and fields of the local APIC (Intel SDM volume 3, chapter "APIC").

Offsets are those of the xAPIC's MMIO page; the x2APIC MSR of a register is
``MSR_X2APIC_FIRST + (offset >> 4)``.  Names as in xen/arch/x86/include/asm/apicdef.h.
"""

from __future__ import annotations

from typing import Final

APIC_DEFAULT_PHYS_BASE: Final = 0xFEE00000

# MSR_APIC_BASE
APIC_BASE_BSP: Final = 1 << 8
APIC_BASE_EXTD: Final = 1 << 10
APIC_BASE_ENABLE: Final = 1 << 11
APIC_BASE_ADDR_MASK: Final = 0x000FFFFFFFFFF000

MSR_X2APIC_FIRST: Final = 0x800
MSR_X2APIC_LAST: Final = 0x8FF

# Registers
APIC_ID: Final = 0x20
APIC_LVR: Final = 0x30
APIC_TASKPRI: Final = 0x80
APIC_ARBPRI: Final = 0x90
APIC_PROCPRI: Final = 0xA0
APIC_EOI: Final = 0xB0
APIC_RRR: Final = 0xC0
APIC_LDR: Final = 0xD0
APIC_DFR: Final = 0xE0
APIC_SPIV: Final = 0xF0
APIC_ISR: Final = 0x100
APIC_TMR: Final = 0x180
APIC_IRR: Final = 0x200
APIC_ESR: Final = 0x280
APIC_CMCI: Final = 0x2F0
APIC_ICR: Final = 0x300
APIC_ICR2: Final = 0x310
APIC_LVTT: Final = 0x320
APIC_LVTTHMR: Final = 0x330
APIC_LVTPC: Final = 0x340
APIC_LVT0: Final = 0x350
APIC_LVT1: Final = 0x360
APIC_LVTERR: Final = 0x370
APIC_TMICT: Final = 0x380
APIC_TMCCT: Final = 0x390
APIC_TDCR: Final = 0x3E0
APIC_SELF_IPI: Final = 0x3F0

# Spurious-interrupt vector register
APIC_SPIV_APIC_ENABLED: Final = 1 << 8
APIC_SPIV_FOCUS_DISABLED: Final = 1 << 9

# Error status register
APIC_ESR_SENDILL: Final = 1 << 5
APIC_ESR_RECVILL: Final = 1 << 6

# Destination format register
APIC_DFR_FLAT: Final = 0xFFFFFFFF
APIC_DFR_CLUSTER: Final = 0x0FFFFFFF

# Interrupt command register, and what the LVT shares with it
APIC_VECTOR_MASK: Final = 0xFF
APIC_MODE_MASK: Final = 0x700
APIC_DM_FIXED: Final = 0x000
APIC_DM_LOWEST: Final = 0x100
APIC_DM_SMI: Final = 0x200
APIC_DM_REMRD: Final = 0x300
APIC_DM_NMI: Final = 0x400
APIC_DM_INIT: Final = 0x500
APIC_DM_STARTUP: Final = 0x600
APIC_DM_EXTINT: Final = 0x700
APIC_DEST_LOGICAL: Final = 1 << 11
APIC_ICR_BUSY: Final = 1 << 12
APIC_INT_ASSERT: Final = 1 << 14
APIC_INT_LEVELTRIG: Final = 1 << 15
APIC_SHORT_MASK: Final = 0xC0000
APIC_DEST_NOSHORT: Final = 0x00000
APIC_DEST_SELF: Final = 0x40000
APIC_DEST_ALLINC: Final = 0x80000
APIC_DEST_ALLBUT: Final = 0xC0000

# Local vector table
APIC_SEND_PENDING: Final = 1 << 12
APIC_INPUT_POLARITY: Final = 1 << 13
APIC_LVT_REMOTE_IRR: Final = 1 << 14
APIC_LVT_LEVEL_TRIGGER: Final = 1 << 15
APIC_LVT_MASKED: Final = 1 << 16
APIC_TIMER_MODE_MASK: Final = 3 << 17
APIC_TIMER_MODE_ONESHOT: Final = 0 << 17
APIC_TIMER_MODE_PERIODIC: Final = 1 << 17
APIC_TIMER_MODE_TSC_DEADLINE: Final = 2 << 17

APIC_TDR_DIV_MASK: Final = 0xB

APIC_BUS_CYCLE_NS: Final = 10
"""One tick of the timer at divisor 1: a bus of 100 MHz, as Xen shows its guests."""

LVT_REGISTERS: Final = (
    APIC_LVTT,
    APIC_LVTTHMR,
    APIC_LVTPC,
    APIC_LVT0,
    APIC_LVT1,
    APIC_LVTERR,
)
_LVT_MASK: Final = APIC_LVT_MASKED | APIC_SEND_PENDING | APIC_VECTOR_MASK
_LINT_MASK: Final = (
    _LVT_MASK | APIC_MODE_MASK | APIC_INPUT_POLARITY | APIC_LVT_REMOTE_IRR | APIC_LVT_LEVEL_TRIGGER
)
# The bits that exist in each LVT entry.
LVT_BITS: Final[dict[int, int]] = {
    APIC_LVTT: _LVT_MASK | APIC_TIMER_MODE_MASK,
    APIC_LVTTHMR: _LVT_MASK | APIC_MODE_MASK,
    APIC_LVTPC: _LVT_MASK | APIC_MODE_MASK,
    APIC_LVT0: _LINT_MASK,
    APIC_LVT1: _LINT_MASK,
    APIC_LVTERR: _LVT_MASK,
}
# x2APIC: the bits that may be set in a write; any other raises #GP.
X2APIC_WRITABLE: Final[dict[int, int]] = {
    APIC_TASKPRI: 0xFF,
    APIC_EOI: 0,
    APIC_SPIV: APIC_VECTOR_MASK | APIC_SPIV_APIC_ENABLED | APIC_SPIV_FOCUS_DISABLED,
    APIC_ESR: 0,
    APIC_CMCI: _LVT_MASK | APIC_MODE_MASK,
    # The destination half is free; the low half has its reserved bits checked.
    APIC_ICR: 0xFFFFFFFF00000000
    | APIC_VECTOR_MASK
    | APIC_MODE_MASK
    | APIC_DEST_LOGICAL
    | APIC_INT_ASSERT
    | APIC_INT_LEVELTRIG
    | APIC_SHORT_MASK,
    APIC_TMICT: 0xFFFFFFFFFFFFFFFF,
    APIC_TDCR: APIC_TDR_DIV_MASK,
    APIC_SELF_IPI: APIC_VECTOR_MASK,
    **LVT_BITS,
}
X2APIC_READABLE: Final = frozenset(
    [
        APIC_ID,
        APIC_LVR,
        APIC_TASKPRI,
        APIC_PROCPRI,
        APIC_LDR,
        APIC_SPIV,
        APIC_ESR,
        APIC_ICR,
        APIC_CMCI,
        *LVT_REGISTERS,
        APIC_TMICT,
        APIC_TMCCT,
        APIC_TDCR,
        *(base + 0x10 * i for base in (APIC_ISR, APIC_TMR, APIC_IRR) for i in range(8)),
    ]
)

REGISTER_NAMES: Final[dict[int, str]] = {
    APIC_ID: "ID",
    APIC_LVR: "LVR",
    APIC_TASKPRI: "TPR",
    APIC_ARBPRI: "APR",
    APIC_PROCPRI: "PPR",
    APIC_EOI: "EOI",
    APIC_RRR: "RRR",
    APIC_LDR: "LDR",
    APIC_DFR: "DFR",
    APIC_SPIV: "SVR",
    APIC_ESR: "ESR",
    APIC_CMCI: "LVT_CMCI",
    APIC_ICR: "ICR",
    APIC_ICR2: "ICR2",
    APIC_LVTT: "LVT_TIMER",
    APIC_LVTTHMR: "LVT_THERMAL",
    APIC_LVTPC: "LVT_PC",
    APIC_LVT0: "LVT_LINT0",
    APIC_LVT1: "LVT_LINT1",
    APIC_LVTERR: "LVT_ERROR",
    APIC_TMICT: "TIMER_INITIAL",
    APIC_TMCCT: "TIMER_CURRENT",
    APIC_TDCR: "TIMER_DIVIDE",
    APIC_SELF_IPI: "SELF_IPI",
    **{APIC_ISR + 0x10 * i: f"ISR{i}" for i in range(8)},
    **{APIC_TMR + 0x10 * i: f"TMR{i}" for i in range(8)},
    **{APIC_IRR + 0x10 * i: f"IRR{i}" for i in range(8)},
}
"""Short names for traces and crash reports."""

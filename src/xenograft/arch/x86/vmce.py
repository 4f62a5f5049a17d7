# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine check registers of a vCPU: there, and never with an error in them.

A kernel looks into them at its start, PV kernels too.  Facts: cpu/mcheck/vmce.c of Xen 4.17, to
which guest_rdmsr() and guest_wrmsr() hand these MSRs for guests of all kinds.
"""

from __future__ import annotations

from typing import Final

from xenograft.arch.x86 import msr_index as m

GUEST_MC_BANK_NUM: Final = 2
MCG_CAP: Final[dict[str, int]] = {
    # software error recovery, threshold-based error status, CMCI
    "GenuineIntel": 1 << 24 | 1 << 11 | 1 << 10 | GUEST_MC_BANK_NUM,
    "AuthenticAMD": GUEST_MC_BANK_NUM,
}


class MachineCheck:
    """The machine check registers of one vCPU."""

    __slots__ = ("mcg_status", "mci_ctl2")

    def __init__(self) -> None:
        self.mcg_status = 0
        self.mci_ctl2 = [0] * GUEST_MC_BANK_NUM

    def read(self, msr: int, vendor: str) -> int | None:
        """RDMSR; None: it's no such register. Banks beyond the last read 0, as in Xen."""
        if msr == m.MSR_IA32_MCG_CAP:
            return MCG_CAP.get(vendor, GUEST_MC_BANK_NUM)
        if msr == m.MSR_IA32_MCG_STATUS:
            return self.mcg_status
        if msr in (m.MSR_IA32_MCG_CTL, m.MSR_P5_MC_ADDR, m.MSR_P5_MC_TYPE):
            return 0
        if 0 <= (bank := msr - m.MSR_IA32_MC0_CTL2) < 32:
            return self.mci_ctl2[bank] if bank < GUEST_MC_BANK_NUM else 0
        if 0 <= (offset := msr - m.MSR_IA32_MC0_CTL) < 4 * 32:
            is_ctl = offset & 3 == 0 and offset // 4 < GUEST_MC_BANK_NUM
            return 0xFFFFFFFFFFFFFFFF if is_ctl else 0
        return None

    def write(self, msr: int, value: int) -> bool | None:
        """WRMSR; False: #GP(0), None: it's no such register."""
        if msr == m.MSR_IA32_MCG_STATUS:
            self.mcg_status = value
            return True
        if msr in (m.MSR_IA32_MCG_CTL, m.MSR_IA32_MCG_CAP):
            return True
        if msr == m.MSR_IA32_MCG_EXT_CTL:
            return False
        if 0 <= (bank := msr - m.MSR_IA32_MC0_CTL2) < 32:
            if bank < GUEST_MC_BANK_NUM:
                self.mci_ctl2[bank] = value
            return True
        if 0 <= (offset := msr - m.MSR_IA32_MC0_CTL) < 4 * 32:
            # Status, address and misc of a bank that exists can only be cleared.
            return offset & 3 == 0 or offset // 4 >= GUEST_MC_BANK_NUM or value == 0
        return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug registers of PV guests, by hypercall and by instruction.

Facts: set_debugreg() and x86emul_read_dr() of Xen 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.arch.x86.registers import X86_CR4_DE

if TYPE_CHECKING:
    from xenograft.engine.pv import PvCpu

DR7_GENERAL_DETECT = 1 << 13
DR7_ACTIVE_MASK = 0xFF
DR_IO = 2
HYPERVISOR_VIRT_START = 0xFFFF_8000_0000_0000
HYPERVISOR_VIRT_END = 0xFFFF_8800_0000_0000


def _number(cpu: PvCpu, reg: int) -> int:
    """DR4 and DR5 are other names of DR6 and DR7 unless CR4.DE is set."""
    if reg in (4, 5):
        if cpu.pv_get("cr4") & X86_CR4_DE:
            raise XenError(Errno.ENODEV)
        return reg + 2
    if not 0 <= reg <= 7:
        raise XenError(Errno.ENODEV)
    return reg


def _address_fine(value: int, bits: int) -> bool:
    if bits == 32:
        return value < 0xF580_0000
    return value < 1 << 47 or value >= HYPERVISOR_VIRT_END


def set_debugreg(cpu: PvCpu, reg: int, value: int, bits: int = 64) -> None:
    """Raises XenError: ENODEV (no such register), EINVAL (reserved bits), EPERM."""
    reg = _number(cpu, reg)
    if reg < 4:
        if not _address_fine(value, bits):
            raise XenError(Errno.EPERM)
        cpu.set(f"dr{reg}", value)
        cpu.flush_tlb()  # what is watched is noted in its entries
        return
    if value >> 32:
        raise XenError(Errno.EINVAL)
    if reg == 6:
        cpu.set("dr6", value & ~0x1000 | 0xFFFF0FF0)
        return
    value = value & ~0xD800 | 0x400
    if value & DR7_GENERAL_DETECT:
        raise XenError(Errno.EPERM)
    for index in range(4):
        if value & DR7_ACTIVE_MASK and value >> (16 + 4 * index) & 3 == DR_IO:
            if not cpu.pv_get("cr4") & X86_CR4_DE:
                raise XenError(Errno.EPERM)
            value &= ~(3 << 2 * index)  # port accesses never reach the processor
    cpu.set("dr7", value)
    cpu.flush_tlb()


def get_debugreg(cpu: PvCpu, reg: int) -> int:
    """Raises XenError(ENODEV)."""
    return cpu.get(f"dr{_number(cpu, reg)}")

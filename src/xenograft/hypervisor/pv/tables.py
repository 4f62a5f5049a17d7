# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV guest's own page tables, looked at from outside (Xen's map_guest_l1e)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from xenograft.engine.protocol import PAGE_SHIFT

if TYPE_CHECKING:
    from xenograft.engine.pv import PvCpu
    from xenograft.hypervisor.vcpu import Vcpu

PTE_P = 1
MFN_MASK = 0x000F_FFFF_FFFF_F000
_XEN_SLOTS = range(256, 272)


def l1_entry(vcpu: Vcpu, va: int) -> int | None:
    """Machine address of the entry that maps `va` in the vCPU's kernel page tables, or None."""
    domain = vcpu.domain
    memory, frames = domain.memory, domain.hypervisor.frames
    compat = domain.bits == 32
    if vcpu.cpu is None or (compat and va >> 32) or (not compat and va >> 39 & 511 in _XEN_SLOTS):
        return None
    table = cast("PvCpu", vcpu.cpu).pv_get("kernel_table")
    for shift in (30, 21) if compat else (39, 30, 21):
        entry = memory.read_u64((table << PAGE_SHIFT) + (va >> shift & 511) * 8)
        table = (entry & MFN_MASK) >> PAGE_SHIFT
        if not entry & PTE_P or not frames.valid(table):
            return None
    return (table << PAGE_SHIFT) + (va >> 12 & 511) * 8

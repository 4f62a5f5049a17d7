# SPDX-License-Identifier: GPL-2.0-or-later
"""public/arch-x86/pmu.h: performance counters, the part that is x86's."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, Union, octets, u8, u16, u32, u64, x64

# xen_pmu_arch.pmu_flags.
PMU_CACHED = 1 << 0
PMU_SAMPLE_USER = 1 << 1
PMU_SAMPLE_REAL = 1 << 2
PMU_SAMPLE_PV = 1 << 3

# Room kept for larger contexts.
XENPMU_REGS_PAD_SZ = 64
XENPMU_CTXT_PAD_SZ = 128


class xen_pmu_amd_ctxt(Struct):
    """AMD's counters; the registers follow."""

    counters: u32
    ctrls: u32


class xen_pmu_cntr_pair(Struct):
    """A counter and its control register."""

    counter: u64
    control: u64


class xen_pmu_intel_ctxt(Struct):
    """Intel's counters; the registers follow."""

    fixed_counters: u32
    arch_counters: u32
    global_ctrl: x64
    global_ovf_ctrl: x64
    global_status: u64
    fixed_ctrl: x64
    ds_area: u64
    pebs_enable: u64
    debugctl: u64


class xen_pmu_regs(Struct):
    """Registers of the interrupted vCPU."""

    ip: u64
    sp: u64
    flags: x64
    cs: u16
    ss: u16
    cpl: u8
    pad: Annotated[bytes, octets(3)]


class _xen_pmu_arch_r(Union):
    regs: xen_pmu_regs
    pad: Annotated[bytes, octets(64)]


class _xen_pmu_arch_l(Union):
    lapic_lvtpc: u32
    pad: u64


class _xen_pmu_arch_c(Union):
    amd: xen_pmu_amd_ctxt
    intel: xen_pmu_intel_ctxt
    pad: Annotated[bytes, octets(128)]


class xen_pmu_arch(Struct):
    """The part of xen_pmu_data that is of the architecture."""

    r: _xen_pmu_arch_r
    pmu_flags: x64
    l: _xen_pmu_arch_l  # noqa: E741
    c: _xen_pmu_arch_c

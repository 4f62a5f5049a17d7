# SPDX-License-Identifier: GPL-2.0-or-later
"""MSRs of PV guests: what Xen emulates when a PV kernel reads or writes one.

Facts: read_msr() and write_msr() in xen/arch/x86/pv/emul-priv-op.c, guest_rdmsr() and
guest_wrmsr() in xen/arch/x86/msr.c of Xen 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import XenError
from xenograft.arch.x86 import msr_index as m
from xenograft.arch.x86 import pv
from xenograft.arch.x86.msr import DE_CFG_LFENCE_SERIALISE, FEATURE_CONTROL_LOCK
from xenograft.arch.x86.registers import is_canonical
from xenograft.arch.x86.vmce import MachineCheck
from xenograft.engine.protocol import PAGE_SHIFT

if TYPE_CHECKING:
    from xenograft.hypervisor.pv.platform import PvPlatform
    from xenograft.hypervisor.vcpu import Vcpu

_PERF_CAPABILITIES = 0x345
XEN_MSR_PAT = 0x050100070406
"""WB, WT, UC-, UC, WC, WP, UC, UC: Xen's own, for all PV guests."""
APIC_DEFAULT = 0xFEE00000 | 1 << 11
APIC_BSP = 1 << 8
_MISC_ENABLE = 1 << 0 | 1 << 11 | 1 << 12 | 1 << 23
_K8_PSTATES = (0xC0010041, 0xC0010042, *range(0xC0010061, 0xC001006C))
_BASES = {
    m.MSR_FS_BASE: "fs.base",
    m.MSR_GS_BASE: "gs.base",
    m.MSR_SHADOW_GS_BASE: "kernel_gs_base",
}


class PvMsrs:
    """The MSRs of one PV vCPU."""

    def __init__(self, platform: PvPlatform, vcpu: Vcpu) -> None:
        self._platform = platform
        self._vcpu = vcpu
        self.mce = MachineCheck()

    def read(self, index: int) -> int | None:
        """RDMSR by the guest's kernel; None: #GP."""
        policy, cpu = self._platform.policy, self._vcpu.cpu
        assert cpu is not None
        wide = self._vcpu.domain.bits == 64
        if index in _BASES:
            return cpu.get(_BASES[index]) if policy.has("lm") else None
        if index == m.MSR_EFER:
            return pv.EFER if wide else pv.EFER & ~0x501
        if index == m.MSR_APIC_BASE:
            return APIC_DEFAULT | (0 if self._vcpu.vcpu_id else APIC_BSP)
        if index == m.MSR_TSC_AUX:
            return cpu.get("tsc_aux") if policy.has("rdtscp") else None
        if index == m.MSR_IA32_TSC:
            return cpu.tsc()
        if index == m.MSR_ARCH_CAPABILITIES:
            return policy.arch_capabilities if policy.has("arch-caps") else None
        if (value := self.mce.read(index, policy.vendor)) is not None:
            return value
        value = _CONSTANTS.get(index)
        return _BY_VENDOR.get(policy.vendor, {}).get(index) if value is None else value

    def write(self, index: int, value: int) -> bool:
        """WRMSR by the guest's kernel; False: #GP."""
        policy, cpu = self._platform.policy, self._vcpu.cpu
        assert cpu is not None
        if index in _BASES:
            if not policy.has("lm") or not is_canonical(value):
                return False
            cpu.set(_BASES[index], value)
            return True
        if index == m.MSR_EFER:
            return value == self.read(m.MSR_EFER)
        if index == m.MSR_TSC_AUX:
            if value >> 32 or not policy.has("rdtscp"):
                return False
            cpu.set("tsc_aux", value)
            return True
        if index in (m.MSR_IA32_UCODE_REV, m.MSR_IA32_MISC_ENABLE, m.MSR_XEN_HYPERCALL_PAGE):
            return index != m.MSR_XEN_HYPERCALL_PAGE or self._hypercall_page(value)
        if index == m.MSR_INTEL_MISC_FEATURES_ENABLES:
            return value == 0
        if (done := self.mce.write(index, value)) is not None:
            return done
        return index in _COUNTERS.get(policy.vendor, ())

    def _hypercall_page(self, value: int) -> bool:
        """Fill a page of the guest's with hypercall code; other pages than 0 are unknown."""
        domain = self._vcpu.domain
        if value & 0xFFF:
            return False
        try:
            mfn = domain.get_writable_frame(value >> PAGE_SHIFT)
        except XenError:
            return False
        domain.memory.write(mfn << PAGE_SHIFT, pv.hypercall_page(domain.bits))
        domain.put_frame(mfn)
        return True


# Performance counters without a vPMU: reads give 0, writes are dropped.
_COUNTERS: dict[str, frozenset[int]] = {
    "GenuineIntel": frozenset(
        (*range(0xC1, 0xC9), *range(0x186, 0x18A), *range(0x309, 0x30C), *range(0x38D, 0x391))
    ),
    "AuthenticAMD": frozenset((*range(0xC0010000, 0xC0010008), *range(0xC0010200, 0xC001020C))),
}
_BY_VENDOR = {
    "GenuineIntel": {
        m.MSR_IA32_FEATURE_CONTROL: FEATURE_CONTROL_LOCK,
        m.MSR_IA32_PERF_STATUS: 0,
        m.MSR_IA32_PERF_CTL: 0,
        m.MSR_IA32_THERM_STATUS: 0,
        **dict.fromkeys(_COUNTERS["GenuineIntel"], 0),
    },
    "AuthenticAMD": {
        m.MSR_AMD64_DE_CFG: DE_CFG_LFENCE_SERIALISE,
        **dict.fromkeys(_K8_PSTATES, 0),
        **dict.fromkeys(_COUNTERS["AuthenticAMD"], 0),
    },
}
_CONSTANTS = {
    m.MSR_IA32_CR_PAT: XEN_MSR_PAT,
    m.MSR_IA32_MISC_ENABLE: _MISC_ENABLE,
    _PERF_CAPABILITIES: 0,
    m.MSR_IA32_PLATFORM_ID: 0,
    m.MSR_IA32_UCODE_REV: 0,
    m.MSR_INTEL_MISC_FEATURES_ENABLES: 0,
    m.MSR_INTEL_PLATFORM_INFO: 0,
}

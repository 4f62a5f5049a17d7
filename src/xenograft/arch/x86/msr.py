# SPDX-License-Identifier: GPL-2.0-or-later
"""Model-specific registers of HVM-type guests: who keeps each, what it does, what raises #GP.

The engine itself keeps the hot ones (`ENGINE_MSRS`, for `Cpu.pass_msrs`).  All others exit and
are answered here, as Xen 4.17 does with Viridian off and the vPMU off: guest_rdmsr() and
guest_wrmsr() in xen/arch/x86/msr.c, hvm_msr_read_intercept() and its kin in hvm/hvm.c,
vmx/vmx.c and svm/svm.c.  An MSR that isn't named here raises #GP.

A read gives an int, or None for #GP(0); a write gives True, or False for #GP(0).  Deviation
from Xen: CPUID faulting isn't offered (MSR_INTEL_PLATFORM_INFO reads 0).
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from xenograft.arch.x86 import msr_index as m
from xenograft.arch.x86 import registers as r
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.arch.x86.mtrr import FIXED, MSR_IA32_MTRR_PHYSBASE0, MTRR_VCNT, Mtrr
from xenograft.arch.x86.platform.apicdef import MSR_X2APIC_FIRST, MSR_X2APIC_LAST
from xenograft.arch.x86.platform.lapic import LocalApic
from xenograft.arch.x86.pvh import efer_error
from xenograft.arch.x86.vmce import GUEST_MC_BANK_NUM, MachineCheck

ENGINE_MSRS: Final = (
    m.MSR_IA32_SYSENTER_CS,
    m.MSR_IA32_SYSENTER_ESP,
    m.MSR_IA32_SYSENTER_EIP,
    m.MSR_STAR,
    m.MSR_LSTAR,
    m.MSR_CSTAR,
    m.MSR_SYSCALL_MASK,
    m.MSR_FS_BASE,
    m.MSR_GS_BASE,
    m.MSR_SHADOW_GS_BASE,
)
"""Kept by the engine, which checks addresses for being canonical."""

SPEC_CTRL_IBRS: Final = 1 << 0
SPEC_CTRL_STIBP: Final = 1 << 1
SPEC_CTRL_SSBD: Final = 1 << 2
SPEC_CTRL_PSFD: Final = 1 << 7
PRED_CMD_IBPB: Final = 1 << 0
FLUSH_CMD_L1D: Final = 1 << 0
MISC_ENABLE: Final = 1 << 0 | 1 << 11 | 1 << 12
"""BTS and PEBS are unavailable; fast strings (bit 0) are on: Linux copies pages by REP MOVS."""
FEATURE_CONTROL_LOCK: Final = 1 << 0
DE_CFG_LFENCE_SERIALISE: Final = 1 << 1
UCODE_REVISION: Final = 1 << 32

_PAT_TYPES: Final = frozenset((0, 1, 4, 5, 6, 7))

# Reads give 0 and writes are dropped: performance counters without a vPMU, branch records.
_INTEL_VOID: Final = frozenset(
    [
        *range(0x40, 0x48),
        *range(0x60, 0x68),
        *range(0xC1, 0xC9),
        *range(0x186, 0x18E),
        0x1C9,
        *range(0x1DB, 0x1DF),
        *range(0x309, 0x30C),
        *range(0x38D, 0x391),
        0x3F1,
        0x600,
    ]
)
_AMD_VOID: Final = frozenset(
    [
        m.MSR_K8_SYSCFG,
        m.MSR_K8_TOP_MEM1,
        m.MSR_K8_TOP_MEM2,
        m.MSR_K8_HWCR,
        m.MSR_K8_VM_CR,
        m.MSR_AMD64_EX_CFG,
        *range(0xC0010000, 0xC0010008),
        *range(0xC0010200, 0xC001020C),
    ]
)
_MTRRS: Final = frozenset(
    [
        0xFE,
        0x2FF,
        *FIXED,
        *range(MSR_IA32_MTRR_PHYSBASE0, MSR_IA32_MTRR_PHYSBASE0 + 2 * MTRR_VCNT),
    ]
)

HYPERCALL_ENTRIES: Final = 128
HYPERCALL_IRET: Final = 23


def hypercall_page(vendor: str = "GenuineIntel") -> bytes:
    """The page that a write to Xen's MSR fills: 128 stubs of 32 bytes.

    Each loads its number into EAX, traps and returns; HYPERVISOR_iret, which HVM-type guests
    don't have, is an undefined instruction.  The code is the same in 32 and 64-bit mode.
    """
    trap = bytes.fromhex("0f01d9" if vendor == "AuthenticAMD" else "0f01c1")
    page = bytearray()
    for number in range(HYPERCALL_ENTRIES):
        stub = b"\xb8" + number.to_bytes(4, "little") + trap + b"\xc3"
        page += (b"\x0f\x0b" if number == HYPERCALL_IRET else stub).ljust(32, b"\xcc")
    return bytes(page)


class MsrEffects(Protocol):
    """What MSRs change outside of themselves; the vCPU provides it."""

    def msr_get(self, register: str) -> int:
        """A register of the engine: efer, cr0, pat, tsc_aux."""
        ...

    def msr_set(self, register: str, value: int) -> None: ...

    def msr_guest_tsc(self) -> int:
        """The TSC as RDTSC would read it now."""
        ...

    def msr_adjust_tsc(self, delta: int) -> None:
        """Add `delta` (modulo 2**64) to the vCPU's TSC, and renew its time record."""
        ...

    def msr_fill_page(self, gfn: int, page: bytes) -> bool:
        """Write a whole page of guest memory; False if it isn't writable RAM."""
        ...


class MsrRecord(msgspec.Struct, frozen=True):
    """The saved MSRs of one vCPU, but for those in the engine and in the local APIC."""

    tsc_adjust: int
    spec_ctrl: int
    debugctl: int
    mcg_status: int
    mci_ctl2: tuple[int, ...]
    mtrr_def_type: int
    mtrr_fixed: tuple[int, ...]
    mtrr_variable: tuple[int, ...]


class VcpuMsrs:
    """The emulated MSRs of one vCPU of an HVM-type guest."""

    __slots__ = (
        "_effects",
        "_lapic",
        "debugctl",
        "mce",
        "mtrr",
        "policy",
        "spec_ctrl",
        "tsc_adjust",
    )

    def __init__(
        self, policy: CpuPolicy, lapic: LocalApic, effects: MsrEffects, *, pvh: bool = True
    ) -> None:
        self.policy = policy
        self._lapic = lapic
        self._effects = effects
        self.tsc_adjust = 0
        self.spec_ctrl = 0
        self.debugctl = 0
        self.mce = MachineCheck()
        self.mtrr = Mtrr(pvh)

    def engine_msrs(self) -> list[int]:
        """The MSRs that the engine is to keep (`Cpu.pass_msrs`)."""
        return list(ENGINE_MSRS)

    def save(self) -> MsrRecord:
        return MsrRecord(
            tsc_adjust=self.tsc_adjust,
            spec_ctrl=self.spec_ctrl,
            debugctl=self.debugctl,
            mcg_status=self.mce.mcg_status,
            mci_ctl2=tuple(self.mce.mci_ctl2),
            mtrr_def_type=self.mtrr.def_type,
            mtrr_fixed=tuple(self.mtrr.fixed),
            mtrr_variable=tuple(self.mtrr.variable),
        )

    def restore(self, record: MsrRecord) -> None:
        """Raises ValueError if the record has another number of MTRRs or banks."""
        shape = (len(record.mci_ctl2), len(record.mtrr_fixed), len(record.mtrr_variable))
        if shape != (GUEST_MC_BANK_NUM, len(FIXED), 2 * MTRR_VCNT):
            raise ValueError(f"MSR record of another shape: {shape}")
        self.tsc_adjust = record.tsc_adjust
        self.spec_ctrl = record.spec_ctrl
        self.debugctl = record.debugctl
        self.mce.mcg_status = record.mcg_status
        self.mce.mci_ctl2 = list(record.mci_ctl2)
        self.mtrr.def_type = record.mtrr_def_type
        self.mtrr.fixed = list(record.mtrr_fixed)
        self.mtrr.variable = list(record.mtrr_variable)

    def reset(self) -> None:
        """What a reset of the vCPU (INIT) does: TSC_ADJUST is 0 again."""
        self.tsc_adjust = 0

    # -- RDMSR --------------------------------------------------------------------------------

    def read(self, msr: int) -> int | None:
        """RDMSR; None: #GP(0)."""
        if MSR_X2APIC_FIRST <= msr <= MSR_X2APIC_LAST:
            return self._lapic.read_x2apic(msr)
        if msr in _MTRRS:
            return self.mtrr.read(msr) if self.policy.has("mtrr") else None
        if msr in (m.MSR_AMD64_NB_CFG, m.MSR_K8_ENABLE_C1E):
            return 0
        effects = self._effects
        match msr:
            case m.MSR_APIC_BASE:
                return self._lapic.apic_base
            case m.MSR_IA32_TSC:
                return effects.msr_guest_tsc()
            case m.MSR_IA32_TSC_ADJUST:
                return self.tsc_adjust
            case m.MSR_IA32_TSC_DEADLINE:
                return self._lapic.read_tsc_deadline()
            case m.MSR_EFER:
                return effects.msr_get("efer")
            case m.MSR_IA32_CR_PAT:
                return effects.msr_get("pat")
            case m.MSR_TSC_AUX:
                return effects.msr_get("tsc_aux") if self._has_tsc_aux() else None
            case m.MSR_SPEC_CTRL:
                return self.spec_ctrl if self._has_spec_ctrl() else None
            case m.MSR_ARCH_CAPABILITIES:
                return self.policy.arch_capabilities if self.policy.has("arch-caps") else None
            case (
                m.MSR_INTEL_PLATFORM_INFO
                | m.MSR_INTEL_MISC_FEATURES_ENABLES
                | m.MSR_XEN_HYPERCALL_PAGE
            ):
                return 0
            case m.MSR_IA32_UCODE_REV:
                return UCODE_REVISION
        if (value := self.mce.read(msr, self.policy.vendor)) is not None:
            return value
        return self._read_amd(msr) if self._is_amd() else self._read_intel(msr)

    def _read_intel(self, msr: int) -> int | None:
        match msr:
            case m.MSR_IA32_FEATURE_CONTROL:
                return FEATURE_CONTROL_LOCK
            case m.MSR_IA32_MISC_ENABLE:
                return MISC_ENABLE
            case m.MSR_IA32_DEBUGCTLMSR:
                return self.debugctl
            case _ if msr in _INTEL_VOID or msr in (
                m.MSR_IA32_PLATFORM_ID,
                m.MSR_IA32_PERF_STATUS,
                m.MSR_IA32_PERF_CTL,
                m.MSR_IA32_THERM_STATUS,
            ):
                return 0
        return None

    def _read_amd(self, msr: int) -> int | None:
        if msr == m.MSR_AMD64_DE_CFG:
            return DE_CFG_LFENCE_SERIALISE
        if msr == m.MSR_IA32_DEBUGCTLMSR:
            return self.debugctl
        return 0 if msr in _AMD_VOID else None

    # -- WRMSR --------------------------------------------------------------------------------

    def write(self, msr: int, value: int) -> bool:
        """WRMSR of a 64-bit value; False: #GP(0)."""
        if MSR_X2APIC_FIRST <= msr <= MSR_X2APIC_LAST:
            return self._lapic.write_x2apic(msr, value)
        if msr in _MTRRS:
            if not self.policy.has("mtrr"):
                return False
            return self.mtrr.write(msr, value, self.policy.phys_bits)
        match msr:
            case m.MSR_APIC_BASE:
                return self._lapic.write_apic_base(value, self.policy.has("x2apic"))
            case m.MSR_IA32_TSC:
                self._adjust_tsc(value - self._effects.msr_guest_tsc())
                return True
            case m.MSR_IA32_TSC_ADJUST:
                self._adjust_tsc(value - self.tsc_adjust)
                return True
            case m.MSR_IA32_TSC_DEADLINE:
                self._lapic.write_tsc_deadline(value)
                return True
            case m.MSR_EFER:
                return self._write_efer(value)
            case m.MSR_IA32_CR_PAT:
                if not all(byte in _PAT_TYPES for byte in value.to_bytes(8, "little")):
                    return False
                self._effects.msr_set("pat", value)
                return True
            case m.MSR_TSC_AUX:
                if not self._has_tsc_aux() or value >> 32:
                    return False
                self._effects.msr_set("tsc_aux", value)
                return True
            case m.MSR_XEN_HYPERCALL_PAGE:
                return self._write_hypercall_page(value)
            case m.MSR_INTEL_MISC_FEATURES_ENABLES:
                return value == 0
            case m.MSR_AMD64_NB_CFG:
                return True
        if msr in (m.MSR_SPEC_CTRL, m.MSR_PRED_CMD, m.MSR_FLUSH_CMD):
            return self._write_speculation(msr, value)
        if (done := self.mce.write(msr, value)) is not None:
            return done
        return self._write_amd(msr, value) if self._is_amd() else self._write_intel(msr, value)

    def _adjust_tsc(self, delta: int) -> None:
        self.tsc_adjust = (self.tsc_adjust + delta) & 0xFFFFFFFFFFFFFFFF
        self._effects.msr_adjust_tsc(delta & 0xFFFFFFFFFFFFFFFF)

    def _write_efer(self, value: int) -> bool:
        """LMA follows LME and paging, and LME can't change while paging is on."""
        value &= ~r.EFER_LMA
        old = self._effects.msr_get("efer")
        if efer_error(self.policy, value):
            return False
        if (value ^ old) & r.EFER_LME and self._effects.msr_get("cr0") & r.X86_CR0_PG:
            return False
        self._effects.msr_set("efer", value | old & r.EFER_LMA)
        return True

    def _write_hypercall_page(self, value: int) -> bool:
        """The low 12 bits are the number of the page; there is one, page 0."""
        if value & 0xFFF:
            return False
        return self._effects.msr_fill_page(value >> 12, hypercall_page(self.policy.vendor))

    def _write_speculation(self, msr: int, value: int) -> bool:
        """Accepted where the policy shows the control; there is nothing to be done."""
        has = self.policy.has
        if msr == m.MSR_SPEC_CTRL:
            valid = SPEC_CTRL_IBRS | SPEC_CTRL_STIBP
            valid |= SPEC_CTRL_SSBD if has("ssbd") or has("amd-ssbd") else 0
            valid |= SPEC_CTRL_PSFD if has("intel-psfd") or has("psfd") else 0
            if not self._has_spec_ctrl() or value & ~valid:
                return False
            self.spec_ctrl = value
            return True
        if msr == m.MSR_PRED_CMD:
            return (has("ibrsb") or has("ibpb")) and not value & ~PRED_CMD_IBPB
        return has("l1d-flush") and not value & ~FLUSH_CMD_L1D

    def _write_intel(self, msr: int, value: int) -> bool:
        match msr:
            case m.MSR_IA32_UCODE_REV:
                return value == 0
            case m.MSR_IA32_MISC_ENABLE:
                return value == MISC_ENABLE
            case m.MSR_IA32_DEBUGCTLMSR:
                if value & ~3:  # LBR and BTF
                    return False
                self.debugctl = value
                return True
        return msr in _INTEL_VOID or msr in (m.MSR_IA32_UCODE_WRITE, m.MSR_IA32_PERF_CTL)

    def _write_amd(self, msr: int, value: int) -> bool:
        if msr == m.MSR_IA32_DEBUGCTLMSR:
            self.debugctl = value
            return True
        return msr in _AMD_VOID or msr == m.MSR_AMD64_DE_CFG

    # -- what the policy says -----------------------------------------------------------------

    def _is_amd(self) -> bool:
        return self.policy.vendor == "AuthenticAMD"

    def _has_tsc_aux(self) -> bool:
        return self.policy.has("rdtscp") or self.policy.has("rdpid")

    def _has_spec_ctrl(self) -> bool:
        return self.policy.has("ibrsb") or self.policy.has("ibrs")

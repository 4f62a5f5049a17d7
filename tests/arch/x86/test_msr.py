# SPDX-License-Identifier: GPL-2.0-or-later
"""Model-specific registers: values, #GP, effects."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.arch.x86.platform.test_lapic import Effects as LapicEffects
from xenograft.arch.x86 import msr_index as m
from xenograft.arch.x86 import registers as r
from xenograft.arch.x86.cpuid.parse import parse
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.arch.x86.msr import (
    ENGINE_MSRS,
    HYPERCALL_IRET,
    MISC_ENABLE,
    MsrRecord,
    VcpuMsrs,
    hypercall_page,
)
from xenograft.arch.x86.platform.lapic import LocalApic

AMD = (
    "0:ebx=01101000011101000111010101000001,"
    "ecx=01000100010011010100000101100011,edx=01101001011101000110111001100101"
)


class Effects:
    def __init__(self) -> None:
        self.registers = {"efer": 0, "cr0": 0, "pat": r.MSR_IA32_CR_PAT_RESET, "tsc_aux": 0}
        self.tsc = 1_000_000
        self.pages: dict[int, bytes] = {}
        self.ram = range(0x100)

    def msr_get(self, register: str) -> int:
        return self.registers[register]

    def msr_set(self, register: str, value: int) -> None:
        self.registers[register] = value

    def msr_guest_tsc(self) -> int:
        return self.tsc

    def msr_adjust_tsc(self, delta: int) -> None:
        self.tsc = (self.tsc + delta) % 2**64

    def msr_fill_page(self, gfn: int, page: bytes) -> bool:
        if gfn not in self.ram:
            return False
        self.pages[gfn] = page
        return True


@pytest.fixture
def effects() -> Effects:
    return Effects()


def make(effects: Effects, *options: str, pvh: bool = True) -> VcpuMsrs:
    policy = CpuPolicy.make(edits=parse(options))
    return VcpuMsrs(policy, LocalApic(0, LapicEffects()), effects, pvh=pvh)


@pytest.fixture
def msrs(effects: Effects) -> VcpuMsrs:
    return make(effects)


@pytest.mark.parametrize(
    ("msr", "value"),
    [
        (m.MSR_APIC_BASE, 0xFEE00900),
        (m.MSR_IA32_PLATFORM_ID, 0),
        (m.MSR_IA32_FEATURE_CONTROL, 1),
        (m.MSR_INTEL_PLATFORM_INFO, 0),
        (m.MSR_INTEL_MISC_FEATURES_ENABLES, 0),
        (m.MSR_IA32_MISC_ENABLE, 0x1801),
        (m.MSR_IA32_MCG_CAP, 0x01000C02),
        (m.MSR_IA32_MCG_STATUS, 0),
        (m.MSR_IA32_MC0_CTL, 0xFFFFFFFFFFFFFFFF),
        (m.MSR_IA32_MC0_CTL + 8, 0),  # a third bank, which isn't there
        (m.MSR_IA32_PERF_STATUS, 0),
        (m.MSR_IA32_THERM_STATUS, 0),
        (m.MSR_IA32_CR_PAT, r.MSR_IA32_CR_PAT_RESET),
        (0x2FF, 0x806),
        (m.MSR_XEN_HYPERCALL_PAGE, 0),
        (m.MSR_AMD64_NB_CFG, 0),
        (0x186, 0),
    ],
)
def test_what_a_pvh_guest_reads(msrs: VcpuMsrs, msr: int, value: int) -> None:
    assert msrs.read(msr) == value


@pytest.mark.parametrize(
    "msr",
    [
        0x35,
        m.MSR_SPEC_CTRL,
        m.MSR_PRED_CMD,
        m.MSR_FLUSH_CMD,
        m.MSR_ARCH_CAPABILITIES,
        m.MSR_IA32_MCG_EXT_CTL,
        m.MSR_AMD64_DE_CFG,
        m.MSR_K8_HWCR,
        0x802,
        0x40000001,
        0x400002FF,
        0xC0010117,
        0xDEADBEEF,
    ],
)
def test_unknown_and_hidden_registers_fault(msrs: VcpuMsrs, msr: int) -> None:
    assert msrs.read(msr) is None
    assert not msrs.write(msr, 0)


def test_the_engine_keeps_the_registers_of_system_calls(msrs: VcpuMsrs) -> None:
    assert msrs.engine_msrs() == list(ENGINE_MSRS)
    assert m.MSR_LSTAR in ENGINE_MSRS
    assert m.MSR_EFER not in ENGINE_MSRS


# -- EFER ------------------------------------------------------------------------------


def test_efer(msrs: VcpuMsrs, effects: Effects) -> None:
    assert msrs.write(m.MSR_EFER, r.EFER_LME | r.EFER_NXE | r.EFER_SCE)
    assert effects.registers["efer"] == r.EFER_LME | r.EFER_NXE | r.EFER_SCE
    effects.registers["cr0"] = r.X86_CR0_PG
    effects.registers["efer"] |= r.EFER_LMA
    assert not msrs.write(m.MSR_EFER, r.EFER_NXE)
    assert msrs.write(m.MSR_EFER, r.EFER_LME)
    assert msrs.read(m.MSR_EFER) == r.EFER_LME | r.EFER_LMA


@pytest.mark.parametrize("value", [1 << 13, 1 << 63, r.EFER_SVME, r.EFER_FFXSE])
def test_efer_refuses_what_the_policy_hides(msrs: VcpuMsrs, effects: Effects, value: int) -> None:
    assert not msrs.write(m.MSR_EFER, value)
    assert effects.registers["efer"] == 0


def test_efer_without_nx_and_long_mode(effects: Effects) -> None:
    msrs = make(effects, "host,nx=0,lm=0")
    assert not msrs.write(m.MSR_EFER, r.EFER_NXE)
    assert not msrs.write(m.MSR_EFER, r.EFER_LME)


def test_lma_in_a_write_is_ignored(msrs: VcpuMsrs, effects: Effects) -> None:
    assert msrs.write(m.MSR_EFER, r.EFER_LMA)
    assert effects.registers["efer"] == 0


# -- TSC -------------------------------------------------------------------------------


def test_writing_the_tsc_moves_tsc_adjust(msrs: VcpuMsrs, effects: Effects) -> None:
    assert msrs.write(m.MSR_IA32_TSC, 5_000_000)
    assert effects.tsc == 5_000_000
    assert msrs.read(m.MSR_IA32_TSC_ADJUST) == 4_000_000
    assert msrs.write(m.MSR_IA32_TSC_ADJUST, 0)
    assert effects.tsc == 1_000_000
    msrs.write(m.MSR_IA32_TSC, 0)
    assert msrs.read(m.MSR_IA32_TSC_ADJUST) == 2**64 - 1_000_000
    msrs.reset()
    assert msrs.read(m.MSR_IA32_TSC_ADJUST) == 0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_tsc_arithmetic_is_modulo_64_bits(first: int, second: int) -> None:
    effects = Effects()
    msrs = make(effects)
    assert msrs.write(m.MSR_IA32_TSC, first)
    assert msrs.read(m.MSR_IA32_TSC) == first
    assert msrs.write(m.MSR_IA32_TSC_ADJUST, second)
    assert msrs.read(m.MSR_IA32_TSC_ADJUST) == second
    assert effects.tsc == (1_000_000 + second) % 2**64


def test_tsc_aux(msrs: VcpuMsrs, effects: Effects) -> None:
    assert msrs.write(m.MSR_TSC_AUX, 0x1234)
    assert msrs.read(m.MSR_TSC_AUX) == 0x1234
    assert not msrs.write(m.MSR_TSC_AUX, 1 << 32)
    hidden = make(effects, "host,rdtscp=0")
    assert hidden.read(m.MSR_TSC_AUX) is None
    assert not hidden.write(m.MSR_TSC_AUX, 0)


# -- the APIC's ----------------------------------------------------------------------------


def test_apic_base_and_x2apic_go_to_the_apic(msrs: VcpuMsrs) -> None:
    assert msrs.write(m.MSR_APIC_BASE, 0xFEE00D00)
    assert msrs.read(0x803) == 0x50014
    assert not msrs.write(0x803, 0)
    assert msrs.write(0x80F, 0x1FF)


def test_x2apic_can_be_hidden(effects: Effects) -> None:
    assert not make(effects, "host,x2apic=0").write(m.MSR_APIC_BASE, 0xFEE00D00)


# -- the hypercall page -----------------------------------------------------------------------


def test_a_write_fills_the_hypercall_page(msrs: VcpuMsrs, effects: Effects) -> None:
    assert msrs.write(m.MSR_XEN_HYPERCALL_PAGE, 0x12000)
    page = effects.pages[0x12]
    assert len(page) == 4096
    assert page[17 * 32 :][:9] == bytes.fromhex("b811000000 0f01c1 c3")
    assert page[HYPERCALL_IRET * 32 :][:2] == b"\x0f\x0b"
    assert page[31] == 0xCC


def test_the_trap_is_the_vendors() -> None:
    assert hypercall_page("AuthenticAMD")[5:8] == bytes.fromhex("0f01d9")


@pytest.mark.parametrize("value", [0x12001, 0x12FFF, 0x1000 << 12, 2**64 - 4096])
def test_a_bad_hypercall_page_faults(msrs: VcpuMsrs, effects: Effects, value: int) -> None:
    assert not msrs.write(m.MSR_XEN_HYPERCALL_PAGE, value)
    assert effects.pages == {}


# -- memory types, machine checks, speculation ---------------------------------------------------


def test_pat(msrs: VcpuMsrs, effects: Effects) -> None:
    assert msrs.write(m.MSR_IA32_CR_PAT, 0x0407050600070106)
    assert effects.registers["pat"] == 0x0407050600070106
    assert not msrs.write(m.MSR_IA32_CR_PAT, 0x0407050600070102)


def test_mtrrs_follow_their_feature(effects: Effects) -> None:
    assert make(effects, pvh=False).read(0x2FF) == 0
    hidden = make(effects, "host,mtrr=0")
    assert hidden.read(0xFE) is None
    assert not hidden.write(0x2FF, 6)


def test_machine_check_banks(msrs: VcpuMsrs) -> None:
    assert msrs.write(m.MSR_IA32_MC0_CTL, 5)
    assert msrs.read(m.MSR_IA32_MC0_CTL) == 2**64 - 1
    for register in (1, 2, 3):
        assert msrs.write(m.MSR_IA32_MC0_CTL + register, 0)
        assert not msrs.write(m.MSR_IA32_MC0_CTL + register, 1)
    assert msrs.write(m.MSR_IA32_MC0_CTL + 9, 1)  # no such bank
    assert msrs.write(m.MSR_IA32_MC0_CTL2 + 1, 0x40000001)
    assert msrs.read(m.MSR_IA32_MC0_CTL2 + 1) == 0x40000001
    assert msrs.write(m.MSR_IA32_MC0_CTL2 + 2, 7)
    assert msrs.read(m.MSR_IA32_MC0_CTL2 + 2) == 0
    assert msrs.write(m.MSR_IA32_MCG_STATUS, 4)
    assert msrs.read(m.MSR_IA32_MCG_STATUS) == 4


def test_speculation_controls_appear_with_their_features(effects: Effects) -> None:
    msrs = make(effects, "host,ibrsb=1,stibp=1,ssbd=1,l1d-flush=1,arch-caps=1,rdcl-no=1")
    assert msrs.write(m.MSR_SPEC_CTRL, 7)
    assert msrs.read(m.MSR_SPEC_CTRL) == 7
    assert not msrs.write(m.MSR_SPEC_CTRL, 8)
    assert msrs.write(m.MSR_PRED_CMD, 1)
    assert not msrs.write(m.MSR_PRED_CMD, 2)
    assert msrs.read(m.MSR_PRED_CMD) is None
    assert msrs.write(m.MSR_FLUSH_CMD, 1)
    assert not msrs.write(m.MSR_FLUSH_CMD, 2)
    assert msrs.read(m.MSR_ARCH_CAPABILITIES) == 1
    assert not msrs.write(m.MSR_ARCH_CAPABILITIES, 1)
    without = make(effects, "host,ibrsb=1")
    assert not without.write(m.MSR_SPEC_CTRL, 4)


def test_intel_registers(msrs: VcpuMsrs) -> None:
    assert msrs.write(m.MSR_IA32_MISC_ENABLE, MISC_ENABLE)
    assert not msrs.write(m.MSR_IA32_MISC_ENABLE, MISC_ENABLE ^ 1)
    assert msrs.write(m.MSR_IA32_UCODE_REV, 0)
    assert not msrs.write(m.MSR_IA32_UCODE_REV, 1)
    assert msrs.write(m.MSR_IA32_DEBUGCTLMSR, 3)
    assert msrs.read(m.MSR_IA32_DEBUGCTLMSR) == 3
    assert not msrs.write(m.MSR_IA32_DEBUGCTLMSR, 4)
    assert msrs.write(m.MSR_IA32_PERF_CTL, 0xFFFF)
    assert not msrs.write(m.MSR_IA32_PERF_STATUS, 0)
    assert not msrs.write(m.MSR_IA32_FEATURE_CONTROL, 1)
    assert msrs.write(m.MSR_INTEL_MISC_FEATURES_ENABLES, 0)
    assert not msrs.write(m.MSR_INTEL_MISC_FEATURES_ENABLES, 1)


def test_amd_registers(effects: Effects) -> None:
    msrs = make(effects, AMD)
    assert msrs.policy.vendor == "AuthenticAMD"
    assert msrs.read(m.MSR_AMD64_DE_CFG) == 2
    assert msrs.read(m.MSR_K8_HWCR) == 0
    assert msrs.write(m.MSR_K8_SYSCFG, 5)
    assert msrs.read(m.MSR_K8_SYSCFG) == 0
    assert msrs.read(m.MSR_IA32_MISC_ENABLE) is None
    assert msrs.read(m.MSR_IA32_MCG_CAP) == 2


# -- state -----------------------------------------------------------------------------------


def test_save_and_restore(msrs: VcpuMsrs, effects: Effects) -> None:
    msrs.write(m.MSR_IA32_TSC_ADJUST, 77)
    msrs.write(m.MSR_IA32_MC0_CTL2, 1)
    msrs.write(0x201, 0xFFF0000800)
    msrs.write(0x250, 0x0606060606060606)
    msrs.write(m.MSR_IA32_DEBUGCTLMSR, 1)
    record = msrs.save()
    copy = make(effects)
    copy.restore(msgspec.json.decode(msgspec.json.encode(record), type=MsrRecord))
    assert copy.save() == record
    assert copy.read(0x201) == 0xFFF0000800
    with pytest.raises(ValueError, match="shape"):
        copy.restore(msgspec.structs.replace(record, mtrr_fixed=()))


@given(st.integers(0, 2**32 - 1) | st.integers(0, 0x1000), st.integers(0, 2**64 - 1))
def test_no_access_of_a_guest_does_harm(msr: int, value: int) -> None:
    effects = Effects()
    msrs = make(effects)
    msrs.write(msr, value)
    found = msrs.read(msr)
    assert found is None or 0 <= found < 2**64


def test_names() -> None:
    assert m.NAMES[m.MSR_EFER] == "EFER"
    assert m.NAMES[0x40000000] == "XEN_HYPERCALL_PAGE"

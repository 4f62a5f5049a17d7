# SPDX-License-Identifier: GPL-2.0-or-later
"""Register states: PVH entry, reset, start-up, and VCPUOP_initialise with its checks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.hvm.hvm_vcpu import (
    VCPU_HVM_MODE_32B,
    VCPU_HVM_MODE_64B,
    vcpu_hvm_context,
)
from xenograft.arch.x86 import pvh
from xenograft.arch.x86 import registers as r
from xenograft.arch.x86.cpuid.parse import parse
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.arch.x86.pvh import Segment, segment

POLICY = CpuPolicy.make()


def test_pvh_entry_is_as_the_boot_abi_says() -> None:
    state = pvh.pvh_entry(0x1000000, 0x9000)
    assert state["rip"] == 0x1000000
    assert state["rbx"] == 0x9000
    assert state["cr0"] & ~r.X86_CR0_ET == r.X86_CR0_PE
    assert state["cr4"] == 0
    assert state["efer"] == 0
    assert segment(state, "cs") == Segment(0, 0, 0xFFFFFFFF, 0xC9B)
    for name in ("ds", "es", "ss"):
        assert segment(state, name) == Segment(0, 0, 0xFFFFFFFF, 0xC93)
    assert segment(state, "tr") == Segment(0, 0, 0x67, 0x8B)
    assert state["rflags"] & (r.X86_EFLAGS_IF | r.X86_EFLAGS_TF | r.X86_EFLAGS_VM) == 0
    assert state["pat"] == 0x0007040600070406


@pytest.mark.parametrize(
    "state",
    [
        pvh.pvh_entry(0, 0),
        pvh.reset_state(),
        pvh.reset_state(power_on=True),
        pvh.init_state(),
        pvh.startup_state(0x9A),
        pvh.fresh_state(),
    ],
)
def test_states_name_known_registers(state: pvh.State) -> None:
    assert state.keys() <= pvh.REGISTER_NAMES
    assert {*pvh.GPRS, "rip", "rflags", "cr0", "cr3", "cr4", "efer"} <= state.keys()
    for name in pvh.SEGMENTS:
        segment(state, name)


def test_reset_begins_at_the_reset_vector_of_xen() -> None:
    state = pvh.reset_state()
    assert segment(state, "cs") == Segment(0xF000, 0xF0000, 0xFFFF, 0x9B)
    assert state["rip"] == 0xFFF0
    assert state["cr0"] == 0x10


def test_init_leaves_msrs_alone() -> None:
    assert pvh.init_state().keys().isdisjoint(pvh.MSR_REGISTERS)
    assert pvh.reset_state(power_on=True).keys() == pvh.REGISTER_NAMES


@pytest.mark.parametrize("vector", [0, 8, 0x9A, 0xFF])
def test_a_start_up_ipi_begins_at_its_page(vector: int) -> None:
    state = pvh.startup_state(vector)
    assert segment(state, "cs").base + state["rip"] == vector << 12
    assert segment(state, "cs").sel == vector << 8


# -- VCPUOP_initialise ---------------------------------------------------------------------


def context_32(**changes: Any) -> vcpu_hvm_context:
    context = vcpu_hvm_context(mode=VCPU_HVM_MODE_32B)
    regs = context.cpu_regs.x86_32
    fields: dict[str, Any] = {
        "eip": 0x100000,
        "esp": 0x2000,
        "eax": 0x11,
        "cr0": r.X86_CR0_PE,
        "cs_limit": 0xFFFFFFFF,
        "ds_limit": 0xFFFFFFFF,
        "ss_limit": 0xFFFFFFFF,
        "es_limit": 0xFFFFFFFF,
        "tr_limit": 0x67,
        "cs_ar": 0xC9B,
        "ds_ar": 0xC93,
        "ss_ar": 0xC93,
        "es_ar": 0xC93,
        "tr_ar": 0x8B,
    }
    for name, value in {**fields, **changes}.items():
        setattr(context if name in ("mode", "pad") else regs, name, value)
    context.cpu_regs.x86_32 = regs
    return context


def context_64(**changes: Any) -> vcpu_hvm_context:
    context = vcpu_hvm_context(mode=VCPU_HVM_MODE_64B)
    regs = context.cpu_regs.x86_64
    fields = {
        "rip": 0xFFFFFFFF81000000,
        "rsp": 0xFFFFC90000010000,
        "cr0": r.X86_CR0_PE | r.X86_CR0_PG,
        "cr3": 0x5000,
        "cr4": r.X86_CR4_PAE,
        "efer": r.EFER_LME,
        "rflags": 0,
    }
    for name, value in {**fields, **changes}.items():
        setattr(regs, name, value)
    context.cpu_regs.x86_64 = regs
    return context


def test_initialise_in_32_bit_mode() -> None:
    state = pvh.initialise_state(context_32(), POLICY)
    assert state["rip"] == 0x100000
    assert state["rsp"] == 0x2000
    assert state["rax"] == 0x11
    assert state["rflags"] == r.X86_EFLAGS_MBS
    assert segment(state, "cs") == Segment(0, 0, 0xFFFFFFFF, 0xC9B)
    assert segment(state, "fs") == Segment()
    assert state.keys() <= pvh.REGISTER_NAMES


def test_accessed_and_busy_bits_are_set() -> None:
    state = pvh.initialise_state(context_32(cs_ar=0xC9A, ss_ar=0xC92, tr_ar=0x89), POLICY)
    assert state["cs.attr"] == 0xC9B
    assert state["ss.attr"] == 0xC93
    assert state["tr.attr"] == 0x8B


def test_ds_and_es_may_be_null() -> None:
    state = pvh.initialise_state(context_32(ds_ar=0, es_ar=0), POLICY)
    assert state["ds.attr"] == 0


def test_limits_in_pages_become_bytes() -> None:
    state = pvh.initialise_state(context_32(cs_limit=0xFFFFF), POLICY)
    assert state["cs.limit"] == 0xFFFFFFFF


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": 2},
        {"pad": 1},
        {"pad1": 1},
        {"pad2": b"\0\0\0\0\1\0"},
        {"cs_ar": 0},
        {"ss_ar": 0},
        {"tr_ar": 0},
        {"cs_ar": 0x1C9B},
        {"cs_ar": 0xC93},  # data
        {"cs_ar": 0xC8B},  # a system segment
        {"cs_ar": 0xC1B},  # not present
        {"ss_ar": 0xC9B},  # code
        {"ss_ar": 0xC91},  # read-only
        {"ds_ar": 0xC99},  # execute-only
        {"es_ar": 0xC13},  # not present
        {"tr_ar": 0xC93},  # a data segment
        {"tr_ar": 0x82},  # an LDT
        {"tr_ar": 0x0B},  # not present
        {"eip": 0x10000, "cs_ar": 0x49B, "cs_limit": 0xFFFF},
        {"ss_ar": 0xCF3},  # DPL 3 with a CS of DPL 0
        {"ds_ar": 0xCF3},
        {"es_ar": 0xCF3},
        {"efer": r.EFER_LMA},
        {"efer": 1 << 13},
        {"cr4": r.X86_CR4_PCIDE},
        {"cr4": 1 << 31},
    ],
    ids=str,
)
def test_32_bit_contexts_that_xen_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(XenError) as raised:
        pvh.initialise_state(context_32(**changes), POLICY)
    assert raised.value.errno == Errno.EINVAL


def test_a_dpl_3_start_is_allowed_when_all_agree() -> None:
    context = context_32(cs_ar=0xCFB, ss_ar=0xCF3, ds_ar=0xCF3, es_ar=0xC93)
    assert segment(pvh.initialise_state(context, POLICY), "cs").dpl == 3


def test_initialise_in_64_bit_mode() -> None:
    state = pvh.initialise_state(context_64(), POLICY)
    assert state["rip"] == 0xFFFFFFFF81000000
    assert state["efer"] == r.EFER_LME | r.EFER_LMA
    assert state["cs.attr"] == 0xA9B
    assert state["cs.attr"] & pvh.ATTR_L
    assert segment(state, "tr") == Segment(0, 0, 0x67, 0x8B)
    assert state.keys() <= pvh.REGISTER_NAMES


@pytest.mark.parametrize(
    "changes",
    [
        {"rip": 1 << 47},
        {"cr0": r.X86_CR0_PE},
        {"cr4": 0},
        {"efer": r.EFER_NXE},
        {"cr4": r.X86_CR4_PAE | 1 << 12},
        {"efer": r.EFER_LME | 1 << 20},
    ],
    ids=str,
)
def test_64_bit_contexts_that_xen_refuses(changes: dict[str, int]) -> None:
    with pytest.raises(XenError) as raised:
        pvh.initialise_state(context_64(**changes), POLICY)
    assert raised.value.errno == Errno.EINVAL


def test_compatibility_mode_by_the_32_bit_structure() -> None:
    long = {"efer": r.EFER_LME, "cr0": r.X86_CR0_PE | r.X86_CR0_PG, "cr4": r.X86_CR4_PAE}
    state = pvh.initialise_state(context_32(**long), POLICY)
    assert state["efer"] & r.EFER_LMA
    # LME without paging stays prepared, not active.
    state = pvh.initialise_state(context_32(efer=r.EFER_LME), POLICY)
    assert not state["efer"] & r.EFER_LMA


@given(st.binary(min_size=256, max_size=256), st.integers(0, 2))
def test_any_bytes_give_a_state_or_einval(data: bytes, mode: int) -> None:
    raw = mode.to_bytes(4, "little") + bytes(4) + data
    context = vcpu_hvm_context.unpack(raw[: vcpu_hvm_context.sizeof()])
    try:
        state = pvh.initialise_state(context, POLICY)
    except XenError as error:
        errno, state = error.errno, {}
    else:
        errno = Errno.EINVAL
    assert errno == Errno.EINVAL
    assert state.keys() <= pvh.REGISTER_NAMES


# -- control registers ----------------------------------------------------------------------


def test_cr4_follows_the_policy() -> None:
    bits = pvh.cr4_valid_bits(POLICY)
    assert bits & r.X86_CR4_PAE
    assert bits & r.X86_CR4_OSXSAVE
    assert not bits & (r.X86_CR4_PCIDE | r.X86_CR4_UMIP | r.X86_CR4_VME)
    less = CpuPolicy.make(edits=parse("host,xsave=0,smep=0"))
    assert not pvh.cr4_valid_bits(less) & (r.X86_CR4_OSXSAVE | r.X86_CR4_SMEP)


@pytest.mark.parametrize(
    ("efer", "paging", "valid"),
    [
        (0, True, True),
        (r.EFER_SCE | r.EFER_LME | r.EFER_LMA | r.EFER_NXE, True, True),
        (r.EFER_LME | r.EFER_LMA, False, False),
        (r.EFER_LMA, True, False),
        (r.EFER_SVME, True, False),
        (1 << 13, True, False),
    ],
)
def test_efer(efer: int, paging: bool, valid: bool) -> None:
    assert (pvh.efer_error(POLICY, efer, paging) == "") is valid

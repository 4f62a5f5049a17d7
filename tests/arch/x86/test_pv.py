# SPDX-License-Identifier: GPL-2.0-or-later
"""What a PV CPU begins with, and the decoder of privileged instructions."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.arch_x86 import xen as abi
from xenograft.arch.x86 import pv
from xenograft.arch.x86 import registers as r
from xenograft.arch.x86.cpuid.parse import parse
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.arch.x86.pv_decode import MAX_LENGTH, Insn, Op, decode


def descriptor(page: bytes, selector: int) -> int:
    (found,) = struct.unpack_from("<Q", page, (selector & 0xFFF) & ~7)
    return int(found)


@pytest.mark.parametrize(
    ("bits", "selector", "kind", "dpl", "long_mode"),
    [
        (64, abi.FLAT_RING3_CS64, 0xB, 3, 1),
        (64, abi.FLAT_RING3_CS32, 0xB, 3, 0),
        (64, abi.FLAT_RING3_SS64, 3, 3, 0),
        (32, abi.FLAT_RING1_CS, 0xB, 1, 0),
        (32, abi.FLAT_RING1_DS, 3, 1, 0),
        (32, abi.FLAT_RING3_CS, 0xB, 3, 0),
        (32, abi.FLAT_RING3_DS, 3, 3, 0),
    ],
)
def test_the_flat_segments(bits: int, selector: int, kind: int, dpl: int, long_mode: int) -> None:
    found = descriptor(pv.reserved_gdt(bits), selector)
    assert (found >> 40 & 0xF, found >> 45 & 3, found >> 53 & 1) == (kind, dpl, long_mode)
    assert found >> 47 & 1
    assert found >> 55 & 1
    assert found & 0xFFFF == 0xFFFF


def test_hypercall_pages() -> None:
    page = pv.hypercall_page(64)
    assert page[32 * 7 :][:14] == bytes.fromhex("51 41 53 b8 07 00 00 00 0f 05 41 5b 59 c3")
    assert page[32 * 23 :][:11] == bytes.fromhex("51 41 53 50 b8 17 00 00 00 0f 05")
    page = pv.hypercall_page(32)
    assert page[32 * 7 :][:8] == bytes.fromhex("b8 07 00 00 00 cd 82 c3")
    assert page[32 * 23 :][:8] == bytes.fromhex("50 b8 17 00 00 00 cd 82")


def test_a_guests_cr4() -> None:
    policy = CpuPolicy.make(hvm=False)
    asked = r.X86_CR4_OSXSAVE | r.X86_CR4_FSGSBASE | r.X86_CR4_SMEP | r.X86_CR4_PGE
    found = pv.fixup_guest_cr4(policy, asked)
    assert found == pv.PV_CR4_VISIBLE | r.X86_CR4_OSXSAVE | r.X86_CR4_FSGSBASE
    assert pv.make_cr4(found) == found | r.X86_CR4_PGE
    without = CpuPolicy.make(hvm=False, edits=parse("host,xsave=0,fsgsbase=0"))
    assert pv.fixup_guest_cr4(without, asked) == pv.PV_CR4_VISIBLE


@pytest.mark.parametrize("bits", [64, 32])
def test_the_kernels_first_registers(bits: int) -> None:
    state = pv.kernel_state(3, bits, entry=0x1000, stack=0x2000, start_info=0x3000)
    assert (state["rip"], state["rsp"], state["rsi"]) == (0x1000, 0x2000, 0x3000)
    assert state["cs.sel"] & 3 == (3 if bits == 64 else 1)
    assert state["rflags"] == 0x202
    assert state["gdtr.base"] == 0xFFFF820000000000 + 3 * 0x20000
    assert state["tr.limit"] < 0x67  # no I/O bitmap


@pytest.mark.parametrize(
    ("code", "insn"),
    [
        ("fa", Insn(Op.CLI, 1)),
        ("fb", Insn(Op.STI, 1)),
        ("e4 60", Insn(Op.IN, 2, 1, 0x60)),
        ("66 e7 80", Insn(Op.OUT, 3, 2, 0x80)),
        ("ec", Insn(Op.IN, 1, 1)),
        ("ef", Insn(Op.OUT, 1, 4)),
        ("f3 6d", Insn(Op.INS, 2, 4, rep=True)),
        ("6e", Insn(Op.OUTS, 1, 1)),
        ("0f 06", Insn(Op.CLTS, 2)),
        ("0f 09", Insn(Op.WBINVD, 2)),
        ("0f 20 d8", Insn(Op.READ_CR, 3, number=3)),
        ("41 0f 22 e7", Insn(Op.WRITE_CR, 4, number=4, gpr=15)),
        ("44 0f 20 c0", Insn(Op.READ_CR, 4, number=8)),
        ("0f 23 f9", Insn(Op.WRITE_DR, 3, number=7, gpr=1)),
        ("0f 30", Insn(Op.WRMSR, 2)),
        ("0f 32", Insn(Op.RDMSR, 2)),
        ("0f 31", Insn(Op.RDTSC, 2)),
        ("0f 01 f9", Insn(Op.RDTSCP, 3)),
        ("0f 01 d1", Insn(Op.XSETBV, 3)),
        ("0f a2", Insn(Op.CPUID, 2)),
        ("90", None),
        ("f4", None),
        ("0f 01 f8", None),
        ("0f", None),
        ("66", None),
        ("", None),
    ],
)
def test_decode(code: str, insn: Insn | None) -> None:
    assert decode(bytes.fromhex(code), 64) == insn


def test_rex_is_an_instruction_elsewhere() -> None:
    assert decode(bytes.fromhex("41 0f 06"), 64) == Insn(Op.CLTS, 3)
    assert decode(bytes.fromhex("41 0f 06"), 32) is None


@given(st.binary(max_size=20), st.sampled_from([32, 64]))
def test_decode_takes_anything(code: bytes, bits: int) -> None:
    found = decode(code, bits)
    assert found is None or 0 < found.length <= min(len(code), MAX_LENGTH)

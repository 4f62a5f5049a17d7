# SPDX-License-Identifier: GPL-2.0-or-later
"""Privileged instructions of PV kernels, one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hypervisor.pv.support import PvGuest, pv_guest
from xenograft.arch.x86 import msr_index as m
from xenograft.arch.x86 import pv
from xenograft.engine.protocol import PAGE_SHIFT, Exit, ExitReason
from xenograft.hypervisor.pv.emulate import trap_failure

RIP = 0x1000
IN_KERNEL = 1


class Emulator:
    """Runs one instruction of the guest's."""

    def __init__(self, guest: PvGuest) -> None:
        self.guest = guest
        self.cpu = guest.cpu
        guest.domain.space.map(RIP >> PAGE_SHIFT, guest.frames[0])
        self.cpu.paging = {RIP >> PAGE_SHIFT: RIP >> PAGE_SHIFT}

    def run(self, code: str, kernel: int = IN_KERNEL, error: int = 0) -> str:
        """ "done" with the instruction behind us, or "fault"."""
        self.guest.domain.memory.write(self.guest.frames[0] << 12, bytes.fromhex(code).ljust(16))
        exit_: Exit = (ExitReason.EXCEPTION, 15, 13, error, 0, RIP, kernel, 0)
        self.cpu._pending = exit_
        self.cpu.set("rip", RIP)
        self.cpu.answers.clear()
        self.guest.platform.exception(self.guest.domain.vcpus[0], exit_)
        ((_, answer),) = self.cpu.answers
        return str(answer[0])


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with pv_guest() as guest:
        yield Emulator(guest)


def test_control_registers(emulator: Emulator) -> None:
    cpu = emulator.cpu
    cpu.pv_set("kernel_table", 0x123)
    assert emulator.run("0f 20 d8") == "complete"  # mov %cr3, %rax
    assert cpu.get("rax") == 0x123000
    assert emulator.run("0f 20 c3") == "complete"  # mov %cr0, %rbx
    assert cpu.get("rbx") == pv.CR0
    cpu.set("rax", pv.CR0 | pv.X86_CR0_TS)
    assert emulator.run("0f 22 c0") == "complete"
    assert cpu.pv_get("taskswitch") == 1
    assert emulator.run("0f 06") == "complete"  # clts
    assert cpu.pv_get("taskswitch") == 0
    cpu.set("rax", pv.CR0 & ~1)
    assert emulator.run("0f 22 c0") == "fault"
    cpu.set("rax", (1 << 64) - 1)
    assert emulator.run("0f 22 e0") == "complete"  # mov %rax, %cr4
    assert cpu.pv_get("cr4") & 1 << 18
    assert not cpu.pv_get("cr4") & 1 << 20
    assert emulator.run("0f 20 e1") == "complete"
    assert cpu.get("rcx") == cpu.pv_get("cr4")
    cpu.set("rax", 0x456000)
    assert emulator.run("0f 22 d8") == "complete"
    assert cpu.pv_get("kernel_table") == 0x456
    cpu.set("rax", 0x789)
    assert emulator.run("0f 22 d0") == "complete"
    assert emulator.run("0f 20 d6") == "complete"
    assert cpu.get("rsi") == 0x789
    assert emulator.run("44 0f 20 c0") == "fault"  # CR8


def test_the_user_has_none_of_it(emulator: Emulator) -> None:
    for code in ("0f 20 d8", "0f 06", "0f 32", "0f 30", "0f 09", "0f 01 d1", "0f 21 c0"):
        assert emulator.run(code, kernel=0) == "fault", code


@pytest.mark.parametrize("code", ["90", "f4", "0f 01 f8", "0f 00 d8", "c3"])
def test_what_is_not_emulated(emulator: Emulator, code: str) -> None:
    assert emulator.run(code) == "fault"


def test_faults_with_an_error_code_are_the_guests(emulator: Emulator) -> None:
    assert emulator.run("0f 06", error=8) == "fault"


def test_ports_by_privilege(emulator: Emulator) -> None:
    cpu = emulator.cpu
    assert emulator.run("e4 60") == "fault"
    cpu.pv_set("iopl", 1 << 12)
    cpu.set("rax", 0x1234)
    assert emulator.run("e4 60") == "complete"
    assert cpu.get("rax") == 0x12FF
    assert emulator.run("ed") == "complete"
    assert cpu.get("rax") == 0xFFFFFFFF
    assert emulator.run("e6 80") == "complete"
    assert emulator.run("e4 60", kernel=0) == "fault"
    cpu.pv_set("iopl", 3 << 12)
    assert emulator.run("e4 60", kernel=0) == "complete"
    assert emulator.run("fa") == emulator.run("fb") == "complete"
    cpu.pv_set("iopl", 0)
    assert emulator.run("fa") == "fault"
    emulator.guest.domain.vm_assist = 1 << 4  # architectural: the kernel is ring 0 to itself
    assert emulator.run("fa") == "complete"


def test_msrs(emulator: Emulator) -> None:
    cpu = emulator.cpu

    def read(index: int) -> int | None:
        cpu.set("rcx", index)
        if emulator.run("0f 32") == "fault":
            return None
        return cpu.get("rax") | cpu.get("rdx") << 32

    def write(index: int, value: int) -> bool:
        for name, part in (("rcx", index), ("rax", value & 0xFFFFFFFF), ("rdx", value >> 32)):
            cpu.set(name, part)
        return emulator.run("0f 30") == "complete"

    assert read(m.MSR_EFER) == pv.EFER
    assert write(m.MSR_EFER, pv.EFER)
    assert not write(m.MSR_EFER, 0)
    assert write(m.MSR_FS_BASE, 0x1000)
    assert read(m.MSR_FS_BASE) == 0x1000
    assert not write(m.MSR_GS_BASE, 1 << 47)
    assert read(m.MSR_IA32_CR_PAT) == 0x050100070406
    assert read(m.MSR_APIC_BASE) == 0xFEE00900
    assert read(0x12345) is None
    assert not write(0x12345, 0)
    page = emulator.guest.frames[5]
    assert write(m.MSR_XEN_HYPERCALL_PAGE, page << 12)
    assert emulator.guest.domain.memory.read(page << 12, 4) == pv.hypercall_page(64)[:4]
    assert not write(m.MSR_XEN_HYPERCALL_PAGE, page << 12 | 1)
    assert not write(m.MSR_XEN_HYPERCALL_PAGE, 0x1FFF000)


def test_machine_checks_and_counters_that_are_not_there(emulator: Emulator) -> None:
    """Linux panics if one of the first kind can't be read."""
    msrs = emulator.guest.platform.msrs[0]
    vendor = emulator.guest.platform.policy.vendor
    assert vendor == "GenuineIntel"
    assert msrs.read(m.MSR_IA32_MCG_CAP) == 1 << 24 | 1 << 11 | 1 << 10 | 2
    assert msrs.read(m.MSR_IA32_MCG_STATUS) == msrs.read(m.MSR_IA32_MCG_CTL) == 0
    assert msrs.write(m.MSR_IA32_MCG_STATUS, 4)
    assert msrs.read(m.MSR_IA32_MCG_STATUS) == 4
    assert msrs.read(m.MSR_IA32_MC0_CTL) == (1 << 64) - 1
    assert msrs.read(m.MSR_IA32_MC0_CTL + 1) == 0
    assert not msrs.write(m.MSR_IA32_MC0_CTL + 1, 1)
    assert msrs.read(m.MSR_IA32_MCG_EXT_CTL) is None
    for counter in (0xC1, 0x186, 0x309, 0x38F):
        assert msrs.read(counter) == 0
        assert msrs.write(counter, 7)
        assert msrs.read(counter) == 0
    assert msrs.read(0xC0010000) is None
    assert not msrs.write(0xC0010000, 0)


def test_xsetbv(emulator: Emulator) -> None:
    cpu = emulator.cpu
    for rcx, rax, answer in ((0, 3, "complete"), (1, 3, "fault"), (0, 2, "fault"), (0, 7, "fault")):
        cpu.set("rcx", rcx)
        cpu.set("rax", rax)
        cpu.set("rdx", 0)
        assert emulator.run("0f 01 d1") == answer
    assert cpu.get("xcr0") == 3


def test_debug_registers(emulator: Emulator) -> None:
    emulator.cpu.set("rax", 0x4000)
    assert emulator.run("0f 23 c8") == "complete"
    assert emulator.run("0f 21 cb") == "complete"
    assert emulator.cpu.get("rbx") == 0x4000
    emulator.cpu.set("rax", 1 << 40)
    assert emulator.run("0f 23 f8") == "fault"


def test_cpuid_and_time(emulator: Emulator) -> None:
    cpu = emulator.cpu
    cpu.set("rax", 0x40000000)
    assert emulator.run("0f a2") == "complete"
    assert cpu.get("rbx") == 0x566E6558
    assert emulator.run("0f 31") == emulator.run("0f 01 f9") == "complete"
    cpu.pv_set("cr4", 4)
    assert emulator.run("0f 31") == "complete"
    assert emulator.run("0f 31", kernel=0) == "fault"


def test_failures_in_words() -> None:
    def exit_(vector: int) -> Exit:
        return (ExitReason.SHUTDOWN, 0, vector & (1 << 64) - 1, 0x10, 0x20, 0, 0, 0)

    assert trap_failure(exit_(14)) == "Unhandled: vec 14, 0x10 at RIP 0x20"
    assert "stack can't be written" in trap_failure(exit_(-4))
    assert "unknown" in trap_failure(exit_(-99))

# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV vCPU on the native engine: how its kernel is entered and left, and what it can't do."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

pytest.importorskip("xenograft.engine.unicorn")

from tests.engine.assembler import assemble
from tests.engine.pv_bench import (
    BASE,
    CODE,
    DATA,
    HANDLERS,
    KERNEL_CS,
    KERNEL_SS,
    PAGES,
    STACK,
    TABLES,
    USER_STACK,
    PvBench,
)
from tests.engine.pv_model import RW, US, A, P
from xenograft.engine.protocol import AccessError, ExitReason

MASKS_EVENTS = 4
USER = CODE + 0x800
WRITABLE_PAGETABLES = 1 << 2


@pytest.fixture
def guest() -> Iterator[PvBench]:
    bench = PvBench()
    yield bench
    bench.close()


# -- hypercalls --------------------------------------------------------------------------------
def test_a_hypercall_of_the_kernel(guest: PvBench) -> None:
    guest.load("mov $17, %eax; mov $1, %edi; mov $2, %esi; mov $3, %edx; mov $4, %r10\n syscall")
    exit_ = guest.run(ExitReason.HYPERCALL)
    assert exit_[2:7] == (17, 1, 2, 3, 4)
    at = guest.cpu.get("rip")
    guest.load("ud2", at + 2)
    guest.trap(6, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.cpu.complete(0x1234567812345678)
    guest.run(ExitReason.HYPERCALL)
    rcx, r11, rip = guest.frame(3)
    assert (rcx, rip) == (at + 2, at + 2)
    assert r11 & 0x202 == 0x202


def test_a_system_call_and_back(guest: PvBench) -> None:
    guest.cpu.pv_set("syscall", HANDLERS)
    guest.load("mov $0x55, %eax; syscall", USER)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.to_user(USER)
    guest.run(ExitReason.HYPERCALL)
    next_ = USER + 7
    assert guest.cpu.pv_get("user") == 0
    assert guest.cpu.get("rsp") == STACK + 0x1000 - 7 * 8
    rcx, r11, rip, cs, rflags, rsp, ss = guest.frame(7)
    assert (rcx, rip, cs, rsp, ss) == (next_, next_, KERNEL_CS, USER_STACK + 0x1000, KERNEL_SS)
    assert rflags & 0x3202 == 0x202
    assert r11 & 0x202 == 0x202


def test_iret_gives_registers_back(guest: PvBench) -> None:
    guest.trap(6, HANDLERS)
    guest.load("ud2", USER)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.to_user(USER)
    guest.run(ExitReason.HYPERCALL)
    rcx, r11, rip, cs = guest.frame(4)
    assert (rcx, r11, rip, cs) == (0xCC, 0x11, USER, KERNEL_CS)


def test_iret_as_sysret(guest: PvBench) -> None:
    """VGCF_in_syscall: RCX and R11 are what SYSRET leaves behind."""
    guest.trap(6, HANDLERS)
    guest.load("ud2", USER)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.to_user(USER, flags=0x100)
    guest.run(ExitReason.HYPERCALL)
    rcx, r11, rip, _ = guest.frame(4)
    assert (rcx, rip) == (USER, USER)
    assert r11 & 0x202 == 0x202


def test_iret_to_the_kernel_itself(guest: PvBench) -> None:
    guest.load("mov $1, %eax; syscall", USER)
    guest.iret(0x77, 0x11, 0xCC, 0, USER, KERNEL_CS & ~3, 0x2, STACK + 0x400, KERNEL_SS)
    guest.memory.write((guest.info << 12) + 1, b"\0")
    guest.run(ExitReason.HYPERCALL)
    assert guest.cpu.get("rsp") == STACK + 0x400
    assert guest.cpu.get("cs.sel") == KERNEL_CS
    assert guest.memory.read((guest.info << 12) + 1, 1) == b"\1"  # as the frame's flags say


@pytest.mark.parametrize("rip", [1 << 47, (1 << 64) - (1 << 47) - 1])
def test_iret_to_no_address(guest: PvBench, rip: int) -> None:
    guest.trap(13, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.to_user(rip)
    guest.run(ExitReason.HYPERCALL)
    _, _, error, at, cs, _, rsp = guest.frame(7)
    assert (error, at, cs & 0xFFFF, rsp) == (0, rip, KERNEL_CS, USER_STACK + 0x1000)


def test_iret_with_a_selector_of_nothing(guest: PvBench) -> None:
    guest.trap(13, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.to_user(USER, cs=0x1233)
    guest.run(ExitReason.HYPERCALL)
    _, _, error, at, cs = guest.frame(5)
    assert (error, at, cs & 0xFFFF) == (0x1230, USER, 0x1233)


def test_iret_to_user_mode_without_tables(guest: PvBench) -> None:
    assert guest.cpu.pv_new_table(0, True) == 0
    guest.to_user(USER)
    assert guest.run(ExitReason.SHUTDOWN)[2] == (1 << 64) - 6


# -- exceptions --------------------------------------------------------------------------------
def test_a_page_fault_of_the_user(guest: PvBench) -> None:
    guest.trap(14, HANDLERS, MASKS_EVENTS)
    guest.load("movb $1, 0x900000", USER)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.to_user(USER)
    guest.run(ExitReason.HYPERCALL)
    _, _, error, rip, cs, rflags, _, _ = guest.frame(8)
    assert (error, rip, cs) == (6, USER, KERNEL_CS)
    assert rflags & 0x200
    assert guest.memory.read_u64((guest.info << 12) + 16) == 0x900000
    assert guest.memory.read((guest.info << 12) + 1, 1) == b"\1"


def test_a_page_fault_of_the_kernel(guest: PvBench) -> None:
    """It was no user's, though the processor thinks so; and its selector has privilege 0."""
    guest.trap(14, HANDLERS)
    guest.load("movb 0x900000, %al")
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.run(ExitReason.HYPERCALL)
    _, _, error, rip, cs, _, rsp, ss = guest.frame(8)
    assert (error, rip, cs & 0xFFFF) == (0, CODE, KERNEL_CS & ~3)
    assert cs >> 32 == 1  # events were masked
    assert (rsp, ss) == (STACK + 0x1000, KERNEL_SS)


def test_flags_are_cleared_on_the_way_in(guest: PvBench) -> None:
    guest.trap(6, HANDLERS)
    guest.load("pushf; orl $0x44000, (%rsp); popf; ud2")  # AC, NT
    guest.load("pushf; mov $1, %eax; syscall", HANDLERS)
    guest.run(ExitReason.HYPERCALL)
    assert guest.u64(guest.cpu.get("rsp")) & 0x44000 == 0
    assert guest.u64(guest.cpu.get("rsp") + 40) & 0x44000 == 0x44000


AMD = [(0, -1, 1, 0x68747541, 0x444D4163, 0x69746E65)]
USER_CS32, USER_SS32 = 0xE023, 0xE02B


def narrow_user(guest: PvBench, text: str) -> None:
    """A user in 32-bit code."""
    guest.memory.write((guest.data[0] << 12) + 0x800, assemble(text, 32, USER))
    guest.to_user(USER, cs=USER_CS32)


@pytest.mark.parametrize("own", [True, False])
def test_a_system_call_of_32_bit_code(guest: PvBench, own: bool) -> None:
    """By its own callback if there is one, else by that of 64-bit code."""
    guest.cpu.set_cpuid(AMD)
    guest.cpu.pv_set("syscall", HANDLERS + 0x100)
    guest.cpu.pv_set("syscall32", HANDLERS if own else 0)
    guest.cpu.pv_set("flags", 0x10)  # system calls mask events
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.load("mov $2, %eax; syscall", HANDLERS + 0x100)
    narrow_user(guest, "syscall")
    assert guest.run(ExitReason.HYPERCALL)[2] == (1 if own else 2)
    rcx, _, rip, cs, _, rsp, ss = guest.frame(7)
    assert (rcx, rip, cs & 0xFFFFFFFF) == (USER + 2, USER + 2, USER_CS32)
    assert (rsp, ss) == (USER_STACK + 0x1000, USER_SS32)
    assert guest.memory.read((guest.info << 12) + 1, 1) == b"\1"


def test_a_system_call_that_the_processor_does_not_have(guest: PvBench) -> None:
    guest.cpu.set_cpuid([(0, -1, 1, 0x756E6547, 0x6C65746E, 0x49656E69)])
    guest.trap(6, HANDLERS)
    guest.cpu.pv_set("syscall32", HANDLERS + 0x100)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    narrow_user(guest, "syscall")
    assert guest.run(ExitReason.HYPERCALL)[2] == 1
    assert guest.frame(4)[2:4] == [USER, USER_CS32]


@pytest.mark.parametrize("masks", [0, 1])
def test_sysenter(guest: PvBench, masks: int) -> None:
    """The processor forgets where it was: Xen makes something up."""
    guest.memory.write((guest.info << 12) + 1, b"\0")
    guest.cpu.pv_set("sysenter", HANDLERS)
    guest.cpu.pv_set("sysenter_masks", masks)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    narrow_user(guest, "mov $7, %ebp; sysenter")
    assert guest.run(ExitReason.HYPERCALL)[2] == 1
    _, _, rip, cs, _, rsp, ss = guest.frame(7)
    assert (rip, cs & 0xFFFF, rsp, ss) == (0, USER_CS32, 0, USER_SS32)
    assert guest.cpu.get("rbp") == 7
    assert guest.memory.read((guest.info << 12) + 1, 1) == bytes([masks])


def test_sysenter_without_a_callback(guest: PvBench) -> None:
    guest.trap(13, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    narrow_user(guest, "sysenter")
    assert guest.run(ExitReason.HYPERCALL)[2] == 1
    assert guest.frame(4)[2:4] == [0, USER]


def test_int3_and_software_interrupts(guest: PvBench) -> None:
    guest.trap(3, HANDLERS)
    guest.trap(0x80, HANDLERS + 0x100, 3)
    guest.trap(0x81, HANDLERS + 0x200, 1)
    guest.trap(13, HANDLERS + 0x300)
    for index in range(4):
        guest.load(f"mov ${index + 1}, %eax; syscall", HANDLERS + 0x100 * index)
    for text, call, length, error in (
        ("int3", 1, 1, None),
        ("int $0x80", 2, 2, None),
        ("int $0x81", 4, 0, 0x81 << 3 | 2),
        ("int $0x85", 4, 0, 0x85 << 3 | 2),
    ):
        guest.load(text, USER)
        guest.to_user(USER)
        exit_ = guest.run(ExitReason.HYPERCALL)
        assert exit_[2] == call, text
        frame = guest.frame(4)
        if error is None:
            assert frame[2] == USER + length
        else:
            assert frame[2:4] == [error, USER]
        guest.cpu.complete(0)


def test_the_kernel_may_use_its_own_interrupts(guest: PvBench) -> None:
    guest.trap(0x81, HANDLERS, 1)
    guest.load("int $0x81")
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.run(ExitReason.HYPERCALL)


def test_a_privileged_instruction_is_left_to_the_hypervisor(guest: PvBench) -> None:
    guest.load("mov $0x1234, %ecx; rdmsr; mov $1, %eax; syscall")
    exit_ = guest.run(ExitReason.EXCEPTION)
    assert exit_[2:4] == (13, 0)
    assert exit_[5:7] == (CODE + 5, 1)
    guest.cpu.set("rdx", 7)
    guest.cpu.complete(2)
    guest.run(ExitReason.HYPERCALL)
    assert guest.cpu.get("rdx") == 7


def test_or_delivered(guest: PvBench) -> None:
    guest.trap(13, HANDLERS)
    guest.load("wrmsr")
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.run(ExitReason.EXCEPTION)
    guest.cpu.fault(13, 0)
    guest.run(ExitReason.HYPERCALL)
    assert guest.frame(4)[2:] == [0, CODE]


def test_ports_fault(guest: PvBench) -> None:
    guest.load("in $0x60, %al")
    assert guest.run(ExitReason.EXCEPTION)[2:4] == (13, 0)


def test_an_exception_without_a_handler(guest: PvBench) -> None:
    guest.load("ud2")
    assert guest.run(ExitReason.SHUTDOWN)[2] == 6


def test_a_stack_that_cannot_be_written(guest: PvBench) -> None:
    guest.trap(6, HANDLERS)
    guest.load("mov $0x900000, %rsp; ud2")
    assert guest.run(ExitReason.SHUTDOWN)[2] == (1 << 64) - 4


def test_a_stack_in_a_page_table(guest: PvBench) -> None:
    """What is pushed must not end in a table that is mapped there for reading."""
    guest.trap(6, HANDLERS)
    guest.load(f"mov ${TABLES + 0x800}, %rsp; ud2")
    before = guest.memory.read(guest.l1 << 12, 4096)
    assert guest.run(ExitReason.SHUTDOWN)[2] == (1 << 64) - 4
    assert guest.memory.read(guest.l1 << 12, 4096) == before


def test_forced_emulation_of_cpuid(guest: PvBench) -> None:
    guest.cpu.set_cpuid([(0x40000000, -1, 1, 2, 3, 4)])
    guest.load("mov $0x40000000, %eax; .byte 0x0f,0x0b,0x78,0x65,0x6e; cpuid; mov $1,%eax; syscall")
    guest.run(ExitReason.HYPERCALL)
    assert [guest.cpu.get(name) for name in ("rbx", "rdx")] == [2, 4]


def test_task_switched(guest: PvBench) -> None:
    guest.trap(7, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    assert guest.cpu.pv_call(5, 1, 0, 0, 0, 0, 0)[:2] == (0, 0)
    guest.load("fnop")
    guest.run(ExitReason.HYPERCALL)
    assert guest.cpu.pv_get("taskswitch") == 0
    assert not guest.cpu.get("cr0") & 8


# -- events ------------------------------------------------------------------------------------
def pend(guest: PvBench, pending: int, mask: int) -> None:
    guest.memory.write(guest.info << 12, bytes([pending, mask]))


def test_an_event(guest: PvBench) -> None:
    guest.cpu.pv_set("event", HANDLERS)
    guest.load("1: jmp 1b")
    guest.load("mov $1, %eax; syscall", HANDLERS)
    pend(guest, 1, 0)
    guest.run(ExitReason.HYPERCALL)
    _, _, rip, cs, rflags = guest.frame(5)
    assert (rip, cs) == (CODE, KERNEL_CS & ~3)
    assert rflags & 0x200
    assert guest.memory.read((guest.info << 12) + 1, 1) == b"\1"


def test_a_masked_event_waits(guest: PvBench) -> None:
    guest.cpu.pv_set("event", HANDLERS)
    guest.load("1: jmp 1b")
    pend(guest, 1, 1)
    guest.run(ExitReason.BUDGET)
    assert guest.cpu.get("rip") == CODE
    pend(guest, 0, 0)
    guest.run(ExitReason.BUDGET)
    assert guest.cpu.get("rip") == CODE


def test_an_event_after_iret_unmasks(guest: PvBench) -> None:
    guest.cpu.pv_set("event", HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.load("1: jmp 1b", USER)
    pend(guest, 1, 1)
    guest.to_user(USER)
    guest.run(ExitReason.HYPERCALL)
    assert guest.frame(4)[2:] == [USER, KERNEL_CS]


def test_an_event_after_a_native_hypercall(guest: PvBench) -> None:
    guest.cpu.pv_set("event", HANDLERS)
    guest.cpu.pv_set("native", 1)
    guest.cpu.fast_hypercalls([(17, 0, 0x40011)])
    guest.load(
        f"mov $0x900, %ebx; movb $0, {DATA}; mov $17, %eax; xor %edi, %edi; syscall\n"
        "next: mov $2, %eax; syscall"
    )
    guest.load("mov $1, %eax; syscall", HANDLERS)
    pend(guest, 1, 0)
    guest.cpu.pv_set("info", (1 << 64) - 1)
    guest.cpu.pv_set("info", guest.info << 12)
    exit_ = guest.run(ExitReason.HYPERCALL)
    assert exit_[2] == 1


# -- page tables -------------------------------------------------------------------------------
def entry_address(slot: int) -> int:
    return TABLES + slot * 8


def test_a_store_to_a_page_table(guest: PvBench) -> None:
    guest.pages.set_assist(WRITABLE_PAGETABLES)
    new = guest.data[9] << 12 | P | US
    guest.load(f"mov ${new}, %rax; mov %rax, {entry_address(40)}; mov $1, %eax; syscall")
    guest.run(ExitReason.HYPERCALL)
    assert guest.entry(guest.l1, 40) & ~0x120 == new
    assert guest.memory.refs(guest.data[9]) == 3
    assert guest.cpu.pv_get("window_writes") == 1


def test_a_read_modify_write_of_a_page_table(guest: PvBench) -> None:
    guest.pages.set_assist(WRITABLE_PAGETABLES)
    guest.load(
        f"lock btr $1, {entry_address(9)}; mov $7, %eax; lock cmpxchg %rax, {entry_address(60)}\n"
        "mov $1, %eax; syscall"
    )
    guest.run(ExitReason.HYPERCALL)
    assert not guest.entry(guest.l1, 9) & RW
    assert guest.memory.types(guest.data[9])[1] == 0


def test_a_store_of_a_bad_entry_faults(guest: PvBench) -> None:
    guest.pages.set_assist(WRITABLE_PAGETABLES)
    guest.trap(14, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    new = guest.l1 << 12 | P | RW | US
    guest.load(f"mov ${new}, %rax; nop; mov %rax, {entry_address(40)}")
    guest.run(ExitReason.HYPERCALL)
    _, _, error, rip = guest.frame(4)
    assert (error, rip) == (3, guest.frame(4)[3])
    assert guest.memory.read_u64((guest.info << 12) + 16) == entry_address(40)
    assert guest.entry(guest.l1, 40) == 0


@pytest.mark.parametrize("assist", [0, WRITABLE_PAGETABLES])
def test_stores_to_higher_tables_fault(guest: PvBench, assist: int) -> None:
    """Only L1 tables are writable so, and only for who asked for it."""
    guest.pages.set_assist(assist)
    guest.trap(14, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    at = TABLES + 0x1000 if assist else entry_address(40)
    guest.load(f"movq $0, {at}")
    guest.run(ExitReason.HYPERCALL)
    assert guest.frame(3)[2] == 3


def test_the_user_cannot_store_to_page_tables(guest: PvBench) -> None:
    guest.pages.set_assist(WRITABLE_PAGETABLES)
    guest.trap(14, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.load(f"movq $0, {entry_address(40)}", USER)
    guest.to_user(USER)
    guest.run(ExitReason.HYPERCALL)
    assert guest.frame(3)[2] == 7


def test_a_stale_translation_is_no_way_into_anothers_page(guest: PvBench) -> None:
    """A neighbour's page that was just written, and is unmapped without a flush."""
    ((theirs, _),) = guest.memory.alloc(6)
    guest.space.map(theirs, theirs)
    slot = (guest.l1 << 12) + 9 * 8
    assert guest.pages.update(slot, theirs << 12 | P | RW | US, 6) == 0
    guest.cpu.pv_set("native", 1)
    guest.trap(14, HANDLERS)
    guest.load("mov $98, %eax; syscall", HANDLERS)
    guest.memory.write(guest.data[1] << 12, slot.to_bytes(8, "little") + bytes(8))
    address = BASE + (9 << 12)
    guest.load(
        f"movl $1, {address}; mov $1, %eax; mov ${DATA}, %edi; mov $1, %esi; xor %edx, %edx\n"
        f"mov $0x7ff0, %r10; syscall; test %eax, %eax; jne 1f; movl $2, {address}\n"
        "1: mov $99, %eax; syscall"
    )
    assert guest.run(ExitReason.HYPERCALL)[2] == 98
    assert guest.memory.read(theirs << 12, 4) == b"\1\0\0\0"
    assert guest.memory.types(theirs)[:2] == (7, 0)


def test_a_stale_translation_is_no_way_into_a_table(guest: PvBench) -> None:
    """A page that was just written loses its writable mapping, and becomes a table, unflushed."""
    victim = BASE + (9 << 12)
    guest.trap(14, HANDLERS)
    guest.load("mov $2, %eax; syscall", HANDLERS)
    guest.load(f"movq $0, {victim}; mov $1, %eax; syscall; movq $7, {victim}")
    assert guest.run(ExitReason.HYPERCALL)[2] == 1
    assert guest.pages.update((guest.l1 << 12) + 9 * 8, guest.data[9] << 12 | P | US) == 0
    assert guest.pages.pin(guest.data[9], 1) == 0
    guest.cpu.complete(0)
    assert guest.run(ExitReason.HYPERCALL)[2] == 2
    assert guest.entry(guest.data[9], 0) == 0


@pytest.mark.parametrize("way", ["table", "hypercall"])
def test_other_vcpus_forget_as_well(guest: PvBench, way: str) -> None:
    """A translation in another vCPU's TLB: gone when the page becomes a table, or on request."""
    address, slot = BASE + (9 << 12), (guest.l1 << 12) + 9 * 8
    guest.load(f"movq $2, {address}; mov $1, %eax; syscall; movq $7, {address}; jmp .", USER)
    other = guest.vcpu(1, USER)
    other.pv_trap(14, 0, 0xE033, HANDLERS)
    guest.load("mov $2, %eax; syscall", HANDLERS)
    assert other.run(100_000)[2] == 1
    other.complete(0)
    if way == "table":
        assert guest.pages.update(slot, guest.data[9] << 12 | P | US) == 0
        assert guest.pages.pin(guest.data[9], 1) == 0
    else:
        guest.cpu.pv_set("native", 1)
        ops = struct.pack("<6Q", 10, 0, 0, 6, 0, 0)  # TLB_FLUSH_ALL, TLB_FLUSH_LOCAL
        guest.memory.write(guest.data[1] << 12, ops)
        assert guest.pages.update(slot, guest.data[9] << 12 | P | US) == 0
        guest.load(
            f"mov $26, %eax; mov ${DATA}, %edi; mov $2, %esi; xor %edx, %edx\n"
            "mov $0x7ff0, %r10d; syscall; mov $99, %eax; syscall"
        )
        assert guest.run(ExitReason.HYPERCALL)[2] == 99
    exit_ = other.run(100_000)
    assert (ExitReason(exit_[0]), exit_[2]) == (ExitReason.HYPERCALL, 2)
    assert guest.entry(guest.data[9], 0) == 2


def test_kernel_and_user_see_their_own_pages(guest: PvBench) -> None:
    """One address, two pages: neither data nor translated code of one is the other's."""
    other_l3, other_l2, other_l1 = guest.data[10], guest.data[11], guest.data[12]
    for page in (10, 11, 12):
        assert guest.pages.update((guest.l1 << 12) + page * 8, 0) == 0
    for page in range(PAGES):
        frame = guest.data[13] if page == 8 else guest.data[page]
        if page not in (10, 11, 12):
            guest.put(other_l1, page, frame << 12 | P | RW | US | A)
    guest.put(other_l2, BASE >> 21, other_l1 << 12 | P | RW | US | A)
    guest.put(other_l3, 0, other_l2 << 12 | P | RW | US | A)
    assert guest.pages.update(guest.user_root << 12, other_l3 << 12 | P | RW | US | A) == 0
    shared = BASE + (8 << 12)
    guest.memory.write(guest.data[8] << 12, b"\xb8\x11\x00\x00\x00\xc3")  # mov $0x11, %eax; ret
    guest.memory.write(guest.data[13] << 12, b"\xb8\x22\x00\x00\x00\xc3")
    guest.cpu.pv_set("syscall", HANDLERS)
    guest.load(f"call {shared}; mov %eax, %ebx; syscall", USER)
    guest.load(f"call {shared}; mov %eax, %r12d; mov $1, %eax; syscall", HANDLERS)
    for _ in range(3):
        guest.to_user(USER)
        guest.run(ExitReason.HYPERCALL)
        assert (guest.cpu.get("rbx"), guest.cpu.get("r12")) == (0x22, 0x11)
        guest.cpu.complete(0)


# -- what the hypervisor reads and writes ------------------------------------------------------
def test_guest_pointers(guest: PvBench) -> None:
    guest.cpu.write(DATA, b"abc")
    assert guest.cpu.read(DATA, 3) == b"abc"
    assert guest.cpu.read(TABLES, 8) == guest.memory.read(guest.l1 << 12, 8)
    for address in (TABLES, 0x900000, 0xFFFF820000000000, 1 << 47):
        with pytest.raises(AccessError):
            guest.cpu.write(address, b"x")
    for address in (0x900000, 0xFFFF820000000000 + (14 << 12)):
        with pytest.raises(AccessError):
            guest.cpu.read(address, 1)
    with pytest.raises(AccessError):
        guest.cpu.write(BASE + (PAGES << 12) - 1, b"xy")
    assert guest.u64(BASE + (PAGES << 12) - 8) == 0


# -- lists of updates --------------------------------------------------------------------------
def call(guest: PvBench, number: int, *args: int) -> int:
    answer, result, _, _ = guest.cpu.pv_call(number, *(*args, 0, 0, 0, 0, 0, 0)[:6])
    assert answer == 0
    return int(result)


def put_words(guest: PvBench, address: int, *words: int) -> None:
    for index, word in enumerate(words):
        guest.memory.write_u64((guest.data[1] << 12) + (address - DATA) + 8 * index, word)


def test_mmu_update_tells_how_far_it_came(guest: PvBench) -> None:
    at = guest.l1 << 12
    put_words(guest, DATA, at + 40 * 8, guest.data[9] << 12 | P, at + 41 * 8, guest.l1 << 12 | 3)
    assert call(guest, 1, DATA, 2, DATA + 0x800, 0x7FF0) == -16
    assert guest.u64(DATA + 0x800) & 0xFFFFFFFF == 1
    assert call(guest, 1, 0x900000, 1, 0, 0x7FF0) == -14


def test_lists_beyond_the_budget_go_on(guest: PvBench) -> None:
    """600 updates in three pages: done in two steps, with chances for others in between."""
    update = (guest.l1 << 12) + 40 * 8, guest.data[9] << 12 | P
    packed = b"".join(word.to_bytes(8, "little") for word in update) * 256
    for page in (5, 6, 7):
        guest.memory.write(guest.data[page] << 12, packed)
    start = BASE + (5 << 12)
    guest.cpu.pv_set("native", 1)
    guest.load(
        f"mov $1, %eax; mov ${start}, %edi; mov $600, %esi; mov ${DATA}, %edx\n"
        "mov $0x7ff0, %r10d; syscall; mov $2, %eax; syscall"
    )
    assert guest.run(ExitReason.HYPERCALL)[2] == 2
    assert guest.u64(DATA) == 600
    answer, _, first, left = guest.cpu.pv_call(1, start, 600, 0, 0x7FF0, 0, 0)
    assert (answer, first, left) == (2, start + 512 * 16, 88 | 0x80000000)


def test_update_va_mapping(guest: PvBench) -> None:
    va = BASE + (9 << 12)
    assert call(guest, 14, va, guest.data[9] << 12 | P | US, 2) == 0
    assert not guest.entry(guest.l1, 9) & RW
    assert call(guest, 14, va, guest.l1 << 12 | P | RW, 0) == -16
    assert call(guest, 14, 0x90000000, 0, 0) == -22
    assert call(guest, 14, 0xFFFF820000000000, 0, 0) == -22
    assert call(guest, 14, va, 0, 1 | 0x900000) == -14  # a mask of vCPUs that isn't there


def test_base_pointers(guest: PvBench) -> None:
    put_words(guest, DATA, 5, guest.user_root, 0)
    assert call(guest, 26, DATA, 1, 0, 0x7FF0) == 0
    assert guest.cpu.pv_get("kernel_table") == guest.user_root
    assert guest.memory.types(guest.l4)[1] == 1
    put_words(guest, DATA, 5, guest.l3, 0)
    assert call(guest, 26, DATA, 1, 0, 0x7FF0) == -22
    put_words(guest, DATA, 15, 0, 0)
    assert call(guest, 26, DATA, 1, 0, 0x7FF0) == 0
    assert guest.cpu.pv_get("user_table") == 0


def test_pages_are_cleared_and_copied_unless_they_are_tables(guest: PvBench) -> None:
    guest.memory.write(guest.data[9] << 12, b"x" * 4096)
    for cmd, mfn, source, result in (
        (17, guest.data[10], guest.data[9], 0),
        (16, guest.data[9], 0, 0),
        (16, guest.l1, 0, -22),
        (17, guest.l1, guest.data[9], -22),
        (17, guest.data[9], guest.info, -22),
        (18, 0, 0, -22),
        (12, 0, 0, -13),
        (19, 0, 0, -95),
        (99, 0, 0, -38),
    ):
        put_words(guest, DATA, cmd, mfn, source)
        assert call(guest, 26, DATA, 1, 0, 0x7FF0) == result, cmd
    assert guest.memory.read(guest.data[9] << 12, 4096) == bytes(4096)
    assert guest.memory.read(guest.data[10] << 12, 4096) == b"x" * 4096


def test_multicall(guest: PvBench) -> None:
    put_words(guest, DATA, 3, 9, KERNEL_SS, STACK, *[0] * 4, 25, 9, 0, 1 << 47)
    put_words(guest, DATA + 128, 17, 9)
    guest.cpu.pv_set("native", 1)
    guest.load(f"mov $13, %eax; mov ${DATA}, %edi; mov $3, %esi; syscall")
    exit_ = guest.run(ExitReason.HYPERCALL)
    # What isn't answered here is left to the hypervisor, with the rest of the list.
    assert exit_[2:5] == (13, DATA + 128, 1)
    assert guest.u64(DATA + 8) == 0
    assert guest.u64(DATA + 64 + 8) == (1 << 64) - 22
    assert guest.cpu.pv_get("kernel_sp") == STACK


# -- segments ----------------------------------------------------------------------------------
DATA_SEGMENT = 0x00CFF2000000FFFF


def test_segments_from_the_guests_tables(guest: PvBench) -> None:
    guest.trap(14, HANDLERS + 0x100)
    for page in (10, 11):
        guest.pages.update((guest.l1 << 12) + page * 8, guest.data[page] << 12 | P | US)
    guest.put(guest.data[10], 1, DATA_SEGMENT | 0x1234 << 16)
    guest.put(guest.data[11], 2, DATA_SEGMENT | 0x4321 << 16)
    assert guest.cpu.pv_set_gdt([guest.data[10]], 512) == 0
    put_words(guest, DATA, 13, BASE + (11 << 12), 8)
    assert call(guest, 26, DATA, 1, 0, 0x7FF0) == 0
    guest.load(
        "mov $11, %eax; mov %eax, %fs; mov $0x17, %eax; mov %eax, %gs; mov $1, %eax; syscall"
    )
    guest.run(ExitReason.HYPERCALL)
    assert (guest.cpu.get("fs.base"), guest.cpu.get("gs.base")) == (0x1234, 0x4321)
    assert guest.memory.types(guest.data[11])[:2] == (5, 1)
    # Nobody can write to descriptors that are in use.
    assert guest.pages.update((guest.l1 << 12) + 88, guest.data[11] << 12 | P | RW) == -16


def test_an_ldt_page_that_is_no_descriptor_page(guest: PvBench) -> None:
    guest.trap(14, HANDLERS)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    put_words(guest, DATA, 13, BASE + (11 << 12), 8)
    assert call(guest, 26, DATA, 1, 0, 0x7FF0) == 0
    guest.load("mov $0x17, %eax; mov %eax, %gs")  # the page is mapped writable
    guest.run(ExitReason.HYPERCALL)
    assert guest.memory.read_u64((guest.info << 12) + 16) == BASE + (11 << 12) + 16


def test_bases(guest: PvBench) -> None:
    assert (
        call(guest, 25, 0, 0x1000) == call(guest, 25, 1, 0x2000) == call(guest, 25, 2, 0x3000) == 0
    )
    names = ("fs.base", "kernel_gs_base", "gs.base")
    assert [guest.cpu.get(name) for name in names] == [0x1000, 0x2000, 0x3000]
    for which in range(3):
        assert call(guest, 25, which, 1 << 47) == -22
    assert call(guest, 25, 9, 0) == -22
    assert call(guest, 25, 3, 0xE02B) == 0
    assert [guest.cpu.get(name) for name in names] == [0x1000, 0, 0x3000]


def test_an_nmi(guest: PvBench) -> None:
    """It needs a handler, asks nobody's mask, and doesn't nest before the next IRET."""
    guest.load("1: jmp 1b", USER)
    guest.load("mov $1, %eax; syscall", HANDLERS)
    guest.cpu.set_nmi()
    guest.to_user(USER)
    guest.run(ExitReason.BUDGET)
    guest.trap(2, HANDLERS, MASKS_EVENTS)
    guest.run(ExitReason.HYPERCALL)
    assert guest.frame(4)[2:] == [USER, KERNEL_CS]
    guest.cpu.complete(0)
    guest.cpu.set_nmi()
    guest.load("1: jmp 1b", guest.cpu.get("rip"))
    guest.run(ExitReason.BUDGET)
    guest.to_user(USER)
    guest.run(ExitReason.HYPERCALL)
    assert guest.frame(4)[2:] == [USER, KERNEL_CS]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Interrupts, exceptions and system calls of the native engine."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.engine.native_machine import (
    CODE,
    DATA,
    HANDLERS,
    IDT,
    KERNEL_CODE,
    KERNEL_DATA,
    STACK,
    USER_CODE,
    USER_DATA,
    Bench,
    bench,
)
from xenograft.engine.protocol import MSR_APIC_BASE, MSR_X2APIC_EOI, ExitReason

LINE = 0x70000
INTEL = (0, -1, 1, *struct.unpack("<III", b"GenuntelineI"))
TO_USER = (
    f"push ${USER_DATA}; push $0x8000; push $0x{{flags:x}}; push ${USER_CODE}; push $user; iretq\n"
)


@pytest.fixture
def guest() -> Iterator[Bench]:
    with bench() as made:
        made.long_mode()
        yield made


def line_address(guest: Bench) -> int:
    entry = guest.space.lookup(LINE >> 12)
    assert entry is not None
    return entry[0] << 12


class TestInterrupts:
    def test_enters_only_with_if_set(self, guest: Bench) -> None:
        guest.gate(0x40, HANDLERS)
        guest.load("hlt", at=HANDLERS)
        guest.load("mov $1,%eax; hlt; sti; mov $2,%eax\nat: mov $3,%eax; hlt")
        guest.cpu.set_interrupt(0x40)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == CODE + 6
        assert guest.cpu.taken_interrupt() == -1
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == HANDLERS + 1
        assert guest.cpu.taken_interrupt() == 0x40
        assert guest.cpu.taken_interrupt() == -1
        # STI holds interrupts off for one instruction more: the move has run, the next not
        assert guest.cpu.get("rax") == 2
        assert [i[1:] for i in guest.cpu.injections()] == [(0x40, 0)]
        assert not guest.cpu.interruptible(), "an interrupt gate clears IF"

    def test_a_withdrawn_request_never_enters(self, guest: Bench) -> None:
        guest.gate(0x40, HANDLERS)
        guest.load("hlt", at=HANDLERS)
        guest.load("sti; nop; nop; hlt")
        guest.cpu.set_interrupt(0x40)
        guest.cpu.set_interrupt(-1)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == CODE + 4

    def test_the_stack_frame_returns_where_it_came_from(self, guest: Bench) -> None:
        guest.gate(0x40, HANDLERS)
        guest.load("incl %ebx; iretq", at=HANDLERS)
        guest.load("sti; mov $1000,%ecx\n1: loop 1b; mov $7,%edx; hlt")
        guest.run(ExitReason.BUDGET, budget=500)
        for _ in range(3):
            guest.cpu.set_interrupt(0x40)
            guest.run(ExitReason.BUDGET, budget=50)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rbx") == 3
        assert guest.cpu.get("rdx") == 7
        assert guest.cpu.get("rsp") == STACK

    def test_a_level_line_enters_until_its_byte_is_cleared(self, guest: Bench) -> None:
        guest.gate(0xF3, HANDLERS)
        guest.load(f"incl %ebx; cmp $3,%ebx; jb 1f; movb $0,{LINE}\n1: iretq", at=HANDLERS)
        guest.load("sti; nop; hlt")
        guest.cpu.set_line(line_address(guest), 0xF3)
        guest.space.write(LINE, b"\1")
        guest.cpu.poke_line()
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rbx") == 3
        assert [i[1:] for i in guest.cpu.injections()] == [(0xF3, 1)] * 3

    def test_the_line_goes_before_other_interrupts(self, guest: Bench) -> None:
        for vector in (0x40, 0xF3):
            guest.gate(vector, HANDLERS + vector * 16)
        guest.load("hlt", at=HANDLERS + 0x40 * 16)
        guest.load("hlt", at=HANDLERS + 0xF3 * 16)
        guest.load("sti; nop; hlt")
        guest.space.write(LINE, b"\1")
        guest.cpu.set_line(line_address(guest), 0xF3)
        guest.cpu.set_interrupt(0x40)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == HANDLERS + 0xF3 * 16 + 1
        assert guest.cpu.taken_interrupt() == -1

    def test_nmi_enters_with_if_clear_and_only_once_until_iret(self, guest: Bench) -> None:
        guest.gate(2, HANDLERS)
        guest.load("incl %ebx; hlt; iretq", at=HANDLERS)
        guest.load("nop; hlt; nop; hlt")
        guest.cpu.set_nmi()
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rbx") == 1
        guest.cpu.set_nmi()
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rbx") == 2, "the second one waits for IRET, then enters"

    def test_no_interrupt_between_an_exit_and_its_answer(self, guest: Bench) -> None:
        guest.gate(0x40, HANDLERS)
        guest.load("mov %rax,%rbx; iretq", at=HANDLERS)
        guest.load("sti; mov $0x80,%edx; inb (%dx),%al; jmp 1f\n1: mov $1,%ecx; hlt")
        guest.run(ExitReason.IO_IN)
        guest.cpu.set_interrupt(0x40)
        guest.cpu.complete(0x5A)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rbx") & 0xFF == 0x5A
        assert guest.cpu.get("rcx") == 1

    def test_a_halted_cpu_wakes_into_the_handler(self, guest: Bench) -> None:
        guest.gate(0x40, HANDLERS)
        guest.load("incl %ebx; iretq", at=HANDLERS)
        guest.load("sti; hlt; mov $9,%ecx; hlt")
        assert guest.run(ExitReason.HALT)[2] == 1
        guest.cpu.set_interrupt(0x40)
        guest.run(ExitReason.HALT)
        assert (guest.cpu.get("rbx"), guest.cpu.get("rcx")) == (1, 9)


EOI = "mov $0x80b,%ecx; xor %eax,%eax; xor %edx,%edx; wrmsr"


class TestEnds:
    """The end of an interrupt that concerns nobody else is no exit."""

    @pytest.fixture(autouse=True)
    def handler(self, guest: Bench) -> None:
        guest.gate(0x40, HANDLERS)
        guest.load(f"{EOI}; incl %ebx; iretq", at=HANDLERS)

    def test_it_is_told_once(self, guest: Bench) -> None:
        guest.load("sti; nop; hlt")
        guest.cpu.set_interrupt(0x40, True)
        assert not guest.cpu.ended_interrupt()
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rbx") == 1
        assert guest.cpu.taken_interrupt() == 0x40
        assert guest.cpu.ended_interrupt()
        assert not guest.cpu.ended_interrupt()

    def test_only_where_it_was_allowed(self, guest: Bench) -> None:
        guest.load("sti; nop; hlt")
        guest.cpu.set_interrupt(0x40)
        assert guest.run(ExitReason.MSR_WRITE)[2:4] == (MSR_X2APIC_EOI, 0)
        guest.cpu.complete()
        guest.run(ExitReason.HALT)
        assert not guest.cpu.ended_interrupt()

    def test_before_it_has_entered_and_a_second_time_it_is_an_exit(self, guest: Bench) -> None:
        guest.load(f"{EOI}; sti; nop; nop; cli; {EOI}; hlt")
        guest.cpu.set_interrupt(0x40, True)
        guest.run(ExitReason.MSR_WRITE)
        assert guest.cpu.get("rbx") == 0
        guest.cpu.complete()
        guest.run(ExitReason.MSR_WRITE)
        assert guest.cpu.get("rbx") == 1
        assert guest.cpu.ended_interrupt()
        guest.cpu.complete()
        guest.run(ExitReason.HALT)

    @pytest.mark.parametrize("later", [0x41, -1])
    def test_not_if_another_has_been_asked_for(self, guest: Bench, later: int) -> None:
        guest.gate(0x40, HANDLERS + 256)
        guest.load(f"inb $0x80,%al; {EOI}; iretq", at=HANDLERS + 256)
        guest.load("sti; nop; hlt")
        guest.cpu.set_interrupt(0x40, True)
        guest.run(ExitReason.IO_IN)
        guest.cpu.set_interrupt(later, True)
        guest.cpu.complete()
        guest.run(ExitReason.MSR_WRITE)
        assert not guest.cpu.ended_interrupt()

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            ("mov $0x80b,%ecx; mov $1,%eax; xor %edx,%edx", (MSR_X2APIC_EOI, 1)),
            ("mov $0x80b,%ecx; xor %eax,%eax; mov $1,%edx", (MSR_X2APIC_EOI, 1 << 32)),
            ("mov $0x80c,%ecx; xor %eax,%eax; xor %edx,%edx", (0x80C, 0)),
        ],
    )
    def test_other_writes_are_exits(
        self, guest: Bench, steps: str, expected: tuple[int, int]
    ) -> None:
        guest.load(f"{steps}; wrmsr; {EOI}; iretq", at=HANDLERS)
        guest.load("sti; nop; hlt")
        guest.cpu.set_interrupt(0x40, True)
        assert guest.run(ExitReason.MSR_WRITE)[2:4] == expected
        assert not guest.cpu.ended_interrupt()
        guest.cpu.complete()
        guest.run(ExitReason.HALT)
        assert guest.cpu.ended_interrupt()

    def test_not_after_a_change_of_the_apics_mode(self, guest: Bench) -> None:
        base = f"mov ${MSR_APIC_BASE},%ecx; mov $0xfee00800,%eax; xor %edx,%edx; wrmsr"
        guest.load(f"{base}; {EOI}; iretq", at=HANDLERS)
        guest.load("sti; nop; hlt")
        guest.cpu.set_interrupt(0x40, True)
        assert guest.run(ExitReason.MSR_WRITE)[2] == MSR_APIC_BASE
        guest.cpu.complete()
        assert guest.run(ExitReason.MSR_WRITE)[2] == MSR_X2APIC_EOI
        assert not guest.cpu.ended_interrupt()

    def test_a_restored_cpu_knows_of_none(self, guest: Bench) -> None:
        guest.load(f"inb $0x80,%al; {EOI}; iretq", at=HANDLERS)
        guest.load("sti; nop; hlt")
        guest.cpu.set_interrupt(0x40, True)
        guest.run(ExitReason.IO_IN)
        guest.cpu.complete()
        guest.cpu.restore(guest.cpu.save())
        guest.run(ExitReason.MSR_WRITE)
        assert not guest.cpu.ended_interrupt()

    def test_user_code_gets_a_fault(self, guest: Bench) -> None:
        guest.gate(13, HANDLERS + 256)
        guest.load("hlt", at=HANDLERS + 256)
        guest.load("iretq", at=HANDLERS)
        guest.load(TO_USER.format(flags=0x202) + f"user: nop; nop; {EOI}; hlt")
        guest.cpu.set_interrupt(0x40, True)
        guest.run(ExitReason.HALT)
        assert guest.cpu.taken_interrupt() == 0x40
        assert not guest.cpu.ended_interrupt()


def frame(guest: Bench) -> tuple[int, int, int]:
    """(error code, rip, cs) on the stack of a handler that has just halted."""
    rsp = guest.cpu.get("rsp")
    return guest.u64(rsp), guest.u64(rsp + 8), guest.u64(rsp + 16)


class TestExceptions:
    @pytest.fixture(autouse=True)
    def handlers(self, guest: Bench) -> None:
        guest.load("hlt", at=HANDLERS)
        for vector in range(32):
            guest.gate(vector, HANDLERS)

    def test_page_fault_has_cr2_and_error_code(self, guest: Bench) -> None:
        guest.load("mov $0x400000,%rbx\n.org 0x10,0x90\nmovq $1,8(%rbx); hlt")
        guest.run(ExitReason.HALT)
        assert frame(guest) == (2, CODE + 0x10, KERNEL_CODE)
        assert guest.cpu.get("cr2") == 0x400008

    def test_a_second_fault_is_no_double_fault(self, guest: Bench) -> None:
        """Each #GP stands for itself once the one before was delivered."""
        guest.load("add $8,%rsp; addq $3,(%rsp); incl %ebx; iretq", at=HANDLERS)
        guest.gate(8, HANDLERS + 0x100)
        guest.load("hlt", at=HANDLERS + 0x100)
        bad = "movl (%r8),%eax\n"  # three bytes, and not canonical
        guest.load("mov $0x8000000000000000,%r8\n" + bad * 4 + "hlt")
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rbx") == 4

    def test_fault_on_the_way_to_a_handler_is_a_double_fault(self, guest: Bench) -> None:
        guest.space.write(IDT + 16 * 13, bytes(16))
        guest.load("mov $0x8000000000000000,%r8\nmovl (%r8),%eax")
        guest.gate(8, HANDLERS + 0x100)
        guest.load("hlt", at=HANDLERS + 0x100)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == HANDLERS + 0x101
        assert frame(guest)[0] == 0

    def test_software_interrupt_without_privilege_points_at_itself(self, guest: Bench) -> None:
        guest.load(TO_USER.format(flags=2) + "user: .org 0x40,0x90\nint $0x50")
        guest.run(ExitReason.HALT)
        error, rip, cs = frame(guest)
        assert (error, rip, cs) == (0x50 << 3 | 2, CODE + 0x40, USER_CODE)

    def test_undefined_instruction(self, guest: Bench) -> None:
        guest.load("nop; ud2")
        guest.run(ExitReason.HALT)
        assert guest.u64(guest.cpu.get("rsp")) == CODE + 1

    def test_port_access_without_privilege(self, guest: Bench) -> None:
        guest.load(TO_USER.format(flags=2) + "user: .org 0x40,0x90\ninb $0x80,%al")
        guest.run(ExitReason.HALT)
        assert frame(guest) == (0, CODE + 0x40, USER_CODE)

    def test_port_access_with_iopl(self, guest: Bench) -> None:
        guest.load(TO_USER.format(flags=0x3002) + "user: inb $0x80,%al")
        assert guest.run(ExitReason.IO_IN)[1:4] == (3 << 2 | 3, 0x80, 1)

    @pytest.mark.parametrize(
        "text",
        [
            "mov $0x80000000,%eax; mov %rax,%cr0",
            "mov $0x100000033,%rax; mov %rax,%cr0",
            "mov %cr4,%rax; or $0x2000,%rax; mov %rax,%cr4",
            "mov %cr4,%rax; and $~0x20,%rax; mov %rax,%cr4",
            "mov $16,%eax; mov %rax,%cr8",
        ],
    )
    def test_bad_control_register_values(self, guest: Bench, text: str) -> None:
        guest.load(text + "\njmp .")
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == HANDLERS + 1
        assert frame(guest)[0] == 0

    @pytest.mark.parametrize(
        ("index", "low", "high"),
        [(0xC0000080, 0x80000000, 0), (0xC0000082, 0, 0x8000), (0x277, 2, 0)],
    )
    def test_bad_values_of_kept_msrs(self, guest: Bench, index: int, low: int, high: int) -> None:
        guest.cpu.pass_msrs([0xC0000080, 0xC0000082, 0x277])
        guest.load(f"mov ${index:#x},%ecx; mov ${low:#x},%eax; mov ${high:#x},%edx; wrmsr\njmp .")
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == HANDLERS + 1

    def test_icebp_is_a_debug_exception(self, guest: Bench) -> None:
        guest.gate(1, HANDLERS + 0x100)
        guest.load("hlt", at=HANDLERS + 0x100)
        guest.load("nop; .byte 0xf1; nop")
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == HANDLERS + 0x101
        assert guest.u64(guest.cpu.get("rsp")) == CODE + 2

    def test_single_step(self, guest: Bench) -> None:
        guest.gate(1, HANDLERS + 0x100)
        guest.load(
            "incl %ebx; cmp $5,%ebx; jne 1f; btrl $8,16(%rsp)\n1: iretq", at=HANDLERS + 0x100
        )
        guest.load("pushfq; orl $0x100,(%rsp); popfq\n" + "nop\n" * 8 + "hlt")
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rbx") == 5

    def test_fault_answers_a_pending_exit(self, guest: Bench) -> None:
        guest.load("nop; vmcall")
        guest.run(ExitReason.HYPERCALL)
        guest.cpu.fault(14, 6, cr2=0x1234000)
        guest.run(ExitReason.HALT)
        assert frame(guest)[:2] == (6, CODE + 1)
        assert guest.cpu.get("cr2") == 0x1234000


class TestSystemCalls:
    def test_syscall_and_sysret(self, guest: Bench) -> None:
        kernel = 0x7000
        guest.cpu.set("star", KERNEL_CODE << 32 | (USER_DATA - 8) << 48)
        guest.cpu.set("lstar", kernel)
        guest.cpu.set("fmask", 0x200)
        guest.load(
            f"mov %cs,{DATA}; mov %ss,{DATA + 8}; pushfq; popq {DATA + 16}\n"
            f"mov %rcx,{DATA + 24}; mov %r11,{DATA + 32}; sysretq",
            at=kernel,
        )
        guest.load(
            TO_USER.format(flags=0x3202) + "user: stc; syscall\nback: mov %cs,%rbx; mov $1,%eax\n"
            "vmcall"
        )
        result = guest.run(ExitReason.HYPERCALL)
        assert result[1] & 3 == 3, "back in ring 3"
        assert guest.u64(DATA) & 0xFFFF == KERNEL_CODE
        assert guest.u64(DATA + 8) & 0xFFFF == KERNEL_DATA
        assert guest.u64(DATA + 16) & 0x201 == 1, "the mask took IF, and CF stayed"
        assert guest.u64(DATA + 32) & 0x201 == 0x201, "R11 has the flags of before"
        assert guest.cpu.get("rbx") == USER_CODE
        assert guest.cpu.get("rflags") & 0x200

    def test_syscall_without_sce_is_undefined(self, guest: Bench) -> None:
        guest.load("hlt", at=HANDLERS)
        guest.gate(6, HANDLERS)
        guest.cpu.set("efer", guest.cpu.get("efer") & ~1)
        guest.load("nop; syscall")
        guest.run(ExitReason.HALT)
        assert guest.u64(guest.cpu.get("rsp")) == CODE + 1

    def test_sysenter_and_sysexit(self, guest: Bench) -> None:
        guest.cpu.set_cpuid([INTEL])
        kernel = 0x7000
        guest.cpu.set("sysenter_cs", KERNEL_CODE)
        guest.cpu.set("sysenter_esp", STACK)
        guest.cpu.set("sysenter_eip", kernel)
        guest.load(f"mov %cs,%rbx; mov %rsp,%rsi; pushfq; popq {DATA}; vmcall", at=kernel)
        guest.load(TO_USER.format(flags=0x202) + "user: sysenter")
        assert guest.run(ExitReason.HYPERCALL)[1] == 3 << 2
        assert (guest.cpu.get("rbx"), guest.cpu.get("rsi")) == (KERNEL_CODE, STACK)
        assert not guest.u64(DATA) & 0x200

    def test_sysenter_in_long_mode_needs_the_vendor(self, guest: Bench) -> None:
        guest.load("hlt", at=HANDLERS)
        guest.gate(6, HANDLERS)
        guest.cpu.set("sysenter_cs", KERNEL_CODE)
        guest.load("nop; sysenter")
        guest.run(ExitReason.HALT)
        assert guest.u64(guest.cpu.get("rsp")) == CODE + 1

    def test_sysenter_without_a_segment_faults(self, guest: Bench) -> None:
        guest.cpu.set_cpuid([INTEL])
        guest.load("hlt", at=HANDLERS)
        guest.gate(13, HANDLERS)
        guest.load("nop; sysenter")
        guest.run(ExitReason.HALT)
        assert frame(guest)[:2] == (0, CODE + 1)


class TestState:
    def test_save_and_restore_is_exact(self, guest: Bench) -> None:
        guest.load(
            "fld1; fldpi; movq %rax,%xmm3; mov $3,%ecx\n1: loop 1b; stc; hlt; adc $0,%ebx; hlt"
        )
        guest.cpu.set("rax", 0x1122334455667788)
        guest.run(ExitReason.HALT)
        state = guest.cpu.save()
        guest.run(ExitReason.HALT)
        expected = guest.cpu.save()
        for name in ("rip", "rbx", "rflags", "fpu_top"):
            guest.cpu.set(name, 1)
        guest.cpu.restore(state)
        assert guest.cpu.save() == state
        guest.run(ExitReason.HALT)
        assert guest.cpu.save() == expected
        assert guest.cpu.get("rbx") == 1

    def test_state_moves_to_another_machine(self, guest: Bench) -> None:
        guest.load("mov $100000,%ecx\n1: add %rcx,%rax; rol $7,%rax; loop 1b; hlt")
        guest.run(ExitReason.BUDGET, budget=5000)
        state, memory = guest.cpu.save(), guest.space.read(0, 256 << 12)
        guest.run(ExitReason.HALT)
        with bench() as other:
            other.space.write(0, memory)
            other.cpu.restore(state)
            other.run(ExitReason.HALT)
            assert other.cpu.save() == guest.cpu.save()

    @pytest.mark.parametrize("name", ["rax", "xmm", "answers", "cs.attr"])
    def test_incomplete_state_changes_nothing(self, guest: Bench, name: str) -> None:
        state = guest.cpu.save()
        broken = {k: v for k, v in state.items() if k != name} | {"rbx": 5}
        with pytest.raises(ValueError, match=name):
            guest.cpu.restore(broken)
        assert guest.cpu.save() == state

    def test_registers_by_name(self, guest: Bench) -> None:
        for name in guest.cpu.save():
            if name not in ("xmm", "st", "fpu_tags", "answers", "nmi_pending", "pauses", "dead"):
                assert guest.cpu.get(name) == guest.cpu.save()[name]
        with pytest.raises(KeyError, match="rxx"):
            guest.cpu.get("rxx")

    def test_attributes_have_xens_form(self, guest: Bench) -> None:
        assert guest.cpu.get("cs.attr") == 0xA9B
        guest.cpu.set("cs.attr", 0xC9B)
        assert guest.cpu.get("cs.attr") == 0xC9B

    def test_cpus_of_one_space_have_registers_of_their_own(self) -> None:
        with bench(cpus=4) as guest:
            guest.load("mov $1000,%ecx\n1: inc %rbx; loop 1b; hlt")
            for i, cpu in enumerate(guest.cpus):
                guest.long_mode(cpu).set("rbx", i << 32)
            running = set(guest.cpus)
            while running:
                for cpu in list(guest.cpus):
                    if cpu in running and cpu.run(50)[0] == ExitReason.HALT:
                        running.discard(cpu)
            assert [cpu.get("rbx") for cpu in guest.cpus] == [(i << 32) + 1000 for i in range(4)]

    def test_real_and_protected_mode(self, guest: Bench) -> None:
        state = {"cr0": 0x10, "efer": 0, "cr4": 0, "cs.sel": 0x100, "cs.base": 0x1000}
        state |= {"cs.attr": 0x9B, "cs.limit": 0xFFFF, "rip": 0, "ds.base": 0x2000}
        for name, value in state.items():
            guest.cpu.set(name, value)
        guest.space.write(0x1000, bytes.fromhex("a1 0400 83c001 a3 0600 f4"))
        guest.space.write(0x2004, (41).to_bytes(2, "little"))
        assert guest.run(ExitReason.HALT)[1] == 0
        assert guest.space.read(0x2006, 2) == (42).to_bytes(2, "little")
        guest.cpu.set("cr0", 0x11)
        guest.cpu.set("cs.attr", 0xC9B)
        guest.cpu.set("rip", 0)
        guest.space.write(0x1000, bytes.fromhex("0f01c1"))
        assert guest.run(ExitReason.HYPERCALL)[1] == 2 << 2


class TestControls:
    @pytest.mark.parametrize(
        ("text", "limits"),
        [
            ("mov %cr4,%rax; or $0x10000,%rax; mov %rax,%cr4", (0x7407FF, 0xD01, 0x203)),
            ("mov $0xc0000080,%ecx; rdmsr; or $0x800,%eax; wrmsr", (0x7507FF, 0x501, 0x203)),
            (
                "mov %cr4,%rax; or $0x40000,%rax; mov %rax,%cr4\n"
                "xor %ecx,%ecx; xor %edx,%edx; mov $0x203,%eax; xsetbv",
                (0x7507FF, 0xD01, 3),
            ),
        ],
    )
    def test_hidden_bits_fault(self, guest: Bench, text: str, limits: tuple[int, int, int]) -> None:
        """FSGSBASE, NXE and PKRU: allowed at first, refused once the policy hides them."""
        guest.cpu.pass_msrs([0xC0000080])
        guest.gate(13, HANDLERS)
        guest.load("hlt", at=HANDLERS)
        guest.load(text + "\nhlt")
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") < HANDLERS
        guest.long_mode()
        guest.cpu.limit_controls(*limits)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rip") == HANDLERS + 1

# SPDX-License-Identifier: GPL-2.0-or-later
"""The native engine's exits and how they are answered."""

from __future__ import annotations

import pytest

from tests.engine.native_machine import CODE, DATA, HANDLERS, IDT, STACK, Bench, bench
from xenograft.engine.protocol import SYSREG_CR8, ExitReason

APIC = 0xFEE00000


@pytest.fixture
def guest():
    with bench() as made:
        made.long_mode()
        yield made


def test_hypercall_carries_number_and_arguments(guest: Bench) -> None:
    guest.load("mov $17,%eax; mov $1,%rdi; mov $2,%rsi; mov $3,%rdx; mov $4,%r10; mov $5,%r8\n"
               "vmcall; mov %rax,%rbx; vmmcall; hlt")  # fmt: skip
    assert guest.run(ExitReason.HYPERCALL)[2:] == (17, 1, 2, 3, 4, 5)
    guest.cpu.complete(0xFFFF_FFFF_FFFF_FFDA)
    assert guest.run(ExitReason.HYPERCALL)[2] == 0xFFFF_FFFF_FFFF_FFDA
    guest.cpu.complete(7)
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rbx") == 0xFFFF_FFFF_FFFF_FFDA
    assert guest.cpu.get("rax") == 7


def test_hypercall_flags_tell_ring_and_mode(guest: Bench) -> None:
    guest.load("vmcall")
    assert guest.run(ExitReason.HYPERCALL)[1] == 3 << 2
    guest.load("push $27; push $0x8000; push $0x3002; push $35; push $user; iretq\nuser: vmcall")
    guest.cpu.fault(6)
    guest.cpu.set("rip", CODE)
    # the fault above was for an instruction that isn't run: deliver nothing, start anew
    guest.gate(6, CODE)
    assert guest.run(ExitReason.HYPERCALL)[1] == 3 << 2 | 3


def test_retry_runs_the_hypercall_again(guest: Bench) -> None:
    guest.load("mov $9,%eax; vmcall; hlt")
    guest.run(ExitReason.HYPERCALL)
    guest.cpu.set("rdi", 0x1234)
    guest.cpu.retry()
    assert guest.run(ExitReason.HYPERCALL)[2:4] == (9, 0x1234)


def test_fast_hypercalls_do_not_exit(guest: Bench) -> None:
    guest.cpu.fast_hypercalls([(17, 0, 0x40011)])
    guest.load("mov $17,%eax; xor %edi,%edi; vmcall; mov %rax,%rbx\n"
               "mov $17,%eax; mov $1,%edi; vmcall")  # fmt: skip
    assert guest.run(ExitReason.HYPERCALL)[2:4] == (17, 1)
    assert guest.cpu.get("rbx") == 0x40011


def test_port_reads_and_writes(guest: Bench) -> None:
    guest.load("mov $0x70,%edx; mov $0x1234abcd,%eax; out %al,(%dx); outw %ax,$0x80\n"
               "outl %eax,(%dx); inb $0x71,%al; inl (%dx),%eax; hlt")  # fmt: skip
    for port, size, value in ((0x70, 1, 0xCD), (0x80, 2, 0xABCD), (0x70, 4, 0x1234ABCD)):
        assert guest.run(ExitReason.IO_OUT)[2:5] == (port, size, value)
        guest.cpu.complete()
    assert guest.run(ExitReason.IO_IN)[2:4] == (0x71, 1)
    guest.cpu.complete(0x55)
    assert guest.run(ExitReason.IO_IN)[2:4] == (0x70, 4)
    assert guest.cpu.get("rax") == 0x1234AB55
    guest.cpu.complete(0xCAFEBABE)
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rax") == 0xCAFEBABE


def test_untrapped_ports_read_as_ones(guest: Bench) -> None:
    guest.cpu.trap_ports(0, 0xFFFF, False)
    guest.load("inb $0x42,%al; movzx %al,%ebx; outb %al,$0x42; inl $0x42,%eax; hlt")
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rbx") == 0xFF
    assert guest.cpu.get("rax") == 0xFFFFFFFF


def test_repeated_string_input_reads_each_element_once(guest: Bench) -> None:
    guest.load(f"mov ${DATA},%edi; mov $5,%ecx; mov $0x1f0,%edx; cld; rep insw; hlt")
    for i in range(5):
        assert guest.run(ExitReason.IO_IN)[2:4] == (0x1F0, 2)
        guest.cpu.complete(0x1100 + i)
    guest.run(ExitReason.HALT)
    expected = b"".join((0x1100 + i).to_bytes(2, "little") for i in range(5))
    assert guest.space.read(DATA, 10) == expected


def test_repeated_string_output(guest: Bench) -> None:
    guest.space.write(DATA, b"xenograft")
    guest.load(f"mov ${DATA},%esi; mov $9,%ecx; mov $0xe9,%edx; cld; rep outsb; hlt")
    text = bytearray()
    while (result := guest.run())[0] == ExitReason.IO_OUT:
        text.append(result[4])
        guest.cpu.complete()
    assert bytes(text) == b"xenograft"


def test_input_into_an_unwritable_page_is_read_once(guest: Bench) -> None:
    (entry,) = [e for e in guest.space.entries() if e[0] <= DATA >> 12 < e[0] + e[2]]
    mfn = entry[1] + (DATA >> 12) - entry[0]
    guest.space.map(DATA >> 12, mfn, flags=1)
    guest.load(f"mov ${DATA},%edi; mov $0x1f0,%edx; cld; insl; hlt")
    assert guest.run(ExitReason.STAGE2)[2:4] == (DATA, 1)
    guest.space.map(DATA >> 12, mfn)
    guest.run(ExitReason.IO_IN)
    guest.cpu.complete(0x11223344)
    guest.run(ExitReason.HALT)
    assert guest.space.read(DATA, 4) == bytes.fromhex("44332211")


SIZES = [("b", "%al", 1), ("w", "%ax", 2), ("l", "%eax", 4), ("q", "%rax", 8)]


@pytest.mark.parametrize(("suffix", "register", "size"), SIZES)
def test_mmio_of_each_size(guest: Bench, suffix: str, register: str, size: int) -> None:
    value = 0x8877665544332211 & ((1 << 8 * size) - 1)
    guest.load(f"mov ${APIC},%rbx; xor %eax,%eax; mov{suffix} 0x20(%rbx),{register}\n"
               f"mov{suffix} {register},0x30(%rbx); hlt")  # fmt: skip
    assert guest.run(ExitReason.MMIO_READ)[2:4] == (APIC + 0x20, size)
    guest.cpu.complete(value)
    assert guest.run(ExitReason.MMIO_WRITE)[2:5] == (APIC + 0x30, size, value)
    guest.cpu.complete()
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rax") == value


def test_read_modify_write_of_mmio_finishes_after_two_exits(guest: Bench) -> None:
    guest.load(f"mov ${APIC},%rbx; orl $0x100,0xf0(%rbx); hlt")
    assert guest.run(ExitReason.MMIO_READ)[2:4] == (APIC + 0xF0, 4)
    guest.cpu.complete(0xFF)
    assert guest.run(ExitReason.MMIO_WRITE)[2:5] == (APIC + 0xF0, 4, 0x1FF)
    guest.cpu.complete()
    guest.run(ExitReason.HALT)


def test_a_loop_of_mmio_writes_exits_for_each(guest: Bench) -> None:
    guest.load(f"mov ${APIC},%rbx; mov $20,%ecx\n1: movl %ecx,0xb0(%rbx); loop 1b; hlt")
    for i in range(20, 0, -1):
        assert guest.run(ExitReason.MMIO_WRITE)[2:5] == (APIC + 0xB0, 4, i)
        guest.cpu.complete()
    guest.run(ExitReason.HALT)


def test_moves_between_two_holes(guest: Bench) -> None:
    guest.load(f"mov ${APIC},%esi; mov ${APIC + 0x100},%edi; mov $3,%ecx; cld; rep movsl; hlt")
    for i in range(3):
        assert guest.run(ExitReason.MMIO_READ)[2:4] == (APIC + 4 * i, 4)
        guest.cpu.complete(100 + i)
        assert guest.run(ExitReason.MMIO_WRITE)[2:5] == (APIC + 0x100 + 4 * i, 4, 100 + i)
        guest.cpu.complete()
    guest.run(ExitReason.HALT)


def test_cpuid_from_the_table_and_by_exit(guest: Bench) -> None:
    guest.cpu.set_cpuid([(0x40000000, -1, 1, 2, 3, 4), (7, 1, 5, 6, 7, 8)])
    guest.load("mov $0x40000000,%eax; mov $9,%ecx; cpuid; mov %ecx,%r9d\n"
               "mov $7,%eax; mov $1,%ecx; cpuid; mov %ebx,%r10d\n"
               "mov $7,%eax; xor %ecx,%ecx; cpuid; hlt")  # fmt: skip
    assert guest.run(ExitReason.CPUID)[2:4] == (7, 0)
    guest.cpu.complete(0xA, 0xB, 0xC, 0xD)
    guest.run(ExitReason.HALT)
    assert [guest.cpu.get(r) for r in ("r9", "r10")] == [3, 6]
    assert [guest.cpu.get(r) for r in ("rax", "rbx", "rcx", "rdx")] == [0xA, 0xB, 0xC, 0xD]


def test_osxsave_follows_cr4(guest: Bench) -> None:
    guest.cpu.set_cpuid([(1, -1, 0, 0, 1 << 26, 0)])
    guest.load("mov $1,%eax; cpuid; mov %ecx,%r9d; mov %cr4,%rax; or $0x40000,%rax; mov %rax,%cr4\n"
               "mov $1,%eax; cpuid; hlt")  # fmt: skip
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("r9") == 1 << 26
    assert guest.cpu.get("rcx") == 3 << 26


def test_msrs_that_the_engine_keeps(guest: Bench) -> None:
    guest.cpu.pass_msrs([0xC0000100, 0xC0000082])
    guest.load("mov $0xc0000100,%ecx; mov $0x1000,%eax; mov $0x7f,%edx; wrmsr\n"
               "xor %eax,%eax; xor %edx,%edx; rdmsr; hlt")  # fmt: skip
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("fs.base") == 0x7F00001000
    assert (guest.cpu.get("rdx"), guest.cpu.get("rax")) == (0x7F, 0x1000)


def test_other_msrs_exit(guest: Bench) -> None:
    guest.load("mov $0x1b,%ecx; rdmsr; mov $0x40000000,%ecx; wrmsr; hlt")
    assert guest.run(ExitReason.MSR_READ)[2] == 0x1B
    guest.cpu.complete(0x1_FEE00900)
    assert guest.run(ExitReason.MSR_WRITE)[2:4] == (0x40000000, 0x1_FEE00900)
    guest.cpu.complete()
    guest.run(ExitReason.HALT)


def test_unknown_msr_faults_at_its_instruction(guest: Bench) -> None:
    guest.load("mov $0x666,%ecx\nat: rdmsr; hlt")
    guest.gate(13, HANDLERS)
    guest.load("hlt", at=HANDLERS)
    guest.run(ExitReason.MSR_READ)
    guest.cpu.fault(13, 0)
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rip") == HANDLERS + 1
    rsp = guest.cpu.get("rsp")
    assert guest.u64(rsp) == 0
    assert guest.u64(rsp + 8) == CODE + 5


def test_cr8_is_a_register_of_the_interrupt_controller(guest: Bench) -> None:
    guest.load("mov $5,%eax; mov %rax,%cr8; mov %cr8,%rbx; hlt")
    assert guest.run(ExitReason.MSR_WRITE)[2:4] == (SYSREG_CR8, 5)
    guest.cpu.complete()
    assert guest.run(ExitReason.MSR_READ)[2] == SYSREG_CR8
    guest.cpu.complete(9)
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rbx") == 9


def test_halt_tells_whether_interrupts_are_enabled(guest: Bench) -> None:
    guest.load("hlt; sti; hlt")
    assert guest.run(ExitReason.HALT)[2] == 0
    assert guest.run(ExitReason.HALT)[2] == 1


def test_pause_exits_only_when_asked(guest: Bench) -> None:
    guest.load("mov $10,%ecx\n1: pause; loop 1b; hlt")
    guest.run(ExitReason.HALT)
    guest.cpu.set("rip", CODE)
    guest.cpu.pause_exits(5)
    guest.run(ExitReason.PAUSE)
    guest.run(ExitReason.PAUSE)
    guest.run(ExitReason.HALT)


def test_triple_fault_is_a_shutdown_and_stays_one(guest: Bench) -> None:
    guest.cpu.set("idtr.limit", 0)
    guest.load("ud2")
    assert guest.run(ExitReason.SHUTDOWN)[2] == 8
    assert guest.run(ExitReason.SHUTDOWN)[2] == 8


def test_budget_and_kick(guest: Bench) -> None:
    guest.load("1: inc %rax; jmp 1b")
    guest.run(ExitReason.BUDGET, budget=1000)
    assert 1000 <= guest.cpu.instructions() < 1010
    guest.cpu.kick()
    guest.run(ExitReason.KICK)
    guest.run(ExitReason.BUDGET, budget=1000)
    assert guest.cpu.get("rax") == guest.cpu.instructions() // 2


def test_slices_do_not_change_the_run(guest: Bench) -> None:
    text = "mov $3000,%ecx\n1: add %rcx,%rax; lock xadd %rax,(%rbx); rol $3,%rax; loop 1b; hlt"
    results = []
    for budget in (1 << 40, 1000, 77, 1):
        guest.load(text)
        guest.long_mode()
        for name in ("rax", "instructions"):
            guest.cpu.set(name, 0)
        guest.cpu.set("rbx", DATA)
        guest.space.write(DATA, bytes(8))
        while guest.cpu.run(budget)[0] == ExitReason.BUDGET:
            pass
        results.append((guest.cpu.get("rax"), guest.cpu.instructions(), guest.u64(DATA)))
    assert len(set(results)) == 1
    assert results[0][1] == 3000 * 4 + 2


def test_virtual_tsc_counts_instructions(guest: Bench) -> None:
    guest.cpu.set_tsc(virtual=True, khz=2_000_000, offset=5)
    guest.load(
        "rdtsc; jmp 1f\n1: mov %eax,%ebx; mov $100,%ecx\n1: loop 1b; rdtsc; sub %ebx,%eax; hlt"
    )
    guest.run(ExitReason.HALT)
    # the counts are those of block starts, with the block
    assert 2 * 100 <= guest.cpu.get("rax") <= 2 * 110
    before = guest.cpu.tsc()
    guest.cpu.skip(1000)
    assert guest.cpu.tsc() - before == 2000


def test_rdrand_is_a_stream_with_a_seed(guest: Bench) -> None:
    guest.load("rdrand %rax; setc %cl; rdrand %rbx; hlt")
    seen = []
    for seed in (1, 2, 1):
        guest.cpu.set("rip", CODE)
        guest.cpu.set("entropy", seed)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("rcx") & 0xFF == 1
        seen.append((guest.cpu.get("rax"), guest.cpu.get("rbx")))
    assert seen[0] == seen[2] != seen[1]
    assert seen[0][0] != seen[0][1]


def test_answers_survive_save_and_restore(guest: Bench) -> None:
    guest.load(f"mov ${APIC},%rbx; orl $0x100,0xf0(%rbx); hlt")
    guest.run(ExitReason.MMIO_READ)
    guest.cpu.complete(0x40)
    state = guest.cpu.save()
    guest.cpu.set("rip", 0)
    guest.cpu.restore(state)
    assert guest.run(ExitReason.MMIO_WRITE)[2:5] == (APIC + 0xF0, 4, 0x140)
    assert guest.cpu.get("rip") == state["rip"]
    guest.cpu.complete()
    guest.run(ExitReason.HALT)


def test_stack_and_table_places_are_apart() -> None:
    assert len({CODE, STACK, IDT, DATA, HANDLERS}) == 5

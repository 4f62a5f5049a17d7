# SPDX-License-Identifier: GPL-2.0-or-later
"""The scripted CPU. Memory and spaces are covered by test_conformance.py."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from xenograft.engine.fake import (
    RFLAGS_IF,
    Answer,
    FakeCpu,
    FakeEngine,
    cpuid,
    halt,
    hypercall,
    io_in,
    io_out,
    make_exit,
    mmio_read,
    mmio_write,
    msr_read,
    msr_write,
    pause,
    shutdown,
    stage2,
)
from xenograft.engine.protocol import P2M_PRESENT, PAGE_SIZE, AccessError, Exit, ExitReason


def make_cpu(script: object = (), frames: int = 64) -> FakeCpu:
    engine = FakeEngine({0: script})  # type: ignore[dict-item]
    memory = engine.memory(frames)
    space = engine.space(memory)
    ((mfn, _),) = memory.alloc(1, 8)
    space.map(0, mfn, 8)
    return engine.cpu(space, 0)


def test_a_list_of_exits_then_a_halt_with_interrupts_off() -> None:
    cpu = make_cpu([pause(), shutdown(13)])
    assert cpu.run(1000) == (ExitReason.PAUSE, 12, 0, 0, 0, 0, 0, 0)
    assert cpu.run(1000) == (ExitReason.SHUTDOWN, 12, 13, 0, 0, 0, 0, 0)
    for _ in range(3):
        assert cpu.run(1000)[:3] == (ExitReason.HALT, 12, 0)


def test_a_callable_is_asked_each_time() -> None:
    def guest(cpu: FakeCpu) -> Exit:
        return io_out(0x80, cpu.instructions())

    cpu = make_cpu(guest)
    for value in range(3):
        assert cpu.run(10) == (ExitReason.IO_OUT, 12, 0x80, 1, value, 0, 0, 0)
        cpu.complete()


def test_a_generator_sees_the_answers() -> None:
    seen: list[Answer] = []

    def guest(cpu: FakeCpu) -> Generator[Exit, Answer, None]:
        seen.append((yield hypercall(17, 6)))
        seen.append((yield msr_read(0x1B)))
        seen.append((yield pause()))

    cpu = make_cpu(guest)
    assert cpu.run(10)[2:4] == (17, 6)
    cpu.complete(0x40011)
    assert cpu.get("rax") == 0x40011
    assert cpu.run(10)[0] == ExitReason.MSR_READ
    cpu.fault(13, 0)
    assert cpu.run(10)[0] == ExitReason.PAUSE
    assert cpu.run(10)[0] == ExitReason.HALT
    assert seen == [
        Answer("complete", (0x40011, 0, 0, 0)),
        Answer("fault", (13, 0, -1)),
        Answer("none"),
    ]


@pytest.mark.parametrize(
    "exit_",
    [
        hypercall(1),
        io_in(1),
        io_out(1, 2),
        mmio_read(3),
        mmio_write(3, 4),
        cpuid(0),
        msr_read(1),
        msr_write(1, 2),
    ],
)
def test_exits_that_need_an_answer_stay_pending(exit_: Exit) -> None:
    cpu = make_cpu([exit_, exit_])
    assert cpu.run(10) == exit_
    with pytest.raises(RuntimeError, match="answered"):
        cpu.run(10)
    cpu.complete()
    with pytest.raises(RuntimeError, match="no exit pending"):
        cpu.complete()
    assert cpu.run(10) == exit_


def test_results_land_in_registers() -> None:
    cpu = make_cpu([cpuid(1, 2), msr_read(0x10), io_in(0x60, 1), hypercall(1, flags=2 << 2)])
    cpu.run(9)
    assert (cpu.get("rax"), cpu.get("rcx")) == (1, 2)
    cpu.complete(1, 2, 3, 4)
    assert [cpu.get(name) for name in ("rax", "rbx", "rcx", "rdx")] == [1, 2, 3, 4]
    cpu.run(9)
    cpu.complete(0x1_2345_6789_ABCD_EF01 & (1 << 64) - 1)
    assert (cpu.get("rax"), cpu.get("rdx")) == (0xABCDEF01, 0x23456789)
    cpu.set("rax", 0xFFFF)
    cpu.run(9)
    cpu.complete(0x1AB)
    assert cpu.get("rax") == 0xFFAB
    cpu.run(9)
    cpu.complete(-22)
    assert cpu.get("rax") == 0xFFFFFFEA


@pytest.mark.parametrize(("mode", "register"), [(3, "rdi"), (2, "rbx")], ids=["64-bit", "32-bit"])
def test_retry_reads_the_registers_again(mode: int, register: str) -> None:
    cpu = make_cpu([hypercall(12, 100, 200, flags=mode << 2), pause()])
    first = cpu.run(9)
    assert cpu.get(register) == 100
    cpu.set(register, 164)
    cpu.retry()
    again = cpu.run(9)
    assert again == (*first[:3], 164, *first[4:])
    cpu.complete(0)
    assert cpu.run(9)[0] == ExitReason.PAUSE
    assert len(cpu.answers) == 2


def test_fault_after_a_stage2_exit() -> None:
    cpu = make_cpu([stage2(0x9000, 1), stage2(0xA000)])
    assert cpu.run(9) == (ExitReason.STAGE2, 12, 0x9000, 1, 0x9000, 0, 0, 0)
    cpu.fault(14, 2, cr2=0x9000)
    assert cpu.get("cr2") == 0x9000
    cpu.run(9)
    assert [answer.kind for _, answer in cpu.answers] == ["fault", "none"]


def test_kick_ends_the_next_run_once() -> None:
    cpu = make_cpu([pause()])
    cpu.kick()
    assert cpu.run(9)[0] == ExitReason.KICK
    assert cpu.run(9)[0] == ExitReason.PAUSE


def test_instructions_count() -> None:
    cpu = make_cpu([make_exit(ExitReason.BUDGET), pause()])
    cpu.run(500)
    assert cpu.instructions() == 500
    cpu.run(500)
    cpu.skip(1000)
    assert cpu.instructions() == 1501


def test_an_interrupt_waits_for_if() -> None:
    cpu = make_cpu([pause()] * 9)
    cpu.set_interrupt(0xF3)
    cpu.run(9)
    assert cpu.taken_interrupt() == -1
    assert not cpu.interruptible()
    cpu.set("rflags", RFLAGS_IF)
    assert cpu.interruptible()
    cpu.run(9)
    assert cpu.taken_interrupt() == 0xF3
    assert cpu.taken_interrupt() == -1
    cpu.run(9)
    assert cpu.entered == [0xF3]


def test_halt_sets_if_as_it_says() -> None:
    cpu = make_cpu([halt(), halt(False), pause()])
    cpu.run(9)
    assert cpu.interruptible()
    cpu.run(9)
    assert not cpu.interruptible()


def test_the_sti_shadow_delays_by_one_run() -> None:
    cpu = make_cpu([pause()] * 9)
    cpu.set("rflags", RFLAGS_IF)
    cpu.shadow = True
    cpu.set_interrupt(0x30)
    cpu.run(9)
    assert cpu.entered == []
    cpu.run(9)
    assert cpu.entered == [0x30]


def test_no_interrupt_enters_while_an_exit_is_pending() -> None:
    cpu = make_cpu([hypercall(1), pause()])
    cpu.set("rflags", RFLAGS_IF)
    cpu.run(9)
    assert not cpu.interruptible()
    cpu.set_interrupt(0x30)
    cpu.complete()
    assert cpu.entered == []
    cpu.run(9)
    assert cpu.entered == [0x30]


def test_withdrawn_interrupts_do_not_enter() -> None:
    cpu = make_cpu([pause()] * 2)
    cpu.set("rflags", RFLAGS_IF)
    cpu.set_interrupt(0x30)
    cpu.set_interrupt(-1)
    cpu.run(9)
    assert cpu.entered == []


def test_the_line_is_level_and_goes_first() -> None:
    cpu = make_cpu([pause()] * 9)
    memory = cpu.space.memory
    cpu.set("rflags", RFLAGS_IF)
    cpu.set_line(64, 0xF3)
    cpu.set_interrupt(0x30)
    memory.write(64, b"\x01")
    cpu.poke_line()
    cpu.run(9)
    cpu.run(9)
    assert cpu.entered == [0xF3, 0xF3]
    memory.write(64, b"\0")
    cpu.run(9)
    assert cpu.entered == [0xF3, 0xF3, 0x30]
    memory.write(64, b"\x01")
    cpu.set_line(64, -1)
    cpu.run(9)
    assert cpu.entered == [0xF3, 0xF3, 0x30]
    assert ("poke_line", ()) in cpu.calls


def test_a_handler_runs_with_interrupts_off_and_returns() -> None:
    cpu = make_cpu([pause()] * 9)
    inside: list[bool] = []

    def handler(cpu: FakeCpu, vector: int) -> None:
        inside.append(cpu.interruptible())
        cpu.space.memory.write(64, b"\0")

    cpu.on_interrupt = handler
    cpu.set("rflags", RFLAGS_IF)
    cpu.space.memory.write(64, b"\x01")
    cpu.set_line(64, 0xF3)
    cpu.run(9)
    cpu.run(9)
    assert cpu.entered == [0xF3]
    assert inside == [False]
    assert cpu.interruptible()


def test_without_iret_interrupts_stay_off() -> None:
    cpu = make_cpu([pause()] * 9)
    cpu.auto_iret = False
    cpu.set("rflags", RFLAGS_IF)
    cpu.set_interrupt(0x30)
    cpu.run(9)
    cpu.set_interrupt(0x31)
    cpu.run(9)
    assert cpu.entered == [0x30]


def test_an_nmi_ignores_if() -> None:
    cpu = make_cpu([pause()] * 2)
    cpu.set_nmi()
    cpu.run(9)
    cpu.run(9)
    assert cpu.entered == [2]
    assert cpu.taken_interrupt() == -1


def test_memory_is_identity_without_paging() -> None:
    cpu = make_cpu()
    cpu.write(PAGE_SIZE - 2, b"abcd")
    assert cpu.space.read(PAGE_SIZE - 2, 4) == b"abcd"
    assert cpu.translate(0x1234) == 0x1234


def test_paging_maps_pages() -> None:
    cpu = make_cpu()
    cpu.paging = {0xFFFF8: 3, 0xFFFF9: 1}
    cpu.write(0xFFFF9000 - 2, b"abcd")
    assert cpu.space.read(4 * PAGE_SIZE - 2, 2) == b"ab"
    assert cpu.space.read(PAGE_SIZE, 2) == b"cd"
    assert cpu.read(0xFFFF9000 - 2, 4) == b"abcd"
    with pytest.raises(AccessError) as error:
        cpu.read(0xFFFFA000 - 1, 2)
    assert error.value.address == 0xFFFFA000


def test_a_write_that_faults_midway_writes_nothing() -> None:
    cpu = make_cpu()
    cpu.space.map(1, 5, flags=P2M_PRESENT)
    with pytest.raises(AccessError):
        cpu.write(PAGE_SIZE - 2, b"abcd")
    assert cpu.read(PAGE_SIZE - 2, 2) == b"\0\0"


def test_native_answers_do_not_exit() -> None:
    cpu = make_cpu(
        [
            cpuid(1, 5),
            cpuid(4, 1),
            msr_write(0x10, 99),
            msr_read(0x10),
            io_in(0x42, 2),
            io_out(0x42, 1),
            hypercall(17, 0),
            hypercall(17, 1),
        ]
    )
    cpu.set_cpuid([(1, -1, 1, 2, 3, 4), (4, 1, 5, 6, 7, 8)])
    cpu.pass_msrs([0x10])
    cpu.trap_ports(0x40, 0x43, False)
    cpu.fast_hypercalls([(17, 0, 0x40011)])
    assert cpu.run(100)[:4] == (ExitReason.HYPERCALL, 12, 17, 1)
    values = [answer.values for _, answer in cpu.answers]
    assert values == [
        (1, 2, 3, 4),
        (5, 6, 7, 8),
        (0, 0, 0, 0),
        (99, 0, 0, 0),
        (0xFFFF, 0, 0, 0),
        (0, 0, 0, 0),
        (0x40011, 0, 0, 0),
    ]
    cpu.complete()
    cpu.trap_ports(0x42, 0x42, True)
    cpu.load([io_in(0x42)])
    assert cpu.run(100)[0] == ExitReason.IO_IN


def test_native_answers_are_bounded_by_the_budget() -> None:
    cpu = make_cpu(lambda cpu: cpuid(1))
    cpu.set_cpuid([(1, -1, 0, 0, 0, 0)])
    assert cpu.run(50)[0] == ExitReason.BUDGET
    assert cpu.instructions() == 50


def test_save_and_restore() -> None:
    cpu, other = make_cpu([pause()]), make_cpu()
    cpu.set("rax", 5)
    cpu.shadow = True
    cpu.run(9)
    cpu.shadow = True
    other.restore(cpu.save())
    assert other.save() == cpu.save()
    assert (other.get("rax"), other.instructions(), other.shadow) == (5, 1, True)


def test_engine_keeps_its_cpus_and_refuses_foreign_parts() -> None:
    engine = FakeEngine({1: [pause()]})
    memory = engine.memory(4)
    space = engine.space(memory)
    first, second = engine.cpu(space, 0), engine.cpu(space, 1)
    assert engine.cpus == [first, second]
    assert first.run(1)[0] == ExitReason.HALT
    assert second.run(1)[0] == ExitReason.PAUSE
    with pytest.raises(TypeError):
        engine.space(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        engine.cpu(object(), 0)  # type: ignore[arg-type]
    second.close()
    assert second.closed

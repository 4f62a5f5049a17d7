# SPDX-License-Identifier: GPL-2.0-or-later
"""Crash reports: of a scripted guest with real code, page tables and a stack in its memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.hypervisor.support import ARG, Bench, Guest
from tests.observe.test_symbols import elf_with_symbols
from xenograft.abi.sched import SCHEDOP_shutdown, SHUTDOWN_crash, SHUTDOWN_poweroff, sched_shutdown
from xenograft.abi.version import XENVER_pagesize
from xenograft.arch.x86.pvh import CODE_32, CODE_64
from xenograft.engine.fake import FakeCpu, hypercall, shutdown
from xenograft.observe.crash import (
    LAST_HYPERCALLS,
    CrashReporter,
    _follows_call,
    backtrace,
    code,
    code_bits,
    linear_rip,
)
from xenograft.observe.symbols import Symbols

CODE = 0x10000
STACK = 0x18000
TABLES = 0x20000
SCHED = 29

# push rbp; mov rbp, rsp; call +0; nop; vmcall; ret
PROGRAM = bytes.fromhex("55 4889e5 e800000000 90 0f01c1 c3")
CALL_RETURN = CODE + 9
VMCALL_AT = CODE + 10


def prepare(cpu: FakeCpu) -> None:
    """Long mode, identity page tables for 2 MiB, the program, a stack."""
    present = 3
    for level, entry in enumerate((TABLES + 0x1000, TABLES + 0x2000)):
        cpu.space.write(TABLES + level * 0x1000, struct.pack("<Q", entry | present))
    cpu.space.write(TABLES + 0x2000, struct.pack("<Q", 0x83))
    # As kernels do: functions stand behind int3.
    cpu.space.write(CODE - 64, b"\xcc" * 64 + PROGRAM)
    cpu.space.write(STACK, struct.pack("<QQQ", 0x1234, CALL_RETURN, CODE + 2))
    cpu.registers.update(
        {
            "rip": VMCALL_AT,
            "rsp": STACK,
            "rbp": 0,
            "cr0": 0x80000011,
            "cr3": TABLES,
            "cr4": 0x20,
            "cr2": 0x400000,
            "efer": 0xD00,
            "cs.attr": CODE_64,
            "cs.sel": 0x10,
            "rflags": 0x246,
            "rax": SCHED,
            "rdi": SCHEDOP_shutdown,
            "rsi": ARG,
        }
    )


def crashes(cpu: FakeCpu) -> Guest:
    prepare(cpu)
    for _ in range(3):
        yield hypercall(17, XENVER_pagesize)
    cpu.space.write(ARG, sched_shutdown(reason=SHUTDOWN_crash).pack())
    prepare(cpu)
    yield hypercall(SCHED, SCHEDOP_shutdown, ARG)


def powers_off(cpu: FakeCpu) -> Guest:
    cpu.space.write(ARG, sched_shutdown(reason=SHUTDOWN_poweroff).pack())
    yield hypercall(SCHED, SCHEDOP_shutdown, ARG)


def triple_faults(cpu: FakeCpu) -> Guest:
    prepare(cpu)
    cpu.registers["rip"] = 0x9000_0000
    yield shutdown()


def run(script: object, kernel: Path | None = None) -> str | None:
    """A guest's report."""
    bench = Bench(script)  # type: ignore[arg-type]
    reporter = CrashReporter(bench.xen, kernel)
    reporter.watch(1)
    bench.xen.instruments.add(reporter)
    bench.run()
    return bench.domain.crash_report


@pytest.fixture(scope="module")
def report() -> str:
    text = run(crashes)
    assert text is not None
    return text


def test_reason_and_place(report: str) -> None:
    assert "(domain 1) went down: SHUTDOWN_crash" in report
    assert "on vCPU 0 of 1" in report


def test_registers(report: str) -> None:
    assert f"rip 0010:{VMCALL_AT:016x}  (64-bit, CPL 0)" in report
    assert "rflags 00000246  PF ZF IF" in report
    assert f"rsp {STACK:016x}" in report


def test_disassembly_marks_the_current_instruction(report: str) -> None:
    (marked,) = [line for line in report.splitlines() if "=> " in line]
    assert marked.split()[1:5] == [f"{VMCALL_AT:016x}", "0f", "01", "c1"]
    assert marked.endswith("vmcall")
    assert "mov rbp, rsp" in report
    assert "ret" in report


def test_page_walk(report: str) -> None:
    assert "Page walk of CR2 = 0x00400000:" in report
    assert "L4e @ 0x000000020000" in report
    assert "L2 entry isn't present" in report


def test_call_trace(report: str) -> None:
    trace = report[report.index("Call trace:") :].splitlines()[1]
    assert trace.strip() == f"? {CALL_RETURN:#010x}"


def test_last_hypercalls(report: str) -> None:
    assert "xen_version(XENVER_pagesize) = 0x1000  (2 more until" in report
    assert "sched_op(SCHEDOP_shutdown, {reason=SHUTDOWN_crash})  (under way)" in report


def test_no_symbols_is_said(report: str) -> None:
    assert report.endswith("there is no System.map beside it.\n")


def test_symbols_are_used(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(elf_with_symbols([(CODE, 32, "begin"), (CODE + 64, 8, "other")]))
    report = run(crashes, kernel)
    assert report is not None
    assert f"{VMCALL_AT:016x} begin+0xa" in report
    assert "<begin>" in report
    assert f"{CALL_RETURN:#010x} begin+0x9" in report
    assert "No symbols" not in report


def test_a_wanted_end_has_no_report() -> None:
    assert run(powers_off) is None


def test_a_triple_fault_has_a_report_and_reboots() -> None:
    bench = Bench(triple_faults)
    reporter = CrashReporter(bench.xen)
    reporter.watch(1)
    bench.xen.instruments.add(reporter)
    bench.run()
    assert bench.domain.shutdown_reason == 1
    report = bench.domain.crash_report
    assert report is not None
    assert "Triple fault" in report
    assert "nothing is mapped at 0x90000000" in report
    assert "Page walk of RIP = 0x90000000:" in report


def test_domains_made_later_are_watched() -> None:
    bench = Bench()
    reporter = CrashReporter(bench.xen)
    bench.xen.instruments.add(reporter)
    domain = bench.add_domain()
    domain.crash("for a test")
    assert domain.crash_report is not None
    assert "for a test" in domain.crash_report
    assert "Last hypercalls" not in domain.crash_report


def test_the_ring_is_bounded_and_per_domain() -> None:
    bench = Bench()
    reporter = CrashReporter(bench.xen)
    for index in range(100):
        reporter.hypercall_exit(index, 1, 0, 17, (index, 0, 0, 0, 0, 0), 0)
        reporter.hypercall_exit(index, 2, 0, 17, (0,) * 6, 0)
    lines = reporter.last_hypercalls(bench.domain)
    assert 0 < len(lines) <= LAST_HYPERCALLS
    assert all("d1v0" in line for line in lines)


def test_reporting_changes_nothing() -> None:
    bench = Bench(crashes)
    bench.run()
    cpu = bench.cpu()
    before = dict(cpu.registers)
    reporter = CrashReporter(bench.xen)
    first = reporter.report(bench.domain)
    bench.domain.crash_report = None
    assert reporter.report(bench.domain) == first
    assert cpu.registers == before


# -- the parts ----------------------------------------------------------------------------------


@pytest.fixture
def cpu() -> FakeCpu:
    bench = Bench()
    prepare(bench.cpu())
    return bench.cpu()


def unnamed(address: int) -> str:
    return ""


def test_code_widths(cpu: FakeCpu) -> None:
    assert code_bits(cpu) == 64
    cpu.registers["cs.attr"] = CODE_32
    cpu.registers["cs.base"] = 0x1000
    assert code_bits(cpu) == 32
    assert linear_rip(cpu) == VMCALL_AT + 0x1000
    cpu.registers["cs.attr"] = 0x9B
    assert code_bits(cpu) == 16


def test_frame_pointers_are_certain(cpu: FakeCpu) -> None:
    cpu.registers["rbp"] = STACK
    cpu.space.write(STACK, struct.pack("<QQ", 0, CALL_RETURN))
    lines = backtrace(cpu, unnamed, None)
    assert lines == [f"  {CALL_RETURN:#010x}"]


def test_a_chain_of_frames_that_loops_ends(cpu: FakeCpu) -> None:
    cpu.registers["rbp"] = STACK
    cpu.space.write(STACK, struct.pack("<QQ", STACK, CALL_RETURN))
    assert len(backtrace(cpu, unnamed, None)) == 1


def test_a_stack_at_the_end_of_memory(cpu: FakeCpu) -> None:
    cpu.registers["rsp"] = 64 * 4096 - 16
    cpu.space.write(64 * 4096 - 16, struct.pack("<QQ", CALL_RETURN, 0))
    assert len(backtrace(cpu, unnamed, None)) == 1
    cpu.registers["rsp"] = 0x7FFF_0000_0000
    assert backtrace(cpu, unnamed, None) == []


@pytest.mark.parametrize(
    "call",
    [
        "e8 11223344",  # call rel32
        "ff d0",  # call rax
        "41 ff d3",  # call r11
        "ff 10",  # call [rax]
        "ff 50 08",  # call [rax + 8]
        "ff 90 11223344",  # call [rax + disp32]
        "ff 15 11223344",  # call [rip + disp32]
        "ff 14 c5 11223344",  # call [rax * 8 + disp32]
        "ff 54 24 08",  # call [rsp + 8]
    ],
)
def test_calls_are_recognised(cpu: FakeCpu, call: str) -> None:
    raw = bytes.fromhex(call)
    cpu.space.write(CODE + 0x100, bytes(16) + raw)
    assert _follows_call(cpu, CODE + 0x110 + len(raw))


@pytest.mark.parametrize("other", ["90", "ff e0", "ff 30", "0f 01 c1", "ff c0"])
def test_others_are_not(cpu: FakeCpu, other: str) -> None:
    raw = bytes.fromhex(other)
    cpu.space.write(CODE + 0x100, bytes(16) + raw)
    assert not _follows_call(cpu, CODE + 0x110 + len(raw))
    assert not _follows_call(cpu, 3)
    assert not _follows_call(cpu, 0x7FFF_0000_0000)


def test_undecodable_code_is_shown_as_bytes(cpu: FakeCpu) -> None:
    cpu.space.write(VMCALL_AT, b"\x06" * 16)
    lines = code(cpu, None, unnamed)
    assert lines[-1].endswith("(undecodable)")


def test_code_before_starts_at_the_function(cpu: FakeCpu) -> None:
    symbols = Symbols([(CODE, 32, "begin")])
    lines = code(cpu, symbols, lambda address: str(symbols.lookup(address) or ""))
    assert lines[0] == "<begin>"
    assert "push rbp" in lines[1]
    assert "<begin+0x9>" in lines[3]

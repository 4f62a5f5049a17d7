# SPDX-License-Identifier: GPL-2.0-or-later
"""The second stage inside the native engine, and code that changes under the CPU's feet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.assembler import assemble
from tests.engine.native_machine import CODE, DATA, Bench, bench
from xenograft.engine.protocol import (
    P2M_COW,
    P2M_PRESENT,
    P2M_RWX,
    P2M_WRITE,
    ExitReason,
)
from xenograft.engine.unicorn import UnicornEngine

FUNCTION = 0x40000
ALIAS = 0x50000
RETURNS = "mov ${},%eax; ret"


@pytest.fixture
def guest() -> Iterator[Bench]:
    with bench() as made:
        made.long_mode()
        yield made


def mfn_of(guest: Bench, gpa: int) -> int:
    entry = guest.space.lookup(gpa >> 12)
    assert entry is not None
    return entry[0]


def call_function(guest: Bench) -> int:
    guest.load(f"mov ${FUNCTION},%rbx; call *%rbx; hlt")
    guest.cpu.set("rip", CODE)
    guest.run(ExitReason.HALT)
    return guest.cpu.get("rax")


# -- permissions


def test_write_to_a_read_only_page_exits_and_restarts(guest: Bench) -> None:
    mfn = mfn_of(guest, DATA)
    guest.space.map(DATA >> 12, mfn, flags=P2M_PRESENT)
    guest.load(f"mov ${DATA},%rbx; mov (%rbx),%rcx; incq 8(%rbx); hlt")
    result = guest.run(ExitReason.STAGE2)
    assert result[2:5] == (DATA + 8, 1, DATA) or result[2:4] == (DATA, 1)
    guest.space.map(DATA >> 12, mfn, flags=P2M_RWX)
    guest.run(ExitReason.HALT)
    assert guest.u64(DATA + 8) == 1


def test_execution_of_a_page_without_permission_exits(guest: Bench) -> None:
    guest.space.map(FUNCTION >> 12, mfn_of(guest, FUNCTION), flags=P2M_PRESENT | P2M_WRITE)
    guest.load(f"mov ${FUNCTION},%rbx; jmp *%rbx")
    assert guest.run(ExitReason.STAGE2)[2:4] == (FUNCTION, 2)


def test_execution_of_a_hole_exits(guest: Bench) -> None:
    guest.space.unmap(FUNCTION >> 12)
    guest.load(f"mov ${FUNCTION},%rbx; jmp *%rbx")
    assert guest.run(ExitReason.STAGE2)[2:4] == (FUNCTION, 2)


def test_a_permission_taken_away_is_seen_at_the_next_run(guest: Bench) -> None:
    guest.load(f"mov ${DATA},%rbx\n1: incq (%rbx); jmp 1b")
    guest.run(ExitReason.BUDGET, budget=1000)
    mfn = mfn_of(guest, DATA)
    guest.space.map(DATA >> 12, mfn, flags=P2M_PRESENT)
    assert guest.run(ExitReason.STAGE2)[3] == 1
    guest.space.unmap(DATA >> 12)
    assert guest.run(ExitReason.MMIO_READ)[2:4] == (DATA, 8)


def test_a_hole_that_is_filled_is_seen_at_the_next_run(guest: Bench) -> None:
    mfn = mfn_of(guest, DATA)
    guest.space.write(DATA, (77).to_bytes(8, "little"))
    guest.space.unmap(DATA >> 12)
    guest.load(f"mov ${DATA},%rbx; mov (%rbx),%rcx; mov (%rbx),%rdx; hlt")
    guest.run(ExitReason.MMIO_READ)
    guest.cpu.complete(1)
    guest.run(ExitReason.MMIO_READ)
    guest.space.map(DATA >> 12, mfn)
    guest.cpu.retry()
    guest.run(ExitReason.HALT)
    assert (guest.cpu.get("rcx"), guest.cpu.get("rdx")) == (1, 77)


def test_page_tables_in_a_hole_are_not_present(guest: Bench) -> None:
    guest.cpu.set("cr3", 0x7000_0000)
    guest.load("hlt")
    assert guest.run(ExitReason.SHUTDOWN)[2] == 8


def test_guest_virtual_access_follows_the_page_tables(guest: Bench) -> None:
    table = 0x13000  # entry of DATA in the bench's last level
    guest.space.write(table + 8 * (DATA >> 12), (ALIAS | 7).to_bytes(8, "little"))
    guest.cpu.flush_tlb()
    guest.cpu.write(DATA + 4090, b"0123456789")
    assert guest.space.read(ALIAS + 4090, 6) == b"012345"
    assert guest.space.read(DATA + 0x1000, 4) == b"6789"
    assert guest.cpu.read(DATA + 4090, 10) == b"0123456789"
    assert guest.cpu.translate(DATA + 5) == ALIAS + 5


# -- code that changes


def test_code_rewritten_by_itself(guest: Bench) -> None:
    guest.load(
        "movb $42, 1f+1(%rip); jmp 1f\n1: mov $1,%eax\n"
        "movb $43, 2f+1(%rip)\n2: mov $1,%ebx; hlt"
    )  # fmt: skip
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rax") == 42
    assert guest.cpu.get("rbx") == 43


def test_code_rewritten_through_another_address(guest: Bench) -> None:
    """The two addresses show one frame; the store goes to the one that isn't executed."""
    guest.space.map(ALIAS >> 12, mfn_of(guest, FUNCTION))
    guest.load(RETURNS.format(0), at=FUNCTION)
    guest.load(
        f"mov ${FUNCTION},%rbx; mov ${ALIAS},%rsi; mov $1,%ecx; xor %edx,%edx\n"
        "1: mov %cl,1(%rsi); call *%rbx; cmp %ecx,%eax; je 2f; inc %edx\n"
        "2: inc %ecx; cmp $50,%ecx; jne 1b; hlt"
    )
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rdx") == 0, "stale code was executed"


def test_code_rewritten_by_copy_out(guest: Bench) -> None:
    for value in (1, 2, 3):
        guest.load(RETURNS.format(value), at=FUNCTION)
        assert call_function(guest) == value


def test_code_rewritten_by_machine_writes(guest: Bench) -> None:
    guest.load(RETURNS.format(1), at=FUNCTION)
    assert call_function(guest) == 1
    guest.memory.write(mfn_of(guest, FUNCTION) << 12, assemble(RETURNS.format(2), 64, FUNCTION))
    assert call_function(guest) == 2


def test_another_frame_at_the_same_address(guest: Bench) -> None:
    guest.load(RETURNS.format(1), at=FUNCTION)
    guest.load(RETURNS.format(2), at=ALIAS)
    assert call_function(guest) == 1
    guest.space.map(FUNCTION >> 12, mfn_of(guest, ALIAS))
    assert call_function(guest) == 2


def test_code_rewritten_many_times_stays_right(guest: Bench) -> None:
    """Past the number of slow stores after which a page's translations are given up."""
    guest.load(RETURNS.format(0), at=FUNCTION)
    guest.load(
        f"mov ${FUNCTION},%rbx; mov $100,%ecx; xor %edx,%edx\n"
        "1: movb %cl,1(%rbx); movb %cl,0x800(%rbx); call *%rbx; sub %ecx,%eax; or %eax,%edx\n"
        "loop 1b; hlt"
    )
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rdx") == 0


def test_code_rewritten_by_a_cpu_of_the_same_space() -> None:
    with bench(cpus=2) as guest:
        for cpu in guest.cpus:
            guest.long_mode(cpu)
        writer = 0x60000
        guest.load(f"mov ${FUNCTION},%rsi\n1: incb 1(%rsi); hlt; jmp 1b", at=writer)
        guest.load(RETURNS.format(0), at=FUNCTION)
        guest.cpus[1].set("rip", writer)
        for value in range(1, 60):
            assert guest.cpus[1].run(1000)[0] == ExitReason.HALT
            assert call_function(guest) == value


def test_code_rewritten_by_another_space() -> None:
    """Two domains share a frame; one executes it, the other writes it, each with its engine."""
    with bench(frames=8192) as guest:
        guest.long_mode()
        guest.load(RETURNS.format(0), at=FUNCTION)
        assert call_function(guest) == 0
        mfn = mfn_of(guest, FUNCTION)
        guest.memory.get_ref(mfn)
        other = guest.engine.space(guest.memory)
        for start, count in guest.memory.alloc(2, 32):
            other.map(0, start, count)
        other.map(0x80, mfn)
        other.write(0, assemble("mov $0x8000,%bx; mov %bx,%ds\n1: incb %ds:1; hlt; jmp 1b", 16, 0))
        writer = guest.engine.cpu(other, 0)
        for name in ("cs.sel", "cs.base", "rip"):
            writer.set(name, 0)
        try:
            for value in range(1, 60):
                assert writer.run(1000)[0] == ExitReason.HALT
                assert call_function(guest) == value
        finally:
            writer.close()
            other.close()
            guest.memory.put_ref(mfn)


# -- copy on write


def test_copy_on_write_gives_the_writer_its_own_frame(guest: Bench) -> None:
    mfn = mfn_of(guest, DATA)
    guest.space.write(DATA, (5).to_bytes(8, "little"))
    guest.memory.get_ref(mfn)
    guest.space.map(DATA >> 12, mfn, flags=P2M_RWX | P2M_COW)
    guest.load(f"mov ${DATA},%rbx; mov (%rbx),%rcx; incq (%rbx); mov (%rbx),%rdx; hlt")
    guest.run(ExitReason.HALT)
    assert (guest.cpu.get("rcx"), guest.cpu.get("rdx")) == (5, 6)
    assert guest.u64(DATA) == 6
    assert guest.memory.read_u64(mfn << 12) == 5
    assert guest.memory.refs(mfn) == 1
    assert mfn_of(guest, DATA) != mfn


def test_copy_on_write_by_copy_out(guest: Bench) -> None:
    mfn = mfn_of(guest, DATA)
    guest.memory.get_ref(mfn)
    guest.space.map(DATA >> 12, mfn, flags=P2M_RWX | P2M_COW)
    guest.space.write(DATA, b"mine")
    assert guest.memory.read(mfn << 12, 4) == bytes(4)
    assert guest.space.read(DATA, 4) == b"mine"


def test_copy_on_write_of_running_code(guest: Bench) -> None:
    guest.load(RETURNS.format(1), at=FUNCTION)
    assert call_function(guest) == 1
    mfn = mfn_of(guest, FUNCTION)
    guest.memory.get_ref(mfn)
    guest.space.map(FUNCTION >> 12, mfn, flags=P2M_RWX | P2M_COW)
    assert call_function(guest) == 1
    guest.load(f"mov ${FUNCTION},%rbx; movb $9,1(%rbx); call *%rbx; hlt")
    guest.cpu.set("rip", CODE)
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rax") == 9
    assert guest.memory.read(mfn << 12, 2) == b"\xb8\x01"


# -- dirty logging


def test_dirty_log_holds_what_the_guest_stored(guest: Bench) -> None:
    guest.load(f"mov ${DATA},%rbx\n1: incq (%rbx); incq 0x3000(%rbx); jmp 1b")
    guest.run(ExitReason.BUDGET, budget=1000)
    guest.memory.set_dirty_logging(True)
    expected = {mfn_of(guest, DATA), mfn_of(guest, DATA + 0x3000)}
    for _ in range(3):
        guest.run(ExitReason.BUDGET, budget=1000)
        dirty = set(guest.memory.dirty_frames())
        # beside the data, page tables may be there: accessed and dirty bits
        assert expected <= dirty
        assert mfn_of(guest, DATA + 0x1000) not in dirty
    assert guest.memory.dirty_frames() == []


# -- life


def test_frames_come_back_zeroed(guest: Bench) -> None:
    ((mfn, _),) = guest.memory.alloc(1, 1)
    guest.memory.write(mfn << 12, b"secret" * 600)
    guest.memory.free(mfn)
    assert guest.memory.alloc(2, 1) == [(mfn, 1)]
    assert guest.memory.read(mfn << 12, 4096) == bytes(4096)


def test_engines_come_and_go() -> None:
    engine = UnicornEngine()
    memory = engine.memory(8192)
    for _ in range(20):
        space = engine.space(memory)
        cpus = [engine.cpu(space, index) for index in range(3)]
        assert cpus[2].get("rip") == 0xFFF0
        for cpu in cpus:
            cpu.close()
        again = engine.cpu(space, 0)
        assert again.get("cs.base") == 0xFFFF0000
        again.close()
        space.close()
    memory.close()


def test_order_of_closing_is_checked(guest: Bench) -> None:
    with pytest.raises(ValueError, match="CPUs"):
        guest.space.close()
    with pytest.raises(ValueError, match="before their memory"):
        guest.memory.close()

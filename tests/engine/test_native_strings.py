# SPDX-License-Identifier: GPL-2.0-or-later
"""REP MOVS and REP STOS, which the native core makes in bulk: against a model, and in time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.native_machine import CODE, Bench, bench
from xenograft.engine.protocol import P2M_PRESENT, ExitReason

AREA, SIZE = 0x40000, 0x8000
OPS = {"movsb": 1, "movsl": 4, "movsq": 8, "stosb": 1, "stosl": 4, "stosq": 8}
PATTERN = bytes((7 * i + i // 251) & 0xFF for i in range(SIZE))
VALUE = 0x1122334455667788


@pytest.fixture(scope="module")
def guest() -> Iterator[Bench]:
    with bench() as made:
        made.long_mode()
        yield made


def model(op: str, source: int, target: int, count: int, down: bool) -> bytes:
    """What one repetition after the other makes of PATTERN; places are offsets in the area."""
    memory, size = bytearray(PATTERN), OPS[op]
    for _ in range(count):
        element = VALUE.to_bytes(8, "little")[:size]
        if op.startswith("movs"):
            element = bytes(memory[source : source + size])
        memory[target : target + size] = element
        source, target = (source - size, target - size) if down else (source + size, target + size)
    return bytes(memory)


def run(guest: Bench, op: str, source: int, target: int, count: int, down: bool = False) -> None:
    guest.space.write(AREA, PATTERN)
    guest.load(f"{'std' if down else 'cld'}; rep {op}; hlt")
    for name, value in (("rsi", AREA + source), ("rdi", AREA + target), ("rcx", count)):
        guest.cpu.set(name, value)
    guest.cpu.set("rax", VALUE)
    guest.cpu.set("rip", CODE)
    guest.run(ExitReason.HALT)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    op=st.sampled_from(sorted(OPS)),
    source=st.integers(0x800, 0x3000),
    target=st.integers(0x800, 0x3000),
    near=st.none() | st.integers(-16, 16),
    count=st.integers(0, 600),
    down=st.booleans(),
)
def test_any_string_is_as_one_by_one(
    guest: Bench, op: str, source: int, target: int, near: int | None, count: int, down: bool
) -> None:
    """Overlapping in either direction, unaligned, over page borders, backwards."""
    if near is not None:
        target = source + near
    if down:
        source, target = source + 0x3000, target + 0x3000
    run(guest, op, source, target, count, down)
    assert guest.space.read(AREA, SIZE) == model(op, source, target, count, down)
    step = -OPS[op] if down else OPS[op]
    assert guest.cpu.get("rcx") == 0
    assert guest.cpu.get("rdi") == AREA + target + count * step
    moves = op.startswith("movs")
    assert guest.cpu.get("rsi") == AREA + source + (count * step if moves else 0)


def test_each_repetition_takes_its_time(guest: Bench) -> None:
    """The same number of instructions in small slices and at once, and no slice overrun."""

    def taken(budget: int) -> int:
        guest.space.write(AREA, PATTERN)
        guest.load("cld; rep stosq; hlt")
        for name, value in (("rdi", AREA), ("rcx", 3000), ("rip", CODE)):
            guest.cpu.set(name, value)
        begin = guest.cpu.instructions()
        while True:
            before = guest.cpu.instructions()
            if guest.cpu.run(budget)[0] == ExitReason.HALT:
                return guest.cpu.instructions() - begin
            assert guest.cpu.instructions() - before <= budget + 1

    whole = taken(1_000_000)
    assert whole >= 3000
    assert {taken(budget) for budget in (1, 7, 100, 999)} == {whole}


def test_a_fault_in_the_middle_is_precise() -> None:
    with bench() as guest:
        guest.long_mode()
        guest.gate(14, 0x30000)
        guest.load("hlt", at=0x30000)
        leaves = 0x13000
        guest.space.write(leaves + 8 * ((AREA >> 12) + 2), bytes(8))
        guest.load("cld; rep stosq; hlt")
        for name, value in (("rdi", AREA), ("rcx", 3000), ("rip", CODE)):
            guest.cpu.set(name, value)
        guest.run(ExitReason.HALT)
        assert guest.cpu.get("cr2") == guest.cpu.get("rdi") == AREA + 0x2000
        assert guest.cpu.get("rcx") == 3000 - 0x2000 // 8


def test_a_page_without_write_permission_is_not_written() -> None:
    with bench() as guest:
        guest.long_mode()
        page = (AREA >> 12) + 1
        entry = guest.space.lookup(page)
        assert entry is not None
        guest.space.map(page, entry[0], flags=P2M_PRESENT)
        guest.load("mov (%rdi),%rax; rep stosq; hlt")
        for name, value in (("rdi", AREA + 0x800), ("rcx", 1000), ("rip", CODE)):
            guest.cpu.set(name, value)
        exit_ = guest.run(ExitReason.STAGE2)
        assert exit_[2] == AREA + 0x1000
        assert guest.space.read(AREA + 0x1000, 0x1000) == bytes(0x1000)


def test_code_that_a_string_overwrites_is_not_run_again(guest: Bench) -> None:
    function, bytes_of_ret = 0x50000, 0xC3C3C3C3C3C3C3C3
    guest.load("mov $1,%eax; nop; nop; nop; ret", at=function)
    guest.load(
        f"cld; mov ${function},%rbx; call *%rbx; mov %rbx,%rdi; mov $4,%ecx;"
        f"movabs ${bytes_of_ret},%rax; rep stosq; mov $7,%eax; call *%rbx; hlt"
    )
    guest.cpu.set("rip", CODE)
    guest.run(ExitReason.HALT)
    assert guest.cpu.get("rax") == 7

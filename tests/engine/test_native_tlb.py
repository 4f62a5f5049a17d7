# SPDX-License-Identifier: GPL-2.0-or-later
"""What the native TLB keeps and what it forgets, and the cache of indirect jumps.

AMD64 Architecture Programmer's Manual, volume 2: "Translation-Lookaside Buffer", "Global Pages".
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.engine.native_machine import CODE, DATA, PAGE_TABLES, Bench, bench
from xenograft.engine.protocol import ExitReason

LEAVES = PAGE_TABLES + 0x3000
GLOBAL = 0x100
PGE = 0x80
OTHER = 0x21000
FIRST = 0x40000


@pytest.fixture
def guest() -> Iterator[Bench]:
    with bench() as made:
        made.long_mode()
        made.cpu.set("cr4", made.cpu.get("cr4") | PGE)
        made.cpu.flush_tlb()
        yield made


def leaf(gva: int) -> int:
    return LEAVES + 8 * (gva >> 12)


def point(guest: Bench, gva: int, gpa: int, flags: int = 0) -> None:
    """Let a page of the guest's show `gpa`, as the guest itself would: without a flush."""
    guest.space.write(leaf(gva), (gpa | 0x63 | flags).to_bytes(8, "little"))


def run(guest: Bench, text: str) -> None:
    guest.load(text)
    guest.cpu.set("rip", CODE)
    guest.run(ExitReason.HALT)


def remap_between(flags: int, flush: str) -> str:
    """Read DATA, point its page to OTHER, flush somehow, read again into RCX; RBX has the first."""
    return (
        f"mov $0x{DATA:x},%rdi; mov (%rdi),%rbx;"
        f"mov $0x{leaf(DATA):x},%rsi; movq $0x{OTHER | 0x63 | flags:x},(%rsi);"
        f"{flush}; mov (%rdi),%rcx; hlt"
    )


RELOAD = "mov %cr3,%rax; mov %rax,%cr3"
TOGGLE = f"mov %cr4,%rax; xor ${PGE},%rax; mov %rax,%cr4; xor ${PGE},%rax; mov %rax,%cr4"
INVALIDATE = "invlpg (%rdi)"


@pytest.mark.parametrize(
    ("flags", "flush", "fresh"),
    [
        (0, RELOAD, True),
        (0, INVALIDATE, True),
        (0, TOGGLE, True),
        (GLOBAL, RELOAD, False),
        (GLOBAL, INVALIDATE, True),
        (GLOBAL, TOGGLE, True),
    ],
)
def test_what_ends_a_translation(guest: Bench, flags: int, flush: str, fresh: bool) -> None:
    guest.space.write(DATA, b"\x11")
    guest.space.write(OTHER, b"\x22")
    point(guest, DATA, DATA, flags)
    run(guest, remap_between(flags, flush))
    assert guest.cpu.get("rbx") == 0x11
    assert guest.cpu.get("rcx") == (0x22 if fresh else 0x11)


def test_global_bits_count_only_with_pge(guest: Bench) -> None:
    guest.cpu.set("cr4", guest.cpu.get("cr4") & ~PGE)
    guest.space.write(DATA, b"\x11")
    guest.space.write(OTHER, b"\x22")
    point(guest, DATA, DATA, GLOBAL)
    run(guest, remap_between(GLOBAL, RELOAD))
    assert guest.cpu.get("rcx") == 0x22


@pytest.mark.parametrize("pages", [1, 20, 64, 65, 128])
def test_all_local_pages_are_forgotten_however_many(guest: Bench, pages: int) -> None:
    """A few are taken out one by one, many together."""
    for page in range(pages):
        guest.space.write(FIRST + page * 4096, b"\x01")
    guest.space.write(OTHER, b"\x02")
    total = (
        f"xor %ebx,%ebx; mov ${FIRST},%rdi; mov ${pages},%ecx;"
        "{0}: add (%rdi),%rbx; add $4096,%rdi; dec %ecx; jnz {0}b"
    )
    change = (
        f"mov ${leaf(FIRST)},%rsi; mov ${pages},%ecx; mov ${OTHER | 0x63},%eax;"
        "2: mov %rax,(%rsi); add $8,%rsi; dec %ecx; jnz 2b"
    )
    run(guest, f"{total.format(1)}; mov %rbx,%r8; {change}; {RELOAD}; {total.format(3)}; hlt")
    assert guest.cpu.get("r8") == pages
    assert guest.cpu.get("rbx") == 2 * pages


def test_a_large_local_page_is_forgotten(guest: Bench) -> None:
    """0x200000 is a large page that first shows the same memory, then what lies 2 MiB above."""
    directory = PAGE_TABLES + 0x2008
    guest.space.write(directory, (0x0 | 0xE3).to_bytes(8, "little"))
    guest.space.write(DATA, b"\x11")
    text = (
        f"mov ${0x200000 + DATA},%rdi; mov (%rdi),%rbx; mov ${directory},%rsi;"
        f"movq $0,(%rsi); {RELOAD}; mov (%rdi),%rcx; hlt"
    )
    guest.gate(14, 0x30000)
    guest.load("mov $0x77,%ecx; hlt", at=0x30000)
    run(guest, text)
    assert (guest.cpu.get("rbx"), guest.cpu.get("rcx")) == (0x11, 0x77)


# -- indirect jumps

CALLS = (
    "mov ${0},%rdi; call *%rdi; mov %rax,%rbx; {1}; mov ${0},%rdi; call *%rdi; mov %rax,%rcx; hlt"
)
FUNCTION, SUBSTITUTE = 0x50000, 0x51000


def two_functions(guest: Bench) -> None:
    guest.load("mov $1,%eax; ret", at=FUNCTION)
    guest.load("mov $2,%eax; ret", at=SUBSTITUTE)


@pytest.mark.parametrize("flush", [RELOAD, "invlpg (%rdi)", TOGGLE])
def test_an_indirect_call_follows_a_page_that_moves(guest: Bench, flush: str) -> None:
    two_functions(guest)
    move = f"mov ${leaf(FUNCTION)},%rsi; movq ${SUBSTITUTE | 0x63},(%rsi); {flush}"
    # Twice around, so that the first call's target is known to the cache.
    text = f"mov ${FUNCTION},%rdi; call *%rdi; " + CALLS.format(FUNCTION, move)
    run(guest, text)
    assert (guest.cpu.get("rbx"), guest.cpu.get("rcx")) == (1, 2)


def test_an_indirect_call_sees_code_that_is_rewritten(guest: Bench) -> None:
    two_functions(guest)
    rewrite = f"mov ${FUNCTION + 1},%rsi; movb $9,(%rsi)"
    run(guest, f"mov ${FUNCTION},%rdi; call *%rdi; " + CALLS.format(FUNCTION, rewrite))
    assert (guest.cpu.get("rbx"), guest.cpu.get("rcx")) == (1, 9)


def test_another_cpus_indirect_call_sees_code_that_is_rewritten() -> None:
    with bench(cpus=2) as guest:
        two_functions(guest)
        caller = f"1: mov ${FUNCTION},%rdi; call *%rdi; pause; jmp 1b"
        writer, other = guest.cpus
        guest.load(caller)
        guest.long_mode(other)
        other.pause_exits(1)
        for _ in range(3):
            assert other.run(1000)[0] == ExitReason.PAUSE
            assert other.get("rax") == 1
        guest.long_mode(writer)
        guest.load(f"mov ${FUNCTION + 1},%rsi; movb $5,(%rsi); hlt", at=0x60000)
        writer.set("rip", 0x60000)
        assert writer.run(1000)[0] == ExitReason.HALT
        assert other.run(1000)[0] == ExitReason.PAUSE
        assert other.get("rax") == 5


def test_random_remaps_agree_with_a_model(guest: Bench) -> None:
    """Data and code pages that move about, local and global, with the flushes they need."""
    rng = random.Random(4)
    pages = 6
    for page in range(pages):
        guest.load(f"mov ${100 + page},%eax; ret", at=0x80000 + page * 4096)
    shown = {page: page for page in range(pages)}
    flags = {page: rng.choice([0, GLOBAL]) for page in range(pages)}
    gva = 0x90000
    for page in range(pages):
        point(guest, gva + page * 4096, 0x80000 + page * 4096, flags[page])
    for _ in range(60):
        page, target = rng.randrange(pages), rng.randrange(pages)
        entry = 0x80000 + target * 4096 | 0x63 | flags[page]
        address = gva + page * 4096
        flush = INVALIDATE if flags[page] else rng.choice([RELOAD, INVALIDATE, TOGGLE])
        called = rng.randrange(pages)
        shown[page] = target
        run(
            guest,
            f"mov ${address},%rdi; call *%rdi; mov ${leaf(address)},%rsi; movq ${entry},(%rsi);"
            f"{flush}; mov ${gva + called * 4096},%rdi; call *%rdi; hlt",
        )
        assert guest.cpu.get("rax") == 100 + shown[called]


# -- giving memory back


def test_trimming_forgets_translations_and_changes_nothing(guest: Bench) -> None:
    count = f"mov ${FUNCTION},%rdi; 1: call *%rdi; add %rax,%rbx; jmp 1b"
    two_functions(guest)
    guest.load(count)
    guest.run(ExitReason.BUDGET, budget=10_000)
    before = guest.cpu.get("rbx")
    assert guest.space.trim(1 << 30) == 0
    assert guest.space.trim(0) > 0
    assert guest.space.trim(1) == 0
    guest.run(ExitReason.BUDGET, budget=10_000)
    assert guest.cpu.get("rbx") > before


def test_a_space_without_cpus_has_nothing_to_trim() -> None:
    with bench(cpus=1) as guest:
        space = guest.engine.space(guest.memory)
        assert space.trim(0) == 0
        space.close()


def test_trimming_at_any_time_gives_the_same_run(guest: Bench) -> None:
    """Time, registers and memory are those of a run without it."""

    def result(every: int) -> tuple[int, int, bytes]:
        with bench() as other:
            other.long_mode()
            two_functions(other)
            other.load(
                f"mov ${FUNCTION},%rdi; mov ${DATA},%rsi; mov $3000,%ecx;"
                "1: call *%rdi; add %rax,(%rsi); add %rcx,8(%rsi); dec %ecx; jnz 1b; hlt"
            )
            while other.run(budget=777)[0] != ExitReason.HALT:
                if every:
                    other.space.trim(0)
            return other.cpu.instructions(), other.cpu.get("rcx"), other.space.read(DATA, 16)

    assert result(0) == result(1)

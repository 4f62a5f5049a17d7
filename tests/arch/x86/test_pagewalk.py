# SPDX-License-Identifier: GPL-2.0-or-later
"""The page walker: each mode, each right, and agreement with the engine's own walker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenograft.arch.x86 import pagewalk as pw
from xenograft.arch.x86.pagewalk import Access, Paging, walk
from xenograft.engine.protocol import AccessError

P, W, U, PS, NX = pw.PTE_P, pw.PTE_W, pw.PTE_U, pw.PTE_PS, pw.PTE_NX
CR0 = pw.CR0_PG | pw.CR0_WP | 1
LONG = Paging(CR0, 0x1000, pw.CR4_PAE, pw.EFER_LMA | pw.EFER_NXE | 1 << 8)
PAE = Paging(CR0, 0x1020, pw.CR4_PAE, pw.EFER_NXE)
LEGACY = Paging(CR0, 0x1000, pw.CR4_PSE, 0)


class Memory:
    """A sparse guest-physical memory of 8-byte words."""

    def __init__(self, words: dict[int, int] | None = None, size: int = 1 << 40) -> None:
        self.words = words or {}
        self.size = size

    def put32(self, address: int, value: int) -> None:
        word, shift = address & ~7, 32 if address & 4 else 0
        old = self.words.get(word, 0)
        self.words[word] = old & ~(0xFFFFFFFF << shift) | value << shift

    def read_u64(self, address: int) -> int:
        assert address % 8 == 0
        if address >= self.size:
            raise AccessError(address)
        return self.words.get(address, 0)


def long_mode(leaf: int, level: int = 1, upper: int = P | W | U) -> Memory:
    """Tables at 0x1000 to 0x4000 that map address 0 by `leaf` at `level`."""
    words = {}
    for step in range(4, level, -1):
        words[(5 - step) * 0x1000] = (6 - step) * 0x1000 | upper
    words[(5 - level) * 0x1000] = leaf
    return Memory(words)


def test_no_paging() -> None:
    result = walk(Memory().read_u64, Paging(1, 0, 0, 0), 0x12345678)
    assert result.gpa == 0x12345678
    assert result.steps == ()


def test_four_levels() -> None:
    result = walk(long_mode(0xABC000 | P | W | U).read_u64, LONG, 0x123)
    assert result.gpa == 0xABC123
    assert result.page_size == 4096
    assert [(step.level, step.address) for step in result.steps] == [
        (4, 0x1000),
        (3, 0x2000),
        (2, 0x3000),
        (1, 0x4000),
    ]
    assert str(result.steps[-1]).endswith("0000000000abc007  P W U")


def test_indices_of_a_high_address() -> None:
    gva = 0xFFFF_8880_1234_5678
    indices = [gva >> shift & 511 for shift in (39, 30, 21, 12)]
    words = {}
    for level, index in enumerate(indices):
        words[0x1000 * (level + 1) + 8 * index] = 0x1000 * (level + 2) | P | W
    result = walk(Memory(words).read_u64, LONG, gva)
    assert result.gpa == 0x5678


@pytest.mark.parametrize(("level", "size"), [(2, 2 << 20), (3, 1 << 30)])
def test_large_pages(level: int, size: int) -> None:
    result = walk(long_mode(4 << 30 | P | PS, level).read_u64, LONG, size - 1)
    assert result.gpa == (4 << 30) + size - 1
    assert result.page_size == size


def test_non_canonical_addresses_have_no_page_fault() -> None:
    result = walk(Memory().read_u64, LONG, 1 << 47)
    assert (result.gpa, result.error_code) == (None, None)
    assert result.reason == "non-canonical address"


def test_pae_has_four_entries_at_the_top() -> None:
    memory = Memory({0x1038: 0x2000 | P, 0x2000 + 8 * 5: 0x3000 | P | W | U, 0x3008: 0x9000 | P})
    result = walk(memory.read_u64, PAE, 0xC0A01234)
    assert result.gpa == 0x9234
    assert [step.level for step in result.steps] == [3, 2, 1]


def test_pae_ignores_rights_at_the_top() -> None:
    memory = Memory({0x1020: 0x2000 | P, 0x2000: 0x200000 | P | W | U | PS})
    result = walk(memory.read_u64, PAE, 0x1234, Access.WRITE, user=True)
    assert result.gpa == 0x201234


def test_32_bit_paging() -> None:
    memory = Memory()
    memory.put32(0x1000 + 4 * 3, 0x2000 | P | W | U)
    memory.put32(0x2000 + 4 * 1, 0x7000 | P)
    result = walk(memory.read_u64, LEGACY, 3 << 22 | 1 << 12 | 0xABC)
    assert result.gpa == 0x7ABC
    assert [step.value for step in result.steps] == [0x2007, 0x7001]


def test_4_mib_pages_with_36_bit_addresses() -> None:
    memory = Memory()
    memory.put32(0x1004, 0x00C00000 | 0x12 << 13 | P | PS)
    result = walk(memory.read_u64, LEGACY, 0x400000 + 5)
    assert result.gpa == 0x12_00C00005
    # Without CR4.PSE the bit has no meaning, and the entry is a table.
    result = walk(memory.read_u64, LEGACY._replace(cr4=0), 0x400000)
    assert result.steps[-1].level == 1


def test_tables_outside_memory_end_the_walk() -> None:
    memory = long_mode(0, level=3)
    memory.words[0x1000] = 0xFFFF_0000_0000 & pw.ADDRESS_MASK | P
    memory.size = 1 << 32
    paging = LONG._replace(cr3=0x1000)
    result = walk(memory.read_u64, paging, 0)
    # Beyond the 40 bits of an address it's a reserved bit; within, memory that isn't there.
    assert result.error_code == pw.PFEC_present | pw.PFEC_reserved
    memory.words[0x1000] = 0x80_0000_0000 | P
    result = walk(memory.read_u64, paging, 0)
    assert result.error_code == 0
    assert result.steps[-1].value is None
    assert result.steps[-1].flags == "unmapped"


def test_other_errors_of_the_reader_are_not_swallowed() -> None:
    def broken(address: int) -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        walk(broken, LONG, 0)


@pytest.mark.parametrize(
    ("leaf", "level", "efer"),
    [
        (1 << 40 | P, 1, LONG.efer),
        (NX | P, 1, pw.EFER_LMA),
        (P | PS, 4, LONG.efer),
        (1 << 13 | P | PS, 2, LONG.efer),
        (1 << 21 | P | PS, 3, LONG.efer),
    ],
)
def test_reserved_bits(leaf: int, level: int, efer: int) -> None:
    result = walk(long_mode(leaf, level).read_u64, LONG._replace(efer=efer), 0)
    assert result.error_code == pw.PFEC_present | pw.PFEC_reserved
    assert f"L{level}" in result.reason


def test_pae_reserved_bits_at_the_top() -> None:
    for bit in (1, 2, 5, 6, 7, 8, 63, 45):
        memory = Memory({0x1020: 0x2000 | P | 1 << bit})
        result = walk(memory.read_u64, PAE, 0)
        assert result.error_code == pw.PFEC_present | pw.PFEC_reserved, bit


WRITE, USER, FETCH, PRESENT = pw.PFEC_write, pw.PFEC_user, pw.PFEC_insn, pw.PFEC_present


@pytest.mark.parametrize(
    ("leaf", "change", "access", "user", "code"),
    [
        (P | W | U, {}, Access.WRITE, True, None),
        (P | W, {}, Access.READ, True, PRESENT | USER),
        (P | U, {}, Access.WRITE, True, PRESENT | WRITE | USER),
        (P | U, {}, Access.WRITE, False, PRESENT | WRITE),
        (P | U, {"cr0": pw.CR0_PG | 1}, Access.WRITE, False, None),
        (P | U, {"cr0": pw.CR0_PG | 1}, Access.WRITE, True, PRESENT | WRITE | USER),
        (P | U | NX, {}, Access.FETCH, True, PRESENT | FETCH | USER),
        (P | U | NX, {}, Access.READ, True, None),
        (P | U, {"cr4": pw.CR4_PAE | pw.CR4_SMEP}, Access.FETCH, False, PRESENT | FETCH),
        (P | U, {"cr4": pw.CR4_PAE | pw.CR4_SMEP}, Access.FETCH, True, None),
        (P | U, {"cr4": pw.CR4_PAE | pw.CR4_SMAP}, Access.READ, False, PRESENT),
        (P | U, {"cr4": pw.CR4_PAE | pw.CR4_SMAP, "ac": True}, Access.READ, False, None),
        (P, {"cr4": pw.CR4_PAE | pw.CR4_SMAP}, Access.READ, False, None),
        (0, {}, Access.FETCH, True, FETCH | USER),
        (0, {}, Access.WRITE, False, WRITE),
    ],
)
def test_rights(
    leaf: int, change: dict[str, Any], access: Access, user: bool, code: int | None
) -> None:
    result = walk(long_mode(leaf).read_u64, LONG._replace(**change), 0, access, user)
    assert result.error_code == code
    assert result.ok is (code is None)
    assert bool(result.reason) is (code is not None)


def test_rights_are_those_of_all_levels() -> None:
    result = walk(long_mode(P | W | U, upper=P).read_u64, LONG, 0, Access.WRITE)
    assert result.error_code == PRESENT | WRITE
    result = walk(long_mode(P | W | U, upper=P | W).read_u64, LONG, 0, user=True)
    assert result.error_code == PRESENT | USER


@pytest.mark.parametrize(
    ("pkru", "access", "code"),
    [
        (0b01 << 6, Access.READ, PRESENT | USER | pw.PFEC_prot_key),
        (0b10 << 6, Access.READ, None),
        (0b10 << 6, Access.WRITE, PRESENT | USER | WRITE | pw.PFEC_prot_key),
        (0b11 << 4, Access.WRITE, None),
        (0b01 << 6, Access.FETCH, None),
    ],
)
def test_protection_keys(pkru: int, access: Access, code: int | None) -> None:
    paging = LONG._replace(cr4=pw.CR4_PAE | pw.CR4_PKE, pkru=pkru)
    result = walk(long_mode(P | W | U | 3 << 59).read_u64, paging, 0, access, user=True)
    assert result.error_code == code


def test_the_fetch_bit_needs_nx_or_smep() -> None:
    result = walk(Memory().read_u64, LEGACY, 0, Access.FETCH, user=True)
    assert result.error_code == USER
    result = walk(Memory().read_u64, LEGACY._replace(cr4=pw.CR4_SMEP), 0, Access.FETCH, user=True)
    assert result.error_code == USER | FETCH


@given(st.dictionaries(st.integers(0, 0x1000).map(lambda n: n * 8), st.integers(0, 2**64 - 1)))
def test_every_walk_ends_with_a_clear_result(words: dict[int, int]) -> None:
    for paging in (LONG, PAE, LEGACY):
        for gva in (0, 0xFFFFFFFF, 0x7FFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_F000):
            result = walk(Memory(words, 1 << 30).read_u64, paging, gva, Access.WRITE, user=True)
            assert (result.gpa is None) == bool(result.reason)
            assert len(result.steps) <= 4


# -- against the engine ----------------------------------------------------------------------

FRAMES = 64


@pytest.fixture(scope="module")
def engine_translate() -> Callable[[dict[int, int], Paging, int], int | None]:
    """A function that asks the native engine's walker (a supervisor's read)."""
    unicorn = pytest.importorskip("xenograft.engine.unicorn")
    try:
        engine = unicorn.UnicornEngine()
    except ImportError as error:
        pytest.skip(str(error))
    memory = engine.memory(1024)
    space = engine.space(memory)
    gfn = 0
    for mfn, count in memory.alloc(0, FRAMES):
        space.map(gfn, mfn, count)
        gfn += count
    cpu = engine.cpu(space, 0)

    def translate(words: dict[int, int], paging: Paging, gva: int) -> int | None:
        space.write(0, bytes(FRAMES << 12))
        for address, value in words.items():
            space.write(address, value.to_bytes(8, "little"))
        for name in ("efer", "cr4", "cr3", "cr0"):
            cpu.set(name, getattr(paging, name))
        cpu.flush_tlb()
        try:
            return int(cpu.translate(gva))
        except AccessError:
            return None

    return translate


entries = st.builds(
    lambda frame, flags, nx: frame << 12 | flags | nx << 63,
    st.integers(0, FRAMES - 1),
    st.integers(0, 0xFFF).map(lambda flags: flags & ~PS | P),
    st.integers(0, 1),
) | st.builds(lambda frame: frame << 21 | P | PS, st.integers(0, 3))


@settings(deadline=None)
@given(
    st.sampled_from([LONG, PAE, LEGACY]),
    st.lists(entries, min_size=8, max_size=8),
    st.integers(0, (1 << 48) - 1).map(lambda gva: gva if gva >> 47 == 0 else gva | 0xFFFF << 48),
)
def test_agrees_with_the_engine(
    engine_translate: Callable[[dict[int, int], Paging, int], int | None],
    paging: Paging,
    values: list[int],
    gva: int,
) -> None:
    """Tables in frames 1 to 8, each with one entry at the index that the address uses."""
    words = {}
    for frame, value in enumerate(values, start=1):
        if paging is LEGACY:
            entry = (value & 0xFFFFFFFF) * (1 << 32 | 1)
            for shift in (22, 12):
                words[(frame << 12) + (gva >> shift & 1022) * 4] = entry
            continue
        for shift in (39, 30, 21, 12):
            words[(frame << 12) + (gva >> shift & 511) * 8] = value
    if paging is PAE:
        # Most entries have bits that the root's four may not have.
        words[0x1020 + (gva >> 30 & 3) * 8] = values[0] & ~0x80000000000001E6
    if paging is not LONG:
        gva &= 0xFFFFFFFF
    result = walk(Memory(words, FRAMES << 12).read_u64, paging, gva)
    found = engine_translate(words, paging, gva)
    # The engine reads tables from memory that exists, and translates to any address.
    if result.gpa is not None and result.gpa < FRAMES << 12:
        assert found == result.gpa
    elif result.error_code is not None:
        assert found is None

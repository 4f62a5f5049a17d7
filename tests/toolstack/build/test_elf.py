# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF parser: agreement with pyelftools, and sanity on hostile files."""

from __future__ import annotations

import io
import struct
from itertools import pairwise

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from tests.toolstack.build.support import LINUX_NOTES, elf, linux, note
from xenograft.toolstack.build.elf import Symbol, is_elf, parse_elf, read_symbols
from xenograft.toolstack.errors import UserError

SYMBOLS = [("startup", 0x1000000, 64), ("panic", 0x1000100, 32), ("_end", 0x1200010, 0)]


@pytest.mark.parametrize("bits", [32, 64])
def test_agrees_with_pyelftools(bits: int) -> None:
    image = elf(
        [(0x1200000, b"data", 0x2000), (0x1000000, b"code" * 50, 300)],
        [note(18, 0x1000000), note(6, "linux"), note(3, b"abcd", owner="GNU")],
        bits=bits,
        symbols=SYMBOLS,
    )
    ours = parse_elf(image)
    theirs = ELFFile(io.BytesIO(image))
    loads = sorted(
        (s["p_paddr"], s["p_vaddr"], s["p_offset"], s["p_filesz"], s["p_memsz"])
        for s in theirs.iter_segments("PT_LOAD")
    )
    assert [(s.paddr, s.vaddr, s.offset, s.filesz, s.memsz) for s in ours.segments] == loads
    notes = [n for s in theirs.iter_segments("PT_NOTE") for n in s.iter_notes()]
    assert [(n.owner, n.desc) for n in ours.notes] == [
        (n["n_name"], n["n_descdata"]) for n in notes
    ]
    assert (ours.bits, ours.entry) == (theirs.elfclass, theirs["e_entry"])
    table = theirs.get_section_by_name(".symtab")
    assert read_symbols(image, ours) == [
        Symbol(s["st_value"], s["st_size"], s.name) for s in table.iter_symbols() if s.name
    ]


def test_extent_and_symbols() -> None:
    image = linux()
    parsed = parse_elf(image)
    assert (parsed.start, parsed.end) == (0x1000000, 0x1205000)
    assert parsed.symbols is None
    assert read_symbols(image, parsed) == []
    assert is_elf(image)
    assert not is_elf(b"MZ")


def test_reads_from_a_view() -> None:
    image = linux()
    assert parse_elf(memoryview(b"pad" + image)[3:]) == parse_elf(image)


def test_notes_of_sections_only() -> None:
    parsed = parse_elf(elf(notes=LINUX_NOTES, note_section=True))
    assert len(parsed.notes) == len(LINUX_NOTES)


def test_sections_are_not_read_when_a_segment_has_notes() -> None:
    image = elf(notes=[note(18, 1)], sections=[(b".note.b", 7, b"")])
    assert [n.type for n in parse_elf(image).notes] == [18]


def test_legacy_section() -> None:
    parsed = parse_elf(elf(notes=[], sections=[(b"__xen_guest", 1, b"GUEST_OS=linux\0rest")]))
    assert parsed.xen_guest == "GUEST_OS=linux"
    assert parse_elf(elf()).xen_guest is None


def test_segments_without_memory_or_permission_are_not_loaded() -> None:
    image = bytearray(elf([(0x100000, b"code", 4), (0x300000, b"none", 4)]))
    struct.pack_into("<I", image, 64 + 56 + 4, 0)  # the second segment's p_flags
    assert [s.paddr for s in parse_elf(bytes(image)).segments] == [0x100000]


def patched(image: bytes, at: int, layout: str, value: int) -> bytes:
    changed = bytearray(image)
    struct.pack_into(layout, changed, at, value)
    return bytes(changed)


IMAGE = elf([(0x100000, b"code" * 8, 0x1000), (0x200000, b"data", 0x1000)])
PHDR = 64


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"\x7fELF\x02\x01", "truncated ELF"),
        (IMAGE[:50], "truncated ELF"),
        (IMAGE[:100], "no program headers"),
        (patched(IMAGE, 4, "B", 7), "damaged ELF header"),
        (patched(IMAGE, 18, "<H", 183), "built for AArch64; an x86 guest needs"),
        (patched(IMAGE, 18, "<H", 999), "built for machine type 999"),
        (patched(IMAGE, 5, "B", 2), "an x86 guest needs"),
        (patched(IMAGE, 54, "<H", 8), "no program headers"),
        (patched(IMAGE, 56, "<H", 0), "no program headers"),
        (patched(IMAGE, 32, "<Q", 1 << 63), "no program headers"),
        (patched(IMAGE, PHDR + 8, "<Q", len(IMAGE)), "truncated: segment 0 ends at byte"),
        (patched(IMAGE, PHDR + 8, "<Q", (1 << 64) - 16), "truncated: segment 0"),
        (patched(IMAGE, PHDR + 40, "<Q", 8), "more bytes in the file than in memory"),
        (patched(IMAGE, PHDR + 40, "<Q", (1 << 64) - 1), "wraps around"),
        (patched(IMAGE, PHDR + 40, "<Q", 0x100001), "segments overlap in memory at 0x200000"),
        (elf([(0x1000, b"", 0)]), "no loadable segment"),
    ],
)
def test_refuses(image: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        parse_elf(image, "vmlinux")
    assert str(caught.value).startswith("vmlinux: ")
    assert "\n" not in str(caught.value)


def test_note_that_does_not_fit_ends_the_notes() -> None:
    good = note(18, 0x100000)
    image = elf(notes=[good, note(1, 2)])
    at = image.index(struct.pack("<III", 4, 4, 1))
    parsed = parse_elf(patched(image, at + 4, "<I", 0xFFFFFFF0))
    assert [n.type for n in parsed.notes] == [18]


def test_section_headers_out_of_the_file_are_ignored() -> None:
    image = elf(symbols=SYMBOLS)
    assert parse_elf(image).symbols is not None
    for at, layout, value in ((40, "<Q", 1 << 60), (60, "<H", 0xFFFF), (58, "<H", 3)):
        assert parse_elf(patched(image, at, layout, value)).symbols is None


def test_symbols_of_a_hostile_table_are_bounded() -> None:
    image = elf(symbols=[("x" * 10_000, 1, 1)] * 50)
    found = read_symbols(image, parse_elf(image), limit=20)
    assert len(found) == 19  # the first entry of a table is empty
    assert all(len(symbol.name) == 512 for symbol in found)


@given(
    st.sampled_from([32, 64]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_files_are_read_or_refused(bits: int, changes: list[tuple[int, int]]) -> None:
    image = bytearray(elf(bits=bits, symbols=SYMBOLS, sections=[(b"__xen_guest", 1, b"A=1\0")]))
    for at, value in changes:
        image[at % len(image)] = value
    try:
        parsed = parse_elf(bytes(image))
    except UserError:
        return
    for segment in parsed.segments:
        assert segment.offset + segment.filesz <= len(image)
        assert segment.filesz <= segment.memsz
    assert all(low.end <= high.paddr for low, high in pairwise(parsed.segments))
    read_symbols(bytes(image), parsed)


@given(st.binary(max_size=300))
def test_garbage_after_the_magic(data: bytes) -> None:
    with pytest.raises(UserError):
        parse_elf(b"\x7fELF" + data[:60])

# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols from maps and kernel files."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from xenograft.observe.symbols import MAX_OFFSET, Place, Symbols, beside, find_symbols

MAP = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81001000 t do_one
ffffffff81001040 T do_two\t[module]
not a line
"""


def elf_with_symbols(symbols: list[tuple[int, int, str]]) -> bytes:
    """A little ELF64 executable: one segment, a symbol table, its strings."""
    strings = b"\0"
    table = bytes(24)
    for address, size, name in symbols:
        table += struct.pack("<IBBHQQ", len(strings), 0x12, 0, 1, address, size)
        strings += name.encode() + b"\0"
    code_at = 64 + 56
    code = b"\x90" * 16
    table_at = code_at + len(code)
    strings_at = table_at + len(table)
    sections_at = strings_at + len(strings)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, sections_at, 0, 64, 56, 1, 64, 3, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, code_at, 0x100000, 0x100000, 16, 16, 0x1000)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, table_at, len(table), 2, 1, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, strings_at, len(strings), 0, 0, 1, 0)
    return header + segment + code + table + strings + sections


def test_system_map() -> None:
    symbols = Symbols.from_system_map(MAP)
    assert len(symbols) == 3
    assert symbols.lookup(0xFFFFFFFF81001010) == Place("do_one", 0x10)
    assert str(symbols.lookup(0xFFFFFFFF81001010)) == "do_one+0x10"
    assert str(symbols.lookup(0xFFFFFFFF81001040)) == "do_two"
    # Of two names for an address it's always the same one.
    assert str(symbols.lookup(0xFFFFFFFF81000000)) == "_stext"
    assert symbols.start_of(0xFFFFFFFF81001041) == 0xFFFFFFFF81001040


def test_outside_there_is_nothing() -> None:
    symbols = Symbols.from_system_map(MAP)
    assert symbols.lookup(0x1000) is None
    assert symbols.lookup(0xFFFFFFFF81001040 + MAX_OFFSET) is None
    assert symbols.start_of(0x1000) is None
    assert Symbols([]).lookup(5) is None


def test_sizes_are_kept() -> None:
    symbols = Symbols([(0x1000, 0x10, "small"), (0x2000, 0, "unknown")])
    assert symbols.lookup(0x100F) == Place("small", 0xF)
    assert symbols.lookup(0x1010) is None
    assert symbols.lookup(0x2010) == Place("unknown", 0x10)
    assert symbols.address_of("small") == 0x1000
    assert symbols.address_of("nothing") is None


@given(st.dictionaries(st.integers(0, 1 << 40), st.text("abc", min_size=1), min_size=1))
def test_lookup_finds_the_nearest_before(table: dict[int, str]) -> None:
    symbols = Symbols([(address, 0, name) for address, name in table.items()])
    for address, name in table.items():
        assert symbols.lookup(address) == Place(name, 0)
        following = min((a for a in table if a > address), default=address + MAX_OFFSET)
        if following - address > 1:
            last = min(following - 1, address + MAX_OFFSET - 1)
            assert symbols.lookup(last) == Place(name, last - address)


def test_elf_symbol_table() -> None:
    image = elf_with_symbols([(0x100000, 8, "start"), (0x100008, 8, "finish")])
    symbols = Symbols.from_kernel(image, "kernel")
    assert symbols.lookup(0x100009) == Place("finish", 1)


def test_find_symbols_in_the_kernel(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(elf_with_symbols([(0x100000, 8, "start"), (0x100008, 8, "finish")]))
    found = find_symbols(kernel)
    assert found is not None
    assert found.source == str(kernel)


def test_find_symbols_beside_the_kernel(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz-6.1"
    kernel.write_bytes(b"no kernel at all")
    (tmp_path / "System.map-6.1").write_text(MAP)
    found = find_symbols(kernel)
    assert found is not None
    assert found.source.endswith("System.map-6.1")
    assert beside(kernel)[0] == kernel


def test_empty_maps_of_distributions_are_none(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz-6.1"
    kernel.write_bytes(elf_with_symbols([]))
    (tmp_path / "System.map-6.1").write_text(
        "ffffffffffffffff B The real System.map is in another package\n"
    )
    assert find_symbols(kernel) is None
    assert find_symbols(tmp_path / "missing") is None
    assert find_symbols(None) is None

# SPDX-License-Identifier: GPL-2.0-or-later
"""`hvm_start_info` and what it points to, read back as a kernel reads it."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.build.memory_map import e820_map
from xenograft.toolstack.build.start_info import (
    PlacedModule,
    start_info_block,
    start_info_size,
)

E820 = e820_map(8 << 30, ((0xFC000000, 0x1000),))
TEXT = st.binary(max_size=70).map(lambda data: data.replace(b"\0", b"x"))
MODULES = st.lists(
    st.builds(PlacedModule, st.integers(1, 1 << 40), st.integers(0, 1 << 40), TEXT), max_size=5
)


def text_at(block: bytes, base: int, address: int) -> bytes:
    if not address:
        return b""
    assert address % 8 == 0
    return block[address - base :].split(b"\0")[0]


@given(TEXT, MODULES, st.integers(0, 1 << 50), st.integers(1, 1 << 20))
def test_reads_back(cmdline: bytes, modules: list[PlacedModule], rsdp: int, page: int) -> None:
    base = page << 12
    block = start_info_block(base, cmdline, modules, rsdp, E820)
    assert len(block) == start_info_size(cmdline, [m.cmdline for m in modules], len(E820))
    (magic, version, flags, count, modlist, cmdline_at, rsdp_at, memmap, entries, reserved) = (
        struct.unpack_from("<IIIIQQQQII", block)
    )
    assert (magic, version, flags, reserved, rsdp_at) == (0x336EC578, 1, 0, 0, rsdp)
    assert text_at(block, base, cmdline_at) == cmdline
    assert count == len(modules)
    assert bool(modlist) == bool(modules)
    for index, module in enumerate(modules):
        paddr, size, at, zero = struct.unpack_from("<QQQQ", block, modlist - base + 32 * index)
        assert (paddr, size, zero) == (module.paddr, module.size, 0)
        assert text_at(block, base, at) == module.cmdline
    assert entries == len(E820)
    for index, entry in enumerate(E820):
        found = struct.unpack_from("<QQII", block, memmap - base + 24 * index)
        assert found == (entry.addr, entry.size, entry.type, 0)


def test_without_texts_and_modules_pointers_are_zero() -> None:
    block = start_info_block(0x1000, b"", [], 0, E820[:1])
    assert struct.unpack_from("<QQ", block, 16) == (0, 0)
    assert len(block) == 56 + 24

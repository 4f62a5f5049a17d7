# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's own symbol table, found in an image made here, and in Debian's kernels if there."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenograft.observe.kallsyms import read_kallsyms
from xenograft.observe.symbols import find_symbols
from xenograft.toolstack.images.cache import cache_root

BASE = 0xFFFFFFFF81000000


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def image(
    symbols: list[tuple[int, str, str]],
    *,
    seqs: bool = True,
    late_offsets: bool = False,
    per_cpu: bool = True,
    lead: bytes = b"",
) -> bytes:
    """An image as scripts/kallsyms.c lays it out; symbols are (address, type, name).

    Tokens are the characters themselves, and one of two letters.
    """
    tokens = [bytes([number]) if 32 < number < 127 else b"\x01" * 2 for number in range(256)]
    tokens[200] = b"do"
    table, index = b"", []
    for token in tokens:
        index.append(len(table))
        table += token + b"\0"
    names, markers = b"", []
    for number, (_, kind, name) in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        raw = (kind + name).encode().replace(b"do", b"\xc8")
        long = len(raw) > 127
        length = bytes([len(raw) & 0x7F | 0x80, len(raw) >> 7] if long else [len(raw)])
        names += length + raw
    if per_cpu:
        numbers = [BASE - 1 - at if at >= BASE else at for at, _, _ in symbols]
    else:
        numbers = [at - BASE for at, _, _ in symbols]
    offsets = padded(struct.pack(f"<{len(symbols)}i", *numbers)) + struct.pack("<Q", BASE)
    tail = padded(struct.pack(f"<{len(markers)}I", *markers))
    if seqs and not late_offsets:
        tail += padded(bytes(3 * len(symbols)))
    whole = b"" if late_offsets else offsets
    whole += padded(struct.pack("<I", len(symbols))) + padded(names) + tail
    whole += padded(table) + struct.pack("<256H", *index)
    if late_offsets:
        whole += offsets
    return padded(lead) + whole + bytes(64)


def some(count: int) -> list[tuple[int, str, str]]:
    return [(BASE + 16 * number, "tT"[number % 2], f"do_{number}") for number in range(count)]


@pytest.mark.parametrize("seqs", [False, True])
@pytest.mark.parametrize("late_offsets", [False, True])
@pytest.mark.parametrize("per_cpu", [False, True])
def test_all_layouts(seqs: bool, late_offsets: bool, per_cpu: bool) -> None:
    symbols = some(1000)
    made = image(symbols, seqs=seqs, late_offsets=late_offsets, per_cpu=per_cpu)
    assert read_kallsyms(made) == [(address, name) for address, _, name in symbols]


@settings(max_examples=20, deadline=None)
@given(st.integers(512, 1100), st.binary(max_size=200))
def test_any_number_behind_anything(count: int, lead: bytes) -> None:
    symbols = some(count)
    assert len(read_kallsyms(image(symbols, lead=lead))) == count


def test_data_and_per_cpu_symbols_are_left_out() -> None:
    symbols = [*some(600), (BASE + 0x10000, "d", "some_data")]
    symbols.insert(0, (0x40, "A", "per_cpu_thing"))
    assert len(read_kallsyms(image(symbols))) == 600


def test_long_names() -> None:
    symbols = [
        (BASE + number, "t", "x" * (300 if number % 10 == 0 else 10) + str(number))
        for number in range(601)
    ]
    found = read_kallsyms(image(symbols))
    assert found[-1] == (BASE + 600, "x" * 300 + "600")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40_000), st.binary(min_size=1, max_size=64))
def test_damaged_tables_never_raise(at: int, noise: bytes) -> None:
    made = bytearray(image(some(1000)))
    at %= len(made) - len(noise)
    made[at : at + len(noise)] = noise
    read_kallsyms(bytes(made))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40_000))
def test_cut_tables_never_raise(size: int) -> None:
    read_kallsyms(image(some(1000))[:size])


def test_none() -> None:
    assert read_kallsyms(b"") == []
    assert read_kallsyms(bytes(100_000)) == []
    assert read_kallsyms(b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00" * 100) == []


def kernels() -> list[Path]:
    """Linux kernels that this machine has."""
    folders = (cache_root() / "images" / "debian-cloud", cache_root() / "images" / "debian")
    found = [path for folder in (*folders, Path("/boot")) for path in folder.glob("vmlinuz-*")]
    return sorted(found)


@pytest.mark.skipif(not kernels(), reason="there is no Linux kernel here")
def test_real_kernels() -> None:
    symbols = find_symbols(kernels()[0])
    assert symbols is not None
    assert len(symbols) > 10_000
    names = ("start_kernel", "panic", "schedule")
    places = [symbols.address_of(name) for name in names]
    assert None not in places
    for name, place in zip(names, places, strict=True):
        assert place is not None
        found = symbols.lookup(place + 1)
        assert found is not None
        assert (found.name, found.offset) == (name, 1)
    assert all(first < second for first, second in pairwise(symbols._addresses))

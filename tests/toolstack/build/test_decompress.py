# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompression: every format, what follows the data, damage and bombs."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toolstack.build.support import COMPRESSORS, lzop
from xenograft.toolstack.build.decompress import (
    FORMATS,
    CorruptData,
    compression,
    decompress,
)

PLAIN = b"The quick brown fox jumps over the lazy dog. " * 2000 + bytes(range(256)) * 40


def test_formats_of_linux_are_all_there() -> None:
    assert set(FORMATS) == set(COMPRESSORS)


@pytest.mark.parametrize("form", FORMATS)
def test_round_trip_with_and_without_a_tail(form: str) -> None:
    packed = COMPRESSORS[form](PLAIN)
    assert compression(packed) == form
    assert decompress(packed) == PLAIN
    assert decompress(memoryview(packed)) == PLAIN
    assert decompress(packed + struct.pack("<I", len(PLAIN))) == PLAIN


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "lz4"])
def test_garbage_after_the_data_is_ignored(form: str) -> None:
    assert decompress(COMPRESSORS[form](PLAIN) + b"\xff garbage" * 9) == PLAIN


def test_lz4_with_size_and_garbage() -> None:
    packed = COMPRESSORS["lz4"](PLAIN) + struct.pack("<I", len(PLAIN))
    assert decompress(packed + b"garbage") == PLAIN
    assert decompress(packed[:-4] + bytes(64)) == PLAIN  # padded with zeros


def test_lz4_of_several_blocks_and_frames() -> None:
    plain = bytes(i * i & 0xFF for i in range(1 << 16)) * 140  # above 8 MiB
    packed = COMPRESSORS["lz4"](plain)
    assert decompress(packed + struct.pack("<I", len(plain))) == plain
    assert decompress(packed + COMPRESSORS["lz4"](PLAIN)) == plain + PLAIN


def test_output_larger_than_a_piece() -> None:
    plain = b"0123456789abcdef" * (1 << 20 | 1)
    for form in ("gzip", "xz"):
        assert decompress(COMPRESSORS[form](plain)) == plain


@pytest.mark.parametrize("flags", [0, 0x1, 0x2, 0x100, 0x200, 0x303])
def test_lzo_checksums(flags: int) -> None:
    packed = lzop(PLAIN, flags)
    assert decompress(packed) == PLAIN
    if flags:
        at = packed.index(struct.pack(">I", len(PLAIN)), 38) + 8
        damaged = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
        with pytest.raises(CorruptData, match="checksum mismatch"):
            decompress(damaged)


def test_lzo_block_that_is_stored() -> None:
    incompressible = random.Random(1).randbytes(997)
    packed = lzop(incompressible, 0x303)
    assert incompressible in packed
    assert decompress(packed) == incompressible


@pytest.mark.parametrize("form", FORMATS)
def test_truncated(form: str) -> None:
    packed = COMPRESSORS[form](PLAIN)
    for size in (8, 20, len(packed) // 2, len(packed) - 5):
        with pytest.raises(CorruptData):
            decompress(packed[:size])


@pytest.mark.parametrize("form", FORMATS)
def test_limit(form: str) -> None:
    packed = COMPRESSORS[form](PLAIN)
    assert len(decompress(packed, len(PLAIN))) == len(PLAIN)
    with pytest.raises(CorruptData, match="unpacks to more than"):
        decompress(packed, len(PLAIN) - 1)


@pytest.mark.parametrize("form", ["gzip", "xz", "lzma", "bzip2", "zstd"])
def test_bomb_is_stopped_early(form: str) -> None:
    packed = COMPRESSORS[form](bytes(64 << 20))
    with pytest.raises(CorruptData, match="unpacks to more than 1 MiB"):
        decompress(packed, 1 << 20)


def test_dictionary_of_4_gib_is_refused() -> None:
    packed = bytearray(lzma.compress(PLAIN, lzma.FORMAT_ALONE))
    struct.pack_into("<I", packed, 1, 0xFFFF0000)  # the header's dictionary size
    with pytest.raises(CorruptData):
        decompress(bytes(packed).replace(b"\x5d\0\0\xff\xff", b"\x5d\0\0\0\xf0", 1))


def test_unknown_formats() -> None:
    assert compression(b"") is None
    assert compression(b"\x7fELF") is None
    with pytest.raises(CorruptData, match="not in a known"):
        decompress(b"plain")


def test_gzip_streams_after_the_first_are_not_taken() -> None:
    assert decompress(gzip.compress(b"one") + gzip.compress(b"two")) == b"one"


@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=6),
    st.integers(0, 1 << 16),
)
def test_damage_is_corrupt_data_or_other_bytes(
    form: str, flips: list[tuple[int, int]], cut: int
) -> None:
    packed = bytearray(COMPRESSORS[form](PLAIN[:3000]))
    for at, mask in flips:
        packed[at % len(packed)] ^= mask
    try:
        plain = decompress(bytes(packed[: max(16, cut % (2 * len(packed)))]), 1 << 16)
    except CorruptData:
        return
    assert len(plain) <= 1 << 16


@given(st.sampled_from(FORMATS), st.binary(max_size=400))
def test_garbage_after_a_magic(form: str, data: bytes) -> None:
    magic = COMPRESSORS[form](b"")[:9]
    with contextlib.suppress(CorruptData):
        assert len(decompress(magic + data, 1 << 16)) <= 1 << 16

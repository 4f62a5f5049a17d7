# SPDX-License-Identifier: GPL-2.0-or-later
"""The AML writer: encodings by the specification's examples, and by decoding them again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.build.acpi import aml


def decode_length(data: bytes) -> tuple[int, int]:
    """(value, bytes used) of a PkgLength, by the specification's own words."""
    extra = data[0] >> 6
    if not extra:
        return data[0] & 0x3F, 1
    value = data[0] & 0xF
    for index in range(extra):
        value |= data[1 + index] << 4 + 8 * index
    return value, 1 + extra


@given(st.integers(0, (1 << 28) - 8))
def test_package_length_counts_itself(size: int) -> None:
    encoded = aml.package_length(size)
    value, used = decode_length(encoded + bytes(4))
    assert used == len(encoded)
    assert value == size + used


@given(st.integers(0, (1 << 28) - 1))
def test_bit_length_does_not(bits: int) -> None:
    encoded = aml.bit_length(bits)
    assert decode_length(encoded) == (bits, len(encoded))


@pytest.mark.parametrize("size", [0x3E, 0x3F, 0xFFD, 0xFFE, 0xFFFFC, 0xFFFFD])
def test_lengths_at_the_borders_are_shortest(size: int) -> None:
    assert len(aml.package_length(size)) <= len(aml.package_length(size + 1))
    value, used = decode_length(aml.package_length(size))
    assert value == size + used


def test_too_long() -> None:
    with pytest.raises(ValueError, match="too long"):
        aml.package_length(1 << 28)
    with pytest.raises(ValueError, match="too long"):
        aml.bit_length(1 << 28)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("_SB", b"_SB_"),
        ("\\_SB.PRSC", b"\\\x2e_SB_PRSC"),
        ("^PR00.FLG", b"^\x2ePR00FLG_"),
        ("^^A", b"^^A___"),
        ("A.B.C", b"\x2f\x03A___B___C___"),
    ],
)
def test_names(path: str, encoded: bytes) -> None:
    assert aml.name(path) == encoded


def test_bad_name() -> None:
    with pytest.raises(ValueError, match="bad AML name"):
        aml.name("TOOLONG")


@given(st.integers(0, (1 << 64) - 1))
def test_integers(value: int) -> None:
    encoded = aml.integer(value)
    if value < 2:
        assert encoded == bytes([value])
        return
    size = {0x0A: 1, 0x0B: 2, 0x0C: 4, 0x0E: 8}[encoded[0]]
    assert int.from_bytes(encoded[1:], "little") == value
    assert len(encoded) == 1 + size
    assert size == 1 or value >> 8 * (size // 2)


def test_integer_too_large() -> None:
    with pytest.raises(ValueError, match="too large"):
        aml.integer(1 << 64)


def test_terms() -> None:
    assert aml.string("ab") == b"\x0dab\0"
    assert aml.buffer(b"\1\2") == bytes.fromhex("11 05 0a02 0102")
    assert aml.scope("_SB", aml.define("X", aml.ONE)) == b"\x10\x0b_SB_\x08X___\x01"
    assert aml.method("M", 2, aml.return_(aml.argument(1))) == b"\x14\x08M___\x02\xa4\x69"
    assert aml.if_(aml.less(aml.local(0), aml.integer(5)), aml.return_(aml.ZERO)) == bytes.fromhex(
        "a0 07 95 60 0a05 a400"
    )
    assert aml.field("R", ("A", 1), ("", 15), ("B", 64)) == (
        b"\x5b\x81\x13R___\x01A___\x01\x00\x0fB___\x40\x04"
    )

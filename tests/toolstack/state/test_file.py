# SPDX-License-Identifier: GPL-2.0-or-later
"""The file format: what was written comes back, and nothing else does."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenograft.toolstack.state.file import (
    BODY,
    HEAD,
    MAGIC,
    PAGE,
    Record,
    StateError,
    Writer,
    records,
)


def sample() -> bytes:
    out = io.BytesIO()
    writer = Writer(out)
    writer.head(b"head")
    writer.pages(7, b"a" * 4096 + b"b" * 4096)
    writer.pages(1 << 33, memoryview(b"c" * 4096))
    writer.body(b"body")
    writer.done()
    assert writer.written == len(out.getvalue())
    return out.getvalue()


SAMPLE = sample()


def read(data: bytes) -> list[Record]:
    return list(records(io.BytesIO(data), "guest.save"))


def test_what_was_written_comes_back() -> None:
    head, first, second, body = read(SAMPLE)
    assert (head, body) == ((HEAD, b"head"), (BODY, b"body"))
    assert first.tag == second.tag == PAGE
    assert first.pages() == (7, b"a" * 4096 + b"b" * 4096)
    assert second.pages() == (1 << 33, b"c" * 4096)


@given(st.integers(0, len(SAMPLE) - 1))
def test_a_truncated_file_is_refused(size: int) -> None:
    with pytest.raises(StateError, match=r"^guest\.save (isn't a saved guest|is cut short)$"):
        read(SAMPLE[:size])


@given(st.integers(0, len(SAMPLE) * 8 - 1))
@settings(max_examples=400)
def test_a_flipped_bit_is_refused(bit: int) -> None:
    # But for the two reserved words, which mean nothing yet.
    if bit // 8 in range(12, 16):
        return
    data = bytearray(SAMPLE)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StateError, match=r"guest\.save"):
        read(bytes(data))


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    for start in (b"", MAGIC, SAMPLE[:16]):
        with pytest.raises(StateError):
            read(start + data)


def test_a_newer_version_is_refused() -> None:
    newer = SAMPLE[:8] + b"\2\0\0\0" + SAMPLE[12:]
    with pytest.raises(StateError, match="has version 2 of the format; this xg reads version 1"):
        read(newer)


def test_left_out_records_are_noticed() -> None:
    middle = SAMPLE.index(b"PAGE")
    after = SAMPLE.index(b"BODY")
    with pytest.raises(StateError, match="records are missing"):
        read(SAMPLE[:middle] + SAMPLE[after:])


@pytest.mark.parametrize(
    "payload", [b"", bytes(16), b"\0" * 8 + b"\1\0\0\0" + bytes(4 + 4095), b"\xff" * (16 + 4096)]
)
def test_pages_must_be_what_they_say(payload: bytes) -> None:
    with pytest.raises(StateError, match="pages"):
        Record(PAGE, payload).pages()

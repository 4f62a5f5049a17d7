# SPDX-License-Identifier: GPL-2.0-or-later
"""Pixels of every depth, and PNG files that others can read."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenograft.backends.display.picture import Picture, to_rgb


def decode(data: bytes) -> tuple[int, int, bytes]:
    """A decoder of what PNG's specification says of such a file."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (check,) = struct.unpack_from(">I", data, at + 8 + size)
        assert check == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    rows = zlib.decompress(chunks[b"IDAT"])
    stride = 3 * width + 1
    assert len(rows) == stride * height
    assert all(rows[at] == 0 for at in range(0, len(rows), stride))
    return width, height, b"".join(rows[at + 1 : at + stride] for at in range(0, len(rows), stride))


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.randoms())
def test_png(width: int, height: int, random: object) -> None:
    rgb = random.randbytes(3 * width * height)  # type: ignore[attr-defined]
    assert decode(Picture(width, height, rgb).png()) == (width, height, rgb)


@pytest.mark.parametrize(
    ("depth", "pixel", "rgb"),
    [
        (32, bytes([1, 2, 3, 255]), (3, 2, 1)),
        (24, bytes([1, 2, 3]), (3, 2, 1)),
        (16, struct.pack("<H", 0xFFFF), (255, 255, 255)),
        (16, struct.pack("<H", 0xF800), (255, 0, 0)),
        (16, struct.pack("<H", 0x07E0), (0, 255, 0)),
        (16, struct.pack("<H", 0x001F), (0, 0, 255)),
        (8, b"\xff", (255, 255, 255)),
        (8, b"\xe0", (255, 0, 0)),
        (8, b"\x1c", (0, 255, 0)),
        (8, b"\x03", (0, 0, 255)),
    ],
)
def test_depths(depth: int, pixel: bytes, rgb: tuple[int, int, int]) -> None:
    assert to_rgb(pixel * 3, depth) == bytes(rgb) * 3
    assert Picture(3, 1, to_rgb(pixel * 3, depth)).pixel(2, 0) == rgb

# SPDX-License-Identifier: GPL-2.0-or-later
"""A picture: pixels of any depth as 24-bit RGB, and a PNG file of them.

PNG (ISO/IEC 15948) is written here since all of it that's needed is a header and zlib.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple


class Picture(NamedTuple):
    """`rgb` holds three bytes for each pixel, row by row from the top."""

    width: int
    height: int
    rgb: bytes

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """(red, green, blue)."""
        at = 3 * (y * self.width + x)
        return self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]

    def png(self) -> bytes:
        """The picture as a PNG file."""
        stride = 3 * self.width
        # Each row begins with its filter: 0, none.
        rows = b"".join(
            b"\0" + self.rgb[at : at + stride] for at in range(0, stride * self.height, stride)
        )
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b""))
        )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


DEPTHS = (8, 16, 24, 32)


def _scaled(shift: int, bits: int) -> bytes:
    """A table from a byte to a colour of 8 bits that has `bits` of it, from `shift` on."""
    top = (1 << bits) - 1
    return bytes((value >> shift & top) * 255 // top for value in range(256))


_RED3, _GREEN3, _BLUE2 = _scaled(5, 3), _scaled(2, 3), _scaled(0, 2)
_RED5, _BLUE5 = _scaled(3, 5), _scaled(0, 5)


def to_rgb(row: bytes, depth: int) -> bytes:
    """A row of pixels as RGB.

    32 and 24 bits are blue, green, red (and a byte of nothing) in memory, 16 are 5-6-5 and 8
    are 3-3-2, as Linux's xen-fbfront and QEMU's xenfb have them.
    """
    if depth in (24, 32):
        step = depth // 8
        red, green, blue = row[2::step], row[1::step], row[0::step]
    elif depth == 16:
        low, high = row[0::2], row[1::2]
        red, blue = high.translate(_RED5), low.translate(_BLUE5)
        green = bytes(
            ((h & 7) << 3 | l >> 5) * 255 // 63
            for h, l in zip(high, low, strict=True)  # noqa: E741
        )
    else:
        red, green, blue = row.translate(_RED3), row.translate(_GREEN3), row.translate(_BLUE2)
    out = bytearray(3 * len(red))
    out[0::3], out[1::3], out[2::3] = red, green, blue
    return bytes(out)

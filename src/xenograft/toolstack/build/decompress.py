# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompression of kernels: every format that Linux packs its payload in, with limits.

A payload is hostile: output is bounded by a limit, memory by the library's own limit where it
has one, and whatever is wrong ends in `CorruptData`.  Bytes after the end of the compressed
data are allowed and ignored (Linux appends the length of the plain kernel as 4 bytes).

Formats: gzip (RFC 1952), xz, lzma (the "alone" format), bzip2, zstd (RFC 8878), lz4 in its
legacy frame (lz4's doc/lz4_Frame_format.md, "Legacy frame"), lzo as written by lzop.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from xenograft.toolstack.build.elf import Buffer

LIMIT = 1 << 30
"""Plain bytes at most, as XC_DOM_DECOMPRESS_MAX of libxenguest."""

_PIECE = 1 << 24


class CorruptData(Exception):
    """Compressed data that can't be unpacked; the text says why, without file name."""


class _Stream(Protocol):
    """What zlib, bz2 and lzma decompressors have in common (zlib's through `_Zlib`)."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: Buffer, max_length: int = -1) -> bytes: ...


class _Zlib:
    """zlib's decompressor with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: Buffer, max_length: int = -1) -> bytes:
        return self._inner.decompress(data or self._inner.unconsumed_tail, max_length)


def _drain(stream: _Stream, data: Buffer, limit: int) -> bytes:
    """All output of a stream that starts at data[0]."""
    pieces = []
    total = 0
    piece = stream.decompress(data, _PIECE)
    while True:
        pieces.append(piece)
        total += len(piece)
        if total > limit:
            raise CorruptData(f"unpacks to more than {limit >> 20} MiB")
        if stream.eof:
            return b"".join(pieces)
        if not piece and stream.needs_input:
            raise CorruptData("ends too early")
        piece = stream.decompress(b"", _PIECE)


def _gzip(data: Buffer, limit: int) -> bytes:
    try:
        return _drain(_Zlib(), data, limit)
    except zlib.error as error:
        raise CorruptData(str(error)) from error


def gunzip_whole(data: Buffer, limit: int = LIMIT) -> bytes:
    """Unpack data that are one gzip stream and nothing else but padding zeros.

    Raises CorruptData if they're damaged, unpack to more than `limit`, or go on after it.
    """
    stream = _Zlib()
    try:
        plain = _drain(stream, data, limit)
    except zlib.error as error:
        raise CorruptData(str(error)) from error
    if stream.unused_data.strip(b"\0"):
        raise CorruptData("something follows the gzip stream")
    return plain


def _bzip2(data: Buffer, limit: int) -> bytes:
    import bz2

    try:
        return _drain(bz2.BZ2Decompressor(), data, limit)
    except OSError as error:
        raise CorruptData(str(error)) from error


def _lzma(data: Buffer, limit: int) -> bytes:
    import lzma

    # The header names the dictionary's size: without a limit it could ask for 4 GiB.
    form = lzma.FORMAT_XZ if bytes(data[:1]) == b"\xfd" else lzma.FORMAT_ALONE
    try:
        return _drain(lzma.LZMADecompressor(form, memlimit=512 << 20), data, limit)
    except lzma.LZMAError as error:
        raise CorruptData(str(error)) from error


def _zstd(data: Buffer, limit: int) -> bytes:
    import zstandard

    # One compressed byte can become 32 KiB, and output can't be bounded: feed little at once.
    step = 4096
    stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    pieces = []
    total = 0
    try:
        for at in range(0, len(data), step):
            piece = stream.decompress(data[at : at + step])
            pieces.append(piece)
            total += len(piece)
            if total > limit:
                raise CorruptData(f"unpacks to more than {limit >> 20} MiB")
            if stream.eof:
                return b"".join(pieces)
    except zstandard.ZstdError as error:
        raise CorruptData(str(error)) from error
    raise CorruptData("ends too early")


_LZ4_MAGIC = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20


def _lz4(data: Buffer, limit: int) -> bytes:
    import lz4.block  # type: ignore[import-untyped]

    # A legacy frame has no end mark, it ends where the data end; Linux appends the plain length.
    pieces: list[bytes] = []
    total = 0
    at = len(_LZ4_MAGIC)
    while len(data) - at >= 4:
        field = bytes(data[at : at + 4])
        at += 4
        if field == _LZ4_MAGIC:
            continue
        size = int.from_bytes(field, "little")
        if not size or at + size > len(data):
            if total and size in (0, total):
                return b"".join(pieces)
            raise CorruptData("ends too early")
        try:
            piece = lz4.block.decompress(data[at : at + size], uncompressed_size=_LZ4_BLOCK)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise CorruptData(str(error)) from error
        at += size
        pieces.append(piece)
        total += len(piece)
        if total > limit:
            raise CorruptData(f"unpacks to more than {limit >> 20} MiB")
    if at != len(data) or not total:
        raise CorruptData("ends too early")
    return b"".join(pieces)


# lzop's header flags.
_LZO_ADLER32_D = 0x1
_LZO_ADLER32_C = 0x2
_LZO_EXTRA = 0x40
_LZO_CRC32_D = 0x100
_LZO_CRC32_C = 0x200
_LZO_FILTER = 0x800
_LZO_BLOCK = 64 << 20


def _lzo(data: Buffer, limit: int) -> bytes:
    import lzallright

    reader = _BigEndian(data, 9)
    flags = _lzo_header(reader)
    plain_sums = _lzo_sums(flags, _LZO_ADLER32_D, _LZO_CRC32_D)
    packed_sums = _lzo_sums(flags, _LZO_ADLER32_C, _LZO_CRC32_C)
    pieces = []
    total = 0
    while plain_size := reader.number(4):
        size = reader.number(4)
        total += plain_size
        if plain_size > _LZO_BLOCK or total > limit:
            raise CorruptData(f"unpacks to more than {limit >> 20} MiB")
        plain_expected = [reader.number(4) for _ in plain_sums]
        # A block that didn't shrink is stored, and has no second sum.
        packed_expected = [reader.number(4) for _ in packed_sums] if size < plain_size else []
        block = bytes(reader.take(size))
        if size < plain_size:
            if [sum_of(block) for sum_of in packed_sums] != packed_expected:
                raise CorruptData("checksum mismatch")
            try:
                block = lzallright.LZOCompressor.decompress(block, plain_size)
            except lzallright.LZOError as error:
                raise CorruptData(f"lzo error: {error}") from error
        if len(block) != plain_size:
            raise CorruptData("a block has the wrong size")
        if [sum_of(block) for sum_of in plain_sums] != plain_expected:
            raise CorruptData("checksum mismatch")
        pieces.append(block)
    return b"".join(pieces)


def _lzo_sums(flags: int, adler: int, crc: int) -> list[Callable[[bytes], int]]:
    sums: list[Callable[[bytes], int]] = []
    if flags & adler:
        sums.append(zlib.adler32)
    if flags & crc:
        sums.append(zlib.crc32)
    return sums


def _lzo_header(reader: _BigEndian) -> int:
    """Read lzop's header up to the first block; returns its flags."""
    version = reader.number(2)
    reader.take(2)
    if version >= 0x940:
        reader.take(2)
    reader.take(1)
    if version >= 0x940:
        reader.take(1)
    flags = reader.number(4)
    if flags & _LZO_FILTER:
        reader.take(4)
    reader.take(8 + (4 if version >= 0x940 else 0))
    reader.take(reader.number(1))
    reader.take(4)
    if flags & _LZO_EXTRA:
        reader.take(reader.number(4) + 4)
    return flags


class _BigEndian:
    """Reads numbers off the front of a buffer; raises CorruptData past its end."""

    def __init__(self, data: Buffer, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, size: int) -> Buffer:
        end = self._at + size
        if end > len(self._data):
            raise CorruptData("ends too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


_FORMATS: tuple[tuple[bytes, str, Callable[[Buffer, int], bytes]], ...] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ\0", "xz", _lzma),
    (b"\x5d\0\0", "lzma", _lzma),
    (b"BZh", "bzip2", _bzip2),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (_LZ4_MAGIC, "lz4", _lz4),
    (b"\x89LZO\0\r\n\x1a\n", "lzo", _lzo),
)

FORMATS = tuple(name for _, name, _ in _FORMATS)
"""Names of the formats that can be unpacked."""


def compression(data: Buffer) -> str | None:
    """Name of the format that the data begin in, None if it's none of them."""
    head = bytes(data[:16])
    return next((name for magic, name, _ in _FORMATS if head.startswith(magic)), None)


def decompress(data: Buffer, limit: int = LIMIT) -> bytes:
    """Unpack data in any of the formats, at most `limit` bytes.

    Raises CorruptData if they're damaged, unpack to more, or are in none of the formats.
    """
    head = bytes(data[:16])
    for magic, _, unpack in _FORMATS:
        if head.startswith(magic):
            try:
                return unpack(data, limit)
            except EOFError as error:
                raise CorruptData("ends too early") from error
    raise CorruptData("not in a known compression format")

# SPDX-License-Identifier: GPL-2.0-or-later
"""The form of a saved guest, in a file or on its way to another service.

::

    magic      8 bytes, and a version (u32) and 0 (u32)
    records    tag (4 letters), length (u32), CRC-32 of the payload (u32), payload

    HEAD       what the guest is (msgpack of `Head`)
    PAGE       first page number (u64), count (u32), 0 (u32), then the pages' bytes
    BODY       all other state (msgpack); the last of them counts
    DONE       number of records before it (u64), CRC-32 of their headers (u32), 0 (u32)

All numbers are little-endian.  Pages that aren't there read as zeros, and a page that comes again
replaces what it was: that's how a guest that runs is sent.  A reader believes nothing before the
record's checksum has been seen, and a file nothing before DONE: `check` reads it once for that.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import NamedTuple, Protocol

from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE

MAGIC = b"\x89XGSAV\r\n"
VERSION = 1

HEAD, PAGE, BODY, DONE = b"HEAD", b"PAGE", b"BODY", b"DONE"

MAX_RUN = 256
"""Pages of one record at most."""
MAX_RECORD = 256 << 20
"""Bytes of any record at most; of HEAD and PAGE far less."""

_PREAMBLE = struct.Struct("<8sII")
_RECORD = struct.Struct("<4sII")
_RUN = struct.Struct("<QII")
_END = struct.Struct("<QII")

_LIMITS = {HEAD: 1 << 20, PAGE: _RUN.size + MAX_RUN * PAGE_SIZE, BODY: MAX_RECORD, DONE: _END.size}


class StateError(Exception):
    """These bytes aren't a saved guest, or not one that we can read: one line."""


class Sink(Protocol):
    """Where the bytes go."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class Source(Protocol):
    """Where they come from: fewer bytes than asked for mean the end."""

    def read(self, size: int, /) -> bytes: ...


class Record(NamedTuple):
    """One record, whose checksum is right."""

    tag: bytes
    payload: bytes

    def pages(self) -> tuple[int, memoryview]:
        """(first page number, the pages' bytes).  Raises StateError."""
        if len(self.payload) < _RUN.size:
            raise StateError("a record of pages is too short")
        first, count, _ = _RUN.unpack_from(self.payload)
        data = memoryview(self.payload)[_RUN.size :]
        if not 0 < count <= MAX_RUN or len(data) != count << PAGE_SHIFT or first >> 40:
            raise StateError("a record of pages has another length than it says")
        return first, data


class Writer:
    """Writes records, one after the other."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._records = 0
        self._crc = 0
        self.written = _PREAMBLE.size
        """Bytes so far."""
        sink.write(_PREAMBLE.pack(MAGIC, VERSION, 0))

    def _put(self, tag: bytes, *parts: bytes | memoryview) -> None:
        crc, size = 0, 0
        for part in parts:
            crc = zlib.crc32(part, crc)
            size += len(part)
        header = _RECORD.pack(tag, size, crc)
        self._crc = zlib.crc32(header, self._crc)
        self._records += 1
        self.written += len(header) + size
        self._sink.write(header + bytes(parts[0]))
        for part in parts[1:]:
            self._sink.write(part)

    def head(self, data: bytes) -> None:
        self._put(HEAD, data)

    def pages(self, first: int, data: bytes | memoryview) -> None:
        """Whole pages that lie side by side, MAX_RUN at most."""
        self._put(PAGE, _RUN.pack(first, len(data) >> PAGE_SHIFT, 0), data)

    def body(self, data: bytes) -> None:
        self._put(BODY, data)

    def done(self) -> None:
        self._put(DONE, _END.pack(self._records, self._crc, 0))


def decode(name: str) -> Generator[int | Record, bytes, None]:
    """Takes bytes and gives records: yields how many bytes it wants, or a record.

    The numbers of DONE are checked, and end it.  Fewer bytes than wanted mean the end of what
    there is.  `name` is what the bytes are called in messages.  Raises StateError.
    """
    start = yield _PREAMBLE.size
    if len(start) < _PREAMBLE.size or start[:8] != MAGIC:
        raise StateError(f"{name} isn't a saved guest")
    version = _PREAMBLE.unpack(start)[1]
    if version != VERSION:
        raise StateError(
            f"{name} has version {version} of the format; this xg reads version {VERSION}"
        )
    records = total = 0
    while True:
        header = yield _RECORD.size
        if len(header) < _RECORD.size:
            raise StateError(f"{name} is cut short")
        tag, size, crc = _RECORD.unpack(header)
        if tag not in _LIMITS or size > _LIMITS[tag]:
            raise StateError(f"{name} is damaged: no such record")
        payload = yield size
        if len(payload) < size:
            raise StateError(f"{name} is cut short")
        if zlib.crc32(payload) != crc:
            raise StateError(f"{name} is damaged: a checksum is wrong")
        if tag == DONE:
            if size != _END.size or _END.unpack(payload)[:2] != (records, total):
                raise StateError(f"{name} is damaged: records are missing")
            return
        total = zlib.crc32(header, total)
        records += 1
        yield Record(tag, payload)


def records(source: Source, name: str) -> Iterator[Record]:
    """All records but DONE.  Raises StateError, and what the source raises."""
    decoder = decode(name)
    wanted = next(decoder)
    while True:
        if isinstance(wanted, Record):
            yield wanted
            data = b""
        else:
            data = source.read(wanted)
        try:
            wanted = decoder.send(data)
        except StopIteration:
            return


async def records_of(read: Callable[[int], Awaitable[bytes]], name: str) -> AsyncIterator[Record]:
    """The same from a stream."""
    decoder = decode(name)
    wanted = next(decoder)
    while True:
        if isinstance(wanted, Record):
            yield wanted
            data = b""
        else:
            data = await read(wanted)
        try:
            wanted = decoder.send(data)
        except StopIteration:
            return

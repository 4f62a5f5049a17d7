# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols of a Linux kernel whose file was stripped: those that it carries for itself.

A kernel with CONFIG_KALLSYMS has, in its read-only data, compressed names and addresses of all
its functions.  No header says where; but the tables lie next to each other, and check each
other, so that they're found by their looks.  In the order of memory (Linux's
scripts/kallsyms.c, 64-bit; each table begins at a multiple of 8):

====================== ======================================== =========================
table                  contents                                 place
====================== ======================================== =========================
kallsyms_offsets       i32 per symbol                           first; last since 6.4
kallsyms_relative_base u64                                      behind the offsets
kallsyms_num_syms      u32
kallsyms_names         per symbol: length, then so many tokens
kallsyms_markers       u32: where each 256th name begins
kallsyms_seqs_of_names 3 bytes per symbol                       since 6.1; last since 6.4
kallsyms_token_table   256 strings, a token's text each
kallsyms_token_index   u16: where each token begins
====================== ======================================== =========================

A length of 128 or more takes two bytes (since 6.1), low 7 bits first.  The first character of
a name is its type, as in System.map.  An offset below 0 counts from the base, ``base - 1 -
offset``, if the kernel has per-CPU symbols, which then are those of 0 or more; otherwise
``base + offset``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
"""The tokens "0" to "9": every kernel has names with digits, and a token may be a character."""

MAX_STEP = 256 << 8
"""The most bytes that 256 names take."""
ROOM = 1 << 21
"""How far before the tokens the markers may be."""
KERNEL_HALF = 0xFFFF_8000_0000_0000
_TEXT_TYPES = frozenset("tTwW")


class _Tokens(NamedTuple):
    start: int
    end: int
    text: tuple[bytes, ...]


def _up(value: int, align: int = 8) -> int:
    return -(-value // align) * align


def _tokens(image: bytes) -> Iterator[_Tokens]:
    """Places that look like the token table, checked with the token index."""
    at = image.find(DIGITS)
    while at >= 0:
        found = _tokens_at(image, at)
        if found is not None:
            yield found
        at = image.find(DIGITS, at + 1)


def _tokens_at(image: bytes, zero: int) -> _Tokens | None:
    """The table whose token "0" stands at `zero`."""
    end = zero
    for _ in range(256 - ord("0")):
        end = image.find(b"\0", end) + 1
        if not end or end - zero > 1 << 16:
            return None
    index_at = _up(end)
    if index_at + 512 > len(image):
        return None
    index = struct.unpack_from("<256H", image, index_at)
    start = zero - index[ord("0")]
    if start < 0 or start % 8 or index[0]:
        return None
    text = []
    for number in range(256):
        begin = start + index[number]
        stop = image.find(b"\0", begin)
        following = start + index[number + 1] if number < 255 else end
        # Each token ends right before the next one.
        if stop + 1 != following:
            return None
        text.append(image[begin:stop])
    return _Tokens(start, index_at + 512, tuple(text))


def _markers(image: bytes, end: int) -> Iterator[tuple[int, list[int]]]:
    """Runs before `end` that look like the markers: (where they begin, their values)."""
    start = max(0, end - ROOM)
    words = struct.unpack_from(f"<{(end - start) // 4}I", image, start)
    # Every second word: the table begins at a multiple of 8.
    for at in range((len(words) - 2) & ~1, -1, -2):
        if words[at] or not 512 <= words[at + 1] <= MAX_STEP:
            continue
        run = [0]
        for value in words[at + 1 :]:
            if not 512 <= value - run[-1] <= MAX_STEP:
                break
            run.append(value)
        yield start + 4 * at, run
        if len(run) > 2:
            # What follows may by chance have looked like one more.
            yield start + 4 * at, run[:-1]


def _names(image: bytes, end: int, markers: list[int]) -> tuple[int, int] | None:
    """Where the names begin, which end before `end`, and how many there are."""
    least = (len(markers) - 1) * 256
    start = _up(end - markers[-1] - 7)
    lowest = max(start - MAX_STEP, 8)
    while start >= lowest:
        (count,) = struct.unpack_from("<I", image, start - 8)
        if least < count <= least + 256 and _fits(image, start, end, count, markers):
            return start, count
        start -= 8
    return None


def _fits(image: bytes, start: int, end: int, count: int, markers: list[int]) -> bool:
    """Whether `count` names from `start` agree with the markers, and fill the room."""
    at = start
    for number in range(count):
        if number % 256 == 0 and at - start != markers[number // 256]:
            return False
        length, at = _length(image, at)
        at += length
        if not length or at > end:
            return False
    return _up(at) == end


def _length(image: bytes, at: int) -> tuple[int, int]:
    """The length of the name at `at`, and where its tokens begin."""
    length = image[at]
    if length & 0x80:
        return length & 0x7F | image[at + 1] << 7, at + 2
    return length, at + 1


def _addresses(image: bytes, names_at: int, tail: int, count: int) -> list[int] | None:
    """The symbols' addresses: from before the names, or from behind the token index."""
    before = names_at - 16
    for offsets_at, base_at in (
        (before - _up(4 * count), before),
        (_up(tail), _up(tail) + _up(4 * count)),
    ):
        if offsets_at < 0 or base_at + 8 > len(image):
            continue
        (base,) = struct.unpack_from("<Q", image, base_at)
        if base < KERNEL_HALF or base & 0xFFF:
            continue
        offsets = struct.unpack_from(f"<{count}i", image, offsets_at)
        if any(offset < 0 for offset in offsets):
            return [base - 1 - offset if offset < 0 else offset for offset in offsets]
        return [base + (offset & 0xFFFFFFFF) for offset in offsets]
    return None


def read_kallsyms(image: bytes) -> list[tuple[int, str]]:
    """(address, name) of all functions of a 64-bit Linux image; [] if it carries none.

    `image` is the kernel's ELF file, or its memory.
    """
    for tokens in _tokens(image):
        for at, markers in _markers(image, tokens.start):
            names = _names(image, at, markers)
            if names is None:
                continue
            addresses = _addresses(image, names[0], tokens.end, names[1])
            if addresses is not None:
                return list(_decode(image, names[0], tokens.text, addresses))
    return []


def _decode(
    image: bytes, at: int, tokens: tuple[bytes, ...], addresses: list[int]
) -> Iterator[tuple[int, str]]:
    for address in addresses:
        length, at = _length(image, at)
        name = b"".join([tokens[token] for token in image[at : at + length]])
        at += length
        text = name.decode("ascii", "replace")
        if text[:1] in _TEXT_TYPES and address >= KERNEL_HALF:
            yield address, text[1:]

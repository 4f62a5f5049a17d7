# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV kernel's own symbols, behind it in memory, for kernels that ask for them (BSD_SYMTAB).

They come as an ELF file of three sections: nothing, the symbols, their names; before it stands its
size.  Facts: public/elfnote.h; elf_parse_bsdsyms() and elf_load_bsdsyms() in libelf of Xen 4.17.
"""

from __future__ import annotations

import struct

from xenograft.toolstack.build.elf import Buffer, Elf

_SECTIONS = 3
_SHT_SYMTAB, _SHT_STRTAB = 2, 3
_IDENT = 16
_EHDR = {32: struct.Struct("<HHIIIIIHHHHHH"), 64: struct.Struct("<HHIQQQIHHHHHH")}
_SHDR = {32: struct.Struct("<IIIIIIIIII"), 64: struct.Struct("<IIQQQQIIQQ")}
_SYMBOL = {32: 16, 64: 24}
MAX_SYMBOLS = 64 << 20
"""Bytes: more than any kernel has."""


def bsd_symbols(image: Buffer, elf: Elf) -> bytes:
    """What is to lie behind the kernel, at a multiple of its word; nothing if it has no symbols.

    >>> from xenograft.toolstack.build.elf import Elf
    >>> bsd_symbols(b"", Elf(64, 62, 0, (), (), None, None))
    b''
    """
    table = elf.symbols
    if table is None or table.size + table.strings_size > MAX_SYMBOLS:
        return b""
    word = elf.bits // 8
    ehdr, shdr = _EHDR[elf.bits], _SHDR[elf.bits]
    headers = _IDENT + ehdr.size
    # Offsets count from the ELF header, which stands behind the size.
    symbols_at = _round(4 + headers + _SECTIONS * shdr.size, word) - 4
    names_at = _round(4 + symbols_at + table.size, word) - 4
    total = _round(4 + names_at + table.strings_size, word)
    old = ehdr.unpack_from(image, _IDENT)
    new = (*old[:4], 0, headers, old[6], headers, 0, 0, shdr.size, _SECTIONS, 0)
    sections = (
        shdr.pack(*[0] * 10),
        shdr.pack(0, _SHT_SYMTAB, 0, 0, symbols_at, table.size, 2, 0, word, _SYMBOL[elf.bits]),
        shdr.pack(0, _SHT_STRTAB, 0, 0, names_at, table.strings_size, 0, 0, 1, 0),
    )
    out = bytearray(total)
    header = bytes(image[:_IDENT]) + ehdr.pack(*new) + b"".join(sections)
    out[:4] = total.to_bytes(4, "little")
    for at, data in (
        (0, header),
        (symbols_at, image[table.offset : table.offset + table.size]),
        (names_at, image[table.strings_offset : table.strings_offset + table.strings_size]),
    ):
        out[4 + at : 4 + at + len(data)] = data
    return bytes(out)


def _round(value: int, unit: int) -> int:
    return -(-value // unit) * unit

# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of a core file: headers, notes, sections, program headers; pure.

Source: Xen's docs/misc/dump-core-format.txt (sections .note.Xen, .xen_prstatus,
.xen_shared_info, .xen_p2m or .xen_pfn, .xen_pages), elf(5).  Beside the sections there are
program headers, so that gdb too reads the file: a PT_LOAD per run of pages, at their
guest-physical addresses, and a PT_NOTE with the vCPUs' registers as NT_PRSTATUS.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

PAGE = 4096

ET_CORE, EM_X86_64 = 4, 62
SHT_PROGBITS, SHT_STRTAB, SHT_NOTE = 1, 3, 7
PT_LOAD, PT_NOTE = 1, 4
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_NHDR = struct.Struct("<III")
MAX_PROGRAM_HEADERS = 60_000
"""More runs than a file can name: then it has none."""


class Section(NamedTuple):
    """A section with its bytes, or `size` alone where these are written later."""

    name: str
    kind: int
    data: bytes
    entry_size: int = 0
    align: int = 8
    size: int | None = None

    @property
    def length(self) -> int:
        return len(self.data) if self.size is None else self.size


def note(name: bytes, kind: int, descriptor: bytes) -> bytes:
    """One note of a note section."""
    owner = name + b"\0"
    return (
        _NHDR.pack(len(owner), len(descriptor), kind)
        + owner.ljust(-len(owner) % 4 + len(owner), b"\0")
        + descriptor.ljust(-len(descriptor) % 4 + len(descriptor), b"\0")
    )


def head(sections: Sequence[Section], runs: Sequence[tuple[int, int]], notes: bytes) -> bytes:
    """All of the file before the pages, which the last section names.

    `runs`: (guest-physical address, size) of what the pages are, in order.  `notes`: for the
    program header PT_NOTE.
    """
    names = b"\0" + b"".join(section.name.encode() + b"\0" for section in sections)
    strings = b".shstrtab\0"
    names += strings
    table = [*sections[:-1], Section(".shstrtab", SHT_STRTAB, names, align=1), sections[-1]]
    loads = list(runs) if len(runs) <= MAX_PROGRAM_HEADERS else []
    program_count = len(loads) + 1
    at = _EHDR.size
    program_at, at = at, at + program_count * _PHDR.size
    section_at, at = at, at + (len(table) + 1) * _SHDR.size
    body = bytearray()
    start = at
    offsets = []
    for section in table:
        body += bytes(-(start + len(body)) % section.align)
        offsets.append(start + len(body))
        body += section.data
    note_at = start + len(body) + (-(start + len(body)) % 4)
    # The notes for gdb stand before the pages, which come last and begin at a page's border.
    body += bytes(note_at - start - len(body)) + notes
    pages_at = start + len(body)
    padding = -pages_at % PAGE
    body += bytes(padding)
    pages_at += padding
    offsets[-1] = pages_at

    programs = [_PHDR.pack(PT_NOTE, 4, note_at, 0, 0, len(notes), 0, 4)]
    offset = pages_at
    for address, size in loads:
        programs.append(_PHDR.pack(PT_LOAD, 7, offset, address, address, size, size, PAGE))
        offset += size
    headers = [bytes(_SHDR.size)]
    for section, where in zip(table, offsets, strict=True):
        headers.append(
            _SHDR.pack(
                names.index(section.name.encode() + b"\0"),
                section.kind,
                0,
                0,
                where,
                section.length,
                0,
                0,
                section.align,
                section.entry_size,
            )
        )
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = _EHDR.pack(
        ident,
        ET_CORE,
        EM_X86_64,
        1,
        0,
        program_at,
        section_at,
        0,
        _EHDR.size,
        _PHDR.size,
        program_count,
        _SHDR.size,
        len(table) + 1,
        len(table) - 1,
    )
    return elf + b"".join(programs) + b"".join(headers) + bytes(body)

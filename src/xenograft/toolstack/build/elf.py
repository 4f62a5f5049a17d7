# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files as a domain builder needs them: what to load where, the notes, the symbols.

Read with `struct` rather than a general library for two reasons: every field is hostile here
(a kernel may come from anywhere, so each offset and size is checked before it is used), and
the first user instruction of a guest waits for this parser (a general library costs 60 ms to
import, this costs none).  The tests compare it with pyelftools.

Layout: System V ABI, chapter 4 ("Object files"), and its AMD64 and i386 supplements.  What is
loadable (PT_LOAD with any permission) and where (p_paddr) is as in Xen's libelf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from xenograft.toolstack.errors import UserError

Buffer = bytes | memoryview

ELF_MAGIC = b"\x7fELF"
EM_386 = 3
EM_X86_64 = 62
PT_LOAD = 1
PT_NOTE = 4
SHT_SYMTAB = 2
SHT_NOTE = 7

_MACHINES = {
    2: "SPARC",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC64",
    22: "s390",
    40: "Arm",
    EM_386: "i386",
    EM_X86_64: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}

# (header, program header, section header, symbol) without e_ident, little endian.
_EHDR = {32: struct.Struct("<HHIIIIIHHHHHH"), 64: struct.Struct("<HHIQQQIHHHHHH")}
_PHDR = {32: struct.Struct("<IIIIIIII"), 64: struct.Struct("<IIQQQQQQ")}
_SHDR = {32: struct.Struct("<IIIIIIIIII"), 64: struct.Struct("<IIQQQQIIQQ")}
_SYM = {32: struct.Struct("<IIIBBH"), 64: struct.Struct("<IBBHQQ")}

# A hostile file may point many headers at one huge note or name: what is kept has a limit.
_MAX_NOTES = 65536  # as ELF_MAX_TOTAL_NOTE_COUNT of Xen's libelf
_MAX_DESC = 4096
_MAX_NAME = 512


class Segment(msgspec.Struct, frozen=True):
    """A loadable segment: file bytes [offset, offset+filesz) go to physical address paddr."""

    paddr: int
    vaddr: int
    offset: int
    filesz: int
    memsz: int

    @property
    def end(self) -> int:
        """Physical address one past the segment's memory."""
        return self.paddr + self.memsz


class Note(msgspec.Struct, frozen=True):
    """One ELF note: its owner ("Xen", "GNU", …), number and descriptor."""

    owner: str
    type: int
    desc: bytes


class SymbolTable(msgspec.Struct, frozen=True):
    """Where in the ELF file the symbols and their names are (offsets and sizes in bytes)."""

    offset: int
    size: int
    strings_offset: int
    strings_size: int


class Symbol(msgspec.Struct, frozen=True):
    """A named address of the kernel."""

    address: int
    size: int
    name: str


class Elf(msgspec.Struct, frozen=True):
    """A parsed ELF file. `segments` ascend by physical address and don't overlap."""

    bits: int
    machine: int
    entry: int
    segments: tuple[Segment, ...]
    notes: tuple[Note, ...]
    symbols: SymbolTable | None
    xen_guest: str | None
    """Text of the legacy `__xen_guest` section, if there is one."""

    @property
    def start(self) -> int:
        """Lowest physical address loaded."""
        return self.segments[0].paddr

    @property
    def end(self) -> int:
        """One past the highest physical address loaded."""
        return max(segment.end for segment in self.segments)


class _Sections:
    """The section headers, each checked as it is asked for."""

    def __init__(self, image: Buffer, bits: int, table: tuple[int, int, int, int]) -> None:
        offset, entry_size, count, strings_index = table
        self._image = image
        self._headers: list[tuple[int, ...]] = []
        layout = _SHDR[bits]
        if offset and entry_size >= layout.size and offset + entry_size * count <= len(image):
            self._headers = [
                layout.unpack_from(image, offset + entry_size * i) for i in range(count)
            ]
        self._strings = self.extent(strings_index)

    def extent(self, index: int) -> tuple[int, int] | None:
        """(offset, size) of a section's bytes in the file, None if it isn't all there."""
        if not 0 < index < len(self._headers):
            return None
        offset, size = self._headers[index][4:6]
        return (offset, size) if offset + size <= len(self._image) else None

    def of_type(self, wanted: int) -> Iterator[tuple[int, int, int]]:
        """(offset, size, link) of every section of a type."""
        for index, header in enumerate(self._headers):
            extent = self.extent(index)
            if header[1] == wanted and extent is not None:
                yield (*extent, header[6])

    def named(self, name: bytes) -> tuple[int, int] | None:
        """(offset, size) of the first section of that name."""
        if self._strings is None:
            return None
        base, size = self._strings
        wanted = name + b"\0"
        for index, header in enumerate(self._headers):
            start = header[0]
            if start + len(wanted) <= size:
                at = base + start
                if bytes(self._image[at : at + len(wanted)]) == wanted:
                    return self.extent(index)
        return None


def is_elf(image: Buffer) -> bool:
    """Whether the bytes begin as an ELF file does."""
    return bytes(image[:4]) == ELF_MAGIC


def parse_elf(image: Buffer, name: str = "kernel") -> Elf:
    """Parse an x86 kernel's ELF file; `name` stands in the messages.

    Raises UserError for what isn't a sound little-endian i386 or x86-64 ELF file with
    something to load.
    """
    if not is_elf(image):
        raise UserError(f"{name}: not an ELF file")
    if len(image) < 20:
        raise UserError(f"{name}: truncated ELF file ({len(image)} bytes)")
    bits = {1: 32, 2: 64}.get(image[4])
    if bits is None or image[5] not in (1, 2):
        raise UserError(f"{name}: damaged ELF header (class {image[4]}, data {image[5]})")
    machine = int.from_bytes(image[18:20], "little" if image[5] == 1 else "big")
    if machine not in (EM_386, EM_X86_64) or image[5] != 1:
        what = _MACHINES.get(machine, f"machine type {machine}")
        raise UserError(f"{name}: built for {what}; an x86 guest needs an i386 or x86-64 kernel")
    header = _EHDR[bits]
    if len(image) < 16 + header.size:
        raise UserError(f"{name}: truncated ELF file ({len(image)} bytes)")
    fields = header.unpack_from(image, 16)
    entry, phoff, shoff = fields[3:6]
    phentsize, phnum, shentsize, shnum, shstrndx = fields[8:13]
    sections = _Sections(image, bits, (shoff, shentsize, shnum, shstrndx))
    segments, notes = _segments(image, bits, (phoff, phentsize, phnum), name)
    if not any(note.owner == "Xen" for note in notes):
        # libelf falls back to the sections when no note segment has notes for Xen.
        notes = [
            note
            for offset, size, _ in sections.of_type(SHT_NOTE)
            for note in _notes(image, offset, size)
        ]
    legacy = sections.named(b"__xen_guest")
    return Elf(
        bits=bits,
        machine=machine,
        entry=entry,
        segments=segments,
        notes=tuple(notes[:_MAX_NOTES]),
        symbols=_symbols(image, sections),
        xen_guest=None if legacy is None else _text(image, *legacy),
    )


def _segments(
    image: Buffer, bits: int, table: tuple[int, int, int], name: str
) -> tuple[tuple[Segment, ...], list[Note]]:
    offset, entry_size, count = table
    layout = _PHDR[bits]
    if not count or entry_size < layout.size or offset + entry_size * count > len(image):
        raise UserError(f"{name}: no program headers, so nothing to load (truncated, or no kernel)")
    segments: list[Segment] = []
    notes: list[Note] = []
    for index in range(count):
        fields = layout.unpack_from(image, offset + entry_size * index)
        if bits == 64:
            kind, flags, at, vaddr, paddr, filesz, memsz, _ = fields
        else:
            kind, at, vaddr, paddr, filesz, memsz, flags, _ = fields
        if kind == PT_NOTE and at and at + filesz <= len(image) and len(notes) < _MAX_NOTES:
            notes.extend(_notes(image, at, filesz))
        if kind != PT_LOAD or not flags & 7 or not memsz:
            continue
        if filesz > memsz:
            raise UserError(f"{name}: segment {index} has more bytes in the file than in memory")
        if at + filesz > len(image):
            raise UserError(
                f"{name}: truncated: segment {index} ends at byte {at + filesz},"
                f" the file at byte {len(image)}"
            )
        if paddr + memsz > 1 << 64:
            raise UserError(f"{name}: segment {index} wraps around the end of memory")
        segments.append(Segment(paddr, vaddr, at, filesz, memsz))
    if not segments:
        raise UserError(f"{name}: has no loadable segment, so nothing to load")
    segments.sort(key=lambda segment: (segment.paddr, segment.end))
    for low, high in pairwise(segments):
        if low.end > high.paddr:
            raise UserError(
                f"{name}: segments overlap in memory at {high.paddr:#x}; the file is damaged"
            )
    return tuple(segments), notes


def _notes(image: Buffer, offset: int, size: int) -> Iterator[Note]:
    """The notes of one segment or section; stops at the first that doesn't fit."""
    end = offset + size
    found = 0
    while offset + 12 <= end and found < _MAX_NOTES:
        name_size, desc_size, kind = struct.unpack_from("<III", image, offset)
        name_at = offset + 12
        desc_at = name_at + (name_size + 3 & ~3)
        offset = desc_at + (desc_size + 3 & ~3)
        if desc_at + desc_size > end:
            return
        owner = bytes(image[name_at : name_at + min(name_size, 64)]).split(b"\0")[0]
        desc = bytes(image[desc_at : desc_at + min(desc_size, _MAX_DESC)])
        yield Note(owner.decode("latin-1"), kind, desc)
        found += 1


def _text(image: Buffer, offset: int, size: int) -> str:
    return bytes(image[offset : offset + min(size, 4096)]).split(b"\0")[0].decode("latin-1")


def _symbols(image: Buffer, sections: _Sections) -> SymbolTable | None:
    for offset, size, link in sections.of_type(SHT_SYMTAB):
        strings = sections.extent(link)
        if strings is not None:
            return SymbolTable(offset, size, *strings)
    return None


def read_symbols(image: Buffer, elf: Elf, limit: int = 1 << 20) -> list[Symbol]:
    """The named symbols of the file by ascending address, at most `limit`; [] if stripped."""
    table = elf.symbols
    if table is None:
        return []
    layout = _SYM[elf.bits]
    strings = bytes(image[table.strings_offset : table.strings_offset + table.strings_size])
    size = min(table.size // layout.size, limit) * layout.size
    found = []
    for fields in layout.iter_unpack(image[table.offset : table.offset + size]):
        if elf.bits == 64:
            name_at, _info, _other, section, address, length = fields
        else:
            name_at, address, length, _info, _other, section = fields
        if not section or not 0 < name_at < len(strings):
            continue
        name = strings[name_at : name_at + _MAX_NAME].split(b"\0", 1)[0]
        if name:
            found.append(Symbol(address, length, name.decode("latin-1")))
    found.sort(key=lambda symbol: (symbol.address, symbol.name))
    return found

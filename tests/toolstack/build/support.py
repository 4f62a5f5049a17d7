# SPDX-License-Identifier: GPL-2.0-or-later
"""Writers of the files that the builder reads: ELF kernels, bzImages, compressed payloads."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence

import lz4.block
import lzallright
import zstandard

EM_386 = 3
EM_X86_64 = 62
Note = tuple[str, int, bytes]


def note(kind: int, value: int | str | bytes, size: int = 4, owner: str = "Xen") -> Note:
    """A note of Xen's with a number, text or bytes."""
    if isinstance(value, int):
        return owner, kind, value.to_bytes(size, "little")
    if isinstance(value, str):
        return owner, kind, value.encode() + b"\0"
    return owner, kind, value


def pack_notes(notes: Iterable[Note]) -> bytes:
    out = b""
    for owner, kind, desc in notes:
        name = owner.encode() + b"\0"
        out += struct.pack("<III", len(name), len(desc), kind)
        out += name.ljust((len(name) + 3) & ~3, b"\0") + desc.ljust((len(desc) + 3) & ~3, b"\0")
    return out


def elf(
    segments: Sequence[tuple[int, bytes, int]] = ((0x100000, b"\xf4" * 64, 64),),
    notes: Iterable[Note] = ((*note(18, 0x100000),),),
    *,
    bits: int = 64,
    machine: int | None = None,
    symbols: Sequence[tuple[str, int, int]] = (),
    note_section: bool = False,
    sections: Sequence[tuple[bytes, int, bytes]] = (),
) -> bytes:
    """An ELF kernel: segments of (physical address, bytes, size in memory), notes, symbols.

    The notes are in a PT_NOTE segment, or in a section only.  `sections`: further ones as
    (name, type, bytes).
    """
    wide = bits == 64
    machine = (EM_X86_64 if wide else EM_386) if machine is None else machine
    ehsize, phsize, shsize = (64, 56, 64) if wide else (52, 32, 40)
    packed_notes = pack_notes(notes)
    phnum = len(segments) + (bool(packed_notes) and not note_section)
    body = bytearray()
    base = ehsize + phnum * phsize

    def place(data: bytes) -> int:
        body.extend(bytes(-(base + len(body)) % 16))
        at = base + len(body)
        body.extend(data)
        return at

    def header(kind: int, flags: int, at: int, paddr: int, filesz: int, memsz: int) -> bytes:
        vaddr = paddr + 0x40000000
        if wide:
            return struct.pack("<IIQQQQQQ", kind, flags, at, vaddr, paddr, filesz, memsz, 16)
        return struct.pack("<IIIIIIII", kind, at, vaddr, paddr, filesz, memsz, flags, 16)

    phdrs = b"".join(
        header(1, 7, place(data), paddr, len(data), memsz) for paddr, data, memsz in segments
    )
    note_at = place(packed_notes)
    if packed_notes and not note_section:
        phdrs += header(4, 4, note_at, 0, len(packed_notes), len(packed_notes))

    table: list[tuple[bytes, int, int, int, int]] = [(b"", 0, 0, 0, 0)]
    if packed_notes and note_section:
        table.append((b".note.Xen", 7, note_at, len(packed_notes), 0))
    for name, kind, data in sections:
        table.append((name, kind, place(data), len(data), 0))
    if symbols:
        names = b"\0"
        entries = bytes(24 if wide else 16)
        for name, value, size in symbols:
            if wide:
                entries += struct.pack("<IBBHQQ", len(names), 0x12, 0, 1, value, size)
            else:
                entries += struct.pack("<IIIBBH", len(names), value, size, 0x12, 0, 1)
            names += name.encode() + b"\0"
        table.append((b".strtab", 3, place(names), len(names), 0))
        table.append((b".symtab", 2, place(entries), len(entries), len(table) - 1))
    shstrings = b"\0" + b"".join(name + b"\0" for name, *_ in table[1:]) + b".shstrtab\0"
    table.append((b".shstrtab", 3, place(shstrings), len(shstrings), 0))
    shdrs = b""
    for index, (name, kind, at, size, link) in enumerate(table):
        name_at = shstrings.index(name + b"\0") if index else 0
        entry_size = {2: 24 if wide else 16}.get(kind, 0)
        pattern = "<IIQQQQIIQQ" if wide else "<IIIIIIIIII"
        shdrs += struct.pack(pattern, name_at, kind, 0, 0, at, size, link, 0, 1, entry_size)
    shoff = place(shdrs)

    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]).ljust(12, b"\0")
    pattern = "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH"
    fields = (2, machine, 1, 0x100000, ehsize, shoff, 0, ehsize, phsize, phnum, shsize)
    head = ident + struct.pack(pattern, *fields, len(table), len(table) - 1)
    return head + phdrs + bytes(body)


LINUX_NOTES = (
    note(6, "linux"),
    note(7, "2.6"),
    note(5, "xen-3.0"),
    note(3, 0xFFFFFFFF80000000, 8),
    note(1, 0xFFFFFFFF810000C0, 8),
    note(10, "!writable_page_tables|pae_pgdir_above_4gb"),
    note(17, 0x8801),
    note(9, "yes"),
    note(8, "generic"),
    note(13, struct.pack("<QQ", 1, 1)),
    note(14, 1),
    note(16, 1),
    note(18, 0x1000040, 8),
)
"""The notes of a Linux 6.1, as `readelf -n` shows them."""


def linux(size: int = 0x3000, memsz: int = 0x5000, notes: Sequence[Note] = LINUX_NOTES) -> bytes:
    """A kernel that looks like Linux to the builder."""
    code = bytes((at * 7 + (at >> 8)) & 0xFF for at in range(size))
    return elf([(0x1000000, code, size), (0x1200000, b"data", memsz)], notes)


def _lz4_legacy(data: bytes) -> bytes:
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[at : at + (8 << 20)], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


def lzop(data: bytes, flags: int = 0x3000001, block_size: int = 1 << 18) -> bytes:
    """A file as lzop writes it (flags: which checksums there are)."""
    header = struct.pack(">HHHBBIIII", 0x1040, 0x20A0, 0x0940, 3, 9, flags, 0o100644, 0, 0)
    header += b"\0"  # no name
    out = b"\x89LZO\0\r\n\x1a\n" + header + struct.pack(">I", zlib.adler32(header))
    for at in range(0, len(data), block_size):
        plain = data[at : at + block_size]
        packed = lzallright.LZOCompressor().compress(plain)
        if len(packed) >= len(plain):
            packed = plain
        out += struct.pack(">II", len(plain), len(packed))
        if flags & 0x1:
            out += struct.pack(">I", zlib.adler32(plain))
        if flags & 0x100:
            out += struct.pack(">I", zlib.crc32(plain))
        if len(packed) < len(plain):
            if flags & 0x2:
                out += struct.pack(">I", zlib.adler32(packed))
            if flags & 0x200:
                out += struct.pack(">I", zlib.crc32(packed))
        out += packed
    return out + bytes(4)


def _xz(data: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 1}]
    return lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)


def _zstd(data: bytes) -> bytes:
    # Linux's build pipes into zstd: the frame doesn't tell its size, and ends in a checksum.
    stream = zstandard.ZstdCompressor(
        level=3, write_content_size=False, write_checksum=True
    ).compressobj()
    return stream.compress(data) + stream.flush()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": _xz,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=1),
    "bzip2": bz2.compress,
    "lzo": lzop,
    "lz4": _lz4_legacy,
    "zstd": _zstd,
}


def bzimage(
    payload: bytes,
    *,
    protocol: int = 0x20F,
    setup_sectors: int = 4,
    text: bytes = b"6.1.0-test (us@here) #1",
    offset: int = 64,
    length: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """A bzImage around a compressed payload, with the fields that a loader reads."""
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x400 - 0x200)
    setup[0x400 : 0x400 + len(text)] = text
    size = len(payload) if length is None else length
    struct.pack_into("<II", setup, 0x248, offset, size)
    return bytes(setup) + b"\x90" * offset + payload + tail


def linux_payload(image: bytes, form: str) -> bytes:
    """A payload as Linux's build makes it: all formats but gzip have the size appended."""
    packed = COMPRESSORS[form](image)
    return packed if form == "gzip" else packed + struct.pack("<I", len(image))

# SPDX-License-Identifier: GPL-2.0-or-later
"""From a kernel file to the ELF image in it: bzImage, compressed or plain ELF.

bzImage fields: Linux's Documentation/x86/boot.rst (setup header at 0x1f1; payload_offset and
payload_length since protocol 2.08).  Compressed ELF files are taken too, as by libxenguest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from xenograft.toolstack.build.decompress import CorruptData, compression, decompress
from xenograft.toolstack.build.elf import Buffer, Elf, is_elf, parse_elf
from xenograft.toolstack.build.notes import XenNotes, decode_notes, supported_kinds
from xenograft.toolstack.errors import UserError

Unpacker = Callable[[Buffer], Buffer]
"""Unpacks compressed data; raises CorruptData. A cache has the same type."""

_HDRS_AT = 0x202
_MAX_LAYERS = 4


class Kernel(msgspec.Struct, frozen=True):
    """A kernel ready to be placed: its ELF image and what was found in it."""

    name: str
    container: tuple[str, ...]
    """How the image was wrapped, from outside in: ("bzImage", "lz4"), ("gzip",) or ()."""
    version: str
    """Version text of a bzImage ("6.1.0-56-cloud-amd64 (…) #1 SMP …"), or ""."""
    image: Buffer
    elf: Elf
    notes: XenNotes

    @property
    def kinds(self) -> tuple[str, ...]:
        """Guest kinds that it supports, of "pv" and "pvh"."""
        return supported_kinds(self.elf, self.notes)


class _BzImage(msgspec.Struct, frozen=True):
    payload: Buffer
    version: str


# What people hand over by mistake: (offset, magic, what it is and what to do).
_NOT_KERNELS = (
    (0, b"QFI\xfb", "a qcow2 disk image; give it as --disk"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"conectix", "a VHD disk image"),
    (0x8001, b"CD001", "a CD image; give it as --disk"),
    (0, b"070701", "an initramfs (cpio); give it as --ramdisk"),
    (0, b"#!", "a script"),
    (0, b"!<arch>", "a package or archive; unpack it first"),
    (56, b"ARM\x64", "an AArch64 kernel; an x86 guest needs an i386 or x86-64 kernel"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree"),
    (510, b"\x55\xaa", "a boot sector or disk image"),
)


def _bzimage(data: Buffer, name: str) -> _BzImage | None:
    """The payload of a bzImage, None if the data isn't one."""
    if len(data) < 0x250 or bytes(data[_HDRS_AT : _HDRS_AT + 4]) != b"HdrS":
        return None
    (version,) = struct.unpack_from("<H", data, 0x206)
    if version < 0x208:
        raise UserError(
            f"{name}: boot protocol {version >> 8}.{version & 0xFF:02} is too old (2.08 is"
            " needed: Linux 2.6.26 or later)"
        )
    setup_size = ((data[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = setup_size + offset
    if not length:
        raise UserError(f"{name}: this bzImage has no payload")
    if start + length > len(data):
        raise UserError(
            f"{name}: truncated: the payload ends at byte {start + length},"
            f" the file at byte {len(data)}"
        )
    (text_at,) = struct.unpack_from("<H", data, 0x20E)
    text = bytes(data[text_at + 0x200 : text_at + 0x400]).split(b"\0")[0] if text_at else b""
    return _BzImage(data[start : start + length], text.decode("latin-1"))


def unpack_kernel(
    data: Buffer, name: str = "kernel", unpack: Unpacker = decompress
) -> tuple[Buffer, tuple[str, ...], str]:
    """The ELF image in a kernel file; with its wrappings and a bzImage's version text.

    `unpack` decompresses one layer (a cache may stand before `decompress`).  Raises UserError
    for what isn't a kernel, and for damaged ones.
    """
    if not len(data):
        raise UserError(f"{name}: the file is empty")
    container: list[str] = []
    version = ""
    data = memoryview(data)
    while not is_elf(data):
        if len(container) > _MAX_LAYERS:
            raise UserError(f"{name}: compressed more than {_MAX_LAYERS} times over")
        form = compression(data)
        if form is not None:
            container.append(form)
            try:
                data = memoryview(unpack(data))
            except CorruptData as error:
                raise UserError(
                    f"{name}: the {form} data in it is damaged ({error}); fetch the file anew"
                ) from error
            continue
        bzimage = _bzimage(data, name)
        if bzimage is None:
            raise UserError(f"{name}: {_not_a_kernel(data, container)}")
        container.append("bzImage")
        version = bzimage.version or version
        data = memoryview(bzimage.payload)
        if not is_elf(data) and compression(data) is None:
            raise UserError(
                f"{name}: the payload is in an unknown compression format"
                f" (it begins {bytes(data[:4]).hex(' ')}); the file may be damaged"
            )
    return data, tuple(container), version


def _not_a_kernel(data: Buffer, container: list[str]) -> str:
    where = "holds" if container else "is"
    for at, magic, what in _NOT_KERNELS:
        if bytes(data[at : at + len(magic)]) == magic:
            return f"{where} {what}"
    return "not a kernel: neither an ELF file nor a bzImage, plain or compressed"


def parse_kernel(data: Buffer, name: str = "kernel", unpack: Unpacker = decompress) -> Kernel:
    """Unpack and parse a kernel file. Raises UserError, one line that begins with `name`."""
    image, container, version = unpack_kernel(data, name, unpack)
    elf = parse_elf(image, name)
    return Kernel(name, container, version, image, elf, decode_notes(elf, name))

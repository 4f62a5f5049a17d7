# SPDX-License-Identifier: GPL-2.0-or-later
"""A small writer of AML, the byte code of ACPI tables: one function per term.

Each function returns the term's bytes; a block is the concatenation of its terms.  Encodings:
ACPI specification 5.0, section 20.2 ("AML Grammar Definition").
"""

from __future__ import annotations

ZERO = b"\x00"
ONE = b"\x01"
NO_TARGET = b"\x00"
"""Where an operator could store its result but shall not."""

SYSTEM_MEMORY = 0
SYSTEM_IO = 1
BYTE_ACCESS = 1
"""Field flags: byte access, no lock, preserve."""


def package_length(size: int) -> bytes:
    """PkgLength for `size` bytes that follow it; the field counts itself.

    Raises ValueError for packages of 256 MiB and more.
    """
    if size + 1 < 0x40:
        return bytes([size + 1])
    for extra in (1, 2, 3):
        total = size + 1 + extra
        if total < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little")
    raise ValueError(f"an AML package of {size} bytes is too long")


def bit_length(bits: int) -> bytes:
    """PkgLength as a field list uses it: the plain number of bits."""
    if bits < 0x40:
        return bytes([bits])
    for extra in (1, 2, 3):
        if bits < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | bits & 0xF]) + (bits >> 4).to_bytes(extra, "little")
    raise ValueError(f"an AML field of {bits} bits is too long")


def name(path: str) -> bytes:
    r"""A NameString: segments of up to 4 characters with dots between; leading \ or ^s allowed."""
    stem = path.lstrip("\\^")
    prefix = path[: len(path) - len(stem)].encode("ascii")
    segments = [segment.encode("ascii").ljust(4, b"_") for segment in stem.split(".")]
    if any(len(segment) != 4 for segment in segments) or len(segments) > 255:
        raise ValueError(f"bad AML name {path!r}")
    if len(segments) == 1:
        return prefix + segments[0]
    if len(segments) == 2:
        return prefix + b"\x2e" + b"".join(segments)
    return prefix + b"\x2f" + bytes([len(segments)]) + b"".join(segments)


def integer(value: int) -> bytes:
    """A constant in its shortest form."""
    if value in (0, 1):
        return bytes([value])
    for opcode, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if value < 1 << 8 * size:
            return bytes([opcode]) + value.to_bytes(size, "little")
    raise ValueError(f"AML integer {value:#x} is too large")


def string(text: str) -> bytes:
    """A constant string."""
    return b"\x0d" + text.encode("ascii") + b"\x00"


def buffer(data: bytes) -> bytes:
    """A constant buffer."""
    body = integer(len(data)) + data
    return b"\x11" + package_length(len(body)) + body


def _package(opcode: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return opcode + package_length(len(body)) + body


def scope(path: str, *terms: bytes) -> bytes:
    """Scope (path) { terms }"""
    return _package(b"\x10", name(path), *terms)


def define(path: str, value: bytes) -> bytes:
    """Name (path, value)"""
    return b"\x08" + name(path) + value


def method(path: str, arguments: int, *terms: bytes) -> bytes:
    """Method (path, arguments, NotSerialized) { terms }"""
    return _package(b"\x14", name(path), bytes([arguments]), *terms)


def processor(path: str, number: int, pblk: int, pblk_size: int, *terms: bytes) -> bytes:
    """Processor (path, number, pblk, pblk_size) { terms }"""
    head = name(path) + bytes([number]) + pblk.to_bytes(4, "little") + bytes([pblk_size])
    return _package(b"\x5b\x83", head, *terms)


def operation_region(path: str, space: int, offset: bytes, size: bytes) -> bytes:
    """OperationRegion (path, space, offset, size)"""
    return b"\x5b\x80" + name(path) + bytes([space]) + offset + size


def field(region: str, *units: tuple[str, int]) -> bytes:
    """Field (region, ByteAcc, NoLock, Preserve) { units }: (name, bits), "" reserves bits."""
    encoded = [(name(unit) if unit else b"\x00") + bit_length(bits) for unit, bits in units]
    return _package(b"\x5b\x81", name(region), bytes([BYTE_ACCESS]), *encoded)


def if_(predicate: bytes, *terms: bytes) -> bytes:
    """If (predicate) { terms }"""
    return _package(b"\xa0", predicate, *terms)


def else_(*terms: bytes) -> bytes:
    """Else { terms }, right after an If"""
    return _package(b"\xa1", *terms)


def return_(value: bytes) -> bytes:
    """Return (value)"""
    return b"\xa4" + value


def call(path: str, *arguments: bytes) -> bytes:
    """Call a method."""
    return name(path) + b"".join(arguments)


def local(index: int) -> bytes:
    """Local0 … Local7"""
    return bytes([0x60 + index])


def argument(index: int) -> bytes:
    """Arg0 … Arg6"""
    return bytes([0x68 + index])


def store(value: bytes, target: bytes) -> bytes:
    """Store (value, target)"""
    return b"\x70" + value + target


def add(a: bytes, b: bytes, target: bytes = NO_TARGET) -> bytes:
    """Add (a, b, target)"""
    return b"\x72" + a + b + target


def subtract(a: bytes, b: bytes, target: bytes = NO_TARGET) -> bytes:
    """Subtract (a, b, target)"""
    return b"\x74" + a + b + target


def shift_right(value: bytes, count: bytes, target: bytes = NO_TARGET) -> bytes:
    """ShiftRight (value, count, target)"""
    return b"\x7a" + value + count + target


def and_(a: bytes, b: bytes, target: bytes = NO_TARGET) -> bytes:
    """And (a, b, target)"""
    return b"\x7b" + a + b + target


def index(source: bytes, position: bytes) -> bytes:
    """Index (source, position)"""
    return b"\x88" + source + position + NO_TARGET


def deref_of(reference: bytes) -> bytes:
    """DerefOf (reference)"""
    return b"\x83" + reference


def to_buffer(value: bytes) -> bytes:
    """ToBuffer (value)"""
    return b"\x96" + value + NO_TARGET


def less(a: bytes, b: bytes) -> bytes:
    """LLess (a, b)"""
    return b"\x95" + a + b


def equal(a: bytes, b: bytes) -> bytes:
    """LEqual (a, b)"""
    return b"\x93" + a + b


def not_equal(a: bytes, b: bytes) -> bytes:
    """LNotEqual (a, b)"""
    return b"\x92\x93" + a + b


def notify(device: str, value: int) -> bytes:
    """Notify (device, value)"""
    return b"\x86" + name(device) + integer(value)


def sleep(milliseconds: int) -> bytes:
    """Sleep (milliseconds)"""
    return b"\x5b\x22" + integer(milliseconds)

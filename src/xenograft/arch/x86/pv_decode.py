# SPDX-License-Identifier: GPL-2.0-or-later
"""Privileged instructions that Xen carries out for PV kernels: a decoder, pure.

Facts: validate() in xen/arch/x86/pv/emul-priv-op.c of Xen 4.17 says which; their encodings are
in the AMD64 Architecture Programmer's Manual, volume 3.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

MAX_LENGTH = 15


class Op(Enum):
    """What an instruction does."""

    IN = auto()
    OUT = auto()
    INS = auto()
    OUTS = auto()
    CLI = auto()
    STI = auto()
    CLTS = auto()
    WBINVD = auto()
    READ_CR = auto()
    WRITE_CR = auto()
    READ_DR = auto()
    WRITE_DR = auto()
    WRMSR = auto()
    RDMSR = auto()
    RDTSC = auto()
    RDTSCP = auto()
    CPUID = auto()
    XSETBV = auto()


class Insn(NamedTuple):
    """A decoded instruction.

    `size`: bytes of a port access. `port`: of IN and OUT, or -1 for DX. `number`: of the
    control or debug register. `gpr`: number of the general register that goes with it.  Of
    string instructions `segment` is the prefix that names one (or 0), and `address_bits` the
    width of addresses where a prefix has changed it (or 0).
    """

    op: Op
    length: int
    size: int = 0
    port: int = -1
    number: int = 0
    gpr: int = 0
    rep: bool = False
    segment: int = 0
    address_bits: int = 0


_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_SEGMENTS = frozenset(b"\x26\x2e\x36\x3e\x64\x65")
_PLAIN = {0xFA: Op.CLI, 0xFB: Op.STI}
_TWO_BYTE = {
    0x06: Op.CLTS,
    0x09: Op.WBINVD,
    0x30: Op.WRMSR,
    0x31: Op.RDTSC,
    0x32: Op.RDMSR,
    0xA2: Op.CPUID,
}
_MOVES = {0x20: Op.READ_CR, 0x21: Op.READ_DR, 0x22: Op.WRITE_CR, 0x23: Op.WRITE_DR}
_GROUP_7 = {0xD1: Op.XSETBV, 0xF9: Op.RDTSCP}


def decode(code: bytes, bits: int) -> Insn | None:
    """The instruction at the start of `code` (`bits` wide code), or None for any other.

    >>> insn = decode(b"\\x0f\\x22\\xd8", 64)
    >>> insn.op.name, insn.length, insn.number
    ('WRITE_CR', 3, 3)
    """
    try:
        return _decode(code[:MAX_LENGTH], bits)
    except IndexError:
        return None


def _decode(code: bytes, bits: int) -> Insn | None:
    at, rex = 0, 0
    narrow = rep = lock = False
    segment = address_bits = 0
    while code[at] in _PREFIXES:
        if code[at] in _SEGMENTS:
            segment = code[at]
        elif code[at] == 0x67:
            address_bits = bits // 2
        narrow |= code[at] == 0x66
        rep |= code[at] in (0xF2, 0xF3)
        lock |= code[at] == 0xF0
        at += 1
    if bits == 64 and code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    byte = code[at]
    at += 1
    wide = 2 if narrow else 4
    if byte in _PLAIN:
        return Insn(_PLAIN[byte], at)
    if byte & 0xFC == 0x6C:
        size = wide if byte & 1 else 1
        op = Op.OUTS if byte & 2 else Op.INS
        return Insn(op, at, size, rep=rep, segment=segment, address_bits=address_bits)
    if byte & 0xF4 == 0xE4:
        immediate = not byte & 8
        port = code[at] if immediate else -1
        size = wide if byte & 1 else 1
        return Insn(Op.OUT if byte & 2 else Op.IN, at + immediate, size, port)
    if byte != 0x0F:
        return None
    byte = code[at]
    at += 1
    if byte in _TWO_BYTE:
        return Insn(_TWO_BYTE[byte], at)
    if byte in _MOVES:
        modrm = code[at]
        number = modrm >> 3 & 7 | (8 if rex & 4 or (lock and byte in (0x20, 0x22)) else 0)
        return Insn(_MOVES[byte], at + 1, number=number, gpr=modrm & 7 | (rex & 1) << 3)
    if byte == 1 and code[at] in _GROUP_7:
        return Insn(_GROUP_7[code[at]], at + 1)
    return None

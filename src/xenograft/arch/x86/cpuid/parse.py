# SPDX-License-Identifier: GPL-2.0-or-later
"""The two syntaxes of the `cpuid=` option of xl.cfg(5), read into edits of a policy.

libxl's: ``"host,sse3=0,family=6"``, a list of key=value.  xend's: ``["1:ecx=xx0x…,edx=…"]``, a
leaf (or ``leaf,subleaf``) and for registers 32 characters, most significant bit first.  A bit
is ``0``, ``1``, ``x`` (the default), or ``k`` (what the engine can do; ``s`` is an old name).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from xenograft.arch.x86.cpuid.features import ALIASES, BY_NAME, canonical
from xenograft.arch.x86.cpuid.policy import EAX, EBX, ECX, Edit

REGISTERS: Final = ("eax", "ebx", "ecx", "edx")

_FIELDS: Final[dict[str, tuple[int, int, int, int, int]]] = {
    # name: leaf, subleaf, register, lowest bit, width
    "maxleaf": (0x0, -1, EAX, 0, 32),
    "stepping": (0x1, -1, EAX, 0, 4),
    "model": (0x1, -1, EAX, 4, 8),
    "family": (0x1, -1, EAX, 8, 8),
    "brandid": (0x1, -1, EBX, 0, 8),
    "clflush": (0x1, -1, EBX, 8, 8),
    "proccount": (0x1, -1, EBX, 16, 8),
    "localapicid": (0x1, -1, EBX, 24, 8),
    "procpkg": (0x4, 0, EAX, 26, 6),
    "nc": (0x80000008, -1, ECX, 0, 8),
    "apicidsize": (0x80000008, -1, ECX, 12, 4),
    "maxhvleaf": (0x40000000, -1, EAX, 0, 8),
}
"""Keys of libxl that take a number (tools/libs/light/libxl_cpuid.c)."""

_UNKNOWN_BITS: Final[dict[str, tuple[int, int, int, int]]] = {
    # name: leaf, subleaf, register, bit. libxl takes them; no guest of Xen ever has the bit.
    "cntxid": (0x1, -1, ECX, 10),
    "psn": (0x1, -1, 3, 18),
    "ia64": (0x1, -1, 3, 30),
    "arat": (0x6, -1, EAX, 2),
    "perfctr_core": (0x80000001, -1, ECX, 23),
    "perfctr_nb": (0x80000001, -1, ECX, 24),
    "svm_npt": (0x8000000A, -1, 3, 0),
    "svm_lbrv": (0x8000000A, -1, 3, 1),
    "svm_nrips": (0x8000000A, -1, 3, 3),
    "svm_tscrate": (0x8000000A, -1, 3, 4),
    "svm_vmcbclean": (0x8000000A, -1, 3, 5),
    "svm_decode": (0x8000000A, -1, 3, 7),
    "svm_pausefilt": (0x8000000A, -1, 3, 10),
}


KNOWN_LEAVES: Final = (
    range(0x0, 0x17),
    range(0x40000000, 0x40000001),
    range(0x80000000, 0x80000022),
)
"""Leaves that a line of xend's syntax may name."""
SUBLEAF_LEAVES: Final = (0x4, 0x7, 0xD)
"""Those of which a sub-leaf must be named."""


class CpuidSyntaxError(ValueError):
    """A `cpuid=` option that can't be read; the text is one line for the user."""


def parse(option: str | Iterable[str]) -> list[Edit]:
    """The edits that a `cpuid=` option asks for, in order.

    A string is libxl's syntax, a list of strings xend's; an element of a list that starts with
    ``host`` is taken as libxl's.  Raises CpuidSyntaxError.
    """
    if isinstance(option, str):
        return parse_libxl(option)
    edits: list[Edit] = []
    for line in option:
        edits += parse_libxl(line) if re.match(r"\s*host\b", line) else parse_xend(line)
    return edits


def parse_libxl(option: str) -> list[Edit]:
    """libxl's syntax.

    >>> parse_libxl("host,sse3=0")
    [Edit(leaf=1, subleaf=-1, register=2, bits='-------------------------------0')]
    """
    items = [item.strip() for item in option.split(",")]
    if items[0] != "host":
        raise CpuidSyntaxError(f'cpuid: must start with "host", not "{items[0]}"')
    return [_libxl_item(item) for item in items[1:] if item]


def _libxl_item(item: str) -> Edit:
    name, separator, value = (part.strip() for part in item.partition("="))
    if not separator:
        raise CpuidSyntaxError(f'cpuid: "{item}" has no value; write {item}=0, 1, x or k')
    if name in _FIELDS:
        return _field(name, value)
    if name in _UNKNOWN_BITS:
        leaf, subleaf, register, bit = _UNKNOWN_BITS[name]
    else:
        found = canonical(name)
        if found is None:
            raise CpuidSyntaxError(f'cpuid: no feature "{name}"{_nearest(name)}')
        feature = BY_NAME[found]
        leaf, subleaf = feature.word.leaf, feature.word.subleaf
        register, bit = feature.word.register, feature.bit
    wish = "k" if value == "s" else value
    if wish not in ("0", "1", "x", "k"):
        raise CpuidSyntaxError(f'cpuid: {name} takes 0, 1, x, k or s, not "{value}"')
    return Edit(leaf, subleaf, register, _bits(bit, wish))


def _bits(lowest: int, wishes: str) -> str:
    """32 characters that leave all bits but those given (most significant first)."""
    return wishes.rjust(32 - lowest, "-").ljust(32, "-")


def _field(name: str, value: str) -> Edit:
    leaf, subleaf, register, lowest, width = _FIELDS[name]
    if value in ("x", "k", "s"):
        wish = "k" if value == "s" else value
        if name == "family":
            return Edit(leaf, subleaf, register, f"----{wish * 8}--------{wish * 4}--------")
        if name == "model":
            return Edit(leaf, subleaf, register, f"{'-' * 12}{wish * 4}--------{wish * 4}----")
        return Edit(leaf, subleaf, register, _bits(lowest, wish * width))
    try:
        number = int(value, 0)
    except ValueError:
        raise CpuidSyntaxError(f'cpuid: {name} takes a number, x or k, not "{value}"') from None
    # A family is a base of 4 bits, and beyond 15 an extension of 8 that is added to it.
    limit = 15 + 255 if name == "family" else (1 << width) - 1
    if not 0 <= number <= limit:
        raise CpuidSyntaxError(f"cpuid: {name}={value} is out of range (0 to {limit})")
    if name == "family":
        base, extended = min(number, 15), max(number - 15, 0)
        return Edit(leaf, subleaf, register, f"----{extended:08b}--------{base:04b}--------")
    if name == "model":
        high, low = number >> 4, number & 15
        return Edit(leaf, subleaf, register, f"{'-' * 12}{high:04b}--------{low:04b}----")
    return Edit(leaf, subleaf, register, _bits(lowest, f"{number:0{width}b}"))


def parse_xend(line: str) -> list[Edit]:
    """One string of xend's syntax: ``leaf[,subleaf]:reg=bits[,reg=bits…]``."""
    head, separator, registers = line.partition(":")
    if not separator:
        raise CpuidSyntaxError(f'cpuid: "{line}" has no ":" after the leaf')
    numbers = []
    for part in head.split(","):
        try:
            numbers.append(int(part.strip(), 0))
        except ValueError:
            raise CpuidSyntaxError(f'cpuid: "{part.strip()}" is no leaf number') from None
    if len(numbers) > 2 or not all(0 <= number < 1 << 32 for number in numbers):
        raise CpuidSyntaxError(f'cpuid: "{head}" is no leaf, or leaf,subleaf')
    leaf, subleaf = numbers[0], numbers[1] if len(numbers) == 2 else -1
    if leaf in SUBLEAF_LEAVES and subleaf < 0:
        raise CpuidSyntaxError(f"cpuid: leaf {leaf:#x} has sub-leaves; write {leaf:#x},0:…")
    if not any(leaf in known for known in KNOWN_LEAVES):
        raise CpuidSyntaxError(f"cpuid: guests have no leaf {leaf:#x}")
    edits = []
    for item in registers.split(","):
        name, _, bits = (part.strip() for part in item.partition("="))
        if name not in REGISTERS:
            raise CpuidSyntaxError(f'cpuid: "{name}" is no register (eax, ebx, ecx, edx)')
        if len(bits) != 32:
            raise CpuidSyntaxError(
                f"cpuid: {name} of leaf {leaf:#x} needs 32 characters, not {len(bits)}"
            )
        if wrong := re.search(r"[^01xks]", bits):
            raise CpuidSyntaxError(
                f'cpuid: "{wrong[0]}" in {name} of leaf {leaf:#x}; bits are 0, 1, x, k or s'
            )
        edits.append(Edit(leaf, subleaf, REGISTERS.index(name), bits.replace("s", "k")))
    return edits


def _nearest(name: str) -> str:
    known = [*BY_NAME, *ALIASES, *_FIELDS, *_UNKNOWN_BITS]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversions of the texts in configurations and options. All raise UserError."""

from __future__ import annotations

import re
from collections.abc import Iterable

from xenograft.toolstack.errors import UserError

_NUMBER = re.compile(r"\s*([+-]?)(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\Z")
_SIZE = re.compile(r"\s*([0-9]{1,15})\s*(?:([kmgtKMGT])(?:i?[bB])?)?\s*\Z")
_KIB = {"k": 1, "m": 1 << 10, "g": 1 << 20, "t": 1 << 30}


def number(text: str, what: str) -> int:
    """A whole number: decimal, octal (leading 0) or hexadecimal (0x), as C's strtol reads it."""
    match = _NUMBER.match(text)
    if match is None:
        raise UserError(f"{what}: {text[:40]!r} isn't a number")
    sign, digits = match.groups()
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" and len(digits) > 1 else 10
    try:
        value = int(digits, base)
    except ValueError:
        raise UserError(f"{what}: {text[:40]!r} isn't an octal number (it begins with 0)") from None
    return -value if sign == "-" else value


def size_mib(text: str | int, what: str = "memory") -> int:
    """A size in MiB: "256M", "1G", "1024K", "256MB", "256MiB", or a plain number of MiB."""
    if isinstance(text, int):
        if text < 0:
            raise UserError(f"{what}: {text} isn't a size")
        return text
    match = _SIZE.match(text)
    if match is None:
        raise UserError(f"{what}: {text[:40]!r} isn't a size; write 256M, 1G or a number of MiB")
    digits, unit = match.groups()
    kib = int(digits) * _KIB[(unit or "m").lower()]
    if kib % 1024:
        raise UserError(f"{what}: {text[:40]} isn't a whole number of MiB")
    return kib // 1024


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known word most like `word`, or ""."""
    import difflib  # only a mistake pays for importing it

    found = difflib.get_close_matches(word[:64], list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def one_of(text: str, known: Iterable[str], what: str) -> str:
    """The text, if it's one of the known words."""
    words = list(known)
    if text in words:
        return text
    hint = nearest(text, words) or f"; it can be {', '.join(words)}"
    raise UserError(f"{what}: {text[:40]!r} is unknown{hint}")

# SPDX-License-Identifier: GPL-2.0-or-later
"""Device specifications of the form ``key=value,key=value``.  All raise UserError."""

from __future__ import annotations

from collections.abc import Sequence

from xenograft.toolstack.config.values import nearest
from xenograft.toolstack.errors import UserError


def pairs(kind: str, text: str, known: Sequence[str]) -> dict[str, str]:
    """The values by key; each key is one of the known ones, and given once."""
    values: dict[str, str] = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (word.strip() for word in piece.partition("="))
        if key not in known:
            raise UserError(
                f"{kind} {text[:80]!r}: unknown parameter {key[:40]!r}{nearest(key, known)}"
            )
        if not equals:
            raise UserError(f"{kind} {text[:80]!r}: {key} has no value; write {key}=…")
        if key in values:
            raise UserError(f"{kind} {text[:80]!r}: {key} is given twice")
        if "\0" in value:
            raise UserError(f"{kind} {text[:80]!r}: {key} has a NUL in it")
        values[key] = value
    return values


def flag(what: str, text: str) -> bool:
    """0 or 1."""
    if text not in ("0", "1"):
        raise UserError(f"{what}: {text[:40]!r} is neither 0 nor 1")
    return text == "1"

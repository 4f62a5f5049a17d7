# SPDX-License-Identifier: GPL-2.0-or-later
"""Lengths of time as people write them: "10ms", "2.5us", "1s"."""

from __future__ import annotations

import re
from decimal import Decimal

from xenograft.toolstack.errors import UserError

_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_DURATION = re.compile(r"(-?\d{1,12}(?:\.\d{1,9})?)\s*(ns|us|ms|s)\Z")


def parse_ns(text: str, what: str) -> int:
    """Nanoseconds.

    >>> parse_ns("2.5us", "period")
    2500

    Raises UserError, which names `what`.
    """
    match = _DURATION.match(text.strip())
    if match is None:
        raise UserError(f"{what}: {text[:40]!r} isn't a time such as 10ms, 500us or 1s")
    value = Decimal(match[1]) * _UNITS[match[2]]
    if value != int(value):
        raise UserError(f"{what}: {text[:40]!r} is no whole number of nanoseconds")
    return int(value)


def show_ns(ns: int) -> str:
    """In the largest unit that leaves at most three decimals.

    >>> show_ns(2_500_000), show_ns(1_000_000_000), show_ns(0)
    ('2.5ms', '1s', '0s')
    """
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 1000)):
        if abs(ns) >= size or not ns:
            return f"{ns / size:.3f}".rstrip("0").rstrip(".") + unit
    return f"{ns}ns"

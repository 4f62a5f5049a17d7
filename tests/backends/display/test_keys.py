# SPDX-License-Identifier: GPL-2.0-or-later
"""Key codes: those of Linux's input-event-codes.h that everybody knows."""

from __future__ import annotations

from xenograft.backends.display.keys import NAMED, TYPED


def test_codes() -> None:
    expected = {"a": 30, "z": 44, "q": 16, "m": 50, "1": 2, "0": 11, "esc": 1, "enter": 28}
    expected |= {"f1": 59, "f10": 68, "f12": 88, "up": 103, "delete": 111}
    assert {name: NAMED[name] for name in expected} == expected


def test_every_character_of_ascii_can_be_typed() -> None:
    assert {chr(code) for code in range(32, 127)} <= TYPED.keys()
    assert TYPED["a"] == (30, False)
    assert TYPED["A"] == (30, True)
    assert TYPED["/"] == (53, False)
    assert TYPED["?"] == (53, True)
    assert TYPED["\\"] == (43, False)
    assert TYPED["-"] == (12, False)
    assert TYPED["`"] == (41, False)
    assert len(set(TYPED.values())) == len(TYPED)

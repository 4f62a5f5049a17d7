# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys by name, and what to press for a character on a US keyboard (Linux's key codes)."""

from __future__ import annotations

_ROWS = (
    (2, "1234567890-=", "!@#$%^&*()_+"),
    (16, "qwertyuiop[]", "QWERTYUIOP{}"),
    (30, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
)
SHIFT = 42

NAMED: dict[str, int] = {
    "esc": 1,
    **{
        char: first + index
        for first, row, _ in _ROWS
        for index, char in enumerate(row)
        if char.isalnum()
    },
    "backspace": 14,
    "tab": 15,
    "enter": 28,
    "ctrl": 29,
    "shift": SHIFT,
    "alt": 56,
    "space": 57,
    "capslock": 58,
    **{f"f{number}": 58 + number for number in range(1, 11)},
    "f11": 87,
    "f12": 88,
    "home": 102,
    "up": 103,
    "pageup": 104,
    "left": 105,
    "right": 106,
    "end": 107,
    "down": 108,
    "pagedown": 109,
    "insert": 110,
    "delete": 111,
    "meta": 125,
}
"""Key codes by name, for ``press("ctrl", "c")``."""

BUTTONS: dict[str, int] = {"left": 0x110, "right": 0x111, "middle": 0x112}

TYPED: dict[str, tuple[int, bool]] = {
    " ": (57, False),
    "\n": (28, False),
    "\t": (15, False),
    "\b": (14, False),
    "\x1b": (1, False),
    **{
        char: (first + index, shifted)
        for first, plain, upper in _ROWS
        for shifted, row in ((False, plain), (True, upper))
        for index, char in enumerate(row)
    },
}
"""(key code, whether with Shift) by character."""

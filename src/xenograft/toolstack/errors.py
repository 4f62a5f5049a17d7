# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad usage, configuration or input: one line that says what's wrong and what to do.

    `xg` prints it and ends with exit status 2.
    """


class Failure(Exception):
    """What was asked for can't be done: a line (xl's, where it has one), and an exit status.

    `xg` prints it as it is.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """A line about a name that isn't known, with the nearest that is, or all of them.

    >>> unknown("type", "phv", ["pv", "pvh", "hvm"])
    "no type is called 'phv': did you mean pvh?"
    """
    names = list(known)
    # Swapped letters are the commonest slip, which difflib rates below a missing one.
    swapped = [name for name in names if sorted(name) == sorted(given)]
    near = swapped or difflib.get_close_matches(given, names, 1, 0.5)
    if near:
        return f"no {what} is called {given!r}: did you mean {near[0]}?"
    return f"no {what} is called {given!r}: known are {', '.join(names)}"

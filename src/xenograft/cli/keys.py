# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys for displays that go on until somebody leaves them: `xg top`, `xg sched plot --live`."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LEAVING = (b"q", b"Q", b"\x1b", b"\x03", b"")
"""q, Esc, Ctrl-C where the terminal doesn't make a signal of it, and the end of input."""


@contextmanager
def single_keys() -> Iterator[bool]:
    """Keys come at once and unseen, where there's a terminal; whether there is one.

    Ctrl-C stays a signal.
    """
    if not sys.stdin.isatty():
        yield False
        return
    import termios

    before = termios.tcgetattr(0)
    quiet = list(before)
    quiet[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(0, termios.TCSADRAIN, quiet)
    try:
        yield True
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def left_within(seconds: float, interactive: bool) -> bool:
    """Wait; whether the user has asked to leave meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not interactive:
            time.sleep(left)
        elif select.select([0], [], [], left)[0] and os.read(0, 64)[:1] in _LEAVING:
            return True
    return False

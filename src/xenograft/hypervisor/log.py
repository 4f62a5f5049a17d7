# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor's own console: what `xl dmesg` shows, and what guests print through it.

Xen keeps the last 16 KiB ("conring").  Lines of guests are rate-limited as Xen's guest_printk is
(10 messages in 5 seconds), on the machine's clock, so that a guest can't flood the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

CONRING_SIZE = 16 << 10
"""Characters kept (Xen's CONFIG_... default for conring_size)."""

RATE_MESSAGES = 10
RATE_INTERVAL_NS = 5_000_000_000
LINE_LIMIT = 80
"""Longest line that a guest's characters are collected to before they're printed."""


class _Rate:
    """RATE_MESSAGES in RATE_INTERVAL_NS of the machine's time, and no more."""

    __slots__ = ("_count", "_now", "_start")

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._start = 0
        self._count = 0

    def admits(self) -> bool:
        """Whether there may be one more."""
        now = self._now()
        if now - self._start >= RATE_INTERVAL_NS:
            self._start, self._count = now, 0
        self._count += 1
        return self._count <= RATE_MESSAGES


class Log:
    """Lines with the machine's time; `listeners` are called with (time_ns, domid, line).

    domid is DOMID_XEN's stand-in -1 for the hypervisor's own messages.
    """

    def __init__(self, now: Callable[[], int], limit: int = CONRING_SIZE) -> None:
        self._now = now
        self._limit = limit
        self._size = 0
        self.lines: deque[tuple[int, int, str]] = deque()
        self.listeners: list[Callable[[int, int, str], None]] = []
        self.notices: list[Callable[[str], object]] = []
        """Called with lines that whoever runs the machine should see at once, if not too many."""
        self._notice_rate = _Rate(now)
        self._noticed = ""

    def write(self, message: str, domid: int = -1) -> None:
        """Add one line."""
        entry = (self._now(), domid, message)
        self.lines.append(entry)
        self._size += len(message) + 1
        while self._size > self._limit and len(self.lines) > 1:
            self._size -= len(self.lines.popleft()[2]) + 1
        for listener in self.listeners:
            listener(*entry)

    def notice(self, message: str) -> None:
        """Add a line about trouble: a disk's image that can't be read, a ring that was halted."""
        self.write(message)
        again, self._noticed = message == self._noticed, message
        if self.notices and not again and self._notice_rate.admits():
            for listener in self.notices:
                listener(message)

    def text(self) -> str:
        """All that is kept, with each guest's lines marked as Xen marks them: "(d5) "."""
        return "".join(
            f"({'XEN' if domid < 0 else f'd{domid}'}) {message}\n"
            for _, domid, message in self.lines
        )


class GuestLog:
    r"""The lines that one guest prints: collected, filtered and rate-limited.

    >>> log = Log(lambda: 0)
    >>> guest = GuestLog(log, 7)
    >>> guest.put(b"hel\x07lo\n")
    >>> log.text()
    '(d7) hello\n'
    """

    __slots__ = ("_domid", "_line", "_log", "_rate", "dropped")

    def __init__(self, log: Log, domid: int) -> None:
        self._log = log
        self._domid = domid
        self._line = ""
        self._rate = _Rate(log._now)
        self.dropped = 0
        """Lines that the rate limit has swallowed."""

    def put(self, data: bytes, limited: bool = False) -> None:
        """Characters from the guest; `limited` applies the rate limit to the lines they end."""
        for byte in data:
            if byte == 0x0A or len(self._line) >= LINE_LIMIT:
                self._flush(limited)
            if 0x20 <= byte < 0x7F or byte == 0x09:
                self._line += chr(byte)

    def message(self, text: str) -> None:
        """A message of the hypervisor about this guest, rate-limited (Xen's gprintk)."""
        if self._admit():
            self._log.write(text, self._domid)

    def _flush(self, limited: bool) -> None:
        line, self._line = self._line, ""
        if not limited or self._admit():
            self._log.write(line, self._domid)

    def _admit(self) -> bool:
        if self._rate.admits():
            return True
        self.dropped += 1
        return False

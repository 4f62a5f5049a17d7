# SPDX-License-Identifier: GPL-2.0-or-later
"""When a machine on the real clock is at rest, so that it should give memory back.

Engines keep what they translated, up to tens of MiB a guest, most of it from its boot and never
run again.  A guest that has been idle for nine tenths of a period loses it, once: what it still
needs is translated anew when it wakes.  On the virtual clock nothing waits, and nothing rests.
"""

from __future__ import annotations

PERIOD_NS = 3_000_000_000
"""How long a machine is watched before it counts as resting."""


class Rest:
    """Watches idleness; times are the machine's, in ns.

    >>> rest = Rest(0)
    >>> rest.idle(0, PERIOD_NS)
    >>> rest.begins(PERIOD_NS), rest.begins(PERIOD_NS)
    (True, False)
    """

    __slots__ = ("_idle", "_resting", "_since")

    def __init__(self, now: int) -> None:
        self._since = now
        self._idle = 0
        self._resting = False

    def idle(self, begin: int, end: int) -> None:
        """Nothing ran from `begin` to `end`."""
        self._idle += end - begin

    def begins(self, now: int) -> bool:
        """Whether the machine has come to rest; True once until it has been busy again."""
        watched = now - self._since
        if watched < PERIOD_NS:
            return False
        before, self._resting = self._resting, 10 * self._idle >= 9 * watched
        self._since, self._idle = now, 0
        return self._resting and not before

    def longest(self, now: int) -> int | None:
        """How long a wait may be before `begins` is to be asked again (None: for ever)."""
        return None if self._resting else max(self._since + PERIOD_NS - now, 0)

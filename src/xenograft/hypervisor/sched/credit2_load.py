# SPDX-License-Identifier: GPL-2.0-or-later
"""Load averages of credit2: how much work a run queue, or a unit, has had lately.

Facts: update_runq_load() in Xen's xen/common/sched/credit2.c and its description of the load
calculation.  Fixed-point numbers with PRECISION_SHIFT fractional bits; the average forgets over
a window of 2**WINDOW_SHIFT ns (about a second).
"""

from __future__ import annotations

WINDOW_SHIFT = 30
PRECISION_SHIFT = 18
GRANULARITY_SHIFT = 10
"""Time counts in units of 1.024 us."""

FULL_LOAD = 1 << PRECISION_SHIFT
_WINDOW = 1 << (WINDOW_SHIFT - GRANULARITY_SHIFT)


def decay(average: int, load: int, since: int, now: int) -> int:
    """The average at `now`, when it was `average` at `since` and `load` units were there.

    >>> decay(0, 1, 0, 1 << 30) == FULL_LOAD
    True
    >>> decay(FULL_LOAD, 0, 0, 1 << 29) == FULL_LOAD // 2
    True
    """
    delta = (now >> GRANULARITY_SHIFT) - (since >> GRANULARITY_SHIFT)
    if delta <= 0:
        return average
    load <<= PRECISION_SHIFT
    if delta >= _WINDOW:
        return load
    return average + (delta * (load - average) >> (WINDOW_SHIFT - GRANULARITY_SHIFT))


class Load:
    """A load with its average; `planned` counts what is on its way as well (Xen's b_avgload)."""

    __slots__ = ("average", "count", "planned", "since")

    def __init__(self, now: int, average: int = 0) -> None:
        self.count = 0
        self.average = average
        self.planned = average
        self.since = now

    def change(self, by: int, now: int) -> None:
        """`by` units more run or could run from now on (0: bring the averages up to now)."""
        count, since = self.count, self.since
        if now >> GRANULARITY_SHIFT != since >> GRANULARITY_SHIFT:
            self.average = decay(self.average, count, since, now)
            self.planned = decay(self.planned, count, since, now)
            self.since = now
        self.count = count + by

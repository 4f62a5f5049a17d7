# SPDX-License-Identifier: GPL-2.0-or-later
"""Timers: a queue of deadlines in machine time, run in an order that depends on nothing else.

Timers with the same deadline run in the order in which they were added.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

NEVER = 1 << 63
"""Later than every deadline."""


class Timer:
    """A deadline that was added to a `TimerQueue`; `active` until it has run or is cancelled."""

    __slots__ = ("callback", "deadline", "seq")

    def __init__(self, deadline: int, seq: int, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self.seq = seq
        self.callback: Callable[[], None] | None = callback

    @property
    def active(self) -> bool:
        return self.callback is not None


class TimerQueue:
    """A heap of timers, ordered by (deadline, order of addition).

    >>> queue, ran = TimerQueue(), []
    >>> _ = queue.add(20, lambda: ran.append("late"))
    >>> _ = queue.add(10, lambda: ran.append("early"))
    >>> queue.run_due(15), ran, queue.next_deadline()
    (1, ['early'], 20)
    """

    __slots__ = ("_heap", "_live", "_seq", "due")

    def __init__(self) -> None:
        self.due = NEVER
        """The earliest deadline, or NEVER."""
        self._heap: list[tuple[int, int, Timer]] = []
        self._seq = 0
        self._live = 0

    def __len__(self) -> int:
        """Number of active timers."""
        return self._live

    def add(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """Call `callback` when the machine's time reaches deadline_ns."""
        self._seq += 1
        timer = Timer(deadline_ns, self._seq, callback)
        # Tuples: they compare in C, and never reach the timers.
        heapq.heappush(self._heap, (deadline_ns, self._seq, timer))
        self._live += 1
        if deadline_ns < self.due:
            self.due = deadline_ns
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Forget the timer. Nothing happens if it's None, has run, or was cancelled before."""
        if timer is None or timer.callback is None:
            return
        timer.callback = None
        self._live -= 1
        # Guests may set and cancel timers in a loop: don't let dead entries pile up.
        if len(self._heap) > 64 and len(self._heap) > 4 * self._live:
            self._heap = [one for one in self._heap if one[2].callback is not None]
            heapq.heapify(self._heap)
        if timer.deadline == self.due:
            self._look()

    def _look(self) -> None:
        """Find `due` anew."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heapq.heappop(heap)
        self.due = heap[0][0] if heap else NEVER

    def next_deadline(self) -> int | None:
        """The earliest deadline, or None if there's none."""
        return None if self.due == NEVER else self.due

    def first(self) -> Timer | None:
        """The timer that is due at `due`, or None if there's none."""
        return self._heap[0][2] if self._heap and self.due != NEVER else None

    def run_due(self, now: int) -> int:
        """Run all timers with deadline <= now, including those added meanwhile; returns how many.

        A callback that adds a timer that's already due is run too, but at most 10,000 in one
        call: a guest cannot hold the machine here.
        """
        ran = 0
        while ran < 10_000:
            if self.due > now or self.due == NEVER:
                break
            self.run_first()
            ran += 1
        return ran

    def run_first(self) -> None:
        """Run the timer that `first` gives, which must be there."""
        timer = heapq.heappop(self._heap)[2]
        callback, timer.callback = timer.callback, None
        self._live -= 1
        self._look()
        assert callback is not None
        callback()

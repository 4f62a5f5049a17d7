# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is to blame for conflicts, and what it costs.

A domain that keeps changing what others' transactions depend on could keep them from ever
finishing.  So the recent commits are remembered while transactions are open; when one fails,
its requests are tried on the store before and after each of those commits: whoever made the
commit that made the difference loses a point.  A domain without points isn't listened to until
it gets one back; points are given out one at a time, first to those that wait for one (the
scheme of Xen's oxenstored).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from xenograft.store.workspace import State

CREDIT_MAX = 5
CREDIT_MIN = -1
CREDIT_INTERVAL_NS = 50_000_000
"""A point is given back in this time, to one domain."""

HISTORY_MAX = 64
"""Commits that are remembered at most."""

TRIAL_MAX = 4096
"""Requests tried at most, to find who is to blame for one conflict."""


class Commit(NamedTuple):
    """A change of the store by a domain: number `sequence`."""

    sequence: int
    domid: int
    before: State
    after: State


class History:
    """The latest commits, as far back as the oldest open transaction goes."""

    def __init__(self) -> None:
        self._commits: deque[Commit] = deque(maxlen=HISTORY_MAX)

    def __len__(self) -> int:
        return len(self._commits)

    def push(self, commit: Commit) -> None:
        self._commits.append(commit)

    def trim(self, oldest: int | None) -> None:
        """Forget what is older than any transaction: `oldest` is the first one's sequence."""
        if oldest is None:
            self._commits.clear()
        while self._commits and oldest is not None and self._commits[0].sequence <= oldest:
            self._commits.popleft()

    def blame(
        self, since: int, victim: int, cost: int, possible: Callable[[State], bool]
    ) -> Iterator[int]:
        """The domids whose commits after `since` made the victim's transaction impossible.

        `possible(state)` tries its requests, `cost` of them, on a state.
        """
        budget = TRIAL_MAX
        blamed = {victim}
        for commit in self._commits:
            if commit.sequence <= since or commit.domid in blamed:
                continue
            budget -= 2 * cost
            if budget < 0:
                return
            if possible(commit.before) and not possible(commit.after):
                blamed.add(commit.domid)
                yield commit.domid


class Timers(Protocol):
    """How to be called at a time (`hypervisor.timers.TimerQueue` has this)."""

    def add(self, deadline_ns: int, callback: Callable[[], None]) -> object: ...


class ConflictCredit:
    """Points of all domains that have lost some.

    Without `timers` there's no time in which to get points back, and nobody loses any.
    `resume(domid)` is called when a paused domain may be listened to again.
    """

    def __init__(
        self,
        resume: Callable[[int], None],
        now: Callable[[], int] | None = None,
        timers: Timers | None = None,
    ) -> None:
        self._resume = resume
        self._now = now
        self._timers = timers
        self._credit: dict[int, int] = {}  # in the order in which they wait for a point
        self._ticking = False

    def paused(self, domid: int) -> bool:
        """Whether the domain is out of points."""
        return self._credit.get(domid, CREDIT_MAX) <= 0

    def punish(self, domid: int) -> None:
        """Take a point from a domain."""
        if self._timers is None:
            return
        left = self._credit.get(domid, CREDIT_MAX) - 1
        self._credit[domid] = max(left, CREDIT_MIN)
        self._start()

    def forget(self, domid: int) -> None:
        """The domain has gone."""
        self._credit.pop(domid, None)

    def save(self) -> tuple[tuple[int, int], ...]:
        """(domid, points), in the order in which they wait."""
        return tuple(self._credit.items())

    def restore(self, record: tuple[tuple[int, int], ...]) -> None:
        self._credit = dict(record)
        self._start()

    def _start(self) -> None:
        if self._credit and not self._ticking and self._timers and self._now:
            self._ticking = True
            self._timers.add(self._now() + CREDIT_INTERVAL_NS, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        waiting = [domid for domid, left in self._credit.items() if left <= 0]
        for domid in waiting[:1] or list(self._credit)[:1]:
            # To the end of the line, for its next point.
            left = self._credit.pop(domid) + 1
            if left < CREDIT_MAX:
                self._credit[domid] = left
            if left == 1:
                self._resume(domid)
        self._start()

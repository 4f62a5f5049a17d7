# SPDX-License-Identifier: GPL-2.0-or-later
"""A set of integers kept as runs: a domain owns millions of frames in a handful of extents."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RunSet:
    """Integers as ascending, disjoint, non-adjacent half-open runs.

    >>> frames = RunSet([(4, 2)])
    >>> frames.add(6)
    >>> frames.discard(5)
    >>> frames.runs(), len(frames), 6 in frames
    ([(4, 1), (6, 1)], 2, True)
    """

    __slots__ = ("_ends", "_size", "_starts")

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """`runs`: (start, length) pairs."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._size = 0
        for start, length in runs:
            self.add(start, length)

    def copy(self) -> RunSet:
        """The same integers, in a set of its own."""
        made = RunSet()
        made._starts, made._ends, made._size = self._starts[:], self._ends[:], self._size
        return made

    def __len__(self) -> int:
        return self._size

    def __contains__(self, value: int) -> bool:
        at = bisect_right(self._starts, value) - 1
        return at >= 0 and value < self._ends[at]

    def __iter__(self) -> Iterator[int]:
        """All members, ascending."""
        for start, end in zip(self._starts, self._ends, strict=True):
            yield from range(start, end)

    def runs(self) -> list[tuple[int, int]]:
        """(start, length) of each run, ascending."""
        return [(start, end - start) for start, end in zip(self._starts, self._ends, strict=True)]

    def first_run(self) -> tuple[int, int] | None:
        """The lowest run as (start, length), or None."""
        return (self._starts[0], self._ends[0] - self._starts[0]) if self._starts else None

    def run_of(self, value: int) -> tuple[int, int] | None:
        """The run that holds `value` as (start, length), or None."""
        at = bisect_right(self._starts, value) - 1
        if at < 0 or value >= self._ends[at]:
            return None
        return self._starts[at], self._ends[at] - self._starts[at]

    def add(self, start: int, count: int = 1) -> None:
        """Add start … start+count-1; those that are members already stay so."""
        if count <= 0:
            return
        end = start + count
        if not self._ends or start >= self._ends[-1]:
            # Most sets are made in ascending order.
            if self._ends and start == self._ends[-1]:
                self._ends[-1] = end
            else:
                self._starts.append(start)
                self._ends.append(end)
            self._size += count
            return
        # All runs that touch or overlap [start, end) melt into one.
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            self._size -= sum(self._ends[low:high]) - sum(self._starts[low:high])
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        self._size += end - start

    def discard(self, start: int, count: int = 1) -> None:
        """Remove start … start+count-1, as far as they're members."""
        if count <= 0:
            return
        end = start + count
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        if low >= high:
            return
        first, last = self._starts[low], self._ends[high - 1]
        self._size -= sum(self._ends[low:high]) - sum(self._starts[low:high])
        left = [(first, start)] if first < start else []
        right = [(end, last)] if end < last else []
        kept = left + right
        self._starts[low:high] = [run[0] for run in kept]
        self._ends[low:high] = [run[1] for run in kept]
        self._size += sum(run[1] - run[0] for run in kept)

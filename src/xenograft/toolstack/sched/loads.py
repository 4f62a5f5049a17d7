# SPDX-License-Identifier: GPL-2.0-or-later
"""Synthetic workloads of simulated vCPUs: what they compute, and when they wait."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

import msgspec

NEVER = 1 << 62


class Job(msgspec.Struct, frozen=True):
    """One job of a periodic task (times in ns)."""

    release: int
    deadline: int
    end: int

    @property
    def missed(self) -> bool:
        return self.end > self.deadline


class Load(ABC):
    """A workload: phases of computing, with waits between them."""

    @abstractmethod
    def start(self) -> int:
        """When it first wakes (ns)."""

    @abstractmethod
    def begin(self, now: int) -> int:
        """It wakes, or goes on at once: how long it computes now (ns, at least 1)."""

    @abstractmethod
    def end(self, now: int) -> int:
        """It has computed: when it goes on (ns; not after now: at once)."""


class Busy(Load):
    """Computes for ever."""

    def __init__(self, start_ns: int = 0) -> None:
        self._start = start_ns

    def start(self) -> int:
        return self._start

    def begin(self, now: int) -> int:
        return NEVER

    def end(self, now: int) -> int:
        return now


class Blocking(Load):
    """Computes and waits in turn, like something that serves input.

    With a seed, lengths are drawn from exponential distributions with the given means.
    """

    def __init__(
        self, compute_ns: int, wait_ns: int, start_ns: int = 0, seed: int | None = None
    ) -> None:
        if compute_ns < 1 or wait_ns < 1:
            raise ValueError("a blocking load computes and waits for at least 1 ns")
        self._compute, self._wait, self._start = compute_ns, wait_ns, start_ns
        self._random = None if seed is None else random.Random(seed)
        self.latencies: list[int] = []
        """How long each wake-up took until it had computed, less the computing itself."""
        self._woken = 0
        self._length = 0

    def _draw(self, mean: int) -> int:
        if self._random is None:
            return mean
        return max(round(self._random.expovariate(1 / mean)), 1)

    def start(self) -> int:
        return self._start

    def begin(self, now: int) -> int:
        self._woken, self._length = now, self._draw(self._compute)
        return self._length

    def end(self, now: int) -> int:
        self.latencies.append(now - self._woken - self._length)
        return now + self._draw(self._wait)


class Periodic(Load):
    """A job of `wcet_ns` every `period_ns`, to be done before its deadline.

    A job that is late goes on, and the next follows it at once.
    """

    def __init__(
        self,
        period_ns: int,
        wcet_ns: int,
        offset_ns: int = 0,
        deadline_ns: int | None = None,
        keep: bool = True,
    ) -> None:
        """`deadline_ns` counts from the release (default: the period). `keep`: all jobs."""
        if period_ns < 1 or wcet_ns < 1:
            raise ValueError("a periodic load has a period and computes for at least 1 ns")
        self.period, self.wcet, self.offset = period_ns, wcet_ns, offset_ns
        self.relative = period_ns if deadline_ns is None else deadline_ns
        self.jobs: list[Job] = []
        """Jobs that are done, if they're kept."""
        self.missed: list[Job] = []
        """Those that were late."""
        self.done = 0
        self._release = offset_ns
        self._keep = keep

    def start(self) -> int:
        return self.offset

    def begin(self, now: int) -> int:
        return self.wcet

    def end(self, now: int) -> int:
        job = Job(self._release, self._release + self.relative, now)
        self.done += 1
        if self._keep:
            self.jobs.append(job)
        if job.missed:
            self.missed.append(job)
        self._release += self.period
        return self._release

    def overdue(self, now: int) -> Job | None:
        """The job under way, if its deadline has passed."""
        deadline = self._release + self.relative
        return Job(self._release, deadline, NEVER) if deadline < now else None

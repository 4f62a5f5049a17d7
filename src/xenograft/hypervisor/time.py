# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's clock, injected: real time, or virtual time that is guest progress.

All times inside the hypervisor are integers: nanoseconds since the machine started (Xen's
NOW(), the "system time" of vcpu_time_info).  Nothing else in the hypervisor may ask the host
what time it is.

On the *virtual* clock, one instruction that a guest runs is one nanosecond, and idleness is a
jump to the next deadline.  The machine has one time line: while a vCPU runs, its engine counts
on from the machine's time, so that all vCPUs see one monotonic time, and a run depends on its
inputs alone.
"""

from __future__ import annotations

import time as host_time
from typing import Protocol

DEFAULT_EPOCH_NS = 1_670_457_600_000_000_000
"""The wall-clock time at which a virtual machine starts unless told: 2022-12-08, Xen 4.17."""


class Clock(Protocol):
    """What time it is."""

    virtual: bool
    """Whether time is guest progress (then it only moves by `advance_to`)."""
    epoch_ns: int
    """Wall-clock time (ns since 1970, UTC) of the machine's start."""

    def now(self) -> int:
        """Nanoseconds since the machine started."""
        ...

    def advance_to(self, time_ns: int) -> None:
        """Virtual: time is now `time_ns` (never backwards). Real: nothing."""
        ...

    def set_local(self, time_ns: int) -> None:
        """Virtual: time is now that of a CPU which may be behind others. Real: nothing."""
        ...

    def host_deadline(self, time_ns: int) -> int:
        """The host's CLOCK_MONOTONIC ns at which `now()` will be time_ns; 0 on a virtual clock."""
        ...


class RealClock:
    """Time as the host's CLOCK_MONOTONIC tells it."""

    virtual = False

    def __init__(self, start_ns: int = 0, epoch_ns: int | None = None) -> None:
        """`start_ns`: what `now()` begins with (a restored machine goes on where it was)."""
        self._base = host_time.monotonic_ns() - start_ns
        self.epoch_ns = host_time.time_ns() - start_ns if epoch_ns is None else epoch_ns

    def now(self) -> int:
        return host_time.monotonic_ns() - self._base

    def advance_to(self, time_ns: int) -> None:
        pass

    def set_local(self, time_ns: int) -> None:
        pass

    def host_deadline(self, time_ns: int) -> int:
        return self._base + time_ns


class VirtualClock:
    """Time that moves only when it's told to.

    >>> clock = VirtualClock()
    >>> clock.advance_to(5)
    >>> clock.now()
    5
    """

    virtual = True

    def __init__(self, start_ns: int = 0, epoch_ns: int = DEFAULT_EPOCH_NS) -> None:
        self._now = start_ns
        self.epoch_ns = epoch_ns

    def now(self) -> int:
        return self._now

    def advance_to(self, time_ns: int) -> None:
        if time_ns > self._now:
            self._now = time_ns

    def set_local(self, time_ns: int) -> None:
        self._now = time_ns

    def host_deadline(self, time_ns: int) -> int:
        return 0

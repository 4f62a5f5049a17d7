# SPDX-License-Identifier: GPL-2.0-or-later
"""ARINC 653: a table says which vCPU runs when; the table repeats in each major frame.

Facts: Xen's xen/common/sched/arinc653.c and xen_sysctl_arinc653_schedule (public/sysctl.h).
Xen's code follows one table with one position in it, so that it's right on one CPU alone
(its wiki says sched=arinc653 maxcpus=1), but lets pools have more; here a second is refused.  A
vCPU that isn't in the table never runs; what isn't used of a window is idle time.

Windows follow from the time when the table was set, and not from when decisions were made, so
that they don't drift.
"""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from xenograft.abi.domctl import XEN_SCHEDULER_ARINC653
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sysctl import ARINC653_MAX_DOMAINS_PER_SCHEDULE
from xenograft.hypervisor.sched.constants import (
    ARINC653_DEFAULT_TIMESLICE,
    FOREVER,
)
from xenograft.hypervisor.sched.cpumask import first
from xenograft.hypervisor.sched.scheduler import (
    Decision,
    Host,
    Scheduler,
)
from xenograft.hypervisor.sched.unit import SchedDomain, SchedUnit


class MinorFrame(msgspec.Struct, frozen=True):
    """A window: which vCPU, and how long."""

    uuid: bytes
    vcpu: int
    runtime_ns: int


class Schedule(msgspec.Struct, frozen=True):
    """A table: its length, and its windows one after the other."""

    major_frame_ns: int
    frames: tuple[MinorFrame, ...]

    def check(self) -> None:
        """Raises XenError(EINVAL) where Xen does."""
        if self.major_frame_ns <= 0 or not self.frames:
            raise XenError(Errno.EINVAL)
        if len(self.frames) > ARINC653_MAX_DOMAINS_PER_SCHEDULE:
            raise XenError(Errno.EINVAL)
        if any(frame.runtime_ns <= 0 for frame in self.frames):
            raise XenError(Errno.EINVAL)
        if sum(frame.runtime_ns for frame in self.frames) > self.major_frame_ns:
            raise XenError(Errno.EINVAL)


class Arinc653(Scheduler):
    """The ARINC 653 scheduler."""

    name = "ARINC 653 Scheduler"
    opt_name = "arinc653"
    sched_id = XEN_SCHEDULER_ARINC653
    adjustable = False
    one_cpu = True

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.table = Schedule(0, ())
        self._origin = host.now()
        self._ends: list[int] = []
        """Ends of the windows, from the beginning of the major frame."""
        self._who: list[SchedUnit | None] = []
        self._units: dict[tuple[bytes, int], SchedUnit] = {}
        self._awake = 0

    # -- the table -------------------------------------------------------------------------------
    def set_schedule(self, schedule: Schedule, now: int) -> None:
        """A new table, in force at once. Raises XenError(EINVAL)."""
        schedule.check()
        self._origin = now
        self._install(schedule)
        self._decide()

    def _install(self, schedule: Schedule) -> None:
        self.table = schedule
        self._ends = []
        end = 0
        for frame in schedule.frames:
            end += frame.runtime_ns
            self._ends.append(end)
        self._resolve()

    def _resolve(self) -> None:
        find = self._units.get
        self._who = [find((frame.uuid, frame.vcpu)) for frame in self.table.frames]

    def _decide(self) -> None:
        """All CPUs are to look at the table."""
        for cpu in range(self.cpus.bit_length()):
            if self.cpus >> cpu & 1:
                self.host.tickle(cpu)

    def window_at(self, time: int) -> tuple[SchedUnit | None, int]:
        """Whose window it is at a time (None: nobody's), and when that ends (ns)."""
        table = self.table
        if not table.frames:
            return None, time + ARINC653_DEFAULT_TIMESLICE
        into = (time - self._origin) % table.major_frame_ns
        start = time - into
        index = bisect_right(self._ends, into)
        if index == len(self._ends):
            return None, start + table.major_frame_ns
        return self._who[index], start + self._ends[index]

    # -- units -----------------------------------------------------------------------------------
    def insert(self, unit: SchedUnit, now: int) -> None:
        unit.cpu = self.pick(unit, now)
        unit.record = False
        key = (unit.domain.uuid, unit.unit_id)
        self._units[key] = unit
        if unit.domain.domid == 0 and len(self.table.frames) < ARINC653_MAX_DOMAINS_PER_SCHEDULE:
            # Domain 0 runs before anybody has set a table.
            frames = (*self.table.frames, MinorFrame(*key, ARINC653_DEFAULT_TIMESLICE))
            self._install(Schedule(self.table.major_frame_ns + ARINC653_DEFAULT_TIMESLICE, frames))
        self._resolve()

    def remove(self, unit: SchedUnit, now: int) -> None:
        key = (unit.domain.uuid, unit.unit_id)
        if self._units.get(key) is unit:
            del self._units[key]
        self._resolve()

    def pick(self, unit: SchedUnit, now: int) -> int:
        allowed = self.cpus & unit.hard or self.cpus
        return unit.cpu if allowed >> unit.cpu & 1 else first(allowed)

    def wake(self, unit: SchedUnit, now: int) -> None:
        if not unit.record:
            unit.record = True
            self._awake += 1
        self.host.tickle(unit.cpu)

    def sleep(self, unit: SchedUnit, now: int) -> None:
        if unit.record:
            unit.record = False
            self._awake -= 1
        if unit.running:
            self.host.tickle(unit.cpu)

    def schedule(self, cpu: int, now: int, prev: SchedUnit | None) -> Decision:
        if not self._awake or not self.cpus >> cpu & 1:
            return None, FOREVER
        unit, end = self.window_at(now)
        if unit is not None and unit.runnable and unit.cpu == cpu:
            return unit, end - now
        return None, end - now

    def switched_out(self, unit: SchedUnit, now: int) -> None:
        # A unit that was placed elsewhere while it ran is looked at there.
        if unit.runnable and not self.cpus >> unit.cpu & 1 and self.cpus:
            unit.cpu = first(self.cpus)
            self.host.tickle(unit.cpu)

    def add_domain(self, domain: SchedDomain) -> None:
        domain.record = None

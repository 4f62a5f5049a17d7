# SPDX-License-Identifier: GPL-2.0-or-later
"""The core of scheduling: which CPU runs which unit, and every change of that.

Facts: Xen's xen/common/sched/core.c (schedule(), vcpu_wake(), vcpu_sleep_nosync(),
vcpu_set_affinity(), sched_move_domain(), cpu_disable_scheduler()).

Whoever drives the core (the machine loop, the simulator) calls `wake`, `sleep` and `yield_` as
guests go on, and `schedule` for each CPU that is in `resched` or whose `slice_end` has come.  No
time passes inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.sched.constants import (
    FOREVER,
)
from xenograft.hypervisor.sched.cpumask import CpuMask, first
from xenograft.hypervisor.sched.scheduler import Scheduler
from xenograft.hypervisor.sched.unit import ALL_CPUS, SchedDomain, SchedUnit

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.topology import Topology
    from xenograft.hypervisor.timers import TimerQueue

DecisionHook = Callable[[int, int, "SchedUnit | None", "SchedUnit | None"], None]
"""Called with (time, cpu, whom it has run, whom it runs now) after each decision."""


class SchedCore:
    """The physical CPUs of a machine and what they run."""

    def __init__(
        self,
        topology: Topology,
        timers: TimerQueue,
        now: Callable[[], int],
        credit2_runqueue: str = "socket",
    ) -> None:
        """`now`: the machine's time (ns); `credit2_runqueue`: one of CREDIT2_RUNQUEUES."""
        self.topology = topology
        self.credit2_runqueue = credit2_runqueue
        self.timers = timers
        self.now = now
        cpus = topology.cpus
        start = now()
        self.current: list[SchedUnit | None] = [None] * cpus
        self.scheduler: list[Scheduler | None] = [None] * cpus
        """Whose CPU it is; None for those in no pool."""
        self.since = [start] * cpus
        """When each CPU's current unit was switched in (or idling began)."""
        self.slice_end = [FOREVER] * cpus
        self.idle_ns = [0] * cpus
        self.all_cpus: CpuMask = topology.all_cpus
        self.idle: CpuMask = self.all_cpus
        """CPUs that run nothing."""
        self.resched: CpuMask = 0
        """CPUs that are to decide at once."""
        self.shortened: CpuMask = 0
        """CPUs whose slices end earlier than was said; who drives the core clears it."""
        self.decisions = 0
        self.hook: DecisionHook | None = None
        self.switched: DecisionHook | None = None
        """Called likewise, while it's done, only where a CPU runs another unit than before."""

    @property
    def busy(self) -> CpuMask:
        """CPUs that run a unit."""
        return self.all_cpus ^ self.idle

    # -- decisions -------------------------------------------------------------------------------
    def tickle(self, cpu: int) -> None:
        self.resched |= 1 << cpu

    def decide_by(self, cpu: int, time: int) -> None:
        if time < self.slice_end[cpu]:
            self.slice_end[cpu] = time
            self.shortened |= 1 << cpu

    def schedule(self, cpu: int, now: int) -> SchedUnit | None:
        """Decide whom `cpu` runs from now on; returns it."""
        self.resched &= ~(1 << cpu)
        prev = self.current[cpu]
        scheduler = self.scheduler[cpu]
        self.decisions += 1
        if scheduler is None:
            following, length = None, FOREVER
        else:
            following, length = scheduler.schedule(cpu, now, prev)
        self.slice_end[cpu] = now + length
        if following is not prev:
            self._switch(cpu, now, prev, following, scheduler)
        if self.hook is not None:
            self.hook(now, cpu, prev, following)
        return following

    def _switch(
        self,
        cpu: int,
        now: int,
        prev: SchedUnit | None,
        following: SchedUnit | None,
        scheduler: Scheduler | None,
    ) -> None:
        spent = now - self.since[cpu]
        self.since[cpu] = now
        self.current[cpu] = following
        if following is not None:
            following.running = True
            following.cpu = cpu
            following.switches += 1
            if prev is None:
                self.idle &= ~(1 << cpu)
        else:
            self.idle |= 1 << cpu
        if prev is not None:
            prev.running = False
        if self.switched is not None:
            self.switched(now, cpu, prev, following)
        if prev is None:
            self.idle_ns[cpu] += spent
            return
        prev.run_ns += spent
        prev.domain.run_ns += spent
        if scheduler is not None:
            scheduler.switched_out(prev, now)
        if prev.migrating:
            self._place(prev, now)

    def run_ns(self, unit: SchedUnit, now: int) -> int:
        """CPU time of a unit until now."""
        return unit.run_ns + (now - self.since[unit.cpu] if unit.running else 0)

    def total_idle_ns(self, cpu: int, now: int) -> int:
        """How long a CPU has idled until now."""
        running = self.current[cpu] is not None
        return self.idle_ns[cpu] + (0 if running else now - self.since[cpu])

    # -- what units do ---------------------------------------------------------------------------
    def wake(self, unit: SchedUnit, now: int) -> None:
        """The unit could run from now on."""
        unit.wanted = True
        if not unit.runnable and not unit.migrating:
            unit.runnable = True
            unit.domain.scheduler.wake(unit, now)

    def sleep(self, unit: SchedUnit, now: int) -> None:
        """The unit can't run any more."""
        unit.wanted = False
        if unit.runnable:
            unit.runnable = False
            unit.domain.scheduler.sleep(unit, now)

    def yield_(self, unit: SchedUnit, now: int) -> None:
        """The unit, which runs, lets others go first."""
        if unit.running:
            unit.domain.scheduler.yield_(unit, now)
            self.tickle(unit.cpu)

    # -- affinity --------------------------------------------------------------------------------
    def set_affinity(
        self,
        unit: SchedUnit,
        now: int,
        hard: CpuMask | None = None,
        soft: CpuMask | None = None,
    ) -> None:
        """Change where a unit may run (hard) or would rather run (soft); it moves if it must.

        Raises XenError: EINVAL for a hard affinity that leaves no CPU of its pool, EBUSY while
        SCHEDOP_pin_override is in force.
        """
        if hard is not None and not hard & unit.domain.scheduler.cpus:
            raise XenError(Errno.EINVAL)
        if unit.override is not None:
            raise XenError(Errno.EBUSY)
        self._set_affinity(unit, now, hard, soft)

    def _set_affinity(
        self, unit: SchedUnit, now: int, hard: CpuMask | None, soft: CpuMask | None
    ) -> None:
        self._take_off(unit, now)
        if hard is not None:
            unit.hard = hard
        if soft is not None:
            unit.soft = soft
        unit.domain.scheduler.affinity_changed(unit, now)
        if not unit.running:
            self._place(unit, now)

    def pin_override(self, unit: SchedUnit, cpu: int, now: int) -> None:
        """SCHEDOP_pin_override: tie a unit to one CPU until cpu < 0.

        Raises XenError: EBUSY if it's tied already, EINVAL for a CPU that its pool doesn't have,
        or to undo what isn't there.
        """
        if cpu < 0:
            if unit.override is None:
                raise XenError(Errno.EINVAL)
            hard, unit.override = unit.override, None
            self._set_affinity(unit, now, hard, None)
            return
        if cpu >= self.topology.cpus:
            raise XenError(Errno.EINVAL)
        if unit.override is not None:
            raise XenError(Errno.EBUSY)
        if not unit.domain.scheduler.cpus >> cpu & 1:
            raise XenError(Errno.EINVAL)
        before = unit.hard
        self._set_affinity(unit, now, 1 << cpu, None)
        unit.override = before

    def _take_off(self, unit: SchedUnit, now: int) -> None:
        """Begin a migration: off the queues at once, off the CPU at its next decision."""
        unit.migrating = True
        if unit.runnable:
            unit.runnable = False
            unit.domain.scheduler.sleep(unit, now)

    def _place(self, unit: SchedUnit, now: int) -> None:
        """End a migration: choose a CPU, and go on."""
        unit.migrating = False
        scheduler = unit.domain.scheduler
        scheduler.migrate(unit, scheduler.pick(unit, now), now)
        if unit.wanted:
            unit.runnable = True
            scheduler.wake(unit, now)

    def _evict(self, cpu: int, now: int) -> None:
        """Have a CPU run nothing, now, whatever its scheduler thinks."""
        unit = self.current[cpu]
        if unit is None:
            return
        unit.migrating = False
        if unit.runnable:
            unit.runnable = False
            unit.domain.scheduler.sleep(unit, now)
        scheduler = self.scheduler[cpu]
        assert scheduler is not None
        scheduler.account(unit, now)
        self.slice_end[cpu] = FOREVER
        self._switch(cpu, now, unit, None, scheduler)
        if self.hook is not None:
            self.hook(now, cpu, unit, None)
        self.tickle(cpu)

    # -- domains and their units -----------------------------------------------------------------
    def add_domain(self, domain: SchedDomain, scheduler: Scheduler) -> None:
        """A domain without units joins a scheduler."""
        domain.scheduler = scheduler
        scheduler.add_domain(domain)

    def add_unit(self, unit: SchedUnit, now: int) -> None:
        """A new unit, not runnable, joins its domain, on a CPU next to its siblings'."""
        domain = unit.domain
        cpus = domain.scheduler.cpus & unit.hard or domain.scheduler.cpus
        unit.cpu = first(cpus)
        domain.units.append(unit)
        domain.scheduler.insert(unit, now)

    def remove_domain(self, domain: SchedDomain, now: int) -> None:
        """A domain goes, and all its units."""
        for unit in domain.units:
            self._remove_unit(unit, now)
        domain.scheduler.remove_domain(domain)
        domain.units.clear()

    def _remove_unit(self, unit: SchedUnit, now: int) -> None:
        self.sleep(unit, now)
        unit.migrating = False
        if unit.running:
            self._evict(unit.cpu, now)
        unit.domain.scheduler.remove(unit, now)

    def move_domain(self, domain: SchedDomain, scheduler: Scheduler, now: int) -> None:
        """A domain goes on under another scheduler; its affinities are forgotten, as in Xen."""
        wanted = [unit.wanted for unit in domain.units]
        for unit in domain.units:
            self._remove_unit(unit, now)
        domain.scheduler.remove_domain(domain)
        domain.record = None
        self.add_domain(domain, scheduler)
        for unit, was_wanted in zip(domain.units, wanted, strict=True):
            unit.record = None
            unit.hard = unit.soft = ALL_CPUS
            unit.override = None
            unit.cpu = first(scheduler.cpus)
            scheduler.insert(unit, now)
            if was_wanted:
                self.wake(unit, now)

    # -- CPUs ------------------------------------------------------------------------------------
    def give_cpu(self, cpu: int, scheduler: Scheduler) -> None:
        """A free CPU joins a scheduler's."""
        self.scheduler[cpu] = scheduler
        scheduler.add_cpu(cpu)
        self.tickle(cpu)

    def take_cpu(self, cpu: int, domains: list[SchedDomain], now: int) -> None:
        """A CPU leaves its scheduler, whose domains are given.

        Units that could run nowhere else lose their hard affinity, as in Xen.
        """
        scheduler = self.scheduler[cpu]
        assert scheduler is not None
        self._evict(cpu, now)
        rest = scheduler.cpus & ~(1 << cpu)
        moving = [unit for domain in domains for unit in domain.units if unit.cpu == cpu]
        for domain in domains:
            for unit in domain.units:
                if not unit.hard & rest and unit not in moving:
                    moving.append(unit)
        for unit in moving:
            self._take_off(unit, now)
        scheduler.remove_cpu(cpu)
        self.scheduler[cpu] = None
        for unit in moving:
            if rest and not unit.hard & rest:
                unit.hard, unit.override = ALL_CPUS, None
                scheduler.affinity_changed(unit, now)
            if unit.running:
                continue  # it's placed when its CPU decides
            if rest:
                self._place(unit, now)
            else:
                unit.migrating = False
        self.tickle(cpu)

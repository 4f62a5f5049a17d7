# SPDX-License-Identifier: GPL-2.0-or-later
"""RTDS: each vCPU gets its budget in each period, earliest deadline first, on all CPUs of the pool.

Facts: Xen's xen/common/sched/rt.c (4.17) and docs of xl sched-rtds.

- Deadlines are the ends of periods, which are aligned to time 0.  At a deadline the budget is
  full again (a *deferrable* server: what isn't used stays until then, and not longer).
- Without budget a vCPU waits for the next period; with *extratime* it goes on a priority level
  lower, with another budget, below all that are on higher levels.
"""

from __future__ import annotations

import heapq

from xenograft.abi.domctl import XEN_SCHEDULER_RTDS
from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.sched.constants import (
    FOREVER,
    MICROSECOND,
    RTDS_DEFAULT_BUDGET,
    RTDS_DEFAULT_PERIOD,
    RTDS_MAX_PERIOD,
    RTDS_MIN_BUDGET,
    RTDS_MIN_PERIOD,
)
from xenograft.hypervisor.sched.cpumask import cpus_in, cycle
from xenograft.hypervisor.sched.runqueue import Queued, RunQueue
from xenograft.hypervisor.sched.scheduler import (
    Decision,
    Host,
    Params,
    Scheduler,
)
from xenograft.hypervisor.sched.unit import SchedDomain, SchedUnit
from xenograft.hypervisor.timers import Timer

_LEVEL = 1 << 62
"""A priority level in a key: (level, deadline) as one number."""
_SCANNED_CPUS = 16
"""Up to how many CPUs are looked at one by one for the one that runs the least urgent unit."""


class _Unit(Queued):
    __slots__ = (
        "budget",
        "deadline",
        "depleted",
        "extratime",
        "fresh",
        "key",
        "left",
        "level",
        "period",
        "replenish",
        "start",
    )

    def __init__(self, unit: SchedUnit) -> None:
        super().__init__(unit)
        self.period = RTDS_DEFAULT_PERIOD
        self.budget = RTDS_DEFAULT_BUDGET
        self.extratime = True
        self.level = 0
        self.deadline = 0
        self.left = 0
        """What is left of the budget."""
        self.key = 0
        """Its priority: less is more urgent."""
        self.depleted = False
        """Waits for its deadline to get budget again."""
        self.replenish = 0
        """Marks its valid entry in the replenishment queue; 0: it has none."""
        self.start = -1
        """Since when it uses its budget; -1 while it doesn't run."""
        self.fresh = True
        """It has never woken: its first period may still be another."""


class Rtds(Scheduler):
    """The real-time deferrable server scheduler."""

    name = "SMP RTDS Scheduler"
    opt_name = "rtds"
    sched_id = XEN_SCHEDULER_RTDS

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.queue = RunQueue()
        self._events: list[tuple[int, int, _Unit]] = []
        self._next = 1
        self._timer: Timer | None = None
        self._running: list[tuple[int, int, int]] = []
        """(-key, cpu, stamp) of running units, the least urgent first; some are out of date."""
        self._stamp: dict[int, int] = {}

    # -- CPUs and units --------------------------------------------------------------------------
    def add_cpu(self, cpu: int) -> None:
        super().add_cpu(cpu)
        self.queue.set_cpus(self.cpus)

    def remove_cpu(self, cpu: int) -> None:
        super().remove_cpu(cpu)
        self.queue.set_cpus(self.cpus)

    def close(self) -> None:
        self.host.timers.cancel(self._timer)
        self._timer = None

    def insert(self, unit: SchedUnit, now: int) -> None:
        svc = unit.record = _Unit(unit)
        unit.cpu = self.pick(unit, now)
        self._renew(svc, now)

    def remove(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        if svc.ticket:
            self.queue.remove(svc)
        self._forget(svc)

    def pick(self, unit: SchedUnit, now: int) -> int:
        cpus = self.cpus & unit.hard or self.cpus
        cpus = cpus & unit.soft or cpus
        return unit.cpu if cpus >> unit.cpu & 1 else cycle(cpus, unit.cpu)

    # -- budget ----------------------------------------------------------------------------------
    @staticmethod
    def _renew(svc: _Unit, now: int) -> None:
        """A new period: the deadline is the first end of a period after now."""
        if svc.deadline <= now:
            svc.deadline += ((now - svc.deadline) // svc.period + 1) * svc.period
        svc.left = svc.budget
        svc.level = 0
        svc.depleted = False
        svc.key = svc.deadline
        if svc.start >= 0:
            svc.start = now

    @staticmethod
    def _burn(svc: _Unit, now: int) -> None:
        delta = now - svc.start
        if delta <= 0:
            return
        svc.start = now
        svc.left -= delta
        if svc.left <= 0:
            if svc.extratime:
                svc.level += 1
                svc.left = svc.budget
                svc.key = svc.level * _LEVEL + svc.deadline
            else:
                svc.left = 0
                svc.depleted = True

    def account(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        self._burn(svc, now)
        svc.start = -1

    # -- replenishment ---------------------------------------------------------------------------
    def _expect(self, svc: _Unit) -> None:
        """See that the unit gets new budget at its deadline."""
        svc.replenish = self._next
        self._next += 1
        heapq.heappush(self._events, (svc.deadline, svc.replenish, svc))
        timer = self._timer
        if timer is None or svc.deadline < timer.deadline:
            self._arm()

    def _forget(self, svc: _Unit) -> None:
        if svc.replenish:
            svc.replenish = 0
            self._arm()

    def _arm(self) -> None:
        events = self._events
        while events and events[0][1] != events[0][2].replenish:
            heapq.heappop(events)
        timer = self._timer
        if timer is not None:
            if events and timer.deadline == events[0][0]:
                return
            self.host.timers.cancel(timer)
        self._timer = self.host.timers.add(events[0][0], self._replenish) if events else None

    def _replenish(self) -> None:
        """Deadlines have come: new budgets, and those that may run now compete for CPUs."""
        self._timer = None
        now = self.host.now()
        events = self._events
        renewed: list[tuple[_Unit, bool]] = []
        while events and events[0][0] <= now:
            _, mark, svc = heapq.heappop(events)
            if mark != svc.replenish:
                continue
            was_depleted = svc.depleted
            self._renew(svc, now)
            if svc.ticket:
                self.queue.remove(svc)
                self.queue.push(svc, svc.key)
            elif was_depleted and svc.unit.runnable and not svc.unit.running:
                self.queue.push(svc, svc.key)
            renewed.append((svc, was_depleted))
        for svc, _ in renewed:
            svc.replenish = self._next
            self._next += 1
            heapq.heappush(events, (svc.deadline, svc.replenish, svc))
        for svc, was_depleted in renewed:
            unit = svc.unit
            if unit.running:
                self._note_running(unit.cpu, svc)
                if was_depleted:
                    self.host.tickle(unit.cpu)
                    continue
                head = self.queue.best(unit.cpu)
                if head is not None and head[0] < svc.key:
                    self._tickle(head[2])  # type: ignore[arg-type]
            elif svc.ticket:
                self._tickle(svc)
        self._arm()

    # -- what units do ---------------------------------------------------------------------------
    def wake(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        if unit.running or svc.ticket:
            return
        svc.fresh = False
        if now >= svc.deadline:
            self._renew(svc, now)
        if not svc.replenish:
            self._expect(svc)
        if not svc.depleted:
            self.queue.push(svc, svc.key)
            self._tickle(svc)

    def sleep(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        if unit.running:
            self.host.tickle(unit.cpu)
            return
        if svc.ticket:
            self.queue.remove(svc)
        self._forget(svc)

    def _note_running(self, cpu: int, svc: _Unit) -> None:
        if self.cpus.bit_count() > _SCANNED_CPUS:
            stamp = self._stamp[cpu] = self._stamp.get(cpu, 0) + 1
            heapq.heappush(self._running, (-svc.key, cpu, stamp))

    def _least_urgent(self, allowed: int) -> tuple[int, int]:
        """(cpu, key) of the CPU in `allowed` whose unit is the least urgent; (-1, 0) if none."""
        host, everywhere = self.host, self.cpus & ~self.host.idle
        if allowed == everywhere and everywhere.bit_count() > _SCANNED_CPUS:
            heap = self._running
            while heap:
                key, cpu, stamp = heap[0]
                running = host.current[cpu]
                if stamp == self._stamp.get(cpu) and running is not None:
                    return cpu, max(-key, running.record.key)
                heapq.heappop(heap)
        found, worst = -1, -1
        for cpu in cpus_in(allowed):
            running = host.current[cpu]
            if running is not None and running.record.key > worst:
                found, worst = cpu, running.record.key
        return found, worst

    def _tickle(self, svc: _Unit) -> None:
        """Find a CPU for a unit that waits: an idle one, or that with the least urgent unit."""
        host, unit = self.host, svc.unit
        allowed = self.cpus & unit.hard & ~host.resched
        if not allowed:
            return  # all that it may use decide anyway
        idle = allowed & host.idle
        if idle:
            idle = idle & unit.soft or idle
            host.tickle(unit.cpu if idle >> unit.cpu & 1 else cycle(idle, unit.cpu))
            return
        cpu, key = self._least_urgent(allowed)
        if cpu >= 0 and key > svc.key:
            host.tickle(cpu)

    # -- decisions -------------------------------------------------------------------------------
    def schedule(self, cpu: int, now: int, prev: SchedUnit | None) -> Decision:
        cur: _Unit | None = None
        if prev is not None:
            svc: _Unit = prev.record
            self._burn(svc, now)
            if prev.runnable and not svc.depleted:
                cur = svc
        if not self.cpus >> cpu & 1:
            return None, FOREVER
        chosen = cur
        entry = self.queue.best(cpu) if self.queue.waiting else None
        if entry is not None and (cur is None or entry[0] < cur.key):
            chosen = entry[2]  # type: ignore[assignment]
            assert chosen is not None
            self.queue.remove(chosen)
        if prev is not None and chosen is not prev.record:
            prev.record.start = -1
        if chosen is None:
            return None, FOREVER
        if chosen.start < 0:
            chosen.start = now
            self._note_running(cpu, chosen)
        return chosen.unit, chosen.left

    def switched_out(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        if not unit.runnable:
            self._forget(svc)
        elif not svc.depleted and not svc.ticket:
            self.queue.push(svc, svc.key)
            self._tickle(svc)

    def waits(self, cpu: int) -> bool:
        return self.queue.waiting > 0

    # -- parameters ------------------------------------------------------------------------------
    def get_params(self, domain: SchedDomain) -> Params:
        """The defaults: parameters are those of vCPUs."""
        return Params(
            period_us=RTDS_DEFAULT_PERIOD // MICROSECOND,
            budget_us=RTDS_DEFAULT_BUDGET // MICROSECOND,
        )

    def set_params(self, domain: SchedDomain, params: Params, now: int) -> None:
        """Of all vCPUs; what they have of the present period stays, once they have run."""
        period, budget = _checked(params)
        for unit in domain.units:
            self._reserve(unit.record, period, budget, now)

    def _reserve(self, svc: _Unit, period: int, budget: int, now: int) -> None:
        svc.period, svc.budget = period, budget
        if svc.fresh:
            svc.deadline = 0
            self._renew(svc, now)

    def get_unit_params(self, unit: SchedUnit) -> Params:
        svc: _Unit = unit.record
        return Params(
            period_us=svc.period // MICROSECOND,
            budget_us=svc.budget // MICROSECOND,
            extratime=svc.extratime,
        )

    def set_unit_params(self, unit: SchedUnit, params: Params, now: int) -> None:
        period, budget = _checked(params)
        svc: _Unit = unit.record
        self._reserve(svc, period, budget, now)
        if params.extratime is not None:
            svc.extratime = params.extratime
        if svc.extratime and svc.depleted:
            # It need not wait for its deadline any more.
            svc.depleted = False
            svc.level += 1
            svc.left = svc.budget
            svc.key = svc.level * _LEVEL + svc.deadline
            if unit.runnable and not unit.running and not svc.ticket:
                self.queue.push(svc, svc.key)
                self._tickle(svc)


def _checked(params: Params) -> tuple[int, int]:
    """Period and budget in ns. Raises XenError(EINVAL) outside Xen's limits."""
    period = (params.period_us or 0) * MICROSECOND
    budget = (params.budget_us or 0) * MICROSECOND
    if not RTDS_MIN_PERIOD <= period <= RTDS_MAX_PERIOD:
        raise XenError(Errno.EINVAL)
    if not RTDS_MIN_BUDGET <= budget <= period:
        raise XenError(Errno.EINVAL)
    return period, budget

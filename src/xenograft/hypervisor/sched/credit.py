# SPDX-License-Identifier: GPL-2.0-or-later
"""credit: fair shares by weight, hard caps, a boost for those that wake up.

Facts: Xen's xen/common/sched/credit.c (4.17).

- Each CPU has a queue in order of priority: BOOST, UNDER, OVER; equals take turns, a time slice
  each.  A CPU that has nothing UNDER looks for it in other queues.
- Ticks charge who runs.  Every three ticks the pool's credit is shared out by weight among the
  domains that have been active; who has credit left is UNDER, the others are OVER.  Units of
  capped domains that owe too much are parked.
- A unit that wakes UNDER is in BOOST until its next tick.
"""

from __future__ import annotations

from collections import OrderedDict

from xenograft.abi.domctl import XEN_SCHEDULER_CREDIT
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sysctl import (
    XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US,
    XEN_SYSCTL_CSCHED_TSLICE_MAX,
    XEN_SYSCTL_CSCHED_TSLICE_MIN,
)
from xenograft.hypervisor.sched.constants import (
    CSCHED_CREDITS_PER_MSEC,
    CSCHED_DEFAULT_TSLICE_MS,
    CSCHED_DEFAULT_WEIGHT,
    CSCHED_TICKS_PER_TSLICE,
    FOREVER,
    MICROSECOND,
    MILLISECOND,
    SCHED_DEFAULT_RATELIMIT_US,
)
from xenograft.hypervisor.sched.cpumask import cycle
from xenograft.hypervisor.sched.scheduler import (
    Decision,
    GlobalParams,
    Host,
    Params,
    Scheduler,
    check_ratelimit,
)
from xenograft.hypervisor.sched.unit import SchedDomain, SchedUnit
from xenograft.hypervisor.timers import Timer

BOOST, UNDER, OVER = 0, 1, 2
"""Priorities, the highest first."""


class _Domain:
    __slots__ = ("active", "cap", "units", "weight")

    def __init__(self) -> None:
        self.weight = CSCHED_DEFAULT_WEIGHT
        self.cap = 0
        self.units: dict[_Unit, None] = {}
        self.active: dict[_Unit, None] = {}
        """Units that credit is given to."""


class _Unit:
    __slots__ = (
        "active",
        "credit",
        "domain",
        "last_sched",
        "parked",
        "priority",
        "queue",
        "start",
        "switched_in",
        "unit",
        "yielding",
    )

    def __init__(self, unit: SchedUnit, domain: _Domain) -> None:
        self.unit = unit
        self.domain = domain
        self.credit = 0
        self.priority = UNDER
        self.active = False
        self.parked = False
        self.yielding = False
        self.start = -1
        """Since when it owes credit; -1 while it doesn't run."""
        self.switched_in = 0
        self.last_sched = 0
        self.queue: Queue | None = None
        """Where it waits, on the CPU that its unit is placed on."""


Queue = OrderedDict[_Unit, None]
"""Units of one priority that wait, in turn."""


class Credit(Scheduler):
    """The credit scheduler."""

    name = "SMP Credit Scheduler"
    opt_name = "credit"
    sched_id = XEN_SCHEDULER_CREDIT

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.ratelimit = SCHED_DEFAULT_RATELIMIT_US * MICROSECOND
        self.migration_delay = 0
        self._queues: dict[int, tuple[Queue, Queue, Queue]] = {}
        """Of each CPU, by priority."""
        self._with_under = 0
        """CPUs in whose queues somebody waits in BOOST or UNDER."""
        self._with_any = 0
        self._active: dict[_Domain, None] = {}
        self._active_weight = 0
        """The sum of weights of active domains, each counted for each of its active units."""
        self._balance = 0
        self._ticker: Timer | None = None
        self._ticks = 0
        self._set_tslice(CSCHED_DEFAULT_TSLICE_MS)

    def _set_tslice(self, milliseconds: int) -> None:
        self.tslice_ms = milliseconds
        self.tslice = milliseconds * MILLISECOND
        self.tick = self.tslice // CSCHED_TICKS_PER_TSLICE
        self.credits_per_tslice = CSCHED_CREDITS_PER_MSEC * milliseconds

    # -- CPUs, domains, units --------------------------------------------------------------------
    def add_cpu(self, cpu: int) -> None:
        super().add_cpu(cpu)
        self._queues[cpu] = (OrderedDict(), OrderedDict(), OrderedDict())

    def remove_cpu(self, cpu: int) -> None:
        super().remove_cpu(cpu)
        # Those that wait here and are placed elsewhere have left already.
        self._with_under &= ~(1 << cpu)
        self._with_any &= ~(1 << cpu)
        for queue in self._queues.pop(cpu):
            for svc in queue:
                svc.queue = None

    def close(self) -> None:
        self.host.timers.cancel(self._ticker)
        self._ticker = None

    def add_domain(self, domain: SchedDomain) -> None:
        domain.record = _Domain()

    def insert(self, unit: SchedUnit, now: int) -> None:
        sdom: _Domain = unit.domain.record
        svc = unit.record = _Unit(unit, sdom)
        sdom.units[svc] = None
        unit.cpu = self.pick(unit, now)

    def remove(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        self._dequeue(svc)
        self._deactivate(svc)
        del svc.domain.units[svc]

    def pick(self, unit: SchedUnit, now: int) -> int:
        """Where it is if that's idle or nothing is; else an idle CPU that it likes."""
        allowed = self.cpus & unit.hard or self.cpus
        allowed = allowed & unit.soft or allowed
        idle = allowed & self.host.idle & ~self.host.resched & ~self._with_any
        cpus = idle or allowed
        return unit.cpu if cpus >> unit.cpu & 1 else cycle(cpus, unit.cpu)

    # -- queues ----------------------------------------------------------------------------------
    def _enqueue(self, svc: _Unit) -> None:
        """Behind those of the same priority, on the queue of its CPU."""
        cpu, priority = svc.unit.cpu, svc.priority
        if not self.cpus >> cpu & 1:
            cpu = svc.unit.cpu = cycle(self.cpus & svc.unit.hard or self.cpus, cpu)
        queue = svc.queue = self._queues[cpu][priority]
        queue[svc] = None
        self._with_any |= 1 << cpu
        if priority != OVER:
            self._with_under |= 1 << cpu

    def _dequeue(self, svc: _Unit) -> None:
        """From the queue where it waits, if it does."""
        queue = svc.queue
        if queue is not None:
            svc.queue = None
            del queue[svc]
            if not queue:
                self._emptied(svc.unit.cpu)

    def _emptied(self, cpu: int) -> None:
        """One of a CPU's queues has become empty."""
        boost, under, over = self._queues[cpu]
        if not boost and not under:
            self._with_under &= ~(1 << cpu)
            if not over:
                self._with_any &= ~(1 << cpu)

    def _set_priority(self, svc: _Unit, priority: int) -> None:
        if svc.priority != priority:
            queued = svc.queue is not None
            self._dequeue(svc)
            svc.priority = priority
            if queued:
                self._enqueue(svc)

    def _steal(self, cpu: int, worst: int, runner: int) -> _Unit | None:
        """The first that waits for `cpu`, UNDER or any (`worst`), and may run on `runner`."""
        for queue in self._queues[cpu][: worst + 1]:
            for svc in queue:
                if not svc.unit.hard >> runner & 1:
                    continue
                if self.migration_delay and self.host.now() - svc.last_sched < self.migration_delay:
                    continue  # its caches are still warm there
                return svc
        return None

    # -- accounting ------------------------------------------------------------------------------
    def _burn(self, svc: _Unit, now: int) -> None:
        delta = now - svc.start
        if svc.start < 0 or delta <= 0:
            return
        credits_ = (delta * CSCHED_CREDITS_PER_MSEC + MILLISECOND // 2) // MILLISECOND
        svc.credit -= credits_
        # What was rounded is charged (or given) the next time.
        svc.start += credits_ * MILLISECOND // CSCHED_CREDITS_PER_MSEC

    def account(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        self._burn(svc, now)
        svc.start = -1

    def _activate(self, svc: _Unit) -> None:
        if not svc.active:
            svc.active = True
            svc.domain.active[svc] = None
            self._active[svc.domain] = None
            self._active_weight += svc.domain.weight

    def _deactivate(self, svc: _Unit) -> None:
        if svc.active:
            svc.active = False
            del svc.domain.active[svc]
            self._active_weight -= svc.domain.weight
            if not svc.domain.active:
                del self._active[svc.domain]

    def _arm(self) -> None:
        """Tick as long as anybody could run."""
        if self._ticker is None:
            self._ticker = self.host.timers.add(self.host.now() + self.tick, self._tick)

    def _tick(self) -> None:
        """Charge who runs; every third time, share out credit."""
        self._ticker = None
        now = self.host.now()
        busy = bool(self._with_any)
        cpus = self.cpus & ~self.host.idle
        while cpus:
            low = cpus & -cpus
            cpus ^= low
            unit = self.host.current[low.bit_length() - 1]
            assert unit is not None
            svc: _Unit = unit.record
            busy = True
            if svc.priority == BOOST:
                svc.priority = UNDER
            self._burn(svc, now)
            self._activate(svc)
        self._ticks += 1
        if self._ticks % CSCHED_TICKS_PER_TSLICE == 0:
            self._share_out(now)
        if busy or self._active:
            self._arm()

    def _share_out(self, now: int) -> None:
        """csched_acct(): the credit of a time slice of all CPUs, by weight."""
        total_weight = self._active_weight
        if not total_weight:
            self._balance = 0
            return
        slice_ = self.credits_per_tslice
        total = slice_ * self.cpus.bit_count()
        debt = -self._balance if self._balance < 0 else 0
        total += debt
        weight_left = total_weight
        balance = 0
        extra = False
        for sdom in list(self._active):
            active = len(sdom.active)
            weight = sdom.weight * active
            weight_left -= weight
            peak = active * slice_ - (-debt * weight // total_weight)
            cap = 0
            if sdom.cap:
                cap = (sdom.cap * slice_ + 99) // 100
                peak = min(peak, cap)
                cap = -(-cap // active)
            fair = -(-total * weight // total_weight)
            if fair < peak:
                extra = True
            else:
                if weight_left:
                    # What it can't use is for the others.
                    total += (fair - peak) * total_weight // weight_left
                fair = peak
            share = -(-fair // active)
            for svc in tuple(sdom.active):
                credit = svc.credit + share
                if (
                    svc.priority == UNDER
                    and svc.start < 0
                    and 0 <= credit <= slice_
                    and not svc.parked
                ):
                    # For most, nothing else changes: no call, since they may be thousands.
                    svc.credit = credit
                else:
                    credit = self._give(svc, share, cap, now)
                balance += credit
        self._balance = 0 if extra else balance

    def _give(self, svc: _Unit, share: int, cap: int, now: int) -> int:
        """Give one unit its share; returns what it has then."""
        if svc.unit.running:
            self._burn(svc, now)
        credit = svc.credit + share
        if credit < 0:
            self._set_priority(svc, OVER)
            if cap and credit < -cap and not svc.parked:
                self._park(svc)
            credit = max(credit, -self.credits_per_tslice)
        else:
            self._set_priority(svc, UNDER)
            if svc.parked:
                self._unpark(svc)
            if credit > self.credits_per_tslice:
                # It has more than it could use: it isn't active any more.
                self._deactivate(svc)
                credit //= 2
        svc.credit = credit
        return credit

    def _park(self, svc: _Unit) -> None:
        svc.parked = True
        self._dequeue(svc)
        if svc.unit.running:
            self.host.tickle(svc.unit.cpu)

    def _unpark(self, svc: _Unit) -> None:
        svc.parked = False
        if svc.unit.runnable and not svc.unit.running and svc.queue is None:
            # No boost for what was only paused for having used too much.
            self._enqueue(svc)
            self._tickle(svc)

    # -- what units do ---------------------------------------------------------------------------
    def wake(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        self._arm()
        if unit.running or svc.queue is not None or svc.parked:
            return
        if svc.priority == UNDER:
            svc.priority = BOOST
        self._enqueue(svc)
        self._tickle(svc)

    def sleep(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        if unit.running:
            self.host.tickle(unit.cpu)
        else:
            self._dequeue(svc)

    def yield_(self, unit: SchedUnit, now: int) -> None:
        unit.record.yielding = True

    def _tickle(self, svc: _Unit) -> None:
        """Its own CPU if it may pass whom that runs; else an idle CPU comes and takes it."""
        host, unit = self.host, svc.unit
        running = host.current[unit.cpu]
        if running is None or svc.priority < running.record.priority:
            host.tickle(unit.cpu)
            if running is None:
                return
        idle = self.cpus & unit.hard & host.idle & ~host.resched
        if idle and running is not None:
            idle = idle & unit.soft or idle
            host.tickle(cycle(idle, unit.cpu))

    # -- decisions -------------------------------------------------------------------------------
    def schedule(self, cpu: int, now: int, prev: SchedUnit | None) -> Decision:
        cur: _Unit | None = None
        yielding = False
        if prev is not None:
            svc: _Unit = prev.record
            self._burn(svc, now)
            yielding, svc.yielding = svc.yielding, False
            if prev.runnable and not svc.parked:
                cur = svc
                if svc.priority == BOOST and svc.credit < 0:
                    svc.priority = OVER
        if cpu not in self._queues:
            return None, FOREVER
        if cur is not None and not yielding and self.ratelimit:
            left = cur.switched_in + self.ratelimit - now
            if left > 0:
                return prev, left
        chosen = self._choose(cpu, cur, yielding, now)
        if prev is not None and chosen is not prev.record:
            prev.record.start = -1
            prev.record.last_sched = now
        if chosen is None:
            return None, FOREVER
        if chosen is not cur:
            self._dequeue(chosen)
            chosen.unit.cpu = cpu
        if chosen.start < 0:
            chosen.start = chosen.switched_in = now
        return chosen.unit, self.tslice

    def _choose(self, cpu: int, cur: _Unit | None, yielding: bool, now: int) -> _Unit | None:
        """The first here; if that's OVER or nobody, look for somebody UNDER elsewhere."""
        head: _Unit | None = None
        for queue in self._queues[cpu]:
            if queue:
                head = next(iter(queue))
                break
        if cur is not None and (head is None or (cur.priority < head.priority and not yielding)):
            best: _Unit | None = cur
        else:
            best = head
        if best is not None and best.priority != OVER:
            return best
        # Somebody who waits elsewhere is better than one who is OVER, and any than nobody.
        worst = UNDER if best is not None else OVER
        others = (self._with_under if best is not None else self._with_any) & ~(1 << cpu)
        while others:
            other = cycle(others, cpu)
            others &= ~(1 << other)
            found = self._steal(other, worst, cpu)
            if found is not None:
                return found
        return best

    def switched_out(self, unit: SchedUnit, now: int) -> None:
        svc: _Unit = unit.record
        if unit.runnable and svc.queue is None and not svc.parked:
            self._enqueue(svc)
            if idle := self.host.idle & self.cpus & unit.hard & ~self.host.resched:
                self.host.tickle(cycle(idle, unit.cpu))

    def waits(self, cpu: int) -> bool:
        return bool(self._with_any)

    # -- parameters ------------------------------------------------------------------------------
    def get_params(self, domain: SchedDomain) -> Params:
        sdom: _Domain = domain.record
        return Params(weight=sdom.weight, cap=sdom.cap)

    def set_params(self, domain: SchedDomain, params: Params, now: int) -> None:
        """Weight 0 and no cap leave what is there, as in Xen."""
        sdom: _Domain = domain.record
        if params.weight:
            self._active_weight += (params.weight - sdom.weight) * len(sdom.active)
            sdom.weight = params.weight
        if params.cap is not None:
            sdom.cap = params.cap
            if not sdom.cap:
                for svc in sdom.units:
                    if svc.parked:
                        self._unpark(svc)

    def get_global(self) -> GlobalParams:
        return GlobalParams(
            ratelimit_us=self.ratelimit // MICROSECOND,
            tslice_ms=self.tslice_ms,
            migration_delay_us=self.migration_delay // MICROSECOND,
        )

    def set_global(self, params: GlobalParams) -> None:
        now = self.get_global()
        tslice = now.tslice_ms if params.tslice_ms is None else params.tslice_ms
        ratelimit = now.ratelimit_us if params.ratelimit_us is None else params.ratelimit_us
        delay = params.migration_delay_us or 0
        assert tslice is not None
        assert ratelimit is not None
        if not XEN_SYSCTL_CSCHED_TSLICE_MIN <= tslice <= XEN_SYSCTL_CSCHED_TSLICE_MAX:
            raise XenError(Errno.EINVAL)
        check_ratelimit(ratelimit)
        if ratelimit > tslice * 1000 or delay > XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US:
            raise XenError(Errno.EINVAL)
        self._set_tslice(tslice)
        self.ratelimit = ratelimit * MICROSECOND
        self.migration_delay = delay * MICROSECOND

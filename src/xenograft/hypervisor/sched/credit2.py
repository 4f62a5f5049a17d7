# SPDX-License-Identifier: GPL-2.0-or-later
"""credit2: fair shares by weight, hard caps, run queues that CPUs share. Xen's default.

Facts: Xen's xen/common/sched/credit2.c (4.17) and its introductory comments.

- A unit burns *credit* while it runs: the fewer the weight, the faster.  The one with the most
  credit runs.  When the first in a queue has none left, everybody gets CREDIT_INIT more.
- CPUs share a *run queue* (by default those of a socket, at most MAX_CPUS_RUNQUEUE of them);
  load is balanced between queues at each reset.
- A domain with a *cap* has a budget of cap per cent of a CPU in each BDGT_REPL_PERIOD; its units
  draw on it, and are parked when it's empty.

A reset must not cost time for each unit of the queue.  So credits are kept relative to the sum
of what all resets have given: a reset adds to that sum, and a unit's credit is cut to
CREDIT_INIT + CARRYOVER_MAX when it's next looked at.  Cutting keeps the order of credits, so the
queue stays sorted.
"""

from __future__ import annotations

from itertools import islice

from xenograft.abi.domctl import XEN_SCHEDULER_CREDIT2
from xenograft.hypervisor.sched.constants import (
    CSCHED2_BDGT_REPL_PERIOD,
    CSCHED2_CREDIT_INIT,
    CSCHED2_CREDIT_MAX,
    CSCHED2_MAX_TIMER,
    CSCHED2_MIGRATE_RESIST,
    CSCHED2_MIN_TIMER,
    FOREVER,
    MAX_CPUS_RUNQUEUE,
    MICROSECOND,
    MILLISECOND,
    SCHED_DEFAULT_RATELIMIT_US,
)
from xenograft.hypervisor.sched.cpumask import cpus_in, cycle, first
from xenograft.hypervisor.sched.credit2_load import FULL_LOAD
from xenograft.hypervisor.sched.credit2_records import DomainRecord, SharedQueue, UnitRecord
from xenograft.hypervisor.sched.scheduler import (
    Decision,
    GlobalParams,
    Host,
    Params,
    Scheduler,
    check_ratelimit,
)
from xenograft.hypervisor.sched.unit import SchedDomain, SchedUnit

YIELD_BIAS = MILLISECOND
"""How far one who yields goes behind the first of those that wait.

Xen only lets it be passed once; with an engine that runs one vCPU at a time, vCPUs that spin for
a lock would then pass the turn among themselves for long before its holder gets it.
"""
BALANCE_CANDIDATES = 16
"""How many units of a queue load balancing looks at, so that it takes bounded time."""


class Credit2(Scheduler):
    """The credit2 scheduler."""

    name = "SMP Credit Scheduler rev2"
    opt_name = "credit2"
    sched_id = XEN_SCHEDULER_CREDIT2

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.ratelimit = SCHED_DEFAULT_RATELIMIT_US * MICROSECOND
        self.runqueues: list[SharedQueue] = []
        self._of_cpu: dict[int, SharedQueue] = {}

    # -- CPUs ------------------------------------------------------------------------------------
    def _group(self, cpu: int) -> tuple[int, ...]:
        place = self.host.topology.places[cpu]
        groups: dict[str, tuple[int, ...]] = {
            "cpu": (cpu,),
            "core": (place.socket, place.core),
            "socket": (place.socket,),
            "node": (place.node,),
            "all": (),
        }
        return groups[self.host.credit2_runqueue]

    def add_cpu(self, cpu: int) -> None:
        super().add_cpu(cpu)
        group = self._group(cpu)
        for rqd in self.runqueues:
            if self._group(first(rqd.cpus)) == group and rqd.cpus.bit_count() < MAX_CPUS_RUNQUEUE:
                break
        else:
            rqd = SharedQueue(self.host.now())
            self.runqueues.append(rqd)
        rqd.set_cpus(rqd.cpus | 1 << cpu)
        self._of_cpu[cpu] = rqd

    def remove_cpu(self, cpu: int) -> None:
        super().remove_cpu(cpu)
        rqd = self._of_cpu.pop(cpu)
        rqd.set_cpus(rqd.cpus & ~(1 << cpu))
        if rqd.cpus:
            return
        self.runqueues.remove(rqd)
        now = self.host.now()
        for svc in list(rqd.units):
            if self.runqueues:
                self._move(svc, self.runqueues[0], now)

    def close(self) -> None:
        for svc in [svc for rqd in self.runqueues for svc in rqd.units]:
            self.host.timers.cancel(svc.domain.timer)

    # -- domains and units -----------------------------------------------------------------------
    def add_domain(self, domain: SchedDomain) -> None:
        domain.record = DomainRecord()

    def remove_domain(self, domain: SchedDomain) -> None:
        self.host.timers.cancel(domain.record.timer)

    def insert(self, unit: SchedUnit, now: int) -> None:
        sdom: DomainRecord = unit.domain.record
        cpu = self._pick(unit, None, now)
        rqd = self._of_cpu[cpu]
        svc = unit.record = UnitRecord(unit, sdom, rqd, now)
        unit.cpu = cpu
        rqd.add(svc, now)
        sdom.units.append(svc)

    def remove(self, unit: SchedUnit, now: int) -> None:
        svc: UnitRecord = unit.record
        self._unpark(svc)
        self._give_back(svc)
        if svc.ticket:
            svc.rqd.queue.remove(svc)
        self._count(svc, False, now)
        svc.rqd.drop(svc, now)
        svc.domain.units.remove(svc)

    def pick(self, unit: SchedUnit, now: int) -> int:
        return self._pick(unit, unit.record, now)

    def _pick(self, unit: SchedUnit, svc: UnitRecord | None, now: int) -> int:
        """The CPU for a unit: of the queue that will have the least load, soft affinity first."""
        allowed = self.cpus & unit.hard or self.cpus
        liked = allowed & unit.soft or allowed
        best: SharedQueue | None = None
        least = 0
        for rqd in self.runqueues:
            if rqd.cpus & liked:
                rqd.load.change(0, now)
                load = rqd.load.planned
                if svc is not None and svc.rqd is rqd:
                    # Its own load is in there already, and would stay.
                    load = max(load - svc.load.average, 0)
                if best is None or load < least:
                    best, least = rqd, load
        assert best is not None
        cpus = best.cpus & liked
        idle = cpus & self.host.idle & ~self.host.resched
        if idle:
            cpus = idle
        return unit.cpu if cpus >> unit.cpu & 1 else cycle(cpus, unit.cpu)

    def migrate(self, unit: SchedUnit, cpu: int, now: int) -> None:
        svc: UnitRecord = unit.record
        rqd = self._of_cpu[cpu]
        unit.cpu = cpu
        if rqd is not svc.rqd:
            self._move(svc, rqd, now)

    def _move(self, svc: UnitRecord, rqd: SharedQueue, now: int) -> None:
        """Into another queue, with its credit; on the queue there if it waits here."""
        old = svc.rqd
        queued = bool(svc.ticket)
        if queued:
            old.queue.remove(svc)
        counted = svc.counted
        self._count(svc, False, now)
        credit = min(svc.credit + old.given, CSCHED2_CREDIT_MAX)
        old.drop(svc, now)
        rqd.add(svc, now)
        svc.credit = credit - rqd.given
        if counted:
            self._count(svc, True, now)
        unit = svc.unit
        if not rqd.cpus >> unit.cpu & 1:
            cpus = rqd.cpus & unit.hard or rqd.cpus
            unit.cpu = cycle(cpus, unit.cpu)
        if queued:
            rqd.queue.push(svc, -svc.credit)
            self._tickle(svc, now)

    # -- load ------------------------------------------------------------------------------------
    @staticmethod
    def _count(svc: UnitRecord, on: bool, now: int) -> None:
        if svc.counted is not on:
            svc.counted = on
            by = 1 if on else -1
            svc.load.change(by, now)
            svc.rqd.load.change(by, now)

    def _balance(self, here: SharedQueue, now: int) -> None:
        """Exchange units with the queue whose load differs most, if that evens loads out."""
        load = here.load
        load.change(0, now)
        other, difference = None, 0
        for rqd in self.runqueues:
            if rqd is not here:
                rqd.load.change(0, now)
                gap = abs(load.planned - rqd.load.planned)
                if other is None or gap > difference:
                    other, difference = rqd, gap
        if other is None:
            return
        # Less than one unit of imbalance (per the tolerance of an overloaded system) is let be.
        if difference < FULL_LOAD >> 3:
            return
        source, target = (here, other) if load.planned > other.load.planned else (other, here)
        best, least = None, difference
        for svc in islice(source.units, BALANCE_CANDIDATES):
            if svc.start >= 0 or svc.unit.migrating or not svc.unit.hard & target.cpus:
                continue
            svc.load.change(0, now)
            left = abs(difference - 2 * svc.load.average)
            if left < least:
                best, least = svc, left
        if best is not None:
            self._move(best, target, now)
            # The next time somebody else is looked at first.
            target.units[best] = target.units.pop(best)

    # -- credit and budget -----------------------------------------------------------------------
    def _burn(self, svc: UnitRecord, now: int) -> None:
        delta = now - svc.start
        if delta <= 0:
            return
        svc.start = now
        given = svc.rqd.given
        credit = svc.credit
        if credit + given > CSCHED2_CREDIT_MAX:
            credit = CSCHED2_CREDIT_MAX - given
        if svc.weight == svc.rqd.max_weight:
            svc.credit = credit - delta
        else:
            cost, svc.residual = divmod(delta * svc.rqd.max_weight + svc.residual, svc.weight)
            svc.credit = credit - cost
        if svc.domain.cap:
            svc.budget -= delta

    def account(self, unit: SchedUnit, now: int) -> None:
        svc: UnitRecord = unit.record
        self._burn(svc, now)
        svc.start = -1

    def _reset(self, rqd: SharedQueue, head: int, now: int) -> None:
        """Give everybody credit, so that the first, who has `head`, has some again."""
        for cpu in cpus_in(rqd.cpus & ~self.host.idle):
            running = self.host.current[cpu]
            if running is not None and running.record.start >= 0:
                self._burn(running.record, now)
        times = 1
        if head < -CSCHED2_CREDIT_INIT:
            times += -head // CSCHED2_CREDIT_INIT
        rqd.given += times * CSCHED2_CREDIT_INIT

    def _grab(self, svc: UnitRecord, now: int) -> bool:
        """See that a unit of a capped domain has budget; if not, it's to be parked."""
        if svc.budget > 0:
            return True
        sdom = svc.domain
        if sdom.budget > 0:
            quota = sdom.budget
            if len(sdom.units) > 1:
                quota = min(quota, max(sdom.total // len(sdom.units), CSCHED2_MIN_TIMER))
            svc.budget += quota
            sdom.budget -= quota
        return svc.budget > 0

    def _give_back(self, svc: UnitRecord) -> None:
        """What a unit has left (or owes) of its domain's budget is the domain's again."""
        if svc.domain.cap and svc.budget:
            svc.domain.budget += svc.budget
            svc.budget = 0

    def _park(self, svc: UnitRecord) -> None:
        self._give_back(svc)
        svc.parked = True
        svc.domain.parked.append(svc)

    @staticmethod
    def _unpark(svc: UnitRecord) -> None:
        if svc.parked:
            svc.parked = False
            svc.domain.parked.remove(svc)

    def _replenish(self, sdom: DomainRecord) -> None:
        """A period of a capped domain is over: budget again, and parked units may run."""
        now = self.host.now()
        for svc in sdom.units:
            if svc.start >= 0:
                self._burn(svc, now)
        while sdom.next_repl <= now:
            sdom.next_repl += CSCHED2_BDGT_REPL_PERIOD
            sdom.budget += sdom.total
        sdom.budget = min(sdom.budget, sdom.total)
        sdom.timer = None
        self._arm(sdom)
        parked, sdom.parked = sdom.parked, []
        for svc in parked:
            svc.parked = False
            if svc.unit.runnable and not svc.ticket and not svc.unit.running:
                svc.rqd.queue.push(svc, -svc.credit)
                self._tickle(svc, now)

    def _arm(self, sdom: DomainRecord) -> None:
        """Have the budget replenished, as long as anybody uses it."""
        busy = any(svc.unit.runnable or svc.parked for svc in sdom.units)
        if sdom.timer is None and sdom.cap and busy:
            sdom.timer = self.host.timers.add(sdom.next_repl, lambda: self._replenish(sdom))

    def _revive(self, sdom: DomainRecord, now: int) -> None:
        """A unit of a capped domain wakes: see that periods go on."""
        if sdom.timer is not None:
            return
        if sdom.next_repl <= now:
            missed = (now - sdom.next_repl) // CSCHED2_BDGT_REPL_PERIOD + 1
            sdom.next_repl += missed * CSCHED2_BDGT_REPL_PERIOD
            sdom.budget = min(sdom.budget + missed * sdom.total, sdom.total)
        self._arm(sdom)

    # -- what units do ---------------------------------------------------------------------------
    def wake(self, unit: SchedUnit, now: int) -> None:
        svc: UnitRecord = unit.record
        self._count(svc, True, now)
        if unit.running or svc.ticket:
            return
        if svc.domain.cap:
            self._revive(svc.domain, now)
            if svc.parked:
                return
        rqd = svc.rqd
        if not rqd.cpus >> unit.cpu & 1:
            unit.cpu = cycle(rqd.cpus & unit.hard or rqd.cpus, unit.cpu)
        rqd.queue.push(svc, -svc.credit)
        self._tickle(svc, now)

    def sleep(self, unit: SchedUnit, now: int) -> None:
        svc: UnitRecord = unit.record
        self._count(svc, False, now)
        self._unpark(svc)
        if unit.running:
            self.host.tickle(unit.cpu)
        elif svc.ticket:
            svc.rqd.queue.remove(svc)

    def yield_(self, unit: SchedUnit, now: int) -> None:
        unit.record.yielding = True

    def _tickle(self, svc: UnitRecord, now: int) -> None:
        """Find a CPU for a unit that now waits: an idle one, or that with the least credit."""
        host, unit, rqd = self.host, svc.unit, svc.rqd
        allowed = rqd.cpus & unit.hard & ~host.resched
        liked = allowed & unit.soft
        idle = allowed & host.idle
        if idle:
            idle = idle & liked or idle
            host.tickle(unit.cpu if idle >> unit.cpu & 1 else cycle(idle, unit.cpu))
            return
        # Credits are compared without charging who runs: this is the hottest loop of all.
        current, max_weight, own = host.current, rqd.max_weight, unit.cpu
        best, least = -1, svc.credit
        cpus = rqd.cpu_list if liked == rqd.cpus else cpus_in(liked or allowed)
        for cpu in cpus:
            running = current[cpu]
            if running is None:
                best = cpu
                break
            cur: UnitRecord = running.record
            ran = now - cur.start
            if cur.start < 0:
                continue
            if cur.weight != max_weight:
                ran = ran * max_weight // cur.weight
            left = cur.credit - ran
            if cpu != own:
                left += CSCHED2_MIGRATE_RESIST
            if left < least:
                best, least = cpu, left
        if best < 0:
            return
        running = host.current[best]
        if running is not None and self.ratelimit:
            # Xen passes over CPUs whose unit may not be passed yet, so that the one that waits
            # would wait for the whole slice; here it's looked at as soon as it may be.
            until = running.record.switched_in + self.ratelimit
            if now < until:
                host.decide_by(best, until)
                return
        host.tickle(best)

    # -- decisions -------------------------------------------------------------------------------
    def schedule(self, cpu: int, now: int, prev: SchedUnit | None) -> Decision:
        rqd = self._of_cpu.get(cpu)
        if rqd is None:
            return None, FOREVER
        queue = rqd.queue
        cur: UnitRecord | None = None
        yielding = False
        if prev is not None:
            cur = prev.record
            self._burn(cur, now)
            yielding, cur.yielding = cur.yielding, False
            if prev.runnable:
                if cur.domain.cap and not self._grab(cur, now):
                    self._park(cur)
                    cur = None
                elif self.ratelimit and not yielding:
                    left = cur.switched_in + self.ratelimit - now
                    if left > 0:
                        # It may not be passed yet.
                        if cur.domain.cap and cur.budget < left:
                            left = cur.budget
                        return prev, left
            else:
                cur = None
        entry = queue.best(cpu) if queue.waiting else None
        chosen = cur
        while entry is not None:
            svc: UnitRecord = entry[2]  # type: ignore[assignment]
            if cur is not None and not yielding:
                ahead = svc.credit - cur.credit
                if svc.unit.cpu != cpu:
                    ahead -= CSCHED2_MIGRATE_RESIST
                if ahead <= 0:
                    break
            queue.remove(svc)
            if svc.domain.cap and not self._grab(svc, now):
                self._park(svc)
                entry = queue.best(cpu)
                continue
            chosen = svc
            break
        if prev is not None and chosen is not prev.record:
            gone: UnitRecord = prev.record
            gone.start = -1
            if yielding and gone is cur and chosen is not None:
                gone.yielding = True
        if chosen is None:
            return None, FOREVER
        if chosen.start < 0:
            chosen.start = chosen.switched_in = now
        given = rqd.given
        credit = chosen.credit + given
        if credit <= 0:
            self._reset(rqd, credit, now)
            given = rqd.given
            credit = chosen.credit + given
            if len(self.runqueues) > 1:
                self._balance(rqd, now)
        if credit > CSCHED2_CREDIT_MAX:
            credit = CSCHED2_CREDIT_MAX
        # How long: until its credit has come down to that of the next, who may be the one that it
        # replaces.
        following = -FOREVER
        if queue.waiting and (entry := queue.best(cpu)) is not None:
            following = entry[2].credit + given  # type: ignore[attr-defined]
        if cur is not None and cur is not chosen and cur.credit + given > following:
            following = cur.credit + given
        if following > 0:
            credit -= min(following, CSCHED2_CREDIT_MAX)
        weight = chosen.weight
        length = credit if weight == rqd.max_weight else credit * weight // rqd.max_weight
        least = CSCHED2_MIN_TIMER
        if self.ratelimit:
            left = chosen.switched_in + self.ratelimit - now
            if left > least:
                least = left
        if length < least:
            length = least
        elif length > CSCHED2_MAX_TIMER:
            length = CSCHED2_MAX_TIMER
        if chosen.domain.cap and chosen.budget < length:
            length = chosen.budget
        return chosen.unit, length

    def switched_out(self, unit: SchedUnit, now: int) -> None:
        svc: UnitRecord = unit.record
        if svc.parked:
            return
        if svc.domain.cap:
            self._give_back(svc)
        if unit.runnable and not svc.ticket:
            rqd, key = svc.rqd, -svc.credit
            if svc.yielding:
                svc.yielding = False
                entry = rqd.queue.best(unit.cpu) if rqd.queue.waiting else None
                if entry is not None and entry[0] + YIELD_BIAS > key:
                    key = entry[0] + YIELD_BIAS
            rqd.queue.push(svc, key)
            if rqd.cpus & (rqd.cpus - 1):
                self._tickle(svc, now)

    def waits(self, cpu: int) -> bool:
        rqd = self._of_cpu.get(cpu)
        return rqd is not None and rqd.queue.waiting > 0

    # -- parameters ------------------------------------------------------------------------------
    def get_params(self, domain: SchedDomain) -> Params:
        sdom: DomainRecord = domain.record
        return Params(weight=sdom.weight, cap=sdom.cap)

    def set_params(self, domain: SchedDomain, params: Params, now: int) -> None:
        """Weight 0 and no cap leave what is there, as in Xen."""
        sdom: DomainRecord = domain.record
        for svc in sdom.units:
            if svc.start >= 0:
                self._burn(svc, now)
        if params.weight:
            for svc in sdom.units:
                svc.rqd.forget_weight(svc.weight)
                svc.weight = params.weight
                svc.rqd.weights[svc.weight] = svc.rqd.weights.get(svc.weight, 0) + 1
                svc.rqd.max_weight = max(svc.rqd.weights)
            sdom.weight = params.weight
        if params.cap is not None:
            self._set_cap(sdom, params.cap, now)

    def _set_cap(self, sdom: DomainRecord, cap: int, now: int) -> None:
        had, sdom.cap = sdom.cap, cap
        sdom.total = CSCHED2_BDGT_REPL_PERIOD * cap // 100
        if cap and not had:
            sdom.budget = sdom.total
            sdom.next_repl = now + CSCHED2_BDGT_REPL_PERIOD
            for svc in sdom.units:
                svc.budget = 0
                if svc.unit.running:
                    self.host.tickle(svc.unit.cpu)
            self._arm(sdom)
        elif not cap and had:
            self.host.timers.cancel(sdom.timer)
            sdom.timer = None
            parked, sdom.parked = sdom.parked, []
            for svc in sdom.units:
                svc.budget = 0
            for svc in parked:
                svc.parked = False
                if svc.unit.runnable and not svc.unit.running:
                    svc.rqd.queue.push(svc, -svc.credit)
                    self._tickle(svc, now)

    def get_global(self) -> GlobalParams:
        return GlobalParams(ratelimit_us=self.ratelimit // MICROSECOND)

    def set_global(self, params: GlobalParams) -> None:
        if params.ratelimit_us is not None:
            check_ratelimit(params.ratelimit_us)
            self.ratelimit = params.ratelimit_us * MICROSECOND

# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedulers without guests: the hypervisor's own scheduling code on synthetic workloads.

Time is virtual, decisions take none.  A run depends on its inputs alone::

    sim = Simulator(Topology.of(cores=2))
    web = sim.add_domain("web", [Busy(), Busy()], Params(weight=512))
    sim.run(1_000_000_000)
    sim.cpu_time(web)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xenograft.abi.domctl import XEN_SCHEDULER_CREDIT2
from xenograft.hypervisor.cpupool import CpuPools
from xenograft.hypervisor.sched.constants import FOREVER
from xenograft.hypervisor.sched.core import SchedCore
from xenograft.hypervisor.sched.cpumask import CpuMask
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.hypervisor.sched.unit import SchedDomain, SchedUnit
from xenograft.hypervisor.timers import TimerQueue
from xenograft.toolstack.sched.loads import Load

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.topology import Topology

MAX_VCPUS = 10_000

_WAKE, _CPU = 0, 1
"""What happens at the same time happens in this order, after timers."""


class _Task:
    """A simulated vCPU's place in its load."""

    __slots__ = ("load", "until")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.until = 0
        """The CPU time at which the present phase of computing is over."""


class Simulator:
    """A machine with simulated guests."""

    def __init__(
        self,
        topology: Topology,
        sched_id: int = XEN_SCHEDULER_CREDIT2,
        credit2_runqueue: str = "socket",
    ) -> None:
        self.time = 0
        self.timers = TimerQueue()
        self.core = SchedCore(topology, self.timers, self._now, credit2_runqueue)
        self.pools = CpuPools(self.core, sched_id)
        self.domains: list[SchedDomain] = []
        self.woken: Callable[[int, SchedUnit], None] | None = None
        """Called with the time and each unit that wakes."""
        self._events: list[tuple[int, int, int, int, SchedUnit | None]] = []
        self._seq = self._vcpus = self._domid = 0
        self._stamps = [0] * topology.cpus
        self._ends = [FOREVER] * topology.cpus
        """When each CPU's valid event is due."""

    def _now(self) -> int:
        return self.time

    # -- guests ----------------------------------------------------------------------------------
    def add_domain(
        self,
        name: str,
        loads: Sequence[Load],
        params: Params | None = None,
        *,
        pool: int = 0,
        hard: CpuMask | None = None,
        soft: CpuMask | None = None,
        uuid: bytes | None = None,
    ) -> SchedDomain:
        """A domain with a vCPU for each load. Raises XenError, ValueError for too many."""
        if self._vcpus + len(loads) > MAX_VCPUS:
            total = self._vcpus + len(loads)
            raise ValueError(f"{total} vCPUs; a simulation has at most {MAX_VCPUS}")
        self._vcpus += len(loads)
        self._domid = domid = self._domid + 1
        if uuid is None:
            uuid = domid.to_bytes(16, "big")
        domain = SchedDomain(domid, name=name, uuid=uuid)
        self.pools.add_domain(domain, pool)
        self.domains.append(domain)
        for index, load in enumerate(loads):
            unit = SchedUnit(domain, index, _Task(load))
            self.core.add_unit(unit, self.time)
            if hard is not None or soft is not None:
                self.core.set_affinity(unit, self.time, hard, soft)
            self._wake_at(max(load.start(), self.time), unit)
        if params is not None:
            self.set_params(domain, params)
        return domain

    def set_params(self, domain: SchedDomain, params: Params) -> None:
        """Parameters of a domain; of each of its vCPUs for what only vCPUs have."""
        scheduler = domain.scheduler
        if params.extratime is not None:
            for unit in domain.units:
                scheduler.set_unit_params(unit, params, self.time)
        else:
            scheduler.set_params(domain, params, self.time)

    def remove_domain(self, domain: SchedDomain) -> None:
        """A domain goes; events of its units lead nowhere then."""
        self.domains.remove(domain)
        self._vcpus -= len(domain.units)
        for unit in domain.units:
            unit.owner = None
        self.pools.remove_domain(domain)

    def cpu_time(self, domain: SchedDomain) -> int:
        """CPU time of a domain until now (ns)."""
        return sum(self.core.run_ns(unit, self.time) for unit in domain.units)

    # -- running ---------------------------------------------------------------------------------
    def _wake_at(self, time: int, unit: SchedUnit) -> None:
        self._seq += 1
        heapq.heappush(self._events, (time, _WAKE, self._seq, 0, unit))

    def run(self, until_ns: int) -> None:
        """Go on until a time."""
        core, timers, events = self.core, self.timers, self._events
        while True:
            while core.resched or core.shortened:
                self._settle()
            due = timers.next_deadline()
            if due is not None and due <= until_ns and (not events or due <= events[0][0]):
                self.time = due
                timers.run_due(due)
                continue
            if not events or events[0][0] > until_ns:
                break
            time, kind, number, stamp, unit = heapq.heappop(events)
            if kind == _CPU:
                if stamp != self._stamps[number]:
                    continue
                self.time = time
                self._decide(number)
            elif unit is not None and unit.owner is not None:
                self.time = time
                task: _Task = unit.owner
                task.until = unit.run_ns + task.load.begin(time)
                if self.woken is not None:
                    self.woken(time, unit)
                core.wake(unit, time)
        self.time = max(self.time, until_ns)

    def _settle(self) -> None:
        """Make the decisions that have been asked for."""
        core = self.core
        mask = core.resched
        while mask:
            low = mask & -mask
            mask ^= low
            if core.resched & low:
                self._decide(low.bit_length() - 1)
        mask, core.shortened = core.shortened, 0
        while mask:
            low = mask & -mask
            mask ^= low
            cpu = low.bit_length() - 1
            if core.slice_end[cpu] < self._ends[cpu]:
                self._expect(cpu, core.slice_end[cpu])

    def _expect(self, cpu: int, end: int) -> None:
        stamp = self._stamps[cpu] = self._stamps[cpu] + 1
        self._ends[cpu] = end
        if end < FOREVER:
            heapq.heappush(self._events, (end, _CPU, cpu, stamp, None))

    def _decide(self, cpu: int) -> None:
        core, now = self.core, self.time
        unit = core.current[cpu]
        if unit is not None:
            task: _Task = unit.owner
            ran = unit.run_ns + now - core.since[cpu]
            if ran >= task.until:
                wakes = task.load.end(now)
                if wakes > now:
                    core.sleep(unit, now)
                    self._wake_at(wakes, unit)
                else:
                    task.until = ran + task.load.begin(now)
        unit = core.schedule(cpu, now)
        end = core.slice_end[cpu]
        if unit is not None:
            task = unit.owner
            done = core.since[cpu] + task.until - unit.run_ns
            if done < end:
                end = done
        self._expect(cpu, end)

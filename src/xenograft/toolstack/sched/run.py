# SPDX-License-Identifier: GPL-2.0-or-later
"""Simulate a described system, and say what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from xenograft.abi.errno import XenError
from xenograft.hypervisor.sched.arinc653 import Arinc653
from xenograft.hypervisor.sched.constants import (
    MICROSECOND,
    RTDS_DEFAULT_BUDGET,
    RTDS_DEFAULT_PERIOD,
)
from xenograft.hypervisor.sched.cpumask import cpus_in
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched.analysis import (
    PartitionReport,
    PoolReport,
    Reservation,
    analyze_arinc653,
    analyze_rtds,
)
from xenograft.toolstack.sched.arinc653 import resolve, spans
from xenograft.toolstack.sched.control import reason
from xenograft.toolstack.sched.description import System
from xenograft.toolstack.sched.durations import parse_ns
from xenograft.toolstack.sched.history import History, Miss, Segment
from xenograft.toolstack.sched.loads import Blocking, Job, Load, Periodic
from xenograft.toolstack.sched.simulator import Simulator

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.core import DecisionHook
    from xenograft.hypervisor.sched.unit import SchedUnit


class VcpuResult(msgspec.Struct, frozen=True):
    """What became of one vCPU (times in ns)."""

    domain: str
    vcpu: int
    pool: str
    cpu_time: int
    share: float
    """Of one CPU."""
    jobs: int
    """Jobs, or wake-ups, that were finished."""
    missed: int
    worst_response: int
    """The longest from a release to the end of its job; of a blocking load the longest delay."""


class Outcome(msgspec.Struct, frozen=True):
    """What a simulation gave."""

    duration: int
    decisions: int
    vcpus: tuple[VcpuResult, ...]
    idle: tuple[int, ...]
    """Of each CPU (ns)."""
    segments: tuple[Segment, ...]
    misses: tuple[Miss, ...]
    names: dict[int, str]


class Listener(Protocol):
    """Who hears of a simulation while it runs."""

    def decided(
        self, now: int, cpu: int, prev: SchedUnit | None, following: SchedUnit | None
    ) -> None:
        """After each decision."""

    def woken(self, now: int, unit: SchedUnit) -> None:
        """Before a unit wakes."""


def simulate(
    system: System, duration_ns: int | None = None, listener: Listener | None = None
) -> Outcome:
    """Run it. Raises UserError, a line."""
    history = History()
    simulation = Simulation(system, history.decided)
    if listener is not None:

        def decided(
            now: int, cpu: int, prev: SchedUnit | None, following: SchedUnit | None
        ) -> None:
            history.decided(now, cpu, prev, following)
            listener.decided(now, cpu, prev, following)

        simulation.sim.core.hook = decided
        simulation.sim.woken = listener.woken
    length = simulation.duration if duration_ns is None else duration_ns
    simulation.sim.run(length)
    return _outcome(simulation, history, length)


class Simulation:
    """A described system that is about to run: `sim.run` goes on, as far as one likes.

    Raises UserError, a line.
    """

    def __init__(self, system: System, hook: DecisionHook | None = None) -> None:
        problems = system.check()
        if problems:
            raise UserError(problems[0])
        self.system = system
        self.duration = parse_ns(system.machine.duration, "machine: duration")
        self.sim = Simulator(
            system.topology,
            BY_NAME[system.pool[0].sched].sched_id,
            system.machine.credit2_runqueue,
        )
        self.sim.core.hook = hook
        self.loads = _furnish(system, self.sim)

    @property
    def names(self) -> dict[int, str]:
        """Of domains, by number."""
        return {domain.domid: domain.name for domain in self.sim.domains}

    def misses(self) -> list[Miss]:
        """The deadlines that were missed until now, in order."""
        found = [
            Miss(unit.domain.domid, unit.unit_id, job.deadline)
            for unit, load in self.loads
            if isinstance(load, Periodic)
            for job in _late(load, self.sim.time)
        ]
        return sorted(found, key=lambda one: (one.deadline, one.domid, one.vcpu))


def _late(load: Periodic, now: int) -> list[Job]:
    overdue = load.overdue(now)
    return list(load.missed) if overdue is None else [*load.missed, overdue]


def _furnish(system: System, sim: Simulator) -> list[tuple[SchedUnit, Load]]:
    """Make a simulation's pools and domains; returns what each vCPU does."""
    cpus = system.pool_cpus
    numbers: dict[str, int] = {}
    try:
        for index, pool in enumerate(system.pool):
            numbers[pool.name] = index
            if index:
                sim.pools.create(BY_NAME[pool.sched].sched_id, index)
                for cpu in cpus_in(cpus[pool.name]):
                    sim.pools.remove_cpu(0, cpu)
                    sim.pools.add_cpu(index, cpu)
            scheduler = sim.pools.get(index).scheduler
            scheduler.set_global(system.global_params(pool))
            if isinstance(scheduler, Arinc653):
                scheduler.set_schedule(resolve(system.table(pool), system.partitions(pool)), 0)
        for cpu in cpus_in(sim.core.topology.all_cpus & ~sum(cpus.values())):
            sim.pools.remove_cpu(0, cpu)
        return _add_domains(system, sim, numbers)
    except XenError as error:
        raise UserError(f"the hypervisor refuses it: {reason(error)}") from None


def _add_domains(
    system: System, sim: Simulator, numbers: dict[str, int]
) -> list[tuple[SchedUnit, Load]]:
    found: list[tuple[SchedUnit, Load]] = []
    for number, one in enumerate(system.domain, 1):
        loads = [
            vcpu.load.make(f"domain {one.name!r} vCPU {index}")
            for index, vcpu in enumerate(one.vcpu)
        ]
        try:
            domain = sim.add_domain(
                one.name,
                loads,
                system.params(one),
                pool=numbers[system.pool_of(one).name],
                uuid=number.to_bytes(16, "big"),
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        for index, (unit, vcpu) in enumerate(zip(domain.units, one.vcpu, strict=True)):
            hard, soft = system.affinity(one, vcpu), system.affinity(one, vcpu, soft=True)
            if hard is not None or soft is not None:
                sim.core.set_affinity(unit, 0, hard, soft)
            params = system.reservation(one, index)
            if params is not None:
                domain.scheduler.set_unit_params(unit, params, 0)
            found.append((unit, loads[index]))
    return found


def _outcome(simulation: Simulation, history: History, length: int) -> Outcome:
    system, sim = simulation.system, simulation.sim
    results: list[VcpuResult] = []
    pools = {one.name: system.pool_of(one).name for one in system.domain}
    for unit, load in simulation.loads:
        name = unit.domain.name
        used = sim.core.run_ns(unit, sim.time)
        jobs = missed = worst = 0
        if isinstance(load, Periodic):
            jobs, missed = load.done, len(_late(load, sim.time))
            worst = max((job.end - job.release for job in load.jobs), default=0)
        elif isinstance(load, Blocking):
            jobs, worst = len(load.latencies), max(load.latencies, default=0)
        results.append(
            VcpuResult(name, unit.unit_id, pools[name], used, used / length, jobs, missed, worst)
        )
    return Outcome(
        length,
        sim.core.decisions,
        tuple(results),
        tuple(sim.core.total_idle_ns(cpu, sim.time) for cpu in range(sim.core.topology.cpus)),
        tuple(history.close(sim.time)),
        tuple(simulation.misses()),
        simulation.names,
    )


class Analysis(msgspec.Struct, frozen=True):
    """What is known before anything runs: of each RTDS and ARINC 653 pool."""

    rtds: dict[str, PoolReport]
    arinc653: dict[str, tuple[int, list[PartitionReport]]]
    """Major frame (ns) and what each partition gets."""


def analyze(system: System) -> Analysis:
    """Raises UserError for a system that isn't right, or that has no such pool."""
    system._check()
    cpus = system.pool_cpus
    everything = system.topology.all_cpus
    rtds: dict[str, PoolReport] = {}
    tables: dict[str, tuple[int, list[PartitionReport]]] = {}
    for pool in system.pool:
        if pool.sched == "arinc653":
            major, windows = spans(system.table(pool))
            tables[pool.name] = (major, analyze_arinc653(major, windows))
        if pool.sched != "rtds":
            continue
        tasks: list[Reservation] = []
        for one in system.domain:
            if system.pool_of(one) is not pool:
                continue
            for index, vcpu in enumerate(one.vcpu):
                params = system.reservation(one, index)
                period, budget = RTDS_DEFAULT_PERIOD, RTDS_DEFAULT_BUDGET
                if params is not None:
                    period = (params.period_us or 0) * MICROSECOND
                    budget = (params.budget_us or 0) * MICROSECOND
                mask = system.affinity(one, vcpu)
                name = one.name if len(one.vcpu) == 1 else f"{one.name} v{index}"
                where = everything if mask is None else mask
                tasks.append(Reservation(name, budget, period, where))
        rtds[pool.name] = analyze_rtds(tasks, cpus[pool.name])
    if not rtds and not tables:
        raise UserError("there is nothing to analyze: no pool has rtds or arinc653")
    return Analysis(rtds, tables)

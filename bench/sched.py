# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scheduling decision costs, by the number of runnable vCPUs, and a simulation's speed."""

from __future__ import annotations

import statistics
import time

from bench.harness import Result
from xenograft.hypervisor.sched.arinc653 import Arinc653, MinorFrame, Schedule
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.hypervisor.sched.topology import Topology
from xenograft.toolstack.sched.loads import Blocking, Busy, Load, Periodic
from xenograft.toolstack.sched.simulator import Simulator

COUNTS = (10, 100, 1_000, 10_000)
_BOUNDS = {100: 5.0, 10_000: 20.0}
_SCHEDULERS = ("credit2", "credit", "rtds", "arinc653", "null")
_DECISIONS = 4_000
_MACHINES = ((1, 100), (16, 1_000), (1024, 10_000))
_MS = 1_000_000


def _windows(sim: Simulator) -> None:
    """Have ARINC 653 run the first domains, as many as a table has windows for."""
    scheduler = sim.pools.get(0).scheduler
    assert isinstance(scheduler, Arinc653)
    frames = tuple(MinorFrame(one.uuid, 0, _MS) for one in sim.domains[:64])
    scheduler.set_schedule(Schedule(len(frames) * _MS, frames), 0)


def decision_us(scheduler: str, vcpus: int) -> float:
    """Microseconds of a decision on one CPU with so many that compute; the median of thousands."""
    sim = Simulator(Topology.of(), BY_NAME[scheduler].sched_id)
    reserve = Params(period_us=1_000_000, budget_us=50 + vcpus % 7, extratime=True)
    for number in range(vcpus):
        # null never changes its mind: its one vCPU with a CPU has to block to have it decide.
        load: Load = Blocking(_MS, _MS) if scheduler == "null" and not number else Busy()
        sim.add_domain(f"d{number}", [load], reserve if scheduler == "rtds" else None)
    if scheduler == "arinc653":
        _windows(sim)
    sim.run(0)
    core, spent = sim.core, list[int]()
    schedule = core.schedule

    def timed(cpu: int, now: int) -> object:
        begin = time.perf_counter_ns()
        unit = schedule(cpu, now)
        spent.append(time.perf_counter_ns() - begin)
        return unit

    core.schedule = timed  # type: ignore[method-assign,assignment]
    while len(spent) < _DECISIONS:
        sim.run(sim.time + 100 * _MS)
    return statistics.median(spent) / 1000


def _machine(scheduler: str, cpus: int, vcpus: int) -> Simulator:
    """CPU-bound and blocking domains; under RTDS periodic ones that use 70 % of the CPUs."""
    topology = Topology.of(cores=min(cpus, 16), sockets=max(cpus // 16, 1))
    sim = Simulator(topology, BY_NAME[scheduler].sched_id)
    for number in range(vcpus):
        load: Load = Blocking(3 * _MS, 5 * _MS, seed=number) if number % 2 else Busy()
        params = None
        if scheduler == "rtds":
            period = 10_000 + 1_000 * (number % 40)
            budget = period * 7 * cpus // (10 * vcpus)
            load = Periodic(period * 1_000, budget * 1_000, keep=False)
            params = Params(period_us=period, budget_us=budget, extratime=False)
        elif scheduler == "null":
            load = Blocking(3 * _MS, 5 * _MS, seed=number)
        sim.add_domain(f"d{number}", [load], params)
    if scheduler == "arinc653":
        _windows(sim)
    return sim


def simulation_us(scheduler: str, cpus: int, vcpus: int) -> float:
    """Microseconds of a decision, with its share of events and accounting."""
    sim = _machine(scheduler, cpus, vcpus)
    sim.run(100 * _MS)
    before, begin = sim.core.decisions, time.process_time()
    while (spent := time.process_time() - begin) < 2 or sim.core.decisions == before:
        sim.run(sim.time + _MS)
    return spent / (sim.core.decisions - before) * 1e6


def run(_runs: int) -> list[Result]:
    """The benchmark."""
    results = [
        Result(
            f"decision of {scheduler}, {count} runnable",
            decision_us(scheduler, count),
            "us",
            bound=_BOUNDS.get(count),
        )
        for scheduler in _SCHEDULERS
        for count in COUNTS
    ]
    results += [
        Result(
            f"simulated decision of {scheduler}, {cpus} CPUs, {vcpus} vCPUs",
            simulation_us(scheduler, cpus, vcpus),
            "us",
            bound=20.0,
            note="20 us are 50,000 a second",
        )
        for scheduler in _SCHEDULERS
        for cpus, vcpus in _MACHINES
        # A pool of ARINC 653 has one CPU.
        if scheduler != "arinc653" or cpus == 1
    ]
    return results

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scheduling decision costs, by the number of runnable vCPUs, and a simulation's speed."""

from __future__ import annotations

import statistics
import time

from bench.harness import Result
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.hypervisor.sched.topology import Topology
from xenograft.toolstack.sched.loads import Blocking, Busy
from xenograft.toolstack.sched.simulator import Simulator

COUNTS = (10, 100, 1_000, 10_000)
_BOUNDS = {100: 5.0, 10_000: 20.0}
_SCHEDULERS = ("credit2", "credit", "rtds")
_DECISIONS = 4_000


def decision_us(scheduler: str, vcpus: int) -> float:
    """Microseconds of a decision on one CPU with so many that compute; the median of thousands."""
    sim = Simulator(Topology.of(), BY_NAME[scheduler].sched_id)
    reserve = Params(period_us=1_000_000, budget_us=50 + vcpus % 7, extratime=True)
    for number in range(vcpus):
        sim.add_domain(f"d{number}", [Busy()], reserve if scheduler == "rtds" else None)
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
        sim.run(sim.time + 100_000_000)
    return statistics.median(spent) / 1000


def simulation_us(cpus: int, vcpus: int) -> float:
    """Microseconds of a decision of credit2, with events and accounting."""
    sim = Simulator(Topology.of(cores=min(cpus, 16), sockets=max(cpus // 16, 1)))
    for number in range(vcpus):
        load = Blocking(3_000_000, 5_000_000, seed=number) if number % 2 else Busy()
        sim.add_domain(f"d{number}", [load])
    sim.run(1_000_000)
    before, begin = sim.core.decisions, time.process_time()
    while time.process_time() - begin < 2:
        sim.run(sim.time + 1_000_000)
    return (time.process_time() - begin) / (sim.core.decisions - before) * 1e6


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
            f"simulated decision, {cpus} CPUs, {vcpus} vCPUs",
            simulation_us(cpus, vcpus),
            "us",
            bound=20.0,
            note="20 us are 50,000 a second",
        )
        for cpus, vcpus in ((1, 100), (16, 1_000), (1024, 10_000))
    ]
    return results

# SPDX-License-Identifier: GPL-2.0-or-later
"""Simulations for tests, with what must hold at each decision checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.topology import Topology
from xenograft.hypervisor.sched.unit import SchedUnit
from xenograft.toolstack.sched.loads import Load
from xenograft.toolstack.sched.simulator import Simulator

MS = 1_000_000
SECOND = 1_000_000_000


class Checked(Simulator):
    """A simulation that fails as soon as a decision breaks a rule."""

    def __init__(self, scheduler: str = "credit2", cpus: int = 1, **places: int) -> None:
        topology = Topology.of(**places) if places else Topology.of(cores=cpus)
        super().__init__(topology, BY_NAME[scheduler].sched_id)
        self.core.hook = self.check
        self.history: list[tuple[int, int, int, int]] = []
        """(time, cpu, domid, vcpu) of each change; domid -1: idle."""

    def check(
        self, now: int, cpu: int, prev: SchedUnit | None, following: SchedUnit | None
    ) -> None:
        core = self.core
        if following is not None:
            assert core.current.count(following) == 1, "a vCPU on two CPUs"
            assert following.runnable, "a vCPU that can't run"
            assert following.cpu == cpu
            assert following.hard >> cpu & 1, "outside its hard affinity"
            pool = self.pools.get(following.domain.pool_id)
            assert pool.cpus >> cpu & 1, "outside its pool"
        assert now == self.time
        if following is not prev:
            where = (-1, -1) if following is None else (following.domain.domid, following.unit_id)
            self.history.append((now, cpu, *where))

    def exact(self) -> bool:
        """Whether all domains and idleness add up to the time that has passed, to the ns."""
        cpus = self.core.topology.cpus
        used = sum(self.cpu_time(domain) for domain in self.domains)
        idle = sum(self.core.total_idle_ns(cpu, self.time) for cpu in range(cpus))
        return used + idle == cpus * self.time


def shares(
    scheduler: str, loads: Sequence[Sequence[Load]], params: Sequence[Any], *, cpus: int = 1
) -> list[float]:
    """CPU time of domains in ten seconds, as shares of one CPU."""
    sim = Checked(scheduler, cpus)
    domains = [
        sim.add_domain(f"d{i}", load, param)
        for i, (load, param) in enumerate(zip(loads, params, strict=True))
    ]
    sim.run(10 * SECOND)
    assert sim.exact()
    return [sim.cpu_time(domain) / sim.time for domain in domains]

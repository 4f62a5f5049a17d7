# SPDX-License-Identifier: GPL-2.0-or-later
"""What the schedulability tests accept holds in simulations, and known examples come out right."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenograft.abi.domctl import XEN_SCHEDULER_RTDS
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.hypervisor.sched.topology import Topology
from xenograft.toolstack.sched.analysis import (
    Reservation,
    analyze_arinc653,
    analyze_rtds,
    bertogna_cirinei_lipari,
    first_fit_decreasing,
    goossens_funk_baruah,
    least_supply,
    liu_layland,
)
from xenograft.toolstack.sched.arinc653 import Span
from xenograft.toolstack.sched.loads import Blocking, Load, Periodic
from xenograft.toolstack.sched.simulator import Simulator

US, MS = 1_000, 1_000_000
PERIODS = [20, 25, 40, 50, 60, 100, 120]
SETS = 2_500
"""How many accepted sets are simulated for each of four seeds."""


def tasks_of(pairs: list[tuple[int, int]], cpus: int, unit: int = US) -> list[Reservation]:
    everywhere = (1 << cpus) - 1
    return [
        Reservation(f"t{i}", budget * unit, period * unit, everywhere)
        for i, (budget, period) in enumerate(pairs)
    ]


def misses(
    tasks: list[Reservation], cpus: int, rng: random.Random, *, deferred: bool = False
) -> int:
    """Deadlines missed in a simulation. `deferred`: some tasks wake whenever they like."""
    sim = Simulator(Topology.of(cores=cpus), XEN_SCHEDULER_RTDS)
    loads: list[Load] = []
    for task in tasks:
        load: Load = Periodic(task.period, task.budget, keep=False)
        if deferred and rng.random() < 0.5:
            compute = max(task.budget // rng.randrange(1, 4), 1)
            wait = rng.randrange(1, 2 * task.period)
            load = Blocking(compute, wait, rng.randrange(task.period), rng.randrange(1 << 30))
        loads.append(load)
        params = Params(period_us=task.period // US, budget_us=task.budget // US, extratime=False)
        sim.add_domain(task.name, [load], params, hard=task.cpus)
    sim.run(600 * US + 1)
    periodic = [load for load in loads if isinstance(load, Periodic)]
    return sum(len(one.missed) + (one.overdue(sim.time) is not None) for one in periodic)


def accepted(tasks: list[Reservation], cpus: int) -> bool:
    if cpus == 1:
        return liu_layland(tasks)
    return goossens_funk_baruah(tasks, cpus)


def random_set(rng: random.Random, cpus: int) -> list[Reservation]:
    count = rng.randrange(1, 3 * cpus + 3)
    target = rng.uniform(0.3, 1.0) * cpus
    parts = [rng.random() + 0.02 for _ in range(count)]
    pairs = []
    for part in parts:
        period = rng.choice(PERIODS)
        budget = min(max(int(period * part / sum(parts) * target), 10), period)
        pairs.append((budget, period))
    return tasks_of(pairs, cpus)


@pytest.mark.parametrize("seed", range(4))
def test_random_sets_that_a_test_accepts_never_miss(seed: int) -> None:
    rng = random.Random(f"accepted sets {seed}")
    done = 0
    while done < SETS:
        cpus = rng.choice([1, 2, 2, 3, 4])
        tasks = random_set(rng, cpus)
        if accepted(tasks, cpus):
            done += 1
            assert misses(tasks, cpus, rng) == 0, tasks
        if not bertogna_cirinei_lipari(tasks, cpus):
            done += 1
            assert misses(tasks, cpus, rng, deferred=True) == 0, tasks
        placement = first_fit_decreasing(tasks, (1 << cpus) - 1)
        if placement is not None and done % 4 == 0:
            pinned = [
                Reservation(task.name, task.budget, task.period, 1 << cpu)
                for cpu, own in placement.items()
                for task in own
            ]
            assert misses(pinned, cpus, rng) == 0, pinned


def test_overloaded_sets_miss_and_say_so() -> None:
    rng = random.Random("overloaded")
    late = 0
    for _ in range(60):
        tasks = tasks_of([(rng.randrange(11, 21), 20) for _ in range(4)], 2)
        report = analyze_rtds(tasks, 0b11)
        assert report.schedulable is False
        late += misses(tasks, 2, rng) > 0
    assert late == 60


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(
        st.sampled_from(PERIODS).flatmap(
            lambda period: st.tuples(st.integers(10, period), st.just(period))
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_any_accepted_set_keeps_its_deadlines(cpus: int, pairs: list[tuple[int, int]]) -> None:
    tasks = tasks_of(pairs, cpus)
    if analyze_rtds(tasks, (1 << cpus) - 1).schedulable:
        assert misses(tasks, cpus, random.Random(1)) == 0


class TestExamples:
    def test_dhalls_effect(self) -> None:
        """U is little more than 1 of 2, and global EDF still can't."""
        tasks = tasks_of([(2, 10), (2, 10), (10, 11)], 2, MS)
        report = analyze_rtds(tasks, 0b11)
        assert not goossens_funk_baruah(tasks, 2)
        assert [task.name for task in bertogna_cirinei_lipari(tasks, 2)] == ["t2"]
        assert report.schedulable is None
        assert report.placement is not None
        assert [len(own) for own in report.placement.values()] == [1, 2]

    def test_the_bound_of_gfb_is_reached(self) -> None:
        """m = 2, max u = 1/2: U may be 3/2."""
        assert goossens_funk_baruah(tasks_of([(10, 20)] * 3, 2), 2)
        assert not goossens_funk_baruah([*tasks_of([(10, 20)] * 3, 2), *tasks_of([(1, 100)], 2)], 2)

    def test_a_full_cpu(self) -> None:
        assert liu_layland(tasks_of([(10, 20), (20, 40)], 1))
        report = analyze_rtds(tasks_of([(10, 20), (21, 40)], 1), 1)
        assert report.schedulable is False

    def test_pinned_tasks_are_judged_by_their_cpu(self) -> None:
        tasks = [Reservation("a", 6, 10, 0b01), Reservation("b", 6, 10, 0b01)]
        report = analyze_rtds(tasks, 0b11)
        assert report.schedulable is False
        assert "CPU 0 is overloaded" in report.verdicts[0].detail

    def test_mixed_affinities_are_not_guessed_at(self) -> None:
        tasks = [Reservation("a", 6, 10, 0b01), Reservation("b", 6, 10, 0b11)]
        report = analyze_rtds(tasks, 0b11)
        assert report.schedulable is None
        assert [verdict.accepts for verdict in report.verdicts] == [None, True]


class TestArinc653:
    WINDOWS = (
        Span("a", 0, 0, 10),
        Span("b", 0, 10, 20),
        Span("a", 0, 30, 5),
        Span(None, 0, 35, 5),
    )

    def test_latency_and_share(self) -> None:
        a, b = analyze_arinc653(50, self.WINDOWS)
        assert (a.windows, a.served, a.longest_wait, a.shortest_window) == (2, 15, 20, 5)
        assert float(a.share) == 0.3
        assert (b.windows, b.served, b.longest_wait) == (1, 20, 30)

    @pytest.mark.parametrize("length", [1, 7, 20, 21, 26, 50, 63, 100, 171])
    def test_least_supply_is_the_least_of_all_intervals(self, length: int) -> None:
        busy = [t % 50 < 10 or 30 <= t % 50 < 35 for t in range(1000)]
        least = min(sum(busy[at : at + length]) for at in range(50))
        assert least_supply(50, self.WINDOWS, ("a", 0), length) == least

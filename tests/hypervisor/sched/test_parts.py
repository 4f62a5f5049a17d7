# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU masks, topology, run queues, load averages: against plain models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.hypervisor.sched import cpumask
from xenograft.hypervisor.sched.credit2_load import FULL_LOAD, Load, decay
from xenograft.hypervisor.sched.runqueue import Queued, RunQueue
from xenograft.hypervisor.sched.topology import Place, Topology
from xenograft.hypervisor.sched.unit import SchedDomain, SchedUnit

CPUS = 6
cpus = st.integers(0, CPUS - 1)
masks = st.integers(1, (1 << CPUS) - 1)


class TestCpuMask:
    @given(st.sets(st.integers(0, 1023), min_size=1))
    def test_sets(self, chosen: set[int]) -> None:
        mask = cpumask.mask_of(chosen)
        assert list(cpumask.cpus_in(mask)) == sorted(chosen)
        assert (cpumask.first(mask), cpumask.last(mask)) == (min(chosen), max(chosen))

    @given(masks, cpus)
    def test_cycle_goes_round(self, mask: int, cpu: int) -> None:
        members = list(cpumask.cpus_in(mask))
        above = [one for one in members if one > cpu]
        assert cpumask.cycle(mask, cpu) == (above or members)[0]

    @pytest.mark.parametrize(
        ("mask", "text"),
        [(0b1111, "all"), (~0, "all"), (0, "none"), (0b0110, "1-2"), (0b1011, "0-1,3")],
    )
    def test_show(self, mask: int, text: str) -> None:
        assert cpumask.show(mask, 0b1111) == text


class TestTopology:
    def test_a_regular_machine(self) -> None:
        topology = Topology.of(nodes=2, sockets=2, cores=3, threads=2)
        assert topology.cpus == 24
        assert topology.places[0] == topology.places[1] == Place(0, 0, 0)
        assert topology.places[23] == Place(2, 3, 1)
        assert (topology.cores_per_socket, topology.threads_per_core, topology.nodes) == (3, 2, 2)
        assert topology.node_cpus(1) == 0xFFF << 12
        assert topology.node_cpus(0) | topology.node_cpus(1) == topology.all_cpus

    @pytest.mark.parametrize("counts", [{"cores": 0}, {"nodes": -1}, {"cores": 1025}])
    def test_impossible_machines(self, counts: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=r"at least 1|at most 1024"):
            Topology.of(**counts)


class TestRunQueue:
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("push"), st.integers(0, 20), masks),
                st.tuples(st.just("remove"), st.integers(0, 200), masks),
                st.tuples(st.just("cpus"), st.just(0), masks),
            ),
            max_size=120,
        )
    )
    def test_it_answers_as_a_sorted_list_does(self, steps: list[tuple[str, int, int]]) -> None:
        queue, model = RunQueue((1 << CPUS) - 1), list[tuple[int, int, Queued]]()
        domain = SchedDomain(1)
        for number, (what, value, mask) in enumerate(steps):
            if what == "push":
                unit = SchedUnit(domain, number)
                unit.hard = mask
                record = Queued(unit)
                queue.push(record, value)
                model.append((value, record.ticket, record))
            elif what == "remove" and model:
                entry = model.pop(value % len(model))
                queue.remove(entry[2])
                assert entry[2].ticket == 0
            elif what == "cpus":
                queue.set_cpus(mask)
            model.sort(key=lambda entry: entry[:2])
            assert queue.waiting == len(model)
            for cpu in range(CPUS):
                allowed = [e for e in model if (e[2].unit.hard & queue.cpus) >> cpu & 1]
                assert queue.best(cpu) == (allowed[0] if allowed else None)
        assert queue.records() == [entry[2] for entry in model]

    def test_those_that_have_left_take_no_room(self) -> None:
        queue, unit = RunQueue(1), SchedUnit(SchedDomain(1), 0)
        record = Queued(unit)
        for key in range(10_000):
            queue.push(record, key)
            queue.remove(record)
        assert sum(len(heap) for heap in queue._heaps.values()) < 100


class TestLoad:
    @given(st.integers(0, 4 * FULL_LOAD), st.integers(0, 4), st.integers(0, 1 << 31))
    def test_an_average_moves_towards_its_load(self, average: int, load: int, time: int) -> None:
        after = decay(average, load, 0, time)
        low, high = sorted((average, load * FULL_LOAD))
        assert low - 1 <= after <= high

    def test_time_that_goes_back_changes_nothing(self) -> None:
        assert decay(5, 1, 1 << 30, 0) == 5

    def test_a_second_of_work_is_a_full_load(self) -> None:
        load = Load(0)
        load.change(1, 0)
        load.change(-1, 1 << 30)
        assert load.average == FULL_LOAD
        load.change(0, 1 << 32)
        assert load.average == 0

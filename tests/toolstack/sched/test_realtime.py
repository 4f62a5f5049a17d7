# SPDX-License-Identifier: GPL-2.0-or-later
"""What RTDS, ARINC 653 and null promise, on the simulator."""

from __future__ import annotations

import pytest

from tests.toolstack.sched.support import MS, SECOND, Checked
from xenograft.abi.errno import XenError
from xenograft.hypervisor.sched.arinc653 import Arinc653, MinorFrame, Schedule
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.hypervisor.sched.unit import SchedUnit
from xenograft.toolstack.sched.loads import Blocking, Busy, Periodic


class TestRtds:
    @staticmethod
    def reserve(period_us: int, budget_us: int, extratime: bool = False) -> Params:
        return Params(period_us=period_us, budget_us=budget_us, extratime=extratime)

    def test_a_hog_gets_its_budget_in_each_period_and_no_more(self) -> None:
        sim = Checked("rtds")
        hog = sim.add_domain("hog", [Busy()], self.reserve(10_000, 3_000))
        for period in range(1, 50):
            sim.run(period * 10 * MS)
            assert sim.cpu_time(hog) == period * 3 * MS

    def test_extratime_uses_what_is_left(self) -> None:
        sim = Checked("rtds")
        extra = sim.add_domain("extra", [Busy()], self.reserve(10_000, 3_000, True))
        task = Periodic(5 * MS, 2 * MS)
        sim.add_domain("task", [task], self.reserve(5_000, 2_000))
        sim.run(SECOND)
        assert sim.cpu_time(extra) == 0.6 * SECOND
        assert not task.missed
        assert task.done == 200

    def test_two_hogs_with_full_utilization_never_miss(self) -> None:
        sim = Checked("rtds")
        tasks = [Periodic(10 * MS, 5 * MS), Periodic(4 * MS, 2 * MS)]
        for i, task in enumerate(tasks):
            sim.add_domain(f"t{i}", [task], self.reserve(task.period // 1000, task.wcet // 1000))
        sim.run(10 * SECOND)
        assert not tasks[0].missed
        assert not tasks[1].missed
        assert tasks[1].done == 2500

    def test_overload_is_reported(self) -> None:
        sim = Checked("rtds")
        tasks = [Periodic(10 * MS, 6 * MS) for _ in range(2)]
        for i, task in enumerate(tasks):
            sim.add_domain(f"t{i}", [task], self.reserve(10_000, 6_000))
        sim.run(SECOND)
        assert any(task.missed for task in tasks)

    def test_a_hog_does_not_delay_a_reservation(self) -> None:
        sim = Checked("rtds", cpus=2)
        for i in range(6):
            sim.add_domain(f"hog{i}", [Busy()], self.reserve(20_000, 1_000, True))
        task = Periodic(5 * MS, MS)
        sim.add_domain("task", [task], self.reserve(5_000, 1_000))
        sim.run(5 * SECOND)
        assert not task.missed
        assert sim.exact()

    def test_global_edf_has_the_effect_of_dhall(self) -> None:
        """Two light tasks and one heavy on two CPUs: the heavy one misses (Dhall, Liu 1978)."""
        sim = Checked("rtds", cpus=2)
        light = [Periodic(10 * MS, 2 * MS) for _ in range(2)]
        heavy = Periodic(11 * MS, 10 * MS)
        for i, task in enumerate([*light, heavy]):
            sim.add_domain(f"t{i}", [task], self.reserve(task.period // 1000, task.wcet // 1000))
        sim.run(SECOND)
        assert heavy.missed
        assert not any(task.missed for task in light)

    def test_pinned_reservations_keep_to_their_cpus(self) -> None:
        sim = Checked("rtds", cpus=2)
        light = [Periodic(10 * MS, 2 * MS) for _ in range(2)]
        heavy = Periodic(11 * MS, 10 * MS)
        for i, task in enumerate(light):
            sim.add_domain(f"l{i}", [task], self.reserve(10_000, 2_000), hard=1)
        sim.add_domain("heavy", [heavy], self.reserve(11_000, 10_000), hard=2)
        sim.run(SECOND)
        assert not heavy.missed
        assert not any(task.missed for task in light)

    def test_parameters_have_xens_limits(self) -> None:
        sim = Checked("rtds")
        domain = sim.add_domain("d", [Busy()])
        unit = domain.units[0]
        scheduler = domain.scheduler
        assert scheduler.get_unit_params(unit) == self.reserve(10_000, 4_000, True)
        for period, budget in ((0, 0), (9, 9), (100, 9), (100, 101), (1 << 32, 50)):
            with pytest.raises(XenError, match="EINVAL"):
                scheduler.set_unit_params(unit, self.reserve(period, budget), 0)
        scheduler.set_unit_params(unit, self.reserve(10, 10), 0)
        assert scheduler.get_unit_params(unit) == self.reserve(10, 10)


class TestArinc653:
    @staticmethod
    def machine(windows: list[tuple[int, int]], major: int, partitions: int) -> Checked:
        """Partitions (domids 1 ...) with (domid, ms) windows in a major frame of `major` ms."""
        sim = Checked("arinc653")
        for number in range(partitions):
            sim.add_domain(f"p{number}", [Busy()])
        scheduler = sim.pools.get(0).scheduler
        assert isinstance(scheduler, Arinc653)
        frames = tuple(MinorFrame(d.to_bytes(16, "big"), 0, ms * MS) for d, ms in windows)
        scheduler.set_schedule(Schedule(major * MS, frames), 0)
        return sim

    def test_windows_are_those_of_the_table(self) -> None:
        sim = self.machine([(1, 4), (2, 3), (1, 2)], 10, 2)
        sim.run(25 * MS)
        starts = [(time // MS, domid) for time, _, domid, _ in sim.history]
        assert starts == [
            (0, 1), (4, 2), (7, 1), (9, -1), (10, 1), (14, 2), (17, 1), (19, -1), (20, 1), (24, 2)
        ]  # fmt: skip

    def test_a_million_frames_are_exact(self) -> None:
        """250,000 major frames of four windows: each begins when the table says."""
        sim = self.machine([(1, 3), (2, 2), (3, 4), (4, 1)], 10, 4)
        expected = ((1, 0), (2, 3 * MS), (3, 5 * MS), (4, 9 * MS))
        seen = 0

        def check(now: int, _cpu: int, prev: SchedUnit | None, following: SchedUnit | None) -> None:
            nonlocal seen
            if following is not prev:
                assert following is not None
                number, at = expected[seen & 3]
                assert following.domain.domid == number
                assert now == (seen >> 2) * 10 * MS + at
                seen += 1

        sim.core.hook = check
        sim.run(2_500 * SECOND - 1)
        assert seen == 1_000_000
        assert [sim.cpu_time(d) for d in sim.domains] == [
            750 * SECOND, 500 * SECOND, 1000 * SECOND, 250 * SECOND - 1
        ]  # fmt: skip

    def test_what_a_partition_does_not_use_is_idle(self) -> None:
        sim = Checked("arinc653")
        sim.add_domain("a", [Blocking(MS, 9 * MS)])
        sim.add_domain("b", [Busy()])
        scheduler = sim.pools.get(0).scheduler
        assert isinstance(scheduler, Arinc653)
        frames = tuple(MinorFrame(d.to_bytes(16, "big"), 0, 5 * MS) for d in (1, 2))
        scheduler.set_schedule(Schedule(10 * MS, frames), 0)
        sim.run(SECOND)
        assert sim.cpu_time(sim.domains[0]) == 100 * MS
        assert sim.cpu_time(sim.domains[1]) == 500 * MS

    def test_a_new_table_is_in_force_at_once(self) -> None:
        sim = self.machine([(1, 10)], 10, 2)
        sim.run(3 * MS)
        scheduler = sim.pools.get(0).scheduler
        assert isinstance(scheduler, Arinc653)
        frames = (MinorFrame((2).to_bytes(16, "big"), 0, 6 * MS),)
        scheduler.set_schedule(Schedule(6 * MS, frames), sim.time)
        sim.run(13 * MS)
        assert sim.cpu_time(sim.domains[0]) == 3 * MS
        assert sim.cpu_time(sim.domains[1]) == 10 * MS

    def test_who_is_not_in_the_table_never_runs(self) -> None:
        sim = self.machine([(1, 5)], 10, 2)
        sim.run(SECOND)
        assert sim.cpu_time(sim.domains[1]) == 0
        assert sim.cpu_time(sim.domains[0]) == SECOND // 2

    @pytest.mark.parametrize(
        ("major", "windows"),
        [(0, [1]), (-5, [1]), (10, []), (10, [0]), (10, [-1]), (10, [6, 5]), (99, [1] * 65)],
    )
    def test_bad_tables_are_refused(self, major: int, windows: list[int]) -> None:
        with pytest.raises(XenError, match="EINVAL"):
            Schedule(major, tuple(MinorFrame(bytes(16), 0, w) for w in windows)).check()

    def test_domain_0_runs_before_there_is_a_table(self) -> None:
        sim = Checked("arinc653")
        sim._domid = -1
        dom0 = sim.add_domain("Domain-0", [Busy(), Busy()])
        sim.run(SECOND)
        assert [sim.core.run_ns(unit, sim.time) for unit in dom0.units] == [SECOND // 2] * 2


class TestNull:
    def test_each_vcpu_keeps_its_cpu_for_ever(self) -> None:
        sim = Checked("null", cpus=4)
        for i in range(4):
            sim.add_domain(f"d{i}", [Busy() if i % 2 else Blocking(MS, MS, seed=i)])
        sim.run(10 * SECOND)
        places: dict[int, set[int]] = {}
        for _, cpu, domid, _ in sim.history:
            if domid >= 0:
                places.setdefault(domid, set()).add(cpu)
        assert sorted(map(sorted, places.values())) == [[0], [1], [2], [3]]

    def test_those_without_a_cpu_wait_until_one_is_free(self) -> None:
        sim = Checked("null", cpus=2)
        domains = [sim.add_domain(f"d{i}", [Busy()]) for i in range(3)]
        sim.run(SECOND)
        assert [sim.cpu_time(d) for d in domains] == [SECOND, SECOND, 0]
        sim.remove_domain(domains[0])
        sim.run(2 * SECOND)
        assert sim.cpu_time(domains[2]) == SECOND

    def test_affinity_decides_who_gets_the_free_cpu(self) -> None:
        sim = Checked("null", cpus=2)
        first = sim.add_domain("first", [Busy()], hard=0b01)
        sim.add_domain("second", [Busy()], hard=0b10)
        late = sim.add_domain("late", [Busy()], hard=0b10)
        later = sim.add_domain("later", [Busy()], hard=0b01)
        sim.run(SECOND)
        sim.remove_domain(first)
        sim.run(2 * SECOND)
        assert sim.cpu_time(late) == 0
        assert sim.cpu_time(later) == SECOND

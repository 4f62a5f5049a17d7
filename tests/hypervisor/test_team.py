# SPDX-License-Identifier: GPL-2.0-or-later
"""Physical CPUs on threads of the host's: who runs at once, who never does, and who stops whom."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hypervisor.support import Guest, op
from xenograft.abi.sched import SCHEDOP_shutdown, SHUTDOWN_poweroff
from xenograft.abi.vcpu import VCPUOP_set_singleshot_timer
from xenograft.arch.x86.pvh import pvh_entry
from xenograft.engine.fake import FakeCpu, FakeEngine, make_exit
from xenograft.engine.protocol import ExitReason
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.loop import LONG_NS, Loop
from xenograft.hypervisor.sched.topology import Topology
from xenograft.hypervisor.team import Team
from xenograft.hypervisor.time import RealClock
from xenograft.hypervisor.vcpu import Vcpu

BUDGET = make_exit(ExitReason.BUDGET)
KICK = make_exit(ExitReason.KICK)
HYPERCALL = make_exit(ExitReason.HYPERCALL)
ARG = 0x8000


class Waiting:
    """A CPU whose run ends when it's kicked, or by itself after a while."""

    def __init__(self, seconds: float | None = None, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.kicked = threading.Event()
        self.thread: threading.Thread | None = None

    def run(self, budget: int, deadline: int = 0) -> Any:
        self.thread = threading.current_thread()
        if self.kicked.wait(10.0 if self.seconds is None else self.seconds):
            self.kicked.clear()
            return KICK
        if self.error is not None:
            raise self.error
        assert self.seconds is not None, "nobody has stopped it"
        return HYPERCALL

    def kick(self) -> None:
        self.kicked.set()


class Busy(Waiting):
    """One that has these exits, one after the other."""

    def __init__(self, exits: list[Any]) -> None:
        super().__init__()
        self.exits = iter(exits)
        self.deadlines: list[int] = []

    def run(self, budget: int, deadline: int = 0) -> Any:
        self.deadlines.append(deadline)
        time.sleep(0.001)
        return next(self.exits)


class Slow(Waiting):
    """One that takes its time to leave, as an engine in a long block does."""

    left = False

    def run(self, budget: int, deadline: int = 0) -> Any:
        exit_ = super().run(budget, deadline)
        time.sleep(0.5)
        self.left = True
        return exit_


@pytest.fixture
def team() -> Iterator[Team]:
    before = threading.active_count()
    team = Team(4)
    yield team
    team.close()
    assert threading.active_count() == before


class TestTeam:
    @pytest.mark.parametrize("first", [0, 1, 2])
    def test_the_first_to_come_back_stops_the_others(self, team: Team, first: int) -> None:
        cpus: list[Any] = [Waiting(0.02 if index == first else None) for index in range(3)]
        exits = team.run(cpus, 0)
        assert exits[first] is HYPERCALL
        assert [exit_ for index, exit_ in enumerate(exits) if index != first] == [KICK, KICK]
        assert len({cpu.thread for cpu in cpus}) == 3
        # No kick is left that would end the next run.
        assert not any(cpu.kicked.is_set() for cpu in cpus)

    def test_many_rounds_need_no_more_threads(self, team: Team) -> None:
        for _ in range(50):
            cpus: list[Any] = [Waiting(0.001), Waiting()]
            assert team.run(cpus, 0) == [HYPERCALL, KICK]
        assert len(team._threads) == 1

    @pytest.mark.parametrize("index", [0, 1])
    def test_what_goes_wrong_is_raised_when_all_stand_still(self, team: Team, index: int) -> None:
        cpus: list[Any] = [Waiting(), Waiting()]
        cpus[index] = Waiting(0.01, ZeroDivisionError("a fault of the engine's"))
        with pytest.raises(ZeroDivisionError):
            team.run(cpus, 0)
        assert not cpus[1 - index].kicked.is_set()
        assert team.run([Waiting(0.001), Waiting()], 0) == [HYPERCALL, KICK]  # type: ignore[list-item]

    def test_what_is_answered_aside_stops_nobody(self, team: Team) -> None:
        cpus: list[Any] = [Busy([HYPERCALL] * 5 + [BUDGET]), Waiting()]
        seen: list[tuple[int, Any]] = []

        def aside(index: int, exit_: Any) -> Any:
            seen.append((index, exit_))
            return 100 + len(seen) if exit_ is HYPERCALL else exit_

        assert team.run(cpus, 100, aside) == [BUDGET, KICK]
        assert seen == [(0, HYPERCALL)] * 5 + [(0, BUDGET)]
        assert cpus[0].deadlines == [100, 101, 102, 103, 104, 105]

    def test_an_answer_may_end_the_round(self, team: Team) -> None:
        cpus: list[Any] = [Waiting(), Busy([HYPERCALL, HYPERCALL])]
        answers = iter([100, BUDGET])
        assert team.run(cpus, 0, lambda _index, _exit: next(answers)) == [KICK, BUDGET]

    def test_what_comes_after_the_end_is_left_to_the_machine(self, team: Team) -> None:
        cpus: list[Any] = [Busy([BUDGET]), Slow(0.05)]
        asked: list[int] = []

        def aside(index: int, exit_: Any) -> Any:
            asked.append(index)
            return exit_

        assert team.run(cpus, 0, aside)[0] is BUDGET
        assert asked == [0]

    def test_one_is_answered_at_a_time(self, team: Team) -> None:
        cpus: list[Any] = [Busy([HYPERCALL] * 20 + [BUDGET]) for _ in range(3)]
        inside: list[int] = []
        most = 0

        def aside(index: int, exit_: Any) -> Any:
            nonlocal most
            inside.append(index)
            most = max(most, len(inside))
            time.sleep(0.0005)
            inside.remove(index)
            return 0 if exit_ is HYPERCALL else exit_

        assert BUDGET in team.run(cpus, 0, aside)
        assert most == 1

    @pytest.mark.parametrize("index", [0, 1])
    def test_an_answer_that_goes_wrong_ends_the_round(self, team: Team, index: int) -> None:
        cpus: list[Any] = [Waiting(), Waiting()]
        cpus[index] = Busy([HYPERCALL])

        def aside(_index: int, _exit: Any) -> Any:
            raise ZeroDivisionError("a fault of ours")

        with pytest.raises(ZeroDivisionError):
            team.run(cpus, 0, aside)

    def test_nobody_runs_any_more_when_a_signal_handler_raises(self, team: Team) -> None:
        slow = Slow()

        def handler(_number: int, _frame: object) -> None:
            raise KeyboardInterrupt

        old = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                team.run([Waiting(0.001), slow], 0)  # type: ignore[list-item]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        assert slow.left
        # Nothing of that round is left for the next one.
        assert team.run([Waiting(0.001), Waiting()], 0) == [HYPERCALL, KICK]  # type: ignore[list-item]


class Meter:
    """Who is inside at this moment, and who was at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[tuple[int, int]] = set()
        self.pairs: set[frozenset[tuple[int, int]]] = set()

    def spend(self, who: tuple[int, int], seconds: float) -> None:
        with self.lock:
            for other in self.inside:
                self.pairs.add(frozenset((who, other)))
            self.inside.add(who)
        time.sleep(seconds)
        with self.lock:
            self.inside.remove(who)


class Machine:
    """Domains whose vCPUs compute: each step of theirs takes the host's time."""

    def __init__(self, domains: list[int], cpus: int = 4, kind: GuestKind = GuestKind.PVH) -> None:
        self.meter = Meter()
        self.steps = 30
        self.exits = False
        total = sum(domains)
        self.engine = FakeEngine(dict.fromkeys(range(total), self.script))
        self.xen = Hypervisor(
            self.engine, frames=1 << 14, clock=RealClock(), topology=Topology.of(cores=cpus)
        )
        self.loop = Loop(self.xen)
        if self.loop._team is None:
            # As on a host with as many.
            self.loop._team = Team(cpus)
        self.domains = [self.add(vcpus, kind) for vcpus in domains]

    def add(self, vcpus: int, kind: GuestKind) -> Domain:
        domain = self.xen.create_domain(kind, max_vcpus=vcpus, max_pages=64)
        domain.p2m.populate(0, 16)
        for vcpu in domain.vcpus:
            domain.arch.start(vcpu, pvh_entry(0x1000, 0))  # type: ignore[union-attr]
            vcpu.exit_gap = 10 * LONG_NS
            vcpu.bring_up()
        domain.unpause()
        return domain

    def script(self, cpu: FakeCpu) -> Guest:
        who = next(
            (domain.domid, vcpu.vcpu_id)
            for domain in self.domains
            for vcpu in domain.vcpus
            if vcpu.cpu is cpu
        )
        for _ in range(self.steps):
            self.meter.spend(who, 0.0001 if self.exits else 0.002)
            yield op("xen_version", 0) if self.exits else BUDGET
        cpu.space.write(ARG, SHUTDOWN_poweroff.to_bytes(4, "little"))
        yield op("sched_op", SCHEDOP_shutdown, ARG)
        while True:
            yield BUDGET

    def run(self) -> None:
        deadline = self.xen.clock.now() + 20 * 10**9
        self.loop.run(lambda: all(domain.is_shutting_down for domain in self.domains), deadline)
        assert all(domain.is_shutting_down for domain in self.domains)

    def close(self) -> None:
        self.xen.close()
        self.loop.close()


class WithTimers(Machine):
    """One guest sets its timer fifty times and waits for the last; the other one computes."""

    def __init__(self, fired: list[int]) -> None:
        self.fired = fired
        self.due = self.rounds_then = 0
        self.computing = False
        self.ended = threading.Event()
        super().__init__([1, 1])

    def script(self, cpu: FakeCpu) -> Guest:
        domain = self.domains[0]
        if cpu is domain.vcpus[0].cpu:
            yield BUDGET
            for delay in (*[10**12] * 49, 5_000_000):
                due = domain.system_time + delay
                cpu.space.write(ARG, due.to_bytes(8, "little") + bytes(8))
                answer = yield op("vcpu_op", VCPUOP_set_singleshot_timer, 0, ARG)
                assert answer.values[0] == 0
            self.due = domain.machine_time(due)
            while not self.fired:
                self.computing = True
                time.sleep(0.008)
                self.computing = False
                yield BUDGET
            self.rounds_then = self.loop.rounds
            self.ended.set()
        else:
            while not self.ended.is_set():
                time.sleep(0.0005)
                yield KICK  # and the round goes on, since nobody kicked
        cpu.space.write(ARG, SHUTDOWN_poweroff.to_bytes(4, "little"))
        yield op("sched_op", SCHEDOP_shutdown, ARG)


class Ticking(Machine):
    """Guests that set their own timers often, and do nothing else that needs an answer."""

    def script(self, cpu: FakeCpu) -> Guest:
        domain = next(one for one in self.domains if one.vcpus[0].cpu is cpu)
        cpu.space.write(ARG, (1 << 60).to_bytes(8, "little") + bytes(8))
        for _ in range(100):
            self.meter.spend((domain.domid, 0), 0.0005)
            yield op("vcpu_op", VCPUOP_set_singleshot_timer, 0, ARG)
        cpu.space.write(ARG, SHUTDOWN_poweroff.to_bytes(4, "little"))
        yield op("sched_op", SCHEDOP_shutdown, ARG)


@pytest.fixture
def threads() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.usefixtures("threads")
class TestLoop:
    def test_domains_run_at_the_same_time(self) -> None:
        machine = Machine([1, 1])
        try:
            machine.run()
        finally:
            machine.close()
        assert machine.loop.rounds > 0
        assert machine.meter.pairs == {frozenset(((1, 0), (2, 0)))}

    def test_vcpus_of_one_domain_never_do(self) -> None:
        machine = Machine([2, 2])
        try:
            machine.run()
        finally:
            machine.close()
        assert machine.meter.pairs
        for pair in machine.meter.pairs:
            assert len({domid for domid, _ in pair}) == len(pair) == 2

    def test_those_with_an_exit_every_moment_take_turns(self) -> None:
        machine = Machine([1, 1])
        for domain in machine.domains:
            domain.vcpus[0].exit_gap = 0
        machine.exits = True
        try:
            machine.run()
        finally:
            machine.close()
        assert not machine.meter.pairs

    def test_a_guest_that_shares_its_memory_runs_alone(self) -> None:
        from xenograft.hypervisor.memory.runs import RunSet

        machine = Machine([1, 1])
        machine.domains[0].pool.shared = RunSet()
        try:
            machine.run()
        finally:
            machine.close()
        assert not machine.meter.pairs

    def test_timers_of_ones_own_stop_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The other guest computes on while one sets its timers; the last one fires in time."""
        fired: list[int] = []
        computing: list[bool] = []
        fire = Vcpu.send_timer_event

        def timer_event(vcpu: Vcpu) -> None:
            # What an engine has taken isn't known while it runs.
            computing.append(machine.computing)
            fired.append(vcpu.domain.hypervisor.clock.now())
            fire(vcpu)

        monkeypatch.setattr(Vcpu, "send_timer_event", timer_event)
        machine = WithTimers(fired)
        try:
            machine.run()
        finally:
            machine.close()
        assert computing == [False]
        assert fired[0] >= machine.due
        assert 1 <= machine.rounds_then <= 10

    def test_those_who_only_set_their_timers_get_to_run_at_once(self) -> None:
        """Also if they have begun by taking turns, which leaves each half of the time."""
        machine = Ticking([1, 1])
        for domain in machine.domains:
            domain.vcpus[0].exit_gap = 0
        try:
            machine.run()
        finally:
            machine.close()
        assert machine.meter.pairs

    def test_one_ends_the_other_one(self) -> None:
        """What an exit asks for may be the end of a guest whose exit waits to be looked at."""
        machine = Machine([1, 1])
        other = machine.domains[1]
        machine.domains[0].on_shutdown.append(lambda _domain: machine.xen.destroy_domain(other))
        machine.domains[0].vcpus[0].exit_gap = machine.domains[1].vcpus[0].exit_gap
        try:
            deadline = machine.xen.clock.now() + 20 * 10**9
            machine.loop.run(lambda: machine.domains[0].is_shutting_down, deadline)
            assert machine.domains[0].is_shutting_down
            assert set(machine.xen.domains) == {1}
        finally:
            machine.close()

    def test_stop_is_heard(self) -> None:
        machine = Machine([1, 1])
        machine.steps = 10_000
        timer = threading.Timer(0.1, machine.loop.stop)
        timer.start()
        try:
            begin = time.monotonic()
            machine.loop.run(None, machine.xen.clock.now() + 20 * 10**9)
            assert time.monotonic() - begin < 10
        finally:
            machine.close()
            timer.join()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Several physical CPUs on one thread and the virtual clock."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.hypervisor.support import IF, Bench, Guest
from tests.hypervisor.test_apic import apic_write, enable
from tests.hypervisor.test_loop import Spin
from xenograft.abi.domctl import XEN_SCHEDULER_ARINC653
from xenograft.abi.vcpu import RUNSTATE_running
from xenograft.engine import fake
from xenograft.engine.fake import FakeCpu, halt
from xenograft.engine.protocol import Exit, ExitReason
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.loop import WINDOW_NS, Loop, Stop
from xenograft.hypervisor.sched.arinc653 import Arinc653, MinorFrame, Schedule
from xenograft.hypervisor.sched.topology import Topology

MS = 1_000_000


class Many(Bench):
    """A machine of several CPUs; `runs` has (domid, vcpu, begin, end) of each stretch of code."""

    def __init__(self, *scripts: Any, cpus: int = 2, **more: Any) -> None:
        self.runs: list[tuple[int, int, int, int]] = []
        super().__init__(*scripts, topology=Topology.of(cores=cpus), **more)

    def start(self, vcpu: Any) -> None:
        super().start(vcpu)
        cpu, run = vcpu.cpu, vcpu.cpu.run

        def timed(budget: int, deadline: int = 0, /) -> Exit:
            begin = cpu.instructions()
            exit_: Exit = run(budget, deadline)
            who = (vcpu.domain.domid, vcpu.vcpu_id)
            self.runs.append((*who, begin, cpu.instructions()))
            return exit_

        cpu.run = timed

    def wake_later(self, cpu: FakeCpu, after: int) -> None:
        """An event for a vCPU of the first domain."""
        vcpu = self.domain.vcpus[cpu.index]
        self.xen.timers.add(cpu.instructions() + after, vcpu.mark_events_pending)

    def add_guest(self, *scripts: Any) -> Domain:
        self.engine.scripts.update(enumerate(scripts))
        domain = self.add_domain(len(scripts))
        for vcpu in domain.vcpus:
            self.start(vcpu)
        domain.unpause()
        return domain


def test_domains_run_at_the_same_time() -> None:
    bench = Many(Spin())
    other = bench.add_guest(Spin())
    assert bench.run(until=lambda: False, deadline=20 * MS) is Stop.TIMEOUT
    for domain in (bench.domain, other):
        ran = domain.vcpus[0].runstate_now()[2][RUNSTATE_running]
        assert 20 * MS - WINDOW_NS <= ran <= 20 * MS
    assert bench.xen.meter.read().unaccounted_ns == 0


def test_no_cpu_is_more_than_a_window_ahead() -> None:
    bench = Many(Spin(), cpus=3)
    bench.add_guest(Spin())
    bench.add_guest(Spin())
    bench.run(until=lambda: False, deadline=20 * MS)
    at: dict[int, int] = {}
    for domid, _, _, end in bench.runs:
        at[domid] = end
        if len(at) == 3:
            assert max(at.values()) - min(at.values()) <= WINDOW_NS


def test_vcpus_of_a_domain_never_run_at_the_same_time() -> None:
    bench = Many(Spin(), Spin())
    bench.run(until=lambda: False, deadline=20 * MS)
    runs = sorted((begin, end, vcpu) for _, vcpu, begin, end in bench.runs)
    for (_, end, _), (begin, _, _) in itertools.pairwise(runs):
        assert begin >= end
    used = [sum(e - b for b, e, v in runs if v == vcpu) for vcpu in (0, 1)]
    assert sum(used) == pytest.approx(20 * MS, rel=0.02)
    assert min(used) > 9 * MS


def test_one_that_spins_gives_its_sibling_the_turn() -> None:
    """Two vCPUs on two CPUs: the one waits for the other, a PAUSE at a time."""
    flag: list[int] = []

    def waits(cpu: FakeCpu) -> Guest:
        while not flag:
            yield fake.make_exit(ExitReason.PAUSE)
        yield halt(False)

    def works(cpu: FakeCpu) -> Guest:
        for _ in range(20):
            yield fake.io_in(0x60)
        flag.append(cpu.instructions())
        yield halt(False)

    bench = Many(waits, works)
    assert bench.run(deadline=50 * MS) is Stop.DONE
    assert flag[0] < 2 * WINDOW_NS


def test_timers_are_met_to_the_ns_on_all_cpus() -> None:
    bench = Many(Spin(), cpus=2)
    bench.add_guest(Spin())
    ran: list[int] = []
    for at in (1_234_567, 1_234_568, 7 * MS + 1):
        bench.xen.timers.add(at, lambda: ran.append(bench.now))
    bench.run(until=lambda: False, deadline=10 * MS)
    assert ran == [1_234_567, 1_234_568, 7 * MS + 1]


def test_an_event_reaches_a_cpu_that_is_behind_or_ahead() -> None:
    def sender(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield enable()
        for _ in range(30):
            bench.wake_later(cpu, 50_000)
            yield halt(True)
            yield apic_write(0x310, 2 << 24)
            yield apic_write(0x300, 0xE0)

    def receiver(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield enable()
        while True:
            yield halt(True)
            yield apic_write(0xB0, 0)  # end of interrupt

    bench = Many(sender, receiver)
    bench.use_callback()
    hog = bench.add_guest(Spin())
    bench.run(until=lambda: False, deadline=5 * MS)
    assert len(bench.cpu(1).entered) > 5
    for vcpu in (*bench.domain.vcpus, *hog.vcpus):
        assert sum(vcpu.runstate_now()[2]) >= 5 * MS - WINDOW_NS
        assert min(vcpu.runstate_now()[2]) >= 0
    assert bench.xen.meter.read().unaccounted_ns == 0


def trace(cpus: int, host_slice: int) -> list[object]:
    def worker(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        for step in range(40):
            for _ in range(step % 5 * 7):
                yield fake.make_exit(ExitReason.PAUSE)
            bench.wake_later(cpu, step * 11_000)
            yield halt(True)

    bench = Many(worker, worker, Spin(), cpus=cpus)
    bench.add_guest(Spin(), Spin())
    bench.loop = Loop(bench.xen, host_slice=host_slice)
    bench.use_callback()
    heard: list[object] = []

    class Listener:
        def exit(self, *args: object) -> None:
            heard.append(args)

        def sched_decision(self, *args: object) -> None:
            heard.append(args)

    bench.xen.instruments.add(Listener())
    bench.run(until=lambda: False, deadline=30 * MS)
    return heard


@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_the_length_of_slices_changes_nothing(cpus: int) -> None:
    expected = trace(cpus, 8_000_000)
    assert len(expected) > 50
    assert trace(cpus, 33_333) == expected
    assert trace(cpus, 1_000_003) == expected


def test_windows_of_arinc653_are_kept_by_guests_that_sleep_and_wake() -> None:
    def worker(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        while True:
            bench.wake_later(cpu, 300_000)
            yield halt(True)

    bench = Many(worker, cpus=1, sched_id=XEN_SCHEDULER_ARINC653)
    bench.use_callback()
    scheduler = bench.xen.pools.get(0).scheduler
    assert isinstance(scheduler, Arinc653)
    frame = MinorFrame(bench.domain.sched.uuid, 0, 2 * MS)
    scheduler.set_schedule(Schedule(10 * MS, (frame,)), 0)
    bench.run(until=lambda: False, deadline=100 * MS)
    assert len(bench.runs) > 40
    for _, _, begin, end in bench.runs:
        assert begin % (10 * MS) <= 2 * MS
        # An exit ends at the block's border.
        assert (end - 1) // (10 * MS) == begin // (10 * MS) or end - begin < 2000


def test_idle_machines_are_idle_with_any_scheduler() -> None:
    for scheduler in (5, 6, 7, 8, 9):
        bench = Many([halt()], cpus=2, sched_id=scheduler)
        if scheduler == XEN_SCHEDULER_ARINC653:
            arinc = bench.xen.pools.get(0).scheduler
            assert isinstance(arinc, Arinc653)
            frame = MinorFrame(bench.domain.sched.uuid, 0, MS)
            arinc.set_schedule(Schedule(5 * MS, (frame,)), 0)
        assert bench.run(deadline=None) is Stop.IDLE

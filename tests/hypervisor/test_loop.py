# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine loop: who runs when, for how long, and that slices don't matter."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from tests.hypervisor.support import IF, Bench, Guest, op
from xenograft.abi.sched import (
    SCHEDOP_yield,
    SHUTDOWN_crash,
    SHUTDOWN_poweroff,
    SHUTDOWN_reboot,
)
from xenograft.abi.vcpu import RUNSTATE_blocked, RUNSTATE_offline, RUNSTATE_running
from xenograft.abi.xen import VIRQ_TIMER
from xenograft.engine import fake
from xenograft.engine.fake import FakeCpu, halt
from xenograft.engine.protocol import Exit, ExitReason
from xenograft.hypervisor.loop import LOOK_UP_NS, Loop, Stop, signals_stop
from xenograft.hypervisor.sched.constants import SCHED_DEFAULT_RATELIMIT_US

BUDGET = fake.make_exit(ExitReason.BUDGET)
MS = 1_000_000
RATELIMIT_NS = SCHED_DEFAULT_RATELIMIT_US * 1000


class Spin:
    """A guest that computes for ever: every run uses up its budget."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []

    def __call__(self, cpu: FakeCpu) -> Exit:
        return BUDGET


class TestStops:
    def test_done(self) -> None:
        bench = Bench([halt(False)])
        assert bench.run() is Stop.DONE
        assert bench.domain.shutdown_reason == SHUTDOWN_poweroff

    def test_done_already(self) -> None:
        bench = Bench(Spin())
        assert bench.run(until=lambda: True) is Stop.DONE
        assert bench.now == 0

    def test_timeout(self) -> None:
        bench = Bench(Spin())
        assert bench.run(deadline=3 * MS) is Stop.TIMEOUT
        assert bench.now == 3 * MS

    def test_a_timeout_of_an_idle_machine_costs_nothing(self) -> None:
        bench = Bench([halt()])
        assert bench.run(deadline=10**18) is Stop.TIMEOUT
        assert bench.now == 10**18

    def test_idle(self) -> None:
        assert Bench([halt()]).run(deadline=None) is Stop.IDLE

    def test_stop_from_another_thread(self) -> None:
        bench = Bench(Spin())
        threading.Thread(target=bench.loop.stop).start()
        assert bench.run(deadline=None) is Stop.INTERRUPTED

    def test_a_stop_ends_one_run_only(self) -> None:
        bench = Bench(Spin())
        bench.loop.stop()
        assert bench.run() is Stop.INTERRUPTED
        assert bench.run(deadline=MS) is Stop.TIMEOUT

    def test_signals(self) -> None:
        bench = Bench(Spin())
        bench.xen.timers.add(2 * MS, lambda: os.kill(os.getpid(), signal.SIGINT))
        before = signal.getsignal(signal.SIGINT)
        with signals_stop(bench.loop) as caught:
            assert bench.run(deadline=None) is Stop.INTERRUPTED
        assert caught == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is before

    def test_signals_stay_alone_in_other_threads(self) -> None:
        bench = Bench(Spin())
        seen: list[object] = []

        def work() -> None:
            with signals_stop(bench.loop) as caught:
                seen.append(caught)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [[]]


class TestTime:
    def test_timers_run_when_the_guests_progress_reaches_them(self) -> None:
        bench = Bench(Spin())
        ran: list[int] = []
        for at in (5 * MS, 2 * MS, 2 * MS + 1):
            bench.xen.timers.add(at, lambda: ran.append(bench.now))
        bench.run(deadline=6 * MS)
        assert ran == [2 * MS, 2 * MS + 1, 5 * MS]

    def test_an_idle_machine_jumps_to_the_next_timer(self) -> None:
        bench = Bench([halt()])
        ran: list[int] = []
        bench.xen.timers.add(3600 * 10**9, lambda: ran.append(bench.now))
        bench.run(deadline=4000 * 10**9)
        assert ran == [3600 * 10**9]

    def test_all_vcpus_count_on_from_the_machines_time(self) -> None:
        bench = Bench(Spin(), Spin())
        bench.run(deadline=10 * MS)
        counts = sorted(bench.cpu(index).instructions() for index in (0, 1))
        # The one that runs is at the machine's time; the other one turn behind, or two.
        assert counts[1] == bench.now
        assert counts[1] - counts[0] <= 2 * RATELIMIT_NS


class TestScheduling:
    def test_busy_vcpus_take_turns_by_quantum(self) -> None:
        bench = Bench(Spin(), Spin(), Spin())
        bench.run(deadline=9 * MS)
        for vcpu in bench.domain.vcpus:
            assert vcpu.runstate_now()[2][RUNSTATE_running] == 3 * MS

    def test_a_lone_vcpu_is_never_switched_out(self) -> None:
        bench = Bench(Spin())
        entered: list[int] = []

        class Listener:
            def run_enter(self, time: int, domid: int, vcpu: int) -> None:
                entered.append(time)

        bench.xen.instruments.add(Listener())
        bench.run(deadline=50 * MS)
        assert entered == [0]

    def test_woken_vcpus_run_in_the_order_of_waking(self) -> None:
        order: list[int] = []

        def waits(index: int) -> Callable[[FakeCpu], Guest]:
            def script(cpu: FakeCpu) -> Guest:
                cpu.registers["rflags"] |= IF
                yield halt(True)
                order.append(index)

            return script

        bench = Bench(*(waits(index) for index in range(4)))
        bench.use_callback()
        for index, at in ((2, MS), (0, MS), (3, 2 * MS), (1, MS)):
            vcpu = bench.domain.vcpus[index]
            bench.xen.timers.add(at, vcpu.mark_events_pending)
        bench.run()
        assert order == [2, 0, 1, 3]

    def test_paused_domains_do_not_run(self) -> None:
        bench = Bench(Spin())
        bench.domain.pause()
        assert bench.run(deadline=None) is Stop.IDLE
        assert bench.cpu().instructions() == 0
        bench.domain.unpause()
        assert bench.run(deadline=MS) is Stop.TIMEOUT

    def test_pauses_nest(self) -> None:
        bench = Bench([halt(False)])
        bench.domain.pause()
        bench.domain.pause()
        bench.domain.unpause()
        assert bench.run(deadline=None) is Stop.IDLE
        bench.domain.unpause()
        assert bench.run() is Stop.DONE
        with pytest.raises(Exception, match="EINVAL"):
            bench.domain.unpause()

    def test_runstates_cover_all_the_time(self) -> None:
        def sleeper(cpu: FakeCpu) -> Guest:
            cpu.registers["rflags"] |= IF
            for _ in range(5):
                yield op("set_timer_op", cpu.instructions() + MS)
                yield halt(True)

        bench = Bench(sleeper, Spin(), vcpus=3)
        bench.use_callback()
        bench.domain.events.bind_virq(VIRQ_TIMER, 0)
        bench.run(until=lambda: bench.domain.vcpus[0].down, deadline=20 * MS)
        for vcpu in bench.domain.vcpus:
            state, _, times = vcpu.runstate_now()
            assert sum(times) == bench.now
        assert bench.domain.vcpus[2].runstate_now()[2] == [0, 0, 0, bench.now]
        assert bench.domain.vcpus[0].runstate_now()[2][RUNSTATE_blocked] > 3 * MS
        assert state == RUNSTATE_offline


class TestSlices:
    """A run on the virtual clock is the same however often the host looks up."""

    @staticmethod
    def trace(host_slice: int, posts: int = 0) -> list[tuple[object, ...]]:
        def worker(cpu: FakeCpu) -> Guest:
            cpu.registers["rflags"] |= IF
            for step in range(30):
                for _ in range(step % 5 * 7):
                    yield BUDGET_OF[0](cpu)
                yield op("set_timer_op", cpu.instructions() + step * 11_000)
                yield halt(True) if step % 3 else op("sched_op", SCHEDOP_yield, 0)

        # A block border every 1,000 instructions: how the engine would stop at a budget.
        def border(_cpu: FakeCpu) -> Exit:
            return fake.make_exit(ExitReason.PAUSE)

        BUDGET_OF = [border]
        heard: list[tuple[object, ...]] = []

        class Listener:
            def exit(self, *args: object) -> None:
                heard.append(args)

            def run_enter(self, *args: object) -> None:
                heard.append(args)

            def vcpu_state(self, *args: object) -> None:
                heard.append(args)

        bench = Bench(worker, worker, Spin())
        bench.loop = Loop(bench.xen, host_slice=host_slice)
        bench.use_callback()
        for vcpu in (0, 1):
            bench.domain.events.bind_virq(VIRQ_TIMER, vcpu)
        bench.xen.instruments.add(Listener())
        for _ in range(posts):
            bench.xen.door.post(lambda: None)
        done = lambda: bench.domain.vcpus[0].down and bench.domain.vcpus[1].down  # noqa: E731
        bench.run(until=done, deadline=60 * MS)
        heard.append((bench.now,))
        return heard

    @pytest.mark.parametrize("host_slice", [5_003, 77_777, 1_000_003])
    def test_the_length_of_slices_changes_nothing(self, host_slice: int) -> None:
        expected = self.trace(8_000_000)
        assert len(expected) > 100
        assert self.trace(host_slice) == expected

    def test_looking_up_for_the_host_changes_nothing(self) -> None:
        assert self.trace(50_000, posts=20) == self.trace(8_000_000)

    def test_stopping_and_going_on_changes_nothing(self) -> None:
        def run(steps: list[int]) -> tuple[int, list[int]]:
            bench = Bench(Spin(), Spin())
            for step in steps:
                bench.run(deadline=step)
            return bench.now, [sum(v.runstate_now()[2][:1]) for v in bench.domain.vcpus]

        assert run([7 * MS]) == run([MS // 3, MS, 2 * MS + 7, 5 * MS, 7 * MS])


class TestExits:
    def answers(self, *exits: Exit) -> list[tuple[int, ...]]:
        bench = Bench(exits)
        bench.run()
        return [answer.values for _, answer in bench.cpu().answers if answer.kind != "none"]

    def test_ports_and_holes_read_ones(self) -> None:
        assert self.answers(fake.io_in(0x60), fake.mmio_read(0xE0000000, 8)) == [
            (0xFF, 0, 0, 0),
            ((1 << 64) - 1, 0, 0, 0),
        ]

    def test_the_debug_port_prints(self) -> None:
        bench = Bench([fake.io_out(0xE9, byte) for byte in b"hi!\n"])
        bench.run()
        assert "(d1) hi!\n" in bench.xen.log.text()

    def test_the_local_apic_answers_in_its_page(self) -> None:
        version = self.answers(fake.mmio_read(0xFEE00030))[0][0]
        assert version == 0x50014

    def test_cpuid_and_msrs(self) -> None:
        values = self.answers(fake.cpuid(1), fake.msr_read(0x1B), fake.msr_read(0x12345))
        assert values[0][0] == 0x30661
        assert values[1][0] == 0xFEE00900
        assert values[2] == (13, 0, -1)

    def test_a_write_of_an_unknown_msr_is_gp(self) -> None:
        assert self.answers(fake.msr_write(0x12345, 0)) == [(13, 0, -1)]

    def test_cr8_is_the_local_apics_priority(self) -> None:
        cr8 = 1 << 32 | 8
        values = self.answers(
            fake.msr_write(cr8, 5), fake.msr_read(cr8), fake.mmio_read(0xFEE00080)
        )
        assert [value[0] for value in values] == [0, 5, 0x50]

    def test_reserved_bits_of_cr8_are_gp(self) -> None:
        assert self.answers(fake.msr_write(1 << 32 | 8, 0x10)) == [(13, 0, -1)]

    def test_code_in_a_hole_is_gp(self) -> None:
        assert self.answers(fake.stage2(0xE0000000, 2)) == [(13, 0, -1)]

    def test_a_triple_fault_is_a_reboot_unless_told(self) -> None:
        bench = Bench([fake.shutdown()])
        bench.run()
        assert bench.domain.shutdown_reason == SHUTDOWN_reboot
        assert bench.domain.crash_report is not None
        other = Bench([fake.shutdown()])
        other.domain.hvm_params[31] = SHUTDOWN_crash
        other.run()
        assert other.domain.shutdown_reason == SHUTDOWN_crash

    def test_a_failure_of_the_engine_is_a_crash(self) -> None:
        bench = Bench([fake.make_exit(ExitReason.ERROR, 10, 0x1234)])
        bench.run()
        assert bench.domain.shutdown_reason == SHUTDOWN_crash
        assert "0x1234" in (bench.domain.crash_report or "")

    def test_exits_are_watched_but_not_those_for_the_host(self) -> None:
        heard: list[int] = []

        class Listener:
            def exit(self, time: int, domid: int, vcpu: int, exit: Exit) -> None:
                heard.append(exit[0])

        bench = Bench([BUDGET, fake.io_in(0x60), fake.make_exit(ExitReason.KICK), halt(False)])
        bench.xen.instruments.add(Listener())
        bench.run()
        assert heard == [ExitReason.IO_IN, ExitReason.HALT]


class TestHalt:
    def test_with_interrupts_off_the_vcpu_goes_down_and_the_last_is_a_power_off(self) -> None:
        bench = Bench([halt(False)], [halt(True)])
        bench.run(until=lambda: bench.domain.vcpus[0].down, deadline=MS)
        assert bench.domain.shutdown_reason is None
        assert bench.domain.vcpus[0].down
        assert bench.domain.vcpus[1].blocked
        bench.domain.vcpus[1].unblock()
        bench.run()
        assert bench.domain.shutdown_reason == SHUTDOWN_poweroff

    def test_with_something_pending_it_does_not_sleep(self) -> None:
        bench = Bench([halt(True), fake.io_in(1)])
        bench.use_callback()
        bench.domain.vcpus[0].mark_events_pending()
        bench.run()
        assert bench.now < MS
        assert bench.cpu().entered == [0xF3]


def test_what_was_put_off_until_idleness_is_done_before_time_passes() -> None:
    """A vCPU that halts leaves room for it; a busy one doesn't, but for its timer."""
    bench = Bench([BUDGET, halt(True), halt(True)])
    came: list[int] = []

    def call() -> None:
        del bench.xen.when_idle[call]
        came.append(bench.now)

    bench.xen.when_idle[call] = None
    assert bench.run(deadline=50 * MS) is Stop.TIMEOUT
    assert len(came) == 1
    assert came[0] < 50 * MS
    spinning = Bench(Spin())
    spinning.xen.when_idle[call] = None
    assert spinning.run(deadline=5 * MS) is Stop.TIMEOUT
    assert len(came) == 1


class TestTheLastToHalt:
    """What waits for idleness is done before the only vCPU that runs has left its CPU."""

    @staticmethod
    def woken(others: int = 0) -> tuple[Bench, list[int]]:
        """A vCPU that halts again and again, and is sent an event whenever all is idle."""

        def sleeper(cpu: FakeCpu) -> Guest:
            cpu.registers["rflags"] |= IF
            while True:
                yield halt(True)
                cpu.skip(9_000)
                yield fake.io_in(1)
                bench.domain.memory.write(bench.domain.vcpus[0].vcpu_info_maddr or 0, b"\0")
                bench.xen.when_idle[call] = None

        bench = Bench(sleeper, *[Spin()] * others)
        bench.use_callback()
        times: list[int] = []

        def call() -> None:
            del bench.xen.when_idle[call]
            assert bench.xen.idling
            times.append(bench.now)
            bench.xen.attention = len(times) == 100
            bench.domain.vcpus[0].mark_events_pending()

        bench.xen.when_idle[call] = None
        return bench, times

    def test_it_goes_on_without_a_decision(self) -> None:
        bench, times = self.woken()
        states: list[int] = []

        class Listener:
            def vcpu_state(self, time: int, domid: int, vcpu: int, state: int) -> None:
                states.append(state)

        bench.xen.instruments.add(Listener())
        before = bench.xen.sched.decisions
        bench.run(until=lambda: len(times) >= 100, deadline=100 * MS)
        assert len(times) >= 100
        assert bench.xen.sched.decisions <= before + 3
        assert RUNSTATE_blocked not in states
        assert not bench.xen.idling

    def test_others_have_work(self) -> None:
        bench, times = self.woken(others=1)
        bench.run(deadline=5 * MS)
        assert not times

    def test_the_host_is_looked_after_all_the_same(self) -> None:
        bench, times = self.woken()
        reader, writer = os.pipe()
        seen: list[int] = []

        def ready() -> None:
            os.read(reader, 1)
            seen.append(bench.now)

        bench.xen.door.watch(reader, ready)
        try:
            bench.xen.timers.add(MS, lambda: os.write(writer, b"x"))
            bench.run(deadline=10 * MS)
            assert len(times) > 500
            assert len(seen) == 1
            assert seen[0] < MS + 2 * LOOK_UP_NS
        finally:
            bench.xen.door.unwatch(reader)
            os.close(reader)
            os.close(writer)

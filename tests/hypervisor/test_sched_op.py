# SPDX-License-Identifier: GPL-2.0-or-later
"""sched_op, by guests that run."""

from __future__ import annotations

import pytest

from tests.hypervisor.support import ARG, IF, Bench, Guest, errno, op, returned
from xenograft.abi import sched
from xenograft.abi.errno import Errno
from xenograft.abi.xen import VIRQ_TIMER
from xenograft.engine.fake import FakeCpu, halt, pause
from xenograft.hypervisor.loop import Stop

MS = 1_000_000


def shutdown_with(bench: Bench, reason: int, at: int = ARG) -> None:
    bench.put(sched.sched_shutdown(reason=reason), at=at)


@pytest.mark.parametrize(
    ("reason", "name"), [(reason, name) for reason, name in sched.SHUTDOWN_NAMES.items()]
)
def test_shutdown_with_every_reason(reason: int, name: str) -> None:
    bench = Bench([op("sched_op", sched.SCHEDOP_shutdown, ARG)])
    shutdown_with(bench, reason)
    assert bench.run() is Stop.DONE
    assert bench.domain.shutdown_reason == reason
    assert bench.domain.vcpus[0].paused


def test_only_the_low_byte_of_a_reason_counts() -> None:
    bench = Bench()
    bench.do("sched_op", sched.SCHEDOP_shutdown, sched.sched_shutdown(reason=0x10003))
    assert bench.domain.shutdown_reason == sched.SHUTDOWN_crash


def test_the_first_shutdown_code_wins() -> None:
    bench = Bench()
    for reason in (sched.SHUTDOWN_crash, sched.SHUTDOWN_reboot):
        arg = sched.sched_shutdown(reason=reason)
        assert bench.do("sched_op", sched.SCHEDOP_shutdown_code, arg) == 0
    assert bench.domain.shutdown_reason is None
    arg = sched.sched_shutdown(reason=sched.SHUTDOWN_poweroff)
    bench.do("sched_op", sched.SCHEDOP_shutdown, arg)
    assert bench.domain.shutdown_reason == sched.SHUTDOWN_crash


def test_resume_after_suspend_lets_the_vcpus_go_on() -> None:
    bench = Bench([op("sched_op", sched.SCHEDOP_shutdown, ARG), op("xen_version", 0, 0)])
    shutdown_with(bench, sched.SHUTDOWN_suspend)
    bench.run()
    bench.domain.resume()
    assert bench.domain.shutdown_reason is None
    bench.run()
    # The script has ended: HLT with interrupts off.
    assert bench.domain.shutdown_reason == sched.SHUTDOWN_poweroff


def test_block_wakes_by_an_event() -> None:
    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield op("set_timer_op", 5 * MS)
        yield op("sched_op", sched.SCHEDOP_block, 0)

    bench = Bench(guest)
    bench.domain.events.bind_virq(VIRQ_TIMER, 0)
    bench.xen.timers.add(5 * MS, lambda: None)
    bench.run()
    assert bench.now >= 5 * MS
    assert returned(bench.cpu()) == [0, 0]


def test_block_returns_at_once_if_an_event_waits() -> None:
    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield op("sched_op", sched.SCHEDOP_block, 0)

    bench = Bench(guest)
    bench.use_callback()
    bench.domain.vcpus[0].mark_events_pending()
    bench.run()
    assert bench.now < MS


def test_block_with_nothing_to_come_is_idleness() -> None:
    bench = Bench([op("sched_op", sched.SCHEDOP_block, 0)])
    assert bench.run(deadline=None) is Stop.IDLE
    assert bench.domain.vcpus[0].blocked


def test_poll_times_out() -> None:
    bench = Bench([op("sched_op", sched.SCHEDOP_poll, ARG)])
    bench.put(sched.sched_poll(ports=0, nr_ports=0, timeout=7 * MS))
    bench.run()
    assert 7 * MS <= bench.now < 8 * MS
    assert returned(bench.cpu()) == [0]
    assert len(bench.xen.timers) == 0


def test_poll_returns_when_a_port_is_pending_already() -> None:
    bench = Bench()
    port = bench.domain.events.bind_ipi(0)
    bench.domain.events.send(port)
    bench.put(sched.sched_poll(ports=ARG + 64, nr_ports=1, timeout=0))
    bench.domain.space.write(ARG + 64, port.to_bytes(4, "little"))
    assert bench.do("sched_op", sched.SCHEDOP_poll, ARG) == 0
    assert not bench.domain.vcpus[0].blocked


def test_poll_wakes_by_its_port_alone() -> None:
    bench = Bench()
    events = bench.domain.events
    wanted, other = events.bind_ipi(0), events.bind_ipi(0)
    for port in (wanted, other):
        # Masked ports don't raise an upcall; polling sees them all the same.
        word = bench.domain.shared_info_maddr + 0xA00
        bench.domain.memory.test_and_set_bit(word, port)
    bench.put(sched.sched_poll(ports=ARG + 64, nr_ports=1, timeout=0))
    bench.domain.space.write(ARG + 64, wanted.to_bytes(4, "little"))
    assert bench.do("sched_op", sched.SCHEDOP_poll, ARG) == 0
    vcpu = bench.domain.vcpus[0]
    assert vcpu.blocked
    events.send(other)
    assert vcpu.blocked
    events.send(wanted)
    assert not vcpu.blocked


def test_poll_checks_its_arguments() -> None:
    bench = Bench()
    many = sched.sched_poll(ports=ARG + 64, nr_ports=129, timeout=0)
    assert errno(bench.do("sched_op", sched.SCHEDOP_poll, many)) is Errno.EINVAL
    bad = sched.sched_poll(ports=1 << 40, nr_ports=1, timeout=0)
    assert errno(bench.do("sched_op", sched.SCHEDOP_poll, bad)) is Errno.EFAULT
    unbound = sched.sched_poll(ports=ARG + 512, nr_ports=1, timeout=0)
    assert errno(bench.do("sched_op", sched.SCHEDOP_poll, unbound)) is Errno.EINVAL
    assert not bench.domain.vcpus[0].blocked


def test_yield_lets_the_other_vcpu_run() -> None:
    order: list[int] = []

    def guest(index: int):  # type: ignore[no-untyped-def]
        def script(cpu: FakeCpu) -> Guest:
            for _ in range(3):
                order.append(index)
                yield op("sched_op", sched.SCHEDOP_yield, 0)

        return script

    bench = Bench(guest(0), guest(1))
    bench.run()
    assert order == [0, 1, 0, 1, 0, 1]


def test_a_vcpu_that_spins_yields_when_others_are_ready() -> None:
    done: list[str] = []

    def spinner(cpu: FakeCpu) -> Guest:
        while not done:
            yield pause()

    def worker(cpu: FakeCpu) -> Guest:
        for _ in range(5):
            yield op("xen_version", 0, 0)
        done.append("worker")
        yield halt(False)

    bench = Bench(spinner, worker)
    bench.run()
    assert done == ["worker"]
    assert sum(exit_[0] == 11 for exit_, _ in bench.cpu(0).answers) <= 2


class TestWatchdog:
    def set(self, bench: Bench, ident: int, timeout: int) -> int:
        arg = sched.sched_watchdog(id=ident, timeout=timeout)
        return bench.do("sched_op", sched.SCHEDOP_watchdog, arg)

    def test_it_bites_after_its_time(self) -> None:
        bench = Bench([halt()])
        assert self.set(bench, 0, 3) == 1
        bench.run()
        assert bench.domain.shutdown_reason == sched.SHUTDOWN_watchdog
        assert bench.now == 3_000_000_000

    def test_renewed_it_waits_again(self) -> None:
        bench = Bench([halt()])
        self.set(bench, 0, 3)
        bench.xen.clock.advance_to(2_000_000_000)
        assert self.set(bench, 1, 3) == 0
        bench.run()
        assert bench.now == 5_000_000_000

    def test_stopped_it_never_bites(self) -> None:
        bench = Bench([halt()])
        self.set(bench, 0, 3)
        assert self.set(bench, 1, 0) == 0
        assert bench.run(deadline=10_000_000_000) is Stop.TIMEOUT
        # Its number is free again.
        assert self.set(bench, 0, 3) == 1

    def test_there_are_two(self) -> None:
        bench = Bench()
        assert [self.set(bench, 0, 9), self.set(bench, 0, 9)] == [1, 2]
        assert errno(self.set(bench, 0, 9)) is Errno.ENOSPC
        assert errno(self.set(bench, 3, 9)) is Errno.EINVAL
        self.set(bench, 2, 0)
        assert errno(self.set(bench, 2, 9)) is Errno.EINVAL

    def test_state_is_kept(self) -> None:
        bench = Bench([halt()])
        self.set(bench, 0, 9)
        self.set(bench, 0, 4)
        record = bench.domain.watchdogs.save()
        assert record == ((1, 9_000_000_000), (2, 4_000_000_000))
        bench.domain.watchdogs.restore(record)
        assert bench.domain.watchdogs.save() == record
        assert len(bench.xen.timers) == 2


def test_remote_shutdown_needs_privilege() -> None:
    bench = Bench()
    other = bench.add_domain()
    arg = sched.sched_remote_shutdown(domain_id=other.domid, reason=sched.SHUTDOWN_reboot)
    assert errno(bench.do("sched_op", sched.SCHEDOP_remote_shutdown, arg)) is Errno.EPERM
    control = bench.add_domain(privileged=True)
    result = bench.do("sched_op", sched.SCHEDOP_remote_shutdown, arg, domain=control)
    assert result == 0
    assert other.shutdown_reason == sched.SHUTDOWN_reboot
    nobody = sched.sched_remote_shutdown(domain_id=99, reason=0)
    assert errno(bench.do("sched_op", sched.SCHEDOP_remote_shutdown, nobody)) is Errno.ESRCH


def test_a_device_model_may_shut_down_the_domain_it_serves() -> None:
    bench = Bench()
    served = bench.add_domain()
    bench.domain.target = served
    arg = sched.sched_remote_shutdown(domain_id=served.domid, reason=sched.SHUTDOWN_reboot)
    assert bench.do("sched_op", sched.SCHEDOP_remote_shutdown, arg) == 0


def test_pin_override_is_the_hardware_domains() -> None:
    bench = Bench()
    arg = sched.sched_pin_override(pcpu=0)
    assert errno(bench.do("sched_op", sched.SCHEDOP_pin_override, arg)) is Errno.EPERM
    bench.domain.is_hardware = True
    assert bench.do("sched_op", sched.SCHEDOP_pin_override, arg) == 0
    assert errno(bench.do("sched_op", sched.SCHEDOP_pin_override, arg)) is Errno.EBUSY
    undo, wrong = sched.sched_pin_override(pcpu=-1), sched.sched_pin_override(pcpu=7)
    assert errno(bench.do("sched_op", sched.SCHEDOP_pin_override, wrong)) is Errno.EINVAL
    assert bench.do("sched_op", sched.SCHEDOP_pin_override, undo) == 0
    assert errno(bench.do("sched_op", sched.SCHEDOP_pin_override, undo)) is Errno.EINVAL


def test_bad_pointers_and_numbers() -> None:
    bench = Bench()
    for cmd in (
        sched.SCHEDOP_shutdown,
        sched.SCHEDOP_shutdown_code,
        sched.SCHEDOP_poll,
        sched.SCHEDOP_watchdog,
        sched.SCHEDOP_remote_shutdown,
    ):
        assert errno(bench.do("sched_op", cmd, 1 << 46)) is Errno.EFAULT
    assert errno(bench.do("sched_op", 99, 0)) is Errno.ENOSYS
    assert bench.domain.shutdown_reason is None

# SPDX-License-Identifier: GPL-2.0-or-later
"""The public Machine and Domain, on the fake engine."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import xenograft
from tests.hypervisor.support import NUMBERS, Guest
from tests.toolstack.build.support import linux
from xenograft.abi import sched
from xenograft.abi.hvm import params
from xenograft.abi.io.console import XENCONS_OUT_SIZE, xencons_interface
from xenograft.engine import fake
from xenograft.engine.fake import FakeCpu, FakeEngine, Script, halt, hypercall
from xenograft.engine.protocol import Exit, ExitReason
from xenograft.hypervisor.loop import Stop
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import GuestEnded, Machine, ShutdownReason

BUDGET = fake.make_exit(ExitReason.BUDGET)
CONSOLE_PAGE = 0xFEFFF << 12
ARG = 0x8000
CONSOLE_PORT = 2
EVENT_CHANNEL_OP, SCHED_OP = NUMBERS["event_channel_op"], NUMBERS["sched_op"]
EVTCHNOP_send = 4


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(linux())
    return path


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    opened: list[Machine] = []

    def make(*scripts: Script, **more: object) -> Machine:
        engine = FakeEngine(dict(enumerate(scripts)))
        one = Machine(clock="virtual", engine=engine, memory=512, **more)  # type: ignore[arg-type]
        opened.append(one)
        return one

    yield make
    for one in opened:
        one.close()


def say(cpu: FakeCpu, text: str) -> Exit:
    """Write to the console's ring; the exit that follows notifies."""
    at = xencons_interface.offsetof
    prod = int.from_bytes(cpu.space.read(CONSOLE_PAGE + at("out_prod"), 4), "little")
    for byte in text.encode():
        cpu.space.write(CONSOLE_PAGE + at("out") + prod % XENCONS_OUT_SIZE, bytes([byte]))
        prod += 1
    cpu.space.write(CONSOLE_PAGE + at("out_prod"), prod.to_bytes(4, "little"))
    cpu.space.write(ARG, CONSOLE_PORT.to_bytes(4, "little"))
    return hypercall(EVENT_CHANNEL_OP, EVTCHNOP_send, ARG)


def hear(cpu: FakeCpu) -> str:
    """What was typed at the console."""
    at = xencons_interface.offsetof
    cons, prod = (
        int.from_bytes(cpu.space.read(CONSOLE_PAGE + at(name), 4), "little")
        for name in ("in_cons", "in_prod")
    )
    cpu.space.write(CONSOLE_PAGE + at("in_cons"), prod.to_bytes(4, "little"))
    return cpu.space.read(CONSOLE_PAGE + cons, prod - cons).decode()


def shut_down(cpu: FakeCpu, reason: int) -> Exit:
    cpu.space.write(ARG, reason.to_bytes(4, "little"))
    return hypercall(SCHED_OP, sched.SCHEDOP_shutdown, ARG)


def talker(cpu: FakeCpu) -> Guest:
    yield say(cpu, "Linux version 6.1\n")
    for _ in range(3):
        yield BUDGET
    yield say(cpu, "log")
    yield say(cpu, "in: ")
    while not (typed := hear(cpu)):
        yield BUDGET
    yield say(cpu, f"hello {typed}")
    yield shut_down(cpu, sched.SHUTDOWN_poweroff)


class TestConsole:
    def test_expect_send_wait(self, machine: Callable[..., Machine], kernel: Path) -> None:
        guest = machine(talker).create_pvh(kernel=kernel)
        match = guest.console.expect(r"version (\S+)")
        assert match.group(1) == "6.1"
        # A pattern may come in pieces, and is looked for behind the last match.
        guest.console.expect("login: ")
        assert guest.console.send("root\n") == 5
        guest.console.expect("hello root")
        assert guest.wait() is ShutdownReason.poweroff
        assert guest.console.output == "Linux version 6.1\nlogin: hello root\n"
        assert guest.console.raw == guest.console.output.encode()

    def test_what_was_there_already_is_found(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        guest = machine(talker).create_pvh(kernel=kernel)
        guest.console.expect("login: ")
        with pytest.raises(TimeoutError, match="before its console showed 'Linux'"):
            guest.console.expect("Linux", timeout=0.001)

    def test_a_time_out_shows_the_last_lines(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        guest = machine(talker).create_pvh(kernel=kernel)
        with pytest.raises(TimeoutError, match=r"\| login:"):
            guest.console.expect("never", timeout=0.1)

    def test_the_end_of_the_guest_ends_the_wait(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        def crasher(cpu: FakeCpu) -> Guest:
            yield say(cpu, "Kernel panic\n")
            yield shut_down(cpu, sched.SHUTDOWN_crash)

        guest = machine(crasher).create_pvh(kernel=kernel)
        with pytest.raises(GuestEnded, match=r"shut down \(crash\).*") as caught:
            guest.console.expect(re.compile("login"))
        assert caught.value.reason is ShutdownReason.crash
        assert "Kernel panic" in str(caught.value)

    def test_last_words_without_a_notification_are_kept(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        def guest(cpu: FakeCpu) -> Guest:
            say(cpu, "last words")
            yield shut_down(cpu, sched.SHUTDOWN_crash)

        domain = machine(guest).create_pvh(kernel=kernel)
        domain.wait()
        assert domain.console.output == "last words"
        domain.destroy()
        assert domain.console.output == "last words"

    def test_output_is_heard_as_it_comes(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        guest = machine(talker).create_pvh(kernel=kernel)
        heard: list[bytes] = []
        guest.console.on_output(heard.append)
        guest.console.expect("login")
        assert heard == [b"Linux version 6.1\n", b"log", b"in: "]


class TestDomain:
    @pytest.mark.parametrize("reason", list(ShutdownReason))
    def test_reasons(
        self, machine: Callable[..., Machine], kernel: Path, reason: ShutdownReason
    ) -> None:
        def guest(cpu: FakeCpu) -> Guest:
            yield shut_down(cpu, 77 if reason is ShutdownReason.unknown else int(reason))

        domain = machine(guest).create_pvh(kernel=kernel)
        assert domain.shutdown_reason is None
        assert domain.wait() is reason
        assert domain.shutdown_reason is reason
        assert str(reason) == reason.name

    def test_what_the_builder_left(self, machine: Callable[..., Machine], kernel: Path) -> None:
        one = machine()
        guest = one.create_pvh(kernel=kernel, memory="64M", vcpus=3, name="web", cmdline="a=b")
        assert (guest.name, guest.domid, guest.vcpus) == ("web", 1, 1)
        assert len(guest.xen.vcpus) == 3
        assert guest.xen.pool.tot_pages >= 64 << 8
        assert guest.xen.max_pages == guest.xen.pool.tot_pages + 256
        assert guest.xen.hvm_params[params.HVM_PARAM_CONSOLE_PFN] == 0xFEFFF
        assert guest.xen.hvm_params[params.HVM_PARAM_CONSOLE_EVTCHN] == 2
        assert guest.xen.p2m.e820[0][0] == 0
        registers = one.hypervisor.engine.cpus[0].registers  # type: ignore[attr-defined]
        assert registers["cr0"] == 0x11
        start_info = registers["rbx"]
        assert guest.xen.space.read(start_info, 4) == (0x336EC578).to_bytes(4, "little")

    def test_the_same_name_has_the_same_uuid(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        uuids = [machine().create_pvh(kernel=kernel, name="x").xen.uuid for _ in range(2)]
        assert uuids[0] == uuids[1] != bytes(16)

    def test_wait_times_out(self, machine: Callable[..., Machine], kernel: Path) -> None:
        guest = machine([halt()]).create_pvh(kernel=kernel)
        with pytest.raises(TimeoutError, match="hasn't shut down in 5 s"):
            guest.wait(timeout=5)
        assert guest.machine.now == 5.0
        with pytest.raises(TimeoutError, match="hasn't shut down any more"):
            guest.wait()

    def test_pause(self, machine: Callable[..., Machine], kernel: Path) -> None:
        guest = machine(talker).create_pvh(kernel=kernel, paused=True)
        with pytest.raises(TimeoutError):
            guest.console.expect("Linux", timeout=1)
        guest.unpause()
        guest.console.expect("Linux", timeout=1)
        guest.pause()
        assert guest.cpu_time_ns > 0

    def test_destroy_gives_everything_back(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        one = machine(talker)
        free = one.hypervisor.memory.free_frames()
        with one.create_pvh(kernel=kernel) as guest:
            guest.console.expect("login")
            assert one.domains == [guest]
        guest.destroy()
        assert one.domains == []
        assert guest.ended
        assert one.hypervisor.memory.free_frames() == free
        with pytest.raises(GuestEnded, match="was destroyed"):
            guest.wait()
        with pytest.raises(GuestEnded, match="was destroyed"):
            guest.console.expect("x")

    def test_a_name_twice(self, machine: Callable[..., Machine], kernel: Path) -> None:
        one = machine()
        one.create_pvh(kernel=kernel)
        with pytest.raises(UserError, match="there is a domain 'guest' already"):
            one.create_pvh(kernel=kernel)

    def test_too_little_machine_memory(self, machine: Callable[..., Machine], kernel: Path) -> None:
        one = machine()
        free = one.hypervisor.memory.free_frames()
        with pytest.raises(UserError, match="give it less"):
            one.create_pvh(kernel=kernel, memory=1024)
        assert one.hypervisor.memory.free_frames() == free
        assert one.domains == []

    def test_cpuid_edits_reach_the_policy(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        guest = machine().create_pvh(kernel=kernel, cpuid="host,sse4_2=0")
        assert not guest.xen.arch.policy.has("sse4-2")
        assert machine().create_pvh(kernel=kernel).xen.arch.policy.has("sse4-2")


class TestMachine:
    def test_two_guests_run_side_by_side(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        one = machine(talker)
        guests = [one.create_pvh(kernel=kernel, name=name, memory=64) for name in ("a", "b")]
        for guest in guests:
            guest.console.expect("login: ")
            guest.console.send(guest.name)
        assert one.run() is Stop.DONE
        assert [guest.console.output[-7:] for guest in guests] == ["hello a", "hello b"]

    def test_run_until(self, machine: Callable[..., Machine], kernel: Path) -> None:
        one = machine(talker)
        guest = one.create_pvh(kernel=kernel)
        assert one.run(until=lambda: "log" in guest.console.output) is Stop.DONE
        assert guest.console.output.endswith("log")
        assert one.run(timeout=1) is Stop.TIMEOUT

    def test_posted_functions_run_on_the_machine(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        one = machine([halt()])
        one.create_pvh(kernel=kernel)
        called: list[float] = []
        one.post(lambda: called.append(one.now))
        one.run(until=lambda: bool(called), timeout=1)
        assert len(called) == 1

    def test_stop(self, machine: Callable[..., Machine], kernel: Path) -> None:
        one = machine(lambda cpu: BUDGET)
        one.create_pvh(kernel=kernel)
        one.stop()
        assert one.run() is Stop.INTERRUPTED
        one.kick()
        assert one.run(timeout=0.001) is Stop.TIMEOUT

    @pytest.mark.parametrize(
        ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
    )
    def test_signals_leave_it_cleanly(
        self,
        machine: Callable[..., Machine],
        kernel: Path,
        number: signal.Signals,
        error: type[BaseException],
    ) -> None:
        one = machine(lambda cpu: BUDGET)
        guest = one.create_pvh(kernel=kernel)
        one.hypervisor.timers.add(1000, lambda: os.kill(os.getpid(), number))
        with pytest.raises(error):
            guest.wait()
        # The machine is whole: it can go on.
        assert one.run(timeout=0.01) is Stop.TIMEOUT

    def test_bad_choices(self) -> None:
        with pytest.raises(UserError, match="clock 'atomic'"):
            Machine(clock="atomic", engine=FakeEngine())  # type: ignore[arg-type]
        with pytest.raises(UserError, match="engine 'bochs'"):
            Machine(engine="bochs")

    def test_closing_twice_and_the_context(self, kernel: Path) -> None:
        with Machine(clock="virtual", engine=FakeEngine(), memory=512) as one:
            one.create_pvh(kernel=kernel)
        one.close()
        assert one.domains == []

    def test_the_log_is_the_hypervisors(
        self, machine: Callable[..., Machine], kernel: Path
    ) -> None:
        def guest(cpu: FakeCpu) -> Guest:
            for byte in b"by the port\n":
                yield fake.io_out(0xE9, byte)

        one = machine(guest)
        one.create_pvh(kernel=kernel).wait()
        assert "(d1) by the port\n" in one.log

    def test_it_is_exported(self) -> None:
        assert xenograft.Machine is Machine

# SPDX-License-Identifier: GPL-2.0-or-later
"""From standard input to a console, on a machine that consists of its door and its timers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from xenograft.cli import feed
from xenograft.cli.feed import CTRL_D, ENOUGH, FIRST_NS, LONGEST_NS, TRIES, Feeder
from xenograft.cli.terminal import Terminal
from xenograft.hypervisor.door import Door
from xenograft.hypervisor.time import VirtualClock
from xenograft.hypervisor.timers import TimerQueue
from xenograft.toolstack.machine import Domain, Machine


class FakeConsole:
    """A console whose guest reads when it's told to."""

    def __init__(self) -> None:
        self.typed = b""
        self.waiting = 0
        self.served: list[Callable[[], None]] = []
        self.listeners: list[Callable[[bytes], None]] = []
        self.backend = self

    @property
    def unread(self) -> int:
        return self.waiting

    def send(self, data: bytes) -> int:
        self.typed += data
        self.waiting += len(data)
        return len(data)

    def on_output(self, listener: Callable[[bytes], None]) -> None:
        self.listeners.append(listener)

    def guest_reads(self) -> None:
        self.waiting = 0
        for served in self.served:
            served()

    def guest_writes(self, data: bytes) -> None:
        for listener in self.listeners:
            listener(data)
        for served in self.served:
            served()


class FakeMachine:
    """A machine's door, timers and clock, a domain, and the time that passes."""

    def __init__(self, virtual: bool) -> None:
        clock = VirtualClock()
        self.time = clock
        self.timers = TimerQueue()
        self.door = Door()
        self.hypervisor = SimpleNamespace(
            clock=SimpleNamespace(virtual=virtual, now=clock.now),
            timers=self.timers,
            door=self.door,
        )
        self.stopped = 0
        self.console = FakeConsole()
        self.vcpu = SimpleNamespace(runnable=False)
        self.domain = SimpleNamespace(
            console=self.console, ended=False, xen=SimpleNamespace(vcpus=[self.vcpu])
        )

    def stop(self) -> None:
        self.stopped += 1

    def feeder(self, terminal: Terminal) -> Feeder:
        return Feeder(cast(Machine, self), terminal)

    def attach(self, feeder: Feeder) -> None:
        feeder.attach(cast(Domain, self.domain))

    def next_timer(self) -> int | None:
        """Let time pass to the next timer, and run it; returns the time."""
        due = self.timers.next_deadline()
        if due is not None:
            self.time.advance_to(due)
            self.timers.run_due(due)
        return due


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = FakeMachine(virtual=False)
    yield machine
    machine.door.close()


@pytest.fixture
def pipe() -> Iterator[tuple[Terminal, Callable[[bytes], None], Callable[[], None]]]:
    """(a terminal that reads a pipe, write to it, close it)"""
    reader, writer = os.pipe()
    open_ends = [reader, writer]

    def close() -> None:
        open_ends.remove(writer)
        os.close(writer)

    yield Terminal(reader, 1), lambda data: cast(None, os.write(writer, data)), close
    for end in open_ends:
        os.close(end)


Pipe = tuple[Terminal, Callable[[bytes], None], Callable[[], None]]


def file_terminal(path: Path, data: bytes) -> tuple[Terminal, Any]:
    path.write_bytes(data)
    file = path.open("rb")
    return Terminal(file.fileno(), 1), file


def test_what_is_typed_arrives(machine: FakeMachine, pipe: Pipe) -> None:
    terminal, write, _ = pipe
    machine.attach(machine.feeder(terminal))
    write(b"ls\n")
    machine.door.serve(5)
    assert machine.console.typed == b"ls\n"


def test_a_full_console_stops_the_reading(machine: FakeMachine, pipe: Pipe) -> None:
    terminal, write, _ = pipe
    machine.attach(machine.feeder(terminal))
    for _ in range(ENOUGH // 4096):
        write(bytes(4096))
        machine.door.serve(5)
    write(b"more")
    machine.door.serve(0)
    assert len(machine.console.typed) == ENOUGH
    machine.console.guest_reads()
    machine.door.serve(5)
    assert machine.console.typed[ENOUGH:] == b"more"


def test_a_file_is_fed_as_the_guest_reads(machine: FakeMachine, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1024
    terminal, file = file_terminal(tmp_path / "f", data)
    with file:
        machine.attach(machine.feeder(terminal))
        assert len(machine.console.typed) == ENOUGH
        for _ in range(len(data) // ENOUGH):
            machine.console.guest_reads()
        assert machine.console.typed == data
        assert terminal.input_ended


def test_on_the_virtual_clock_a_pipe_is_read_before_the_start(pipe: Pipe) -> None:
    machine = FakeMachine(virtual=True)
    terminal, write, close = pipe
    write(b"uname\n")
    close()
    machine.attach(machine.feeder(terminal))
    assert machine.console.typed == b"uname\n"
    assert terminal.input_ended
    machine.door.close()


def test_there_a_silent_pipe_is_not_waited_for(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "READ_AHEAD", 0)
    machine = FakeMachine(virtual=True)
    terminal, write, _ = pipe
    machine.attach(machine.feeder(terminal))
    write(b"late")
    machine.door.serve(5)
    assert machine.console.typed == b"late"
    machine.door.close()


class TestEndOfInput:
    @pytest.fixture
    def ended(self, machine: FakeMachine, tmp_path: Path) -> Iterator[FakeMachine]:
        """A machine whose input was one line and has ended."""
        terminal, file = file_terminal(tmp_path / "f", b"a\n")
        with file:
            machine.attach(machine.feeder(terminal))
            yield machine

    def test_a_sleeping_guest_that_has_read_all_gets_ctrl_d(self, ended: FakeMachine) -> None:
        ended.console.guest_reads()
        assert ended.next_timer() == FIRST_NS
        assert ended.console.typed == b"a\n" + CTRL_D

    def test_one_that_has_not_read_all_does_not(self, ended: FakeMachine) -> None:
        ended.next_timer()
        assert ended.console.typed == b"a\n"

    def test_one_that_runs_does_not(self, ended: FakeMachine) -> None:
        ended.console.guest_reads()
        ended.vcpu.runnable = True
        ended.next_timer()
        assert ended.console.typed == b"a\n"
        ended.vcpu.runnable = False
        ended.next_timer()
        assert ended.console.typed == b"a\n" + CTRL_D

    def test_it_comes_again_less_and_less_often(self, ended: FakeMachine) -> None:
        times = []
        for _ in range(12):
            ended.console.guest_reads()
            times.append(ended.next_timer() or 0)
        assert ended.console.typed == b"a\n" + 12 * CTRL_D
        pauses = [b - a for a, b in zip([0, *times], times, strict=False)]
        assert pauses == sorted(pauses)
        assert (pauses[0], pauses[-1]) == (FIRST_NS, LONGEST_NS)

    def test_output_makes_it_eager_again(self, ended: FakeMachine) -> None:
        for _ in range(8):
            ended.console.guest_reads()
            ended.next_timer()
        now = ended.time.now()
        ended.console.guest_writes(b"# ")
        assert ended.next_timer() == now + FIRST_NS

    def test_a_silent_guest_is_given_up(self, ended: FakeMachine) -> None:
        looks = 0
        while ended.next_timer() is not None:
            looks += 1
        assert looks == TRIES

    def test_a_guest_that_has_ended_is_left_alone(self, ended: FakeMachine) -> None:
        ended.console.guest_reads()
        ended.domain.ended = True
        ended.next_timer()
        assert ended.console.typed == b"a\n"
        assert ended.next_timer() is None


def test_leaving_stops_the_machine(machine: FakeMachine) -> None:
    import pty

    controller, end = pty.openpty()
    try:
        with Terminal(end, end) as terminal:
            machine.attach(machine.feeder(terminal))
            os.write(controller, b"ls\x1d")
            machine.door.serve(5)
            assert machine.console.typed == b"ls"
            assert (terminal.left, machine.stopped) == (True, 1)
    finally:
        os.close(controller)
        os.close(end)


def test_a_hung_up_terminal_is_a_user_who_left(machine: FakeMachine) -> None:
    import pty

    controller, end = pty.openpty()
    with Terminal(end, end) as terminal:
        machine.attach(machine.feeder(terminal))
        os.close(controller)
        machine.door.serve(5)
        assert (terminal.left, machine.stopped) == (True, 1)
    os.close(end)


def test_the_next_domain_gets_what_is_typed_after_a_restart(
    machine: FakeMachine, pipe: Pipe
) -> None:
    terminal, write, _ = pipe
    feeder = machine.feeder(terminal)
    machine.attach(feeder)
    write(b"a")
    machine.door.serve(5)
    feeder.detach()
    old, machine.console = machine.console, FakeConsole()
    machine.domain.console = machine.console
    write(b"b")
    machine.door.serve(0)
    machine.attach(feeder)
    machine.door.serve(5)
    assert (old.typed, machine.console.typed) == (b"a", b"b")

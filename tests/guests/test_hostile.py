# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that means harm (`guests/hostile`): random hypercalls, ports, MMIO and MSRs.

Each run prints its seed, which ``XG_HOSTILE_SEED`` sets ("random" for another one each time: what
fails then is repeated by the number).  How many hypercalls a
run makes is ``XG_HOSTILE_CALLS`` (a million, for a night).
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guests.fingerprint import Fingerprint, Recorder, fingerprint, frames, memory_digest
from tests.guests.support import create_hvm
from xenograft.hypervisor.loop import Stop
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Domain, Machine, ShutdownReason

Guest = Callable[[str], Path]

CALLS = int(os.environ.get("XG_HOSTILE_CALLS", "25000"))


SECONDS = 60.0 if CALLS < 100_000 else 3600.0
"""The most that a run takes: one that has harmed itself may go round in circles for ever."""


@pytest.fixture
def seed() -> int:
    """The same for each run unless told, and shown."""
    text = os.environ.get("XG_HOSTILE_SEED") or "20260417"
    chosen = secrets.randbits(32) if text == "random" else int(text)
    print(f"XG_HOSTILE_SEED={chosen}")
    return chosen


class Neighbour:
    """A domain that nobody may touch, and what it was like."""

    def __init__(self, domain: Domain) -> None:
        self._xen = domain.xen
        self._before = self._state()

    def _state(self) -> dict[str, object]:
        xen = self._xen
        return {
            "frames": frames(xen),
            "memory": memory_digest(xen),
            "physical map": xen.p2m.save(),
            "event channels": xen.events.save(),
            "grants": xen.grants.save(),
            "parameters": dict(xen.hvm_params),
            "shutdown": (xen.is_shutting_down, xen.shutdown_reason, xen.pause_count),
            "vCPUs": [vcpu.cpu.save() for vcpu in xen.vcpus if vcpu.cpu is not None],
        }

    def check(self) -> None:
        after = self._state()
        assert [k for k in after if after[k] != self._before[k]] == []


@contextmanager
def surrounded(
    guest: Guest, *, slices: int = 8_000_000
) -> Iterator[tuple[Machine, Callable[..., Domain]]]:
    """A machine with neighbours whose frames lie on both sides of those of the guest between."""
    with Machine(clock="virtual", memory=1024, host_slice=slices) as machine:
        kernel = guest("demo-64")
        low = machine.create_pvh(kernel=kernel, memory=32, name="low", cmdline="")
        low.console.expect("xenograft> ")
        low.pause()
        made: list[Domain] = []

        def create(name: str, cmdline: str, vcpus: int = 1, hvm: bool = False) -> Domain:
            config = from_options(
                kernel=str(guest(name)), cmdline=cmdline, memory=128, vcpus=vcpus, name="guest"
            )
            make = create_hvm if hvm else Machine.create
            made.append(make(machine, config, paused=True))
            high = machine.create_pvh(kernel=kernel, memory=32, name="high", paused=True)
            neighbours.extend(map(Neighbour, (low, high)))
            made[0].unpause()
            return made[0]

        neighbours: list[Neighbour] = []
        yield machine, create
        assert neighbours
        for neighbour in neighbours:
            neighbour.check()
        # It can go, and leaves nothing: no frame, no channel, no vCPU on a CPU.
        hypervisor = machine.hypervisor
        before, owned = hypervisor.memory.free_frames(), sum(n for _, n in frames(made[0].xen))
        made[0].destroy()
        assert made[0].xen.domid not in hypervisor.domains
        assert hypervisor.memory.free_frames() >= before + owned
        units = [unit for unit in hypervisor.sched.current if unit is not None]
        assert not any(unit.owner.domain is made[0].xen for unit in units)


def run(machine: Machine, domain: Domain, seconds: float) -> None:
    """Until the guest ends, or for so long on the host's clock."""
    timer = threading.Timer(seconds, machine.stop)
    timer.start()
    machine.run(until=lambda: domain.ended)
    timer.cancel()
    timer.join()


def play(guest: Guest, name: str, seed: int, calls: int, slices: int = 8_000_000) -> Fingerprint:
    with surrounded(guest, slices=slices) as (machine, create):
        recorder = Recorder()
        machine.instruments.add(recorder)
        domain = create(name, f"seed={seed} count={calls}")
        assert domain.wait(timeout=5.0) is ShutdownReason.poweroff
        assert recorder.hypercalls.length > 2 * calls
        return fingerprint(recorder, domain.xen)


@pytest.mark.parametrize("env", ["64", "pae"])
def test_harms_nobody(guest: Guest, env: str) -> None:
    """A sequence that is known to come to its end: it has made all its hypercalls."""
    with surrounded(guest) as (machine, create):
        domain = create(f"hostile-{env}", f"seed=1 count={CALLS}")
        run(machine, domain, SECONDS)
        assert domain.shutdown_reason is ShutdownReason.poweroff
        assert "hostile: done" in machine.log


@pytest.mark.parametrize("env", ["64", "pae"])
def test_harms_nobody_with_another_seed(guest: Guest, seed: int, env: str) -> None:
    """A result may by chance be written over the guest's own stack: then it harms itself alone."""
    with surrounded(guest) as (machine, create):
        run(machine, create(f"hostile-{env}", f"seed={seed} count={CALLS}"), SECONDS / 4)


@pytest.mark.parametrize("env", ["64", "pae"])
def test_with_devices_to_play_with(guest: Guest, seed: int, env: str) -> None:
    """An HVM guest, which has an I/O APIC and an HPET; interrupts of theirs may well end it."""
    with surrounded(guest) as (machine, create):
        cmdline = f"seed={seed} count={CALLS} devices"
        domain = create(f"hostile-{env}", cmdline, vcpus=2, hvm=True)
        run(machine, domain, SECONDS / 4)
        assert "MMIO" in machine.log


@pytest.mark.parametrize("env", ["64", "pae"])
def test_a_seed_repeats(guest: Guest, env: str) -> None:
    first = play(guest, f"hostile-{env}", 3, 2000)
    assert first.differences(play(guest, f"hostile-{env}", 3, 2000, slices=77_777)) == []
    assert first.differences(play(guest, f"hostile-{env}", 4, 2000)) != []


@pytest.mark.parametrize("env", ["64", "pae"])
def test_with_nothing_left_out(guest: Guest, seed: int, env: str) -> None:
    """It may end or block itself, in any way; nobody else notices."""
    with surrounded(guest) as (machine, create):
        domain = create(f"hostile-{env}", f"seed={seed} count={CALLS // 3} all", vcpus=2)
        run(machine, domain, 4.0)


def test_can_always_be_stopped(guest: Guest, seed: int) -> None:
    """From another thread, in the middle of whatever it does."""
    with surrounded(guest) as (machine, create):
        domain = create("hostile-64", f"seed={seed} count=0")
        for milliseconds in (10, 30, 100):
            timer = threading.Timer(milliseconds / 1000, machine.stop)
            timer.start()
            assert machine.run(until=lambda: domain.ended) is Stop.INTERRUPTED
            timer.join()
        assert not domain.ended


@pytest.mark.parametrize("how", ["spin", "deadloop", "block"])
@pytest.mark.parametrize("vcpus", [1, 3])
def test_endless_guests_are_stopped(guest: Guest, how: str, vcpus: int) -> None:
    """By time, and by another thread; and destroyed while they spin."""
    with Machine(clock="real", memory=256) as machine:
        domain = machine.create_pvh(
            kernel=guest("shutdown-64"), cmdline=f"how={how} cpus={vcpus}", memory=32, vcpus=vcpus
        )
        with pytest.raises(TimeoutError):
            domain.wait(timeout=0.05)
        timer = threading.Timer(0.02, machine.stop)
        timer.start()
        stopped = machine.run(until=lambda: domain.ended)
        timer.join()
        # Nothing could ever wake one that has blocked: that needs no waiting.
        assert stopped is (Stop.IDLE if how == "block" else Stop.INTERRUPTED)
        domain.destroy()
        assert domain.domid not in machine.hypervisor.domains

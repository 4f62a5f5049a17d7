# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux guests in two pools, side by side on the virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xenograft import Machine
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import Domain
from xenograft.toolstack.sched.arinc653 import Partition, resolve
from xenograft.toolstack.sched.arinc653 import load as load_table
from xenograft.toolstack.sched.arinc653 import spans as windows_of
from xenograft.toolstack.sched.history import History

Image = Callable[[str], Path]

# A periodic task: 20 times 1 ms of work or so, then a pause; the end is marked.
TASK = (
    "task() { n=0; while [ $n -lt 20 ]; do i=0; while [ $i -lt 60 ]; do i=$((i+1)); done;"
    " usleep 20000; n=$((n+1)); done; echo fin''ished; }\n"
)
HOG = "while true; do :; done\n"


def configuration(image: Image, name: str, **more: object) -> DomainConfig:
    return DomainConfig(
        name=name,
        kernel=str(image("debian-cloud")),
        ramdisk=str(image("demo-initrd")),
        cmdline="console=hvc0 quiet",
        memory=128,
        **more,  # type: ignore[arg-type]
    )


def boot(machine: Machine, image: Image, name: str, **more: object) -> Domain:
    domain = machine.create(configuration(image, name, **more))
    domain.console.expect(r"[#$] ", timeout=100)
    return domain


def timed(machine: Machine, domain: Domain) -> float:
    """How long the task takes, in seconds of the machine's time, once the guest is quiet.

    What starts it is short: of a line of more than 128 characters Linux's hvc_console leaves the
    rest for 20 ms or so, if it's idle when they come (HVC_ATOMIC_READ_MAX).
    """
    machine.run(timeout=0.1, until=lambda: False)
    start = machine.now
    domain.console.send("task\n")
    domain.console.expect("finished", timeout=100)
    return machine.now - start


@pytest.fixture
def pools() -> Machine:
    machine = Machine(clock="virtual", cpus=2)
    machine.scheduling.remove_cpu("Pool-0", 1)
    machine.scheduling.create_pool("rt", "rtds", [1])
    return machine


def test_a_hog_in_one_pool_does_not_delay_the_other(image: Image, pools: Machine) -> None:
    with pools as machine:
        reserved = {"pool": "rt", "period": 10_000, "slice": 6_000, "extratime": False}
        task = boot(machine, image, "task", **reserved)
        task.console.send(TASK)
        # The first time it also reads its programs.
        timed(machine, task)
        alone = timed(machine, task)
        hog = boot(machine, image, "hog")
        history = History()
        machine.instruments.add(history)
        hog.console.send(HOG)
        beside = timed(machine, task)
        # The task wakes twenty times, up to a window late while another CPU computes (50 us or so).
        assert beside == pytest.approx(alone, rel=0.005)
        # Each keeps to its pool's CPU, and both really ran.
        segments = history.close(machine.hypervisor.clock.now())
        assert {(one.cpu, one.domid) for one in segments} <= {(0, hog.domid), (1, task.domid)}
        assert hog.cpu_time_ns > 0.9 * beside * 1e9
        # In the hog's pool it depends on their weights.
        machine.scheduling.move_domain(task.domid, "Pool-0")
        machine.scheduling.set_params(task.domid, "credit2", Params(weight=16))
        machine.scheduling.set_params(hog.domid, "credit2", Params(weight=4096))
        assert timed(machine, task) > 1.5 * alone
        # And back again, while both run.
        machine.scheduling.move_domain(task.domid, "rt")
        assert timed(machine, task) == pytest.approx(alone, rel=0.1)


def test_two_guests_on_two_cpus_do_twice_the_work(image: Image) -> None:
    """In the machine's time; and the same again, byte for byte."""

    def boots(cpus: int, seconds: float | None = None) -> tuple[float, list[str]]:
        with Machine(clock="virtual", cpus=cpus) as machine:
            guests = [machine.create(configuration(image, f"g{i}")) for i in range(2)]
            if seconds is not None:
                machine.run(timeout=seconds)
            for guest in guests if seconds is None else ():
                guest.console.expect(r"[#$] ", timeout=100)
            return machine.now, [guest.console.output for guest in guests]

    one, _ = boots(1)
    two, _ = boots(2)
    assert one / two > 1.8
    assert boots(2, 0.5) == boots(2, 0.5)


def test_a_cap_and_a_pin_of_a_configuration_hold(image: Image) -> None:
    with Machine(clock="virtual", cpus=2) as machine:
        capped = boot(machine, image, "capped", cap=30, cpus="1")
        assert machine.scheduling.vcpu_info(capped.domid, 0).hard == 0b10
        capped.console.send(HOG)
        machine.run(timeout=0.2, until=lambda: False)
        before, start = capped.cpu_time_ns, machine.now
        machine.run(timeout=2, until=lambda: False)
        used = (capped.cpu_time_ns - before) / 1e9
        assert used / (machine.now - start) == pytest.approx(0.3, rel=0.02)
        assert machine.scheduling.vcpu_info(capped.domid, 0).cpu == 1


def test_cpus_leave_and_join_pools_while_guests_run(image: Image) -> None:
    """No guest runs on a CPU that its pool hasn't at that moment, and none stops."""
    with Machine(clock="virtual", cpus=3) as machine:
        control = machine.scheduling
        control.remove_cpu("Pool-0", 2)
        control.create_pool("other", "credit", [2])
        one = boot(machine, image, "one")
        two = boot(machine, image, "two", pool="other")
        for guest in (one, two):
            guest.console.send(HOG)
        # They have begun once their consoles have taken the line.
        machine.run(timeout=0.2, until=lambda: False)
        history = History()
        machine.instruments.add(history)
        pools = {"Pool-0": {0, 1}, "other": {2}}
        for moves in (
            [("Pool-0", 1, "other")],
            [("other", 2, "Pool-0")],
            [("Pool-0", 2, "other"), ("other", 1, "Pool-0")],
        ):
            for source, cpu, target in moves:
                control.remove_cpu(source, cpu)
                control.add_cpu(target, cpu)
                pools[source].remove(cpu)
                pools[target].add(cpu)
            start, before = machine.hypervisor.clock.now(), [one.cpu_time_ns, two.cpu_time_ns]
            machine.run(timeout=0.3, until=lambda: False)
            segments = [part for part in history.segments if part.start > start]
            assert {part.cpu for part in segments if part.domid == one.domid} <= pools["Pool-0"]
            assert {part.cpu for part in segments if part.domid == two.domid} <= pools["other"]
            for guest, had in zip((one, two), before, strict=True):
                assert guest.cpu_time_ns - had > 0.29e9
        with pytest.raises(UserError, match="the pool's last CPU, and the pool has domains"):
            control.remove_cpu("other", 2)
        assert machine.hypervisor.meter.read().unaccounted_ns == 0


def test_linux_partitions_run_in_their_windows_alone(image: Image) -> None:
    """Three kernels boot on one CPU after an ARINC 653 table, and none is a microsecond late."""
    table = load_table(
        'major_frame = "50ms"\n'
        '[[window]]\ndomain = "p0"\nruntime = "20ms"\n[[window]]\ndomain = "p1"\nruntime = "10ms"\n'
        '[[window]]\ndomain = "p2"\nruntime = "5ms"\n[[window]]\nidle = true\nruntime = "5ms"\n'
        '[[window]]\ndomain = "p1"\nruntime = "5ms"\n',
        "table",
    )
    with Machine(clock="virtual", cpus=2) as machine:
        machine.scheduling.remove_cpu("Pool-0", 1)
        pool = machine.scheduling.create_pool("flight", "arinc653", [1])
        guests = [machine.create(configuration(image, f"p{i}", pool="flight")) for i in range(3)]
        machine.run(timeout=0.1, until=lambda: False)
        # Without a table nobody runs.
        assert [guest.cpu_time_ns for guest in guests] == [0, 0, 0]
        history = History()
        machine.instruments.add(history)
        partitions = [Partition(guest.xen.name, guest.xen.uuid, 1) for guest in guests]
        start = machine.hypervisor.clock.now()
        machine.scheduling.set_arinc653(pool, resolve(table, partitions))
        machine.run(timeout=4, until=lambda: False)
        major, spans = windows_of(table)
        domids = {guest.xen.name: guest.domid for guest in guests}
        late = 1_000
        for one in history.close(machine.hypervisor.clock.now()):
            begin = (one.start - start) % major
            end = begin + one.end - one.start
            assert any(
                span.start - late <= begin and end <= span.start + span.length + late
                for span in spans
                if span.domain is not None and domids[span.domain] == one.domid
            ), one
        # They boot: who has the least time uses all of it, and who has the most is at its shell.
        assert guests[2].cpu_time_ns == pytest.approx(0.4e9, rel=0.001)
        assert "guest:~#" in guests[0].console.output

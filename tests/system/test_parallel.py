# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux guests on physical CPUs that run at the same time, and what crosses between them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.network.conftest import QUIET, Shell
from xenograft.hypervisor.team import Team
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Machine, ShutdownReason

Image = Callable[[str], Path]
Guest = Callable[[str], Path]

SUM = hashlib.sha256(bytes(4 << 20)).hexdigest()
MIB_SUM = hashlib.sha256(bytes(1 << 20)).hexdigest()


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with three CPUs; its threads are gone in the end."""
    before = threading.active_count()
    with Machine(cpus=3) as machine:
        if machine.loop._team is None:
            machine.loop._team = Team(3)
        yield machine
    assert threading.active_count() == before


def shell(
    machine: Machine, image: Image, name: str, disk: Path, number: int, vcpus: int = 2
) -> Shell:
    config = from_options(
        None,
        name=name,
        kernel=str(image("debian-cloud")),
        ramdisk=str(image("driver-initrd")),
        cmdline=QUIET,
        memory="128M",
        vcpus=vcpus,
        disk=[f"{disk},raw,xvda,rw"],
        vif=[f"mac=00:16:3e:00:00:0{number}"],
    )
    return Shell(machine.create(config))


def test_two_guests_compute_at_once_and_speak(
    machine: Machine, image: Image, tmp_path: Path
) -> None:
    shells = []
    for number, name in enumerate(("one", "two"), 1):
        disk = tmp_path / f"{name}.img"
        disk.write_bytes(bytes(8 << 20))
        guest = shell(machine, image, name, disk, number)
        guest.run(f"ip addr add 10.0.0.{number}/24 dev eth0; ip link set eth0 up")
        shells.append(guest)
    one, two = shells
    work = (
        "for i in 1 2 3 4; do head -c 4194304 /dev/zero | sha256sum; done > /tmp/sums; echo ended"
    )
    before = machine.loop.rounds
    for guest in shells:
        # Not the shell's own child: BusyBox's takes a job's end for its input's when echo is off.
        guest.console.send(f"(({work}) &)\n")
    for guest in shells:
        guest.console.expect("ended", timeout=120)
        sums = guest.run("cat /tmp/sums").split()
        assert sums.count(SUM) == 4
    assert machine.loop.rounds > before
    # Grants, events and disks of one work while the other one computes.
    two.console.send("(while :; do :; done) &\n")
    assert "0% packet loss" in one.run("ping -c 20 -i 0.05 -w 60 10.0.0.2")
    one.run("dd if=/dev/urandom of=/tmp/data bs=4096 count=500 2>/dev/null")
    one.run("dd if=/tmp/data of=/dev/xvda bs=4096 conv=fsync 2>/dev/null")
    one.run("echo 3 > /proc/sys/vm/drop_caches; cmp -n 2048000 /tmp/data /dev/xvda")
    # What the machine's thread does to a guest that computes.
    two.domain.pause()
    spent = two.domain.cpu_time_ns
    one.run("head -c 1048576 /dev/zero | sha256sum")
    # But for the moment until its CPU was given up.
    assert two.domain.cpu_time_ns < spent + 50_000_000
    two.domain.unpause()
    two.domain.destroy()
    assert one.run("echo still $((40 + 2))").strip() == "still 42"


def visit(machine: Machine, kernel: Path, seed: int, how: str) -> None:
    """A hostile guest comes, and goes."""
    count = 0 if how == "is destroyed" else 300
    everything = " all" if how == "crashes" else ""
    hostile = machine.create_pvh(
        kernel=kernel,
        name="hostile",
        cmdline=f"seed={seed} count={count} burst=100000{everything}",
        memory=64,
        vcpus=2,
    )
    xen, domains = hostile.xen, machine.hypervisor.domains
    timer = threading.Timer(1.0 + 0.13 * seed, lambda: machine.post(hostile.destroy))
    if how == "is destroyed":
        timer.start()
    with contextlib.suppress(TimeoutError):
        machine.run(timeout=4.0, until=lambda: xen.is_shutting_down or xen.domid not in domains)
    if how == "is destroyed":
        timer.join()
        assert xen.domid not in domains
        return
    assert how == "crashes" or hostile.shutdown_reason is ShutdownReason.poweroff
    hostile.destroy()


@pytest.mark.parametrize("how", ["ends by itself", "is destroyed", "crashes"])
def test_a_hostile_guest_at_the_same_time(
    machine: Machine, image: Image, guest: Guest, tmp_path: Path, how: str
) -> None:
    """Whatever it does, and however it goes: what its neighbour computes is right."""
    disk = tmp_path / "one.img"
    disk.write_bytes(bytes(8 << 20))
    one = shell(machine, image, "one", disk, 1, vcpus=1)
    one.console.send("((while :; do head -c 1048576 /dev/zero | sha256sum; done > /tmp/sums) &)\n")
    for seed in range(1, 4):
        before = machine.loop.rounds
        visit(machine, guest("hostile-64"), seed, how)
        assert machine.loop.rounds > before + 10
    assert one.run("sort -u /tmp/sums | sed '/-$/!d'").split()[0] == MIB_SUM
    assert one.run("sort -u /tmp/sums | sed '/-$/!d' | wc -l").strip() == "1"

# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest with Linux's own back ends serves another guest, and is killed under load."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.backend_initrd import MARKER
from xenograft.toolstack.images.tools import program
from xenograft.toolstack.machine import Domain, Machine, ShutdownReason
from xenograft.toolstack.state.outgoing import Outgoing

Image = Callable[[str], Path]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as one:
        yield one


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with an empty ext4."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    tool = program("mke2fs", tmp_path)
    subprocess.run([str(tool.path), "-q", "-F", "-t", "ext4", str(path)], check=True, env=tool.env)
    return path


def driver(machine: Machine, image: Image, *disks: Path) -> Domain:
    """The driver domain, ready to serve its disks and its bridge."""
    config = from_options(
        None,
        name="driver",
        kernel=str(image("debian-cloud")),
        ramdisk=str(image("backend-initrd")),
        cmdline="console=hvc0 quiet xg.net=10.9.0.1/24",
        memory="256M",
        disk=[f"{disk},raw,xvd{letter},rw" for disk, letter in zip(disks, "ab", strict=False)],
    )
    domain = machine.create(config)
    domain.console.expect(MARKER, 120)
    return domain


def served(
    machine: Machine, image: Image, name: str = "guest", address: str = "10.9.0.2", disks: str = ""
) -> Domain:
    """A guest whose disks and network come from the driver domain."""
    config = from_options(
        None,
        name=name,
        kernel=str(image("debian-cloud")),
        ramdisk=str(image("driver-initrd")),
        cmdline=f"console=hvc0 quiet xg.net={address}/24",
        memory="256M",
        disk=[
            f"vdev=xvd{letter},access=rw,backend=driver,target=/dev/xvd{letter}" for letter in disks
        ],
        vif=["backend=driver"],
    )
    domain = machine.create(config)
    domain.console.expect("guest:~#", 120)
    return domain


def test_a_guest_of_a_driver_domain_is_saved(
    machine: Machine, image: Image, disk: Path, tmp_path: Path
) -> None:
    """It has to let its devices go by itself, and gets them from the driver domain anew."""
    server = driver(machine, image, disk)
    guest = served(machine, image, disks="a")
    run(
        guest,
        "while ! [ -b /dev/xvda ]; do sleep 0.1; done; mkdir -p /mnt"
        " && mount -t ext4 /dev/xvda /mnt && echo kept > /mnt/file && sync",
    )
    path = tmp_path / "guest.save"
    with pytest.raises(UserError, match=r"another domain serves its vbd 51712, vif 0"):
        guest.save(path, mode="snapshot")
    with pytest.raises(UserError, match="driver has mapped pages of other domains"):
        server.save(path, mode="snapshot")
    with pytest.raises(UserError, match="driver has mapped pages of other domains"):
        Outgoing(server, server.config)
    assert not machine.services.sending
    run(guest, "echo still here")
    guest.save(path)
    assert guest.ended
    guest = machine.restore(path)
    assert "kept" in run(guest, "cat /mnt/file")
    run(guest, "echo more >> /mnt/file && sync")
    # A packet is lost that comes before the driver domain's script has plugged the interface into
    # its bridge: Linux's front end doesn't wait for that.
    run(guest, "until ping -c 1 -W 1 10.9.0.1; do :; done")


def test_back_ends_go_with_their_guest(machine: Machine, image: Image, disk: Path) -> None:
    """Linux's own let go of a dead guest's pages, and serve the next one."""
    server = driver(machine, image, disk)
    home, store = f"/local/domain/{server.domid}/backend", machine.services.client
    for name, command in (("first", ""), ("second", "poweroff -f")):
        guest = served(machine, image, name, disks="a")
        run(guest, "while ! dd if=/dev/xvda of=/dev/null bs=64k count=1; do sleep 0.1; done")
        devices = run(server, "ls /sys/bus/xen-backend/devices")
        assert {f"{kind}-{guest.domid}-" in devices for kind in ("vbd", "vif")} == {True}
        if command:
            guest.console.send(f"{command}\n")
            guest.wait(60)
        guest.destroy()
        run(server, 'while [ -n "$(ls /sys/bus/xen-backend/devices)" ]; do sleep 0.1; done')
        kinds = store.ls(home)
        assert not [kind for kind in kinds if store.exists(f"{home}/{kind}/{guest.domid}")]
        assert guest.domid not in machine.hypervisor.domains
    # The driver domain itself ends when it's asked to.
    machine.services.client.write(f"/local/domain/{server.domid}/control/shutdown", "poweroff")
    assert server.wait(60) is ShutdownReason.poweroff


def run(guest: Domain, command: str, timeout: float = 120) -> str:
    """What a command prints; it must succeed."""
    guest.console.send(f"{command}; echo status=$?=\n")
    found = guest.console.expect(r"status=(\d+)=\r?\n", timeout)
    text = guest.console.output[: -len(found.group(0))]
    assert found.group(1) == "0", text[-2000:]
    return text.rpartition("echo status=$?=")[2]


BLOCKS = (
    # By a descriptor, lest a file is made where the disk has gone.
    "exec 3<> /dev/xvdb; i=0;"
    " while dd if=/tmp/block of=/proc/self/fd/3 bs=64k seek=$i count=1 conv=notrunc,fsync"
    " 2> /dev/null && echo wrote $i; do i=$((i+1)); [ $i -lt 500 ] || break; done > /tmp/blocks;"
    " echo stopped >> /tmp/blocks"
)


def check_blocks(disk: bytes, acknowledged: int) -> None:
    """What was acknowledged is there to the byte; all else is, by sector, the old or the new."""
    block = "".join(f"{i}\n" for i in range(100000, 200000)).encode()[:65536]
    assert acknowledged >= 3
    for index in range(512):
        found = disk[index * 65536 : (index + 1) * 65536]
        if index < acknowledged:
            assert found == block, f"block {index} of {acknowledged}"
        elif index == acknowledged:
            for at in range(0, 65536, 512):
                assert found[at : at + 512] in (block[at : at + 512], bytes(512)), (index, at)
        else:
            assert found == bytes(65536), f"block {index} was never written"
    for at in range(512 * 65536, len(disk), 512):
        assert disk[at : at + 512] in (bytes(512), b"x" * 512), at


def test_a_guest_serves_another_and_dies_and_comes_back(
    machine: Machine, image: Image, disk: Path
) -> None:
    raw = disk.with_name("raw.img")
    raw.write_bytes(bytes(64 << 20))
    first = driver(machine, image, disk, raw)
    guest = served(machine, image, disks="ab")
    run(guest, "seq 100000 199999 | head -c 65536 > /tmp/block")
    # One writes block after block, each on the disk before the next one; another doesn't wait.
    run(
        guest,
        f"({BLOCKS}) & (dd if=/dev/zero bs=64k count=480 2> /dev/null | tr '\\0' x |"
        " dd of=/dev/xvdb bs=64k seek=512 2> /dev/null) & true",
    )
    run(guest, "mkdir -p /mnt && mount -t ext4 /dev/xvda /mnt")
    assert "0% packet loss" in run(guest, "ping -c 3 -W 2 10.9.0.1")

    # Each number is acknowledged once it's on the disk; the driver domain dies in between.
    guest.console.send(
        "i=0; while i=$((i+1)); do echo $i > /mnt/n && sync /mnt/n && echo wrote=$i || break;"
        " done; echo stopped=$i=\n"
    )
    guest.console.expect(r"wrote=25\r", 60)
    first.destroy()
    assert machine.services.client.exists(f"/local/domain/{guest.domid}")
    guest.console.expect(r"stopped=\d+=\r", 60)
    acknowledged = int(re.findall(r"wrote=(\d+)\r", guest.console.output)[-1])
    assert acknowledged >= 25

    run(guest, "while ! grep -q stopped /tmp/blocks; do sleep 0.1; done")
    blocks = int(run(guest, "grep -c wrote /tmp/blocks || true").split()[-1])
    check_blocks(raw.read_bytes(), blocks)
    second = driver(machine, image, disk, raw)
    assert second.domid != first.domid
    run(guest, "umount /mnt; while ! [ -b /dev/xvda ]; do sleep 0.1; done")
    run(guest, "mount -t ext4 /dev/xvda /mnt")
    kept = int(run(guest, "cat /mnt/n").split()[-1])
    # The one after the last acknowledged may have made it, or not.
    assert acknowledged <= kept <= acknowledged + 1
    run(guest, "ip address add 10.9.0.2/24 dev eth0; ip link set eth0 up")
    assert "bytes from 10.9.0.1" in run(guest, "ping -c 5 -W 2 10.9.0.1 || true")
    run(guest, "umount /mnt")

    guest.destroy()
    second.destroy()
    assert "still" not in machine.log, machine.log
    tool = program("e2fsck", disk.parent)
    check_blocks(raw.read_bytes(), blocks)
    check = subprocess.run([str(tool.path), "-fn", str(disk)], capture_output=True, env=tool.env)
    assert check.returncode == 0, check.stdout.decode()


def test_a_transfer_goes_on_when_the_network_comes_back(
    machine: Machine, image: Image, disk: Path
) -> None:
    """A TCP connection between two guests outlives the driver domain between them."""
    first = driver(machine, image, disk)
    ends = [served(machine, image, name, f"10.9.0.{n}") for n, name in ((2, "one"), (3, "two"))]
    sender, receiver = ends
    for n, end in enumerate(ends, 2):
        # What a system's network manager does when an interface comes.
        run(
            end,
            f"(while :; do ip address add 10.9.0.{n}/24 dev eth0; ip link set eth0 up; sleep 1;"
            " done > /dev/null 2>&1) & true",
        )
    run(sender, "dd if=/dev/urandom of=/tmp/sent bs=1M count=24 2> /dev/null")
    run(receiver, "sleep 1000 | nc -l -p 5000 > /tmp/received & sleep 1")
    sender.console.send("nc 10.9.0.3 5000 < /tmp/sent; echo sent=$?=\n")
    run(receiver, "while [ $(stat -c %s /tmp/received) -lt 1000000 ]; do :; done")
    first.destroy()
    part = int(run(receiver, "stat -c %s /tmp/received").split()[-1])
    assert 0 < part < 24 << 20, "the transfer was over before the driver domain died"
    driver(machine, image, disk)
    assert sender.console.expect(r"sent=(\d+)=\r", 150).group(1) == "0"
    sums = [
        run(end, f"md5sum < /tmp/{name}").split()[-2]
        for end, name in ((sender, "sent"), (receiver, "received"))
    ]
    assert sums[0] == sums[1]

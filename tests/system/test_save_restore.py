# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Linux guest with a disk and a network goes on in other lives, and loses nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hypervisor.pv.audit import Audit
from tests.network.conftest import QUIET, Shell, WebServer
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import Machine, SaveMode
from xenograft.toolstack.state.file import records

Image = Callable[[str], Path]

COUNTER = "n=0; while :; do n=$((n+1)); echo $n > /tmp/m; mv /tmp/m /tmp/n; usleep 20000; done"


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    return path


class Life:
    """A guest on a machine of its own."""

    def __init__(self, machine: Machine, shell: Shell) -> None:
        self.machine = machine
        self.shell = shell

    def count(self) -> int:
        return int(self.shell.run("cat /tmp/n"))

    def goes_on(self) -> tuple[int, int]:
        """What its counter was, and what it is when it has gone on."""
        before = self.count()
        self.shell.run(f"while [ $(cat /tmp/n) -le {before} ]; do usleep 10000; done")
        return before, self.count()


def begun(image: Image, disk: Path, **options: object) -> Life:
    """A guest whose counter counts."""
    machine = Machine()
    try:
        config = from_options(
            None,
            name="guest",
            kernel=str(image("debian-cloud")),
            ramdisk=str(image("driver-initrd")),
            cmdline=f"{QUIET} xg.net=dhcp",
            memory="192M",
            disk=[f"{disk},raw,xvda,rw"],
            vif=["bridge=user,mac=00:16:3e:01:02:03"],
            **options,
        )
        shell = Shell(machine.create(config))
        shell.console.send(f"({COUNTER}) &\n")
        shell.run("while [ ! -s /tmp/n ]; do usleep 10000; done")
    except BaseException:
        machine.close()
        raise
    return Life(machine, shell)


def revived(path: Path, machine: Machine | None = None) -> Life:
    """The guest again, in a machine whose clock begins anew unless one is given."""
    machine = Machine() if machine is None else machine
    try:
        domain = machine.restore(path)
        shell = Shell.__new__(Shell)
        shell.domain, shell.console = domain, domain.console
    except BaseException:
        machine.close()
        raise
    return Life(machine, shell)


def works(life: Life, web: WebServer, round_: int) -> None:
    """Disk and network do what they did before."""
    shell = life.shell
    text = f"written in life {round_}"
    shell.run(f"echo '{text}' | dd of=/dev/xvda bs=512 seek={round_} conv=fsync 2>/dev/null")
    for earlier in range(1, round_ + 1):
        found = shell.run(f"dd if=/dev/xvda bs=512 skip={earlier} count=1 2>/dev/null | head -c 20")
        assert f"written in life {earlier}" in found
    web.files["/now"] = text.encode()
    shell.run(f"wget -q -O /tmp/got http://10.0.2.2:{web.port}/now")
    assert text in shell.run("cat /tmp/got; echo")
    assert "2 packets received" in shell.run("ping -c 2 -W 5 10.0.2.2")


@pytest.mark.parametrize(
    ("kind", "mode"), [("pvh", "snapshot"), ("pvh", "suspend"), ("pv", "suspend")]
)
def test_a_guest_goes_on_elsewhere(
    image: Image, disk: Path, web: WebServer, tmp_path: Path, kind: str, mode: SaveMode
) -> None:
    path = tmp_path / "guest.save"
    life = begun(image, disk, type=kind, vcpus=2 if kind == "pvh" else 1)
    works(life, web, 1)
    boot = life.shell.run("cat /proc/sys/kernel/random/boot_id")
    for round_ in (2, 3):
        before, _ = life.goes_on()
        uptime = _uptime(life)
        life.shell.domain.save(path, mode=mode)
        assert life.shell.domain.ended
        assert not life.machine.domains
        life.machine.close()
        life = revived(path)
        first, second = life.goes_on()
        # It never begins again, and loses nothing that it had counted.
        assert before < first < second
        assert life.shell.run("cat /proc/sys/kernel/random/boot_id") == boot
        assert uptime < _uptime(life) < uptime + 300
        # Its clocks agree with each other.
        assert life.shell.try_("dmesg | grep unstable")[0] == 1
        # The first packet for it arrives, though nobody knows its address yet (on a busy host,
        # where this process has to wait for a second, it's the second one; see test_user.py).
        assert life.shell.try_("ping -c 2 -W 5 10.0.2.2")[0] == 0
        works(life, web, round_)
        if mode == "suspend":
            # The guest itself tells that it has gone through it.
            assert life.shell.run("dmesg | grep -c 'Restarting tasks'").strip() == str(round_ - 1)
        else:
            assert life.shell.try_("dmesg | grep 'Restarting tasks'")[0] == 1
    life.machine.close()


@pytest.mark.parametrize("mode", ["snapshot", "suspend"])
def test_the_clock(image: Image, disk: Path, tmp_path: Path, mode: SaveMode) -> None:
    day = 86_400
    life = begun(image, disk)
    path = tmp_path / "guest.save"
    before, uptime = int(life.shell.run("date +%s")), _uptime(life)
    life.shell.domain.save(path, mode=mode)
    epoch_ns = life.machine.hypervisor.clock.epoch_ns
    life.machine.close()
    # A machine whose day is the next one.
    life = revived(path, Machine(epoch_ns=epoch_ns + day * 10**9))
    away = int(life.shell.run("date +%s")) - before
    awake = _uptime(life) - uptime
    if mode == "suspend":
        # A guest that knows that it was away looks at the clock, as after any suspend to RAM.
        assert day - 300 <= away < day + 600
        assert day - 300 <= awake < day + 600
    else:
        assert 0 <= away < 600
        assert 0 <= awake < 600
    life.goes_on()
    life.machine.close()


def _uptime(life: Life) -> float:
    return float(life.shell.run("cat /proc/uptime").split()[0])


def test_in_the_same_machine_under_other_numbers(
    image: Image, disk: Path, web: WebServer, tmp_path: Path
) -> None:
    path = tmp_path / "guest.save"
    life = begun(image, disk)
    machine, domid = life.machine, life.shell.domain.domid
    for round_ in (1, 2, 3):
        works(life, web, round_)
        life.shell.domain.save(path, mode="snapshot")
        assert not machine.hypervisor.domains.get(domid)
        life = revived(path, machine)
        assert life.shell.domain.domid > domid
        domid = life.shell.domain.domid
        life.goes_on()
    works(life, web, 4)
    # A disk that comes later, and one that goes: the front end follows the paths it knows.
    life.shell.domain.devices.detach("vif", 0)
    life.shell.run("while [ -e /sys/class/net/eth0 ]; do usleep 100000; done")
    machine.run(timeout=0.2, until=lambda: False)
    assert life.shell.domain.devices.find("vif", 0) is None
    machine.close()


def test_a_pv_guest_in_place(image: Image, disk: Path, tmp_path: Path) -> None:
    """It goes on in its domain after it was saved; and can't be saved without its help."""
    path = tmp_path / "guest.save"
    life = begun(image, disk, type="pv")
    guest = life.shell.domain
    with pytest.raises(UserError, match="has to suspend itself first"):
        guest.save(path, mode="snapshot")
    assert not path.exists()
    before, _ = life.goes_on()
    guest.save(path, mode="suspend", after="run")
    assert life.goes_on()[0] >= before
    life.shell.run("dd if=/dev/xvda of=/dev/null bs=4k count=16 2>/dev/null")
    Audit(guest.xen).check()
    guest.destroy()
    life = revived(path, life.machine)
    assert life.goes_on()[0] >= before
    Audit(life.shell.domain.xen).check()
    life.machine.close()


def test_checkpoints(image: Image, disk: Path, tmp_path: Path) -> None:
    life = begun(image, disk)
    domain = life.shell.domain
    for mode, after in (("snapshot", "run"), ("suspend", "run"), ("auto", "pause")):
        path = tmp_path / f"{mode}.save"
        before, _ = life.goes_on()
        domain.save(path, mode=mode, after=after)  # type: ignore[arg-type]  # plain words
        if after == "pause":
            domain.unpause()
        first, _ = life.goes_on()
        assert first > before
        life.shell.run("dd if=/dev/xvda of=/dev/null bs=64k count=4 2>/dev/null")
        with path.open("rb") as file:
            assert sum(1 for _ in records(file, str(path))) > 2
    # Twice it suspended itself, and was told that it's where it was.
    assert life.shell.run("dmesg | grep -c 'Restarting tasks'").strip() == "2"
    assert [one.name for one in tmp_path.iterdir() if one.name.endswith(".new")] == []
    life.machine.close()


def test_what_goes_wrong_changes_nothing(image: Image, disk: Path, tmp_path: Path) -> None:
    life = begun(image, disk)
    domain, machine = life.shell.domain, life.machine
    for place in (tmp_path / "none" / "x", tmp_path, Path("/dev/full")):
        with pytest.raises(UserError, match=re.escape(str(place))):
            domain.save(place)
    life.goes_on()
    path = tmp_path / "guest.save"
    domain.save(path, after="run", mode="snapshot")
    with pytest.raises(UserError, match="there is a domain 'guest' already"):
        machine.restore(path)
    # Its disk is in use, by the guest itself.
    with Machine() as other, pytest.raises(UserError, match=r"vbd 51712: .*in use"):
        other.restore(path)
    assert not other.domains
    assert not other.services.devices(1)
    data = path.read_bytes()
    for bad in (data[:-1], data[: len(data) // 2], data[:9] + data[10:], b"", b"#!/bin/sh\n"):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=re.escape(str(path))):
            machine.restore(path)
    life.goes_on()
    machine.close()

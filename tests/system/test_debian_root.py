# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian from a disk: systemd's login prompt, the network, ssh, and what a kill leaves."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.conftest import WebServer
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import Fetched, ImageCache
from xenograft.toolstack.machine import Domain, Machine

MIB = 96
"""Size of the file that's written, synced, and looked for after the kill."""


@pytest.fixture(scope="module")
def debian() -> Fetched:
    """The image; it takes root's rights and some minutes to make the first time."""
    try:
        return ImageCache().get("debian-root")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def disk(debian: Fetched, tmp_path: Path) -> Path:
    """A qcow2 image before the raw one, which stays as it is."""
    path = tmp_path / "disk.qcow2"
    size = debian.path.stat().st_size
    create_qcow2(str(path), size, backing=str(debian.path), backing_format="raw")
    return path


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def boot(machine: Machine, disk: Path, type_: str = "pvh") -> Domain:
    """Boot to a root shell on the console."""
    cache = ImageCache()
    guest = machine.create(
        from_options(
            None,
            name="debian",
            type=type_,
            kernel=str(cache.get("debian-cloud").path),
            ramdisk=str(cache.get("driver-initrd").path),
            cmdline="console=hvc0 quiet root=/dev/xvda systemd.show_status=false",
            memory="512M",
            disk=[f"{disk},qcow2,xvda,rw"],
            vif=["bridge=user,forward=tcp:0:22"],
        )
    )
    guest.console.expect("debian login: ", 280)
    guest.console.send("root\n")
    guest.console.expect(r"root@debian:~# ", 60)
    return guest


def run(guest: Domain, command: str, timeout: float = 200) -> str:
    """What a command prints; it must succeed."""
    guest.console.send(f"{command}; echo st''atus=$?=\n")
    found = guest.console.expect(r"(?s)st''atus=.*?\n(.*)status=(\d+)=\r?\n", timeout)
    assert found.group(2) == "0", guest.console.output[-2000:]
    return found.group(1)


def md5(guest: Domain) -> str:
    """The sum of the big file."""
    found = re.search(r"[0-9a-f]{32}", run(guest, "md5sum /root/big"))
    assert found is not None
    return found.group()


def ssh_banner(machine: Machine, port: int) -> bytes:
    """What the guest's ssh server says first, through the forwarded port."""
    said: list[bytes] = []

    def ask() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            said.append(sock.recv(256))
        machine.post(lambda: None)

    thread = threading.Thread(target=ask)
    thread.start()
    machine.run(timeout=60, until=lambda: bool(said))
    thread.join()
    return said[0]


def ssh(machine: Machine, key: Path, port: int, command: str) -> str:
    """Run a command in the guest over ssh."""
    options = ["UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "BatchMode=yes"]
    argv = ["ssh", "-i", str(key), "-p", str(port), *(f"-o{option}" for option in options)]
    done: list[subprocess.CompletedProcess[str]] = []

    def ask() -> None:
        whole = [*argv, "root@127.0.0.1", command]
        done.append(subprocess.run(whole, capture_output=True, text=True, check=False, timeout=100))
        machine.post(lambda: None)

    thread = threading.Thread(target=ask)
    thread.start()
    machine.run(timeout=110, until=lambda: bool(done))
    thread.join()
    assert done[0].returncode == 0, done[0].stderr
    return done[0].stdout


def test_a_debian_from_a_disk(debian: Fetched, disk: Path, web: WebServer) -> None:
    web.files["/hello"] = b"hello from the host\n"
    with Machine() as machine:
        guest = boot(machine, disk)
        assert "systemd" in run(guest, "cat /proc/1/comm")
        assert re.search(r"/dev/root|/dev/xvda", run(guest, "findmnt -n -o SOURCE /"))
        run(guest, "until ip -4 address | grep -q 'inet 10.0.2'; do sleep 0.5; done")
        assert "hello from the host" in run(guest, f"wget -qO - http://10.0.2.2:{web.port}/hello")
        port = guest.devices.forwards()[0].host_port
        run(guest, "until systemctl is-active ssh > /dev/null; do sleep 0.5; done")
        # The first packet of the guest's has told the switch where it is.
        assert ssh_banner(machine, port).startswith(b"SSH-2.0-OpenSSH")
        if shutil.which("ssh"):
            assert ssh(machine, debian.files["key"], port, "hostname") == "debian\n"
        run(guest, f"dd if=/dev/urandom of=/root/big bs=1M count={MIB} 2> /dev/null && sync")
        before = md5(guest)
        # As if the process were killed: nobody tells the guest.
        guest.destroy()
    with Machine() as machine:
        guest = boot(machine, disk)
        assert md5(guest) == before
        guest.console.send("poweroff\n")
        assert str(guest.wait(120)) == "poweroff"


def test_the_same_as_a_pv_guest(debian: Fetched, disk: Path, web: WebServer) -> None:
    web.files["/hello"] = b"hello from the host\n"
    with Machine() as machine:
        guest = boot(machine, disk, "pv")
        assert "PV" in run(guest, "cat /sys/hypervisor/guest_type")
        assert re.search(r"/dev/root|/dev/xvda", run(guest, "findmnt -n -o SOURCE /"))
        run(guest, "until ip -4 address | grep -q 'inet 10.0.2'; do sleep 0.5; done")
        assert "hello from the host" in run(guest, f"wget -qO - http://10.0.2.2:{web.port}/hello")
        port = guest.devices.forwards()[0].host_port
        run(guest, "until systemctl is-active ssh > /dev/null; do sleep 0.5; done")
        if shutil.which("ssh"):
            assert ssh(machine, debian.files["key"], port, "hostname") == "debian\n"
        run(guest, "dd if=/dev/urandom of=/root/big bs=1M count=16 2> /dev/null && sync")
        before = md5(guest)
        run(guest, "echo 3 > /proc/sys/vm/drop_caches")
        assert md5(guest) == before
        assert not re.search(r"BUG:|WARNING:|Call Trace", run(guest, "dmesg"))
        guest.console.send("poweroff\n")
        assert str(guest.wait(120)) == "poweroff"

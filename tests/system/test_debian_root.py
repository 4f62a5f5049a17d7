# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian from a disk: systemd's login prompt, the network, ssh, and what a kill leaves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.block.images.support import assert_clean
from tests.network.conftest import WebServer
from tests.system.debian import SYNCED, big_file, boot, run
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import Fetched, ImageCache
from xenograft.toolstack.machine import Domain, Machine


@pytest.fixture(scope="module")
def debian() -> Fetched:
    """The image; it takes root's rights and some minutes to make the first time."""
    try:
        return ImageCache().get("debian-root")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def disk(debian: Fetched, tmp_path: Path) -> Path:
    """A raw image; the cached one stays as it is."""
    path = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", debian.path, path], check=True)
    return path


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder with something to copy."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "block").write_bytes(os.urandom(16 << 20))
    return folder


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def boot_cloud(machine: Machine, disk: Path, type_: str) -> Domain:
    """Boot Debian's cloud kernel to a root shell on the console."""
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
            disk=[f"{disk},raw,xvda,rw"],
            vif=["bridge=user,forward=tcp:0:22"],
        )
    )
    guest.console.expect("debian login: ", 280)
    guest.console.send("root\n")
    guest.console.expect(r"root@debian:~# ", 60)
    return guest


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


@pytest.mark.timeout(1200)
def test_a_debian_from_a_disk(
    debian: Fetched, disk: Path, share: Path, web: WebServer, tmp_path: Path
) -> None:
    """To systemd's login from a raw disk and a qcow2 one; a GiB outlives the process's death."""
    size, digest = big_file((share / "block").read_bytes())
    assert size > 1 << 30
    command = [sys.executable, "-m", "tests.system.debian", str(disk), str(share)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == SYNCED
        process.send_signal(signal.SIGKILL)
    assert (share / "answer").read_text() == "done by the guest\n"

    top = tmp_path / "disk.qcow2"
    create_qcow2(str(top), disk.stat().st_size, backing=str(disk), backing_format="raw")
    web.files["/hello"] = b"hello from the host\n"
    with Machine() as machine:
        guest = boot(machine, top, "qcow2", share)
        assert f"{digest}  /root/big" in run(guest, "md5sum /root/big")
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
        run(guest, "cp /mnt/block /root/block && sync && cmp /mnt/block /root/block")
        guest.console.send("poweroff\n")
        assert str(guest.wait(120)) == "poweroff"
    assert_clean(top)


def test_the_same_as_a_pv_guest(debian: Fetched, disk: Path, web: WebServer) -> None:
    web.files["/hello"] = b"hello from the host\n"
    with Machine() as machine:
        guest = boot_cloud(machine, disk, "pv")
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

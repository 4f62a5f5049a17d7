# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests whose host has trouble: a full disk, servers that die or stand still, other media."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backends.block.images.nbd_server import NbdServer
from tests.backends.block.images.support import MIB, assert_clean, content, need, pattern
from tests.backends.block.test_guests import Guest, sha256
from xenograft import Machine
from xenograft.backends.block.images.faulty import FaultyImage
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.backends.block.images.raw import RawImage
from xenograft.toolstack.config.disk import parse_disk
from xenograft.toolstack.devices import manager
from xenograft.toolstack.errors import UserError

Get = Callable[[str], Path]


def test_a_full_host_disk(image: Get, tmp_path: Path) -> None:
    """The guest is told, other disks go on, and so does this one once there's room."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no mount namespace of our own to be had")
    need("qemu-img")
    command = [unshare, "-rm", sys.executable, "-m", "tests.backends.block.full_disk"]
    images = (str(image("debian-cloud")), str(image("driver-initrd")))
    done = subprocess.run(
        [*command, str(tmp_path), *images],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout == "as it should be\n", done.stdout + done.stderr


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_failed_flush_is_not_forgotten(
    image: Get, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest's fsync fails, and so does each one after it, although Linux flushes no more."""
    path = tmp_path / "disk"
    if form == "raw":
        path.write_bytes(bytes(4 * MIB))
    else:
        create_qcow2(str(path), 4 * MIB)
    calls: list[int] = []

    def fdatasync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with Machine() as machine:
        guest = Guest(machine, image, [f"{path},{form},xvda,rw"]).wait_for_shell()
        for at in range(3):
            told = guest.sh(
                f"dd if=/bin/busybox of=/dev/xvda bs=64k count=1 seek={at} conv=fsync 2>&1", 1
            )
            assert "I/O error" in told or "Input/output error" in told
        assert "a flush has failed: Input/output error" in machine.log
        guest.off()


def test_after_a_failed_flush_all_that_is_answered_is_lasting(
    image: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a later flush can be relied on, the disk goes on."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(4 * MIB))
    done: list[str] = []

    def decide(operation: str, _offset: int, _size: int) -> int:
        done.append(operation)
        return errno.EIO if operation == "flush" and done.count("flush") == 1 else 0

    monkeypatch.setattr(
        manager, "open_disk", lambda _disk: FaultyImage(RawImage(str(path)), decide)
    )
    with Machine() as machine:
        guest = Guest(machine, image, [f"{path},raw,xvda,rw"]).wait_for_shell()
        copy = "dd if=/bin/busybox of=/dev/xvda bs=64k count=4 conv=fsync 2>&1"
        assert "rror" in guest.sh(copy, 1)
        assert "blkfront: xvda: barrier or flush: disabled" in guest.sh("dmesg")
        done.clear()
        done.append("flush")
        guest.sh(copy)
        assert done[-1] == "flush"
        assert "write" in done
        guest.off()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NbdServer]:
    one = NbdServer(tmp_path / "socket", 16 * MIB).start()
    yield one
    one.going.set()
    one.die()


def test_a_server_that_stands_still_holds_up_its_own_disk_alone(
    image: Get, tmp_path: Path, server: NbdServer
) -> None:
    local = tmp_path / "local"
    local.write_bytes(pattern(4 * MIB))
    with Machine() as machine:
        remote = Guest(machine, image, [f"vdev=xvda,access=rw,target={server.uri}"], name="remote")
        other = Guest(machine, image, [f"{local},raw,xvda,rw"], name="other").wait_for_shell()
        remote.wait_for_shell()
        server.going.clear()
        # More requests than a machine has threads for its host's I/O.
        for at in range(8):
            remote.sh(f"(dd if=/dev/xvda bs=64k skip={at} count=1 iflag=direct of=/dev/null &)")
        remote.sh("(dd if=/dev/zero of=/dev/xvda bs=1M count=4 conv=fsync &)")
        machine.run(timeout=0.5, until=lambda: False)
        for _ in range(2):
            other.sh("echo 3 > /proc/sys/vm/drop_caches")
            assert other.sh("sha256sum < /dev/xvda")[:64] == sha256(pattern(4 * MIB))
            other.sh("dd if=/dev/xvda of=/dev/xvda bs=64k conv=fsync 2> /dev/null")
        assert remote.sh("echo alive") == "alive\n"
        # Nobody needs the answers: the guest can go, and the machine end.
        remote.domain.destroy()
        assert [domain.name for domain in machine.domains] == ["other"]
        other.off()


def test_a_server_that_dies_and_comes_back(image: Get, tmp_path: Path, server: NbdServer) -> None:
    """It forgets what wasn't flushed, and the guest doesn't notice."""
    with Machine() as machine:
        guest = Guest(machine, image, [f"vdev=xvda,access=rw,target={server.uri}"]).wait_for_shell()
        sh = guest.sh
        sh("dd if=/dev/urandom of=/tmp/data bs=1M count=8 2> /dev/null")
        digest = sh("sha256sum < /tmp/data").split()[0]
        seen = len(server.seen)
        guest.console.send("dd if=/tmp/data of=/dev/xvda bs=64k oflag=direct; echo wrote''=$?\n")
        machine.run(timeout=60, until=lambda: len(server.seen) > seen + 20)
        for _ in range(2):
            server.die()
            machine.run(timeout=0.3, until=lambda: False)
            server.start()
            machine.run(timeout=0.3, until=lambda: False)
        assert guest.console.expect(r"wrote=(\d)", 60)[1] == "0"
        server.die()
        server.start()
        sh("dd if=/dev/zero of=/dev/xvda seek=15 bs=1M count=1 conv=fsync 2> /dev/null")
        assert sha256(bytes(server.stable[: 8 * MIB])) == digest
        guest.off()


def test_another_medium_in_a_drive(image: Get, tmp_path: Path) -> None:
    """A PV guest of Linux sees it: another size, other contents, and none."""
    one, two = tmp_path / "one.iso", tmp_path / "two.iso"
    one.write_bytes(pattern(MIB))
    two.write_bytes(pattern(2 * MIB, 1))
    with Machine() as machine:
        guest = Guest(
            machine, image, [f"vdev=xvda,devtype=cdrom,target={one}"], type="pv"
        ).wait_for_shell()
        sh = guest.sh
        params = f"{guest.device('xvda').path}/params"

        def insert(path: str) -> None:
            machine.services.client.write(params, path)

        assert sh("cat /sys/block/xvda/size /sys/block/xvda/ro").split() == ["2048", "1"]
        assert sh("sha256sum < /dev/xvda")[:64] == sha256(one.read_bytes())
        insert(str(two))
        sh("until [ $(cat /sys/block/xvda/size) = 4096 ]; do sleep 0.1; done")
        sh("echo 3 > /proc/sys/vm/drop_caches")
        assert sh("sha256sum < /dev/xvda")[:64] == sha256(two.read_bytes())
        insert("")
        sh("until [ $(cat /sys/block/xvda/size) = 0 ]; do sleep 0.1; done")
        assert sh("head -c 512 /dev/xvda | wc -c") == "0\n"
        # It doesn't fit: the drive is empty, and the log says why.
        insert("/nonesuch")
        assert "there is no such image" in machine.log
        insert(str(one))
        sh("until [ $(cat /sys/block/xvda/size) = 2048 ]; do sleep 0.1; done")
        assert sh("sha256sum < /dev/xvda")[:64] == sha256(one.read_bytes())
        guest.off()


def test_a_qcow2_disk_that_grows(image: Get, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_qcow2(str(path), 4 * MIB, cluster_bits=9)
    with Machine() as machine:
        guest = Guest(machine, image, [f"{path},qcow2,xvda,rw"]).wait_for_shell()
        sh = guest.sh
        sh("dd if=/bin/busybox of=/dev/xvda conv=fsync 2> /dev/null")
        number = parse_disk("/x,raw,xvda").device_number
        for bad, why in ((MIB, "it can only grow, from 4194304 bytes"), (5 * MIB + 1, "sectors")):
            with pytest.raises(UserError, match=why):
                guest.domain.devices.resize_disk(number, bad)
        guest.domain.devices.resize_disk(number, 64 * MIB)
        sh(f"until [ $(cat /sys/block/xvda/size) = {64 * 2048} ]; do sleep 0.1; done")
        sh("dd if=/bin/busybox of=/dev/xvda bs=1M seek=60 conv=fsync 2> /dev/null")
        guest.off()
    assert_clean(path)
    data, busybox = content(path), image("busybox").read_bytes()
    assert data[: len(busybox)] == data[60 * MIB :][: len(busybox)] == busybox

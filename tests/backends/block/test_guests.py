# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks in real guests: Debian's cloud kernel with its xen-blkfront, and GRUB."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.block.images.support import (
    MIB,
    assert_clean,
    check,
    content,
    need,
    pattern,
    qemu_img,
)
from tests.conftest import unavailable
from xenograft import Machine
from xenograft.backends.block.device import BlockDevice
from xenograft.backends.block.images.raw import RawImage
from xenograft.backends.block.images.recording import RecordingStorage, after_power_cut
from xenograft.toolstack.config.disk import parse_disk
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.devices import manager
from xenograft.toolstack.machine import Domain, ShutdownReason

Get = Callable[[str], Path]


class Guest:
    """A guest with a shell on its console."""

    def __init__(
        self,
        machine: Machine,
        image: Get,
        disks: list[str],
        *,
        vcpus: int = 1,
        run: str = "",
        kernel: str = "debian-cloud",
        ramdisk: str | None = "driver-initrd",
        name: str = "guest",
        type: str = "pvh",
    ) -> None:
        self.machine = machine
        run = f' xg.run="{run}"' if run else ""
        config = from_options(
            None,
            name=name,
            type=type,
            kernel=str(image(kernel)),
            ramdisk=None if ramdisk is None else str(image(ramdisk)),
            cmdline=f"console=hvc0 quiet{run}",
            memory="192M",
            vcpus=vcpus,
            disk=disks,
        )
        self.domain: Domain = machine.create(config)
        self.console = self.domain.console

    def wait_for_shell(self) -> Guest:
        self.console.expect(r"guest:~# ", 120)
        return self

    def sh(self, command: str, status: int | None = 0) -> str:
        """The output of a shell command, which must end with `status`."""
        # What was typed is echoed, perhaps twice; the quotes keep that from being found.
        self.console.send(f"echo begin''-; {command}; echo end''-$?\n")
        found = self.console.expect(r"(?s)begin-\r?\n(.*?)end-(\d+)\r?\n", 120)
        assert status is None or int(found[2]) == status, found[0]
        return found[1].replace("\r", "")

    def off(self) -> None:
        self.console.send("exit\n")
        assert self.domain.wait(60) is ShutdownReason.poweroff

    def device(self, name: str) -> BlockDevice:
        number = parse_disk(f"/x,raw,{name}").device_number
        device = self.machine.services.buses["vbd"].find(self.domain.domid, number)
        assert isinstance(device, BlockDevice)
        return device


def mkfs(path: Path, size: int, *options: str) -> None:
    with path.open("wb") as file:
        file.truncate(size)
    command = [*need("mkfs.ext4"), "-q", "-F", *options, str(path)]
    subprocess.run(command, check=True, timeout=60)


def fsck(path: Path) -> None:
    """No fault in a file system that was left in order."""
    command = [*need("e2fsck"), "-fn", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def read_file(path: Path, name: str) -> bytes:
    """A file of a file system."""
    command = [*need("debugfs"), "-R", f"cat {name}", str(path)]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def test_disks_of_a_running_guest(image: Get, tmp_path: Path) -> None:
    """Raw, qcow2 and read-only disks; resizing, discarding, attaching and detaching."""
    raw, qcow2, ro, late = (tmp_path / name for name in ("raw", "qcow2", "ro", "late"))
    mkfs(raw, 64 * MIB)
    base = tmp_path / "base"
    base.write_bytes(pattern(8 * MIB))
    qemu_img("create", "-f", "qcow2", "-b", "base", "-F", "raw", qcow2, "16M")
    ro.write_bytes(pattern(MIB, 1))
    late.write_bytes(bytes(4 * MIB))
    with Machine() as machine:
        guest = Guest(
            machine,
            image,
            [
                f"format=raw,vdev=xvda,access=rw,target={raw}",
                f"format=qcow2,vdev=xvdb,access=rw,target={qcow2}",
                f"format=raw,vdev=xvdc,access=ro,target={ro}",
            ],
            vcpus=2,
        ).wait_for_shell()
        sh = guest.sh
        assert sh("ls /sys/block").split() == ["xvda", "xvdb", "xvdc"]
        assert sh("ls /sys/block/xvda/mq").split() == ["0", "1"]
        assert len(guest.device("xvda").queues) == 2

        # A file system that was made here, and is looked at here afterwards.
        sh("mkdir /mnt; mount /dev/xvda /mnt")
        sh("for i in 1 2 3 4; do cat /bin/busybox; done > /mnt/file; sync")
        expected = sh("sha256sum < /mnt/file").split()[0]
        sh("umount /mnt; echo 3 > /proc/sys/vm/drop_caches; mount /dev/xvda /mnt")
        assert sh("sha256sum < /mnt/file").split()[0] == expected

        # Behind the qcow2 image is what the base holds; what is written stays in front.
        assert sh("head -c 8388608 /dev/xvdb | sha256sum")[:64] == sha256(base.read_bytes())
        sh("dd if=/mnt/file of=/dev/xvdb bs=1000 seek=3000 conv=fsync 2> /dev/null")

        # A disk that may only be read.
        assert sh("cat /sys/block/xvdc/ro") == "1\n"
        sh("dd if=/dev/zero of=/dev/xvdc bs=4k count=1 2> /dev/null", 1)
        assert sh("sha256sum < /dev/xvdc")[:64] == sha256(ro.read_bytes())

        # Space that is given back.
        sh("rm /mnt/file; sync")
        before = raw.stat().st_blocks
        sh("fstrim /mnt")
        assert guest.device("xvda").metrics.ds_req > 0
        assert raw.stat().st_blocks <= before
        sh("cp /bin/busybox /mnt/kept; umount /mnt")

        # A disk that comes, and goes.
        guest.domain.devices.attach_disk(
            parse_disk(f"format=raw,vdev=xvdd,access=rw,target={late}")
        )
        sh("until [ -e /dev/xvdd ]; do sleep 0.1; done")
        sh("blkdiscard /dev/xvdd; dd if=/dev/xvdc of=/dev/xvdd bs=64k conv=fsync 2> /dev/null")
        gone: list[bool] = []
        number = parse_disk("/x,raw,xvdd").device_number
        guest.domain.devices.detach("vbd", number, lambda: gone.append(True))
        sh("while [ -e /dev/xvdd ]; do sleep 0.1; done")
        assert gone == [True]
        assert late.read_bytes() == ro.read_bytes() + bytes(3 * MIB)
        RawImage(str(late)).close()

        # A disk that grows.
        assert sh("cat /sys/block/xvda/size") == f"{64 * 2048}\n"
        os.truncate(raw, 96 * MIB)
        sh(
            f"until [ $(cat /sys/block/xvda/size) = {96 * 2048} ]; do "
            "dd if=/dev/xvda of=/dev/null bs=4k count=1 iflag=direct 2> /dev/null; sleep 0.1; done"
        )
        guest.off()
    fsck(raw)
    assert read_file(raw, "kept") == image("busybox").read_bytes()
    assert_clean(qcow2)
    data = content(qcow2)
    assert data[:3_000_000] == base.read_bytes()[:3_000_000]
    busybox = image("busybox").read_bytes() * 4
    assert data[3_000_000 : 3_000_000 + len(busybox)] == busybox
    assert base.read_bytes() == pattern(8 * MIB)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


WORK = (
    "dd if=/dev/xvda of=/dev/null bs=64k count=40 2> /dev/null; "
    "mount /dev/xvda /root; cp /bin/busybox /root/a; sync; "
    "cp /root/a /root/b & cp /bin/busybox /root/c; wait; sync; umount /root; "
    "cat /proc/uptime; cat /proc/interrupts"
)


def test_the_virtual_clock_repeats_disk_io(image: Get, tmp_path: Path) -> None:
    """Console, time and answers of two runs are the same, however busy the host is."""
    seen = []
    # What mkfs has put in of the time of day must not differ.
    fresh = tmp_path / "fresh"
    mkfs(fresh, 16 * MIB)
    for run in range(2):
        path = tmp_path / f"disk-{run}"
        shutil.copy(fresh, path)
        with Machine(clock="virtual", host_slice=5_000_000 - run * 3_333_333) as machine:
            disk = f"format=raw,vdev=xvda,access=rw,target={path}"
            guest = Guest(machine, image, [disk], vcpus=2, run=WORK)
            assert guest.domain.wait(120) is ShutdownReason.poweroff
            seen.append((machine.now, guest.console.raw, path.read_bytes()))
    assert b"the command ended with status 0" in seen[0][1]
    assert seen[0] == seen[1]


def test_power_cuts(image: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any prefix and any part of what wasn't flushed, the file system is sound and has all
    that the guest was told to be on the disk."""
    path = tmp_path / "disk"
    mkfs(path, 16 * MIB, "-J", "size=4")
    storage: list[RecordingStorage] = []

    def open_disk(_disk: object) -> RecordingStorage:
        storage.append(RecordingStorage(RawImage(str(path))))
        return storage[0]

    monkeypatch.setattr(manager, "open_disk", open_disk)
    work = (
        "mount /dev/xvda /root; "
        "for i in 1 2 3 4 5 6 7 8; do seq $i 7 20000 > /root/$i; sync; echo saved-$i; "
        "mv /root/$i /root/file-$i; seq 9999 > /root/scratch; done"
    )
    acknowledged: list[tuple[int, int]] = []
    with Machine() as machine:
        guest = Guest(machine, image, [f"format=raw,vdev=xvda,access=rw,target={path}"], run=work)

        def listen(_data: bytes) -> None:
            for number in re.findall(r"saved-(\d+)", guest.console.output):
                if int(number) > len(acknowledged):
                    acknowledged.append((int(number), len(storage[0].log)))

        guest.console.on_output(listen)
        assert guest.domain.wait(120) is ShutdownReason.poweroff
    assert [number for number, _ in acknowledged] == list(range(1, 9))
    log, start = storage[0].log, storage[0].start
    assert sum(one.name == "flush" for one in log) >= 8
    rng = random.Random(4)
    cut = tmp_path / "cut"
    for _ in range(12):
        length = rng.randint(acknowledged[0][1], len(log))
        share = rng.choice([0.0, 0.3, 0.7, 1.0])
        cut.write_bytes(
            after_power_cut(start, log[:length], lambda _i, _a, p=share: rng.random() < p)  # type: ignore[misc]
        )
        # The journal is played, and nothing else may be there to mend.
        command = [*need("e2fsck"), "-p", str(cut)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode in (0, 1), done.stdout
        fsck(cut)
        for number, when in acknowledged:
            if when <= length:
                data = read_file(cut, f"file-{number}") or read_file(cut, str(number))
                assert data == "".join(f"{i}\n" for i in range(number, 20001, 7)).encode(), number


def test_what_was_synced_survives_the_process(image: Get, tmp_path: Path) -> None:
    """Killed in the middle of its work, and what the guest had flushed is there."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", path, "256M")
    xg = shutil.which("xg", path=str(Path(sys.executable).parent))
    if xg is None:
        unavailable("xg isn't installed beside Python")
    work = (
        "dd if=/dev/urandom of=/tmp/data bs=1M count=24 2> /dev/null; sha256sum < /tmp/data; "
        "dd if=/tmp/data of=/dev/xvda bs=1M conv=fsync 2> /dev/null; echo synced; "
        "dd if=/dev/zero of=/dev/xvda bs=1M seek=64 2> /dev/null"
    )
    command = [
        *(str(xg), "run", "--kernel", str(image("debian-cloud"))),
        *("--ramdisk", str(image("driver-initrd")), "--memory", "192M", "--timeout", "120"),
        *("--cmdline", f'console=hvc0 quiet xg.run="{work}"'),
        *("--disk", f"format=qcow2,vdev=xvda,access=rw,target={path}"),
    ]
    output = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output += line.decode()
            if line.strip() == b"synced":
                process.kill()
                break
    found = re.search(r"^([0-9a-f]{64})", output, re.MULTILINE)
    assert found, output
    assert sha256(content(path)[: 24 * MIB]) == found[1]
    assert not {"corruptions"} & check(path).keys()


def test_grub_reads_a_file(image: Get, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    mkfs(path, 8 * MIB, "-O", "^has_journal")
    hello = tmp_path / "hello.txt"
    hello.write_text("said the disk\n")
    subprocess.run(
        [*need("debugfs"), "-w", "-R", f"write {hello} hello.txt", str(path)], check=True
    )
    with Machine() as machine:
        disk = f"format=raw,vdev=xvda,access=ro,target={path}"
        guest = Guest(machine, image, [disk], kernel="grub-pvh", ramdisk=None)
        guest.console.expect("grub> ", 60)
        guest.console.send("ls\r")
        assert "(xen/xvda)" in guest.console.expect(r"\(.*\)", 60)[0]
        guest.console.expect("grub> ", 60)
        guest.console.send("cat (xen/xvda)/hello.txt\r")
        guest.console.expect("said the disk", 60)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks in real guests: Debian's cloud kernel with its xen-blkfront, and GRUB."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.backends.block.images.support import MIB, assert_clean, content, need, pattern, qemu_img
from xenograft import Machine
from xenograft.backends.block.device import BlockDevice
from xenograft.backends.block.images.raw import RawImage
from xenograft.toolstack.config.disk import parse_disk
from xenograft.toolstack.config.options import from_options
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
    ) -> None:
        self.machine = machine
        run = f' xg.run="{run}"' if run else ""
        config = from_options(
            None,
            name="guest",
            type="pvh",
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
    command = [need("mkfs.ext4"), "-q", "-F", *options, str(path)]
    subprocess.run(command, check=True, timeout=60)


def fsck(path: Path) -> None:
    """No fault in a file system that was left in order."""
    command = [need("e2fsck"), "-fn", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def read_file(path: Path, name: str) -> bytes:
    """A file of a file system."""
    command = [need("debugfs"), "-R", f"cat {name}", str(path)]
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
    import hashlib

    return hashlib.sha256(data).hexdigest()

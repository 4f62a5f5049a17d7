# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian from a disk, with Debian's standard kernel: disk, network and a shared folder.

As a program (`python -m tests.system.debian DISK SHARE`) it boots the disk, has the guest make
its big file of what lies in SHARE, says so once that is synced, and waits to be killed.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from tests.linux import modules
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.images import initrd
from xenograft.toolstack.images.cache import ImageCache
from xenograft.toolstack.machine import Domain, Machine

PARTS = 64
SYNCED = "the file is synced"


def big_file(block: bytes) -> tuple[int, str]:
    """(size, MD5) of the big file: the block again and again, at another offset each time."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    for number in range(1, PARTS + 1):
        for data in (b"%d\n" % number, block):
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()


def boot(machine: Machine, disk: Path, form: str, share: Path) -> Domain:
    """Boot to a root shell on the console."""
    folder = modules.fetch()
    names = ("crc32c_generic", "ext4", "xen-blkfront", "xen-netfront", "9p", "9pnet_xen")
    with tempfile.NamedTemporaryFile() as ramdisk:
        busybox = ImageCache().get("busybox").path
        ramdisk.write(initrd.build(busybox, modules.in_order(folder, names)))
        ramdisk.flush()
        guest = machine.create(
            from_options(
                None,
                name="debian",
                kernel=str(folder / "vmlinuz"),
                ramdisk=ramdisk.name,
                cmdline="console=hvc0 quiet root=/dev/xvda systemd.show_status=false",
                memory="512M",
                disk=[f"{disk},{form},xvda,rw"],
                vif=["bridge=user,forward=tcp:0:22"],
                p9=[f"tag=share,path={share}"],
            )
        )
        guest.console.expect("debian login: ", 600)
    guest.console.send("root\n")
    guest.console.expect(r"root@debian:~# ", 60)
    run(guest, "mount -t 9p -o trans=xen,version=9p2000.L share /mnt")
    return guest


def run(guest: Domain, command: str, timeout: float = 200) -> str:
    """What a command prints; it must succeed."""
    guest.console.send(f"{command}; echo st''atus=$?=\n")
    found = guest.console.expect(r"(?s)st''atus=.*?\n(.*)status=(\d+)=\r?\n", timeout)
    assert found.group(2) == "0", guest.console.output[-2000:]
    return found.group(1)


def main(disk: Path, share: Path) -> None:
    with Machine() as machine:
        guest = boot(machine, disk, "raw", share)
        run(guest, "cp /mnt/block /dev/shm/block")
        make = f"for i in $(seq {PARTS}); do echo $i; cat /dev/shm/block; done > /root/big"
        run(guest, f"{make} && sync && echo done by the guest > /mnt/answer")
        print(SYNCED, flush=True)
        machine.run(timeout=600, until=lambda: False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

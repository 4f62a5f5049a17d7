# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB as a PV guest: it reads a disk, and boots what it finds there, in its own domain.

The kernel that GRUB loads takes its place: page tables, start info, ring pages and event channels
are handed on, and the memory is what GRUB had.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hypervisor.pv.audit import Audit
from xenograft.toolstack.build.decompress import decompress
from xenograft.toolstack.build.kernel import parse_kernel
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.images.initrd import MARKER
from xenograft.toolstack.machine import Domain, Machine

Image = Callable[[str], Path]


def disk(path: Path, files: dict[str, bytes]) -> Path:
    """A disk with a tar archive, which GRUB knows as a file system."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def start(machine: Machine, kernel: Path, path: Path) -> Domain:
    config = from_options(
        name="grub", type="pv", kernel=str(kernel), memory="384M", disk=[f"{path},raw,xvda,r"]
    )
    return machine.create(config)


def test_a_linux_from_the_disk(image: Image, tmp_path: Path) -> None:
    # GRUB unpacks gzip, xz and lzo; Debian packs its kernels by another way.
    kernel = parse_kernel(image("debian-cloud").read_bytes(), "kernel", decompress)
    config = b"""set timeout=0
linux /vmlinux console=hvc0 quiet from=the-disk
initrd /initrd
boot
"""
    files = {
        "boot/grub/grub.cfg": config,
        "vmlinux": bytes(kernel.image),
        "initrd": image("demo-initrd").read_bytes(),
    }
    with Machine() as machine:
        guest = start(machine, image("grub-pv64"), disk(tmp_path / "disk", files))
        guest.console.expect("Welcome to GRUB!", 60)
        guest.console.expect(MARKER, 120)
        guest.console.expect("guest:~# ")
        guest.console.send("cat /proc/cmdline /sys/hypervisor/guest_type\n")
        guest.console.expect(r"\nconsole=hvc0 quiet from=the-disk\r?\nPV\r")
        Audit(guest.xen).check()
        guest.console.send("poweroff -f\n")
        assert str(guest.wait(60)) == "poweroff"


@pytest.mark.parametrize(("kernel", "second"), [("grub-pv64", "x86_64"), ("grub-pv32", "i386")])
def test_a_grub_from_the_disk(image: Image, tmp_path: Path, kernel: str, second: str) -> None:
    """The first one looks for a second by this name, as Debian builds it; and that again."""
    files = {f"boot/xen/pvboot-{second}.elf": image(kernel).read_bytes()}
    with Machine() as machine:
        guest = start(machine, image(kernel), disk(tmp_path / "disk", files))
        for _ in range(3):
            guest.console.expect("Welcome to GRUB!", 60)
            Audit(guest.xen).check()
        assert not guest.ended

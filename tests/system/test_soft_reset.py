# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux goes over to another kernel by kexec: its memory stays, and what it has of Xen is new."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.xl.test_linux import console, listed
from tests.network.conftest import PROMPT, Shell
from tests.toolstack.service.conftest import folder
from tests.toolstack.service.test_process import paths, xg
from xenograft import Machine
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cpio import Archive
from xenograft.toolstack.machine import ShutdownReason
from xenograft.toolstack.service.paths import ServicePaths

__all__ = ["folder", "paths"]
Image = Callable[[str], Path]

CMDLINE = "console=hvc0 quiet loglevel=1"
KEXEC = (
    # A PVH guest's kernel doesn't hand on where the ACPI tables are, nor that it has PV devices.
    "rsdp=0x$(dmesg | sed -n 's/.*ACPI: RSDP 0x0*\\([0-9A-F]*\\).*/\\1/p');"
    f' /k/kexec /k/vmlinuz /k/initrd "{CMDLINE} acpi_rsdp=$rsdp'
    ' xen_emul_unplug=unnecessary second=1"\n'
)


@pytest.fixture
def ramdisk(image: Image, tmp_path: Path) -> Path:
    """The usual one, with a kernel, a ramdisk and the program that goes over to them."""
    program = tmp_path / "kexec"
    source = Path(__file__).with_name("kexec.c")
    subprocess.run(["cc", "-O2", "-static", "-o", str(program), str(source)], check=True)
    base = image("driver-initrd").read_bytes()
    archive = Archive()
    archive.directory("k")
    archive.file("k/kexec", program.read_bytes(), 0o755)
    archive.file("k/vmlinuz", image("debian-cloud").read_bytes(), 0o644)
    archive.file("k/initrd", base, 0o644)
    path = tmp_path / "ramdisk"
    path.write_bytes(base + bytes(-len(base) % 512) + archive.finish())
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"lasting".ljust(1 << 20, b"\0"))
    return path


@pytest.mark.parametrize("vcpus", [1, 2])
def test_another_kernel_takes_over(image: Image, ramdisk: Path, disk: Path, vcpus: int) -> None:
    with Machine() as machine:
        config = from_options(
            name="linux",
            kernel=str(image("debian-cloud")),
            ramdisk=str(ramdisk),
            cmdline=CMDLINE,
            memory="384M",
            vcpus=vcpus,
            disk=[f"{disk},raw,xvda,rw"],
            vif=["bridge=user"],
        )
        old = machine.create(config)
        first = Shell(old)
        with pytest.raises(UserError, match="has to ask for a soft reset itself"):
            old.soft_reset()
        first.run("echo written | dd of=/dev/xvda seek=1 conv=fsync 2>/dev/null")
        free = machine.hypervisor.memory.free_frames()
        old.console.send(KEXEC)
        machine.run(timeout=60, until=lambda: old.ended)
        assert old.shutdown_reason is ShutdownReason.soft_reset
        new = old.soft_reset()
        assert old.destroyed
        assert (new.name, new.xen.uuid) == ("linux", old.xen.uuid)
        assert [domain.name for domain in machine.domains] == ["linux"]
        new.unpause()
        second = Shell(new)
        assert "second=1" in second.run("cat /proc/cmdline")
        assert second.run("nproc") == f"{vcpus}\n"
        assert second.run("head -c 7 /dev/xvda") == "lasting"
        assert second.run("dd if=/dev/xvda skip=1 count=1 2>/dev/null | head -c 7") == "written"
        second.run("udhcpc -q -n -i eth0 > /dev/null 2>&1; ping -c 1 -W 10 10.0.2.2")
        # Its pages are its own again: nothing is there twice.
        assert machine.hypervisor.memory.free_frames() >= free - 64
        new.destroy()
        assert machine.domains == []


@pytest.mark.timeout(280)
def test_in_the_service(paths: ServicePaths, image: Image, ramdisk: Path, disk: Path) -> None:
    config = disk.with_name("linux.cfg")
    config.write_text(
        f'name="linux"\ntype="pvh"\nkernel="{image("debian-cloud")}"\nramdisk="{ramdisk}"\n'
        f"extra=\"{CMDLINE}\"\nmemory=384\ndisk=['{disk},raw,xvda,rw']\n"
    )
    done = xg("create", "-q", str(config))
    assert done.returncode == 0, done.stderr
    before = listed()
    with console(paths) as type_:
        type_("", PROMPT)
        # The console goes on where the guest goes.
        type_(KEXEC, "demo-initrd: user space")
        type_("", PROMPT)
        type_("cat /proc/cmdline; head -c 7 /dev/xvda; echo; echo seen.\n", "lasting\r\nseen.\r")
        after = listed()
        assert after["domid"] != before["domid"]
        assert after["name"] == "linux"
        # Built again it's what its configuration says.
        type_("reboot -f\n", "demo-initrd: user space")
        type_("", PROMPT)
        type_("grep -c second /proc/cmdline; echo seen.\n", "0\r\nseen.\r")
    assert listed()["domid"] != after["domid"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""The ramdisk of the demonstration guest: busybox, and a first process of our own."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from xenograft.toolstack.images.cpio import Archive

MARKER = "demo-initrd: user space"
"""How the line starts that the guest prints when user space is reached."""

# Where busybox can't say what it knows (a host of another architecture), the first process
# makes the links in the guest, which costs it a quarter of a second.
_NO_APPLETS: list[str] = []


_ORDERLY = b"#!/bin/sh\nexec /bin/busybox %s -f\n"
"""What the kernel runs when it's asked by xenstore to power off or reboot."""


def recipe() -> str:
    """Changes when what's built from the same busybox would."""
    names = ("demo_init.sh", "demo_dhcp.sh", "initrd.py")
    modules = (resources.files(__package__) / name for name in names)
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()[:12]


def applets(busybox: Path) -> list[str]:
    """The commands that a busybox binary knows, in its own order; none if it can't run here."""
    try:
        done = subprocess.run(
            [str(busybox), "--list"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return _NO_APPLETS
    return done.stdout.split() if done.returncode == 0 else _NO_APPLETS


def read_module(path: Path) -> bytes:
    """A kernel module, decompressed: busybox can't do that itself."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return gzip.decompress(data) if path.suffix == ".gz" else data


def obey(archive: Archive) -> None:
    """Add what lets the guest end in order when xenstore says so."""
    archive.directory("sbin")
    for name in ("poweroff", "reboot"):
        archive.file(f"sbin/{name}", _ORDERLY % name.encode(), 0o755)


def build(busybox: Path, modules: Sequence[Path] = ()) -> bytes:
    """The archive, uncompressed: unpacking would cost the guest more than reading.

    `modules` are loaded by the guest in their order.
    """
    files = resources.files(__package__)
    init = files.joinpath("demo_init.sh").read_bytes()
    dhcp = files.joinpath("demo_dhcp.sh").read_bytes()
    archive = Archive()
    for path in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        archive.directory(path)
    # Linux opens the console for the first process before devtmpfs is mounted.
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    archive.file("init", init, 0o755)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for name in sorted({"sh", *applets(busybox)} - {"busybox"}):
        archive.symlink(f"bin/{name}", "busybox")
    for index, module in enumerate(modules):
        name = module.name.partition(".")[0]
        archive.directory("lib/modules")
        archive.file(f"lib/modules/{index:02}-{name}.ko", read_module(module))
    obey(archive)
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    archive.directory("etc/udhcpc")
    archive.file("etc/udhcpc/default.script", dhcp, 0o755)
    return archive.finish()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The ramdisk of a driver domain: Linux's back ends, busybox, and Xen's xenstore tools."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.apt import Say
from xenograft.toolstack.images.cpio import Archive
from xenograft.toolstack.images.initrd import obey, read_module
from xenograft.toolstack.images.tools import Program, program

MARKER = "backend-initrd: ready to serve"
"""What the guest prints when its back ends wait for devices."""

_TOOLS = ("xenstore-read", "xenstore-write", "xenstore-ls")
_LIBRARY = re.compile(r"(/\S+) \(0x")


def recipe() -> str:
    """Changes when what's built from the same parts would."""
    files = (
        resources.files(__package__) / name
        for name in ("backend_init.sh", "backend_initrd.py", "initrd.py")
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def build(busybox: Path, modules: Sequence[Path], cache: Path, say: Say) -> bytes:
    """The archive. `cache` is where tools are looked for.  Raises UserError."""
    tools = program("xenstore-ls", cache, say)
    archive = Archive()
    for path in ("bin", "dev", "lib/modules", "proc", "root", "sys", "tmp", "usr/bin"):
        archive.directory(path)
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    init = resources.files(__package__).joinpath("backend_init.sh").read_bytes()
    archive.file("init", init, 0o755)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.symlink("bin/sh", "busybox")
    obey(archive)
    for index, module in enumerate(modules):
        name = module.name.partition(".")[0]
        archive.file(f"lib/modules/{index:02}-{name}.ko", read_module(module))
    for name in _TOOLS:
        archive.file(f"usr/bin/{name}", tools.sibling(name).read_bytes(), 0o755)
    for library in _libraries(tools):
        # Where the loader looks by itself; its own place is in the programs.
        folder = "lib64" if library.name.startswith("ld-linux") else "usr/lib"
        archive.directory(folder)
        archive.file(f"{folder}/{library.name}", library.read_bytes(), 0o755)
    return archive.finish()


def _libraries(tools: Program) -> list[Path]:
    """The shared libraries that the tools need, the loader among them."""
    done = subprocess.run(
        ["ldd", str(tools.path)], capture_output=True, text=True, check=False, env=tools.env
    )
    found = [Path(name) for name in _LIBRARY.findall(done.stdout)]
    if done.returncode or not found or "not found" in done.stdout:
        raise UserError(f"can't tell which libraries {tools.path} needs: {done.stderr.strip()}")
    return found

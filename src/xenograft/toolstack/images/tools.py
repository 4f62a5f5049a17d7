# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of the host's that some images and tests need: the system's, or out of packages.

Where a program isn't installed, the Debian packages that hold it (and the libraries that a
minimal system lacks) are unpacked into the cache, with nothing installed and no root needed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.apt import Apt, Say, have_apt, say_stderr, unpack

PACKAGES: dict[str, tuple[str, ...]] = {
    "debootstrap": ("debootstrap", "wget", "libpsl5", "gpgv", "debian-archive-keyring"),
    "mke2fs": ("e2fsprogs", "libext2fs2", "libcom-err2", "libss2"),
    "e2fsck": ("e2fsprogs", "libext2fs2", "libcom-err2", "libss2"),
    "xenstore-ls": ("xenstore-utils", "libxenstore4", "libxentoolcore1"),
    "xenstore-control": (
        *("xen-utils-4.17", "libxenmisc4.17", "libxenstore4", "libxentoolcore1", "libxentoollog1"),
        *("libxencall1", "libxenevtchn1", "libxenforeignmemory1", "libxengnttab1"),
        *("libxendevicemodel1", "liblzo2-2"),
    ),
    "xenalyze": ("xen-utils-common",),
    "qemu-img": ("qemu-utils", "libaio1", "libfuse3-3", "libglib2.0-0", "libnuma1", "liburing2"),
}
"""The packages of each program that is known here."""

_BINARIES = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/lib/xen-4.17/bin")
_SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


@dataclass(frozen=True)
class Program:
    """A program that can be run: with `environment` on top of the usual one."""

    path: Path
    environment: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        """The whole environment for the program."""
        return {**os.environ, **self.environment}

    def sibling(self, command: str) -> Path:
        """Another program of the same package."""
        return self.path.with_name(command)


def program(command: str, root: Path, say: Say = say_stderr) -> Program:
    """The system's `command`, or the one from its packages in the cache at `root`.

    Raises UserError if it is neither installed nor to be had.
    """
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM}"
    found = shutil.which(command, path=path)
    if found is not None:
        return Program(Path(found), {"PATH": path})
    tree = root / "tools" / command
    if not tree.exists():
        _unpack(command, root, tree, say)
    for folder in _BINARIES:
        if (tree / folder / command).exists():
            binaries = ":".join(str(tree / each) for each in _BINARIES)
            libraries = ":".join(str(tree / each) for each in _LIBRARIES)
            environment = {"PATH": f"{binaries}:{path}", "LD_LIBRARY_PATH": libraries}
            return Program(tree / folder / command, environment)
    raise UserError(f"{command} isn't in {', '.join(PACKAGES[command])}; remove {tree}")


def _unpack(command: str, root: Path, tree: Path, say: Say) -> None:
    if not have_apt():
        raise UserError(f"{command} isn't installed, and there's no apt to get it with")
    locks = root / "locks"
    for folder in (locks, tree.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with (locks / ".apt").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have made it while this one waited.
        if tree.exists():
            return
        with tempfile.TemporaryDirectory(prefix=f".{command}.", dir=tree.parent) as work:
            apt = Apt(root / "apt", say)
            for package in PACKAGES[command]:
                unpack(apt.download(package, Path(work) / "deb"), Path(work) / "tree")
            (Path(work) / "tree").rename(tree)

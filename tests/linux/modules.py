# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's standard kernel and those of its modules that device tests load, fetched once.

Kernel and modules are taken from one package, since a kernel loads modules of its own build
alone.  They lie beside the images of `xg image`, in the same cache.
"""

from __future__ import annotations

import fcntl
import json
import lzma
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from elftools.elf.elffile import ELFFile

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.apt import Apt, extract, have_apt, say_stderr
from xenograft.toolstack.images.cache import cache_root
from xenograft.toolstack.images.cpio import Archive

_PACKAGE = "linux-image-amd64"
_FOLLOW = r"linux-image-\d.*-amd64"
_DRIVERS = (
    "fs/9p/9p",
    "net/9p/9pnet",
    "net/9p/9pnet_xen",
    "fs/netfs/netfs",
    "fs/fscache/fscache",
    "fs/ext4/ext4",
    "fs/jbd2/jbd2",
    "fs/mbcache",
    "lib/crc16",
    "lib/libcrc32c",
    "crypto/crc32c_generic",
    "drivers/block/xen-blkfront",
    "drivers/net/xen-netfront",
    "drivers/input/evdev",
    "drivers/input/misc/xen-kbdfront",
    "drivers/video/fbdev/xen-fbfront",
    "drivers/video/fbdev/core/fb_sys_fops",
    "drivers/video/fbdev/core/syscopyarea",
    "drivers/video/fbdev/core/sysfillrect",
    "drivers/video/fbdev/core/sysimgblt",
    "drivers/input/mousedev",
)
_PATTERNS = ("boot/vmlinuz-*", *(f"lib/modules/*/kernel/{name}.ko*" for name in _DRIVERS))


def fetch() -> Path:
    """A directory with ``vmlinuz`` and modules (``9p.ko`` …).  Raises UserError."""
    root = cache_root() / "test-modules"
    root.mkdir(parents=True, exist_ok=True)
    final = root / "debian"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = final / "made.json"
        if made.exists() and json.loads(made.read_text()) == list(_PATTERNS):
            return final
        if not have_apt():
            raise UserError("modules of Debian's kernel need apt, which isn't here")
        work = Path(tempfile.mkdtemp(dir=root))
        try:
            apt = Apt(cache_root() / "apt", say_stderr)
            deb = apt.download(apt.resolve(_PACKAGE, _FOLLOW), work / "deb")
            for path in extract(deb, _PATTERNS, work / "made"):
                if path.name.startswith("vmlinuz"):
                    path.rename(path.with_name("vmlinuz"))
                elif path.suffix == ".xz":
                    path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            (work / "made" / "made.json").write_text(json.dumps(_PATTERNS))
            shutil.rmtree(final, ignore_errors=True)
            (work / "made").rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final


def _needs(module: Path) -> list[str]:
    """What a module stands on, as its own section says."""
    with module.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".modinfo")
        words = [] if section is None else section.data().split(b"\0")
    for word in words:
        if word.startswith(b"depends="):
            return [name for name in word[8:].decode().split(",") if name]
    return []


def in_order(directory: Path, names: Iterable[str]) -> list[Path]:
    """The files of modules and of what they stand on, each behind what it needs."""
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        for path in (directory / f"{name}.ko", directory / f"{name.replace('_', '-')}.ko"):
            if name not in ordered and path.exists():
                for needed in _needs(path):
                    add(needed)
                ordered[name] = path

    for name in names:
        add(name)
    return list(ordered.values())


def ramdisk(directory: Path, base: Path, modules: Iterable[str], script: str) -> bytes:
    """The demonstration guest's ramdisk, with modules and a script ``/script`` that loads them.

    Linux unpacks archives that follow each other.  The script is run by ``xg.run="sh /script"``.
    """
    archive = Archive()
    lines = []
    for path in in_order(directory, modules):
        archive.file(path.name, path.read_bytes())
        lines.append(f"insmod /{path.name}\n")
    archive.file("script", ("".join(lines) + script).encode())
    data = base.read_bytes()
    return data + bytes(-len(data) % 512) + archive.finish()

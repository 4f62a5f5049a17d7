# SPDX-License-Identifier: GPL-2.0-or-later
"""A cache of unpacked kernels, since unpacking is the slowest step of building a guest.

An entry is a file ``<sha256 of the packed data>`` in ``$XDG_CACHE_HOME/xenograft/kernels``
(the XDG base directory specification), written under another name, synchronized and renamed,
so that a reader sees a whole entry or none.  A hit is a private mapping of the file: nothing is
read that the builder doesn't copy.  A cache that can't be used is never an error.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from xenograft.toolstack.build.decompress import decompress
from xenograft.toolstack.build.elf import Buffer

_MAGIC = b"xenograft kernel 1\n".ljust(32, b"\0")
_HEADER = len(_MAGIC) + 8
"""Magic and the plain size (8 bytes, little endian) come before the plain bytes."""

_MIN_SIZE = 1 << 20
"""Smaller data unpacks faster than a cache looks."""


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where the entries are, by XDG_CACHE_HOME or HOME of the environment."""
    environment = os.environ if environment is None else environment
    base = environment.get("XDG_CACHE_HOME", "")
    # The specification: a relative path is invalid and to be ignored.
    root = Path(base) if base.startswith("/") else Path(environment.get("HOME", "/")) / ".cache"
    return root / "xenograft" / "kernels"


class KernelCache:
    """Unpacks through a folder: an instance can stand where `decompress` does."""

    def __init__(self, folder: Path, keep: int = 8) -> None:
        self._folder = folder
        self._keep = keep
        self.hits = 0
        """How many calls were answered from the folder."""

    def __call__(self, data: Buffer) -> Buffer:
        """The unpacked data. Raises CorruptData as `decompress` does."""
        if len(data) < _MIN_SIZE:
            return decompress(data)
        import hashlib

        path = self._folder / hashlib.sha256(data).hexdigest()
        found = self._read(path)
        if found is not None:
            self.hits += 1
            return found
        plain = decompress(data)
        self._write(path, plain)
        return plain

    def _read(self, path: Path) -> Buffer | None:
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    return None
                head = file.read(_HEADER)
                size = int.from_bytes(head[len(_MAGIC) :], "little")
                if head[: len(_MAGIC)] != _MAGIC or status.st_size != _HEADER + size:
                    return None
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            os.utime(path)  # the least recently used go first
        except (OSError, ValueError):
            return None  # no entry, or none that can be read: as good as a miss
        return memoryview(mapping)[_HEADER:]

    def _write(self, path: Path, plain: bytes) -> None:
        import tempfile

        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        except OSError:
            return  # a read-only or full home: the guest runs all the same
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + len(plain).to_bytes(8, "little"))
                file.write(plain)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self._prune()
        except OSError:
            temporary.unlink(missing_ok=True)

    def _prune(self) -> None:
        """Keep the entries used last. Others may prune at the same time."""
        entries = []
        for path in self._folder.iterdir():
            try:
                entries.append((path.stat().st_mtime_ns, path.name, path))
            except OSError:
                continue  # gone meanwhile
        entries.sort(reverse=True)
        for _, _, path in entries[self._keep :]:
            path.unlink(missing_ok=True)

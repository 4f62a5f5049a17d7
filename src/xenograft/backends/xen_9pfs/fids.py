# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client's numbers (fids) stand for.

A fid names a path below the folder, and holds an open file or an extended attribute once it has
been opened as one.  Its file is closed when nobody uses it any more, not when the client says
so: requests run on several threads, and the number of a closed descriptor may be another
file's a moment later.
"""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from xenograft.backends.xen_9pfs.beneath import fail

MAX_FIDS = 1 << 15
MAX_PATH_BYTES = 16 << 20
"""Bytes of all paths that a client's fids name."""
MAX_XATTR = 64 << 10
"""Size of one attribute (XATTR_SIZE_MAX of Linux)."""
MAX_XATTRS = 64
"""Attributes that a client reads or writes at a time."""


def max_open_files() -> int:
    """How many files one client may have open: no more than half of what this process may."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4096 if soft == resource.RLIM_INFINITY else max(64, min(4096, soft // 2))


class OpenFile:
    """An open file or directory, and the flags by which a client opened it."""

    __slots__ = ("descriptor", "directory", "flags", "mutex")

    def __init__(self, descriptor: int, flags: int, directory: bool) -> None:
        self.descriptor = descriptor
        self.flags = flags
        self.directory = directory
        self.mutex = threading.Lock()
        """For who moves the descriptor's position."""


class Xattr:
    """An extended attribute that is read, or (with a name) being written."""

    __slots__ = ("data", "flags", "name", "size")

    def __init__(self, data: bytes, name: bytes = b"", size: int = 0, flags: int = 0) -> None:
        self.data = bytearray(data)
        self.name = name
        self.size = size
        self.flags = flags


class Fid:
    """One fid."""

    __slots__ = ("file", "gone", "path", "root", "uid", "users", "xattr")

    def __init__(self, path: bytes, root: bytes, uid: int) -> None:
        self.path = path
        self.root = root
        """The directory that it was attached to: ``..`` leads no higher."""
        self.uid = uid
        """The user that the client attached as."""
        self.file: OpenFile | None = None
        self.xattr: Xattr | None = None
        self.users = 0
        self.gone = False


class Fids:
    """The fids of one client.  Its methods may be called from any thread; they raise OSError."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._fids: dict[int, Fid] = {}
        self._bytes = 0
        self._open = 0
        self._xattrs = 0
        self._max_open = max_open_files()

    def __len__(self) -> int:
        return len(self._fids)

    @property
    def open_files(self) -> int:
        return self._open

    def items(self) -> list[tuple[int, Fid]]:
        """All of them, by number."""
        with self._mutex:
            return sorted(self._fids.items())

    def add(self, number: int, fid: Fid, replaces: bool = False) -> None:
        """Give a number its meaning; `replaces`: instead of the one that it had."""
        with self._mutex:
            old = self._fids.get(number)
            if old is not None and not replaces:
                raise fail(errno.EBADF)
            if (old is None and len(self._fids) >= MAX_FIDS) or (
                self._bytes + len(fid.path) > MAX_PATH_BYTES
            ):
                raise fail(errno.ENFILE)
            if old is not None:
                self._drop(number, old)
            self._fids[number] = fid
            self._bytes += len(fid.path)

    @contextmanager
    def use(self, number: int) -> Iterator[Fid]:
        """A fid whose file stays open as long as it's used."""
        with self._mutex:
            fid = self._fids.get(number)
            if fid is None:
                raise fail(errno.EBADF)
            fid.users += 1
        try:
            yield fid
        finally:
            with self._mutex:
                fid.users -= 1
                if fid.gone and not fid.users:
                    self._close(fid)

    def remove(self, number: int) -> None:
        """The client needs a fid no more."""
        with self._mutex:
            fid = self._fids.get(number)
            if fid is None:
                raise fail(errno.EBADF)
            self._drop(number, fid)

    def _drop(self, number: int, fid: Fid) -> None:
        del self._fids[number]
        self._bytes -= len(fid.path)
        fid.gone = True
        if not fid.users:
            self._close(fid)

    def _close(self, fid: Fid) -> None:
        file, fid.file = fid.file, None
        if file is not None:
            self._open -= 1
            os.close(file.descriptor)
        if fid.xattr is not None:
            fid.xattr = None
            self._xattrs -= 1

    def set_file(self, fid: Fid, file: OpenFile) -> None:
        """A fid that's in use was opened: the descriptor is its own now, or closed."""
        with self._mutex:
            if fid.file is not None or fid.xattr is not None:
                os.close(file.descriptor)
                raise fail(errno.EBUSY)
            if self._open >= self._max_open:
                os.close(file.descriptor)
                raise fail(errno.EMFILE)
            fid.file = file
            self._open += 1

    def set_xattr(self, fid: Fid, xattr: Xattr) -> None:
        """A fid that's in use, or isn't in the table yet, is an attribute from now on."""
        with self._mutex:
            if fid.file is not None or fid.xattr is not None:
                raise fail(errno.EBUSY)
            if self._xattrs >= MAX_XATTRS:
                raise fail(errno.ENFILE)
            fid.xattr = xattr
            self._xattrs += 1

    def set_path(self, fid: Fid, path: bytes) -> None:
        """A fid names something else now."""
        with self._mutex:
            if not fid.gone:
                self._bytes += len(path) - len(fid.path)
            fid.path = path

    def renamed(self, old: bytes, new: bytes) -> None:
        """What was at path `old` is at `new` now, with all that's below."""
        below = old + b"/"
        with self._mutex:
            for fid in self._fids.values():
                if fid.path == old or fid.path.startswith(below):
                    path = new + fid.path[len(old) :]
                    self._bytes += len(path) - len(fid.path)
                    fid.path = path

    def clear(self) -> None:
        """The client is gone."""
        with self._mutex:
            for number, fid in list(self._fids.items()):
                self._drop(number, fid)

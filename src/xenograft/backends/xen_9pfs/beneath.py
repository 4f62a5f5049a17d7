# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder of the host that nothing leads out of.

Every look-up is one openat2(2) below the folder's own descriptor, with RESOLVE_BENEATH and
RESOLVE_NO_SYMLINKS: neither a symbolic link nor ``..``, nor one that appears while we look, can
lead anywhere else.  Where the kernel has no openat2 (before 5.6, or where a container's filter
hides it), each name is opened below the one before it, with O_NOFOLLOW.

Nothing but regular files and directories is ever opened for reading or writing: the inode is
looked at through an O_PATH descriptor first, and opened through that very descriptor.
"""

from __future__ import annotations

import copy
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_NR_OPENAT2 = 437  # the same on all architectures
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_RESOLVE = 0x08 | 0x04 | 0x02  # BENEATH, NO_SYMLINKS, NO_MAGICLINKS
_RESOLVE_CACHED = _RESOLVE | 0x20 | 0x01  # CACHED, NO_XDEV
_LOCAL = frozenset(
    (
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0xF2F52010,  # f2fs
    )
)
"""File systems (statfs.f_type) that tell what they have in memory without asking anybody."""
_RETRIES = 1000
_libc = ctypes.CDLL(None, use_errno=True)

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SAFE = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def fail(number: int) -> OSError:
    """An OSError of that errno, to be raised."""
    return OSError(number, os.strerror(number))


class WouldBlock(Exception):
    """What was asked for isn't in the host's memory."""


def check_name(name: bytes) -> bytes:
    """A name of one directory entry.  Raises OSError for what can't be one."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise fail(errno.EINVAL)
    if len(name) > 255:
        raise fail(errno.ENAMETOOLONG)
    return name


def join(path: bytes, name: bytes) -> bytes:
    """A path below the folder; the folder itself is the empty one."""
    return path + b"/" + name if path else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """(directory, name).  Raises OSError for the folder itself: it has no name here."""
    if not path:
        raise fail(errno.EBUSY)
    directory, _, name = path.rpartition(b"/")
    return directory, name


def proc_path(descriptor: int) -> str:
    """A path that stands for an open file, whatever it's called by now."""
    return f"/proc/self/fd/{descriptor}"


class Folder:
    """The folder at `path`; paths of the methods are below it, as bytes, without ``..``.

    All methods raise OSError, and may be called from any thread.
    """

    def __init__(self, path: str, use_openat2: bool = True) -> None:
        self.path = path
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._openat2 = use_openat2
        self._resolve = _RESOLVE
        self.device = os.fstat(self._root).st_dev

    def cached(self) -> Folder | None:
        """The same folder for look-ups that never wait: they raise WouldBlock instead.

        None where the file system, or the kernel (before 5.12), doesn't have that.
        """
        if not self._openat2 or _file_system(self._root) not in _LOCAL:
            return None
        quick = copy.copy(self)
        quick._resolve = _RESOLVE_CACHED
        quick._root = os.dup(self._root)
        try:
            os.close(quick._open(b"", _LOOK))
        except (OSError, WouldBlock):
            quick.close()
            return None
        return quick

    def close(self) -> None:
        """Let go of the folder; a second time does nothing."""
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def _open(self, path: bytes, flags: int) -> int:
        """An O_PATH descriptor of what's at `path`; of a link itself, if it's one."""
        if self._root < 0:
            raise fail(errno.EBADF)
        if self._resolve == _RESOLVE_CACHED:
            try:
                return self._by_openat2(path, flags)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EXDEV):
                    raise WouldBlock from None
                raise
        if self._openat2:
            try:
                return self._by_openat2(path, flags)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM):
                    raise
                self._openat2 = False
        return self._by_names(path, flags)

    def _by_openat2(self, path: bytes, flags: int) -> int:
        how = _HOW.pack(flags, 0, self._resolve)
        for _ in range(1 if self._resolve == _RESOLVE_CACHED else _RETRIES):
            found: int = _libc.syscall(
                ctypes.c_long(_NR_OPENAT2),
                ctypes.c_long(self._root),
                ctypes.c_char_p(path or b"."),
                ctypes.c_char_p(how),
                ctypes.c_size_t(_HOW.size),
            )
            if found >= 0:
                return found
            number = ctypes.get_errno()
            # EAGAIN: something was renamed while the kernel looked, so that it can't be sure.
            if number not in (errno.EAGAIN, errno.EINTR):
                raise fail(number)
        raise fail(errno.EAGAIN)

    def _by_names(self, path: bytes, flags: int) -> int:
        if len(path) >= 4096:
            raise fail(errno.ENAMETOOLONG)
        names = path.split(b"/") if path else [b"."]
        if b".." in names:
            raise fail(errno.EXDEV)
        here = self._root
        try:
            for name in names[:-1]:
                below = os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=here)
                if here != self._root:
                    os.close(here)
                here = below
            return os.open(names[-1], flags, dir_fd=here)
        finally:
            if here != self._root:
                os.close(here)

    @contextmanager
    def at(self, path: bytes, directory: bool = False) -> Iterator[int]:
        """An O_PATH descriptor of a file, link or (only, if `directory`) directory."""
        descriptor = self._open(path, _LOOK | (os.O_DIRECTORY if directory else 0))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """(descriptor of the directory, name) of something that has a name below the folder."""
        directory, name = split(path)
        with self.at(directory, True) as descriptor:
            yield descriptor, name

    def open(self, path: bytes, flags: int) -> int:
        """Open a regular file or a directory that's there.  `flags` as for open(2)."""
        with self.at(path) as found:
            return reopen(found, flags)

    def stat(self, path: bytes) -> os.stat_result:
        """The status of what's at `path`; of a link itself, if it's one."""
        with self.at(path) as found:
            return os.fstat(found)


def _file_system(descriptor: int) -> int:
    """The type of the file system that something is on; 0 if it can't be told."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(ctypes.c_int(descriptor), buffer) < 0:
        return 0
    # struct statfs begins with f_type, of the size of a word.
    kind: int = ctypes.c_long.from_buffer(buffer).value
    return kind & 0xFFFFFFFF


def reopen(found: int, flags: int) -> int:
    """Open what an O_PATH descriptor names, if it's a regular file or a directory."""
    mode = os.fstat(found).st_mode
    if stat.S_ISLNK(mode):
        raise fail(errno.ELOOP)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise fail(errno.ENXIO)
    return os.open(proc_path(found), flags | _SAFE)


def create(directory: int, name: bytes, flags: int) -> int:
    """Make a regular file that isn't there yet, and open it; its mode is 0600 at first."""
    return os.open(
        name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _SAFE, 0o600, dir_fd=directory
    )

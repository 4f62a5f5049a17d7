# SPDX-License-Identifier: GPL-2.0-or-later
"""Owners, times and extended attributes of files in a shared folder.

Of extended attributes a guest sees the class ``user.`` alone: the others mean something to the
host's kernel.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any

from xenograft.backends.xen_9pfs.beneath import Folder, fail, proc_path
from xenograft.backends.xen_9pfs.fids import MAX_XATTR, Xattr
from xenograft.backends.xen_9pfs.protocol import (
    SETATTR_ATIME,
    SETATTR_ATIME_SET,
    SETATTR_MTIME,
    SETATTR_MTIME_SET,
)

_NO_ID = 0xFFFFFFFF
_SECOND = 1_000_000_000
_MAX_TIME = 1 << 55


class Attributes:
    """Those of the files in one folder.  All methods raise OSError."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Set the owner; -1 leaves it.  What the host doesn't permit is left as it is.

        A guest's root expects that it may give files away, and with security_model "none" those
        of a host's ordinary user stay that user's.
        """
        if _NO_ID in (uid, gid):
            raise fail(errno.EINVAL)
        try:
            os.chown(path, uid, gid)
        except PermissionError:
            return

    def set_times(self, found: int, link: bool, valid: int, m: dict[str, Any]) -> None:
        """Set the times that `valid` (of Tsetattr) names, to now or what's given."""
        status = os.fstat(found)
        # As touch(1) does it: the host's own "now", for both at once.
        given = SETATTR_ATIME_SET | SETATTR_MTIME_SET
        both = SETATTR_ATIME | SETATTR_MTIME
        path = proc_path(found)
        if valid & both == both and not valid & given:
            os.utime(path)
            return
        times = []
        for name, wanted, is_given, old in (
            ("atime", SETATTR_ATIME, SETATTR_ATIME_SET, status.st_atime_ns),
            ("mtime", SETATTR_MTIME, SETATTR_MTIME_SET, status.st_mtime_ns),
        ):
            if not valid & wanted:
                times.append(old)
            elif not valid & is_given:
                times.append(time.time_ns())
            else:
                times.append(_time(m[f"{name}_sec"], m[f"{name}_nsec"]))
        os.utime(path, ns=(times[0], times[1]))

    def check(self, name: bytes, size: int) -> bytes:
        """A name that a guest may set, with a value of `size` bytes."""
        if not name.startswith(b"user.") or len(name) > 255:
            raise fail(errno.EOPNOTSUPP)
        if size > MAX_XATTR:
            raise fail(errno.E2BIG)
        return name

    def load(self, found: int, name: bytes) -> bytes:
        """A value; for no name, the names that there are, each with a NUL behind it."""
        path = proc_path(found)
        if not name:
            names = [n.encode("utf-8", "surrogateescape") for n in os.listxattr(path)]
            return b"".join(n + b"\0" for n in names if n.startswith(b"user."))
        if not name.startswith(b"user."):
            raise fail(errno.ENODATA)
        return os.getxattr(path, name)

    def store(self, path: bytes, xattr: Xattr) -> None:
        """Set what a guest has written; one of no size is removed."""
        if len(xattr.data) != xattr.size:
            raise fail(errno.EINVAL)
        with self._folder.at(path) as found:
            where = proc_path(found)
            if not xattr.size:
                os.removexattr(where, xattr.name)
            else:
                os.setxattr(where, xattr.name, bytes(xattr.data), xattr.flags & 3)


def _time(seconds: int, nanoseconds: int) -> int:
    seconds = seconds - (1 << 64) if seconds >> 63 else seconds
    if not -_MAX_TIME < seconds < _MAX_TIME or nanoseconds >= _SECOND:
        raise fail(errno.EINVAL)
    return seconds * _SECOND + nanoseconds

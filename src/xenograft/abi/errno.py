# SPDX-License-Identifier: GPL-2.0-or-later
"""public/errno.h: the error numbers of the hypercall interface (Linux's numbers)."""

from __future__ import annotations

from enum import IntEnum


class Errno(IntEnum):
    """XEN_E...: a hypercall fails with the negated number."""

    EPERM = 1
    ENOENT = 2
    ESRCH = 3
    EINTR = 4
    EIO = 5
    ENXIO = 6
    E2BIG = 7
    ENOEXEC = 8
    EBADF = 9
    ECHILD = 10
    EAGAIN = 11
    EWOULDBLOCK = 11
    ENOMEM = 12
    EACCES = 13
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    EXDEV = 18
    ENODEV = 19
    ENOTDIR = 20
    EISDIR = 21
    EINVAL = 22
    ENFILE = 23
    EMFILE = 24
    ENOSPC = 28
    EROFS = 30
    EMLINK = 31
    EDOM = 33
    ERANGE = 34
    EDEADLK = 35
    EDEADLOCK = 35
    ENAMETOOLONG = 36
    ENOLCK = 37
    ENOSYS = 38
    ENOTEMPTY = 39
    ENODATA = 61
    ETIME = 62
    EBADMSG = 74
    EOVERFLOW = 75
    EILSEQ = 84
    ERESTART = 85
    ENOTSOCK = 88
    EMSGSIZE = 90
    EOPNOTSUPP = 95
    EADDRINUSE = 98
    EADDRNOTAVAIL = 99
    ENOBUFS = 105
    EISCONN = 106
    ENOTCONN = 107
    ETIMEDOUT = 110
    ECONNREFUSED = 111


class XenError(Exception):
    """A request fails with `errno`; dispatch turns it into the negative result."""

    def __init__(self, errno: Errno, message: str = "") -> None:
        super().__init__(f"{errno.name}: {message}" if message else errno.name)
        self.errno = errno


def errno_name(result: int) -> str | None:
    """The name of the error in a (signed) hypercall result, or None if it isn't one."""
    if -result in _NAMES:
        return _NAMES[-result]
    return None


_NAMES = {int(member): member.name for member in Errno}

# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks on images in use, which belong to an open file and end with it (fcntl(2), OFD locks).

The bytes locked are those that QEMU's tools use (docs/system/images.rst, "Disk image file
locking"; block/file-posix.c): a shared lock on byte 100+n says that the holder does n to the
image, one on byte 200+n that nobody else may.  So an image in use here is refused there, and
the other way round.
"""

from __future__ import annotations

import errno
import fcntl
import struct

from xenograft.backends.block.images.image import ImageError

_PERM_BASE = 100
_SHARED_BASE = 200

_CONSISTENT_READ = 0
_WRITE = 1
_RESIZE = 3

_FLOCK = "hhqqi"


def lock_image(fd: int, path: str, readonly: bool, shared_write: bool = False) -> None:
    """Take the locks that reading, or writing, an image needs; they are held by `fd`.

    Readers share an image with readers; a writer has it alone, unless `shared_write`.  Raises
    ImageError if somebody else's use is in the way.
    """
    does = [_CONSISTENT_READ] if readonly else [_CONSISTENT_READ, _WRITE, _RESIZE]
    refuses = [] if shared_write else [_WRITE, _RESIZE]
    for byte in [_PERM_BASE + n for n in does] + [_SHARED_BASE + n for n in refuses]:
        if not _set(fd, byte):
            raise _in_use(path, readonly)
    # Our own are in place: now nobody can pass us unseen.
    conflicts = [_SHARED_BASE + n for n in does] + [_PERM_BASE + n for n in refuses]
    if any(_taken(fd, byte) for byte in conflicts):
        raise _in_use(path, readonly)


def _in_use(path: str, readonly: bool) -> ImageError:
    how = "somebody writes to it" if readonly else "it can't be written as well"
    return ImageError(f"{path}: the image is in use by another guest or program; {how}")


def _set(fd: int, byte: int) -> bool:
    """Take a shared lock on a byte.  True also where locks aren't to be had."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, 0, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno not in (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):
            raise
    return True


def _taken(fd: int, byte: int) -> bool:
    """Whether another open file has a lock on a byte."""
    try:
        found = fcntl.fcntl(
            fd, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, byte, 1, 0)
        )
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
    kind: int = struct.unpack(_FLOCK, found)[0]
    return kind != fcntl.F_UNLCK

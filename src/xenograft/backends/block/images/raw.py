# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw images: host files and block devices, byte for byte."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.backends.block.images.image import Buffer, Fill, ImageError
from xenograft.backends.block.images.lock import lock_image

if TYPE_CHECKING:
    import ctypes

# linux/fs.h and linux/falloc.h.
_BLKGETSIZE64 = 0x80081272
_BLKDISCARD = 0x1277
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.ENODEV)


class RawImage:
    """An open file or block device; a `Storage`.

    Raises ImageError if it can't be opened, or is in use by somebody else.
    """

    def __init__(self, path: str, readonly: bool = False, lock: bool = True) -> None:
        self.path = path
        self.readonly = readonly
        try:
            # O_EXCL counts for block devices alone: nobody has mounted it (open(2)).
            flags = os.O_RDONLY if readonly else os.O_RDWR | os.O_EXCL
            # A pipe would wait for somebody at its other end.
            self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ImageError(_why(path, error)) from None
        try:
            status = os.fstat(self._fd)
            self.is_device = stat.S_ISBLK(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                raise ImageError(f"{path}: a directory, not an image")
            if not self.is_device and not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path}: neither a file nor a block device")
            os.set_blocking(self._fd, True)
            if lock:
                lock_image(self._fd, path, readonly)
            self.size = 0
            self.refresh()
        except BaseException:
            os.close(self._fd)
            raise
        self.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        """Major and minor number, of a device."""
        self.discard_granularity = 0 if readonly else self._granularity()
        self._nowait = hasattr(os, "RWF_NOWAIT")
        self._flush_failed = False

    def _granularity(self) -> int:
        if not self.is_device:
            return max(os.fstatvfs(self._fd).f_frsize, 512)
        node = Path(f"/sys/dev/block/{self.device[0]}:{self.device[1]}/queue/discard_granularity")
        try:
            return int(node.read_text())
        except (OSError, ValueError):
            return 0

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        if len(data) == size:
            return data
        parts = [data]
        got = len(data)
        while data and got < size:
            data = os.pread(self._fd, size - got, offset + got)
            parts.append(data)
            got += len(data)
        return b"".join(parts) + bytes(size - got)

    def read_now(self, offset: int, size: int) -> bytearray | None:
        """What the host has in memory."""
        if not self._nowait:
            return None
        data = bytearray(size)
        try:
            if os.preadv(self._fd, [data], offset, os.RWF_NOWAIT) == size:
                return data
        except BlockingIOError:
            return None
        except OSError:
            # This file system can't say; an error shows itself to `read` again.
            self._nowait = False
        return None

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        if not self._nowait:
            return 0
        try:
            return fill(self._fd, offset)
        except OSError:
            # As in `read_now`.
            self._nowait = False
            return 0

    @property
    def cached_fd(self) -> int:
        """The file itself, for what needs no waiting; -1 if nobody can tell what that is."""
        return self._fd if self._nowait and not self.is_device else -1

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view = view[done:]
            offset += done

    def flush(self) -> None:
        """Raises OSError, and then ever again.

        What the host could not write it may have dropped from memory, and forgotten that: the
        next fdatasync(2) would succeed, with data lost.
        """
        if self.readonly:
            return
        if self._flush_failed:
            raise OSError(errno.EIO, f"{self.path}: an earlier flush has failed")
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._flush_failed = True
            raise

    def discard(self, offset: int, size: int) -> None:
        """Punch a hole, or have the device forget.  Nothing happens where that can't be."""
        if not self.discard_granularity or not size:
            return
        try:
            if self.is_device:
                fcntl.ioctl(self._fd, _BLKDISCARD, struct.pack("QQ", offset, size))
            else:
                _punch_hole(self._fd, offset, size)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self.discard_granularity = 0

    def resize(self, size: int) -> None:
        if self.is_device:
            raise OSError(errno.EINVAL, "a device can't be resized")
        os.ftruncate(self._fd, size)
        self.size = size

    def reserve(self, offset: int, size: int) -> None:
        if self.is_device:
            return
        try:
            os.posix_fallocate(self._fd, offset, size)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise

    def refresh(self) -> int:
        if self.is_device:
            found = fcntl.ioctl(self._fd, _BLKGETSIZE64, bytes(8))
            (self.size,) = struct.unpack("Q", found)
        else:
            self.size = os.fstat(self._fd).st_size
        return self.size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _why(path: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"{path}: there is no such image"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{path}: {os.strerror(error.errno).lower()}; give it read-only, or other rights"
        case errno.EBUSY:
            return f"{path}: the device is in use on this host; unmount it first"
        case errno.EISDIR:
            return f"{path}: a directory, not an image"
    return f"{path}: can't be opened: {error.strerror}"


@cache
def _libc() -> ctypes.CDLL:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    return libc


def _punch_hole(fd: int, offset: int, size: int) -> None:
    import ctypes

    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if _libc().fallocate(fd, mode, offset, size):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Directories read piece by piece, with the kernel's own cookies (getdents64(2)).

Python's scandir has no way to go on where an earlier call has stopped, and a guest may ask for
any offset at any time.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_getdents = getattr(_libc, "getdents64", None) or _libc.getdents
_getdents.restype = ctypes.c_ssize_t
_getdents.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]

_ENTRY = struct.Struct("=QqHB")  # d_ino, d_off, d_reclen, d_type


class Entry(NamedTuple):
    """One entry; `after` is the offset at which its successor is found."""

    inode: int
    after: int
    type: int
    name: bytes


def read_entries(descriptor: int, offset: int, size: int) -> list[Entry]:
    """Entries of an open directory from `offset` on (0: the first), about `size` bytes of them.

    None: there are no more.  Moves the descriptor's position.  Raises OSError.
    """
    os.lseek(descriptor, offset, os.SEEK_SET)
    # One entry of any length has to fit.
    buffer = ctypes.create_string_buffer(max(size, 512))
    got = _getdents(descriptor, buffer, len(buffer))
    if got < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    entries = []
    data, at = buffer.raw[:got], 0
    while at < got:
        inode, after, length, type_ = _ENTRY.unpack_from(data, at)
        name = data[at + _ENTRY.size : at + length].partition(b"\0")[0]
        entries.append(Entry(inode, after, type_, name))
        at += length
    return entries

# SPDX-License-Identifier: GPL-2.0-or-later
"""9P2000.L as Linux's client speaks it: every message, declared once.

A message is ``size[4] id[1] tag[2]`` and a body; numbers are little-endian, a string is
``length[2]`` and its bytes.  The bodies are described in diod's protocol.md and in Linux's
net/9p; here each is a row: its name, its number, and its fields as `name:type` words, where a
type is 1, 2, 4 or 8 (bytes of a number), ``s`` (a string), ``d`` (``count[4]`` and data),
``q`` (a qid), ``*s`` or ``*q`` (``count[2]`` and as many).
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from xenograft.abi.io.xen_9pfs import xen_9pfs_header

VERSION = "9P2000.L"
HEADER_SIZE = xen_9pfs_header.sizeof()
NOTAG = 0xFFFF
NOFID = 0xFFFFFFFF
MAX_WALK = 16
"""Names in one Twalk."""
MIN_MSIZE = 4096
READ_OVERHEAD = HEADER_SIZE + 4
"""Bytes of an Rread or Rreaddir beside its data."""

QTDIR, QTSYMLINK, QTFILE = 0x80, 0x02, 0x00

# Tsetattr.valid
SETATTR_MODE = 0x001
SETATTR_UID = 0x002
SETATTR_GID = 0x004
SETATTR_SIZE = 0x008
SETATTR_ATIME = 0x010
SETATTR_MTIME = 0x020
SETATTR_CTIME = 0x040
SETATTR_ATIME_SET = 0x080
SETATTR_MTIME_SET = 0x100

GETATTR_BASIC = 0x7FF

# Flags of Tlopen and Tlcreate: Linux's for most architectures, written out by the protocol.
DOTL_ACCMODE = 0o3
DOTL_WRONLY = 0o1
DOTL_RDWR = 0o2
DOTL_CREATE = 0o100
DOTL_EXCL = 0o200
DOTL_TRUNC = 0o1000
DOTL_APPEND = 0o2000
DOTL_DSYNC = 0o10000
DOTL_DIRECTORY = 0o200000
DOTL_SYNC = 0o4000000

DOTL_AT_REMOVEDIR = 0x200

# Tlock and Tgetlock
LOCK_TYPE_RDLCK, LOCK_TYPE_WRLCK, LOCK_TYPE_UNLCK = 0, 1, 2
LOCK_SUCCESS, LOCK_BLOCKED, LOCK_ERROR, LOCK_GRACE = 0, 1, 2, 3

V9FS_MAGIC = 0x01021997


class ProtocolError(Exception):
    """A message whose body isn't what its number says."""


class Qid(NamedTuple):
    """What identifies a file: kind, version, number."""

    type: int
    version: int
    path: int


class Shape:
    """One row of the table: the fields of a message's body."""

    __slots__ = ("fields", "name", "number")

    def __init__(self, number: int, name: str, fields: str) -> None:
        self.number = number
        self.name = name
        self.fields = [(word.partition(":")[0], word.partition(":")[2]) for word in fields.split()]

    def unpack(self, body: bytes) -> dict[str, Any]:
        """The fields by name.  Raises ProtocolError if they aren't exactly the body."""
        values: dict[str, Any] = {}
        at = 0
        try:
            for name, kind in self.fields:
                values[name], at = _read(kind, body, at)
        except struct.error:
            raise ProtocolError(f"{self.name} is cut short") from None
        if at != len(body):
            raise ProtocolError(f"{self.name} has {len(body) - at} bytes too many")
        return values

    def pack(self, tag: int, *values: Any) -> bytes:
        """The whole message."""
        body = b"".join(
            _write(kind, value) for (_, kind), value in zip(self.fields, values, strict=True)
        )
        return _HEADER.pack(HEADER_SIZE + len(body), self.number, tag) + body


_HEADER = struct.Struct("<IBH")
_NUMBERS = {str(struct.calcsize(f"<{code}")): struct.Struct(f"<{code}") for code in "BHIQ"}
_QID = struct.Struct("<BIQ")


def _read(kind: str, body: bytes, at: int) -> tuple[Any, int]:
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return number.unpack_from(body, at)[0], at + number.size
    if kind == "q":
        return Qid(*_QID.unpack_from(body, at)), at + _QID.size
    if kind[0] == "*":
        (count,) = _NUMBERS["2"].unpack_from(body, at)
        at += 2
        items = []
        for _ in range(count):
            item, at = _read(kind[1], body, at)
            items.append(item)
        return items, at
    width = _NUMBERS["2" if kind == "s" else "4"]
    (size,) = width.unpack_from(body, at)
    at += width.size
    if at + size > len(body):
        raise struct.error("beyond the end")
    return body[at : at + size], at + size


def _write(kind: str, value: Any) -> bytes:
    if kind in _NUMBERS:
        return _NUMBERS[kind].pack(value)
    if kind == "q":
        return _QID.pack(*value)
    if kind[0] == "*":
        return _NUMBERS["2"].pack(len(value)) + b"".join(_write(kind[1], item) for item in value)
    data: bytes = value
    return _NUMBERS["2" if kind == "s" else "4"].pack(len(data)) + data


_LOCK = "type:1 start:8 length:8 proc_id:4 client_id:s"
_TIMES = "atime_sec:8 atime_nsec:8 mtime_sec:8 mtime_nsec:8"
_STAT = (
    f"valid:8 qid:q mode:4 uid:4 gid:4 nlink:8 rdev:8 size:8 blksize:8 blocks:8 {_TIMES}"
    " ctime_sec:8 ctime_nsec:8 btime_sec:8 btime_nsec:8 gen:8 data_version:8"
)
_STATFS = "type:4 bsize:4 blocks:8 bfree:8 bavail:8 files:8 ffree:8 fsid:8 namelen:4"
_OPENED = "qid:q iounit:4"

# (number of the request, name, fields of the request, fields of the reply)
_TABLE = (
    (8, "statfs", "fid:4", _STATFS),
    (12, "lopen", "fid:4 flags:4", _OPENED),
    (14, "lcreate", "fid:4 name:s flags:4 mode:4 gid:4", _OPENED),
    (16, "symlink", "dfid:4 name:s target:s gid:4", "qid:q"),
    (18, "mknod", "dfid:4 name:s mode:4 major:4 minor:4 gid:4", "qid:q"),
    (20, "rename", "fid:4 dfid:4 name:s", ""),
    (22, "readlink", "fid:4", "target:s"),
    (24, "getattr", "fid:4 mask:8", _STAT),
    (26, "setattr", f"fid:4 valid:4 mode:4 uid:4 gid:4 size:8 {_TIMES}", ""),
    (30, "xattrwalk", "fid:4 newfid:4 name:s", "size:8"),
    (32, "xattrcreate", "fid:4 name:s size:8 flags:4", ""),
    (40, "readdir", "fid:4 offset:8 count:4", "data:d"),
    (50, "fsync", "fid:4 datasync:4", ""),
    (52, "lock", "fid:4 type:1 flags:4 start:8 length:8 proc_id:4 client_id:s", "status:1"),
    (54, "getlock", f"fid:4 {_LOCK}", _LOCK),
    (70, "link", "dfid:4 fid:4 name:s", ""),
    (72, "mkdir", "dfid:4 name:s mode:4 gid:4", "qid:q"),
    (74, "renameat", "olddirfid:4 oldname:s newdirfid:4 newname:s", ""),
    (76, "unlinkat", "dirfd:4 name:s flags:4", ""),
    (100, "version", "msize:4 version:s", "msize:4 version:s"),
    (102, "auth", "afid:4 uname:s aname:s n_uname:4", "qid:q"),
    (104, "attach", "fid:4 afid:4 uname:s aname:s n_uname:4", "qid:q"),
    (108, "flush", "oldtag:2", ""),
    (110, "walk", "fid:4 newfid:4 names:*s", "qids:*q"),
    (116, "read", "fid:4 offset:8 count:4", "data:d"),
    (118, "write", "fid:4 offset:8 data:d", "count:4"),
    (120, "clunk", "fid:4", ""),
    (122, "remove", "fid:4", ""),
)

REQUESTS: dict[int, Shape] = {row[0]: Shape(row[0], f"T{row[1]}", row[2]) for row in _TABLE}
"""T-messages by number."""
REPLIES: dict[int, Shape] = {row[0] + 1: Shape(row[0] + 1, f"R{row[1]}", row[3]) for row in _TABLE}
"""R-messages by number: always the request's plus one."""
DIRENT = struct.Struct("<BIQQBH")
"""An entry in the data of an Rreaddir: qid, offset of its successor, type, length of the name."""
RLERROR = Shape(7, "Rlerror", "ecode:4")
REPLIES[RLERROR.number] = RLERROR

TFLUSH, TVERSION = 108, 100


class Header(NamedTuple):
    """The first seven bytes of a message."""

    size: int
    number: int
    tag: int


def header(data: bytes) -> Header:
    """The header of a message of at least HEADER_SIZE bytes."""
    return Header(*_HEADER.unpack_from(data))


def error(tag: int, errno: int) -> bytes:
    """The Rlerror that answers the request of a tag."""
    return RLERROR.pack(tag, errno)


def describe(message: bytes) -> str:
    """A message in one line, as ``Twalk tag=1 fid=0 newfid=1 names=[etc, passwd]``.

    >>> describe(REQUESTS[120].pack(3, 17))
    'Tclunk tag=3 fid=17'
    """
    if len(message) < HEADER_SIZE:
        return f"? {message.hex()}"
    _, number, tag = header(message)
    shape = REQUESTS.get(number) or REPLIES.get(number)
    if shape is None:
        return f"?{number} tag={tag}"
    try:
        values = shape.unpack(message[HEADER_SIZE:])
    except ProtocolError:
        return f"{shape.name} tag={tag} (malformed)"
    kinds = dict(shape.fields)
    words = [f"{name}={_show(kinds[name], value)}" for name, value in values.items()]
    return " ".join([shape.name, f"tag={tag}", *words])


def _show(kind: str, value: Any) -> str:
    if kind == "d":
        return f"({len(value)} bytes)"
    if kind == "s":
        return bytes(value[:80]).decode("utf-8", "backslashreplace")
    if kind == "q":
        return f"{value.path:#x}"
    if kind[0] == "*":
        return "[" + ", ".join(_show(kind[1], item) for item in value) + "]"
    return str(value)

# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of 9P2000.L that packs its messages by hand: nothing is shared with the server."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

NOFID = 0xFFFFFFFF
RLERROR = 7


class NinePError(Exception):
    """An Rlerror."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


@contextmanager
def refused(*errnos: int) -> Iterator[None]:
    """What's inside is answered with one of these errors."""
    with pytest.raises(NinePError) as caught:
        yield
    assert caught.value.errno in errnos


class Attr(NamedTuple):
    valid: int
    qid_type: int
    qid_path: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    mtime: tuple[int, int]


def s(text: bytes | str) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<H", len(data)) + data


def message(number: int, tag: int, body: bytes) -> bytes:
    return struct.pack("<IBH", 7 + len(body), number, tag) + body


class Client:
    """`ask` sends a message, and returns the answer."""

    def __init__(self, ask: Callable[[bytes], bytes]) -> None:
        self._ask = ask
        self._fid = 0
        self.msize = 0

    def call(self, number: int, body: bytes, tag: int = 1) -> bytes:
        answer = self._ask(message(number, tag, body))
        size, kind, got = struct.unpack_from("<IBH", answer)
        assert size == len(answer)
        assert got == tag
        if kind == RLERROR:
            raise NinePError(*struct.unpack("<I", answer[7:]))
        assert kind == number + 1
        return answer[7:]

    def new_fid(self) -> int:
        self._fid += 1
        return self._fid

    def version(self, msize: int = 65536, version: str = "9P2000.L") -> str:
        body = self.call(100, struct.pack("<I", msize) + s(version), 0xFFFF)
        (self.msize,) = struct.unpack_from("<I", body)
        return body[6:].decode()

    def attach(self, aname: str = "", uid: int = 0) -> int:
        fid = self.new_fid()
        self.call(
            104, struct.pack("<II", fid, NOFID) + s("root") + s(aname) + struct.pack("<I", uid)
        )
        return fid

    def start(self) -> int:
        self.version()
        return self.attach()

    def walk(self, fid: int, *names: bytes | str, new: int | None = None) -> int:
        fid_number = self.new_fid() if new is None else new
        names_body = b"".join(s(name) for name in names)
        body = self.call(110, struct.pack("<IIH", fid, fid_number, len(names)) + names_body)
        (count,) = struct.unpack_from("<H", body)
        if count < len(names):
            raise FileNotFoundError(names[count])
        return fid_number

    def clunk(self, fid: int) -> None:
        self.call(120, struct.pack("<I", fid))

    def open(self, fid: int, flags: int = 0) -> None:
        self.call(12, struct.pack("<II", fid, flags))

    def create(self, fid: int, name: str, flags: int = 2, mode: int = 0o644, gid: int = 0) -> None:
        self.call(14, struct.pack("<I", fid) + s(name) + struct.pack("<III", flags, mode, gid))

    def read(self, fid: int, offset: int = 0, count: int = 1 << 16) -> bytes:
        body = self.call(116, struct.pack("<IQI", fid, offset, count))
        (size,) = struct.unpack_from("<I", body)
        assert size == len(body) - 4
        return body[4:]

    def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        body = self.call(118, struct.pack("<IQI", fid, offset, len(data)) + data)
        return int(struct.unpack("<I", body)[0])

    def readdir(self, fid: int, offset: int = 0, count: int = 8192) -> list[tuple[bytes, int, int]]:
        """(name, type, offset of the next)."""
        body = self.call(40, struct.pack("<IQI", fid, offset, count))[4:]
        found, at = [], 0
        while at < len(body):
            after, kind, length = struct.unpack_from("<QBH", body, at + 13)
            found.append((body[at + 24 : at + 24 + length], kind, after))
            at += 24 + length
        return found

    def names(self, fid: int) -> set[bytes]:
        copy = self.walk(fid)
        self.open(copy)
        names: set[bytes] = set()
        offset = 0
        while part := self.readdir(copy, offset, 512):
            names |= {name for name, _, _ in part}
            offset = part[-1][2]
        self.clunk(copy)
        return names - {b".", b".."}

    def getattr(self, fid: int) -> Attr:
        v = struct.unpack("<QBIQIIIQQQQQQQQQQQQQQQ", self.call(24, struct.pack("<IQ", fid, 0x7FF)))
        return Attr(v[0], v[1], v[3], v[4], v[5], v[6], v[7], v[9], (v[14], v[15]))

    def setattr(self, fid: int, valid: int, mode: int = 0, size: int = 0, **t: int) -> None:
        times = struct.pack("<QQQQ", t.get("atime", 0), 0, t.get("mtime", 0), t.get("mtime_ns", 0))
        ids = (t.get("uid", 0), t.get("gid", 0))
        self.call(26, struct.pack("<IIIIIQ", fid, valid, mode, *ids, size) + times)

    def mkdir(self, fid: int, name: str, mode: int = 0o755) -> None:
        self.call(72, struct.pack("<I", fid) + s(name) + struct.pack("<II", mode, 0))

    def symlink(self, fid: int, name: str, target: bytes | str) -> None:
        self.call(16, struct.pack("<I", fid) + s(name) + s(target) + struct.pack("<I", 0))

    def mknod(self, fid: int, name: str, mode: int) -> None:
        body = struct.pack("<I", fid) + s(name) + struct.pack("<IIII", mode, 1, 3, 0)
        self.call(18, body)

    def readlink(self, fid: int) -> bytes:
        return self.call(22, struct.pack("<I", fid))[2:]

    def link(self, directory: int, fid: int, name: str) -> None:
        self.call(70, struct.pack("<II", directory, fid) + s(name))

    def rename(self, fid: int, directory: int, name: str) -> None:
        self.call(20, struct.pack("<II", fid, directory) + s(name))

    def renameat(self, old: int, old_name: bytes | str, new: int, new_name: bytes | str) -> None:
        self.call(74, struct.pack("<I", old) + s(old_name) + struct.pack("<I", new) + s(new_name))

    def unlink(self, fid: int, name: bytes | str, flags: int = 0) -> None:
        self.call(76, struct.pack("<I", fid) + s(name) + struct.pack("<I", flags))

    def remove(self, fid: int) -> None:
        self.call(122, struct.pack("<I", fid))

    def fsync(self, fid: int, datasync: int = 0) -> None:
        self.call(50, struct.pack("<II", fid, datasync))

    def statfs(self, fid: int) -> tuple[int, ...]:
        return struct.unpack("<IIQQQQQQI", self.call(8, struct.pack("<I", fid)))

    def lock(
        self, fid: int, kind: int, start: int, length: int, pid: int = 1, client: str = "c"
    ) -> int:
        body = struct.pack("<IBIQQI", fid, kind, 0, start, length, pid) + s(client)
        return self.call(52, body)[0]

    def getlock(
        self, fid: int, kind: int, start: int, length: int, pid: int = 1
    ) -> tuple[int, ...]:
        body = struct.pack("<IBQQI", fid, kind, start, length, pid) + s("c")
        return struct.unpack_from("<BQQI", self.call(54, body))

    def getxattr(self, fid: int, name: bytes | str) -> bytes:
        new = self.new_fid()
        (size,) = struct.unpack("<Q", self.call(30, struct.pack("<II", fid, new) + s(name)))
        data = self.read(new)
        assert len(data) == size
        self.clunk(new)
        return data

    def setxattr(self, fid: int, name: bytes | str, value: bytes, flags: int = 0) -> None:
        new = self.walk(fid)
        self.call(32, struct.pack("<I", new) + s(name) + struct.pack("<QI", len(value), flags))
        try:
            if value:
                self.write(new, value)
        finally:
            self.clunk(new)

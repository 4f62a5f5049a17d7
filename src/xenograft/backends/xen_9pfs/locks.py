# SPDX-License-Identifier: GPL-2.0-or-later
"""Byte-range locks of guests that share a folder, as fcntl(2) has them.

They hold between guests of one machine.  Programs of the host neither see nor respect them: an
open file of ours stands for many owners, and the host's locks know only one per open file.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from xenograft.backends.xen_9pfs.protocol import (
    LOCK_TYPE_RDLCK,
    LOCK_TYPE_UNLCK,
    LOCK_TYPE_WRLCK,
)

END = 1 << 64
"""The end of every file."""

MAX_LOCKS = 8192
"""Ranges that one guest's connection may hold."""


class Owner(NamedTuple):
    """Whose lock: the connection (a number), and what its client calls the process."""

    session: int
    client: bytes
    process: int


class Held(NamedTuple):
    """A lock on bytes `start` to `end` (exclusive)."""

    owner: Owner
    type: int
    start: int
    end: int


FileKey = tuple[int, int]
"""(device, inode)."""


class TooManyLocks(Exception):
    """A connection holds too many ranges."""


class LockTable:
    """All locks of one machine.  Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._files: dict[FileKey, list[Held]] = {}
        self._counts: dict[int, int] = {}

    def find(self, key: FileKey, wanted: Held) -> Held | None:
        """A lock that stands in the way of another."""
        with self._mutex:
            return self._find(key, wanted)

    def _find(self, key: FileKey, wanted: Held) -> Held | None:
        for held in self._files.get(key, ()):
            overlap = held.start < wanted.end and wanted.start < held.end
            write = LOCK_TYPE_WRLCK in (held.type, wanted.type)
            if overlap and write and held.owner != wanted.owner:
                return held
        return None

    def set(self, key: FileKey, wanted: Held) -> bool:
        """Lock or unlock a range; False if another's lock is in the way.

        What its owner held in the range before is replaced.  Raises TooManyLocks.
        """
        with self._mutex:
            if wanted.type != LOCK_TYPE_UNLCK and self._find(key, wanted) is not None:
                return False
            held = self._files.get(key, [])
            left: list[Held] = []
            for one in held:
                if one.owner != wanted.owner or one.end <= wanted.start or wanted.end <= one.start:
                    left.append(one)
                    continue
                if one.start < wanted.start:
                    left.append(one._replace(end=wanted.start))
                if wanted.end < one.end:
                    left.append(one._replace(start=wanted.end))
            if wanted.type in (LOCK_TYPE_RDLCK, LOCK_TYPE_WRLCK):
                left.append(wanted)
            session = wanted.owner.session
            count = self._counts.get(session, 0) + len(left) - len(held)
            if count > MAX_LOCKS:
                raise TooManyLocks
            self._counts[session] = count
            if left:
                self._files[key] = left
            else:
                self._files.pop(key, None)
            return True

    def of(self, session: int) -> list[tuple[FileKey, Held]]:
        """What a connection holds."""
        with self._mutex:
            return [
                (key, one)
                for key, held in sorted(self._files.items())
                for one in held
                if one.owner.session == session
            ]

    def drop(self, session: int) -> None:
        """A connection has ended: its locks go."""
        with self._mutex:
            self._counts.pop(session, None)
            for key, held in list(self._files.items()):
                left = [one for one in held if one.owner.session != session]
                if left:
                    self._files[key] = left
                else:
                    del self._files[key]

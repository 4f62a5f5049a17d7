# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake engine's memory and address spaces: what `protocol` says, in plain Python."""

from __future__ import annotations

import hashlib
import os
import struct
from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Any

from xenograft.engine.protocol import (
    P2M_COW,
    P2M_PRESENT,
    P2M_RWX,
    P2M_WRITE,
    PAGE_SHIFT,
    PAGE_SIZE,
    AccessError,
    Granted,
)
from xenograft.engine.pv import PGT_writable_page

_SECTOR = 512
_RECORD = struct.Struct("<IBBxx")
_PIECE = struct.Struct("=QQ")
_MAX_PIECES = 512

GFN_LIMIT = 1 << 36
"""Second-stage spaces have 48 address bits."""


class FakeMemory:
    """`MachineMemory` as one bytearray per touched frame.

    Frames are handed out lowest first, so that a test sees the same mfns each time.  The owner
    of a free frame is -1 and its count 0.  Dirty logging is off at first.
    """

    def __init__(self, frames: int) -> None:
        if frames < 1:
            raise ValueError("a machine needs at least one frame")
        self.frames = frames
        self._data: dict[int, bytearray] = {}
        self._owner: dict[int, int] = {}
        self._refs: dict[int, int] = {}
        self._writers: dict[int, int] = {}
        self._m2p: dict[int, int] | None = None
        self._dirty: set[int] = set()
        self._log_dirty = False
        self._extents: list[tuple[int, int]] = [(0, frames)]

    # -- the frame table -------------------------------------------------------------------
    def alloc(self, owner: int, count: int = 1) -> list[tuple[int, int]]:
        if count < 0:
            raise ValueError("negative count")
        if count > self.free_frames():
            raise MemoryError(f"{count} frames asked for, {self.free_frames()} free")
        taken: list[tuple[int, int]] = []
        while count:
            start, length = self._extents.pop(0)
            take = min(length, count)
            if take < length:
                self._extents.insert(0, (start + take, length - take))
            taken.append((start, take))
            count -= take
            for mfn in range(start, start + take):
                self._owner[mfn] = owner
                self._refs[mfn] = 1
        return taken

    def free(self, mfn: int, count: int = 1) -> None:
        self._check(mfn, count)
        for frame in range(mfn, mfn + count):
            if self._refs.get(frame, 0) != 1:
                raise ValueError(f"frame {frame:#x} has {self.refs(frame)} references, not 1")
        for frame in range(mfn, mfn + count):
            self._release(frame)

    def _release(self, mfn: int) -> None:
        del self._owner[mfn], self._refs[mfn]
        self._data.pop(mfn, None)
        self._dirty.discard(mfn)
        start, length = mfn, 1
        at = bisect_right(self._extents, (mfn, 0))
        if at < len(self._extents) and self._extents[at][0] == mfn + 1:
            length += self._extents.pop(at)[1]
        if at > 0 and sum(self._extents[at - 1]) == mfn:
            before = self._extents.pop(at - 1)
            start, length = before[0], before[1] + length
        insort(self._extents, (start, length))

    def free_frames(self) -> int:
        return sum(length for _, length in self._extents)

    def owner(self, mfn: int) -> int:
        self._check(mfn)
        return self._owner.get(mfn, -1)

    def set_owner(self, mfn: int, owner: int) -> None:
        self._allocated(mfn)
        self._owner[mfn] = owner

    def get_ref(self, mfn: int) -> int:
        self._allocated(mfn)
        self._refs[mfn] += 1
        return self._refs[mfn]

    def put_ref(self, mfn: int) -> int:
        self._allocated(mfn)
        if self._refs[mfn] == 1:
            self._release(mfn)
            return 0
        self._refs[mfn] -= 1
        return self._refs[mfn]

    def refs(self, mfn: int) -> int:
        self._check(mfn)
        return self._refs.get(mfn, 0)

    def _check(self, mfn: int, count: int = 1) -> None:
        if mfn < 0 or count < 0 or mfn + count > self.frames:
            raise IndexError(f"frame {mfn:#x} (+{count}) is outside the machine")

    def _allocated(self, mfn: int) -> None:
        self._check(mfn)
        if mfn not in self._refs:
            raise ValueError(f"frame {mfn:#x} is free")

    # -- contents ------------------------------------------------------------------------------
    def _span(self, maddr: int, size: int) -> Iterator[tuple[int, int, int]]:
        """(mfn, offset, length) of each frame touched by [maddr, maddr + size)."""
        if maddr < 0 or size < 0 or maddr + size > self.frames << PAGE_SHIFT:
            raise IndexError(f"machine address {maddr:#x} (+{size}) is outside the machine")
        while size:
            offset = maddr & (PAGE_SIZE - 1)
            length = min(size, PAGE_SIZE - offset)
            yield maddr >> PAGE_SHIFT, offset, length
            maddr += length
            size -= length

    def get_writable(self, mfn: int) -> bool:
        self._writers[mfn] = self._writers.get(mfn, 0) + 1
        return True

    def put_writable(self, mfn: int) -> None:
        if not self._writers.get(mfn):
            raise ValueError(f"frame {mfn:#x} isn't used so")
        self._writers[mfn] -= 1

    def writers(self, mfn: int) -> int:
        """How often the frame is used so, for tests."""
        return self._writers.get(mfn, 0)

    def set_external(self, owner: int, external: bool) -> None:
        """Nothing has other types than writable here."""

    def types(self, mfn: int) -> tuple[int, int, bool, bool]:
        count = self.writers(mfn)
        return (PGT_writable_page if count else 0, count, bool(count), False)

    def take_zombies(self) -> list[int]:
        return []

    def use_m2p(self, wide: int, narrow: int) -> None:
        self._m2p = {}

    def set_m2p(self, mfn: int, gfn: int, count: int) -> None:
        for i in range(count if self._m2p is not None else 0):
            assert self._m2p is not None
            self._m2p[mfn + i] = gfn if gfn >> 63 else gfn + i

    def m2p(self, mfn: int) -> int:
        return (self._m2p or {}).get(mfn, (1 << 64) - 1)

    def read(self, maddr: int, size: int) -> bytes:
        parts = []
        for mfn, offset, length in self._span(maddr, size):
            frame = self._data.get(mfn)
            parts.append(bytes(length) if frame is None else frame[offset : offset + length])
        return b"".join(parts)

    def write(self, maddr: int, data: bytes | bytearray | memoryview) -> None:
        done = 0
        for mfn, offset, length in self._span(maddr, len(data)):
            frame = self._data.get(mfn)
            if frame is None:
                frame = self._data[mfn] = bytearray(PAGE_SIZE)
            frame[offset : offset + length] = data[done : done + length]
            if self._log_dirty:
                self._dirty.add(mfn)
            done += length

    def read_u32(self, maddr: int) -> int:
        return int.from_bytes(self.read(maddr, 4), "little")

    def write_u32(self, maddr: int, value: int) -> None:
        self.write(maddr, value.to_bytes(4, "little"))

    def read_u64(self, maddr: int) -> int:
        return int.from_bytes(self.read(maddr, 8), "little")

    def write_u64(self, maddr: int, value: int) -> None:
        self.write(maddr, value.to_bytes(8, "little"))

    def _bit(self, maddr: int, bit: int, value: bool) -> bool:
        if maddr < 0 or bit < 0:
            raise IndexError("negative address or bit number")
        at, mask = maddr + bit // 8, 1 << (bit % 8)
        byte = self.read(at, 1)[0]
        if maddr & 3:
            raise ValueError("bitmaps are aligned to 4 bytes")
        # A bit that doesn't change isn't a write: the frame stays clean.
        if bool(byte & mask) != value:
            self.write(at, bytes([byte ^ mask]))
        return bool(byte & mask)

    def test_and_set_bit(self, maddr: int, bit: int) -> bool:
        return self._bit(maddr, bit, True)

    def test_and_clear_bit(self, maddr: int, bit: int) -> bool:
        return self._bit(maddr, bit, False)

    def compare_exchange_u32(self, maddr: int, expected: int, value: int) -> int:
        found = self.read_u32(maddr)
        if maddr % 4:
            raise ValueError("the word is not aligned")
        if found == expected:
            self.write_u32(maddr, value)
        return found

    # -- pieces of pages -----------------------------------------------------------------------
    def locate(
        self,
        records: bytes,
        table: dict[int, int],
        granted: Granted | None = None,
        write: bool = False,
    ) -> tuple[bytes, int] | None:
        """Of the table alone: grants are mapped here."""
        pieces: list[tuple[int, int]] = []
        if len(records) // _RECORD.size > _MAX_PIECES:
            return None
        for key, first, last in _RECORD.iter_unpack(records):
            if key not in table or not first <= last < PAGE_SIZE // _SECTOR:
                return None
            maddr, size = table[key] + first * _SECTOR, (last - first + 1) * _SECTOR
            if pieces and sum(pieces[-1]) == maddr:
                maddr, before = pieces.pop()
                size += before
            pieces.append((maddr, size))
        return b"".join(_PIECE.pack(*one) for one in pieces), sum(size for _, size in pieces)

    def exchange(
        self, granted: Granted, parts: bytes, data: bytes | bytearray | memoryview = b""
    ) -> None:
        """Nothing: grants are copied one by one here."""
        return

    def _pieces(self, pieces: bytes) -> list[tuple[int, int]]:
        if len(pieces) % _PIECE.size or len(pieces) // _PIECE.size > _MAX_PIECES:
            raise ValueError("not an array of pieces")
        found = list(_PIECE.iter_unpack(pieces))
        for maddr, size in found:
            list(self._span(maddr, size))
        return found

    def gather(self, pieces: bytes) -> bytes:
        return b"".join(self.read(maddr, size) for maddr, size in self._pieces(pieces))

    def scatter(self, pieces: bytes, data: bytes | bytearray | memoryview) -> None:
        found = self._pieces(pieces)
        if sum(size for _, size in found) != len(data):
            raise ValueError("the pieces are of another size than the data")
        for maddr, size in found:
            self.write(maddr, data[:size])
            data = data[size:]

    def fill(self, pieces: bytes, fd: int, offset: int) -> int:
        found = self._pieces(pieces)
        buffers = [bytearray(size) for _, size in found]
        try:
            got = os.preadv(fd, buffers, offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        for (maddr, _), buffer in zip(found, buffers, strict=True):
            self.write(maddr, buffer)
        return got

    def set_dirty_logging(self, on: bool, /) -> None:
        self._log_dirty = on
        self._dirty.clear()

    def dirty_frames(self, clear: bool = True) -> list[int]:
        frames = sorted(self._dirty)
        if clear:
            self._dirty.clear()
        return frames

    def data(self, mfn: int, count: int = 1) -> list[tuple[int, int]]:
        self._check(mfn, count)
        zero = bytes(PAGE_SIZE)
        return [
            (frame, 1)
            for frame in range(mfn, mfn + count)
            if self.read(frame << PAGE_SHIFT, PAGE_SIZE) != zero
        ]

    def digest(self, mfns: list[tuple[int, int]]) -> bytes:
        sha = hashlib.sha256()
        for mfn, count in mfns:
            self._check(mfn, count)
            for frame in range(mfn, mfn + count):
                sha.update(self.read(frame << PAGE_SHIFT, PAGE_SIZE))
        return sha.digest()

    def close(self) -> None:
        self._data.clear()


class FakeSpace:
    """`AddressSpace` as a dict from gfn to (mfn, flags). Takes no references to frames."""

    def __init__(self, memory: FakeMemory) -> None:
        self.memory = memory
        self._map: dict[int, tuple[int, int]] = {}
        self._owner = 0

    @staticmethod
    def _check(gfn: int, count: int) -> None:
        if gfn < 0 or count < 0 or gfn + count > GFN_LIMIT:
            raise IndexError(f"gfn {gfn:#x} (+{count}) is outside the space")

    def map(self, gfn: int, mfn: int, count: int = 1, flags: int = P2M_RWX) -> None:
        self._check(gfn, count)
        if mfn < 0 or mfn + count > self.memory.frames:
            raise IndexError(f"frame {mfn:#x} (+{count}) is outside the machine")
        if not flags & P2M_PRESENT:
            raise ValueError("an entry needs P2M_PRESENT")
        for i in range(count):
            self._map[gfn + i] = (mfn + i, flags)

    def unmap(self, gfn: int, count: int = 1) -> None:
        self._check(gfn, count)
        for i in range(count):
            self._map.pop(gfn + i, None)

    def lookup(self, gfn: int) -> tuple[int, int] | None:
        return self._map.get(gfn)

    def entries(self) -> list[tuple[int, int, int, int]]:
        return self._runs(sorted(self._map))

    def _runs(self, gfns: list[int]) -> list[tuple[int, int, int, int]]:
        runs: list[tuple[int, int, int, int]] = []
        for gfn in gfns:
            mfn, flags = self._map[gfn]
            if runs:
                start, first, count, before = runs[-1]
                if (start + count, first + count, before) == (gfn, mfn, flags):
                    runs[-1] = (start, first, count + 1, flags)
                    continue
            runs.append((gfn, mfn, 1, flags))
        return runs

    def _span(self, gpa: int, size: int, needed: int) -> list[tuple[int, int]]:
        """(maddr, length) of each page of [gpa, gpa + size); AccessError if one is missing."""
        spans = []
        while size:
            entry = self._map.get(gpa >> PAGE_SHIFT)
            if entry is None or entry[1] & needed != needed:
                raise AccessError(gpa)
            offset = gpa & (PAGE_SIZE - 1)
            length = min(size, PAGE_SIZE - offset)
            spans.append((entry[0] << PAGE_SHIFT | offset, length))
            gpa += length
            size -= length
        return spans

    def read(self, gpa: int, size: int) -> bytes:
        spans = self._span(gpa, size, P2M_PRESENT)
        return b"".join(self.memory.read(maddr, length) for maddr, length in spans)

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        done = 0
        self._span(gpa, len(data), P2M_WRITE)
        for gfn in range(gpa >> PAGE_SHIFT, -(-(gpa + len(data)) >> PAGE_SHIFT)):
            if not self.unshare(gfn):
                raise MemoryError("no frame for a copy")
        for maddr, length in self._span(gpa, len(data), P2M_WRITE):
            self.memory.write(maddr, data[done : done + length])
            done += length

    # -- copy-on-write -----------------------------------------------------------------------
    def share(
        self, child: Any, owner: int, other: int, shared: int
    ) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int, int]]]:
        fresh: list[int] = []
        left: list[int] = []
        memory = self.memory
        self._owner, child._owner = owner, other
        for gfn, (mfn, flags) in sorted(self._map.items()):
            if not flags & P2M_COW:
                if memory.owner(mfn) != owner or memory.refs(mfn) != 1:
                    left.append(gfn)
                    continue
                memory.set_owner(mfn, shared)
                fresh.append(gfn)
            memory.get_ref(mfn)
            self._map[gfn] = child._map[gfn] = (mfn, flags | P2M_COW)
        return self._runs(fresh), self._runs(left)

    def unshare(self, gfn: int) -> bool:
        mfn, flags = self._map.get(gfn, (0, 0))
        if not flags & P2M_COW:
            return True
        memory, old = self.memory, mfn
        if memory.refs(mfn) > 1:
            try:
                ((mfn, _),) = memory.alloc(self._owner)
            except MemoryError:
                return False
            memory.write(mfn << PAGE_SHIFT, memory.read(old << PAGE_SHIFT, PAGE_SIZE))
            memory.put_ref(old)
        memory.set_owner(mfn, self._owner)
        self._map[gfn] = (mfn, flags & ~P2M_COW)
        return True

    def private(self, gfn: int, count: int) -> list[tuple[int, int, int, int]]:
        return [
            (one, self._map[one][0], 1, 0)
            for one in range(gfn, gfn + count)
            if one in self._map and not self._map[one][1] & P2M_COW
        ]

    def drop_shared(self, gfn: int, count: int) -> None:
        for one in range(gfn, gfn + count):
            if self._map.get(one, (0, 0))[1] & P2M_COW:
                self.memory.put_ref(self._map.pop(one)[0])

    def trim(self, least: int = 0, /) -> int:
        """There is nothing to give back."""
        return 0

    def close(self) -> None:
        self._map.clear()

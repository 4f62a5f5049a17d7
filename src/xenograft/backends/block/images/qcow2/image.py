# SPDX-License-Identifier: GPL-2.0-or-later
"""A qcow2 image in use: reading, and writing with allocation.

**Order on the disk.**  Tables change in memory, and reach the file at a flush (or when too many
have changed) in steps with a sync between them: data and reference counts; L2 tables; L1
entries; and only then are clusters free that nothing points at any more.  Whatever part of the
writes since the last flush a power cut swallows, every cluster is the old or the new one, and at
worst some space is lost, which qemu-img check finds.

**Threads.**  Requests to clusters that are the image's own share a lock; whatever changes a
table has it alone.
"""

from __future__ import annotations

import errno
import struct
import threading
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from xenograft.backends.block.images.image import Buffer, Fill, Image, Storage, ZeroImage
from xenograft.backends.block.images.qcow2.errors import CorruptImage
from xenograft.backends.block.images.qcow2.header import (
    AUTOCLEAR_OFFSET,
    COMPRESSION_ZSTD,
    INCOMPAT_CORRUPT,
    INCOMPATIBLE_OFFSET,
    Header,
)
from xenograft.backends.block.images.qcow2.refcounts import Refcounts, big_endian, words_of
from xenograft.backends.block.images.qcow2.resize import grow
from xenograft.backends.block.images.qcow2.rwlock import SharedLock

COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
OFFSET_MASK = 0x00FFFFFFFFFFFE00

_TABLES = 256
"""L2 tables that are kept in memory."""

_DIRTY_TABLES = 64
"""Changed tables and refcount blocks that wait for a flush at most."""

_UNPACKED = 16
"""Unpacked clusters that are kept."""


class Kind(Enum):
    """What is known about a cluster of the guest's disk."""

    DATA = auto()
    ZERO = auto()
    BACKING = auto()
    COMPRESSED = auto()


class Extent(NamedTuple):
    """A run of the guest's disk: `host` is the offset in the file, or the compressed entry."""

    kind: Kind
    host: int
    offset: int
    size: int


class Qcow2Image:
    """The image kept in `storage`, which it owns, in front of `backing` (which it owns too)."""

    def __init__(
        self, storage: Storage, header: Header, backing: Image | None, readonly: bool
    ) -> None:
        self.path = storage.path
        self.size = header.size
        self.readonly = readonly
        self.header = header
        self.backing: Image = backing if backing is not None else ZeroImage(0)
        self.has_backing = backing is not None
        self.discard_granularity = 0 if readonly else header.cluster_size
        self.storage = storage
        self._cluster = header.cluster_size
        self._entries = header.l2_entries
        self._compressed_bits = 62 - (header.cluster_bits - 8)
        self.l1 = words_of(storage.read(header.l1_offset, header.l1_size * 8))
        self.refcounts = Refcounts(storage, header)
        self._lock = SharedLock()
        self._cache_lock = threading.Lock()
        self._tables: OrderedDict[int, array[int]] = OrderedDict()
        self._dirty_tables: dict[int, None] = {}
        self._dirty_l1: dict[int, None] = {}
        self._unreferenced: list[int] = []
        self._unpacked: OrderedDict[int, bytes] = OrderedDict()
        self._corrupt = False
        self._metadata = self._metadata_clusters()
        if not readonly and header.autoclear:
            # Features that go by if somebody writes who doesn't know them.
            storage.write(AUTOCLEAR_OFFSET, bytes(8))

    def _metadata_clusters(self) -> set[int]:
        """Clusters that no guest data may be in."""
        first = self.header.l1_offset // self._cluster
        count = -(-self.header.l1_size * 8 // self._cluster)
        tables = [(entry & OFFSET_MASK) // self._cluster for entry in self.l1 if entry]
        return {0, *range(first, first + count), *tables}

    # -- finding clusters ------------------------------------------------------------------------
    def table(self, l1_index: int) -> array[int] | None:
        """The L2 table of an L1 entry; None if there's none."""
        with self._cache_lock:
            table = self._tables.get(l1_index)
            if table is not None:
                self._tables.move_to_end(l1_index)
                return table
        offset = self.l1[l1_index] & OFFSET_MASK
        if not offset:
            return None
        if offset % self._cluster or self._beyond(offset):
            raise self._corruption(f"an L2 table at {offset:#x}")
        table = words_of(self.storage.read(offset, self._cluster))
        with self._cache_lock:
            # Another thread may have read it meanwhile.
            return self._remember(l1_index, self._tables.get(l1_index, table))

    def _remember(self, l1_index: int, table: array[int]) -> array[int]:
        self._tables[l1_index] = table
        self._tables.move_to_end(l1_index)
        if len(self._tables) > _TABLES:
            clean = next((i for i in self._tables if i not in self._dirty_tables), None)
            if clean is not None and clean != l1_index:
                del self._tables[clean]
        return table

    def entry(self, cluster: int) -> int:
        """The L2 entry of a cluster of the guest's disk."""
        table = self.table(cluster // self._entries)
        return 0 if table is None else table[cluster % self._entries]

    def classify(self, entry: int) -> tuple[Kind, int]:
        """What an entry means: kind, and offset in the file (or the compressed entry)."""
        if entry & COMPRESSED:
            return Kind.COMPRESSED, entry
        offset = entry & OFFSET_MASK
        if entry & ZERO and self.header.version >= 3:
            return Kind.ZERO, offset
        if not offset:
            return (Kind.BACKING if self.has_backing else Kind.ZERO), 0
        cluster = offset // self._cluster
        used = cluster in self._metadata or cluster in self.refcounts.own
        if offset % self._cluster or used or self._beyond(offset):
            raise self._corruption(f"a cluster of data at {offset:#x}")
        return Kind.DATA, offset

    def _beyond(self, offset: int) -> bool:
        """Whether that is behind the end of the file: whoever cut it off has taken data along."""
        return offset // self._cluster >= self.refcounts.fresh_from

    def _extents(self, offset: int, size: int) -> Iterator[Extent]:
        """Runs of a part of the disk, those that continue each other as one."""
        last: Extent | None = None
        while size:
            cluster, at = divmod(offset, self._cluster)
            length = min(size, self._cluster - at)
            kind, host = self.classify(self.entry(cluster))
            if kind is Kind.DATA:
                host += at
            follows = last is not None and last.kind is kind and kind is not Kind.COMPRESSED
            if last is not None and follows and kind is Kind.DATA:
                follows = host == last.host + last.size
            if last is not None and follows:
                last = last._replace(size=last.size + length)
            else:
                if last is not None:
                    yield last
                last = Extent(kind, host, offset, length)
            offset += length
            size -= length
        if last is not None:
            yield last

    # -- reading ---------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> bytes:
        with self._lock.shared():
            return self._read(offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        inside = max(min(size, self.size - offset), 0)
        parts = [bytes(self._read_extent(extent)) for extent in self._extents(offset, inside)]
        if inside < size:
            parts.append(bytes(size - inside))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_extent(self, extent: Extent) -> bytes | bytearray:
        match extent.kind:
            case Kind.DATA:
                return self.storage.read(extent.host, extent.size)
            case Kind.BACKING:
                return self.backing.read(extent.offset, extent.size)
            case Kind.COMPRESSED:
                at = extent.offset % self._cluster
                return self._unpack(extent.host)[at : at + extent.size]
        return bytes(extent.size)

    def read_now(self, offset: int, size: int) -> bytes | None:
        extents = self._extents_now(offset, size)
        if extents is None:
            return None
        try:
            parts = []
            for kind, host, at, length in extents:
                data: bytes | bytearray | None = None
                if kind is Kind.DATA:
                    data = self.storage.read_now(host, length)
                elif kind is Kind.BACKING:
                    data = self.backing.read_now(at, length)
                elif kind is Kind.ZERO:
                    data = bytes(length)
                if data is None:
                    return None
                parts.append(data)
            return b"".join(parts)
        finally:
            self._lock.release_shared()

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        extents = self._extents_now(offset, size)
        if extents is None:
            return 0
        try:
            if len(extents) > 1:
                return 0
            kind, host, at, length = extents[0]
            if kind is Kind.DATA:
                return self.storage.fill_now(host, length, fill)
            return self.backing.fill_now(at, length, fill) if kind is Kind.BACKING else 0
        finally:
            self._lock.release_shared()

    def _extents_now(self, offset: int, size: int) -> list[Extent] | None:
        """Where a part of the disk is, with the lock shared; None if that needs waiting."""
        if offset + size > self.size or not self._lock.try_shared():
            return None
        last = (offset + size - 1) // self._cluster // self._entries
        try:
            for l1_index in range(offset // self._cluster // self._entries, last + 1):
                if self.l1[l1_index] & OFFSET_MASK and l1_index not in self._tables:
                    break
            else:
                return list(self._extents(offset, size))
        except OSError:
            # It shows itself to `read` again.
            pass
        self._lock.release_shared()
        return None

    def compressed_range(self, entry: int) -> tuple[int, int]:
        """Offset and length in the file of a compressed cluster, at most."""
        bits = self._compressed_bits
        host = entry & (1 << bits) - 1
        sectors = (entry & ~(COPIED | COMPRESSED)) >> bits
        return host, (sectors + 1) * 512 - host % 512

    def _unpack(self, entry: int) -> bytes:
        with self._cache_lock:
            data = self._unpacked.get(entry)
        if data is not None:
            return data
        packed = self.storage.read(*self.compressed_range(entry))
        data = self._decompress(packed)
        if len(data) != self._cluster:
            raise CorruptImage(self.path, "a compressed cluster is too short")
        with self._cache_lock:
            self._unpacked[entry] = data
            if len(self._unpacked) > _UNPACKED:
                self._unpacked.popitem(last=False)
        return data

    def _decompress(self, packed: bytes | bytearray) -> bytes:
        if self.header.compression == COMPRESSION_ZSTD:
            import zstandard

            try:
                with zstandard.ZstdDecompressor().stream_reader(bytes(packed)) as reader:
                    return reader.read(self._cluster)
            except zstandard.ZstdError as error:
                raise CorruptImage(self.path, f"a compressed cluster: {error}") from None
        try:
            return zlib.decompressobj(-12).decompress(packed, self._cluster)
        except zlib.error as error:
            raise CorruptImage(self.path, f"a compressed cluster: {error}") from None

    # -- writing ---------------------------------------------------------------------------------
    def write(self, offset: int, data: Buffer) -> None:
        self._check_writable(offset, len(data))
        view = memoryview(data)
        with self._lock.shared():
            if self._owned(offset, len(view)):
                self._write_in_place(offset, view)
                return
        with self._lock.alone():
            self._write(offset, view)

    def _check_writable(self, offset: int, size: int) -> None:
        if self.readonly:
            raise OSError(errno.EROFS, f"{self.path}: opened read-only")
        if self._corrupt:
            raise OSError(errno.EIO, f"{self.path}: corrupt")
        if offset < 0 or offset + size > self.size:
            raise OSError(errno.ENOSPC, f"{self.path}: beyond its end")

    def _is_own(self, entry: int) -> bool:
        own = bool(entry & COPIED) and not entry & COMPRESSED
        return own and self.classify(entry)[0] is Kind.DATA

    def _owned(self, offset: int, size: int) -> bool:
        """Whether a range lies in clusters that can be written in place."""
        last = (offset + size - 1) // self._cluster
        return all(
            self._is_own(self.entry(cluster))
            for cluster in range(offset // self._cluster, last + 1)
        )

    def _write_in_place(self, offset: int, view: memoryview) -> None:
        for extent in self._extents(offset, len(view)):
            at = extent.offset - offset
            self.storage.write(extent.host, view[at : at + extent.size])

    def _write(self, offset: int, view: memoryview) -> None:
        """Write where clusters are missing, or shared with a snapshot; alone."""
        done = 0
        while done < len(view):
            cluster, at = divmod(offset + done, self._cluster)
            # As many clusters at once as one L2 table has.
            room = (self._entries - cluster % self._entries) * self._cluster - at
            part = view[done : done + room]
            self._write_table(offset + done, part)
            done += len(part)
        if len(self._dirty_tables) + self.refcounts.dirty > _DIRTY_TABLES:
            self._write_out()

    def _write_table(self, offset: int, view: memoryview) -> None:
        """Write clusters of a single L2 table."""
        first, at = divmod(offset, self._cluster)
        count = -(-(at + len(view)) // self._cluster)
        l1_index = first // self._entries
        table = self._writable_table(l1_index)
        new: list[tuple[int, int]] = []
        pieces: list[tuple[int, Buffer]] = []
        try:
            for cluster in range(first, first + count):
                start = max(cluster * self._cluster - offset, 0)
                end = min((cluster + 1) * self._cluster - offset, len(view))
                inside = offset + start - cluster * self._cluster
                entry = table[cluster % self._entries]
                if self._is_own(entry):
                    pieces.append(((entry & OFFSET_MASK) + inside, view[start:end]))
                    continue
                host, fresh = self._allocate()
                new.append((cluster, host))
                pieces.append(self._piece(cluster, entry, host, fresh, inside, view[start:end]))
            self._write_pieces(pieces)
        except OSError:
            for _, host in new:
                self.refcounts.drop(host)
            raise
        for cluster, host in new:
            self._replace(table, l1_index, cluster, host * self._cluster | COPIED)

    def _piece(
        self, cluster: int, entry: int, host: int, fresh: bool, inside: int, data: memoryview
    ) -> tuple[int, Buffer]:
        """What to write where, so that a new cluster has the data amid what was there before."""
        place = host * self._cluster
        if len(data) == self._cluster:
            return place, data
        kind, _ = self.classify(entry)
        start = cluster * self._cluster
        empty = kind is Kind.BACKING and start >= self.backing.size
        if fresh and (kind is Kind.ZERO or empty):
            return place + inside, data
        whole = bytearray(self._cluster)
        length = min(self._cluster, self.size - start)
        whole[:length] = self._read(start, length)
        whole[inside : inside + len(data)] = data
        return place, whole

    def _write_pieces(self, pieces: list[tuple[int, Buffer]]) -> None:
        """Write pieces, those that follow each other in the file at once."""
        at = 0
        while at < len(pieces):
            place, data = pieces[at]
            run, end = [data], place + len(data)
            at += 1
            while at < len(pieces) and pieces[at][0] == end:
                run.append(pieces[at][1])
                end += len(pieces[at][1])
                at += 1
            self.storage.write(place, run[0] if len(run) == 1 else b"".join(run))

    def _allocate(self) -> tuple[int, bool]:
        """A free cluster, and whether its place in the file reads as zeros."""
        host, fresh = self.refcounts.allocate()
        if host in self._metadata or host in self.refcounts.own:
            raise self._corruption(f"cluster {host} is in use, but counted as free")
        return host, fresh

    def _writable_table(self, l1_index: int) -> array[int]:
        """The L2 table to change: a new one, or a copy, where it isn't the image's own.

        Raises OSError if the host has no room for it: a flush would be the wrong one to fail.
        """
        entry = self.l1[l1_index]
        table = self.table(l1_index)
        if table is not None and entry & COPIED:
            self.refcounts.reserve((entry & OFFSET_MASK) // self._cluster)
            return table
        host, _ = self._allocate()
        try:
            self.refcounts.reserve(host)
            self.storage.reserve(self.header.l1_offset + 8 * l1_index, 8)
        except OSError:
            self.refcounts.drop(host)
            raise
        table = array("Q", bytes(self._cluster)) if table is None else table[:]
        with self._cache_lock:
            self._remember(l1_index, table)
        self._dirty_tables[l1_index] = None
        self.l1[l1_index] = host * self._cluster | COPIED
        self._dirty_l1[l1_index] = None
        self._metadata.add(host)
        if entry & OFFSET_MASK:
            self._unreferenced.append((entry & OFFSET_MASK) // self._cluster)
        return table

    def _replace(self, table: array[int], l1_index: int, cluster: int, entry: int) -> None:
        """Put a new entry into a table; what the old one used isn't used any more."""
        old = table[cluster % self._entries]
        table[cluster % self._entries] = entry
        self._dirty_tables[l1_index] = None
        if old & COMPRESSED:
            host, size = self.compressed_range(old)
            first, last = host // self._cluster, (host + size - 1) // self._cluster
            self._unreferenced.extend(range(first, last + 1))
            with self._cache_lock:
                self._unpacked.pop(old, None)
        elif old & OFFSET_MASK:
            self._unreferenced.append((old & OFFSET_MASK) // self._cluster)

    def discard(self, offset: int, size: int) -> None:
        """Give whole clusters back; they read as zeros."""
        self._check_writable(offset, size)
        last = offset + size
        first = -(-offset // self._cluster)
        # The last cluster of the disk may be shorter than the others.
        end = -(-last // self._cluster) if last == self.size else last // self._cluster
        if self.has_backing and self.header.version < 3:
            return  # version 2 can't say that zeros hide what is behind
        with self._lock.alone():
            at = first
            while at < end:
                # As many clusters at once as one L2 table has.
                stop = min(at + self._entries - at % self._entries, end)
                if self.has_backing or self.l1[at // self._entries] & OFFSET_MASK:
                    self._discard_clusters(at, stop)
                at = stop
                if len(self._dirty_tables) + self.refcounts.dirty > _DIRTY_TABLES:
                    self._write_out()

    def _discard_clusters(self, first: int, end: int) -> None:
        """Discard clusters of a single L2 table."""
        l1_index = first // self._entries
        blank = ZERO if self.has_backing else 0
        for cluster in range(first, end):
            entry = self.entry(cluster)
            if entry != blank and (entry & ~ZERO or self.has_backing):
                self._replace(self._writable_table(l1_index), l1_index, cluster, blank)

    # -- the disk --------------------------------------------------------------------------------
    def flush(self) -> None:
        if self.readonly:
            return
        with self._lock.alone():
            settled = not (
                self._dirty_tables or self._dirty_l1 or self.refcounts.dirty or self._unreferenced
            )
            if not settled:
                self._write_out()
                return
        self.storage.flush()

    def _write_out(self) -> None:
        """Bring all tables to the disk, in the order that keeps the image whole; alone."""
        storage = self.storage
        self.refcounts.write_dirty()
        storage.flush()
        if self._dirty_tables:
            for l1_index in list(self._dirty_tables):
                offset = self.l1[l1_index] & OFFSET_MASK
                storage.write(offset, big_endian(self._tables[l1_index]))
                del self._dirty_tables[l1_index]
            storage.flush()
        if self._dirty_l1:
            for l1_index in list(self._dirty_l1):
                data = struct.pack(">Q", self.l1[l1_index])
                storage.write(self.header.l1_offset + 8 * l1_index, data)
            storage.flush()
            self._dirty_l1.clear()
        self._free_unreferenced()

    def _free_unreferenced(self) -> None:
        """Count down what nothing on the disk points at any more, and give it to the host."""
        unreferenced, self._unreferenced = self._unreferenced, []
        start = length = 0
        for cluster in sorted(unreferenced):
            try:
                unused = self.refcounts.drop(cluster)
            except CorruptImage:
                raise
            except OSError:
                # The host has no room for the count now; it's tried again with the next flush.
                self._unreferenced.append(cluster)
                continue
            if unused:
                self._metadata.discard(cluster)
                if cluster == start + length:
                    length += 1
                    continue
                if length:
                    self.storage.discard(start * self._cluster, length * self._cluster)
                start, length = cluster, 1
        if length:
            self.storage.discard(start * self._cluster, length * self._cluster)

    def _corruption(self, what: str) -> CorruptImage:
        """Nothing is written to an image any more once it was found to be corrupt."""
        if not self._corrupt and not self.readonly:
            self._corrupt = True
            if self.header.version >= 3:
                bits = struct.pack(">Q", self.header.incompatible | INCOMPAT_CORRUPT)
                self.storage.write(INCOMPATIBLE_OFFSET, bits)
        return CorruptImage(self.path, what)

    def refresh(self) -> int:
        return self.size

    def resize(self, size: int) -> None:
        """Make the disk longer; what is new reads as zeros.  Raises OSError."""
        old = self.size
        if size < old:
            raise OSError(errno.EINVAL, f"{self.path}: a qcow2 image can't be made smaller")
        self._check_writable(0, 0)
        hidden = min(size, self.backing.size) - old
        if hidden > 0 and self.header.version < 3:
            raise OSError(errno.EOPNOTSUPP, f"{self.path}: its backing file would show")
        with self._lock.alone():
            self._write_out()
            grow(self, size)
        if hidden > 0:
            # What was behind the old end isn't to be seen now: the rest of a cluster, and others.
            end = min(-(-old // self._cluster) * self._cluster, old + hidden)
            if end > old:
                self.write(old, bytes(end - old))
            self.discard(end, min(-(-hidden // self._cluster) * self._cluster, size - end))
            self.flush()

    def metadata_moved(self, old: range, new: range) -> None:
        """Clusters of metadata that are free now, and others in their place."""
        self._metadata.difference_update(old)
        self._metadata.update(new)

    def close(self) -> None:
        """Bring everything to the disk, and close the files.  Raises OSError."""
        try:
            if not self._corrupt:
                self.flush()
                # What the flush has freed is to be counted down on the disk as well.
                self.flush()
        finally:
            self.storage.close()
            self.backing.close()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Who uses which cluster of the file: reference counts, and the clusters that are free.

Counts live in blocks of one cluster, found by a table.  Changes stay in memory until
`write_dirty`; the caller orders them against the tables that refer to clusters: a count goes up
on the disk before anything points there, and down after nothing does.
"""

from __future__ import annotations

import errno
import struct
from array import array

from xenograft.backends.block.images.image import Storage
from xenograft.backends.block.images.qcow2.errors import CorruptImage
from xenograft.backends.block.images.qcow2.header import REFCOUNT_TABLE_OFFSET, Header

_OFFSET_MASK = 0xFFFFFFFFFFFFFE00
_MAX_TABLE_BYTES = 8 << 20
_CASTS = {8: "B", 16: "H", 32: "I", 64: "Q"}


def big_endian(words: array[int]) -> bytes:
    """Words as they are in the file."""
    swapped = words[:]
    swapped.byteswap()
    return swapped.tobytes()


def words_of(data: bytes | bytearray) -> array[int]:
    """Big-endian words of a file as numbers."""
    words = array("Q", bytes(data))
    words.byteswap()
    return words


class Refcounts:
    """The counts of one image, by cluster number."""

    def __init__(self, storage: Storage, header: Header) -> None:
        self._storage = storage
        self._cluster = header.cluster_size
        self._bits = header.refcount_bits
        self.per_block = header.cluster_size * 8 // header.refcount_bits
        self.table_offset = header.refcount_table_offset
        self.table = words_of(
            storage.read(self.table_offset, header.refcount_table_clusters * self._cluster)
        )
        """Offsets of the blocks."""
        self._blocks: dict[int, bytearray] = {}
        self._dirty: dict[int, None] = {}
        self._reserved: set[int] = set()
        """Clusters for which the host is known to have room."""
        self._hint = 0
        self.fresh_from = -(-storage.size // self._cluster)
        """From this cluster on the file has never been written: it reads as zeros."""
        self.own = set(self._own_clusters())
        """Clusters of the table and of its blocks."""

    @property
    def dirty(self) -> int:
        """Blocks that have changed since `write_dirty`."""
        return len(self._dirty)

    def _own_clusters(self) -> list[int]:
        first = self.table_offset // self._cluster
        count = -(-len(self.table) * 8 // self._cluster)
        used = [(offset & _OFFSET_MASK) // self._cluster for offset in self.table if offset]
        return [*range(first, first + count), *used]

    def _block(self, index: int) -> bytearray | None:
        block = self._blocks.get(index)
        if block is not None:
            return block
        offset = self.table[index] & _OFFSET_MASK if index < len(self.table) else 0
        if not offset:
            return None
        if offset % self._cluster:
            raise CorruptImage(self._storage.path, f"a refcount block at {offset:#x}")
        block = bytearray(self._storage.read(offset, self._cluster))
        self._blocks[index] = block
        return block

    def get(self, cluster: int) -> int:
        """How often a cluster is used."""
        block = self._block(cluster // self.per_block)
        return 0 if block is None else self._entry(block, cluster % self.per_block)

    def _entry(self, block: bytearray, at: int) -> int:
        bits = self._bits
        if bits >= 8:
            width = bits // 8
            return int.from_bytes(block[at * width : (at + 1) * width], "big")
        return block[at * bits // 8] >> (at * bits % 8) & (1 << bits) - 1

    def set(self, cluster: int, count: int) -> None:
        """Change a count, of a cluster that has a block.

        Raises OSError if it's too high, or if the host has no room for the block.
        """
        index, at = divmod(cluster, self.per_block)
        block = self._block(index)
        bits = self._bits
        if block is None:
            raise CorruptImage(self._storage.path, f"no refcount block for cluster {cluster}")
        if count >> bits:
            raise OSError(errno.EFBIG, f"cluster {cluster} is used too often")
        if self.table[index]:
            # The write that needs the count is the one to fail, not the flush after it.
            self.reserve((self.table[index] & _OFFSET_MASK) // self._cluster)
        if bits >= 8:
            width = bits // 8
            block[at * width : (at + 1) * width] = count.to_bytes(width, "big")
        else:
            shift = at * bits % 8
            byte = block[at * bits // 8] & ~(((1 << bits) - 1) << shift)
            block[at * bits // 8] = byte | count << shift
        self._dirty[index] = None
        if not count and cluster < self._hint:
            self._hint = cluster

    def reserve(self, cluster: int) -> None:
        """See that the host has room for a cluster that is written later.  Raises OSError."""
        if cluster not in self._reserved:
            self._storage.reserve(cluster * self._cluster, self._cluster)
            self._reserved.add(cluster)

    def drop(self, cluster: int) -> bool:
        """One use less; True if that was the last one.  Raises CorruptImage if there was none."""
        count = self.get(cluster)
        if not count:
            raise CorruptImage(self._storage.path, f"cluster {cluster} is used, but not counted")
        self.set(cluster, count - 1)
        if count == 1:
            # Its place in the file may be given back.
            self._reserved.discard(cluster)
        return count == 1

    # -- finding free clusters -----------------------------------------------------------------
    def allocate(self) -> tuple[int, bool]:
        """A free cluster, now used once, and whether its place in the file reads as zeros.

        Raises OSError.
        """
        cluster = self._find_free(self._hint)
        self.set(cluster, 1)
        self._hint = cluster + 1
        fresh = cluster >= self.fresh_from
        self.fresh_from = max(self.fresh_from, cluster + 1)
        return cluster, fresh

    def _find_free(self, start: int) -> int:
        index, at = divmod(start, self.per_block)
        while True:
            if index >= len(self.table):
                self._grow_table(index)
            block = self._block(index)
            if block is None:
                self._add_block(index)
                block = self._blocks[index]
            found = self._first_zero(block, at)
            if found is not None:
                return index * self.per_block + found
            index, at = index + 1, 0

    def _first_zero(self, block: bytearray, at: int) -> int | None:
        code = _CASTS.get(self._bits)
        if code is not None:
            counts = memoryview(block).cast(code)  # type: ignore[call-overload]  # one of its codes
            return next((i for i in range(at, self.per_block) if not counts[i]), None)
        return next((i for i in range(at, self.per_block) if not self._entry(block, i)), None)

    def _add_block(self, index: int) -> None:
        """A block for clusters that have none: in the first of them, which it counts itself."""
        cluster = index * self.per_block
        block = self._blocks[index] = bytearray(self._cluster)
        self.set(cluster, 1)
        try:
            self._storage.write(cluster * self._cluster, block)
            self._storage.flush()
            self._set_table(index, cluster * self._cluster)
        except OSError:
            # Without its place in the table it would be written where the header is.
            self.table[index] = 0
            del self._blocks[index], self._dirty[index]
            raise
        self.own.add(cluster)
        self.fresh_from = max(self.fresh_from, cluster + 1)

    def _set_table(self, index: int, offset: int) -> None:
        self.table[index] = offset
        self._storage.write(self.table_offset + 8 * index, struct.pack(">Q", offset))

    def _grow_table(self, index: int) -> None:
        """A longer table, in clusters that the old one can't count, with blocks of its own."""
        old_clusters = -(-len(self.table) * 8 // self._cluster)
        per_cluster = self._cluster // 8
        start = len(self.table) * self.per_block
        clusters, blocks = old_clusters * 2, 1
        while True:
            entries = clusters * per_cluster
            blocks = -(-(clusters + blocks) // self.per_block)
            if blocks * self.per_block >= blocks + clusters and entries > max(
                index, len(self.table) + blocks
            ):
                break
            clusters += 1
        if entries * 8 > _MAX_TABLE_BYTES:
            raise OSError(errno.EFBIG, f"{self._storage.path}: the image can't grow any more")
        first_block = len(self.table)
        table = self.table + array("Q", bytes(8 * (entries - len(self.table))))
        for i in range(blocks):
            self._blocks[first_block + i] = bytearray(self._cluster)
            table[first_block + i] = (start + i) * self._cluster
        old, old_offset = self.table, self.table_offset
        self.table = table
        try:
            for cluster in range(start, start + blocks + clusters):
                self.set(cluster, 1)
            for i in range(blocks):
                self._storage.write((start + i) * self._cluster, self._blocks[first_block + i])
            self._storage.write((start + blocks) * self._cluster, big_endian(table))
            self._storage.flush()
            place = struct.pack(">QI", (start + blocks) * self._cluster, clusters)
            self._storage.write(REFCOUNT_TABLE_OFFSET, place)
            self._storage.flush()
        except OSError:
            self.table = old
            for i in range(blocks):
                del self._blocks[first_block + i]
                self._dirty.pop(first_block + i, None)
            raise
        self.table_offset = (start + blocks) * self._cluster
        self.fresh_from = max(self.fresh_from, start + blocks + clusters)
        self.own = set(self._own_clusters())
        for cluster in range(old_clusters):
            self.drop(old_offset // self._cluster + cluster)

    # -- the disk --------------------------------------------------------------------------------
    def write_dirty(self) -> None:
        """Write what has changed.  Raises OSError; what is not written stays dirty."""
        for index in list(self._dirty):
            self._storage.write(self.table[index] & _OFFSET_MASK, self._blocks[index])
            del self._dirty[index]

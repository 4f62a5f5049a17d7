# SPDX-License-Identifier: GPL-2.0-or-later
"""Counting references anew, for images whose counts were left behind (lazy refcounts)."""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenograft.backends.block.images.qcow2.errors import CorruptImage
from xenograft.backends.block.images.qcow2.header import INCOMPAT_DIRTY, INCOMPATIBLE_OFFSET
from xenograft.backends.block.images.qcow2.refcounts import words_of

if TYPE_CHECKING:
    from xenograft.backends.block.images.qcow2.image import Qcow2Image

_SNAPSHOT = struct.Struct(">QIHHIIQII")
_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_MAX_L1_BYTES = 32 << 20


def rebuild_refcounts(image: Qcow2Image) -> None:
    """Set every count to what refers to the cluster, and take the image's dirty mark away.

    Raises OSError, CorruptImage among them.
    """
    counts = _count(image)
    refcounts = image.refcounts
    per_block = refcounts.per_block
    for index in range(len(refcounts.table)):
        if refcounts.table[index]:
            first = index * per_block
            for cluster in range(first, first + per_block):
                if refcounts.get(cluster) != counts[cluster]:
                    refcounts.set(cluster, counts[cluster])
    missing = {c // per_block for c in counts} - {
        i for i, offset in enumerate(refcounts.table) if offset
    }
    if missing:
        raise CorruptImage(image.path, "clusters without a refcount block are in use")
    refcounts.write_dirty()
    image.storage.flush()
    bits = struct.pack(">Q", image.header.incompatible & ~INCOMPAT_DIRTY)
    image.storage.write(INCOMPATIBLE_OFFSET, bits)
    image.storage.flush()


def _count(image: Qcow2Image) -> Counter[int]:
    header, cluster = image.header, image.header.cluster_size
    counts: Counter[int] = Counter({0: 1})
    counts.update(image.refcounts.own)
    for l1, offset in _l1_tables(image):
        first = offset // cluster
        counts.update(range(first, first + -(-len(l1) * 8 // cluster)))
        for entry in l1:
            if not entry & _OFFSET_MASK:
                continue
            counts[(entry & _OFFSET_MASK) // cluster] += 1
            for cell in words_of(image.storage.read(entry & _OFFSET_MASK, cluster)):
                if cell & _COMPRESSED:
                    host, size = image.compressed_range(cell)
                    counts.update(range(host // cluster, (host + size - 1) // cluster + 1))
                elif cell & _OFFSET_MASK:
                    counts[(cell & _OFFSET_MASK) // cluster] += 1
    if header.nb_snapshots:
        first = header.snapshots_offset // cluster
        size = _snapshots_size(image)
        counts.update(range(first, first + -(-size // cluster)))
    return counts


def _l1_tables(image: Qcow2Image) -> Iterator[tuple[array[int], int]]:
    """The active L1 table and those of the snapshots, with their offsets."""
    yield image.l1, image.header.l1_offset
    for _, offset, entries in _snapshots(image):
        if entries * 8 > _MAX_L1_BYTES or offset % image.header.cluster_size:
            raise CorruptImage(image.path, "a snapshot's L1 table")
        yield words_of(image.storage.read(offset, entries * 8)), offset


def _snapshots(image: Qcow2Image) -> Iterator[tuple[int, int, int]]:
    """(offset after the entry, offset of its L1 table, entries of that) of each snapshot."""
    header = image.header
    at = header.snapshots_offset
    for _ in range(header.nb_snapshots):
        fields = _SNAPSHOT.unpack(image.storage.read(at, _SNAPSHOT.size))
        l1_offset, l1_size, id_size, name_size = fields[:4]
        extra = fields[8]
        at += -(-(_SNAPSHOT.size + extra + id_size + name_size) // 8) * 8
        yield at, l1_offset, l1_size


def _snapshots_size(image: Qcow2Image) -> int:
    *_, (end, _, _) = _snapshots(image)
    return end - image.header.snapshots_offset

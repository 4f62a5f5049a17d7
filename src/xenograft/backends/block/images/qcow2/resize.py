# SPDX-License-Identifier: GPL-2.0-or-later
"""Enlarging a qcow2 image while it's in use.

As everywhere, the order of the steps leaves a sound image after any power cut: first a longer L1
table, which the header names once it's on the disk, then the size.
"""

from __future__ import annotations

import errno
import struct
from array import array
from typing import TYPE_CHECKING

from xenograft.backends.block.images.qcow2.header import L1_OFFSET, MAX_L1_BYTES, SIZE_OFFSET
from xenograft.backends.block.images.qcow2.refcounts import Refcounts, big_endian

if TYPE_CHECKING:
    from xenograft.backends.block.images.qcow2.image import Qcow2Image


def grow(image: Qcow2Image, size: int) -> None:
    """Make the disk `size` bytes long; the caller has the image alone, with nothing unwritten.

    Raises OSError.
    """
    header = image.header
    entries = -(-size // (header.l2_entries * header.cluster_size))
    if entries * 8 > MAX_L1_BYTES:
        raise OSError(errno.EFBIG, f"{image.path}: too large for clusters of {header.cluster_size}")
    if entries > header.l1_size:
        _longer_table(image, entries)
    image.storage.write(SIZE_OFFSET, struct.pack(">Q", size))
    image.storage.flush()
    image.header = image.header._replace(size=size)
    image.size = size


def _longer_table(image: Qcow2Image, entries: int) -> None:
    cluster = image.header.cluster_size
    old_first = image.header.l1_offset // cluster
    old_count = -(-image.header.l1_size * 8 // cluster)
    count = -(-entries * 8 // cluster)
    table = array("Q", image.l1.tobytes()) + array("Q", bytes(8 * (entries - len(image.l1))))
    first = _allocate_run(image.refcounts, count)
    offset = first * cluster
    image.storage.write(offset, big_endian(table).ljust(count * cluster, b"\0"))
    image.refcounts.write_dirty()
    image.storage.flush()
    # The number of entries and the place lie beside each other, in one sector.
    image.storage.write(L1_OFFSET, struct.pack(">IQ", entries, offset))
    image.storage.flush()
    image.header = image.header._replace(l1_size=entries, l1_offset=offset)
    image.l1 = table
    image.metadata_moved(range(old_first, old_first + old_count), range(first, first + count))
    for used in range(old_first, old_first + old_count):
        image.refcounts.drop(used)
    image.refcounts.write_dirty()


def _allocate_run(refcounts: Refcounts, count: int) -> int:
    """The first of so many clusters in a row."""
    run: list[int] = []
    passed: list[int] = []
    while len(run) < count:
        cluster, _ = refcounts.allocate()
        if run and cluster != run[-1] + 1:
            passed += run
            run = []
        run.append(cluster)
    for cluster in passed:
        refcounts.drop(cluster)
    return run[0]

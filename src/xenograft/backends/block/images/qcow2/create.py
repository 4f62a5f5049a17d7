# SPDX-License-Identifier: GPL-2.0-or-later
"""New qcow2 images, empty or in front of another one."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

from xenograft.backends.block.images.image import ImageError
from xenograft.backends.block.images.qcow2.header import Header
from xenograft.backends.block.images.qcow2.refcounts import big_endian


def create_qcow2(
    path: str,
    size: int,
    *,
    backing: str = "",
    backing_format: str = "",
    version: int = 3,
    cluster_bits: int = 16,
    refcount_bits: int = 16,
) -> None:
    """Make an image of `size` bytes; `backing` is what shows where nothing was written.

    Raises ImageError if the file is there already or can't be made.
    """
    cluster = 1 << cluster_bits
    per_table = cluster // 8 * cluster
    l1_size = max(-(-size // per_table), 1)
    l1_clusters = -(-l1_size * 8 // cluster)
    # Cluster 0 is the header's; then come the refcount table, one block, and the L1 table.
    used = 3 + l1_clusters
    per_block = cluster * 8 // refcount_bits
    if used > per_block:
        raise ImageError(f"{path}: too large for clusters of {cluster} bytes")
    header = Header(
        version=version,
        cluster_bits=cluster_bits,
        size=size,
        l1_size=l1_size,
        l1_offset=3 * cluster,
        refcount_table_offset=cluster,
        refcount_table_clusters=1,
        refcount_bits=refcount_bits,
        backing=backing,
        backing_format=backing_format,
    )
    packed = header.pack()
    if len(packed) > cluster:
        raise ImageError(f"{path}: the name of the backing file is too long")
    table = big_endian(array("Q", [2 * cluster]))
    try:
        with Path(path).open("xb") as file:
            file.write(packed.ljust(cluster, b"\0"))
            file.write(table.ljust(cluster, b"\0"))
            file.write(_counts(used, refcount_bits).ljust(cluster, b"\0"))
            file.write(bytes(l1_clusters * cluster))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ImageError(f"{path}: there is such a file already") from None
    except OSError as error:
        raise ImageError(f"{path}: can't be made: {error.strerror}") from None


def _counts(used: int, bits: int) -> bytes:
    """The start of a refcount block in which the first `used` clusters are used once."""
    if bits >= 8:
        return (1).to_bytes(bits // 8, "big") * used
    value = sum(1 << i * bits for i in range(used))
    return value.to_bytes(-(-used * bits // 8), "little")

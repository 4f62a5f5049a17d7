# SPDX-License-Identifier: GPL-2.0-or-later
"""The header of a qcow2 image and its extensions: read, checked, written.

Nothing that the header says is believed before it was checked against the limits that QEMU has
as well: an image may come from anywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from xenograft.backends.block.images.image import ImageError

MAGIC = b"QFI\xfb"

INCOMPAT_DIRTY = 1 << 0
INCOMPAT_CORRUPT = 1 << 1
INCOMPAT_DATA_FILE = 1 << 2
INCOMPAT_COMPRESSION = 1 << 3
INCOMPAT_EXTENDED_L2 = 1 << 4
COMPAT_LAZY_REFCOUNTS = 1 << 0
AUTOCLEAR_BITMAPS = 1 << 0

COMPRESSION_DEFLATE = 0
COMPRESSION_ZSTD = 1

EXT_END = 0
EXT_BACKING_FORMAT = 0xE2792ACA
EXT_FEATURE_NAMES = 0x6803F857

INCOMPATIBLE_OFFSET = 72
AUTOCLEAR_OFFSET = 88
SIZE_OFFSET = 24
L1_OFFSET = 36
REFCOUNT_TABLE_OFFSET = 48

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")

_MIN_CLUSTER_BITS, _MAX_CLUSTER_BITS = 9, 21
MAX_L1_BYTES = 32 << 20
_MAX_REFCOUNT_TABLE_BYTES = 8 << 20
_MAX_BACKING_NAME = 1023
_MAX_SNAPSHOTS = 65536
_KNOWN_INCOMPATIBLE = INCOMPAT_DIRTY | INCOMPAT_COMPRESSION
_FEATURE_NAMES = {
    INCOMPAT_DATA_FILE: "an external data file",
    INCOMPAT_EXTENDED_L2: "extended L2 entries",
}


class Header(NamedTuple):
    """What an image says about itself; offsets and sizes in bytes unless they say otherwise."""

    version: int
    cluster_bits: int
    size: int
    l1_size: int
    """Entries."""
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    refcount_bits: int
    """Width of a reference count."""
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    compression: int = COMPRESSION_DEFLATE
    nb_snapshots: int = 0
    snapshots_offset: int = 0
    backing: str = ""
    backing_format: str = ""

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        """Entries of an L2 table, each for a cluster."""
        return self.cluster_size // 8

    def pack(self) -> bytes:
        """The header with its extensions, for a new image."""
        extensions = b""
        if self.backing_format:
            extensions += _extension(EXT_BACKING_FORMAT, self.backing_format.encode())
        extensions += _extension(EXT_END, b"")
        length = _V2.size + (_V3.size + 8 if self.version >= 3 else 0)
        name = self.backing.encode()
        name_offset = length + len(extensions) if name else 0
        data = _V2.pack(
            MAGIC,
            self.version,
            name_offset,
            len(name),
            self.cluster_bits,
            self.size,
            0,
            self.l1_size,
            self.l1_offset,
            self.refcount_table_offset,
            self.refcount_table_clusters,
            self.nb_snapshots,
            self.snapshots_offset,
        )
        if self.version >= 3:
            order = self.refcount_bits.bit_length() - 1
            data += _V3.pack(self.incompatible, self.compatible, self.autoclear, order, length)
            data += bytes([self.compression]) + bytes(7)
        return data + extensions + name


def _extension(kind: int, data: bytes) -> bytes:
    return _EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8)


def parse_header(path: str, data: bytes, file_size: int) -> Header:
    """The header at the start of an image.

    `data` is its first cluster, or as much as there is (64 KiB are enough).  Raises ImageError.
    """

    def refuse(why: str) -> ImageError:
        return ImageError(f"{path}: {why}")

    if len(data) < _V2.size or data[:4] != MAGIC:
        raise refuse("not a qcow2 image")
    (
        _,
        version,
        backing_offset,
        backing_size,
        cluster_bits,
        size,
        crypt,
        l1_size,
        l1_offset,
        table_offset,
        table_clusters,
        nb_snapshots,
        snapshots_offset,
    ) = _V2.unpack_from(data)
    if version not in (2, 3):
        raise refuse(f"a qcow2 image of version {version}; versions 2 and 3 are known")
    if crypt:
        raise refuse("the image is encrypted; decrypt it with qemu-img convert")
    if not _MIN_CLUSTER_BITS <= cluster_bits <= _MAX_CLUSTER_BITS:
        raise refuse(f"corrupt: clusters of 2^{cluster_bits} bytes")
    cluster = 1 << cluster_bits
    incompatible = compatible = autoclear = compression = 0
    order, length = 4, _V2.size
    if version == 3:
        if len(data) < _V2.size + _V3.size:
            raise refuse("corrupt: the header ends early")
        incompatible, compatible, autoclear, order, length = _V3.unpack_from(data, _V2.size)
        if not _V2.size + _V3.size <= length <= min(cluster, len(data)) or length % 8:
            raise refuse(f"corrupt: a header of {length} bytes")
        if order > 6:
            raise refuse(f"corrupt: reference counts of 2^{order} bits")
        if length > _V2.size + _V3.size:
            compression = data[_V2.size + _V3.size]
    _check_features(refuse, incompatible, compression)
    limit = min(cluster, len(data))
    extensions = _extensions(refuse, data[:limit], length, backing_offset)
    backing = ""
    if backing_offset:
        if backing_size > _MAX_BACKING_NAME or not length <= backing_offset <= limit - backing_size:
            raise refuse("corrupt: the name of the backing file lies outside the header")
        backing = data[backing_offset : backing_offset + backing_size].decode("utf-8", "replace")
    header = Header(
        version,
        cluster_bits,
        size,
        l1_size,
        l1_offset,
        table_offset,
        table_clusters,
        1 << order,
        incompatible,
        compatible,
        autoclear,
        compression,
        nb_snapshots,
        snapshots_offset,
        backing,
        extensions.get(EXT_BACKING_FORMAT, b"").decode("utf-8", "replace"),
    )
    _check_tables(refuse, header, file_size)
    return header


def _check_features(
    refuse: Callable[[str], ImageError], incompatible: int, compression: int
) -> None:
    if incompatible & INCOMPAT_CORRUPT:
        raise refuse("the image is marked as corrupt; repair it with qemu-img check -r all")
    unknown = incompatible & ~_KNOWN_INCOMPATIBLE
    if unknown:
        names = [
            _FEATURE_NAMES.get(1 << bit, f"the unknown incompatible feature {bit}")
            for bit in range(64)
            if unknown >> bit & 1
        ]
        raise refuse(f"the image uses {', '.join(names)}, which isn't supported")
    used = bool(incompatible & INCOMPAT_COMPRESSION)
    if compression not in (COMPRESSION_DEFLATE, COMPRESSION_ZSTD) or used != bool(compression):
        raise refuse(f"the image has clusters compressed by an unknown method ({compression})")


def _extensions(
    refuse: Callable[[str], ImageError], data: bytes, start: int, backing_offset: int
) -> dict[int, bytes]:
    end = min(backing_offset or len(data), len(data))
    found: dict[int, bytes] = {}
    at = start
    while at + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(data, at)
        at += _EXTENSION.size
        if kind == EXT_END:
            break
        if length > end - at:
            raise refuse("corrupt: a header extension is longer than the header")
        found[kind] = data[at : at + length]
        at += -(-length // 8) * 8
    return found


def _check_tables(refuse: Callable[[str], ImageError], header: Header, file_size: int) -> None:
    cluster = header.cluster_size
    if header.l1_size * 8 > MAX_L1_BYTES:
        raise refuse(f"corrupt: an L1 table of {header.l1_size} entries")
    covered = header.l1_size * header.l2_entries * cluster
    if header.size > covered:
        raise refuse(f"corrupt: its L1 table covers {covered} of {header.size} bytes")
    if header.refcount_table_clusters * cluster > _MAX_REFCOUNT_TABLE_BYTES:
        raise refuse(f"corrupt: a refcount table of {header.refcount_table_clusters} clusters")
    if not header.refcount_table_clusters:
        raise refuse("corrupt: no refcount table")
    if header.nb_snapshots > _MAX_SNAPSHOTS:
        raise refuse(f"corrupt: {header.nb_snapshots} snapshots")
    for name, offset, size in (
        ("L1 table", header.l1_offset, header.l1_size * 8),
        ("refcount table", header.refcount_table_offset, header.refcount_table_clusters * cluster),
    ):
        if size and (offset % cluster or not offset or offset + size > max(file_size, 0)):
            raise refuse(f"corrupt: its {name} lies outside the file, or isn't aligned")

# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images: whatever is done to them, they hold what a plain array of bytes would hold."""

from __future__ import annotations

import errno
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.block.images.support import (
    KIB,
    MIB,
    assert_clean,
    check,
    content,
    pattern,
    qemu_img,
    qemu_io,
)
from xenograft.backends.block.images.image import Buffer, Image, ImageError, Storage
from xenograft.backends.block.images.open import open_image
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.backends.block.images.qcow2.header import parse_header
from xenograft.backends.block.images.recording import RecordingStorage

SIZES = [1 << bits for bits in (9, 12, 16)]


def opened(path: Path, readonly: bool = False) -> Image:
    return open_image(str(path), "qcow2", readonly)


class Model:
    """An image, and the bytes that it should hold."""

    def __init__(self, path: Path, size: int, start: bytes = b"", **options: int | str) -> None:
        self.path = path
        self.size = size
        self.data = bytearray(start[:size].ljust(size, b"\0"))
        create_qcow2(str(path), size, **options)  # type: ignore[arg-type]
        self.cluster = 1 << int(options.get("cluster_bits", 16))
        self.keeps = bool(options.get("backing")) and options.get("version") == 2
        self.image = opened(path)

    def write(self, offset: int, data: bytes) -> None:
        self.image.write(offset, data)
        self.data[offset : offset + len(data)] = data

    def discard(self, offset: int, size: int) -> None:
        self.image.discard(offset, size)
        first = -(-offset // self.cluster) * self.cluster
        end = offset + size
        last = end if end == self.size else end // self.cluster * self.cluster
        if last > first and not self.keeps:
            self.data[first:last] = bytes(last - first)

    def check(self, offset: int, size: int) -> None:
        assert self.image.read(offset, size) == self.data[offset : offset + size]
        now = self.image.read_now(offset, size)
        assert now is None or now == self.data[offset : offset + size]

    def reopen(self) -> None:
        self.image.close()
        self.image = opened(self.path)

    def finish(self) -> None:
        """Close it; QEMU must find it sound, and the same in it."""
        self.check(0, self.size)
        self.image.close()
        assert_clean(self.path)
        assert content(self.path) == self.data


@pytest.mark.parametrize("cluster_bits", [9, 12, 16, 21])
@pytest.mark.parametrize("version", [2, 3])
def test_what_is_written_is_there(tmp_path: Path, cluster_bits: int, version: int) -> None:
    model = Model(tmp_path / "a", 3 * MIB + 512, cluster_bits=cluster_bits, version=version)
    assert (model.image.size, model.image.readonly) == (3 * MIB + 512, False)
    model.check(0, model.size)
    for index, (offset, size) in enumerate(
        [(0, 512), (MIB - 512, 4096), (3 * MIB, 512), (1000, 1), (2 * MIB, 300 * KIB)]
    ):
        model.write(offset, pattern(size, index))
        model.check(offset, size)
    model.reopen()
    model.write(MIB, pattern(64 * KIB, 9))
    model.finish()


@pytest.mark.parametrize("refcount_bits", [1, 2, 4, 8, 16, 32, 64])
def test_widths_of_counts(tmp_path: Path, refcount_bits: int) -> None:
    model = Model(tmp_path / "a", MIB, cluster_bits=10, refcount_bits=refcount_bits)
    for offset in range(0, MIB, 24 * KIB):
        model.write(offset, pattern(10 * KIB, offset))
    model.image.flush()
    model.discard(100 * KIB, 300 * KIB)
    model.image.flush()
    model.write(0, pattern(600 * KIB))
    model.finish()


def test_the_refcount_table_grows(tmp_path: Path) -> None:
    """Clusters of 512 bytes: the first table counts 8 MiB, and the next ones not much more."""
    model = Model(tmp_path / "a", 40 * MIB, cluster_bits=9, refcount_bits=16)
    first = parse_header("a", model.path.read_bytes()[:4096], 1 << 30)
    for offset in range(0, 36 * MIB, 3 * MIB):
        model.write(offset, pattern(3 * MIB, offset))
        model.image.flush()
    model.finish()
    last = parse_header("a", model.path.read_bytes()[:4096], 1 << 30)
    assert last.refcount_table_clusters > 2 * first.refcount_table_clusters


def test_the_width_of_64_bits_grows_as_well(tmp_path: Path) -> None:
    model = Model(tmp_path / "a", 12 * MIB, cluster_bits=9, refcount_bits=64)
    for offset in range(0, 12 * MIB, MIB):
        model.write(offset, pattern(MIB, offset))
    model.finish()


def test_space_that_was_given_back_is_used_again(tmp_path: Path) -> None:
    model = Model(tmp_path / "a", 4 * MIB, cluster_bits=12)
    for index in range(8):
        model.write(0, pattern(MIB, index))
        model.image.flush()
        model.discard(0, MIB)
        model.image.flush()
    assert model.path.stat().st_size < 3 * MIB
    model.finish()


def test_discard_takes_nothing_else(tmp_path: Path) -> None:
    model = Model(tmp_path / "a", 2 * MIB + 512, cluster_bits=16)
    model.write(0, pattern(model.size))
    model.discard(1000, 65536)
    model.discard(128 * KIB - 512, 65536 + 1024)
    model.discard(2 * MIB, 512)
    model.discard(512, 0)
    model.finish()


@pytest.mark.parametrize("form", ["raw", "qcow2"])
@pytest.mark.parametrize("version", [2, 3])
def test_in_front_of_another(tmp_path: Path, form: str, version: int) -> None:
    base = tmp_path / "base"
    start = pattern(MIB)
    if form == "raw":
        base.write_bytes(start)
    else:
        below = Model(base, MIB)
        below.write(0, start)
        below.image.close()
    before = base.read_bytes()
    # Longer than what is behind it, whose end is in the middle of a cluster.
    model = Model(
        tmp_path / "a",
        2 * MIB,
        start,
        version=version,
        cluster_bits=14,
        backing="base",
        backing_format=form if version == 3 else "",
    )
    model.check(0, 2 * MIB)
    model.write(5000, b"x" * 1000)
    model.write(MIB - 512, b"y" * 1024)
    model.discard(256 * KIB, 64 * KIB)
    model.reopen()
    model.finish()
    assert base.read_bytes() == before


def test_a_chain_made_by_qemu(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(pattern(MIB))
    expected = bytearray(base.read_bytes())
    below = base
    for index, options in enumerate(("cluster_size=4k", "compat=0.10", "cluster_size=512")):
        path = tmp_path / f"{index}.qcow2"
        form = "raw" if index == 0 else "qcow2"
        qemu_img("create", "-f", "qcow2", "-o", options, "-b", below.name, "-F", form, path)
        qemu_io(path, f"write -P {index + 1} {index * 100}k 50k")
        expected[index * 100 * KIB : (index * 100 + 50) * KIB] = bytes([index + 1]) * (50 * KIB)
        below = path
    image = opened(below)
    assert image.read(0, MIB) == expected
    image.write(700 * KIB, b"z" * 100)
    expected[700 * KIB : 700 * KIB + 100] = b"z" * 100
    image.close()
    assert content(below) == expected
    assert_clean(below)


@pytest.mark.parametrize("method", ["zlib", "zstd"])
def test_compressed_clusters(tmp_path: Path, method: str) -> None:
    raw = tmp_path / "raw"
    # Some of it can't be made smaller, some compresses to almost nothing.
    data = b"".join(bytes([i]) * 40_000 + pattern(25_536, i) for i in range(32))
    raw.write_bytes(data)
    path = tmp_path / "a"
    qemu_img(
        *("convert", "-c", "-O", "qcow2", "-o", f"compression_type={method},cluster_size=32k"),
        *(raw, path),
    )
    model = Model.__new__(Model)
    model.path, model.size, model.data = path, len(data), bytearray(data)
    model.cluster, model.keeps, model.image = 32 * KIB, False, opened(path)
    assert not isinstance(model.image.read_now(0, 512), bytes)
    model.check(0, len(data))
    for offset in range(0, len(data), 100_000):
        model.write(offset, pattern(3000, offset))
    model.discard(64 * KIB, 256 * KIB)
    model.check(0, len(data))
    model.finish()


def test_snapshots_stay_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a"
    model = Model(path, 2 * MIB, cluster_bits=12)
    model.write(0, pattern(MIB, 1))
    model.image.close()
    first = bytes(model.data)
    qemu_img("snapshot", "-c", "one", path)
    model.image = opened(path)
    model.write(100 * KIB, pattern(500 * KIB, 2))
    model.discard(0, 64 * KIB)
    model.image.close()
    second = bytes(model.data)
    qemu_img("snapshot", "-c", "two", path)
    model.image = opened(path)
    model.write(0, pattern(2 * MIB, 3))
    model.finish()
    for name, expected in (("one", first), ("two", second)):
        qemu_img("snapshot", "-a", name, path)
        assert content(path) == expected
    assert_clean(path)


def test_an_image_that_was_left_dirty(tmp_path: Path) -> None:
    """Lazy refcounts: whoever opens it for writing counts anew."""
    path = tmp_path / "a"
    qemu_img("create", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "4M")
    qemu_io(path, "write -P 7 0 1M", "write -P 8 2M 64k")
    # What a crash leaves: the mark, and counts that never reached the disk.
    whole = bytearray(path.read_bytes())
    header = parse_header("a", bytes(whole[:65536]), len(whole))
    table = header.refcount_table_offset
    block = int.from_bytes(whole[table : table + 8], "big")
    whole[block : block + 65536] = bytes(65536)
    whole[79] |= 1
    path.write_bytes(whole)
    image = opened(path, readonly=True)
    assert image.read(0, MIB) == b"\7" * MIB
    image.close()
    image = opened(path)
    image.write(3 * MIB, b"n" * 4096)
    image.close()
    assert_clean(path)
    data = content(path)
    assert data[: 2 * MIB + 65536] == b"\7" * MIB + bytes(MIB) + b"\x08" * 65536
    assert data[3 * MIB : 3 * MIB + 4096] == b"n" * 4096


@pytest.mark.parametrize("preallocation", ["metadata", "falloc", "full"])
def test_preallocated(tmp_path: Path, preallocation: str) -> None:
    path = tmp_path / "a"
    qemu_img("create", "-f", "qcow2", "-o", f"preallocation={preallocation}", path, "2M")
    image = opened(path)
    assert image.read(0, 2 * MIB) == bytes(2 * MIB)
    image.write(MIB, pattern(4096))
    image.close()
    assert content(path) == bytes(MIB) + pattern(4096) + bytes(MIB - 4096)
    assert_clean(path)


def test_zero_clusters_with_a_place_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a"
    qemu_img("create", "-f", "qcow2", path, "1M")
    qemu_io(path, "write -P 5 0 256k", "write -z 64k 64k")
    image = opened(path)
    assert image.read(0, 256 * KIB) == b"\5" * 65536 + bytes(65536) + b"\5" * 131072
    image.write(65536 + 512, b"x" * 512)
    image.discard(128 * KIB, 64 * KIB)
    image.close()
    expected = bytearray(b"\5" * 65536 + bytes(65536) + bytes(65536) + b"\5" * 65536)
    expected[65536 + 512 : 65536 + 1024] = b"x" * 512
    assert content(path)[: 256 * KIB] == expected
    assert_clean(path)


def test_features_that_a_writer_has_to_take_away(tmp_path: Path) -> None:
    path = tmp_path / "a"
    qemu_img("create", "-f", "qcow2", path, "1M")
    qemu_img("bitmap", "--add", path, "b0")
    assert path.read_bytes()[88:96] != bytes(8)
    opened(path, readonly=True).close()
    assert path.read_bytes()[88:96] != bytes(8)
    opened(path).close()
    assert path.read_bytes()[88:96] == bytes(8)


def test_bounds(tmp_path: Path) -> None:
    model = Model(tmp_path / "a", MIB)
    for offset, size in ((MIB, 512), (MIB - 512, 1024), (1 << 60, 512)):
        with pytest.raises(OSError, match="beyond its end"):
            model.image.write(offset, bytes(size))
        with pytest.raises(OSError, match="beyond its end"):
            model.image.discard(offset, size)
    assert model.image.read(MIB - 4, 8) == bytes(8)
    assert model.image.read_now(MIB - 4, 8) is None
    model.image.close()
    image = opened(tmp_path / "a", readonly=True)
    assert image.discard_granularity == 0
    with pytest.raises(OSError, match="read-only"):
        image.write(0, b"x")
    image.close()


def test_what_create_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a"
    create_qcow2(str(path), MIB)
    with pytest.raises(ImageError, match="there is such a file already"):
        create_qcow2(str(path), MIB)
    with pytest.raises(ImageError, match="No such file"):
        create_qcow2(str(tmp_path / "none" / "a"), MIB)
    with pytest.raises(ImageError, match="too large for clusters of 512"):
        create_qcow2(str(tmp_path / "b"), 1 << 40, cluster_bits=9)
    with pytest.raises(ImageError, match="too long"):
        create_qcow2(str(tmp_path / "b"), MIB, cluster_bits=9, backing="x" * 500)
    assert not (tmp_path / "b").exists()


class FullDisk(RecordingStorage):
    """A storage in a file system with room for `limit` bytes."""

    limit = 0

    def write(self, offset: int, data: Buffer) -> None:
        if offset + len(data) > self.limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(offset, data)

    def reserve(self, offset: int, size: int) -> None:
        if offset + size > self.limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().reserve(offset, size)


@pytest.mark.parametrize("cluster_bits", [9, 12])
@pytest.mark.parametrize("room", [3, 17, 64, 200])
def test_a_full_host_disk(tmp_path: Path, cluster_bits: int, room: int) -> None:
    """What doesn't fit is an error, what was there stays, and it goes on once there is room."""
    path = tmp_path / "a"
    create_qcow2(str(path), MIB, cluster_bits=cluster_bits)
    storages: list[FullDisk] = []

    def wrap(inner: Storage) -> Storage:
        storages.append(FullDisk(inner))
        storages[0].limit = inner.size + room * 1024
        return storages[0]

    image = open_image(str(path), "qcow2", wrap=wrap)
    expected = bytearray(MIB)
    failed = 0
    for offset in range(0, MIB // 2, 5 * KIB):
        data = pattern(3 * KIB, offset)
        try:
            image.write(offset, data)
        except OSError as error:
            failed += error.errno == errno.ENOSPC
            continue
        expected[offset : offset + len(data)] = data
        if offset % 4096 == 0:
            # There was room for the tables when the write was done.
            image.flush()
    assert failed
    storages[0].limit = 1 << 40
    image.flush()
    image.write(900 * KIB, b"z" * 5000)
    expected[900 * KIB : 900 * KIB + 5000] = b"z" * 5000
    image.close()
    assert not check(path).get("corruptions")
    found = content(path)
    for offset in range(0, MIB // 2, 5 * KIB):
        wanted = expected[offset : offset + 3 * KIB]
        # A write that failed may have been done in part.
        if any(wanted):
            assert found[offset : offset + 3 * KIB] == wanted
    assert found[900 * KIB : 900 * KIB + 5000] == b"z" * 5000


def test_no_room_for_a_refcount_block(tmp_path: Path) -> None:
    """It's written nowhere else, least of all where the header is."""
    path = tmp_path / "a"
    create_qcow2(str(path), MIB, cluster_bits=9)
    storages: list[FullDisk] = []

    def wrap(inner: Storage) -> Storage:
        storages.append(FullDisk(inner))
        # The first block counts the clusters up to here; the next one counts itself.
        storages[0].limit = 256 * 512
        return storages[0]

    image = open_image(str(path), "qcow2", wrap=wrap)
    done = 0

    def fill() -> None:
        nonlocal done
        while done < MIB:
            image.write(done, pattern(512, done))
            done += 512

    with pytest.raises(OSError, match="No space left"):
        fill()
    image.flush()
    assert path.read_bytes()[:4] == b"QFI\xfb"
    storages[0].limit = 1 << 40
    image.write(done, pattern(512, done))
    image.close()
    assert not check(path).get("corruptions")
    found = content(path)
    for offset in range(0, done + 512, 512):
        assert found[offset : offset + 512] == pattern(512, offset)


_OFFSET = st.integers(0, 255)
_STEP = st.one_of(
    st.tuples(st.just("write"), _OFFSET, st.integers(1, 80), st.integers(1, 255)),
    st.tuples(st.just("discard"), _OFFSET, st.integers(1, 255), st.just(0)),
    st.tuples(st.just("read"), _OFFSET, st.integers(1, 255), st.just(0)),
    st.tuples(st.sampled_from(["flush", "reopen"]), st.just(0), st.just(0), st.just(0)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([9, 11, 13]),
    st.sampled_from([1, 4, 16]),
    st.sampled_from([2, 3]),
    st.sampled_from(["", "raw"]),
    st.lists(_STEP, max_size=25),
)
def test_like_an_array(
    cluster_bits: int,
    refcount_bits: int,
    version: int,
    backing: str,
    steps: list[tuple[str, int, int, int]],
) -> None:
    """Random steps in units of half a KiB, and QEMU's verdict in the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = pattern(100 * 512) if backing else b""
        if backing:
            (folder / "base").write_bytes(start)
        options: dict[str, int | str] = {"backing": "base", "backing_format": "raw"}
        model = Model(
            folder / "a",
            256 * 512,
            start,
            cluster_bits=cluster_bits,
            refcount_bits=16 if version == 2 else refcount_bits,
            version=version,
            **(options if backing else {}),
        )
        for step, at, count, value in steps:
            offset, size = at * 512, min(count, 256 - at) * 512
            match step:
                case "write":
                    model.write(offset, bytes([value]) * size)
                case "discard":
                    model.discard(offset, size)
                case "read":
                    model.check(offset, size)
                case "flush":
                    model.image.flush()
                case "reopen":
                    model.reopen()
        model.finish()


def test_several_threads_at_once(tmp_path: Path) -> None:
    """Each thread has its own stripes, whose clusters and tables it shares with the others."""
    from concurrent.futures import ThreadPoolExecutor

    model = Model(tmp_path / "a", 4 * MIB, cluster_bits=12)
    stripe, threads = 1536, 4

    def work(own: int) -> None:
        for index in itertools.count(own, threads):
            offset = index * stripe
            if offset + stripe > model.size:
                break
            data = pattern(stripe, index)
            model.image.write(offset, data)
            assert model.image.read(offset, stripe) == data
            if index % 97 == 0:
                model.image.flush()

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work, own) for own in range(threads)]:
            future.result(120)
    for index in range(model.size // stripe):
        model.data[index * stripe : (index + 1) * stripe] = pattern(stripe, index)
    model.finish()
    assert check(model.path)["allocated-clusters"] == 1024

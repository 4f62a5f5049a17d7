# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of images in use, and overlays on them: against a model of plain bytes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenograft.backends.block.images.raw import RawImage
from xenograft.backends.block.images.snapshot import CLUSTER, Origin, Overlay

SIZE = 5 * CLUSTER + 1536


class Plain:
    """The model: a disk in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(SIZE))
    return path


def raw(path: Path) -> RawImage:
    return RawImage(str(path))


def test_a_snapshot_stays(path: Path) -> None:
    before = path.read_bytes()
    origin = Origin(raw(path))
    snapshot = origin.snapshot()
    origin.write(100, b"new")
    origin.discard(CLUSTER, CLUSTER)
    assert snapshot.read(0, SIZE) == before
    assert origin.read(100, 3) == b"new"
    assert snapshot.read(SIZE - 4, 8) == before[-4:] + bytes(4)
    snapshot.close()
    origin.close()


def test_an_overlay_is_a_disk_of_its_own(path: Path) -> None:
    before = path.read_bytes()
    origin = Origin(raw(path))
    base = origin.snapshot()
    one, two = Overlay(base), Overlay(base.share())
    one.write(CLUSTER - 2, b"first")
    two.write(CLUSTER - 2, b"other")
    origin.write(0, b"parent")
    assert one.read(CLUSTER - 2, 5) == b"first"
    assert two.read(CLUSTER - 2, 5) == b"other"
    assert one.read(0, 6) == two.read(0, 6) == before[:6]
    assert path.read_bytes()[:6] == b"parent"
    assert path.read_bytes()[CLUSTER - 2 : CLUSTER + 3] == before[CLUSTER - 2 : CLUSTER + 3]
    one.close()
    origin.write(2 * CLUSTER, b"parent")
    assert two.read(2 * CLUSTER, 6) == before[2 * CLUSTER :][:6]
    two.close()
    origin.close()


def test_the_image_stays_open_for_the_clones(path: Path) -> None:
    before = path.read_bytes()
    origin = Origin(raw(path))
    clone = Overlay(origin.snapshot())
    origin.close()
    assert clone.read(0, SIZE) == before
    clone.close()
    again = raw(path)  # the lock is free
    again.close()


def test_a_clone_of_a_clone(path: Path) -> None:
    origin = Origin(raw(path))
    child = Origin(Overlay(origin.snapshot()))
    child.write(0, b"child")
    grandchild = Overlay(child.snapshot())
    child.write(0, b"later")
    origin.write(0, b"above")
    assert grandchild.read(0, 5) == b"child"
    for image in (grandchild, child, origin):
        image.close()


def test_discarded_clusters_are_zero(path: Path) -> None:
    before = path.read_bytes()
    origin = Origin(raw(path))
    clone = Overlay(origin.snapshot())
    clone.write(2 * CLUSTER, b"written")
    clone.discard(100, 3 * CLUSTER)
    assert clone.read(0, CLUSTER) == before[:CLUSTER]
    assert not any(clone.read(CLUSTER, 2 * CLUSTER))
    assert clone.read(3 * CLUSTER, CLUSTER) == before[3 * CLUSTER :][:CLUSTER]
    assert origin.read(0, SIZE) == before
    clone.close()
    origin.close()


def test_beyond_the_end(path: Path) -> None:
    origin = Origin(raw(path))
    clone = Overlay(origin.snapshot())
    clone.write(SIZE - 2, b"abcd")
    assert clone.read(SIZE - 2, 6) == b"ab" + bytes(4)
    clone.write(SIZE + CLUSTER, b"x")
    assert clone.size == SIZE
    clone.close()
    origin.close()


def test_writers_and_readers_at_once(path: Path) -> None:
    """What a clone reads never changes, however its parent writes meanwhile."""
    path.write_bytes(os.urandom(64 * CLUSTER))
    before = path.read_bytes()
    origin = Origin(raw(path))
    clone = Overlay(origin.snapshot())
    wrong: list[int] = []

    def write(first: int) -> None:
        for index in range(first, 64, 2):
            origin.write(index * CLUSTER + 17, bytes(CLUSTER // 2))

    def read() -> None:
        for index in range(64):
            if clone.read(index * CLUSTER, CLUSTER) != before[index * CLUSTER :][:CLUSTER]:
                wrong.append(index)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert clone.read(0, 64 * CLUSTER) == before
    clone.close()
    origin.close()


WRITES = st.lists(
    st.tuples(
        st.sampled_from(["origin", "one", "two", "fork", "discard"]),
        st.integers(0, SIZE - 1),
        st.integers(1, 2 * CLUSTER),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(WRITES)
def test_against_the_model(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    path.write_bytes(bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256))
    origin = Origin(raw(path))
    disks: list[tuple[Origin | Overlay, Plain]] = [(origin, Plain(path.read_bytes()))]
    for number, (what, offset, length) in enumerate(writes):
        length = min(length, SIZE - offset)
        if what == "fork":
            image, model = disks[number % len(disks)]
            if not isinstance(image, Origin):
                image = Origin(image)
                disks[number % len(disks)] = (image, model)
            disks.append((Overlay(image.snapshot()), Plain(bytes(model.data))))
            continue
        image, model = disks[{"origin": 0, "one": 1, "two": 2}.get(what, number) % len(disks)]
        if what == "discard":
            # Whole clusters of an overlay become zeros; of a file the file system decides.
            image.discard(offset, length)
            model.data[:] = image.read(0, SIZE)
        else:
            data = bytes([number + 1]) * length
            image.write(offset, data)
            model.write(offset, data)
        for disk, expected in disks:
            assert disk.read(0, SIZE) == bytes(expected.data)
    for disk, _ in reversed(disks):
        disk.close()

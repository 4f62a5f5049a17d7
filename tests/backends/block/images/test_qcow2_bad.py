# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images that can't be used, and those that turn out to be corrupt while they are."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.block.images.support import KIB, MIB, assert_clean, pattern, qemu_img
from xenograft.backends.block.images.image import Image, ImageError
from xenograft.backends.block.images.open import open_image
from xenograft.backends.block.images.qcow2.create import create_qcow2


def opens(path: Path, readonly: bool = True) -> str:
    """Why an image isn't opened, in one line that names it."""
    with pytest.raises(ImageError) as caught:
        open_image(str(path), "qcow2", readonly)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def put(at: int, form: str, *values: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        struct.pack_into(form, data, at, *values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(0, "4B", 1, 2, 3, 4), "not a qcow2 image"),
        (put(4, ">I", 1), "a qcow2 image of version 1; versions 2 and 3 are known"),
        (put(4, ">I", 4), "a qcow2 image of version 4; versions 2 and 3 are known"),
        (put(32, ">I", 1), "the image is encrypted; decrypt it with qemu-img convert"),
        (put(32, ">I", 2), "the image is encrypted; decrypt it with qemu-img convert"),
        (put(20, ">I", 8), "corrupt: clusters of 2^8 bytes"),
        (put(20, ">I", 22), "corrupt: clusters of 2^22 bytes"),
        (put(96, ">I", 7), "corrupt: reference counts of 2^7 bits"),
        (put(100, ">I", 96), "corrupt: a header of 96 bytes"),
        (put(100, ">I", 1 << 20), "corrupt: a header of 1048576 bytes"),
        (
            put(72, ">Q", 2),
            "the image is marked as corrupt; repair it with qemu-img check -r all",
        ),
        (put(72, ">Q", 4), "the image uses an external data file, which isn't supported"),
        (put(72, ">Q", 16), "the image uses extended L2 entries, which isn't supported"),
        (
            put(72, ">Q", 1 << 40),
            "the image uses the unknown incompatible feature 40, which isn't supported",
        ),
        (put(104, "B", 9), "the image has clusters compressed by an unknown method (9)"),
        (put(8, ">QI", 200, 2000), "corrupt: the name of the backing file lies outside"),
        (put(8, ">QI", 1 << 40, 5), "corrupt: the name of the backing file lies outside"),
        (put(112, ">II", 0x6803F857, 1 << 30), "corrupt: a header extension is longer"),
        (put(36, ">I", 1 << 30), "corrupt: an L1 table of 1073741824 entries"),
        (put(36, ">I", 0), "corrupt: its L1 table covers 0 of 1048576 bytes"),
        (put(24, ">Q", 1 << 62), "corrupt: its L1 table covers"),
        (put(40, ">Q", 1 << 40), "corrupt: its L1 table lies outside the file"),
        (put(40, ">Q", 513), "corrupt: its L1 table lies outside the file, or isn't aligned"),
        (put(48, ">Q", 1 << 40), "corrupt: its refcount table lies outside the file"),
        (put(56, ">I", 0), "corrupt: no refcount table"),
        (put(56, ">I", 1 << 20), "corrupt: a refcount table of 1048576 clusters"),
        (put(60, ">I", 0xFFFFFFFF), "corrupt: 4294967295 snapshots"),
    ],
)
def test_headers(tmp_path: Path, change: Callable[[bytearray], None], message: str) -> None:
    path = tmp_path / "a"
    create_qcow2(str(path), MIB)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    assert opens(path).startswith(message)


@pytest.mark.parametrize("length", [0, 3, 50, 71, 72, 100])
def test_files_that_end_early(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a"
    create_qcow2(str(path), MIB)
    path.write_bytes(path.read_bytes()[:length])
    opens(path)


def test_an_image_that_qemu_has_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "a"
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    create = ("create", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o", options)
    for attempt in range(5):
        # It measures how fast it is for its key, and gives up where the host is too busy.
        with contextlib.nullcontext() if attempt == 4 else contextlib.suppress(AssertionError):
            qemu_img(*create, path, "1M")
            break
    assert opens(path) == "the image is encrypted; decrypt it with qemu-img convert"


def test_features_of_qemus_own(tmp_path: Path) -> None:
    path = tmp_path / "a"
    qemu_img("create", "-f", "qcow2", "-o", "extended_l2=on", path, "1M")
    assert opens(path) == "the image uses extended L2 entries, which isn't supported"
    other = tmp_path / "b"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", other, "1M")
    assert opens(other) == "the image uses an external data file, which isn't supported"


@pytest.mark.parametrize(
    ("backing", "message"),
    [
        ("nothing", "there is no such image"),
        ("json:{}", "is of an unknown kind"),
        ("https://host/disk", "is of an unknown kind"),
        ("a", "go round in a circle"),
        (".", "directory"),
    ],
)
def test_backing_files(tmp_path: Path, backing: str, message: str) -> None:
    path = tmp_path / "a"
    create_qcow2(str(path), MIB, backing=backing, backing_format="qcow2")
    assert message in opens(path)


def test_a_backing_file_that_is_a_pipe(tmp_path: Path) -> None:
    """Nobody waits for its other end."""
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "top"
    create_qcow2(str(path), 64 * KIB, backing="pipe", backing_format="")
    assert "neither a file nor a block device" in opens(path)


def test_a_circle_of_three(tmp_path: Path) -> None:
    for name, behind in (("a", "b"), ("b", "c"), ("c", "./a")):
        create_qcow2(str(tmp_path / name), MIB, backing=behind)
    assert "circle" in opens(tmp_path / "a", readonly=True)


def test_a_chain_that_is_too_long(tmp_path: Path) -> None:
    """One line that names its ends."""
    create_qcow2(str(tmp_path / "70"), MIB)
    for number in range(69, -1, -1):
        create_qcow2(str(tmp_path / f"{number}"), MIB, backing=f"{number + 1}")
    said = opens(tmp_path / "0", readonly=True)
    assert said.startswith(f"its backing file: {tmp_path}/64: more than 64 images are in front")
    assert said.count("its backing file") == 1


def test_a_format_of_a_backing_file_that_nobody_knows(tmp_path: Path) -> None:
    create_qcow2(str(tmp_path / "a"), MIB, backing="b", backing_format="vmdk")
    assert "format vmdk isn't supported" in opens(tmp_path / "a")


def entries(path: Path, *values: int) -> None:
    """Write the first entries of the first L2 table."""
    data = bytearray(path.read_bytes())
    l1 = int.from_bytes(data[40:48], "big")
    l2 = int.from_bytes(data[l1 : l1 + 8], "big") & 0x00FFFFFFFFFFFE00
    for index, value in enumerate(values):
        struct.pack_into(">Q", data, l2 + 8 * index, value)
    path.write_bytes(data)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    create_qcow2(str(path), 4 * MIB)
    image = open_image(str(path), "qcow2")
    image.write(0, pattern(256 * KIB))
    image.close()
    return path


@pytest.mark.parametrize("place", [0x10000, 0x20000, 0x30000, 0x1234400, 0x90000, 1 << 40])
def test_data_where_metadata_are(written: Path, place: int) -> None:
    """A guest could write the tables themselves: the image is given up at once."""
    entries(written, 1 << 63 | place)
    image = open_image(str(written), "qcow2")
    assert image.read(65536, 512) == pattern(256 * KIB)[65536 : 65536 + 512]
    assert image.read_now(0, 512) is None
    with pytest.raises(OSError, match="corrupt: a cluster of data at"):
        image.read(0, 512)
    with pytest.raises(OSError, match="corrupt"):
        image.write(65536, b"x" * 512)
    image.close()
    assert opens(written).startswith("the image is marked as corrupt")


def test_a_corrupt_image_that_is_only_read_is_left_alone(written: Path) -> None:
    entries(written, 1 << 63)
    entries(written, 1 << 63 | 0x10000)
    before = written.read_bytes()
    image = open_image(str(written), "qcow2", readonly=True)
    with pytest.raises(OSError, match="corrupt"):
        image.read(0, 512)
    image.close()
    assert written.read_bytes() == before


def test_counts_that_call_the_header_free(written: Path) -> None:
    """No data are put where tables are, whatever the counts say."""
    data = bytearray(written.read_bytes())
    block = int.from_bytes(data[0x10000:0x10008], "big")
    data[block : block + 8] = bytes(8)
    written.write_bytes(data)
    image = open_image(str(written), "qcow2")
    with pytest.raises(OSError, match="corrupt: cluster 0 is in use, but counted as free"):
        image.write(2 * MIB, pattern(512))
    image.close()
    changed = written.read_bytes()
    assert changed[:72] + changed[80:0x20000] == data[:72] + data[80:0x20000]


@pytest.mark.parametrize("place", [0x10200, 1 << 40])
def test_a_table_that_is_not_aligned_or_behind_the_end(written: Path, place: int) -> None:
    data = bytearray(written.read_bytes())
    l1 = int.from_bytes(data[40:48], "big")
    struct.pack_into(">Q", data, l1, 1 << 63 | place)
    written.write_bytes(data)
    image = open_image(str(written), "qcow2")
    with pytest.raises(OSError, match=f"an L2 table at {place:#x}"):
        image.read(0, 512)
    with pytest.raises(OSError, match="corrupt"):
        image.write(0, b"x")
    image.close()
    assert written.stat().st_size == len(data)


def test_a_file_that_was_cut_off(written: Path) -> None:
    """What is gone isn't read as zeros."""
    size = written.stat().st_size
    os.truncate(written, size - 2 * 65536)
    image = open_image(str(written), "qcow2")
    assert image.read(0, 128 * KIB) == pattern(256 * KIB)[: 128 * KIB]
    with pytest.raises(OSError, match="corrupt: a cluster of data at"):
        image.read(128 * KIB, 512)
    image.close()


@pytest.mark.parametrize("allocation", ["metadata", "falloc", "full"])
def test_clusters_that_qemu_allocated_in_advance(tmp_path: Path, allocation: str) -> None:
    """They are behind nobody's end, although nothing was written there."""
    path = tmp_path / "a"
    qemu_img("create", "-f", "qcow2", "-o", f"preallocation={allocation}", path, "4M")
    image = open_image(str(path), "qcow2")
    assert image.read(4 * MIB - 512, 512) == bytes(512)
    image.write(4 * MIB - 512, b"x" * 512)
    image.close()
    assert_clean(path)


def test_compressed_nonsense(written: Path) -> None:
    entries(written, 1 << 62 | 0x50000, 1 << 62 | 1 << 61 | 0x7FFFFFFFFF)
    image = open_image(str(written), "qcow2")
    for offset in (0, 65536):
        with pytest.raises(OSError, match="a compressed cluster"):
            image.read(offset, 512)
        with pytest.raises(OSError, match="a compressed cluster"):
            image.write(offset, b"x")
    image.write(0, bytes(65536))
    image.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 6 * 512 - 1), st.binary(min_size=1, max_size=8)), max_size=6),
    st.booleans(),
    st.data(),
)
def test_images_with_any_bytes_changed(
    changes: list[tuple[int, bytes]], readonly: bool, data: st.DataObject
) -> None:
    """Header and tables of a small image: a line of complaint, or errors, or something works."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        create_qcow2(str(path), 64 * KIB, cluster_bits=9)
        image = open_image(str(path), "qcow2")
        image.write(0, pattern(2 * KIB))
        image.close()
        whole = bytearray(path.read_bytes())
        for at, change in changes:
            # Cluster 0 is the header, 1 and 2 count, 3 is the L1 table, then the L2 table.
            whole[at : at + len(change)] = change
        path.write_bytes(whole)
        complaints: list[str] = []
        try:
            image = open_image(str(path), "qcow2", readonly)
        except ImageError as error:
            complaints.append(str(error))
        else:
            offsets = data.draw(st.lists(st.integers(0, 127), max_size=5))
            complaints += use(image, [offset * 512 for offset in offsets])
        assert not any("\n" in complaint for complaint in complaints)


def use(image: Image, offsets: list[int]) -> list[str]:
    """Do everything with an image, at some places; returns what it complained of."""
    steps: list[Callable[[], object]] = []
    for offset in offsets:
        steps += [
            partial(image.read, offset, 1024),
            partial(image.read_now, offset, 1024),
            partial(image.write, offset, b"x" * 512),
            partial(image.discard, offset, 512),
            image.flush,
        ]
    complaints = []
    for step in (*steps, image.close):
        try:
            step()
        except OSError as error:
            complaints.append(str(error))
    return complaints

# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may have an image open beside whom, QEMU's tools among them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.backends.block.images.support import KIB, need, qemu_img
from xenograft.backends.block.images.image import ImageError
from xenograft.backends.block.images.open import open_image
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.backends.block.images.raw import RawImage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(64 * KIB))
    return path


def test_readers_share(path: Path) -> None:
    images = [RawImage(str(path), readonly=True) for _ in range(3)]
    for image in images:
        image.close()


@pytest.mark.parametrize("first_reads", [False, True])
@pytest.mark.parametrize("second_reads", [False, True])
def test_a_writer_is_alone(path: Path, first_reads: bool, second_reads: bool) -> None:
    first = RawImage(str(path), readonly=first_reads)
    if first_reads and second_reads:
        RawImage(str(path), readonly=True).close()
    else:
        with pytest.raises(ImageError, match="in use by another guest or program"):
            RawImage(str(path), readonly=second_reads)
    first.close()
    # The lock ends with its holder, and a refused one has left nothing.
    RawImage(str(path)).close()


def test_two_images_in_front_of_one(tmp_path: Path) -> None:
    base = tmp_path / "base.img"
    base.write_bytes(bytes(64 * KIB))
    for name in ("a", "b"):
        create_qcow2(str(tmp_path / name), 64 * KIB, backing="base.img", backing_format="raw")
    first = open_image(str(tmp_path / "a"), "qcow2")
    second = open_image(str(tmp_path / "b"), "qcow2")
    with pytest.raises(ImageError, match="can't be written as well"):
        RawImage(str(base))
    first.close()
    second.close()
    RawImage(str(base)).close()


def test_an_image_in_use_here_is_refused_there(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    create_qcow2(str(path), 64 * KIB)
    image = open_image(str(path), "qcow2")
    command = [*need("qemu-io"), "-f", "qcow2", "-c", "write 0 512", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "lock" in done.stderr
    # Looking at it without a lock goes, as QEMU's users are used to.
    qemu_img("info", "-U", path)
    image.close()


def test_an_image_in_use_there_is_refused_here(path: Path, tmp_path: Path) -> None:
    command = [*need("qemu-io"), "-f", "raw", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # It has the image open once it answers.
        process.stdin.write("length\n")
        process.stdin.flush()
        while "64 KiB" not in process.stdout.readline():
            assert process.poll() is None
        for readonly in (False, True):
            with pytest.raises(ImageError, match="in use"):
                RawImage(str(path), readonly)
        process.stdin.write("quit\n")
        process.stdin.close()
        process.wait(60)
    RawImage(str(path)).close()

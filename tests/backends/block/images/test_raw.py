# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw images: files, their holes, their ends, and what the host refuses."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.block.images.support import KIB, MIB, pattern
from xenograft.backends.block.images import raw
from xenograft.backends.block.images.image import ImageError
from xenograft.backends.block.images.raw import RawImage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(pattern(64 * KIB))
    return path


def test_reads_and_writes(path: Path) -> None:
    image = RawImage(str(path))
    assert (image.size, image.readonly, image.is_device) == (64 * KIB, False, False)
    assert image.read(1000, 5000) == pattern(64 * KIB)[1000:6000]
    image.write(512, b"x" * 512)
    image.write(8192, memoryview(b"y" * 512))
    image.flush()
    image.close()
    image.close()
    expected = bytearray(pattern(64 * KIB))
    expected[512:1024], expected[8192:8704] = b"x" * 512, b"y" * 512
    assert path.read_bytes() == expected


def test_beyond_the_end_there_are_zeros(path: Path) -> None:
    image = RawImage(str(path), readonly=True)
    assert image.read(64 * KIB - 4, 16) == pattern(64 * KIB)[-4:] + bytes(12)
    assert image.read(1 << 40, 16) == bytes(16)
    assert image.read_now(64 * KIB - 4, 16) is None
    image.close()


def test_what_the_host_has_in_memory_comes_at_once(path: Path) -> None:
    image = RawImage(str(path))
    image.read(0, 64 * KIB)
    now = image.read_now(4096, 8192)
    if now is None:
        pytest.skip("this file system can't say what is in memory")
    assert now == pattern(64 * KIB)[4096:12288]
    image.close()


def test_without_the_flag_reading_at_once_is_left_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not here")

    image = RawImage(str(path))
    monkeypatch.setattr(raw.os, "preadv", refuse)
    assert image.read_now(0, 512) is None
    monkeypatch.undo()
    assert image.read_now(0, 512) is None
    assert image.read(0, 512) == pattern(64 * KIB)[:512]
    image.close()


def test_discard_makes_holes(path: Path) -> None:
    path.write_bytes(pattern(MIB))
    before = path.stat().st_blocks
    image = RawImage(str(path))
    assert image.discard_granularity >= 512
    image.discard(256 * KIB, 512 * KIB)
    image.discard(0, 0)
    image.close()
    data = path.read_bytes()
    assert len(data) == MIB
    assert data[: 256 * KIB] == pattern(MIB)[: 256 * KIB]
    assert data[768 * KIB :] == pattern(MIB)[768 * KIB :]
    if path.stat().st_blocks < before:
        assert data[256 * KIB : 768 * KIB] == bytes(512 * KIB)


def test_discard_where_there_are_no_holes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(raw, "_punch_hole", refuse)
    image = RawImage(str(path))
    image.discard(0, 4096)
    assert image.discard_granularity == 0
    image.discard(0, 4096)
    assert image.read(0, 4096) == pattern(64 * KIB)[:4096]
    image.close()


def test_grows_and_shrinks(path: Path) -> None:
    image = RawImage(str(path))
    image.resize(MIB)
    assert (image.size, path.stat().st_size) == (MIB, MIB)
    os.truncate(path, 2 * MIB)
    assert image.size == MIB
    assert image.refresh() == image.size == 2 * MIB
    image.close()


def test_read_only(path: Path) -> None:
    image = RawImage(str(path), readonly=True)
    assert image.discard_granularity == 0
    image.flush()
    image.discard(0, 4096)
    with pytest.raises(OSError, match="Bad file"):
        image.write(0, b"x" * 512)
    image.close()
    assert path.read_bytes() == pattern(64 * KIB)


def test_a_failed_flush_is_never_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may have thrown away what it could not write: a later flush proves nothing."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    image = RawImage(str(path))
    image.write(0, b"x" * 512)
    monkeypatch.setattr(raw.os, "fdatasync", fail)
    with pytest.raises(OSError, match="broken disk"):
        image.flush()
    monkeypatch.undo()
    with pytest.raises(OSError, match="earlier flush") as caught:
        image.flush()
    assert caught.value.errno == errno.EIO
    image.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "there is no such image"), (".", "a directory"), ("fifo", "neither a file nor")],
)
def test_what_is_no_image(tmp_path: Path, name: str, message: str) -> None:
    """Said at once: a pipe that may only be read isn't waited for."""
    os.mkfifo(tmp_path / "fifo")
    for readonly in (False, True):
        with pytest.raises(ImageError, match=message) as caught:
            RawImage(str(tmp_path / name), readonly)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero", "/dev/tty"])
def test_devices_that_are_no_disks(name: str) -> None:
    with pytest.raises(ImageError, match=r"neither a file nor a block|can't be opened"):
        RawImage(name, True)


def test_without_the_right_to_write(path: Path) -> None:
    def why(number: int) -> str:
        return raw._why("disk.img", OSError(number, os.strerror(number)))

    assert why(errno.EACCES).endswith("permission denied; give it read-only, or other rights")
    assert why(errno.ELOOP) == "disk.img: can't be opened: Too many levels of symbolic links"


def test_a_full_disk_is_an_error(path: Path) -> None:
    """The host's limit stands for a full disk: what fits is written, what doesn't is told."""
    script = """
import errno, resource, signal, sys
from xenograft.backends.block.images.raw import RawImage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
image = RawImage(sys.argv[1])
image.write(61440, b"a" * 4096)
try:
    image.write(61440, b"b" * 8192)
except OSError as error:
    print(errno.errorcode[error.errno])
image.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "EFBIG\n"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 65536
    assert path.read_bytes()[: 60 * KIB] == pattern(64 * KIB)[: 60 * KIB]


@pytest.fixture
def loop(path: Path) -> Iterator[str]:
    """A block device of the host's, 4 MiB large, which takes root's rights."""
    path.write_bytes(pattern(4 * MIB))
    made = subprocess.run(
        ["losetup", "-f", "--show", str(path)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device to be had: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


def test_a_block_device(loop: str, path: Path) -> None:
    image = RawImage(loop)
    assert (image.size, image.is_device) == (4 * MIB, True)
    assert image.device == (7, int(loop.removeprefix("/dev/loop")))
    assert image.read(1000, 5000) == pattern(4 * MIB)[1000:6000]
    image.write(512, b"x" * 512)
    image.flush()
    assert path.read_bytes()[512:1024] == b"x" * 512
    with pytest.raises(OSError, match="can't be resized"):
        image.resize(MIB)
    with pytest.raises(ImageError, match="in use"):
        RawImage(loop)
    if image.discard_granularity:
        image.discard(16 * KIB, 16 * KIB)
        assert image.read(16 * KIB, 16 * KIB) == bytes(16 * KIB)
    os.truncate(path, 8 * MIB)
    subprocess.run(["losetup", "-c", loop], check=True)
    assert image.refresh() == 8 * MIB
    image.close()
    RawImage(loop).close()


def test_a_block_device_that_the_host_uses(loop: str, path: Path, tmp_path: Path) -> None:
    """Two file systems' drivers on one disk destroy it."""
    made = subprocess.run(["mke2fs", "-q", "-F", loop], capture_output=True, check=False)
    folder = tmp_path / "mounted"
    folder.mkdir()
    if made.returncode or subprocess.run(["mount", loop, str(folder)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(ImageError, match="in use on this host; unmount it first"):
            RawImage(loop)
        RawImage(loop, readonly=True).close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    RawImage(loop).close()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing leads out of a shared folder, by whichever system call it's looked up."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.backends.scene import open_descriptors
from tests.backends.xen_9pfs.conftest import SECRET
from xenograft.backends.xen_9pfs.beneath import Folder, WouldBlock, check_name, create


def read(folder: Folder, path: bytes) -> bytes:
    descriptor = folder.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def test_opens_what_is_inside(folder: Folder, share: Path) -> None:
    (share / "a" / "b").mkdir(parents=True)
    (share / "a" / "b" / "file").write_bytes(b"inside")
    assert read(folder, b"a/b/file") == b"inside"
    assert folder.stat(b"").st_ino == share.stat().st_ino


@pytest.mark.parametrize(
    "target", ["../secret", "/etc/passwd", "sub/../../secret", "../private", "/", ".."]
)
def test_no_link_is_followed(folder: Folder, share: Path, target: str) -> None:
    (share / "sub").mkdir()
    (share / "link").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links") as caught:
        folder.open(b"link", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP
    for below in (b"link/key", b"link/share/sub"):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            folder.open(below, os.O_RDONLY)
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    # The link itself can be looked at.
    assert folder.stat(b"link").st_ino == (share / "link").lstat().st_ino


@pytest.mark.parametrize("path", [b"..", b"../secret", b"sub/../../secret", b"sub/.."])
def test_dots_lead_nowhere_else(folder: Folder, share: Path, path: bytes) -> None:
    (share / "sub").mkdir()
    try:
        found = folder.stat(path)
    except OSError as error:
        assert error.errno in (errno.EXDEV, errno.ENOENT)  # noqa: PT017
    else:
        assert found.st_ino == share.stat().st_ino


def test_absolute_paths_are_no_paths(folder: Folder) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        folder.open(b"/etc/passwd", os.O_RDONLY)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"x" * 256])
def test_names_that_are_none(name: bytes) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        check_name(name)


def test_only_files_and_directories_are_opened(folder: Folder, share: Path) -> None:
    os.mkfifo(share / "fifo")
    # Opened as it is, it would keep the thread for ever.
    with pytest.raises(OSError) as caught:  # noqa: PT011
        folder.open(b"fifo", os.O_RDONLY)
    assert caught.value.errno == errno.ENXIO


def test_create_makes_nothing_through_a_link(folder: Folder, share: Path) -> None:
    (share / "link").symlink_to("../made")
    with folder.at(b"", True) as directory, pytest.raises(FileExistsError):
        create(directory, b"link", os.O_WRONLY)
    assert not (share.parent / "made").exists()


def test_a_link_that_comes_and_goes_is_never_followed(folder: Folder, share: Path) -> None:
    """The host, or another guest, swaps a directory for a link as fast as it can."""
    (share / "dir").mkdir()
    (share / "dir" / "key").write_bytes(b"harmless")
    (share / "evil").symlink_to("../private")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(share / "dir", share / "spare")  # noqa: PTH104
            os.rename(share / "evil", share / "dir")  # noqa: PTH104
            os.rename(share / "dir", share / "evil")  # noqa: PTH104
            os.rename(share / "spare", share / "dir")  # noqa: PTH104

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for turn in range(200_000):
            if turn >= 3000 and b"harmless" in seen:
                break
            if turn >= 3000:
                # The two threads keep step, so that the directory is never seen.
                time.sleep(random.random() / 1000)
            try:
                seen.add(read(folder, b"dir/key"))
            except OSError as error:
                seen.add(error.errno)  # type: ignore[arg-type]
    finally:
        stop.set()
        thread.join()
    assert SECRET not in seen
    assert b"harmless" in seen


def test_long_paths(folder: Folder) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        folder.stat(b"/".join([b"x" * 200] * 30))
    assert caught.value.errno in (errno.ENAMETOOLONG, errno.ENOENT)


def test_what_is_not_in_memory_would_block(share: Path) -> None:
    folder = Folder(str(share))
    quick = folder.cached()
    if quick is None:
        pytest.skip("this file system or kernel can't tell what it has in memory")
    try:
        (share / "file").write_bytes(b"x")
        assert quick.stat(b"file").st_size == 1
        # The folder itself is known; a mount point would be another file system's affair.
        assert quick.stat(b"").st_ino == share.stat().st_ino
        with pytest.raises((FileNotFoundError, WouldBlock)):
            quick.stat(b"never heard of")
        (share / "link").symlink_to("../secret")
        with pytest.raises(OSError) as caught:  # noqa: PT011
            quick.open(b"link", os.O_RDONLY)
        assert caught.value.errno == errno.ELOOP
    finally:
        quick.close()
        folder.close()


def test_descriptors_are_closed(folder: Folder, share: Path) -> None:
    (share / "a").mkdir()
    (share / "a" / "b").write_bytes(b"")
    before = open_descriptors()
    for path in (b"a/b", b"a", b"none", b"a/none", b"none/a", b"a/b/c"):
        try:
            folder.stat(path)
        except OSError:
            continue
    assert open_descriptors() == before

# SPDX-License-Identifier: GPL-2.0-or-later
"""The archive writer: read back by a reader of the test's own, and by the system's cpio."""

from __future__ import annotations

import shutil
import stat
import subprocess
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.images.cpio import Archive


class Member(NamedTuple):
    mode: int
    inode: int
    links: int
    device: tuple[int, int]
    data: bytes


def read(archive: bytes) -> dict[str, Member]:
    """Read a newc archive as buffer-format.rst describes it."""
    members = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        field = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, links, mtime, size, _, _, major, minor, name_size, check = field
        assert (uid, gid, mtime, check) == (0, 0, 0, 0)
        name = archive[at + 110 : at + 110 + name_size]
        assert name[-1] == 0
        start = at + -(-(110 + name_size) // 4) * 4
        data = archive[start : start + size]
        at = start + -(-size // 4) * 4
        text = name[:-1].decode()
        if text == "TRAILER!!!":
            assert at == len(archive)
            return members
        members[text] = Member(mode, inode, links, (major, minor), data)


def test_kinds_of_members() -> None:
    archive = Archive()
    archive.directory("a/b")
    archive.file("a/b/f", b"hello", 0o755)
    archive.symlink("a/l", "b/f")
    archive.character_device("console", 5, 1)
    members = read(archive.finish())
    assert list(members) == ["a", "a/b", "a/b/f", "a/l", "console"]
    assert members["a/b"].mode == stat.S_IFDIR | 0o755
    assert members["a/b/f"] == (stat.S_IFREG | 0o755, 3, 1, (0, 0), b"hello")
    assert members["a/l"][0] == stat.S_IFLNK | 0o777
    assert members["a/l"].data == b"b/f"
    assert members["console"].mode == stat.S_IFCHR | 0o600
    assert members["console"].device == (5, 1)


def test_an_empty_archive_is_a_trailer() -> None:
    assert read(Archive().finish()) == {}


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)


@given(st.dictionaries(names.filter(lambda n: n != "TRAILER!!!"), st.binary(max_size=300)))
def test_any_files_read_back(files: dict[str, bytes]) -> None:
    archive = Archive()
    for name, data in files.items():
        archive.file(name, data)
    members = read(archive.finish())
    assert {name: member.data for name, member in members.items()} == files
    assert len({member.inode for member in members.values()}) == len(files)


def test_the_same_members_give_the_same_bytes() -> None:
    def make() -> bytes:
        archive = Archive()
        archive.directory("d")
        archive.file("d/f", b"x")
        return archive.finish()

    assert make() == make()


@pytest.mark.parametrize("path", ["", "/abs", "nul\0", "TRAILER!!!"])
def test_bad_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="bad path"):
        Archive().file(path, b"")


def test_a_path_is_there_once() -> None:
    archive = Archive()
    archive.file("f", b"")
    with pytest.raises(ValueError, match="already"):
        archive.file("f", b"")
    archive.directory("d")
    archive.directory("d")
    assert list(read(archive.finish())) == ["f", "d"]


@pytest.mark.skipif(not shutil.which("cpio"), reason="cpio isn't here")
def test_the_systems_cpio_lists_it() -> None:
    archive = Archive()
    archive.directory("dir")
    archive.file("dir/file", b"12345")
    done = subprocess.run(["cpio", "-it"], input=archive.finish(), capture_output=True, check=True)
    assert done.stdout.split() == [b"dir", b"dir/file"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of unpacked kernels: hits, damage, and homes that can't be written."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.toolstack.build.support import COMPRESSORS
from xenograft.toolstack.build import cache as module
from xenograft.toolstack.build.cache import KernelCache, cache_folder
from xenograft.toolstack.build.decompress import CorruptData


def packed(seed: int) -> tuple[bytes, bytes]:
    """Data of more than 1 MiB packed, and what they unpack to."""
    plain = seed.to_bytes(4, "little") + random.Random(seed).randbytes(1 << 16) * 20
    return COMPRESSORS["lz4"](plain) + bytes(1 << 20), plain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "kernels"


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_second_time_is_a_hit(folder: Path) -> None:
    data, plain = packed(1)
    first = KernelCache(folder)
    assert first(data) == plain
    assert first.hits == 0
    second = KernelCache(folder)
    assert bytes(second(data)) == plain
    assert second.hits == 1
    assert len(entries(folder)) == 1
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_hit_does_not_unpack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, plain = packed(2)
    KernelCache(folder)(data)
    monkeypatch.setattr(module, "decompress", lambda _: pytest.fail("unpacked again"))
    assert bytes(KernelCache(folder)(memoryview(data))) == plain


def test_small_data_is_not_kept(folder: Path) -> None:
    assert KernelCache(folder)(COMPRESSORS["gzip"](b"small")) == b"small"
    assert not folder.exists()


def test_corrupt_data_leaves_nothing(folder: Path) -> None:
    with pytest.raises(CorruptData):
        KernelCache(folder)(b"\x1f\x8b" + bytes(2 << 20))
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["cut", "longer", "magic", "empty", "folder"])
def test_damaged_entry_is_a_miss_and_replaced(folder: Path, damage: str) -> None:
    data, plain = packed(3)
    KernelCache(folder)(data)
    path = folder / entries(folder)[0]
    good = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        bad = {"cut": good[:-1], "longer": good + b"x", "magic": b"X" + good[1:], "empty": b""}
        path.write_bytes(bad[damage])
    again = KernelCache(folder)
    assert bytes(again(data)) == plain
    assert again.hits == 0
    if damage != "folder":
        assert path.read_bytes() == good
    assert len(entries(folder)) == 1


def test_other_peoples_files_are_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, plain = packed(4)
    KernelCache(folder)(data)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    cache = KernelCache(folder)
    assert cache(data) == plain
    assert cache.hits == 0


def test_unusable_folder_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    data, plain = packed(5)
    assert KernelCache(file / "sub")(data) == plain


def test_full_disk_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    data, plain = packed(6)
    assert KernelCache(folder)(data) == plain
    assert entries(folder) == []


def test_the_least_recently_used_go_first(folder: Path) -> None:
    cache = KernelCache(folder, keep=2)
    datas = [packed(seed)[0] for seed in (10, 11, 12)]
    for age, data in enumerate(datas[:2]):
        cache(data)
        newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 + age, 1000 + age))
    cache(datas[0])  # used again, so the second one is the oldest now
    cache(datas[2])
    assert len(entries(folder)) == 2
    hits = cache.hits
    cache(datas[0])
    cache(datas[2])
    assert cache.hits == hits + 2


def test_folder_follows_the_base_directory_specification() -> None:
    where = Path("xenograft/kernels")
    assert cache_folder({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x") / where
    assert cache_folder({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache") / where
    assert cache_folder({"HOME": "/h"}) == Path("/h/.cache") / where

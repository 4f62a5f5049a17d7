# SPDX-License-Identifier: GPL-2.0-or-later
"""Building from a configuration: files that are read, and each way in which they can be bad."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.toolstack.build.support import bzimage, elf, linux, linux_payload
from xenograft.toolstack.build.decompress import decompress
from xenograft.toolstack.build.domain import build_domain, default_cache, read_file
from xenograft.toolstack.build.guest import BuiltGuest
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(linux_payload(linux(), "xz")))
    return str(path)


def build(config: DomainConfig) -> BuiltGuest:
    return build_domain(config, decompress)


def test_builds(kernel: str, tmp_path: Path) -> None:
    ramdisk = tmp_path / "initrd"
    ramdisk.write_bytes(b"x" * 5000)
    config = from_options(
        kernel=kernel, ramdisk=str(ramdisk), cmdline="a=b", memory="48M", vcpus=2, maxvcpus=3
    )
    guest = build(config)
    assert guest.memory == 48 << 20
    assert (guest.vcpus, guest.online, guest.cmdline) == (3, 2, "a=b")
    assert guest.kernel.name == f"kernel {kernel}"
    assert [len(load.data) for load in guest.loads if "initrd" in load.what] == [5000]


def test_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "vmlinuz"
    image = elf([(0x1000000, os.urandom(3 << 20), 3 << 20)], [("Xen", 18, b"\0\0\0\1")])
    path.write_bytes(bzimage(linux_payload(image, "lz4")))
    config = from_options(kernel=str(path))
    guest = build_domain(config)
    assert len(list((tmp_path / "xenograft" / "kernels").iterdir())) == 1
    cache = default_cache()
    again = build_domain(config, cache)
    assert cache.hits == 1
    assert [(load.gpa, bytes(load.data)) for load in again.loads] == [
        (load.gpa, bytes(load.data)) for load in guest.loads
    ]


def test_kernel_from_a_pipe() -> None:
    # As a shell's <(…) hands it over.
    reader, writer = os.pipe()
    os.write(writer, linux())
    os.close(writer)
    guest = build(from_options(kernel=f"/dev/fd/{reader}"))
    os.close(reader)
    assert guest.entry == 0x1000040


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"no kernel at all", "not a kernel"),
        (linux()[:3000], "truncated"),
        (bzimage(linux_payload(linux(), "gzip"))[:-50], "truncated"),
        (bzimage(linux_payload(linux(), "gzip")[:-90]), "is damaged"),
        (elf(notes=[]), "no PVH entry"),
    ],
)
def test_bad_kernels(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        build(from_options(kernel=str(path)))
    assert str(caught.value).startswith(f"kernel {path}: ")
    assert "\n" not in str(caught.value)


def test_missing_kernel_and_ramdisk(kernel: str) -> None:
    with pytest.raises(UserError, match="kernel /nowhere/k: no such file or directory"):
        build(from_options(kernel="/nowhere/k"))
    with pytest.raises(UserError, match="ramdisk /nowhere/r: no such file or directory"):
        build(from_options(kernel=kernel, ramdisk="/nowhere/r"))
    with pytest.raises(UserError, match="no kernel is given; name one"):
        build(DomainConfig())


def test_things_that_are_no_files(kernel: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        build(from_options(kernel=str(tmp_path)))
    with pytest.raises(UserError, match="is a device or socket; name a file"):
        build(from_options(kernel="/dev/zero"))
    with pytest.raises(UserError, match="can't be a file's name"):
        build(from_options(kernel="a\0b"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="the file is empty"):
        build(from_options(kernel=str(pipe)))  # nobody writes to it: no waiting


def test_unreadable_file(kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the refusal is played.
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match="permission denied; check the path and its permissions"):
        build(from_options(kernel=kernel))


def test_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 2000)
    assert len(read_file(str(path), "it", 2000)) == 2000
    with pytest.raises(UserError, match=r"it .*large: 1 MiB; 0 MiB at most"):
        read_file(str(path), "it", 1999)


def test_ramdisk_larger_than_memory_is_refused_without_reading_it(
    kernel: str, tmp_path: Path
) -> None:
    path = tmp_path / "initrd"
    with path.open("wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(UserError, match=r"5120 MiB don't fit in a guest with 64 MiB.*--memory"):
        build(from_options(kernel=kernel, ramdisk=str(path), memory=64))


def test_too_little_memory(kernel: str, tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x" * (6 << 20))
    with pytest.raises(UserError, match=r"20 MiB of memory is too little.*more than 25 MiB"):
        build(from_options(kernel=kernel, ramdisk=str(path), memory=20))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"type": "hvm"}, 'type="hvm": no device model emulates a PC'),
    ],
)
def test_what_cannot_be_had_is_refused(kernel: str, options: dict[str, object], says: str) -> None:
    config = from_options(kernel=kernel, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says):
        build(config)

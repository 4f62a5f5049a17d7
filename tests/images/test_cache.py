# SPDX-License-Identifier: GPL-2.0-or-later
"""The image cache: whole or not at all, fetched once, with clear refusals."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.conftest import FakeApt, needs_dpkg
from tests.images.test_cpio import read
from xenograft.backends.net.libslirp import LibraryMissing
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images import cache as cache_module
from xenograft.toolstack.images import initrd
from xenograft.toolstack.images.cache import (
    ImageCache,
    cache_root,
    default_kernel,
    find,
    host_kernels,
    kernel_or_image,
)
from xenograft.toolstack.images.catalogue import CATALOGUE
from xenograft.toolstack.images.libraries import libslirp_files

KERNEL = "linux-image-6.1.0-9-cloud-amd64"


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, lines: list[str]) -> ImageCache:
    return ImageCache(tmp_path / "cache", lines.append)


@pytest.fixture
def served(fake_apt: FakeApt) -> FakeApt:
    """Debian's kernel and busybox, as far as the cache can see."""
    fake_apt.package("linux-image-cloud-amd64", {}, f"{KERNEL} (= 1.0)")
    files = {"boot/vmlinuz-6.1.0-9-cloud-amd64": b"kernel", "boot/config-6.1.0-9-cloud-amd64": b""}
    drivers = "lib/modules/6.1.0-9-cloud-amd64/kernel/drivers"
    modules = {
        f"{drivers}/net/xen-netfront.ko.xz": lzma.compress(b"netfront"),
        f"{drivers}/block/xen-blkfront.ko": b"blkfront",
        f"{drivers}/net/other.ko": b"other",
    }
    fake_apt.package(KERNEL, files | modules)
    script = b"#!/bin/sh\nprintf 'sh\\nls\\nbusybox\\n'\n"
    fake_apt.package("busybox-static", {"bin/busybox": script})
    return fake_apt


@needs_dpkg
class TestGet:
    def test_a_kernel_by_its_metapackage(self, served: FakeApt, cache: ImageCache) -> None:
        assert cache.cached("debian-cloud") is None
        fetched = cache.get("debian-cloud")
        assert fetched.path.name == "vmlinuz-6.1.0-9-cloud-amd64"
        assert fetched.path.read_bytes() == b"kernel"
        assert (fetched.source, fetched.version) == (KERNEL, "1.0")
        assert list(fetched.files)[:2] == ["kernel", "config"]
        assert sorted(fetched.modules) == ["xen-blkfront", "xen-netfront"]
        assert cache.cached("debian-cloud") == fetched

    def test_a_second_get_runs_nothing(self, served: FakeApt, cache: ImageCache) -> None:
        first = cache.get("debian-cloud")
        before = served.log()
        assert cache.get("debian-cloud") == first
        assert served.log() == before

    def test_refresh_fetches_anew(self, served: FakeApt, cache: ImageCache) -> None:
        cache.get("debian-cloud")
        cache.get("debian-cloud", refresh=True)
        assert served.calls("download") == 2

    @pytest.mark.parametrize("damage", ["truncate", "remove", "manifest", "list"])
    def test_a_damaged_image_is_fetched_anew(
        self, served: FakeApt, cache: ImageCache, damage: str
    ) -> None:
        path = cache.get("debian-cloud").path
        manifest = path.parent / "image.json"
        match damage:
            case "truncate":
                path.write_bytes(b"ker")
            case "remove":
                path.unlink()
            case "manifest":
                manifest.write_text("{")
            case "list":
                manifest.write_text("[]")
        assert cache.cached("debian-cloud") is None
        assert cache.get("debian-cloud").path.read_bytes() == b"kernel"

    def test_a_failed_fetch_leaves_nothing(
        self, served: FakeApt, cache: ImageCache, tmp_path: Path
    ) -> None:
        (served.root / f"{KERNEL}.deb").write_bytes(b"no archive")
        with pytest.raises(UserError, match="can't unpack"):
            cache.get("debian-cloud")
        assert cache.cached("debian-cloud") is None
        assert list((tmp_path / "cache/images").iterdir()) == []

    def test_a_package_without_the_file(self, served: FakeApt, cache: ImageCache) -> None:
        served.package("grub-xen-host", {"usr/lib/other": b""})
        with pytest.raises(UserError, match=r"holds 0 files usr/lib/grub-xen/grub-i386-xen_pvh"):
            cache.get("grub-pvh")

    def test_the_ramdisk_is_built_from_busybox(self, served: FakeApt, cache: ImageCache) -> None:
        ramdisk = cache.get("demo-initrd").path
        members = read(ramdisk.read_bytes())
        assert members["bin/ls"].data == b"busybox"
        assert members["bin/busybox"].data.startswith(b"#!/bin/sh")
        assert members["init"].mode & 0o111
        assert "init" in members
        assert served.calls("download") == 1

    def test_a_ramdisk_with_drivers(self, served: FakeApt, cache: ImageCache) -> None:
        members = read(cache.get("driver-initrd").path.read_bytes())
        assert members["lib/modules/00-xen-blkfront.ko"].data == b"blkfront"
        assert members["lib/modules/01-xen-netfront.ko"].data == b"netfront"
        assert not any("other" in name for name in members)
        # QEMU's drivers aren't in this kernel.
        without = read(cache.get("virtio-initrd").path.read_bytes())
        assert not any(name.endswith(".ko") for name in without)

    def test_a_new_kernel_builds_its_ramdisk_anew(self, served: FakeApt, cache: ImageCache) -> None:
        cache.get("driver-initrd")
        newer = KERNEL.replace("-9-", "-10-")
        served.package("linux-image-cloud-amd64", {}, f"{newer} (= 1.0)")
        files = {f"boot/{what}-6.1.0-10-cloud-amd64": b"new" for what in ("vmlinuz", "config")}
        served.package(newer, files)
        cache.get("debian-cloud", refresh=True)
        assert cache.cached("driver-initrd") is None
        members = read(cache.get("driver-initrd").path.read_bytes())
        assert not any(name.endswith(".ko") for name in members)

    def test_a_kernel_kept_without_its_modules_is_fetched_anew(
        self, served: FakeApt, cache: ImageCache
    ) -> None:
        path = cache.get("debian-cloud").path.parent / "image.json"
        manifest = json.loads(path.read_bytes())
        del manifest["modules"]
        path.write_text(json.dumps(manifest))
        assert cache.cached("debian-cloud") is None

    def test_libslirp_and_what_it_needs(
        self, served: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = "usr/lib/x86_64-linux-gnu"
        served.package(
            "libslirp0", {f"{folder}/libslirp.so.0.4.0": b"slirp"}, "libc6, libglib2.0-0t64 (>= 2)"
        )
        served.package("libglib2.0-0t64", {f"{folder}/libglib-2.0.so.0.7400.6": b"glib"})
        served.package("libpcre2-8-0", {f"{folder}/libpcre2-8.so.0.11.2": b"pcre"})
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        found = libslirp_files()
        assert [path.read_bytes() for path in found] == [b"pcre", b"glib", b"slirp"]
        assert found[-1].name == "libslirp.so.0.4.0"

    def test_a_changed_recipe_builds_anew_without_fetching(
        self, served: FakeApt, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.get("demo-initrd")
        monkeypatch.setattr(initrd, "recipe", lambda: "another")
        assert cache.cached("demo-initrd") is None
        cache.get("demo-initrd")
        assert cache.cached("demo-initrd") is not None
        assert served.calls("download") == 1

    def test_two_processes_fetch_once(self, served: FakeApt, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path\n"
            "from xenograft.toolstack.images.cache import ImageCache\n"
            f"print(ImageCache(Path({str(tmp_path / 'cache')!r})).get('debian-cloud').path)\n"
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-c", program],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=_environment(),
            )
            for _ in range(3)
        ]
        results = {process.communicate()[0] for process in running}
        assert [process.returncode for process in running] == [0, 0, 0]
        assert len(results) == 1
        assert served.calls("download") == 1

    def test_the_manifest_holds_checksums(self, served: FakeApt, cache: ImageCache) -> None:
        path = cache.get("busybox").path
        manifest = json.loads((path.parent / "image.json").read_text())
        assert len(manifest["files"]["binary"]["sha256"]) == 64


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean debian-cloud"):
        find("debian-clod")
    with pytest.raises(UserError, match="known are debian-cloud, debian"):
        find("zzzz")


def test_without_apt_there_is_no_libslirp(
    no_apt: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(LibraryMissing, match=r"needs libslirp \(Debian: package libslirp0\)"):
        libslirp_files()


def test_without_apt_a_file_is_suggested(no_apt: None, cache: ImageCache) -> None:
    with pytest.raises(UserError, match="--kernel"):
        cache.get("debian-cloud")


def test_an_unwritable_cache_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="can't keep image busybox"):
        ImageCache(blocked).get("busybox")


@pytest.mark.parametrize(("value", "expected"), [("/x", "/x"), ("", "~"), ("relative", "~")])
def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/home/someone")
    base = "/home/someone/.cache" if expected == "~" else expected
    assert cache_root() == Path(base) / "xenograft"


def test_catalogue_is_sound() -> None:
    for name, image in CATALOGUE.items():
        assert name == image.name
        made_here = bool(image.base or image.builder)
        assert made_here != bool(image.package and image.files)
        assert image.base is None or image.base in CATALOGUE


def test_host_kernels_are_sorted_by_version(tmp_path: Path) -> None:
    for version in ("6.1.0-9-amd64", "6.1.0-10-amd64", "5.10.0-30-amd64"):
        (tmp_path / f"vmlinuz-{version}").touch()
    (tmp_path / "initrd.img-6.1.0-9-amd64").touch()
    names = [path.name for path in host_kernels(tmp_path)]
    assert names == ["vmlinuz-5.10.0-30-amd64", "vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64"]


def test_default_kernel_without_apt(
    no_apt: None, cache: ImageCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = tmp_path / "vmlinuz-1"
    monkeypatch.setattr(cache_module, "host_kernels", lambda: [kernel])
    assert default_kernel(cache) == kernel
    monkeypatch.setattr(cache_module, "host_kernels", list)
    with pytest.raises(UserError, match="no kernel"):
        default_kernel(cache)


@needs_dpkg
def test_default_kernel_with_apt(served: FakeApt, cache: ImageCache) -> None:
    assert default_kernel(cache).read_bytes() == b"kernel"


@needs_dpkg
def test_a_file_goes_before_an_image_of_its_name(
    served: FakeApt, cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kernel_or_image("./debian-cloud", cache) == Path("debian-cloud")
    assert kernel_or_image("nosuch", cache) == Path("nosuch")
    assert kernel_or_image("debian-cloud", cache).read_bytes() == b"kernel"
    Path("debian-cloud").write_bytes(b"mine")
    assert kernel_or_image("debian-cloud", cache) == Path("debian-cloud")

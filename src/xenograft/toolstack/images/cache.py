# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of images: a directory per image, made whole or not at all.

An image is made in a temporary directory and renamed into place under a lock, so that an
interrupted fetch leaves nothing that looks finished, and two processes fetch once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xenograft.toolstack.errors import UserError, unknown
from xenograft.toolstack.images import backend_initrd, debian_root, initrd
from xenograft.toolstack.images.apt import Apt, Say, extract, have_apt, say_stderr
from xenograft.toolstack.images.catalogue import CATALOGUE, Image

_MANIFEST = "image.json"
MODULE = "module:"
"""How the roles of modules begin."""


def cache_root() -> Path:
    """Where the cache is: below $XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The base directory specification says to ignore a relative path.
    home = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return home / "xenograft"


@dataclass(frozen=True)
class Fetched:
    """An image in the cache: `files` maps role to path, the first role is the image itself."""

    name: str
    source: str
    version: str
    files: dict[str, Path]

    @property
    def path(self) -> Path:
        """The file that the image's name stands for."""
        return next(iter(self.files.values()))

    @property
    def modules(self) -> dict[str, Path]:
        """A kernel's modules, by name."""
        return {
            role.removeprefix(MODULE): path
            for role, path in self.files.items()
            if role.startswith(MODULE)
        }


def find(name: str) -> Image:
    """The catalogue's entry of a name; raises `UserError` that names the nearest one."""
    image = CATALOGUE.get(name)
    if image is None:
        raise UserError(unknown("image", name, CATALOGUE))
    return image


class ImageCache:
    """Images in a directory (the usual one by default)."""

    def __init__(self, root: Path | None = None, say: Say = say_stderr) -> None:
        self._root = cache_root() if root is None else root
        self._say = say

    def cached(self, name: str) -> Fetched | None:
        """The image if it's there whole, without fetching anything."""
        image = find(name)
        directory = self._root / "images" / name
        try:
            manifest = json.loads((directory / _MANIFEST).read_bytes())
            files = {role: directory / entry["file"] for role, entry in manifest["files"].items()}
            sizes = [entry["size"] for entry in manifest["files"].values()]
            if not files or [path.stat().st_size for path in files.values()] != sizes:
                return None
            # What's built here is built anew when its recipe changes, or its kernel.
            if manifest.get("recipe") != self._recipe(image):
                return None
            # An earlier version took other modules.
            if manifest.get("modules", []) != list(image.modules):
                return None
            return Fetched(name, manifest["source"], manifest["version"], files)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _recipe(self, image: Image) -> str | None:
        """Changes when what's built here would; None for what comes out of a package as it is."""
        if image.builder == "debian_root":
            return debian_root.recipe()
        if image.base is None:
            return None
        backend = image.builder == "backend_initrd"
        recipe = backend_initrd.recipe() if backend else initrd.recipe()
        kernel = None if image.kernel is None else self.cached(image.kernel)
        return recipe + ("" if kernel is None else f" {kernel.source} {kernel.version}")

    def get(self, name: str, refresh: bool = False) -> Fetched:
        """The image, fetched or built first if it isn't there, or if `refresh` says so."""
        image = find(name)
        if not refresh and (found := self.cached(name)):
            return found
        try:
            with self._locked(name):
                # Another process may have made it while this one waited.
                if not refresh and (found := self.cached(name)):
                    return found
                self._make(image, refresh)
        except OSError as error:
            raise UserError(f"can't keep image {name} in {self._root}: {error}") from None
        made = self.cached(name)
        if made is None:
            raise UserError(f"image {name} vanished from {self._root}: is it being cleaned?")
        return made

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        locks = self._root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self, image: Image, refresh: bool) -> None:
        images = self._root / "images"
        images.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{image.name}.", dir=images))
        try:
            made = work / "made"
            made.mkdir()
            if image.builder == "debian_root":
                source, version = "made by debootstrap", debian_root.SUITE
                files = debian_root.build(made, work, self._root, self._say)
            elif image.base is None:
                source, version, files = self._from_package(image, work, made)
            else:
                source, version, files = self._from_base(image, made, refresh)
            entries = {role: _describe(path) for role, path in files.items()}
            manifest: dict[str, object] = {"source": source, "version": version}
            manifest["files"] = entries
            if recipe := self._recipe(image):
                manifest["recipe"] = recipe
            if image.modules:
                manifest["modules"] = list(image.modules)
            (made / _MANIFEST).write_text(json.dumps(manifest, indent=1))
            final = images / image.name
            if final.exists():
                final.rename(work / "old")
            made.rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _from_package(
        self, image: Image, work: Path, made: Path
    ) -> tuple[str, str, dict[str, Path]]:
        if not have_apt():
            raise UserError(
                f"image {image.name} comes from Debian's packages, and apt isn't here: "
                "name a file instead, such as --kernel /boot/vmlinuz-..."
            )
        with self._locked(".apt"):
            apt = Apt(self._root / "apt", self._say)
            package = apt.resolve(image.package, image.follow)
            deb = apt.download(package, work / "deb")
            version = apt.show(package)["Version"]
        patterns = [pattern for _, pattern in image.files]
        written = extract(deb, [*patterns, *image.modules], made)
        files = {}
        for role, pattern in image.files:
            matches = [path for path in written if path.match(Path(pattern).name)]
            if len(matches) != 1:
                raise UserError(f"package {package} holds {len(matches)} files {pattern}, not one")
            files[role] = matches[0]
        for path in written:
            if ".ko" in path.suffixes:
                files[f"{MODULE}{path.name.partition('.')[0]}"] = path
        return package, version, files

    def _from_base(
        self, image: Image, made: Path, refresh: bool
    ) -> tuple[str, str, dict[str, Path]]:
        assert image.base is not None
        base = self.get(image.base, refresh)
        self._say(f"building {image.name}")
        target = made / f"{image.name}.cpio"
        modules: list[Path] = []
        if image.kernel is not None:
            kept = self.get(image.kernel, refresh).modules
            modules = [kept[name] for name in image.modules if name in kept]
        if image.builder == "backend_initrd":
            data = backend_initrd.build(base.path, modules, self._root, self._say)
        else:
            data = initrd.build(base.path, modules)
        target.write_bytes(data)
        return f"built from {base.source}", base.version, {"ramdisk": target}


def _describe(path: Path) -> dict[str, object]:
    """What the manifest says of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "size": path.stat().st_size, "sha256": digest}


def host_kernels(boot: Path = Path("/boot")) -> list[Path]:
    """Readable kernels of this machine itself, the newest version last."""

    def version(path: Path) -> list[tuple[int, str]]:
        fields = path.name.replace("-", ".").split(".")
        return [(int(field), "") if field.isdigit() else (-1, field) for field in fields]

    return sorted((p for p in boot.glob("vmlinuz-*") if os.access(p, os.R_OK)), key=version)


def kernel_or_image(text: str, cache: ImageCache) -> Path:
    """The file that `--kernel` or `--ramdisk` means: a path, or the name of an image."""
    path = Path(text)
    if "/" not in text and text in CATALOGUE and not path.exists():
        return cache.get(text).path
    return path


def default_kernel(cache: ImageCache) -> Path:
    """A kernel for who named none: Debian's, or where there's no apt, the host's own."""
    if (found := cache.cached("debian-cloud")) or have_apt():
        return (found or cache.get("debian-cloud")).path
    kernels = host_kernels()
    if not kernels:
        raise UserError(
            "no kernel: there's no apt to fetch Debian's, and no readable /boot/vmlinuz-*; "
            "name one with --kernel, or try xg demo --tiny"
        )
    return kernels[-1]

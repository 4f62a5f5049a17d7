# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening images by path and format, with everything behind them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from xenograft.backends.block.images.image import Image, ImageError, Storage
from xenograft.backends.block.images.nbd import NbdImage, is_nbd
from xenograft.backends.block.images.qcow2.header import INCOMPAT_DIRTY, MAGIC, parse_header
from xenograft.backends.block.images.qcow2.image import Qcow2Image
from xenograft.backends.block.images.qcow2.repair import rebuild_refcounts
from xenograft.backends.block.images.raw import RawImage

FORMATS = ("raw", "qcow2")

_HEADER = 1 << 16
_DEPTH = 64
_BEHIND = ": its backing file: "

Wrapper = Callable[[Storage], Storage]


def open_image(
    path: str, form: str = "raw", readonly: bool = False, *, wrap: Wrapper | None = None
) -> Image:
    """Open an image of a known format, locked against use by others.

    `path` may be an NBD URI (``nbd://host:port/name``, ``nbd+unix:///name?socket=PATH``).
    `wrap` may put something between the image and its file, as tests do.  Raises ImageError.
    """
    return _open(path, form, readonly, (), wrap)


def _open(
    path: str, form: str, readonly: bool, above: tuple[str, ...], wrap: Wrapper | None = None
) -> Image:
    if form not in FORMATS:
        raise ImageError(f"{path}: format {form} isn't supported; convert it with qemu-img")
    if is_nbd(path):
        if form != "raw":
            raise ImageError(f"{path}: only raw images are served over NBD")
        return NbdImage(path, readonly)
    storage: Storage = RawImage(path, readonly)
    if wrap is not None:
        storage = wrap(storage)
    if form == "raw":
        return storage
    try:
        return _open_qcow2(storage, readonly, above)
    except OSError as error:
        storage.close()
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except BaseException:
        storage.close()
        raise


def _open_qcow2(storage: Storage, readonly: bool, above: tuple[str, ...]) -> Image:
    path = storage.path
    header = parse_header(path, bytes(storage.read(0, min(_HEADER, storage.size))), storage.size)
    backing: Image | None = None
    if header.backing:
        backing = _open_backing(path, header.backing, header.backing_format, above)
    try:
        image = Qcow2Image(storage, header, backing, readonly)
        if header.incompatible & INCOMPAT_DIRTY and not readonly:
            rebuild_refcounts(image)
    except BaseException:
        if backing is not None:
            backing.close()
        raise
    return image


def _open_backing(path: str, name: str, form: str, above: tuple[str, ...]) -> Image:
    if not is_nbd(name):
        name = name.removeprefix("file:")
        if ":" in name.partition("/")[0]:
            raise ImageError(f"{path}: its backing file {name[:80]!r} is of an unknown kind")
        name = str(Path(path).parent / name)
    chain = (*above, os.path.realpath(path))
    if os.path.realpath(name) in chain:
        raise ImageError(f"{path}: its backing files go round in a circle")
    if len(chain) > _DEPTH:
        raise ImageError(
            f"{path}: more than {_DEPTH} images are in front of it; use qemu-img rebase"
        )
    try:
        return _open(name, form or probe(name), True, chain)
    except ImageError as error:
        # Of a long chain the ends are enough.
        raise ImageError(f"{path}{_BEHIND}{str(error).rpartition(_BEHIND)[2]}") from None


def probe(path: str) -> str:
    """ "qcow2" or "raw", by the first bytes.  Raises ImageError."""
    if is_nbd(path):
        return "raw"
    try:
        # Whatever it is, it isn't waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return "qcow2" if os.read(fd, len(MAGIC)) == MAGIC else "raw"
        finally:
            os.close(fd)
    except OSError as error:
        what = "there is no such image" if error.errno == errno.ENOENT else error.strerror
        raise ImageError(f"{path}: {what}") from None


def remote_parts(image: Image) -> list[NbdImage]:
    """The exports that an image consists of: what may be slow, or away, for ever."""
    if isinstance(image, NbdImage):
        return [image]
    if isinstance(image, Qcow2Image) and image.backing is not None:
        return remote_parts(image.backing)
    return []

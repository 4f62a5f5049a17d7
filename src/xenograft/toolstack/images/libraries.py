# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared libraries that can be had without root: unpacked into the image cache."""

from __future__ import annotations

from pathlib import Path

from xenograft.backends.net.libslirp import LibraryMissing
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import ImageCache

_LIBSLIRP = ("libpcre2", "libglib", "libslirp")
"""What user networking's library needs first, itself last."""


def libslirp_files() -> tuple[Path, ...]:
    """libslirp and what it needs, fetched if need be.  Raises LibraryMissing."""
    cache = ImageCache()
    try:
        return tuple(cache.get(name).path for name in _LIBSLIRP)
    except UserError as error:
        raise LibraryMissing(
            f"user networking needs libslirp (Debian: package libslirp0): {error}"
        ) from None

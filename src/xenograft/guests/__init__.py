# SPDX-License-Identifier: GPL-2.0-or-later
"""The tiny guests that come with Xenograft, built from `guests/` in the source tree.

``demo-64`` is the one that `xg demo` boots; the others are test guests, named
``<test>-<environment>`` where the environment is ``64`` (long mode), ``pae``, ``pse`` or ``flat``
(32-bit with and without paging).  Images are ELF files with Xen's PVH note, built by
`xenograft.guests.build` into this package's ``images`` folder and never committed.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["IMAGES", "GuestBuildError", "guest_path", "names"]

IMAGES = Path(__file__).parent / "images"
"""Where the built guests lie."""


class GuestBuildError(Exception):
    """A guest isn't there and could not be built; the text is one line that says why."""


def names() -> list[str]:
    """The guests that are built, sorted: ``["demo-64", ...]``."""
    return sorted(path.stem for path in IMAGES.glob("*.elf"))


def guest_path(name: str = "demo-64") -> Path:
    """The ELF file of a guest, built first where the sources are at hand and it's missing.

    Raises GuestBuildError for an unknown name, or when it can't be built.
    """
    path = IMAGES / f"{name}.elf"
    if not path.exists():
        from xenograft.guests.build import build

        build("demo" if name == "demo-64" else "all")
    if not path.exists():
        raise GuestBuildError(f"no guest is called {name!r}: known are {', '.join(names())}")
    return path

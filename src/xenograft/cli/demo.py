# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg demo`: a real guest with nothing to prepare."""

from __future__ import annotations

import sys
from typing import Any

import click

from xenograft.cli.run import guest_options

_LINUX = """\
Booting Debian's own kernel, unmodified, as a Xen PVH guest.
Its shell is busybox. exit or Ctrl-D powers off; Ctrl-] leaves at any time.
"""
_TINY = """\
Booting Xenograft's own guest, a PVH kernel of a few kilobytes.
help lists its commands; halt powers off; Ctrl-] leaves at any time.
"""


@click.command(short_help="Boot a demonstration guest to its shell.")
@click.option("--tiny", is_flag=True, help="The guest that comes with Xenograft, not Linux.")
@guest_options
def demo(tiny: bool, **options: Any) -> int:
    """Boot a demonstration guest to its shell.

    It's Debian's kernel for virtual machines, with a small busybox ramdisk, fetched through apt
    into a cache the first time.  Where that can't be had, the tiny guest that comes with
    Xenograft shows what Xen looks like from inside.  All options of `xg run` work here too.
    """
    from xenograft.cli.play import start
    from xenograft.toolstack.errors import UserError
    from xenograft.toolstack.images.cache import ImageCache

    if not tiny and options["kernel"] is None:
        cache = ImageCache()
        try:
            options["kernel"] = str(cache.get("debian-cloud").path)
            options["ramdisk"] = options["ramdisk"] or str(cache.get("demo-initrd").path)
        except UserError as error:
            print(f"xg: no Linux for the demonstration: {error}", file=sys.stderr)
            tiny = True
    if tiny:
        from xenograft.guests import guest_path

        options["kernel"] = str(guest_path("demo-64"))
        options["memory"] = options["memory"] or "32M"
    elif options["cmdline"] is None:
        options["cmdline"] = "console=hvc0 quiet loglevel=3" + _window()
    print(_TINY if tiny else _LINUX, file=sys.stderr, flush=True)
    return start(None, options)


def _window() -> str:
    """The demonstration ramdisk's parameter for the size of the terminal, which Xen's console
    has no way to tell."""
    from xenograft.cli.terminal import Terminal

    size = Terminal().size()
    return f" xg.tty={size[0]}x{size[1]}" if size else ""

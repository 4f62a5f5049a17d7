# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg screenshot`: what a domain's screen shows."""

from __future__ import annotations

from pathlib import Path

import click

from xenograft.cli.xl.base import ask, domain_argument
from xenograft.toolstack.errors import Failure


@click.command()
@domain_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png")
def screenshot(domain: str, file: Path) -> None:
    """Write what a domain's screen (vfb=) shows to a PNG file."""
    from xenograft.toolstack.service.messages import Screenshot

    picture = ask(Screenshot(domain))
    try:
        file.write_bytes(picture)
    except OSError as error:
        raise Failure(f"{file}: {error.strerror or error}") from None

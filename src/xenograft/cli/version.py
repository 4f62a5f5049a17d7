# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg version`: what a bug report should name."""

from __future__ import annotations

import json
import platform
from importlib import metadata

import click

import xenograft

_LIBRARIES = ("capstone", "pyelftools", "msgspec", "click")


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def version(as_json: bool) -> None:
    """Print the versions of Xenograft and of what it stands on."""
    record = {
        "xenograft": xenograft.__version__,
        "xen": "4.17",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{name: _installed(name) for name in _LIBRARIES},
    }
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        for key, value in record.items():
            click.echo(f"{key:12}{value}")

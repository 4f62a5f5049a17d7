# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg image`: guest kernels, tools and ramdisks by name."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from xenograft.toolstack.images.cache import Fetched, ImageCache, cache_root
from xenograft.toolstack.images.catalogue import CATALOGUE


def _record(name: str, fetched: Fetched | None) -> dict[str, Any]:
    record: dict[str, Any] = {"name": name, "summary": CATALOGUE[name].summary}
    record["cached"] = fetched is not None
    if fetched is not None:
        record |= {"source": fetched.source, "version": fetched.version, "path": str(fetched.path)}
        record["files"] = {role: str(path) for role, path in fetched.files.items()}
    return record


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in CATALOGUE if name.startswith(incomplete)]


@click.group()
def image() -> None:
    """Guest kernels, tools and ramdisks by name, kept in a cache.

    They come from Debian's packages through apt, with its checks, and without root.  The cache
    is $XDG_CACHE_HOME/xenograft (~/.cache/xenograft); it may be deleted at any time.
    """


@image.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_images(as_json: bool) -> None:
    """List the names that `xg image get` knows, and what is in the cache."""
    cache = ImageCache()
    records = [_record(name, cache.cached(name)) for name in CATALOGUE]
    if as_json:
        click.echo(json.dumps(records, indent=2))
        return
    width = max(map(len, CATALOGUE))
    versions = [record.get("version", "-") for record in records]
    column = max(map(len, versions))
    click.echo(f"{'NAME':{width}}  {'CACHED':{column}}  WHAT")
    for record, version in zip(records, versions, strict=True):
        click.echo(f"{record['name']:{width}}  {version:{column}}  {record['summary']}")
    click.echo(f"cache: {cache_root()}", file=sys.stderr)


@image.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array with all files.")
@click.option("--refresh", is_flag=True, help="Fetch anew, even if it's in the cache.")
def get(names: tuple[str, ...], as_json: bool, refresh: bool) -> None:
    """Fetch or build images, unless they're in the cache, and print their paths.

    \b
    Example:
      xg run --kernel "$(xg image get debian-cloud)" --ramdisk "$(xg image get demo-initrd)"
    """
    cache = ImageCache()
    fetched = [cache.get(name, refresh) for name in names]
    if as_json:
        records = [_record(one.name, one) for one in fetched]
        click.echo(json.dumps(records, indent=2))
    else:
        for one in fetched:
            click.echo(one.path)

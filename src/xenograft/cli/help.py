# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg help [COMMAND]`, as `xl help` has it."""

from __future__ import annotations

import click


@click.command(name="help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
def help_(words: tuple[str, ...]) -> None:
    """Print help about xg, or about a command."""
    from xenograft.cli.main import run

    raise click.exceptions.Exit(run([*words, "--help"]))

# SPDX-License-Identifier: GPL-2.0-or-later
"""A group of commands that are imported when they're used, and answers to what is mistyped."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import click

from xenograft.toolstack.errors import unknown


class Lazy(NamedTuple):
    """Where a command lives, and the line that `xg --help` shows for it."""

    module: str
    attribute: str
    summary: str
    section: str = "Commands"
    """Under which heading `xg --help` shows it."""


class LazyGroup(click.Group):
    """Commands are named in a table, so that `xg --help` and completion import none of them."""

    def __init__(self, *args: Any, table: dict[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if (entry := self._table.get(cmd_name)) is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but a name may be shortened, and an unknown one names the nearest."""
        if args and args[0] not in self._table and not args[0].startswith("-"):
            # As xl does, if there's just one that begins so.
            meant = [name for name in self._table if name.startswith(args[0])]
            if len(meant) != 1:
                raise click.UsageError(unknown("command", args[0], self._table), ctx)
            args = [*meant, *args[1:]]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, without importing what it names."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self._table.items():
            sections.setdefault(entry.section, []).append((name, entry.summary))
        for section, rows in sections.items():
            with formatter.section(section):
                if any(summary for _, summary in rows):
                    formatter.write_dl(rows)
                else:
                    # Names are kept whole: a hyphen is no place for a line to end.
                    indent = " " * formatter.current_indent
                    text = textwrap.fill(
                        ", ".join(name for name, _ in rows),
                        formatter.width,
                        initial_indent=indent,
                        subsequent_indent=indent,
                        break_on_hyphens=False,
                    )
                    formatter.write(text + "\n")


class Choice(click.Choice[str]):
    """A choice whose error names the nearest value."""

    def __init__(self, choices: Iterable[str], what: str) -> None:
        super().__init__(list(choices))
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value, if it's one of the choices."""
        if value not in self.choices:
            self.fail(unknown(self._what, str(value), self.choices), param, ctx)
        return str(value)

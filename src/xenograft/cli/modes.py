# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg modes`: the table of guest modes, and which tests prove it."""

from __future__ import annotations

import json
import textwrap

import click

from xenograft.observe.modes import KINDS, Kind, Row, records

_WIDTHS = (14, 28, 29, 22)
"""Columns of the title and of each kind; the names of PV's and PVH's tests are 28 and 29 long."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print an array with an object per cell.")
def modes(as_json: bool) -> None:
    """Print what each kind of guest is given, and by what means.

    Each cell of a kind that Xenograft runs names the test that asserts it inside a guest.
    """
    if as_json:
        click.echo(json.dumps(records(), indent=2))
        return
    click.echo("\n".join(table()))


def table() -> list[str]:
    """The table as lines of text, at most 99 columns wide."""
    lines = _line("", [_heading(kind) for kind in KINDS])
    lines.append("  ".join("-" * width for width in _WIDTHS))
    for index, row in enumerate(Row):
        if index:
            lines.append("")
        lines += _line(row.value, [_cell(kind, row) for kind in KINDS])
    return lines


def _heading(kind: Kind) -> str:
    return kind.title if kind.implemented else f"{kind.title} (not implemented)"


def _cell(kind: Kind, row: Row) -> str:
    cell = kind.cells[row]
    text = f"{cell.means.value}: {cell.detail}"
    test = kind.test(row)
    return f"{text}\n[{test}]" if test is not None else text


def _line(title: str, cells: list[str]) -> list[str]:
    """One row of the table, as many lines high as its longest cell."""
    columns = [
        [line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""]]
        for text, width in zip([title, *cells], _WIDTHS, strict=True)
    ]
    height = max(len(column) for column in columns)
    return [
        "  ".join(
            (column[i] if i < len(column) else "").ljust(width)
            for column, width in zip(columns, _WIDTHS, strict=True)
        ).rstrip()
        for i in range(height)
    ]

# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg sched-arinc653`: the schedules of ARINC 653 pools, which xl has no command for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xenograft.cli.xl.base import ask, json_option, print_json

if TYPE_CHECKING:
    from xenograft.toolstack.service.messages import TableRow


def table_lines(table: TableRow) -> list[str]:
    """A schedule, as the other schedulers' are shown."""
    from xenograft.toolstack.sched import show

    windows = [
        (one.domain or one.uuid or "(idle)", one.vcpu, one.start_ns, one.runtime_ns)
        for one in table.windows
    ]
    return show.sched_arinc653(table.pool, table.major_frame_ns, windows)


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("-p", "--cpupool", metavar="POOL", help="Of this pool alone.")
@click.option("-n", "--dryrun", is_flag=True, help="Only check FILE; print what it would load.")
@click.option(
    "-f", "--force", is_flag=True, help="Load it though a vCPU of the pool has no window."
)
@json_option
def sched_arinc653(
    file: str | None, cpupool: str | None, dryrun: bool, force: bool, as_json: bool
) -> None:
    """Show the schedules of ARINC 653 pools, or check FILE (TOML) and load it into a pool.

    Windows lie within the major frame, and each vCPU of each domain of the pool has one.
    """
    from msgspec import to_builtins

    from xenograft.toolstack.service.messages import GetTables, SetTable

    if file is None:
        tables: list[Any] = ask(GetTables(cpupool))
    else:
        from xenograft.toolstack.sched.description import read_text

        loaded = ask(SetTable(read_text(file), file, cpupool, force, dryrun))
        tables = [loaded] if dryrun or as_json else []
    if as_json:
        print_json(to_builtins(tables))
        return
    for table in tables:
        click.echo("\n".join(table_lines(table)))

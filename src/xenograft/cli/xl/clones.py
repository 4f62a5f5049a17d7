# SPDX-License-Identifier: GPL-2.0-or-later
"""Clones and moments: `xg fork`, `xg snapshot`, `xg rewind`."""

from __future__ import annotations

import click

from xenograft.cli.xl.base import ask, domain_argument, duration, print_json


@click.command()
@click.option("-n", "count", type=click.IntRange(1, 1000), help="How many clones [1].")
@click.option("--name", help="Name of the clone; with -n, what their names begin with.")
@click.option("-p", "paused", is_flag=True, help="Leave them paused.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@domain_argument
def fork(domain: str, count: int | None, name: str | None, paused: bool, as_json: bool) -> None:
    """Clone a running domain: memory and disks are shared until they're written.

    The clones are called DOMAIN-1, DOMAIN-2 …, and go on where the domain is.  Their network
    interfaces have addresses of their own.
    """
    from xenograft.toolstack.service.messages import ForkDomain

    made = ask(ForkDomain(domain, count, name, paused))
    if as_json:
        print_json([{"domid": one.domid, "name": one.name} for one in made])
        return
    for one in made:
        click.echo(f"{one.name} {one.domid}")


@click.command()
@click.option("-l", "--list", "listing", is_flag=True, help="List the domain's snapshots.")
@click.option("-d", "--delete", is_flag=True, help="Forget the snapshot NAME.")
@click.option("--json", "as_json", is_flag=True, help="With -l: print a JSON array.")
@domain_argument
@click.argument("name", required=False)
def snapshot(domain: str, name: str | None, listing: bool, delete: bool, as_json: bool) -> None:
    """Remember a domain as it is now, its disks too, for `xg rewind` to take it back to.

    Snapshots are in the service's memory, and go with the domain.  Without NAME they're
    numbered.
    """
    from xenograft.toolstack.service.messages import DropSnapshot, ListSnapshots, TakeSnapshot

    if listing:
        rows = ask(ListSnapshots(domain))
        if as_json:
            print_json([{"name": row.name, "age": row.age_ns / 1e9} for row in rows])
            return
        click.echo(f"{'Name':30s} Age")
        for row in rows:
            click.echo(f"{row.name:30s} {duration(row.age_ns)}")
    elif delete:
        if name is None:
            raise click.UsageError("name the snapshot to forget")
        ask(DropSnapshot(domain, name))
    else:
        click.echo(ask(TakeSnapshot(domain, name)))


@click.command()
@click.option("-p", "paused", is_flag=True, help="Leave it paused.")
@domain_argument
@click.argument("name", metavar="[SNAPSHOT]", required=False)
def rewind(domain: str, name: str | None, paused: bool) -> None:
    """Take a domain back to a snapshot (default: the latest): memory, disks, time.

    What has happened since is lost.  The domain has another number then, which is printed.
    """
    from xenograft.toolstack.service.messages import RewindDomain

    made = ask(RewindDomain(domain, name, paused))
    click.echo(f"{made.name} {made.domid}")

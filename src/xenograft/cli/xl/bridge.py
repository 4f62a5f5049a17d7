# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges of the service's machine: `xg bridge list | add | remove`."""

from __future__ import annotations

import click

from xenograft.cli.xl.base import ask, json_option, print_json


@click.group()
def bridge() -> None:
    """What guests' network interfaces are plugged into (vif = [ "bridge=lan" ])."""


@bridge.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List bridges, and who is on them."""
    from xenograft.toolstack.service.messages import ListBridges

    rows = ask(ListBridges())
    if as_json:
        print_json(
            [
                {
                    "name": row.name,
                    "mtu": row.mtu,
                    "uplink": row.uplink,
                    "restricted": row.restricted,
                    "interfaces": row.interfaces,
                }
                for row in rows
            ]
        )
        return
    click.echo(f"{'Name':15s} {'MTU':>5s} {'Uplink':15s} Interfaces")
    for row in rows:
        uplink = row.uplink + (",restrict" if row.restricted else "")
        click.echo(f"{row.name:15s} {row.mtu:5d} {uplink:15s} {' '.join(row.interfaces) or '-'}")


@bridge.command()
@click.argument("spec", metavar="NAME[,mtu=N][,uplink=none|user|tap:INTERFACE][,restrict]")
def add(spec: str) -> None:
    """Make a bridge: xg bridge add lan,mtu=9000

    It's there until the service stops.
    """
    from xenograft.toolstack.service.messages import AddBridge

    ask(AddBridge(spec))


@bridge.command()
@click.argument("name")
def remove(name: str) -> None:
    """Take a bridge away that nobody is plugged into."""
    from xenograft.toolstack.service.messages import RemoveBridge

    ask(RemoveBridge(name))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices: `block-*`, `network-*`, `cd-*`, and lists of the kinds that have no back end here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xenograft.cli.xl.base import (
    ask,
    complete_domain,
    domain_argument,
    json_option,
    print_json,
    service,
)
from xenograft.toolstack.errors import Failure, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xenograft.toolstack.service.messages import DeviceRow

_many = click.argument("domains", nargs=-1, required=True, shell_complete=complete_domain)


def titles(columns: str) -> str:
    """A header of columns, each as title:width; "_" is a blank.

    >>> titles("Idx:3 Mac_Addr.:10 x:1")
    'Idx Mac Addr.  x'
    """
    pairs = (column.rpartition(":") for column in columns.split())
    return " ".join(title.replace("_", " ").ljust(int(width)) for title, _, width in pairs)


def block_lines(rows: Iterable[DeviceRow]) -> list[str]:
    """The table of `xl block-list`."""
    lines = [titles("Vdev:5 BE:3 handle:6 state:5 evt-ch:6 ring-ref:8 BE-path:30")]
    for row in rows:
        lines.append(
            f"{row.devid:<5d} {row.backend_domid:<3d} {row.frontend_domid:<6d} {row.state:<5d}"
            f" {row.event_channel:<6d} {row.rings[0]:<8d} {row.backend:30s}"
        )
    return lines


def network_lines(rows: Iterable[DeviceRow]) -> list[str]:
    """The table of `xl network-list`."""
    lines = [
        titles("Idx:3 BE:2 Mac_Addr.:17 handle:6 state:5 evt-ch:6 __tx-/rx-ring-ref:17 BE-path:30")
    ]
    for row in rows:
        tx, rx = row.rings
        lines.append(
            f"{row.devid:<3d} {row.backend_domid:<2d} {row.nodes.get('mac', ''):17s}"
            f" {row.devid:5d} {row.state:5d} {row.event_channel:6d} {tx:5d}/{rx:<11d}"
            f" {row.backend:30s}"
        )
    return lines


def _list(
    domains: tuple[str, ...],
    kind: str,
    table: Callable[[Iterable[DeviceRow]], list[str]],
    as_json: bool,
) -> None:
    """The devices of one kind; a domain that isn't there is told of, and the others shown."""
    from xenograft.cli.xl.base import complain
    from xenograft.toolstack.service.messages import ListDevices

    rows: list[DeviceRow] = []
    missing = 0
    with service() as client:
        for domain in domains:
            try:
                found: list[DeviceRow] = client.call(ListDevices(domain, kind))
                rows += found
            except Failure as failure:
                missing += 1
                complain(str(failure))
    if as_json:
        print_json(
            [
                {
                    "devid": row.devid,
                    "domid": row.frontend_domid,
                    "backend_domid": row.backend_domid,
                    "state": row.state,
                    "event_channel": row.event_channel,
                    "rings": row.rings,
                    "backend": row.backend,
                    "error": row.error,
                    "nodes": row.nodes,
                }
                for row in rows
            ]
        )
    elif rows or not missing:
        click.echo("\n".join(table(rows)))
    if missing:
        raise click.exceptions.Exit(1)


@click.command()
@_many
@json_option
def block_list(domains: tuple[str, ...], as_json: bool) -> None:
    """List domains' disks."""
    _list(domains, "vbd", block_lines, as_json)


@click.command()
@_many
@json_option
def network_list(domains: tuple[str, ...], as_json: bool) -> None:
    """List domains' network interfaces."""
    _list(domains, "vif", network_lines, as_json)


@click.command()
@domain_argument
@click.argument("spec", nargs=-1, required=True, metavar="DISK-SPEC...")
def block_attach(domain: str, spec: tuple[str, ...]) -> None:
    """Plug a disk: xg block-attach web disk.img,raw,xvdb,rw"""
    from xenograft.cli.xl.configure import absolute_disk
    from xenograft.toolstack.config.disk import parse_disk
    from xenograft.toolstack.service.messages import AttachDisk

    try:
        disk = absolute_disk(parse_disk(",".join(spec)), Path.cwd())
    except UserError as error:
        raise Failure(str(error)) from None
    ask(AttachDisk(domain, disk))


@click.command()
@domain_argument
@click.argument("spec", nargs=-1, metavar="[KEY=VALUE]...")
def network_attach(domain: str, spec: tuple[str, ...]) -> None:
    """Plug a network interface: xg network-attach web bridge=xenbr0 mac=00:16:3e:00:00:09"""
    from xenograft.toolstack.config.vif import parse_vif
    from xenograft.toolstack.service.messages import AttachVif

    try:
        vif = parse_vif(",".join(spec))
    except UserError as error:
        raise Failure(str(error)) from None
    ask(AttachVif(domain, vif))


_force_option = click.option(
    "-f", "--force", is_flag=True, help="Don't wait for the guest to let go of it."
)


@click.command()
@_force_option
@domain_argument
@click.argument("device", metavar="DEVICE")
def block_detach(domain: str, device: str, force: bool) -> None:
    """Unplug a disk, by name (xvdb) or number."""
    from xenograft.toolstack.service.messages import DetachDevice

    ask(DetachDevice(domain, "vbd", device, force))


@click.command()
@_force_option
@domain_argument
@click.argument("device", metavar="NUMBER|MAC")
def network_detach(domain: str, device: str, force: bool) -> None:
    """Unplug a network interface, by number or MAC address."""
    from xenograft.toolstack.service.messages import DetachDevice

    ask(DetachDevice(domain, "vif", device, force))


@click.command()
@domain_argument
@click.argument("vdev")
@click.argument("path", type=click.Path())
def cd_insert(domain: str, vdev: str, path: str) -> None:
    """Put a medium into a guest's CD drive."""
    from xenograft.toolstack.service.messages import ChangeMedium

    ask(ChangeMedium(domain, vdev, str(Path(path).absolute())))


@click.command()
@domain_argument
@click.argument("vdev")
def cd_eject(domain: str, vdev: str) -> None:
    """Take the medium out of a guest's CD drive."""
    from xenograft.toolstack.service.messages import ChangeMedium

    ask(ChangeMedium(domain, vdev))


def channel_lines(rows: Iterable[DeviceRow]) -> list[str]:
    """The table of `xl channel-list`: the last column is the pty, or the socket's path."""
    lines = [titles("Idx:3 BE:2 state:5 evt-ch:6 ring-ref:8 connection:10 :30")]
    for row in rows:
        place = row.nodes.get("path") or row.tty
        lines.append(
            f"{row.devid:<3d} {row.backend_domid:<2d} {row.state:<5d} {row.event_channel:<6d}"
            f" {row.rings[0]:<8d} {row.nodes.get('connection', ''):10s} {place:30s}"
        )
    return lines


def vkb_lines(rows: Iterable[DeviceRow]) -> list[str]:
    """The table of `xl vkb-list`."""
    lines = [
        titles("Idx:3 BE:2 handle:6 state:5 evt-ch:6 ___ref:6 ID:10 BE-type:10 BE-path:30"),
    ]
    for row in rows:
        lines.append(
            f"{row.devid:<3d} {row.backend_domid:<2d} {row.devid:6d} {row.state:5d}"
            f" {row.event_channel:6d} {row.rings[0]:6d} {row.nodes.get('unique-id', ''):10s}"
            f" {row.nodes.get('backend-type', ''):10s} {row.backend:30s}"
        )
    return lines


@click.command()
@_many
@json_option
def channel_list(domains: tuple[str, ...], as_json: bool) -> None:
    """List domains' channels."""
    _list(domains, "console", channel_lines, as_json)


@click.command()
@_many
@json_option
def vkb_list(domains: tuple[str, ...], as_json: bool) -> None:
    """List domains' virtual keyboards."""
    _list(domains, "vkbd", vkb_lines, as_json)


@click.command()
@domain_argument
@click.argument("spec", nargs=-1, metavar="[KEY=VALUE]...")
def vkb_attach(domain: str, spec: tuple[str, ...]) -> None:
    """Plug a keyboard and pointer: xg vkb-attach web unique-id=desk width=1024 height=768"""
    from xenograft.toolstack.config.display import parse_vkb
    from xenograft.toolstack.service.messages import AttachVkb

    try:
        vkb = parse_vkb(",".join(spec))
    except UserError as error:
        raise Failure(str(error)) from None
    ask(AttachVkb(domain, vkb))


@click.command()
@_force_option
@domain_argument
@click.argument("device", metavar="NUMBER")
def vkb_detach(domain: str, device: str, force: bool) -> None:
    """Unplug a keyboard and pointer, by number."""
    from xenograft.toolstack.service.messages import DetachDevice

    ask(DetachDevice(domain, "vkbd", device, force))


_TITLES = {
    "vtpm": "Idx:3 BE:3 Uuid:36 handle:6 state:5 evt-ch:6 ring-ref:8 BE-path:30",
    "vdispl": "Vdev:5 BE:3 handle:6 state:5 evt-ch:6 ring-ref:8 BE-path:30",
    "vsnd": "Idx:3 BE:3 handle:6 state:5 evt-ch:6 ring-ref:8 BE-path:30",
}


def _other_list(kind: str, plural: str) -> click.Command:
    """The list of a kind that may be made by other hands, through the store."""

    def lines(rows: Iterable[DeviceRow]) -> list[str]:
        return [
            titles(_TITLES[kind]),
            *(
                f"{row.devid:<3d} {row.backend_domid:<3d} {row.frontend_domid:<6d}"
                f" {row.state:<5d} {row.event_channel:<6d} {row.rings[0]:<8d} {row.backend:30s}"
                for row in rows
            ),
        ]

    @click.command(name=f"{kind}-list", help=f"List domains' {plural}.")
    @_many
    @json_option
    def command(domains: tuple[str, ...], as_json: bool) -> None:
        _list(domains, kind, lines, as_json)

    return command


vtpm_list = _other_list("vtpm", "virtual TPMs")
vdispl_list = _other_list("vdispl", "virtual displays")
vsnd_list = _other_list("vsnd", "virtual sound cards")

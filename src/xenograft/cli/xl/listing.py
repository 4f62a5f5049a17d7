# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of domains: `list`, `vm-list`, `claims`, `sharing`, `uptime`, `domid`, `domname`.

The columns are those of xl 4.17, blank for blank.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from xenograft.cli.xl.base import (
    ask,
    domain_argument,
    domains_argument,
    duration,
    find_domain,
    json_option,
    print_json,
)
from xenograft.toolstack.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.toolstack.service.messages import DomainInfo

_LABEL = "-"
"""There's no security policy: no domain has a label."""


def list_lines(
    domains: Iterable[DomainInfo],
    *,
    verbose: bool = False,
    context: bool = False,
    claim: bool = False,
    numa: bool = False,
    pool: bool = False,
) -> list[str]:
    """The table of `xl list`."""
    header = f"{'Name':43s} ID   Mem VCPUs\tState\tTime(s)"
    if verbose:
        header += "   UUID                            Reason-Code\tSecurity Label"
    if context and not verbose:
        header += "   Security Label"
    if claim:
        header += "  Claimed"
    if pool:
        header += "         Cpupool"
    if numa:
        header += " NODE Affinity"
    lines = [header]
    for info in domains:
        line = (
            f"{info.name:40s} {info.domid:5d} {info.memory_kib >> 10:5d} {info.vcpus:5d}"
            f"     {info.state}  {info.cpu_time_ns / 1e9:8.1f}"
        )
        if verbose:
            reason = f"{info.shutdown_reason or 0:x}" if info.shutdown else "-"
            line += f" {info.uuid} {reason:>8s}"
        if verbose or context:
            line += f" {_LABEL:>16s}"
        if claim:
            line += f" {0:5d}"
        if pool:
            line += f" {info.pool:>15s}" if len(info.pool) < 16 else f" {info.pool}"
        if numa:
            line += " any node"
        lines.append(line)
    return lines


def as_object(info: DomainInfo) -> dict[str, Any]:
    """A domain for programs; sizes in MiB and times in seconds, as in the table."""
    return {
        "domid": info.domid,
        "name": info.name,
        "memory": info.memory_kib >> 10,
        "vcpus": info.vcpus,
        "state": info.state,
        "time": round(info.cpu_time_ns / 1e9, 1),
        "uuid": info.uuid,
        "type": info.kind,
        "maxmem": info.max_kib >> 10,
        "maxvcpus": info.max_vcpus,
        "shutdown_reason": info.shutdown_reason,
        "cpupool": info.pool,
        "uptime": round(info.age_ns / 1e9, 1),
    }


@click.command(name="list")
@click.option("-l", "--long", "long_", is_flag=True, help="All about them, as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="UUIDs, reasons of shutdown, labels too.")
@click.option("-Z", "--context", is_flag=True, help="Security labels too.")
@click.option("-c", "--cpupool", is_flag=True, help="The CPU pool of each too.")
@click.option("-n", "--numa", is_flag=True, help="NUMA affinity too.")
@json_option
@domains_argument
def list_(
    domains: tuple[str, ...],
    long_: bool,
    verbose: bool,
    context: bool,
    cpupool: bool,
    numa: bool,
    as_json: bool,
) -> None:
    """List domains: all, or those that are named.

    The letters of the state: r running, b blocked, p paused, s shut down, c crashed, d dying.
    """
    from xenograft.toolstack.service.messages import ListDomains

    if long_:
        _list_long(domains)
        return
    found = ask(ListDomains(list(domains)))
    if as_json:
        print_json([as_object(info) for info in found])
        return
    lines = list_lines(found, verbose=verbose, context=context, numa=numa, pool=cpupool)
    click.echo("\n".join(lines))


def _list_long(domains: tuple[str, ...]) -> None:
    from xenograft.cli.xl.base import service
    from xenograft.toolstack.config.libxl_json import control_domain_json, domain_json, dump
    from xenograft.toolstack.service.messages import GetConfigs, ListDomains

    with service() as client:
        infos = client.call(ListDomains(list(domains)))
        configs = {config.domid: config for config in client.call(GetConfigs(list(domains)))}
    click.echo(
        dump(
            [
                domain_json(found.config, info.domid, found.uuid, found.sched)
                if (found := configs.get(info.domid)) is not None
                else control_domain_json(info.name, info.domid, info.max_kib, info.memory_kib)
                for info in infos
            ]
        )
    )


@click.command()
@json_option
def vm_list(as_json: bool) -> None:
    """List domains by UUID."""
    from xenograft.toolstack.service.messages import ListDomains

    found = ask(ListDomains())
    if as_json:
        print_json([{"uuid": i.uuid, "domid": i.domid, "name": i.name} for i in found])
        return
    click.echo("UUID                                  ID    name")
    for info in found:
        click.echo(f"{info.uuid}  {info.domid:<4d} {info.name:30s}")


@click.command()
@json_option
def claims(as_json: bool) -> None:
    """List domains with the memory that is claimed for them, and not theirs yet."""
    from xenograft.toolstack.service.messages import ListDomains

    found = ask(ListDomains())
    if as_json:
        print_json([{**as_object(info), "claimed": 0} for info in found])
        return
    click.echo("\n".join(list_lines(found, claim=True)))


@click.command()
@json_option
@domains_argument
def sharing(domains: tuple[str, ...], as_json: bool) -> None:
    """Show how much of the domains' memory is shared."""
    from xenograft.toolstack.service.messages import ListDomains

    found = ask(ListDomains(list(domains)))
    if as_json:
        print_json(
            [
                {
                    "domid": info.domid,
                    "name": info.name,
                    "memory": info.memory_kib >> 10,
                    "shared": info.shared_kib >> 10,
                }
                for info in found
            ]
        )
        return
    click.echo(f"{'Name':43s} ID   Mem Shared")
    for info in found:
        memory, shared = info.memory_kib >> 10, info.shared_kib >> 10
        click.echo(f"{info.name:40s} {info.domid:5d} {memory:5d}  {shared:5d}")


@click.command()
@click.option("-s", "short", is_flag=True, help="In a line like uptime's, without seconds.")
@json_option
@domains_argument
def uptime(domains: tuple[str, ...], short: bool, as_json: bool) -> None:
    """Show how long domains have been running."""
    from xenograft.toolstack.service.messages import ListDomains

    found = ask(ListDomains(list(domains)))
    if as_json:
        print_json(
            [{"domid": i.domid, "name": i.name, "uptime": round(i.age_ns / 1e9, 1)} for i in found]
        )
        return
    if short:
        now = time.strftime("%H:%M:%S")
        for info in found:
            click.echo(f" {now} up {duration(info.age_ns, True)}, {info.name} ({info.domid})")
        return
    click.echo("Name                                ID Uptime")
    for info in found:
        click.echo(f"{info.name:33s} {info.domid:4d} {duration(info.age_ns)}")


@click.command()
@click.argument("name", metavar="DOMAIN-NAME")
def domid(name: str) -> None:
    """Print the number of the domain of a name."""
    from xenograft.toolstack.service.messages import ListDomains

    for info in ask(ListDomains()):
        if info.name == name:
            click.echo(info.domid)
            return
    raise Failure(f"Can't get domid of domain name '{name}', maybe this domain does not exist.")


@click.command()
@click.argument("number", metavar="DOMAIN-ID")
def domname(number: str) -> None:
    """Print the name of the domain of a number."""
    if not (number.isascii() and number.isdigit()):
        raise Failure("Invalid domain id.\n")
    try:
        click.echo(find_domain(number).name)
    except Failure:
        raise Failure(
            f"Can't get domain name of domain id '{number}', maybe this domain does not exist."
        ) from None


__all__ = ["claims", "domain_argument", "domid", "domname", "list_", "sharing", "uptime", "vm_list"]

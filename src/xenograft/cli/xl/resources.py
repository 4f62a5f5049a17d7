# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory and vCPUs: `mem-set`, `mem-max`, `vcpu-list`, `vcpu-set`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from xenograft.cli.xl.base import (
    ask,
    complain,
    domain_argument,
    domains_argument,
    find_domain,
    json_option,
    kib,
    print_json,
)
from xenograft.toolstack.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.toolstack.service.messages import VcpuInfo


@click.command()
@domain_argument
@click.argument("size")
def mem_set(domain: str, size: str) -> None:
    """Set a guest's memory target; its balloon driver follows. SIZE: 256, 256m, 1g."""
    from xenograft.toolstack.service.messages import SetMemory

    target = kib(size)
    info = find_domain(domain)
    try:
        ask(SetMemory(str(info.domid), target))
    except Failure as failure:
        complain(str(failure))
        raise Failure(f"cannot set domid {info.domid} dynamic max memory to : {size}") from None


@click.command()
@domain_argument
@click.argument("size")
def mem_max(domain: str, size: str) -> None:
    """Set how much memory a domain may have."""
    from xenograft.toolstack.service.messages import SetMaxMemory

    limit = kib(size)
    info = find_domain(domain)
    try:
        ask(SetMaxMemory(str(info.domid), limit))
    except Failure as failure:
        complain(str(failure))
        raise Failure(f"cannot set domid {info.domid} static max memory to : {size}") from None


def cpu_ranges(cpus: list[int] | None) -> str:
    """Physical CPUs as xl writes them: "all", "0-2,5", "none".

    >>> cpu_ranges([0, 1, 2, 5]), cpu_ranges(None)
    ('0-2,5', 'all')
    """
    if cpus is None:
        return "all"
    if not cpus:
        return "none"
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in ranges)


def vcpu_lines(vcpus: Iterable[VcpuInfo]) -> list[str]:
    """The table of `xl vcpu-list`."""
    lines = [
        f"{'Name':32s}  {'ID':>4s} {'VCPU':>5s} {'CPU':>5s} {'State':>5s}"
        f" {'Time(s)':>9s} Affinity (Hard / Soft)"
    ]
    for vcpu in vcpus:
        if vcpu.online:
            running, blocked = "r" if vcpu.running else "-", "b" if vcpu.blocked else "-"
            cpu, state = f"{vcpu.cpu:5d}", f"  {running}{blocked}-"
        else:
            cpu, state = f"{'-':>5s}", "  --p"
        hard, soft = cpu_ranges(vcpu.hard), cpu_ranges(vcpu.soft)
        lines.append(
            f"{vcpu.name:32s} {vcpu.domid:5d} {vcpu.vcpu:5d}{cpu} {state}"
            f" {vcpu.time_ns / 1e9:9.1f}  {hard} / {soft}"
        )
    return lines


@click.command()
@json_option
@domains_argument
def vcpu_list(domains: tuple[str, ...], as_json: bool) -> None:
    """List vCPUs: of all domains, or of those that are named."""
    from xenograft.toolstack.service.messages import ListVcpus

    found = ask(ListVcpus(list(domains)))
    if as_json:
        print_json(
            [
                {
                    "domid": vcpu.domid,
                    "name": vcpu.name,
                    "vcpu": vcpu.vcpu,
                    "cpu": vcpu.cpu,
                    "online": vcpu.online,
                    "running": vcpu.running,
                    "blocked": vcpu.blocked,
                    "time": round(vcpu.time_ns / 1e9, 1),
                    "hard_affinity": cpu_ranges(vcpu.hard),
                    "soft_affinity": cpu_ranges(vcpu.soft),
                }
                for vcpu in found
            ]
        )
        return
    click.echo("\n".join(vcpu_lines(found)))


@click.command()
@click.option("-i", "--ignore-host", is_flag=True, help="Allow more than the machine has CPUs.")
@domain_argument
@click.argument("count", metavar="VCPUS")
def vcpu_set(domain: str, count: str, ignore_host: bool) -> None:
    """Set how many of a guest's vCPUs are online; the guest follows."""
    from xenograft.toolstack.service.messages import SetVcpus

    if not (count.isascii() and count.isdigit()) or len(count) > 5:
        raise Failure("Error: Invalid argument.")
    ask(SetVcpus(domain, int(count), ignore_host))

# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as a whole: `info`, `dmesg`, `debug-keys`, `set-parameters`; and what is done to a
guest from outside: `trigger`, `sysrq`, `dump-core`, `button-press`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenograft.cli.group import Choice
from xenograft.cli.xl.base import ask, complain, domain_argument, print_json

if TYPE_CHECKING:
    from xenograft.toolstack.service.messages import HostInfo, NodeRow

_TRIGGERS = ("nmi", "reset", "init", "power", "sleep", "s3resume")


def info_rows(info: HostInfo, numa: bool) -> list[tuple[str, str]]:
    """The lines of `xl info` as (name, value); a name alone is a heading, its value the rest."""
    rows: list[tuple[str, Any]] = [
        ("host", info.host),
        ("release", info.release),
        ("version", info.version),
        ("machine", info.machine),
        ("nr_cpus", info.nr_cpus),
        ("max_cpu_id", info.max_cpu_id),
        ("nr_nodes", info.nr_nodes),
        ("cores_per_socket", info.cores_per_socket),
        ("threads_per_core", info.threads_per_core),
        ("cpu_mhz", f"{info.cpu_mhz:.3f}"),
        ("hw_caps", ":".join(f"{word:08x}" for word in info.hw_caps)),
        ("virt_caps", " ".join(info.virt_caps)),
        ("total_memory", info.total_memory_mib),
        ("free_memory", info.free_memory_mib),
        ("sharing_freed_memory", 0),
        ("sharing_used_memory", 0),
        ("outstanding_claims", 0),
        ("free_cpus", info.free_cpus),
    ]
    if numa:
        cpus = "".join(
            f"\n{cpu:3d}:    {one.core:4d}{one.socket:9d}{one.node:9d}"
            for cpu, one in enumerate(info.cpus)
        )
        memory = "".join(
            f"\n{node:4d}:{one.memory_mib:10d}{one.free_mib:11d}      {_distances(one)}"
            for node, one in enumerate(info.nodes)
        )
        rows += [
            ("cpu_topology           :", f"\ncpu:    core    socket     node{cpus}"),
            (
                "device topology        :",
                "\ndevice           node\nNo device topology data available",
            ),
            ("numa_info              :", f"\nnode:    memsize    memfree    distances{memory}"),
        ]
    rows += [
        ("xen_major", info.xen_major),
        ("xen_minor", info.xen_minor),
        ("xen_extra", info.xen_extra),
        ("xen_version", f"{info.xen_major}.{info.xen_minor}{info.xen_extra}"),
        ("xen_caps", info.xen_caps),
        ("xen_scheduler", info.xen_scheduler),
        ("xen_pagesize", info.xen_pagesize),
        ("platform_params", f"virt_start=0x{info.virt_start:x}"),
        ("xen_changeset", info.xen_changeset),
        ("xen_commandline", info.xen_commandline),
        ("cc_compiler", info.cc_compiler),
        ("cc_compile_by", info.cc_compile_by),
        ("cc_compile_domain", info.cc_compile_domain),
        ("cc_compile_date", info.cc_compile_date),
        ("build_id", info.build_id),
        ("xend_config_format", 4),
    ]
    return [(name, str(value)) for name, value in rows]


def _distances(node: NodeRow) -> str:
    """As xl's output_numainfo() writes them."""
    first, *others = node.distances or [0]
    return f"{first}" + "".join(f",{distance}" for distance in others)


@click.command()
@click.option("-n", "--numa", is_flag=True, help="The topology too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def info(numa: bool, as_json: bool) -> None:
    """Show what the machine is, and which Xen it runs."""
    from msgspec import to_builtins as builtins

    from xenograft.toolstack.service.messages import GetInfo

    found = ask(GetInfo())
    rows = info_rows(found, numa and not as_json)
    if as_json:
        more = (
            {"cpu_topology": builtins(found.cpus), "numa_info": builtins(found.nodes)}
            if numa
            else {}
        )
        print_json(dict(rows) | more)
        return
    for name, value in rows:
        click.echo(f"{name}{value}" if name.endswith(":") else f"{name:22s} : {value}")


@click.command()
@click.option("-c", "--clear", is_flag=True, help="Forget them, too.")
def dmesg(clear: bool) -> None:
    """Print the hypervisor's messages."""
    from xenograft.toolstack.service.messages import Dmesg

    click.echo(ask(Dmesg(clear)), nl=False)


@click.command()
@click.argument("keys")
def debug_keys(keys: str) -> None:
    """Have the hypervisor print what a debug key prints, into `xg dmesg` (h lists them)."""
    from xenograft.toolstack.service.messages import DebugKeys

    ask(DebugKeys(keys))


@click.command()
@click.argument("parameters")
def set_parameters(parameters: str) -> None:
    """Change the hypervisor's parameters at run time (none can be)."""
    from xenograft.toolstack.service.messages import SetParameters

    ask(SetParameters(parameters))


@click.command()
@domain_argument
@click.argument("trigger_", type=Choice(_TRIGGERS, "trigger"), metavar="|".join(_TRIGGERS))
@click.argument("vcpu", type=int, default=0)
def trigger(domain: str, trigger_: str, vcpu: int) -> None:
    """Send a trigger to a domain's vCPU."""
    from xenograft.toolstack.service.messages import Trigger

    ask(Trigger(domain, trigger_, vcpu))


@click.command()
@domain_argument
@click.argument("button", type=Choice(("power", "sleep"), "button"), metavar="power|sleep")
def button_press(domain: str, button: str) -> None:
    """Press an ACPI button (deprecated: see trigger)."""
    from xenograft.toolstack.service.messages import Trigger

    complain('WARNING: "button-press" is deprecated. Please use "trigger"')
    ask(Trigger(domain, button))


@click.command()
@domain_argument
@click.argument("letter")
def sysrq(domain: str, letter: str) -> None:
    """Send a magic SysRq key to a guest's kernel."""
    from xenograft.toolstack.service.messages import Sysrq

    ask(Sysrq(domain, letter))


@click.command()
@domain_argument
@click.argument("file", type=click.Path(dir_okay=False))
def dump_core(domain: str, file: str) -> None:
    """Write a domain's memory and registers to an ELF core file."""
    from xenograft.toolstack.service.messages import DumpCore

    ask(DumpCore(domain, str(Path(file).absolute())))

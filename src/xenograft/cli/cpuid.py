# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg cpuid`: what CPUID shows a guest, decoded."""

from __future__ import annotations

import json
from typing import Any

import click

from xenograft.arch.x86.cpuid.decode import describe, rows
from xenograft.arch.x86.cpuid.parse import CpuidSyntaxError, parse
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.cli.group import Choice
from xenograft.toolstack.errors import UserError

MAX_VCPUS = 128


@click.command()
@click.option(
    "--cpuid",
    "options",
    multiple=True,
    metavar="POLICY",
    help='As cpuid= of xl.cfg: "host,name=0,..." or "leaf:reg=bits"; may be repeated.',
)
@click.option(
    "--type",
    "kind",
    type=Choice(("pvh", "hvm", "pv"), "guest type"),
    default="pvh",
    help="Kind of guest [pvh].",
)
@click.option("--vcpus", type=click.IntRange(1, MAX_VCPUS), default=1, help="Size of the guest.")
@click.option("--vcpu", type=click.IntRange(0), default=0, help="Whose view to print [0].")
@click.option("--max", "maximum", is_flag=True, help="Start from all that guests may have.")
@click.option("--all", "show_all", is_flag=True, help="Name hidden features too, and why.")
@click.option("--raw", is_flag=True, help="Print the registers of every leaf.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def cpuid(
    options: tuple[str, ...],
    kind: str,
    vcpus: int,
    vcpu: int,
    maximum: bool,
    show_all: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """Print the CPUID that guests see."""
    if vcpu >= vcpus:
        raise UserError(f"--vcpu {vcpu}: the guest has {vcpus} vCPU(s), numbered from 0")
    try:
        edits = parse(options)
    except CpuidSyntaxError as error:
        raise UserError(str(error)) from None
    policy = CpuPolicy.make(hvm=kind != "pv", vcpus=vcpus, edits=edits, maximum=maximum)
    for name in policy.ignored:
        click.echo(f"xg: cpuid: {name} isn't available to this guest; left out", err=True)
    if as_json:
        click.echo(json.dumps(describe(policy, vcpu), indent=2))
    elif raw:
        click.echo(f"{'leaf':>10} {'subleaf':>8} -> {'eax':8} {'ebx':8} {'ecx':8} {'edx':8}")
        for leaf, subleaf, *registers in rows(policy, vcpu):
            values = " ".join(f"{value:08x}" for value in registers)
            click.echo(f"{leaf:#010x} {subleaf:8x} -> {values}")
    else:
        _print(describe(policy, vcpu), show_all)


def _print(record: dict[str, Any], show_all: bool) -> None:
    model = f"family {record['family']}, model {record['model']}, stepping {record['stepping']}"
    cache_texts = [
        f"L{cache['level']} {cache['type']} {cache['bytes'] >> 10} KiB"
        for cache in record["caches"]
    ]
    lines = {
        "vendor": record["vendor"],
        "brand": record["brand"],
        "model": model,
        "addresses": f"{record['physical_address_bits']} bits physical, "
        f"{record['linear_address_bits']} linear",
        "APIC id": str(record["apic_id"]),
        "TSC": f"{record['tsc_khz'] / 1000:g} MHz",
        "caches": ", ".join(cache_texts) or "none",
        "XCR0": f"{record['xcr0']:#x} ({record['xsave_bytes']} bytes)",
    }
    if record["arch_capabilities"]:
        lines["ARCH_CAPABILITIES"] = f"{record['arch_capabilities']:#x}"
    for title, value in lines.items():
        click.echo(f"{title:18}{value}")
    place = ""
    for feature in record["features"]:
        if not feature["shown"] and not show_all:
            continue
        if feature["leaf"] != place:
            place = feature["leaf"]
            click.echo(f"\n{place}")
        mark = " " if feature["shown"] else "-"
        text = f"{mark} {feature['bit']:2}  {feature['name']:17} {feature['description']}"
        if not feature["shown"] and feature["hidden_because"]:
            text += f" (hidden: {feature['hidden_because']})"
        click.echo(text)

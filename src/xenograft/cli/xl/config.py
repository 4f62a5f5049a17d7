# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg config check`: what a configuration means, without building anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenograft.cli.xl.base import complain, print_json
from xenograft.toolstack.errors import Failure, UserError

if TYPE_CHECKING:
    from xenograft.toolstack.build.guest import BuiltGuest
    from xenograft.toolstack.build.pv import PvPlan
    from xenograft.toolstack.config.domain import DomainConfig


@click.group()
def config() -> None:
    """Configurations of domains, CPU pools and xl itself."""


@config.command()
@click.argument("words", nargs=-1, required=True, metavar="FILE [KEY=VALUE]...")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", help="Form.")
@click.option(
    "--kind",
    type=click.Choice(["domain", "cpupool", "xl"]),
    default="domain",
    help="What it configures: a domain, a CPU pool, or xl itself (xl.conf) [domain].",
)
def check(words: tuple[str, ...], output: str, kind: str) -> None:
    """Explain what a configuration would build, without building it.

    Exit status 1 if it can't be built; warnings don't count.
    """
    try:
        report = _check(words, kind)
    except UserError as error:
        if output == "json":
            print_json({"ok": False, "error": str(error)})
            raise click.exceptions.Exit(1) from None
        raise Failure(str(error)) from None
    if output == "json":
        print_json({"ok": True, **report})
        return
    for warning in report["warnings"]:
        complain(f"xg: warning: {warning}")
    for line in report["lines"]:
        click.echo(line)


def _check(words: tuple[str, ...], kind: str) -> dict[str, Any]:
    import msgspec

    if kind == "domain":
        return _check_domain(words)
    if len(words) != 1:
        raise UserError("name one file")
    text = Path(words[0]).read_text(errors="replace") if Path(words[0]).is_file() else None
    if text is None:
        raise UserError(f"{words[0]}: no such file")
    if kind == "cpupool":
        from xenograft.toolstack.config.cpupool import parse_pool

        pool, warnings = parse_pool(text, words[0])
        lines = [f"pool      {pool.name}, scheduler {pool.sched or 'the default one'}"]
        if pool.cpus is not None:
            lines.append(f"cpus      {', '.join(str(cpu) for cpu in pool.cpus)}")
        return {"config": msgspec.to_builtins(pool), "warnings": warnings, "lines": lines}
    from xenograft.toolstack.config.xlconf import parse_conf

    conf, warnings = parse_conf(text, words[0])
    values = {key: value for key, value in msgspec.to_builtins(conf).items() if value}
    lines = [f"{key:20} {value}" for key, value in values.items()] or ["all defaults"]
    return {"config": values, "warnings": warnings, "lines": lines}


def _check_domain(words: tuple[str, ...]) -> dict[str, Any]:
    import msgspec

    from xenograft.cli.xl.configure import load_with_words
    from xenograft.toolstack.build.domain import build_domain
    from xenograft.toolstack.devices.disk import check_served

    warnings: list[str] = []
    found = load_with_words(words, None, warnings.append, quiet=True)
    for disk in found.disk:
        if not disk.backend:
            check_served(disk)
    warnings = [warning.removeprefix("xg: warning: ") for warning in warnings]
    built = build_domain(found)
    lines = [f"name      {found.name}", *_build_lines(built)]
    lines += _device_lines(found)
    lines += [
        f"{name:14} {getattr(found, name)}"
        for name in ("on_poweroff", "on_reboot", "on_crash", "on_watchdog", "on_soft_reset")
    ]
    return {
        "config": msgspec.to_builtins(found),
        "warnings": warnings,
        "build": {
            "entry": built.entry,
            "pages": built.pages,
            "loads": [
                {"address": address, "size": size, "what": what}
                for address, size, what in _loads(built)
            ],
        },
        "lines": lines,
    }


def _loads(built: BuiltGuest | PvPlan) -> list[tuple[int, int, str]]:
    """Address, size and name of what is put into the guest's memory from files."""
    return [
        (load[0], len(load[1]), "kernel or ramdisk")
        if isinstance(load, tuple)
        else (load.gpa, len(load.data), load.what)
        for load in built.loads
    ]


def _build_lines(built: BuiltGuest | PvPlan) -> list[str]:
    from xenograft.toolstack.build.guest import BuiltGuest

    if isinstance(built, BuiltGuest):
        return built.report().replace("kernel    kernel ", "kernel    ", 1).splitlines()
    lines = [
        f"guest     pv, {built.bits}-bit, {built.memory >> 20} MiB,"
        f" {built.online} of {built.vcpus} vCPUs",
        f"kernel    {built.kernel.name.removeprefix('kernel ')}",
        f"cmdline   {built.cmdline}",
        f"entry     {built.entry:#x}, start info at page {built.start_info:#x}",
        f"memory    {built.pages} pages",
        "loads",
    ]
    return lines + [
        f"  {address:#012x}-{address + size - 1:#012x}" for address, size, _ in _loads(built)
    ]


def _device_lines(found: DomainConfig) -> list[str]:
    lines = []
    for disk in found.disk:
        access = "read-only" if disk.readonly else "read and write"
        lines.append(
            f"disk      {disk.vdev} ({disk.device_number}): {disk.format}"
            f" {disk.target or '(empty drive)'}, {access}"
        )
    for index, vif in enumerate(found.vif):
        devid = index if vif.devid is None else vif.devid
        mac, bridge = vif.mac or "an address of its own", vif.bridge or "(default)"
        lines.append(f"vif       {devid}: {mac}, bridge {bridge}")
    return lines

# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg top`: what domains use, again and again (xentop)."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

from xenograft.cli.keys import left_within, single_keys
from xenograft.cli.xl.base import print_json, service

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xenograft.toolstack.service.messages import HostInfo, Usage

_HEADER = (
    "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS"
    " NETTX(k) NETRX(k) VBDS   VBD_OO   VBD_RD   VBD_WR  VBD_RSECT  VBD_WSECT SSID"
)


def xentop_state(state: str) -> str:
    """The state's letters in xentop's order: dying, shutdown, blocked, crashed, paused, running."""
    by_letter = {letter: letter for letter in state}
    return "".join(by_letter.get(letter, "-") for letter in "dsbcpr")


def top_lines(
    usages: Sequence[Usage],
    total_kib: int,
    before: Mapping[int, int],
    elapsed_ns: int,
    full: bool = False,
) -> list[str]:
    """The table; `before` has the CPU times (ns) of `elapsed_ns` ago, for the per cents."""
    lines = [_HEADER]
    for usage in usages:
        info = usage.domain
        used = info.cpu_time_ns - before.get(info.domid, info.cpu_time_ns)
        percent = 100 * used / elapsed_ns if elapsed_ns else 0.0
        name = info.name if full else info.name[:10]
        memory = 100 * info.memory_kib / total_kib
        limited = info.max_kib < 1 << 40 and info.max_kib > 0
        limit = f"{info.max_kib:10d}" if limited else f"{'no limit':>10s}"
        share = f"{100 * info.max_kib / total_kib:9.1f}" if limited else f"{'n/a':>9s}"
        lines.append(
            f"{name:>10s} {xentop_state(info.state)} {info.cpu_time_ns // 10**9:10d}"
            f" {percent:6.1f} {info.memory_kib:10d} {memory:6.1f} {limit} {share}"
            f" {info.vcpus:5d} {usage.networks:4d} {usage.net_tx >> 10:8d} {usage.net_rx >> 10:8d}"
            f" {usage.disks:4d} {usage.disk_busy:8d} {usage.disk_reads:8d} {usage.disk_writes:8d}"
            f" {usage.sectors_read:10d} {usage.sectors_written:10d} {0:4d}"
        )
    return lines


def summary_lines(usages: Sequence[Usage], info: HostInfo) -> list[str]:
    """What xentop shows above the table."""
    states = [usage.domain.state for usage in usages]
    counts = {
        "running": sum("r" in state for state in states),
        "blocked": sum("b" in state for state in states),
        "paused": sum("p" in state for state in states),
        "crashed": sum("c" in state for state in states),
        "dying": sum("d" in state for state in states),
        "shutdown": sum("s" in state for state in states),
    }
    total, free = info.total_memory_mib << 10, info.free_memory_mib << 10
    version = f"{info.xen_major}.{info.xen_minor}{info.xen_extra}"
    words = ", ".join(f"{count} {word}" for word, count in counts.items())
    return [
        f"xg top - {time.strftime('%H:%M:%S')}   Xen {version}",
        f"{len(usages)} domains: {words}",
        f"Mem: {total}k total, {total - free}k used, {free}k free    CPUs: {info.nr_cpus}"
        f" @ {info.cpu_mhz:.0f}MHz",
    ]


@click.command()
@click.option("-d", "--delay", type=click.FloatRange(0.1), default=3.0, help="Seconds between [3].")
@click.option("-b", "--batch", is_flag=True, help="Plain text, for files and pipes.")
@click.option("-i", "--iterations", type=click.IntRange(1), help="Stop after so many.")
@click.option("-f", "--full-name", is_flag=True, help="Whole names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, and stop.")
def top(delay: float, batch: bool, iterations: int | None, full_name: bool, as_json: bool) -> None:
    """Watch what domains use, until q."""
    import msgspec

    from xenograft.toolstack.service.messages import GetInfo, GetUsage

    plain = batch or not sys.stdout.isatty()
    interactive = not plain and sys.stdin.isatty()
    before: dict[int, int] = {}
    then = 0
    round_ = 0
    with service() as client, single_keys() if interactive else contextlib.nullcontext():
        while True:
            info, usages = client.call(GetInfo()), client.call(GetUsage())
            if as_json:
                print_json(msgspec.to_builtins(usages))
                return
            lines = top_lines(
                usages,
                info.total_memory_mib << 10,
                before,
                info.now_ns - then if then else 0,
                full_name,
            )
            if not plain:
                # Home, and clear what is below: no flicker.
                lines = [
                    f"\x1b[H\x1b[J{line}" if not i else line
                    for i, line in enumerate([*summary_lines(usages, info), "", *lines])
                ]
            click.echo("\n".join(lines))
            before = {usage.domain.domid: usage.domain.cpu_time_ns for usage in usages}
            then = info.now_ns
            round_ += 1
            if round_ == iterations or left_within(delay, interactive):
                return

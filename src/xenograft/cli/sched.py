# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg sched`: simulate, analyze, draw and check schedules, without any guest."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from xenograft.toolstack.sched.description import System
    from xenograft.toolstack.sched.run import Listener, Outcome

_FILE = click.argument("file", type=click.Path(dir_okay=False))


@click.group()
def sched() -> None:
    """Simulate, analyze, draw and check schedules described in a file.

    The file (TOML) has the machine's CPUs, pools and domains; what runs is the scheduling code
    of the hypervisor.  docs/scheduling.md explains the format.
    """


def _system(file: str) -> System:
    from xenograft.toolstack.sched.description import load, read_text

    return load(read_text(file), file)


def _run(file: str, duration: str | None, listener: Listener | None = None) -> Outcome:
    from xenograft.toolstack.sched.durations import parse_ns
    from xenograft.toolstack.sched.run import simulate

    length = None
    if duration is not None and (length := parse_ns(duration, "--duration")) <= 0:
        raise UserError(f"--duration {duration}; it has to be longer than 0")
    return simulate(_system(file), length, listener)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


@sched.command()
@_FILE
@click.option("--duration", metavar="TIME", help="How long [the file's, or 1s].")
@click.option("--xentrace", metavar="FILE", help="Write what ran in xentrace's format.")
@click.option("--json", "as_json", is_flag=True, help="Print an object instead of tables.")
def simulate(file: str, duration: str | None, xentrace: str | None, as_json: bool) -> int:
    """Run the system on the virtual clock; the exit status is 1 if a deadline was missed."""
    from xenograft.toolstack.sched.durations import show_ns

    if xentrace is None:
        outcome = _run(file, duration)
    else:
        from xenograft.observe.xentrace import XentraceWriter

        try:
            with XentraceWriter(Path(xentrace)) as writer:
                outcome = _run(file, duration, writer)
            if writer.error is not None:
                raise writer.error
        except OSError as error:
            raise UserError(f"{xentrace}: {error.strerror}") from None
    if as_json:
        import msgspec

        fields = ("duration", "decisions", "vcpus", "idle", "misses")
        value = msgspec.to_builtins(outcome)
        _print_json({field: value[field] for field in fields})
        return int(bool(outcome.misses))
    click.echo(
        f"{show_ns(outcome.duration)} on {len(outcome.idle)} CPUs, {outcome.decisions} decisions"
    )
    click.echo(
        f"{'Name':<20} {'VCPU':>4} {'Pool':<12} {'CPU time':>10} {'CPU(%)':>7} {'Jobs':>8}"
        f" {'Missed':>7} {'Worst':>10}"
    )
    for one in outcome.vcpus:
        click.echo(
            f"{one.domain:<20} {one.vcpu:>4} {one.pool:<12} {show_ns(one.cpu_time):>10}"
            f" {100 * one.share:>7.2f} {one.jobs:>8} {one.missed:>7}"
            f" {show_ns(one.worst_response):>10}"
        )
    for cpu, idle in enumerate(outcome.idle[:64]):
        click.echo(f"CPU {cpu} idle {100 * idle / outcome.duration:.2f} %")
    return int(bool(outcome.misses))


@sched.command()
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print an object instead of lines.")
def analyze(file: str | None, as_json: bool) -> int:
    """Tell whether all reservations can be kept, by tests from the literature.

    Of the pools in FILE, or without FILE of those that the host service has.  The exit status is
    1 if some can't be kept, or if no test decides.
    """
    from xenograft.cli import analysis as report
    from xenograft.toolstack.sched.run import analyze as run

    analysis = report.of_service() if file is None else run(_system(file))
    sure = all(report.schedulable for report in analysis.rtds.values())
    if as_json:
        _print_json(report.as_json(analysis))
        return int(not sure)
    for line in report.lines(analysis):
        click.echo(line)
    return int(not sure)


@sched.command()
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@click.option("-o", "--output", metavar="FILE", help="Write FILE.svg or FILE.png.")
@click.option("--from", "start", default="0s", metavar="TIME", help="Begin here [0s].")
@click.option("--to", "end", metavar="TIME", help="End here [the end].")
@click.option("--by", type=click.Choice(["vcpu", "cpu"]), default="vcpu", help="Rows [vcpu].")
@click.option("--width", type=click.IntRange(40, 20000), help="In pixels, or columns.")
@click.option("--live", is_flag=True, help="Draw on the terminal while it runs; q or Ctrl-C ends.")
@click.option("--window", default="1s", metavar="TIME", help="With --live: how much is shown [1s].")
@click.option(
    "--speed",
    type=click.FloatRange(0, 1000, min_open=True),
    default=1.0,
    help="With --live: of FILE's time against the clock's [1].",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.02, 60),
    default=0.2,
    help="With --live: seconds between charts [0.2].",
)
@click.option("--frames", type=click.IntRange(1), help="With --live: end after so many charts.")
def plot(
    file: str | None,
    output: str | None,
    start: str,
    end: str | None,
    by: Any,
    width: int | None,
    live: bool,
    window: str,
    speed: float,
    interval: float,
    frames: int | None,
) -> None:
    """Draw the schedule as it ran in a simulation of FILE: SVG, PNG, or text on the terminal.

    With --live the chart follows the simulation, or without FILE what the host service's guests
    do at the moment.  Missed deadlines are marked.
    """
    if live:
        from xenograft.cli import live as charts
        from xenograft.toolstack.sched.durations import parse_ns as parse

        if output is not None:
            raise UserError("--live draws on the terminal, and not into a file")
        if not 0 < (span := parse(window, "--window")) <= 60 * 10**9:
            raise UserError(f"--window {window}; it is longer than 0 and at most 60s")
        source = charts.of_service(span) if file is None else charts.simulated(file, speed, span)
        charts.show(source, span_ns=span, interval=interval, frames=frames, by=by)
        return
    if file is None:
        raise UserError(
            "name a FILE that describes a system, or give --live (xg sched plot --help)"
        )
    _plot(file, output, start, end, by, width)


def _plot(
    file: str, output: str | None, start: str, end: str | None, by: Any, width: int | None
) -> None:
    from xenograft.toolstack.sched import gantt
    from xenograft.toolstack.sched.durations import parse_ns

    first = parse_ns(start, "--from")
    suffix = None if output is None else Path(output).suffix.lower()
    if suffix not in (None, ".svg", ".png"):
        raise UserError(f"{output}: the picture is an .svg or a .png")
    outcome = _run(file, end)
    if not 0 <= first < outcome.duration:
        raise UserError(f"--from {start}: it has to be before the end")
    columns = width or (shutil.get_terminal_size().columns if output is None else 1200)
    picture = gantt.chart(
        outcome.segments,
        outcome.names,
        first,
        outcome.duration,
        title=Path(file).stem,
        misses=outcome.misses,
        by=by,
        width=columns if output is not None else columns * 8,
    )
    try:
        if output is None:
            click.echo("\n".join(gantt.to_text(picture, columns, colour=sys.stdout.isatty())))
        elif suffix == ".svg":
            Path(output).write_text(gantt.to_svg(picture, columns), encoding="utf-8")
        else:
            gantt.to_png(picture, Path(output), columns)
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}") from None


@sched.command()
@_FILE
def check(file: str) -> int:
    """Check a system, or an ARINC 653 schedule alone; a line for each thing that is wrong.

    The exit status is 1 if there is one.
    """
    from xenograft.toolstack.sched import arinc653
    from xenograft.toolstack.sched.description import read_text

    text = read_text(file)
    try:
        alone = "major_frame" in tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: {error}") from None
    if alone:
        table = arinc653.load(text, file)
        try:
            arinc653.spans(table)
            problems: list[str] = []
        except UserError as error:
            problems = [str(error)]
    else:
        problems = _system(file).check()
    for problem in problems:
        click.echo(f"{file}: {problem}", err=True)
    if not problems:
        click.echo(f"{file}: fine")
    return int(bool(problems))

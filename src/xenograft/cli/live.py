# SPDX-License-Identifier: GPL-2.0-or-later
"""A chart of the schedule that goes on while one looks: of the service, or of a simulation."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from xenograft.cli.keys import left_within, single_keys
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched import gantt
from xenograft.toolstack.sched.durations import show_ns
from xenograft.toolstack.sched.history import Miss, Segment

if TYPE_CHECKING:
    from rich.text import Text

    from xenograft.toolstack.sched.gantt import By


class Frame(NamedTuple):
    """What is shown at one moment: the window of time that ends at `now` (ns)."""

    now: int
    segments: Sequence[Segment]
    names: dict[int, str]
    misses: Sequence[Miss] = ()
    last: bool = False
    """Nothing comes after it."""


Source = Callable[[float], Frame]
"""The next frame, given the seconds that have passed since the one before."""


def frame_lines(
    frame: Frame, span_ns: int, columns: int, rows: int, *, by: By = "vcpu", colour: bool = False
) -> list[str]:
    """A frame in characters: each row with how busy it was, at most `rows` lines of `columns`."""
    start = frame.now - span_ns
    picture = gantt.chart(
        frame.segments,
        frame.names,
        start,
        frame.now,
        title=f"{show_ns(max(start, 0))} to {show_ns(frame.now)}",
        misses=frame.misses,
        by=by,
        width=columns * 8,
    )
    # There was nothing before the start.
    picture.ticks = [(at, label) for at, label in picture.ticks if start + at * span_ns >= -1]
    for row in picture.rows:
        busy = sum(bar.end - bar.start for bar in row.bars)
        row.label = f"{row.label[:18]:<18} {100 * busy:4.0f}%"
    lines = gantt.to_text(picture, columns, colour=colour)
    rows = max(rows, 4)
    if len(lines) > rows:
        # The axis stays.
        hidden = len(lines) - rows + 1
        lines = [*lines[: rows - 2], f"… {hidden} more", lines[-1]]
    lines[-1] = lines[-1][:columns].rstrip()
    late = len(frame.misses)
    return [lines[0] + (f"   {late} deadlines missed" if late else ""), *lines[1:]]


def simulated(file: str, speed: float, span_ns: int) -> Source:
    """Run a described system, `speed` times as fast as the host's time. Raises UserError."""
    from xenograft.toolstack.sched.description import load, read_text
    from xenograft.toolstack.sched.recent import Recent
    from xenograft.toolstack.sched.run import Simulation

    recent = Recent(span_ns)
    simulation = Simulation(load(read_text(file), file), recent.decided)
    sim = simulation.sim

    def following(seconds: float) -> Frame:
        end = min(sim.time + round(seconds * speed * 1e9), simulation.duration)
        sim.run(end)
        return Frame(
            end,
            recent.view(end),
            simulation.names,
            simulation.misses(),
            end == simulation.duration,
        )

    return following


def of_service(span_ns: int) -> Source:
    """What the host service's machine runs. Raises Failure, UserError."""
    from xenograft.cli.xl.base import service
    from xenograft.toolstack.service.messages import GetSchedule

    client = service()

    def following(_seconds: float) -> Frame:
        found = client.call(GetSchedule(span_ns))
        return Frame(found.now, [Segment(*one) for one in found.segments], found.names)

    return following


def show(source: Source, *, span_ns: int, interval: float, frames: int | None, by: By) -> None:
    """Draw frame after frame, until the source ends, q, Ctrl-C, or after so many `frames`.

    On a terminal the chart stands still and its last frame stays behind; elsewhere frames follow
    one another as text.
    """
    if sys.stdout.isatty():
        _show_on_terminal(source, span_ns, interval, frames, by)
        return
    if frames is None:
        raise UserError("--live draws on a terminal; --frames N writes N charts to a file or pipe")
    try:
        for number, frame in enumerate(_paced(source, interval, frames, interactive=False)):
            if number:
                click.echo()
            click.echo("\n".join(frame_lines(frame, span_ns, 100, 10_000, by=by)))
    except KeyboardInterrupt:
        return


def _show_on_terminal(
    source: Source, span_ns: int, interval: float, frames: int | None, by: By
) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def drawn(frame: Frame) -> Text:
        size = shutil.get_terminal_size()
        lines = frame_lines(frame, span_ns, size.columns, size.lines - 1, by=by, colour=True)
        return Text.from_ansi("\n".join(lines), no_wrap=True)

    text = Text()
    with (
        single_keys() as interactive,
        Live(text, console=Console(), auto_refresh=False, screen=True) as live,
    ):
        try:
            for frame in _paced(source, interval, frames, interactive=interactive):
                text = drawn(frame)
                live.update(text, refresh=True)
        except KeyboardInterrupt:
            pass
    Console().print(text)


def _paced(
    source: Source, interval: float, frames: int | None, *, interactive: bool
) -> Iterator[Frame]:
    then = time.monotonic()
    number = 0
    while True:
        now = time.monotonic()
        frame = source(now - then)
        then = now
        yield frame
        number += 1
        if frame.last or number == frames:
            return
        if left_within(max(interval - (time.monotonic() - now), 0.0), interactive):
            return

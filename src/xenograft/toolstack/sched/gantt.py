# SPDX-License-Identifier: GPL-2.0-or-later
"""Gantt charts of schedules: a picture is laid out once, and drawn as SVG, PNG or text.

A row for each vCPU (or physical CPU), a bar where it ran, a mark where a deadline was missed.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from xenograft.toolstack.sched.durations import show_ns
from xenograft.toolstack.sched.history import Miss, Segment

COLOURS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#edc948", "#76b7b2", "#9c755f", "#ff9da7",
    "#86bcb6", "#d4a6c8",
)  # fmt: skip
MISS_COLOUR = "#d00000"
_MARGIN, _RIGHT, _LABEL, _ROW, _BAR = 12, 32, 170, 26, 16
_AXIS = 34

Names = Mapping[int, str]
By = Literal["vcpu", "cpu"]


class Bar(msgspec.Struct, frozen=True):
    """Where something ran, in parts of the picture's width (0 to 1)."""

    start: float
    end: float
    colour: int
    title: str


class Row(msgspec.Struct):
    """One line of the chart."""

    label: str
    bars: list[Bar]
    misses: list[float]


class Chart(msgspec.Struct):
    """A chart of the time from `start` to `end` (ns)."""

    title: str
    start: int
    end: int
    rows: list[Row]
    ticks: list[tuple[float, str]]
    legend: list[tuple[str, int]]


def _ticks(start: int, end: int) -> list[tuple[float, str]]:
    """About ten round times."""
    step = 1
    while (end - start) / step > 10:
        digits = str(step)
        step = step * 2 if digits[0] in "15" else step * 5 // 2
    first = -(-start // step) * step
    return [((time - start) / (end - start), show_ns(time)) for time in range(first, end + 1, step)]


def chart(
    segments: Iterable[Segment],
    names: Names,
    start: int,
    end: int,
    *,
    title: str = "",
    misses: Iterable[Miss] = (),
    by: By = "vcpu",
    width: int = 1200,
) -> Chart:
    """Lay out the time from `start` to `end`; bars narrower than a pixel run together."""
    span = max(end - start, 1)
    least = 1 / (2 * width)
    rows: dict[tuple[int, int], Row] = {}
    order = {domid: index for index, domid in enumerate(sorted(names))}
    several = dict.fromkeys(names, 0)
    chosen: list[Segment] = []
    for one in segments:
        if one.end > start and one.start < end:
            chosen.append(one)
            if one.domid in several:
                several[one.domid] = max(several[one.domid], one.vcpu)
    late = [miss for miss in misses if start <= miss.deadline <= end]

    def row_of(domid: int, vcpu: int, cpu: int) -> Row:
        key = (domid, vcpu) if by == "vcpu" else (0, cpu)
        if key not in rows:
            name = names.get(domid, f"d{domid}")
            label = f"CPU {cpu}" if by == "cpu" else name
            if by == "vcpu" and several.get(domid):
                label += f" v{vcpu}"
            rows[key] = Row(label, [], [])
        return rows[key]

    last_cpu: dict[tuple[int, int], int] = {}
    for one in sorted(chosen, key=lambda item: item.start):
        last_cpu[one.domid, one.vcpu] = one.cpu
        row = row_of(one.domid, one.vcpu, one.cpu)
        left = max(one.start - start, 0) / span
        right = min(one.end - start, span) / span
        colour = order.get(one.domid, one.domid) % len(COLOURS)
        before = row.bars[-1] if row.bars else None
        if before is not None and before.colour == colour and left - before.end < least:
            row.bars[-1] = Bar(before.start, max(right, before.end), colour, before.title)
            continue
        who = f"{names.get(one.domid, f'd{one.domid}')} v{one.vcpu} on CPU {one.cpu}"
        row.bars.append(Bar(left, right, colour, f"{who}: {show_ns(one.start)}"))
    for miss in late:
        cpu = last_cpu.get((miss.domid, miss.vcpu), 0)
        row_of(miss.domid, miss.vcpu, cpu).misses.append((miss.deadline - start) / span)
    legend = [(names[domid], order[domid] % len(COLOURS)) for domid in sorted(names)]
    ordered = [rows[key] for key in sorted(rows)]
    return Chart(title, start, end, ordered, _ticks(start, end), legend)


# -- SVG -------------------------------------------------------------------------------------------
def to_svg(picture: Chart, width: int = 1200) -> str:
    """The chart as an SVG document."""
    inner = width - _LABEL - _MARGIN - _RIGHT
    height = 2 * _MARGIN + 24 + len(picture.rows) * _ROW + _AXIS
    top = _MARGIN + 24
    x0 = _MARGIN + _LABEL
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN + 10}" font-size="14">'
        f"{html.escape(picture.title)}</text>",
    ]
    bottom = top + len(picture.rows) * _ROW
    for at, label in picture.ticks:
        x = x0 + at * inner
        out.append(f'<line x1="{x:.2f}" y1="{top}" x2="{x:.2f}" y2="{bottom}" stroke="#dddddd"/>')
        out.append(f'<text x="{x:.2f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    for index, row in enumerate(picture.rows):
        y = top + index * _ROW
        out.append(f'<text x="{_MARGIN}" y="{y + 17}">{html.escape(row.label)}</text>')
        out += [
            f'<rect x="{x0 + bar.start * inner:.2f}" y="{y + 5}"'
            f' width="{max((bar.end - bar.start) * inner, 0.5):.2f}" height="{_BAR}"'
            f' fill="{COLOURS[bar.colour]}"><title>{html.escape(bar.title)}</title></rect>'
            for bar in row.bars
        ]
        out += [
            f'<path d="M {x0 + at * inner:.2f} {y + 12} l -5 -9 h 10 z" fill="{MISS_COLOUR}">'
            "<title>deadline missed</title></path>"
            for at in row.misses
        ]
    out.append("</svg>\n")
    return "\n".join(out)


# -- PNG -------------------------------------------------------------------------------------------
def to_png(picture: Chart, path: Path, width: int = 1200) -> None:
    """The same as a PNG file."""
    from PIL import Image, ImageDraw, ImageFont

    inner = width - _LABEL - _MARGIN - _RIGHT
    height = 2 * _MARGIN + 24 + len(picture.rows) * _ROW + _AXIS
    image = Image.new("RGB", (width, height), "#ffffff")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12)
    top, x0 = _MARGIN + 24, _MARGIN + _LABEL
    bottom = top + len(picture.rows) * _ROW
    draw.text(
        (_MARGIN, _MARGIN - 4), picture.title, fill="#000000", font=ImageFont.load_default(14)
    )
    for at, label in picture.ticks:
        x = x0 + at * inner
        draw.line((x, top, x, bottom), fill="#dddddd")
        draw.text((x, bottom + 4), label, fill="#000000", font=font, anchor="ma")
    for index, row in enumerate(picture.rows):
        y = top + index * _ROW
        draw.text((_MARGIN, y + 5), row.label, fill="#000000", font=font)
        for bar in row.bars:
            left = x0 + bar.start * inner
            right = max(x0 + bar.end * inner, left + 1) - 1
            draw.rectangle((left, y + 5, right, y + 4 + _BAR), fill=COLOURS[bar.colour])
        for at in row.misses:
            x = x0 + at * inner
            draw.polygon([(x - 5, y + 3), (x + 5, y + 3), (x, y + 12)], fill=MISS_COLOUR)
    image.save(path, "PNG")


# -- text ------------------------------------------------------------------------------------------
_BLOCKS = " ▏▎▍▌▋▊▉█"


def to_text(picture: Chart, width: int = 100, *, colour: bool = False) -> list[str]:
    """The chart in characters: a fuller block is a cell that was busy for longer, `!` a miss."""
    label = min(max((len(row.label) for row in picture.rows), default=0), 24)
    cells = max(width - label - 2, 10)
    lines = [picture.title] if picture.title else []
    for row in picture.rows:
        busy = [0.0] * cells
        shade = [0] * cells
        for bar in row.bars:
            _spread(bar, busy, shade)
        marks = {min(int(at * cells), cells - 1) for at in row.misses}
        text = ""
        for cell in range(cells):
            if cell in marks:
                text += _paint("!", "31;1", colour)
            else:
                block = _BLOCKS[min(round(busy[cell] * 8), 8)]
                text += _paint(block, str(31 + shade[cell] % 6), colour and block != " ")
        lines.append(f"{row.label[:label]:<{label}} |{text}")
    axis = [" "] * (cells + 8)
    for at, name in picture.ticks:
        cell = int(at * cells)
        if cell + len(name) <= len(axis) and all(
            c == " " for c in axis[max(cell - 1, 0) : cell + 1]
        ):
            axis[cell : cell + len(name)] = name
    lines.append(" " * (label + 2) + "".join(axis).rstrip())
    return lines


def _spread(bar: Bar, busy: Sequence[float] | list[float], shade: list[int]) -> None:
    assert isinstance(busy, list)
    cells = len(busy)
    left, right = bar.start * cells, bar.end * cells
    cell = int(left)
    while cell < cells and cell < right:
        part = min(right, cell + 1) - max(left, cell)
        busy[cell] += part
        if part > 0:
            shade[cell] = bar.colour
        cell += 1


def _paint(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text

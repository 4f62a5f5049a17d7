# SPDX-License-Identifier: GPL-2.0-or-later
"""Charts show where vCPUs ran and what was late."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from xenograft.toolstack.sched import gantt
from xenograft.toolstack.sched.history import DOMID_IDLE, History, Miss, Segment

SVG = "{http://www.w3.org/2000/svg}"
NAMES = {1: "a<b", 2: "two"}
SEGMENTS = [Segment(0, 1, 0, 0, 500), Segment(1, 2, 0, 250, 1000), Segment(0, 2, 1, 500, 600)]


def picture(by: gantt.By = "vcpu", **more: object) -> gantt.Chart:
    misses = [Miss(2, 0, 750), Miss(1, 0, 5000)]
    return gantt.chart(SEGMENTS, NAMES, 0, 1000, title="t", misses=misses, by=by)


def test_rows_are_vcpus_or_cpus() -> None:
    assert [row.label for row in picture().rows] == ["a<b", "two v0", "two v1"]
    assert [row.label for row in picture("cpu").rows] == ["CPU 0", "CPU 1"]
    assert [len(row.bars) for row in picture("cpu").rows] == [2, 1]


def test_bars_and_misses_are_in_their_places() -> None:
    one, two, _ = picture().rows
    assert (one.bars[0].start, one.bars[0].end) == (0.0, 0.5)
    assert two.misses == [0.75]
    assert one.misses == []


def test_svg_is_wellformed_and_complete() -> None:
    root = ElementTree.fromstring(gantt.to_svg(picture()))
    bars = [r for r in root.iter(f"{SVG}rect") if r.find(f"{SVG}title") is not None]
    assert len(bars) == 3
    assert len(list(root.iter(f"{SVG}path"))) == 1
    inner = 1200 - 170 - 12 - 32
    assert float(bars[0].get("width", 0)) == inner / 2
    assert "a<b" in [text.text for text in root.iter(f"{SVG}text")]


def test_png(tmp_path: Path) -> None:
    from PIL import Image

    gantt.to_png(picture(), tmp_path / "x.png", 600)
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (600, 2 * 12 + 24 + 3 * 26 + 34)
        colours = {image.convert("RGB").getpixel((182 + x, 50)) for x in (5, 150, 250)}
    assert (0x4E, 0x79, 0xA7) in colours
    assert (255, 255, 255) in colours


def test_text() -> None:
    lines = gantt.to_text(picture(), 29)
    assert lines[:4] == [
        "t",
        "a<b    |██████████▌          "[: 8 + 21],
        "two v0 |     ▊█████████!█████",
        "two v1 |          ▌█▋        "[: 8 + 21],
    ]


def test_little_bars_run_together() -> None:
    many = [Segment(0, 1, 0, t, t + 1) for t in range(0, 100_000, 2)]
    (row,) = gantt.chart(many, NAMES, 0, 100_000, width=100).rows
    assert len(row.bars) == 1


def test_a_history_has_no_gaps_and_no_overlaps() -> None:
    history = History()
    for event in ((0, 0, 1, 0), (5, 0, 2, 0), (9, 0, DOMID_IDLE, 0), (12, 0, 1, 0), (12, 0, 2, 1)):
        history.sched_decision(*event)
    assert history.close(20) == [
        Segment(0, 1, 0, 0, 5),
        Segment(0, 2, 0, 5, 9),
        Segment(0, 2, 1, 12, 20),
    ]

# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg sched plot --live`: charts that go on, and end cleanly."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from xenograft.cli.live import Frame, frame_lines
from xenograft.cli.main import run
from xenograft.toolstack.sched.history import Miss, Segment

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DASHBOARD = str(EXAMPLES / "dashboard.toml")
XG = (sys.executable, "-c", "from xenograft.cli.main import main; main()")
MS = 1_000_000


def test_a_frame_shows_the_window_that_ends_now() -> None:
    segments = [Segment(0, 1, 0, 0, 150 * MS), Segment(0, 2, 0, 150 * MS, 200 * MS)]
    frame = Frame(200 * MS, segments, {1: "web", 2: "db"}, [Miss(2, 0, 180 * MS)])
    title, web, db, axis = frame_lines(frame, 100 * MS, 80, 24)
    assert title == "100ms to 200ms   1 deadlines missed"
    assert web.split()[:2] == ["web", "50%"]
    assert db.split()[:2] == ["db", "50%"]
    assert "!" in db
    assert axis.split()[0] == "100ms"
    assert max(map(len, (title, web, db, axis))) <= 80


def test_what_does_not_fit_is_counted() -> None:
    segments = [Segment(0, number, 0, number, number + 1) for number in range(30)]
    frame = Frame(30, segments, {number: f"d{number}" for number in range(30)})
    lines = frame_lines(frame, 30, 80, 10)
    assert len(lines) == 10
    assert lines[-2] == "… 23 more"


def test_charts_of_a_simulation_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--live", "--frames", "3", "--interval", "0.05", "--speed", "2"]
    assert run(["sched", "plot", DASHBOARD, *words]) == 0
    charts = capsys.readouterr().out.split("\n\n")
    assert len(charts) == 3
    assert [line.split()[0] for line in charts[-1].splitlines()[1:4]] == [
        "infotainment", "infotainment", "infotainment"
    ]  # fmt: skip
    # It's the schedule that goes on: the cluster has run by now.
    busy = re.search(r"cluster +(\d+)%", charts[-1])
    assert busy is not None
    assert int(busy[1]) > 0


def test_it_ends_with_the_simulation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('machine = { duration = "30ms" }\n[[domain]]\nname = "d"\n')
    assert (
        run(["sched", "plot", str(path), "--live", "--frames", "1000", "--interval", "0.02"]) == 0
    )
    assert "to 30ms" in capsys.readouterr().out.split("\n\n")[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--live"], "--live draws on a terminal; --frames N"),
        (["--live", "-o", "x.svg"], "and not into a file"),
        (["--live", "--window", "0s"], "longer than 0"),
        (["--live", "--window", "2h"], "isn't a time"),
        (["--live", "--speed", "0"], "speed"),
    ],
)
def test_what_is_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sched", "plot", DASHBOARD, *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_file_or_live(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sched", "plot"]) == 2
    assert "or give --live" in capsys.readouterr().err


@pytest.mark.parametrize("key", [b"\x03", b"q"])
def test_a_key_ends_it_and_the_terminal_is_as_before(key: bytes) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    before = termios.tcgetattr(follower)
    try:
        process = subprocess.Popen(
            [*XG, "sched", "plot", DASHBOARD, "--live", "--speed", "0.01"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm"},
            # Ctrl-C is a signal for those whose terminal it is.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        shown = b""
        while b"cluster" not in shown:
            shown += os.read(leader, 65536)
        os.write(leader, key)
        while b"\x1b[?1049l" not in shown or b"\x1b[?25h" not in shown:
            shown += os.read(leader, 65536)
        assert process.wait(30) == 0
        assert termios.tcgetattr(follower) == before
    finally:
        os.close(leader)
        os.close(follower)
    # The last chart stays behind, and nothing complains.
    assert b"Traceback" not in shown

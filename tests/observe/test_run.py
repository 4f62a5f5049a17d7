# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg run` with observers, on the guest that the package carries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import xenograft
from tests.observe.test_trace import Read

GUEST = Path(xenograft.__file__).parent / "guests" / "images" / "demo-64.elf"
MAIN = "import sys; from xenograft.cli.main import main; sys.exit(main())"

pytestmark = pytest.mark.skipif(not GUEST.exists(), reason="the guest isn't built")


def xg_run(*options: str) -> tuple[int, str]:
    """Exit status and standard error of a run on the virtual clock."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "run", "--kernel", str(GUEST), "--clock", "virtual", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


def test_log_trace_and_stats_of_a_real_guest(tmp_path: Path) -> None:
    path = tmp_path / "run.perfetto"
    status, text = xg_run("--log", "hypercalls", "--stats", "--trace", str(path))
    assert status == 0, text
    assert "sched_op(SCHEDOP_shutdown, {reason=SHUTDOWN_poweroff}) = 0" in text
    assert "event_channel_op.EVTCHNOP_send" in text
    found = Read(path.read_bytes())
    found.check_slices()
    # Every line of the log is a slice of the trace.
    lines = [line for line in text.splitlines() if ") = " in line and "d1v0" in line]
    slices = [event for event in found.events if "hypercall" in event["categories"]]
    assert len(slices) == len(lines) > 10


def test_logs_of_two_runs_are_the_same() -> None:
    first = xg_run("--log", "hypercalls", "--log", "exits", "--log", "injections")
    assert first == xg_run("--log", "hypercalls", "--log", "exits", "--log", "injections")
    assert "exit HYPERCALL" in first[1]


def test_bad_options_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    status, text = xg_run("--trace", str(path), "--log", "frob")
    assert status == 2
    assert text.count("\n") == 1
    assert "frob" in text
    status, text = xg_run("--trace", str(path), "--ramdisk", str(tmp_path / "missing"))
    assert status == 2
    assert not path.exists()

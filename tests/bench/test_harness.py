# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmarks compute: ratios, verdicts, times of lines. Nothing is measured here."""

from __future__ import annotations

import sys

import pytest
from bench.__main__ import table
from bench.harness import OURS, Result, alternate, peers, timed
from bench.memory import proportional
from bench.work import WORK, script

from bench import __main__ as main_module


@pytest.mark.parametrize(
    ("result", "ratio", "kept"),
    [
        (Result("time, less", 2.0, "s", 1.0, 4.0, "peer"), 0.5, True),
        (Result("time, more", 4.0, "s", 1.0, 2.0, "peer"), 2.0, False),
        (Result("speed, more", 2.0, "s", 0.95, 4.0, "peer", higher=True), 2.0, True),
        (Result("speed, less", 4.0, "s", 0.95, 2.0, "peer", higher=True), 0.5, False),
        (Result("no peer here", 4.0, "s", 0.95, None, "peer"), None, None),
        (Result("a bound", 3.0, "us", 4.0), None, True),
        (Result("a bound broken", 5.0, "us", 4.0), None, False),
        (Result("no bound", 5.0, "us"), None, None),
        (Result("not measured", None, "", 1.0), None, None),
    ],
)
def test_verdicts(result: Result, ratio: float | None, kept: bool | None) -> None:
    assert (result.ratio, result.kept) == (ratio, kept)


def test_the_table_says_what_is_broken() -> None:
    lines = table([Result("one", 5.0, "us", 4.0), Result("two", 1.0, "us", 4.0)]).splitlines()
    assert [("BROKEN" in line, "kept" in line) for line in lines[1:]] == [
        (True, False),
        (False, True),
    ]


def test_lines_are_timed_until_the_last_one_wanted() -> None:
    program = "import time\nfor x in 'abc': print('mark', x, flush=True)\ntime.sleep(100)"
    run = timed([sys.executable, "-c", program], "^mark", "^mark c", 60)
    assert [line for _, line in run.marks] == ["mark a", "mark b", "mark c"]
    assert run.at("mark a") <= run.at("mark c")
    assert run.cpu > 0
    with pytest.raises(RuntimeError, match="no line 'mark d'"):
        run.at("mark d")


def test_a_command_that_ends_early_shows_its_output() -> None:
    run = timed([sys.executable, "-c", "print('oh')"], "never", "never", 60)
    with pytest.raises(RuntimeError, match="oh"):
        run.at("never")


def test_turns_alternate_and_a_failing_peer_counts_as_none() -> None:
    order: list[str] = []

    def ours() -> float:
        order.append("ours")
        return 1.0

    def peer() -> float:
        order.append("peer")
        if len(order) == 2:
            raise RuntimeError("hung")
        return 2.0

    taken = alternate(2, {OURS.name: ours, "peer": peer}, str)
    assert order == ["ours", "peer", "ours", "peer"]
    assert taken == {OURS.name: [1.0, 1.0], "peer": [2.0]}


def test_a_failure_of_ours_is_an_error() -> None:
    def fails() -> float:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        alternate(1, {OURS.name: fails}, str)


def test_missing_peers_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert all("isn't installed" in peer.missing for peer in peers())


def test_memory_by_mapping() -> None:
    smaps = (
        "1000-2000 rw-s 00000000 00:01 7      /memfd:frames (deleted)\nPss:        40 kB\n"
        "2000-3000 rw-p 00000000 00:00 0 \nPss: 4 kB\nVmFlags: rd\n"
        "3000-4000 rw-p 00000000 00:00 0 \nPss: 8 kB\n"
    )
    assert proportional(smaps) == {"/memfd:frames (deleted)": 40, "": 12}


def test_the_guests_program_fits_linux_command_line() -> None:
    assert 2 * len(script()) < 1900
    assert all(f"echo end-{name}" in script() for name in WORK)


def test_unknown_benchmarks_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "nosuch"])
    with pytest.raises(SystemExit) as stop:
        main_module.main()
    assert stop.value.code == 2
    assert "nosuch" in capsys.readouterr().err


def test_what_cannot_be_measured_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench.imports

    def fails(runs: int) -> list[Result]:
        raise RuntimeError("no guest")

    monkeypatch.setattr(bench.imports, "run", fails)
    monkeypatch.setattr(sys, "argv", ["bench", "imports"])
    assert main_module.main() == 1
    assert "not measured: no guest" in capsys.readouterr().out

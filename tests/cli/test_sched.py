# SPDX-License-Identifier: GPL-2.0-or-later
"""xg sched: its output, its exit statuses, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xenograft.cli.main import run

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LATE = """
[[pool]]
name = "p"
sched = "rtds"
[[domain]]
name = "d"
[[domain.vcpu]]
period = "10ms"
budget = "4ms"
load = { kind = "periodic", period = "10ms", compute = "5ms" }
"""


@pytest.fixture
def late(tmp_path: Path) -> str:
    (tmp_path / "late.toml").write_text(LATE)
    return str(tmp_path / "late.toml")


def test_simulate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.bin"
    arguments = ["--duration", "100ms", "--xentrace", str(trace)]
    assert run(["sched", "simulate", str(EXAMPLES / "dashboard.toml"), *arguments]) == 0
    assert trace.stat().st_size > 1000
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("100ms on 4 CPUs")
    assert any(line.split()[:3] == ["cluster", "0", "realtime"] for line in out)


def test_missed_deadlines_are_an_exit_status(late: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sched", "simulate", late, "--duration", "50ms", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["vcpus"][0]["cpu_time"] == 20_000_000
    assert [miss["deadline"] for miss in result["misses"]][:2] == [10_000_000, 20_000_000]


def test_analyze(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["sched", "analyze", str(EXAMPLES / "dashboard.toml")]) == 0
    assert "utilization 1.062: schedulable" in capsys.readouterr().out
    assert run(["sched", "analyze", str(EXAMPLES / "avionics.toml"), "--json"]) == 0
    flight = json.loads(capsys.readouterr().out)["arinc653"]["flight"]
    assert flight["partitions"][1]["latency_ns"] == 35_000_000
    full = tmp_path / "full.toml"
    full.write_text(
        LATE.replace("4ms", "10ms") + LATE[LATE.index("[[domain]]") :].replace('"d"', '"e"')
    )
    assert run(["sched", "analyze", str(full)]) == 1
    assert "NOT schedulable" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["dashboard", "avionics"])
def test_the_documents_show_what_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(["sched", "analyze", str(EXAMPLES / f"{name}.toml")])
    document = (EXAMPLES.parent / "scheduling.md").read_text()
    assert f"$ xg sched analyze docs/examples/{name}.toml\n{capsys.readouterr().out}" in document


@pytest.mark.parametrize("name", ["dashboard", "avionics"])
def test_the_documents_have_the_charts_that_are_drawn(name: str, tmp_path: Path) -> None:
    for kind in ("svg", "png"):
        picture = tmp_path / f"{name}.{kind}"
        words = ["--to", "200ms", "-o", str(picture)]
        assert run(["sched", "plot", str(EXAMPLES / f"{name}.toml"), *words]) == 0
    assert (EXAMPLES / f"{name}.svg").read_text() == (tmp_path / f"{name}.svg").read_text()
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_budget_that_is_too_small_is_seen(tmp_path: Path) -> None:
    """As docs/scheduling.md says of the dashboard."""
    text = (EXAMPLES / "dashboard.toml").read_text()
    (tmp_path / "late.toml").write_text(text.replace('compute = "5ms"', 'compute = "7ms"'))
    assert run(["sched", "simulate", str(tmp_path / "late.toml")]) == 1


def test_plot(late: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sched", "plot", late, "--to", "50ms", "--width", "60"]) == 0
    assert "!" in capsys.readouterr().out
    for kind in ("svg", "png"):
        picture = tmp_path / f"x.{kind}"
        assert run(["sched", "plot", late, "--to", "50ms", "-o", str(picture)]) == 0
        assert picture.stat().st_size > 500
    assert "deadline missed" in (tmp_path / "x.svg").read_text()


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sched", "check", str(EXAMPLES / "avionics.toml")]) == 0
    schedule = tmp_path / "s.toml"
    schedule.write_text('major_frame = "1ms"\n[[window]]\ndomain = "d"\nruntime = "2ms"\n')
    assert run(["sched", "check", str(schedule)]) == 1
    assert "after the major frame of 1ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "/nowhere.toml"], "/nowhere.toml: No such file"),
        (["plot", "LATE", "-o", "x.gif"], "an .svg or a .png"),
        (["plot", "LATE", "-o", "/nowhere/x.svg"], "No such file"),
        (["plot", "LATE", "--from", "9s"], "before the end"),
        (["simulate", "LATE", "--duration", "-1s"], "longer than 0"),
        (["simulate", "LATE", "--duration", "x"], "isn't a time"),
        (["analyze", "EMPTY"], "nothing to analyze"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    late: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.toml").write_text("")
    names = {"LATE": late, "EMPTY": str(tmp_path / "empty.toml")}
    assert run(["sched", *(names.get(one, one) for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

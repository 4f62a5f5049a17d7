# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg sched-arinc653` against a service: shown, checked, loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.xl.conftest import Xg

POOL = ('name="flight"', 'sched="arinc653"', 'cpus=["1"]')
TABLE = """
major_frame = "50ms"
[[window]]
domain = "web"
runtime = "20ms"
[[window]]
idle = true
runtime = "5ms"
[[window]]
domain = "web"
vcpu = 1
runtime = "10500us"
"""


@pytest.fixture
def flight(xg: Xg, cfg: Path) -> str:
    """A guest with two vCPUs in a pool of its own."""
    assert xg("cpupool-cpu-remove", "Pool-0", "1")[0] == 0
    assert xg("cpupool-create", *POOL)[0] == 0
    assert xg("create", "-q", str(cfg), "pool=flight")[0] == 0
    return "flight"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.toml"
    path.write_text(TABLE)
    return path


SHOWN = """\
Cpupool flight: major frame=50000us
Name                              VCPU    Start(us)  Runtime(us)
web                                  0            0        20000
(idle)                               0        20000         5000
web                                  1        25000        10500
"""


def test_a_schedule_is_checked_loaded_and_shown(xg: Xg, flight: str, table: Path) -> None:
    assert xg("sched-arinc653", "-n", str(table)) == (0, SHOWN, "")
    empty = "Cpupool flight: major frame=0us\n" + SHOWN.splitlines()[1] + "\n"
    assert xg("sched-arinc653") == (0, empty, "")
    assert xg("sched-arinc653", "-p", flight, str(table)) == (0, "", "")
    assert xg("sched-arinc653") == (0, SHOWN, "")
    (shown,) = json.loads(xg("sched-arinc653", "--json", "-p", flight)[1])
    assert shown["major_frame_ns"] == 50_000_000
    assert [one["start_ns"] for one in shown["windows"]] == [0, 20_000_000, 25_000_000]
    # What isn't there any more shows as its UUID.
    handle = shown["windows"][0]["uuid"]
    xg("destroy", "web")
    assert xg("sched-arinc653")[1].splitlines()[2].split()[0] == handle


def test_a_vcpu_without_a_window_is_refused(xg: Xg, flight: str, tmp_path: Path) -> None:
    path = tmp_path / "half.toml"
    path.write_text(TABLE[: TABLE.rindex("[[window]]")])
    status, output, errors = xg("sched-arinc653", str(path))
    assert (status, output) == (1, "")
    assert errors == "web: vCPU 1 has no window: it would never run; -f loads it all the same\n"
    assert xg("sched-arinc653", "-f", str(path))[0] == 0
    assert len(xg("sched-arinc653")[1].splitlines()) == 4


def test_the_schedule_of_a_described_system(xg: Xg, flight: str, tmp_path: Path) -> None:
    """The file that `xg sched` analyzes is the one that's loaded."""
    path = tmp_path / "system.toml"
    path.write_text(
        '[machine]\ncpus=2\n[[pool]]\nname="Pool-0"\ncpus="0"\n[[pool]]\nname="flight"\n'
        'sched="arinc653"\ncpus="1"\nmajor_frame="10ms"\n'
        'window=[{domain="web",runtime="4ms"},{domain="web",vcpu=1,runtime="4ms"}]\n'
    )
    assert xg("sched-arinc653", str(path)) == (0, "", "")
    assert xg("sched-arinc653")[1].startswith("Cpupool flight: major frame=10000us\n")
    assert "which schedule is meant?" in xg("sched-arinc653", "-p", "other", str(path))[2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            TABLE.replace("50ms", "35ms"),
            "window 3: it ends at 35.5ms, after the major frame of 35ms",
        ),
        (TABLE.replace("50ms", "0ms"), "major_frame: 0ms; it has to be longer than 0"),
        (TABLE.replace("20ms", "-20ms"), "window 1: runtime -20ms; it has to be longer than 0"),
        (TABLE.replace('"web"', '"wbe"'), "no domain is called 'wbe': did you mean web?"),
        (TABLE.replace("vcpu = 1", "vcpu = 2"), "window 3: web has no vCPU 2, only 2"),
        (TABLE.replace("idle", "lazy"), "unknown field `lazy`"),
        ("major_frame", "Expected '=' after a key"),
    ],
)
def test_a_bad_schedule_is_a_line(
    xg: Xg, flight: str, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    status, output, errors = xg("sched-arinc653", str(path))
    assert (status, output) == (1, "")
    assert says in errors
    assert errors.startswith(f"{path}: ") or errors.startswith("xg: ")
    assert errors.count("\n") == 1
    assert len(xg("sched-arinc653")[1].splitlines()) == 2


def test_the_pool_has_to_have_that_scheduler(xg: Xg, table: Path) -> None:
    assert "there is none" in xg("sched-arinc653", str(table))[2]
    assert xg("sched-arinc653", "-p", "Pool-0", str(table))[2] == (
        "cpupool 'Pool-0' has the scheduler credit2, not arinc653\n"
    )
    assert xg("sched-arinc653", "-p", "x")[2] == "unknown cpupool 'x'\n"
    assert xg("sched-arinc653") == (0, "", "")


def test_a_pool_of_arinc653_has_one_cpu(xg: Xg, flight: str) -> None:
    assert xg("cpupool-cpu-remove", "Pool-0", "2")[0] == 0
    assert xg("cpupool-cpu-add", flight, "2")[2].splitlines()[0] == (
        "Error adding cpu 2 to cpupool 'flight': a pool of this scheduler has one CPU"
    )
    xg("cpupool-cpu-remove", "Pool-0", "3")
    words = ("cpupool-create", 'name="two"', 'sched="arinc653"', 'cpus=["2","3"]')
    assert xg(*words) == (
        1,
        "",
        "Error adding cpu 3 to cpupool 'two': a pool of this scheduler has one CPU\n",
    )
    assert len(json.loads(xg("cpupool-list", "--json")[1])) == 2

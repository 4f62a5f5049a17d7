# SPDX-License-Identifier: GPL-2.0-or-later
"""Systems and schedules in files: what is right runs, what is wrong is said in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched import arinc653, description
from xenograft.toolstack.sched.durations import parse_ns, show_ns
from xenograft.toolstack.sched.run import analyze, simulate

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"

RTDS = '[[pool]]\nname="p"\nsched="rtds"\n'
A653 = '[[pool]]\nname="p"\nsched="arinc653"\nmajor_frame="10ms"\n'


def problems(text: str) -> list[str]:
    return description.load(text, "x.toml").check()


class TestExamples:
    @pytest.mark.parametrize("name", ["dashboard", "avionics"])
    def test_they_keep_their_deadlines(self, name: str) -> None:
        system = description.load((EXAMPLES / f"{name}.toml").read_text(), name)
        assert system.check() == []
        outcome = simulate(system)
        assert outcome.misses == ()
        assert sum(one.jobs for one in outcome.vcpus) > 20
        used = sum(one.cpu_time for one in outcome.vcpus) + sum(outcome.idle)
        assert used == outcome.duration * len(outcome.idle)

    def test_the_dashboard_is_schedulable(self) -> None:
        system = description.load((EXAMPLES / "dashboard.toml").read_text(), "x")
        assert analyze(system).rtds["realtime"].schedulable is True

    def test_the_avionics_latencies(self) -> None:
        system = description.load((EXAMPLES / "avionics.toml").read_text(), "x")
        _, partitions = analyze(system).arinc653["flight"]
        latency = {one.domain: one.longest_wait for one in partitions}
        assert latency["flight-control"] == 35_000_000
        assert latency["health"] == 90_000_000

    def test_a_hog_in_the_other_pool_changes_nothing(self) -> None:
        """The dashboard's real-time pool runs the same with and without infotainment."""
        system = description.load((EXAMPLES / "dashboard.toml").read_text(), "x")
        alone = description.System(
            machine=system.machine,
            pool=system.pool,
            domain=tuple(d for d in system.domain if d.pool == "realtime"),
        )
        crowded = [v for v in simulate(system).vcpus if v.pool == "realtime"]
        assert crowded == list(simulate(alone).vcpus)


class TestBadSystems:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('[[pool]]\nname="a"\ncpus="0"\n[[pool]]\nname="b"\ncpus="0"', "in another pool"),
            ('[[pool]]\nname="a"\n[[pool]]\nname="a"', "there twice"),
            ('[[pool]]\nname="a"\n[[pool]]\nname="b"', "has no CPU"),
            ('[[pool]]\nname="a"\ncpus="7"', "no CPU 7"),
            ('[machine]\ncpus=2\n[[pool]]\nname="a"\ncpus="1"', "CPU 0 belongs"),
            ('[[pool]]\nname="a"\nsched="credt"', "did you mean credit"),
            ('[machine]\ncpus=0', "at least 1"),
            ('[machine]\ncpus=5000', "at most 1024"),
            ('[[domain]]\nname="a\\u001b[2J"', "printable"),
            ('[[pool]]\nname=""', "1 to 128 printable"),
            ('[machine]\nduration="0s"', "longer than 0"),
            ('[machine]\nduration="soon"', "isn't a time"),
            ('[[domain]]\nname="d"\npool="x"', "no pool is called 'x'"),
            ('[[domain]]\nname="d"\n[[domain]]\nname="d"', "there twice"),
            ('[[domain]]\nname="d"\nweight=0', "it is 1 to 65535"),
            ('[[domain]]\nname="d"\ncap=101', "it is 0 to 100"),
            ('[[domain]]\nname="d"\ncap=-1', "it is 0 to 100"),
            ('[[domain]]\nname="d"\nvcpu=[]', "no vCPU"),
            ('[[domain]]\nname="d"\nvcpu=[{cpus="3"}]', "no CPU of its pool"),
            ('[[domain]]\nname="d"\nvcpu=[{cpus="x"}]', "Invalid pcpu range"),
            ('[[domain]]\nname="d"\nvcpu=[{period="1ms",budget="1ms"}]', "no periods"),
            ('[[domain]]\nname="d"\nvcpu=[{load={kind="periodic"}}]', "needs period"),
            (
                '[[domain]]\nname="d"\nvcpu=[{load={kind="blocking",compute="0s",wait="1s"}}]',
                "longer than 0",
            ),
            (RTDS + '[[domain]]\nname="d"\nweight=5', "no weights"),
            (RTDS + '[[domain]]\nname="d"\nvcpu=[{period="1ms",budget="2ms"}]', "over the period"),
            (RTDS + '[[domain]]\nname="d"\nvcpu=[{period="1ms"}]', "a period and a budget"),
            (RTDS + '[[domain]]\nname="d"\nvcpu=[{period="9us",budget="9us"}]', "at least 10us"),
            (RTDS + '[[domain]]\nname="d"\nvcpu=[{period="-1ms",budget="9us"}]', "at least 10us"),
            (RTDS + '[[domain]]\nname="d"\nvcpu=[{period="1.5us",budget="1us"}]', "microseconds"),
            (A653, "no window"),
            (A653 + 'window=[{domain="d",runtime="11ms"}]\n[[domain]]\nname="d"', "ends at 11ms"),
            (A653 + 'window=[{domain="d",runtime="0ms"}]\n[[domain]]\nname="d"', "longer than 0"),
            (A653 + 'window=[{domain="e",runtime="1ms"}]\n[[domain]]\nname="d"', "called 'e'"),
            (A653 + 'window=[{runtime="1ms"}]\n[[domain]]\nname="d"', "needs one of"),
            (A653 + 'window=[{idle=true,runtime="1ms"}]\n[[domain]]\nname="d"', "d has no window"),
            (
                A653 + 'window=[{domain="d",runtime="1ms"}]\n[[domain]]\nname="d"\nvcpu=[{},{}]',
                "vCPU 1 has no window",
            ),
            (
                A653 + 'window=[{domain="d",vcpu=1,runtime="1ms"}]\n[[domain]]\nname="d"',
                "has no vCPU 1",
            ),
        ],
    )  # fmt: skip
    def test_a_line_says_what_is_wrong(self, text: str, message: str) -> None:
        found = problems(text)
        assert len(found) == 1
        assert message in found[0]
        assert "\n" not in found[0]
        with pytest.raises(UserError):
            simulate(description.load(text, "x"), 1000)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[machine", "x.toml: "),
            ("[machine]\nspeed=1", "unknown field `speed`"),
            ("[[domain]]\nname=1", "Expected `str`"),
            ('[[domain]]\nname="d"\nvcpu=[{load={kind="lazy"}}]', "Invalid enum value 'lazy'"),
        ],
    )
    def test_bad_files(self, text: str, message: str) -> None:
        with pytest.raises(UserError) as caught:
            description.load(text, "x.toml")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_arinc653_pool_has_one_cpu(self) -> None:
        text = "[machine]\ncpus=2\n" + A653 + 'window=[{idle=true,runtime="1ms"}]'
        assert problems(text) == ["pool 'p': an arinc653 pool has one CPU"]


class TestSchedules:
    def test_a_table_becomes_xens(self) -> None:
        table = arinc653.load(
            'major_frame="10ms"\n[[window]]\ndomain="nav"\nruntime="2ms"\n'
            '[[window]]\nidle=true\nruntime="1ms"\n'
            '[[window]]\nuuid="00000000-0000-0000-0000-000000000007"\nvcpu=1\nruntime="3ms"',
            "x",
        )
        nav = arinc653.Partition("nav", b"n" * 16, 1)
        schedule = arinc653.resolve(table, [nav])
        assert schedule.major_frame_ns == 10_000_000
        assert [(f.uuid, f.vcpu, f.runtime_ns) for f in schedule.frames] == [
            (b"n" * 16, 0, 2_000_000),
            (arinc653.NOBODY, 0, 1_000_000),
            (bytes(15) + b"\7", 1, 3_000_000),
        ]
        schedule.check()

    def test_too_many_windows(self) -> None:
        window = '[[window]]\nidle=true\nruntime="1us"\n'
        table = arinc653.load('major_frame="1s"\n' + window * 65, "x")
        with pytest.raises(UserError, match="at most 64"):
            arinc653.spans(table)


@pytest.mark.parametrize(
    ("text", "ns"), [("10ms", 10_000_000), ("2.5us", 2500), ("1s", 10**9), ("7 ns", 7)]
)
def test_durations(text: str, ns: int) -> None:
    assert parse_ns(text, "x") == ns
    assert parse_ns(show_ns(ns), "x") == ns


@pytest.mark.parametrize("text", ["", "10", "ms", "1h", "1.5ns", "1e3ms", "0x1ms"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(UserError, match="x: "):
        parse_ns(text, "x")


def test_1024_cpus_and_10000_vcpus() -> None:
    text = (
        '[machine]\nnodes=8\nsockets=2\ncores=32\nthreads=2\nduration="5ms"\n'
        '[[pool]]\nname="Pool-0"\ncpus="0-511"\n[[pool]]\nname="rt"\nsched="rtds"\n'
    )
    text += "".join(f'[[domain]]\nname="d{i}"\nvcpu=[{{cpus="0-511"}}]\n' for i in range(5000))
    text += "".join(
        f'[[domain]]\nname="r{i}"\npool="rt"\nvcpu=[{{period="10ms",budget="900us",'
        'load={kind="periodic",period="10ms",compute="800us"}}]\n'
        for i in range(5000)
    )
    outcome = simulate(description.load(text, "big.toml"))
    assert len(outcome.idle) == 1024
    assert len(outcome.vcpus) == 10_000
    assert sum(one.cpu_time for one in outcome.vcpus) + sum(outcome.idle) == 1024 * outcome.duration
    assert sum(one.missed for one in outcome.vcpus) == 0
    assert sum(one.jobs for one in outcome.vcpus) >= 2500

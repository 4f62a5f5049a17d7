# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts, times and their tables."""

from __future__ import annotations

import io
import itertools
import json

from tests.hypervisor.support import Bench
from tests.observe.test_log import guest
from xenograft.abi.vcpu import RUNSTATE_blocked, RUNSTATE_running
from xenograft.engine.protocol import ExitReason
from xenograft.hypervisor.instruments import Instruments
from xenograft.observe.stats import Stats, plain, print_report, tables

ARGS = (4, 0, 0, 0, 0, 0)


def counted() -> Stats:
    """Two vCPUs; every look at the host's clock shows 100 ns more."""
    ticks = itertools.count(0, 100)
    stats = Stats(timer=lambda: next(ticks))
    for vcpu, result in ((0, 0), (0, -22), (1, 0)):
        stats.hypercall_enter(1_000, 1, vcpu, 64, 32, ARGS)
        stats.hypercall_exit(1_000, 1, vcpu, 32, ARGS, result)
    stats.exit(2_000, 1, 0, (ExitReason.HALT, 0, 1, 0, 0, 0, 0, 0))
    stats.exit(2_000, 1, 1, (ExitReason.HALT, 0, 1, 0, 0, 0, 0, 0))
    stats.exit(2_000, 1, 1, (ExitReason.IO_IN, 0, 1, 0, 0, 0, 0, 0))
    stats.injection(2_500, 1, 0, 0xF3, "lapic")
    stats.event_send(2_600, 1, 3, 0, 7)
    stats.vcpu_state(0, 1, 0, RUNSTATE_running)
    stats.vcpu_state(3_000, 1, 0, RUNSTATE_blocked)
    return stats


def test_hypercalls() -> None:
    (row,) = counted().report().hypercalls
    assert row.name == "event_channel_op.EVTCHNOP_send"
    assert (row.count, row.errors, row.continued) == (3, 1, 0)
    assert (row.total_ns, row.max_ns, row.mean_ns) == (300, 100, 100.0)


def test_counts() -> None:
    report = counted().report()
    assert report.exits == {"HALT": 2, "IO_IN": 1}
    assert report.injections == {"lapic 0xf3": 1}
    assert report.events == {"d1 -> d0": 1}
    assert [(row.vcpu, row.hypercalls) for row in report.vcpus] == [(0, 2), (1, 1)]
    assert report.vcpus[1].exits == {"HALT": 1, "IO_IN": 1}


def test_runstates_go_on_until_now() -> None:
    report = counted().report(now=10_000)
    assert report.time_ns == 10_000
    assert report.vcpus[0].runstates_ns == {"running": 3_000, "blocked": 7_000}
    assert report.vcpus[1].runstates_ns == {}


def test_continued_calls_are_not_counted_twice() -> None:
    stats = Stats(timer=lambda: 0)
    for _ in range(3):
        stats.hypercall_enter(0, 1, 0, 64, 12, ARGS)
    stats.hypercall_exit(0, 1, 0, 12, ARGS, 0)
    (row,) = stats.report().hypercalls
    assert (row.count, row.continued) == (1, 2)


def test_json_is_complete() -> None:
    data = json.loads(counted().report().to_json())
    assert data["hypercalls"][0]["count"] == 3
    assert data["vcpus"][0]["injections"] == {"lapic 0xf3": 1}
    assert set(data) == {"time_ns", "hypercalls", "exits", "injections", "events", "vcpus"}


def test_plain_tables_are_aligned() -> None:
    out = io.StringIO()
    print_report(counted().report(), out)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("hypercall ")
    assert lines[1].split() == [
        "event_channel_op.EVTCHNOP_send", "3", "1", "0.000", "0.10", "0.10",
    ]  # fmt: skip
    assert len(lines[0]) == len(lines[1])
    assert "d1v0" in out.getvalue()


def test_nothing_happened_prints_nothing() -> None:
    out = io.StringIO()
    print_report(Stats().report(), out)
    assert out.getvalue() == ""
    assert plain([]) == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rich_tables_on_a_terminal() -> None:
    out = Terminal()
    print_report(counted().report(), out)
    for title, heads, _ in tables(counted().report()):
        assert title in out.getvalue()
        assert heads[0] in out.getvalue()


def test_halves_are_the_whole() -> None:
    """`begins` and `ends` hear together what a Stats hears."""
    whole, halves = Instruments(), Instruments()
    stats = Stats()
    whole.add(stats)
    halves.add(stats.ends())
    halves.add(stats.begins())
    for hook in ("hypercall_enter", "hypercall_exit", "exit", "injection", "event_send"):
        assert (getattr(whole, hook) is None) == (getattr(halves, hook) is None)
    assert (whole.vcpu_state is None) == (halves.vcpu_state is None)


def test_on_a_machine() -> None:
    bench = Bench(guest)
    stats = Stats(bench.xen)
    bench.xen.instruments.add(stats)
    bench.run()
    report = stats.report(bench.now)
    assert {row.name: row.count for row in report.hypercalls} == {
        "event_channel_op.EVTCHNOP_send": 1,
        "sched_op.SCHEDOP_shutdown": 1,
    }
    assert report.exits == {"HYPERCALL": 2, "IO_OUT": 1}

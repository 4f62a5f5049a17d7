# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of xentrace: read back record by record."""

from __future__ import annotations

import struct
from pathlib import Path

from xenograft.abi import trace
from xenograft.abi.vcpu import (
    RUNSTATE_blocked,
    RUNSTATE_offline,
    RUNSTATE_runnable,
    RUNSTATE_running,
)
from xenograft.observe.xentrace import EPOCH, XentraceWriter
from xenograft.toolstack.sched.history import DOMID_IDLE

Record = tuple[int, int, int, tuple[int, ...]]


def read(path: Path) -> list[Record]:
    """(cpu, event, time, words) of all records."""
    data, at, cpu, left = path.read_bytes(), 0, -1, 0
    found: list[Record] = []
    while at < len(data):
        (head,) = struct.unpack_from("<I", data, at)
        words = head >> trace.TRACE_EXTRA_SHIFT & 7
        if not left:
            assert head == trace.TRC_TRACE_CPU_CHANGE | 2 << 28
            cpu, left = struct.unpack_from("<2I", data, at + 4)
            at += 12
            continue
        assert head & trace.TRC_HD_CYCLE_FLAG
        low, high = struct.unpack_from("<2I", data, at + 4)
        extra = struct.unpack_from(f"<{words}I", data, at + 12)
        found.append((cpu, head & 0x0FFFFFFF, low | high << 32, extra))
        at += 12 + 4 * words
        left -= 12 + 4 * words
    assert left == 0
    return found


def test_switches(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with XentraceWriter(path) as writer:
        for time, *who in ((100, 1, 0), (500, 2, 3), (1 << 33, DOMID_IDLE, 0)):
            writer.sched_decision(time, 0, *who)
    switches = [one for one in read(path) if one[1] == trace.TRC_SCHED_SWITCH]
    assert [(cpu, time - EPOCH, words) for cpu, _, time, words in switches] == [
        (0, 100, (DOMID_IDLE, 0, 1, 0)),
        (0, 500, (1, 0, 2, 3)),
        (0, 1 << 33, (2, 3, DOMID_IDLE, 0)),
    ]
    previous = [one for one in read(path) if one[1] == trace.TRC_SCHED_SWITCH_INFPREV]
    assert previous[1][3] == (1, 0, 400)


def changes(path: Path) -> list[tuple[int, int, int, int]]:
    """(time, domid << 16 | vCPU, old state, new state) of each change of a run state."""
    base = trace.TRC_SCHED_RUNSTATE_CHANGE
    return [
        (time - EPOCH, words[0], event >> 8 & 0xF, event >> 4 & 0xF)
        for _, event, time, words in read(path)
        if event & ~0xFF0 == base
    ]


def test_a_vcpu_leaves_its_cpu_in_the_state_that_it_has_then(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with XentraceWriter(path) as writer:
        writer.vcpu_state(10, 1, 2, RUNSTATE_runnable)
        writer.sched_decision(25, 4, 1, 2)
        writer.vcpu_state(25, 1, 2, RUNSTATE_running)
        writer.vcpu_state(90, 1, 2, RUNSTATE_blocked)
        writer.sched_decision(90, 4, DOMID_IDLE, 4)
        writer.vcpu_state(120, 1, 2, RUNSTATE_runnable)
    mine = [(time, old, new) for time, who, old, new in changes(path) if who == 1 << 16 | 2]
    assert mine == [
        (10, RUNSTATE_offline, RUNSTATE_runnable),
        (25, RUNSTATE_runnable, RUNSTATE_running),
        (90, RUNSTATE_running, RUNSTATE_blocked),
        (120, RUNSTATE_blocked, RUNSTATE_runnable),
    ]
    idle = [(time, old, new) for time, who, old, new in changes(path) if who >> 16 == DOMID_IDLE]
    assert idle == [
        (25, RUNSTATE_running, RUNSTATE_runnable),
        (90, RUNSTATE_runnable, RUNSTATE_running),
    ]
    waited = [one[3] for one in read(path) if one[1] == trace.TRC_SCHED_SWITCH_INFNEXT]
    assert waited[0] == (1, 2, 15, 0)


def test_one_that_is_woken_before_it_has_left_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with XentraceWriter(path) as writer:
        writer.sched_decision(5, 0, 1, 0)
        writer.vcpu_state(6, 1, 0, RUNSTATE_blocked)
        writer.vcpu_state(7, 1, 0, RUNSTATE_running)
        writer.sched_decision(9, 0, 2, 0)
    left = [one for one in changes(path) if one[1] == 1 << 16 and one[0] > 5]
    assert left == [(9, 1 << 16, RUNSTATE_running, RUNSTATE_runnable)]


def test_records_of_a_vcpu_on_two_cpus_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with XentraceWriter(path) as writer:
        writer.sched_decision(5, 1, 1, 0)
        writer.sched_decision(9, 1, DOMID_IDLE, 1)
        writer.sched_decision(9, 0, 1, 0)
    times = {(new, time) for time, who, _, new in changes(path) if who == 1 << 16}
    assert (RUNSTATE_runnable, 9) in times
    assert (RUNSTATE_running, 10) in times


def test_many_records_come_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with XentraceWriter(path) as writer:
        for i in range(5000):
            writer.sched_decision(10 * i, i % 2, 1 + i % 2, 0)
            writer.sched_decision(10 * i + 5, i % 2, DOMID_IDLE, i % 2)
    records = read(path)
    assert sum(one[1] == trace.TRC_SCHED_SWITCH for one in records) == 2 * 5000
    for cpu in (0, 1):
        times = [one[2] for one in records if one[0] == cpu]
        assert times == sorted(times)

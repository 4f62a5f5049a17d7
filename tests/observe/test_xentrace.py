# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of xentrace: read back record by record."""

from __future__ import annotations

import struct
from pathlib import Path

from xenograft.abi import trace
from xenograft.abi.vcpu import RUNSTATE_blocked, RUNSTATE_runnable, RUNSTATE_running
from xenograft.observe.xentrace import XentraceWriter
from xenograft.toolstack.sched.history import DOMID_IDLE, Segment

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
        writer.segments([Segment(0, 1, 0, 100, 500), Segment(0, 2, 3, 500, 1 << 33)])
    switches = [one for one in read(path) if one[1] == trace.TRC_SCHED_SWITCH]
    assert switches == [
        (0, trace.TRC_SCHED_SWITCH, 100, (DOMID_IDLE, 0, 1, 0)),
        (0, trace.TRC_SCHED_SWITCH, 500, (1, 0, 2, 3)),
        (0, trace.TRC_SCHED_SWITCH, 1 << 33, (2, 3, DOMID_IDLE, 0)),
    ]
    previous = [one for one in read(path) if one[1] == trace.TRC_SCHED_SWITCH_INFPREV]
    assert previous[1][3] == (1, 0, 400)


def test_runstates(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with XentraceWriter(path) as writer:
        writer.vcpu_state(10, 1, 2, RUNSTATE_runnable)
        writer.sched_decision(25, 4, 1, 2)
        writer.vcpu_state(25, 1, 2, RUNSTATE_running)
        writer.vcpu_state(90, 1, 2, RUNSTATE_blocked)
    records = read(path)
    base = trace.TRC_SCHED_RUNSTATE_CHANGE
    assert (4, base | RUNSTATE_running << 8 | RUNSTATE_blocked << 4, 90, (1 << 16 | 2,)) in records
    waited = [one[3] for one in records if one[1] == trace.TRC_SCHED_SWITCH_INFNEXT]
    assert waited == [(1, 2, 15, 0)]


def test_many_records_come_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with XentraceWriter(path) as writer:
        writer.segments(Segment(i % 2, 1, 0, 10 * i, 10 * i + 5) for i in range(5000))
    records = read(path)
    assert len(records) == 3 * 2 * 5000
    for cpu in (0, 1):
        times = [one[2] for one in records if one[0] == cpu]
        assert times == sorted(times)

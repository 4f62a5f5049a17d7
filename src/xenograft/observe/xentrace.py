# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduling in the binary format of xentrace, for xenalyze and what else reads it.

Facts: public/trace.h (struct t_rec, event numbers) and the format of xentrace's files: each run
of records of one CPU begins with a TRC_TRACE_CPU_CHANGE record that says which CPU and how many
bytes follow.  Time stamps are nanoseconds, so the tools are told of a CPU of 1 GHz
(``xenalyze --cpu-hz=1G``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from xenograft.abi import trace
from xenograft.abi.vcpu import RUNSTATE_runnable
from xenograft.toolstack.sched.history import DOMID_IDLE, Segment

_CHUNK = 1 << 14


def record(event: int, time: int, *words: int) -> bytes:
    """One t_rec with a time stamp and up to seven words."""
    head = event | len(words) << trace.TRACE_EXTRA_SHIFT | trace.TRC_HD_CYCLE_FLAG
    low, high = time & 0xFFFFFFFF, time >> 32 & 0xFFFFFFFF
    return struct.pack(f"<3I{len(words)}I", head, low, high, *(word & 0xFFFFFFFF for word in words))


class XentraceWriter:
    """A listener of the hypervisor's instruments that writes a file.

    Raises OSError if the file can't be made; what can't be written later ends it (`error`).
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self.error: OSError | None = None
        self._chunks: dict[int, bytearray] = {}
        self._running: dict[int, tuple[int, int, int]] = {}
        self._cpu: dict[tuple[int, int], int] = {}
        self._states: dict[tuple[int, int], tuple[int, int]] = {}

    def __enter__(self) -> XentraceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _put(self, cpu: int, data: bytes) -> None:
        chunk = self._chunks.setdefault(cpu, bytearray())
        chunk += data
        if len(chunk) >= _CHUNK:
            self._flush(cpu)

    def _flush(self, cpu: int) -> None:
        chunk = self._chunks.pop(cpu)
        head = trace.TRC_TRACE_CPU_CHANGE | 2 << trace.TRACE_EXTRA_SHIFT
        if self.error is None:
            try:
                self._file.write(struct.pack("<3I", head, cpu, len(chunk)) + chunk)
            except OSError as error:
                self.error = error

    def sched_decision(self, time: int, pcpu: int, domid: int, vcpu: int) -> None:
        """TRC_SCHED_SWITCH and what it tells of both vCPUs."""
        before = self._running.get(pcpu, (DOMID_IDLE, pcpu, 0))
        waited = 0
        state = self._states.get((domid, vcpu))
        if state is not None and state[0] == RUNSTATE_runnable:
            waited = time - state[1]
        self._put(
            pcpu,
            record(trace.TRC_SCHED_SWITCH_INFPREV, time, before[0], before[1], time - before[2])
            + record(trace.TRC_SCHED_SWITCH_INFNEXT, time, domid, vcpu, waited, 0)
            + record(trace.TRC_SCHED_SWITCH, time, before[0], before[1], domid, vcpu),
        )
        self._running[pcpu] = (domid, vcpu, time)
        self._cpu[domid, vcpu] = pcpu

    def vcpu_state(self, time: int, domid: int, vcpu: int, state: int) -> None:
        """TRC_SCHED_RUNSTATE_CHANGE: the old and the new state are in the event's number."""
        old = self._states.get((domid, vcpu), (3, 0))[0]
        self._states[domid, vcpu] = (state, time)
        event = trace.TRC_SCHED_RUNSTATE_CHANGE | old << 8 | state << 4
        self._put(self._cpu.get((domid, vcpu), 0), record(event, time, domid << 16 | vcpu))

    def segments(self, segments: Iterable[Segment]) -> None:
        """All that a simulation has recorded."""
        ends: dict[int, int] = {}
        for one in sorted(segments, key=lambda item: (item.cpu, item.start)):
            if one.cpu in ends and ends[one.cpu] < one.start:
                self.sched_decision(ends[one.cpu], one.cpu, DOMID_IDLE, one.cpu)
            self.sched_decision(one.start, one.cpu, one.domid, one.vcpu)
            ends[one.cpu] = one.end
        for cpu, end in sorted(ends.items()):
            self.sched_decision(end, cpu, DOMID_IDLE, cpu)

    def close(self) -> None:
        """Write what is left."""
        for cpu in sorted(self._chunks):
            self._flush(cpu)
        self._file.close()

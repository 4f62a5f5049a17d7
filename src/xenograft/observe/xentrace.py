# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduling in the binary format of xentrace, for xenalyze and what else reads it.

Facts: public/trace.h (struct t_rec, event numbers) and the format of xentrace's files: each run
of records of one CPU begins with a TRC_TRACE_CPU_CHANGE record that says which CPU and how many
bytes follow.  Time stamps are nanoseconds, so the tools are told of a CPU of 1 GHz
(``xenalyze --cpu-hz=1G``).
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from xenograft.abi import trace
from xenograft.abi.vcpu import (
    RUNSTATE_blocked,
    RUNSTATE_offline,
    RUNSTATE_runnable,
    RUNSTATE_running,
)
from xenograft.toolstack.sched.history import DOMID_IDLE

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.unit import SchedUnit

_CHUNK = 1 << 14
EPOCH = 1_000_000
"""Where time stamps begin (ns): xenalyze takes 0 for no time."""

Who = tuple[int, int]
"""Domid and vCPU."""


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
        self._last: dict[int, int] = {}
        """The time of each CPU's last record."""
        self._running: dict[int, tuple[Who, int]] = {}
        """Whom each CPU runs, since when."""
        self._cpu: dict[Who, int] = {}
        """Where each vCPU ran last."""
        self._states: dict[Who, tuple[int, int]] = {}
        """The run state of each vCPU, since when."""
        self._told: dict[Who, tuple[int, int]] = {}
        """On which CPU, and when, the last change of each vCPU was written."""
        self._stopping: dict[Who, int] = {}
        """The state that a vCPU will have when its CPU turns to another."""

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
            self._flush()

    def _flush(self) -> None:
        """Write what all CPUs have: readers expect about the same time next to each other."""
        head = trace.TRC_TRACE_CPU_CHANGE | 2 << trace.TRACE_EXTRA_SHIFT
        for cpu, chunk in sorted(self._chunks.items()):
            if self.error is None:
                try:
                    self._file.write(struct.pack("<3I", head, cpu, len(chunk)) + chunk)
                except OSError as error:
                    self.error = error
        self._chunks.clear()

    def _event(self, cpu: int, event: int, time: int, *words: int) -> None:
        # What happened elsewhere can be known here late: a CPU's records are in order.
        time = self._last[cpu] = max(time, self._last.get(cpu, 0))
        self._put(cpu, record(event, EPOCH + time, *words))

    def _change(self, cpu: int, time: int, who: Who, state: int) -> None:
        """TRC_SCHED_RUNSTATE_CHANGE: the old and the new state are in the event's number."""
        old = self._states.get(who, (RUNSTATE_offline, 0))[0]
        if old != state:
            self._states[who] = (state, time)
            event = trace.TRC_SCHED_RUNSTATE_CHANGE | old << 8 | state << 4
            # Readers sort by time; what a vCPU does on two CPUs at once would be in disorder.
            where, before = self._told.get(who, (cpu, 0))
            time = max(time, self._last.get(cpu, 0), before + (where != cpu))
            self._told[who] = (cpu, time)
            self._event(cpu, event, time, who[0] << 16 | who[1])

    def sched_decision(self, time: int, pcpu: int, domid: int, vcpu: int) -> None:
        """What a CPU that turns to another vCPU writes, in Xen's order (schedule())."""
        before, since = self._running.get(pcpu, ((DOMID_IDLE, pcpu), 0))
        after = (domid, vcpu)
        if before == after:
            return
        waited = 0
        state = self._states.get(after)
        if state is not None and state[0] == RUNSTATE_runnable:
            waited = max(time - state[1], 0)
        if before[0] == DOMID_IDLE:
            # Idle vCPUs are always there.
            self._states.setdefault(before, (RUNSTATE_running, 0))
        if domid == DOMID_IDLE:
            self._states.setdefault(after, (RUNSTATE_runnable, 0))
        elif state is None or state[0] not in (RUNSTATE_runnable, RUNSTATE_running):
            self._change(pcpu, time, after, RUNSTATE_runnable)
        self._event(pcpu, trace.TRC_SCHED_SWITCH_INFPREV, time, *before, time - since)
        self._event(pcpu, trace.TRC_SCHED_SWITCH_INFNEXT, time, *after, waited, 0)
        self._change(pcpu, time, before, self._stopping.pop(before, RUNSTATE_runnable))
        self._change(pcpu, time, after, RUNSTATE_running)
        self._event(pcpu, trace.TRC_SCHED_SWITCH, time, *before, *after)
        self._running[pcpu] = (after, time)
        self._cpu[after] = pcpu

    def vcpu_state(self, time: int, domid: int, vcpu: int, state: int) -> None:
        """A vCPU can or can't run any more; that it runs is the affair of `sched_decision`."""
        who = (domid, vcpu)
        if self._states.get(who, (RUNSTATE_offline, 0))[0] == RUNSTATE_running:
            # As in Xen it's known when its CPU turns to another.
            if state == RUNSTATE_running:
                self._stopping.pop(who, None)
            else:
                self._stopping[who] = state
        elif state != RUNSTATE_running:
            self._change(self._cpu.get(who, 0), time, who, state)

    def decided(
        self, now: int, cpu: int, prev: SchedUnit | None, following: SchedUnit | None
    ) -> None:
        """The hook of a `SchedCore`, of a simulation without guests say."""
        if following is prev:
            return
        if prev is not None:
            state = RUNSTATE_runnable if prev.wanted else RUNSTATE_blocked
            self.vcpu_state(now, prev.domain.domid, prev.unit_id, state)
        if following is None:
            self.sched_decision(now, cpu, DOMID_IDLE, cpu)
        else:
            self.sched_decision(now, cpu, following.domain.domid, following.unit_id)

    def woken(self, now: int, unit: SchedUnit) -> None:
        """A simulated vCPU wakes."""
        self.vcpu_state(now, unit.domain.domid, unit.unit_id, RUNSTATE_runnable)

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._file.close()

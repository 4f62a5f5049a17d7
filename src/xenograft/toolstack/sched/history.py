# SPDX-License-Identifier: GPL-2.0-or-later
"""What really ran: who had which CPU from when to when, of a simulation or a real machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.unit import SchedUnit

MAX_SEGMENTS = 2_000_000
DOMID_IDLE = 0x7FFF


class Segment(msgspec.Struct, frozen=True):
    """A vCPU had a CPU (ns)."""

    cpu: int
    domid: int
    vcpu: int
    start: int
    end: int


class Miss(msgspec.Struct, frozen=True):
    """A job was late."""

    domid: int
    vcpu: int
    deadline: int


class History:
    """Collects segments.

    It's a listener of the hypervisor's instruments (`sched_decision`), and can be the hook of a
    `SchedCore` (`decided`).  After MAX_SEGMENTS it is `full`, and ends.
    """

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.full = False
        self._open: dict[int, tuple[int, int, int]] = {}

    def sched_decision(self, time: int, pcpu: int, domid: int, vcpu: int) -> None:
        before = self._open.pop(pcpu, None)
        if before is not None and time > before[2]:
            if len(self.segments) < MAX_SEGMENTS:
                self.segments.append(Segment(pcpu, before[0], before[1], before[2], time))
            else:
                self.full = True
        if domid != DOMID_IDLE:
            self._open[pcpu] = (domid, vcpu, time)

    def decided(
        self, now: int, cpu: int, prev: SchedUnit | None, following: SchedUnit | None
    ) -> None:
        if following is prev:
            return
        if following is None:
            self.sched_decision(now, cpu, DOMID_IDLE, cpu)
        else:
            self.sched_decision(now, cpu, following.domain.domid, following.unit_id)

    def close(self, now: int) -> list[Segment]:
        """End what still runs at `now`; returns all segments."""
        for cpu in sorted(self._open):
            self.sched_decision(now, cpu, DOMID_IDLE, cpu)
        return self.segments

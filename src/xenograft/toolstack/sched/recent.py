# SPDX-License-Identifier: GPL-2.0-or-later
"""What ran lately: a window of time that slides along, for charts that are drawn live."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from xenograft.toolstack.sched.history import DOMID_IDLE, Segment

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.unit import SchedUnit

MAX_SEGMENTS = 20_000
"""How many are kept at most, whatever the window."""


class Recent:
    """The segments that have ended within the last `span_ns`, and those that go on.

    It's a listener of the hypervisor's instruments (`sched_decision`), and can be the hook of a
    `SchedCore` (`decided`).
    """

    def __init__(self, span_ns: int) -> None:
        self.span_ns = span_ns
        self._segments: deque[Segment] = deque(maxlen=MAX_SEGMENTS)
        self._open: dict[int, tuple[int, int, int]] = {}

    def sched_decision(self, time: int, pcpu: int, domid: int, vcpu: int) -> None:
        before = self._open.pop(pcpu, None)
        if before is not None and time > before[2]:
            self._segments.append(Segment(pcpu, before[0], before[1], before[2], time))
        if domid != DOMID_IDLE:
            self._open[pcpu] = (domid, vcpu, time)
        oldest = time - self.span_ns
        while self._segments and self._segments[0].end < oldest:
            self._segments.popleft()

    def decided(
        self, now: int, cpu: int, prev: SchedUnit | None, following: SchedUnit | None
    ) -> None:
        if following is None:
            self.sched_decision(now, cpu, DOMID_IDLE, cpu)
        elif following is not prev:
            self.sched_decision(now, cpu, following.domain.domid, following.unit_id)

    def view(self, now: int) -> list[Segment]:
        """All of the window that ends now."""
        start = now - self.span_ns
        going_on = [
            Segment(cpu, domid, vcpu, since, now)
            for cpu, (domid, vcpu, since) in sorted(self._open.items())
            if since < now
        ]
        return [one for one in self._segments if one.end > start] + going_on

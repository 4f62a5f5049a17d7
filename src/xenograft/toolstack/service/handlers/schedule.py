# SPDX-License-Identifier: GPL-2.0-or-later
"""What ran lately, for charts that are drawn live: recorded as long as somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.toolstack.sched.recent import Recent
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_machine

if TYPE_CHECKING:
    from xenograft.toolstack.service.host import Host

KEEP_NS = 10 * 10**9
"""How long it's recorded for nobody."""
LONGEST_NS = 60 * 10**9


class Recording:
    """A machine's recording."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._recent = Recent(0)
        self._asked = 0
        self.on = False

    def ask(self, span_ns: int) -> messages.Schedule:
        """The last `span_ns`; sees that it's recorded for a while longer."""
        hypervisor = self._host.hypervisor
        now = self._asked = hypervisor.clock.now()
        if not self.on:
            self.on = True
            self._recent = Recent(span_ns)
            # A decision that changes nothing isn't reported: who runs now may do so for long.
            for cpu, unit in enumerate(hypervisor.sched.current):
                if unit is not None:
                    self._recent.sched_decision(now, cpu, unit.domain.domid, unit.unit_id)
            hypervisor.instruments.add(self._recent)
            hypervisor.timers.add(now + KEEP_NS, self._check)
        self._recent.span_ns = max(self._recent.span_ns, span_ns)
        names = {one.domid: one.name for one in self._host.domains(()) if one.vcpus}
        segments = [
            (one.cpu, one.domid, one.vcpu, max(one.start, now - span_ns), one.end)
            for one in self._recent.view(now)
            if one.end > now - span_ns
        ]
        return messages.Schedule(now, segments, names)

    def _check(self) -> None:
        hypervisor = self._host.hypervisor
        end = self._asked + KEEP_NS
        if hypervisor.clock.now() < end:
            hypervisor.timers.add(end, self._check)
        else:
            self.on = False
            hypervisor.instruments.remove(self._recent)


@on_machine(messages.GetSchedule)
def get_schedule(host: Host, request: messages.GetSchedule) -> messages.Schedule:
    if not 0 < request.span_ns <= LONGEST_NS:
        raise Failure(f"a window is longer than 0 and at most {LONGEST_NS // 10**9} s")
    if host.recording is None:
        host.recording = Recording(host)
    return host.recording.ask(request.span_ns)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's account, and marks in it that periods begin and end at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.hypervisor.metering import Reading
from xenograft.toolstack.errors import unknown
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_machine

if TYPE_CHECKING:
    from xenograft.toolstack.service.host import Host

MAX_MARKS = 1000


@on_machine(messages.GetPeriod)
def get_period(host: Host, request: messages.GetPeriod) -> messages.Period:
    start = None if request.since is None else _mark(host, request.since)
    end = host.hypervisor.meter.read() if request.until is None else _mark(host, request.until)
    if start is not None and start.time > end.time:
        raise Failure(f"the mark {request.since!r} was set after {request.until!r}")
    return messages.Period(start, end)


@on_machine(messages.MarkMeter)
def mark_meter(host: Host, request: messages.MarkMeter) -> Reading:
    name = request.name
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise Failure(f"{name[:64]!r} can't be a mark: it has 1 to 64 printable characters")
    if name not in host.marks and len(host.marks) >= MAX_MARKS:
        raise Failure(f"there are {MAX_MARKS} marks already; use one of their names again")
    reading = host.marks[name] = host.hypervisor.meter.read()
    return reading


@on_machine(messages.ListMarks)
def list_marks(host: Host, request: messages.ListMarks) -> dict[str, int]:
    return {name: reading.time for name, reading in host.marks.items()}


def _mark(host: Host, name: str) -> Reading:
    found = host.marks.get(name)
    if found is None:
        raise Failure(unknown("mark", name, host.marks))
    return found

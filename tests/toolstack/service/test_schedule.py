# SPDX-License-Identifier: GPL-2.0-or-later
"""What ran lately on the service's machine: recorded as long as somebody asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toolstack.service.support import Running, config, until
from xenograft.toolstack.errors import Failure
from xenograft.toolstack.service.handlers import schedule
from xenograft.toolstack.service.messages import CreateDomain, GetSchedule, Schedule

SECOND = 10**9


def test_a_guest_that_runs_is_in_it(service: Running, kernel: Path) -> None:
    service.ask(CreateDomain(config(kernel, "web")))

    def busy() -> Schedule | None:
        found: Schedule = service.ask(GetSchedule(SECOND))
        return found if any(one[1] == 1 for one in found.segments) else None

    found = until(busy)
    assert found.names == {1: "web"}
    for cpu, domid, vcpu, start, end in found.segments:
        assert 0 <= cpu < 4
        assert (domid, vcpu) == (1, 0)
        assert found.now - SECOND <= start < end <= found.now


def test_nobody_asks_any_more(
    service: Running, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "KEEP_NS", 30_000_000)
    assert service.machine is not None
    instruments = service.machine.hypervisor.instruments
    service.ask(GetSchedule(SECOND))
    assert instruments.sched_decision is not None
    until(lambda: instruments.sched_decision is None)
    # And again.
    service.ask(CreateDomain(config(kernel, "web")))
    until(lambda: service.ask(GetSchedule(SECOND)).segments)


@pytest.mark.parametrize("span", [0, -5, 61 * SECOND])
def test_windows_have_limits(service: Running, span: int) -> None:
    with pytest.raises(Failure, match="longer than 0 and at most 60 s"):
        service.ask(GetSchedule(span))

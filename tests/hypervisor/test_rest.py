# SPDX-License-Identifier: GPL-2.0-or-later
"""When a machine rests, and that its guests' engines give memory back then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hypervisor.support import Bench
from xenograft.engine.fake import halt
from xenograft.hypervisor.loop import Loop, Stop
from xenograft.hypervisor.rest import PERIOD_NS, Rest
from xenograft.hypervisor.time import VirtualClock


def test_an_idle_period_is_rest() -> None:
    rest = Rest(100)
    rest.idle(100, 100 + PERIOD_NS)
    assert rest.begins(100 + PERIOD_NS)


def test_a_busy_period_is_not() -> None:
    rest = Rest(0)
    rest.idle(0, PERIOD_NS // 2)
    assert not rest.begins(PERIOD_NS)
    assert rest.longest(PERIOD_NS) == PERIOD_NS


def test_it_begins_once_until_the_machine_has_been_busy() -> None:
    rest, now = Rest(0), 0
    seen = []
    for busy in (False, False, False, True, True, False, False):
        if not busy:
            rest.idle(now, now + PERIOD_NS)
        now += PERIOD_NS
        seen.append(rest.begins(now))
    assert seen == [True, False, False, False, False, True, False]


def test_a_resting_machine_may_wait_for_ever() -> None:
    rest = Rest(0)
    assert rest.longest(1) == PERIOD_NS - 1
    rest.idle(0, PERIOD_NS)
    rest.begins(PERIOD_NS)
    assert rest.longest(PERIOD_NS) is None


@given(st.lists(st.tuples(st.integers(0, PERIOD_NS), st.integers(0, PERIOD_NS))))
def test_it_never_begins_sooner_than_a_period_after_work(spans: list[tuple[int, int]]) -> None:
    """Each span is busy first, then idle; rest needs nine idle tenths of what was watched."""
    rest, now, since, idle = Rest(0), 0, 0, 0
    for busy, pause in spans:
        now += busy
        rest.idle(now, now + pause)
        now += pause
        idle += pause
        began = rest.begins(now)
        assert not began or (now - since >= PERIOD_NS and 10 * idle >= 9 * (now - since))
        if now - since >= PERIOD_NS:
            since, idle = now, 0


class Waiting(VirtualClock):
    """A real clock as far as the loop can see; it goes on while the door is waited at."""

    virtual = False

    def host_deadline(self, time_ns: int) -> int:
        return time_ns


def test_an_idle_machine_gives_memory_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench([halt()])
    clock = bench.xen.clock = Waiting()
    waits: list[float | None] = []
    trims: list[int] = []

    def serve(timeout: float | None = 0.0) -> bool:
        if timeout:
            waits.append(timeout)
            clock.advance_to(clock.now() + round(timeout * 1e9))
        return False

    monkeypatch.setattr(bench.xen.door, "serve", serve)
    monkeypatch.setattr(bench.domain.space, "trim", lambda: trims.append(clock.now()))
    loop = Loop(bench.xen)
    assert loop.run(deadline=20 * PERIOD_NS) is Stop.TIMEOUT
    assert trims == [PERIOD_NS]
    assert waits == [PERIOD_NS / 1e9, 19 * PERIOD_NS / 1e9]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Clocks and timers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.hypervisor.time import RealClock, VirtualClock
from xenograft.hypervisor.timers import Timer, TimerQueue


def test_virtual_time_moves_only_when_told_and_never_backwards() -> None:
    clock = VirtualClock(100)
    clock.advance_to(150)
    clock.advance_to(120)
    assert (clock.now(), clock.host_deadline(7)) == (150, 0)


def test_real_time_is_the_hosts() -> None:
    clock = RealClock(start_ns=5_000)
    before = time.monotonic_ns()
    first = clock.now()
    assert first >= 5_000
    clock.advance_to(1 << 60)
    assert clock.now() < 1 << 60
    # A deadline now lies between two readings of the host's clock.
    assert before <= clock.host_deadline(first) <= time.monotonic_ns()


def test_real_epoch_is_when_the_machine_started() -> None:
    assert RealClock(epoch_ns=7).epoch_ns == 7
    clock = RealClock(start_ns=3_600_000_000_000)
    assert abs(clock.epoch_ns + clock.now() - time.time_ns()) < 60_000_000_000


def test_timers_with_one_deadline_run_in_order_of_addition() -> None:
    queue, ran = TimerQueue(), []
    for name in "abc":
        queue.add(5, lambda name=name: ran.append(name))
    queue.add(4, lambda: ran.append("first"))
    assert queue.run_due(5) == 4
    assert ran == ["first", "a", "b", "c"]
    assert queue.next_deadline() is None


def test_cancelled_timers_do_not_run() -> None:
    queue, ran = TimerQueue(), []
    kept = queue.add(1, lambda: ran.append("kept"))
    gone = queue.add(1, lambda: ran.append("gone"))
    queue.cancel(gone)
    queue.cancel(gone)
    queue.cancel(None)
    assert len(queue) == 1
    queue.run_due(10)
    assert ran == ["kept"]
    assert not kept.active
    queue.cancel(kept)
    assert len(queue) == 0


def test_a_timer_may_add_timers_that_are_due() -> None:
    queue, ran = TimerQueue(), []

    def again() -> None:
        ran.append(len(ran))
        if len(ran) < 3:
            queue.add(0, again)

    queue.add(0, again)
    assert queue.run_due(0) == 3


def test_a_timer_that_always_comes_back_does_not_hold_the_machine() -> None:
    queue = TimerQueue()

    def for_ever() -> None:
        queue.add(0, for_ever)

    queue.add(0, for_ever)
    assert queue.run_due(0) == 10_000
    assert queue.next_deadline() == 0


def test_cancelling_in_a_loop_keeps_the_heap_small() -> None:
    queue = TimerQueue()
    for _ in range(10_000):
        queue.cancel(queue.add(1 << 40, lambda: None))
    assert len(queue._heap) < 200


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=60), st.integers(0, 60))
def test_the_queue_is_a_sorted_list(plan: list[tuple[int, bool]], now: int) -> None:
    queue, ran = TimerQueue(), []
    timers: list[tuple[Timer, int, bool]] = []
    for index, (deadline, cancel) in enumerate(plan):
        timers.append((queue.add(deadline, lambda index=index: ran.append(index)), index, cancel))
    for timer, _, cancel in timers:
        if cancel:
            queue.cancel(timer)
    live = sorted((plan[index][0], index) for _, index, cancel in timers if not cancel)
    assert queue.next_deadline() == (live[0][0] if live else None)
    queue.run_due(now)
    assert ran == [index for deadline, index in live if deadline <= now]
    left = [deadline for deadline, _ in live if deadline > now]
    assert queue.next_deadline() == (left[0] if left else None)
    assert len(queue) == len(left)


@pytest.mark.parametrize("count", [65, 300])
def test_compaction_forgets_no_live_timer(count: int) -> None:
    queue, ran = TimerQueue(), []
    queue.add(3, lambda: ran.append("live"))
    for _ in range(count):
        queue.cancel(queue.add(2, lambda: ran.append("dead")))
    queue.run_due(5)
    assert ran == ["live"]

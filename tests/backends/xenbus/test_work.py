# SPDX-License-Identifier: GPL-2.0-or-later
"""Host I/O beside the machine: who runs where, in which order, and when it comes home."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from xenograft.backends.xenbus.work import THREADS, Outcome, WorkPool
from xenograft.engine.fake import FakeEngine
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.time import RealClock, VirtualClock


class Bench:
    """A pool and what serves it."""

    def __init__(self, virtual: bool) -> None:
        self.xen = Hypervisor(
            FakeEngine(), frames=4096, clock=VirtualClock() if virtual else RealClock()
        )
        self.pool = WorkPool(self.xen)

    def serve(self) -> None:
        """Let the machine go on until nothing is outstanding."""
        end = time.monotonic() + 30
        while self.pool.outstanding:
            assert time.monotonic() < end
            if self.xen.clock.virtual:
                due = self.xen.timers.next_deadline()
                assert due is not None
                self.xen.clock.advance_to(due)
                self.xen.timers.run_due(due)
            else:
                self.xen.door.serve(0.1)

    def close(self) -> None:
        self.pool.close()
        self.xen.close()


@pytest.fixture(params=["real", "virtual"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param == "virtual")
    yield bench
    bench.close()


@pytest.fixture
def real() -> Iterator[Bench]:
    bench = Bench(virtual=False)
    yield bench
    bench.close()


@pytest.fixture
def virtual() -> Iterator[Bench]:
    bench = Bench(virtual=True)
    yield bench
    bench.close()


def test_work_runs_elsewhere_and_comes_home(bench: Bench) -> None:
    here = threading.get_ident()
    where: list[int] = []
    outcomes: list[Outcome[int]] = []

    def done(outcome: Outcome[int]) -> None:
        assert threading.get_ident() == here
        outcomes.append(outcome)

    bench.pool.submit(threading.get_ident, done)
    bench.pool.submit(lambda: where.append(threading.get_ident()) or 7, done)
    assert bench.pool.outstanding == 2
    assert outcomes == []
    bench.serve()
    assert outcomes[0].get() != here
    assert here not in where
    assert sorted(outcome.error is None for outcome in outcomes) == [True, True]


def test_what_goes_wrong_comes_home_as_well(bench: Bench) -> None:
    outcomes: list[Outcome[int]] = []

    def fail() -> int:
        raise OSError(5, "broken")

    bench.pool.submit(fail, outcomes.append)
    bench.pool.submit(lambda: 1, outcomes.append)
    bench.serve()
    errors = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(errors) == 1
    with pytest.raises(OSError, match="broken"):
        errors[0].get()


def test_several_at_once_on_the_real_clock(real: Bench) -> None:
    meeting = threading.Barrier(THREADS, timeout=20)
    for _ in range(2 * THREADS):
        real.pool.submit(meeting.wait, lambda outcome: outcome.get())
    real.serve()


def test_a_machine_knows_that_something_is_to_come(real: Bench) -> None:
    gate = threading.Event()
    assert not real.xen.door.may_open
    real.pool.submit(lambda: gate.wait(20), lambda outcome: None)
    assert real.xen.door.may_open
    gate.set()
    real.serve()
    assert not real.xen.door.may_open


def test_an_exclusive_job_is_alone(real: Bench) -> None:
    running: set[int] = set()
    seen: dict[int, set[int]] = {}
    order: list[int] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        with lock:
            running.add(number)
            order.append(number)
            for one in running:
                seen.setdefault(one, set()).update(running)
        time.sleep(0.005)
        with lock:
            running.discard(number)

    exclusive = {5, 11, 12}
    for number in range(20):
        real.pool.submit(
            lambda number=number: work(number),  # type: ignore[misc]
            lambda outcome: outcome.get(),
            exclusive=number in exclusive,
        )
    real.serve()
    assert len(order) == 20
    for number in exclusive:
        assert seen[number] == {number}
        at = order.index(number)
        assert all(before < number for before in order[:at])
        assert all(after > number for after in order[at + 1 :])


def test_after_a_batch(bench: Bench) -> None:
    """What waits for the end of a batch is called once the jobs that have ended are done."""
    told: list[str] = []

    def done(_outcome: object) -> None:
        told.append("done")
        bench.pool.after_batch(lambda: told.append("after"))

    for _ in range(3):
        bench.pool.submit(lambda: None, done)
    if not bench.xen.clock.virtual:
        # All three end before anybody looks.
        end = time.monotonic() + 20
        while len(bench.pool._finished) < 3:
            assert time.monotonic() < end
            time.sleep(0.001)
    bench.serve()
    if bench.xen.clock.virtual:
        assert told == ["done", "after"] * 3
    else:
        assert told == ["done"] * 3 + ["after"] * 3


def test_virtual_time_is_the_cost_and_nothing_else(virtual: Bench) -> None:
    """Whatever the host needs, a job ends when its cost says, in the order of the ends."""
    came: list[tuple[str, int]] = []

    def note(name: str) -> None:
        came.append((name, virtual.xen.clock.now()))

    def slow() -> None:
        time.sleep(0.02)

    virtual.pool.submit(slow, lambda _o: note("slow"), 100)
    virtual.pool.submit(lambda: None, lambda _o: note("long"), 5000)
    virtual.pool.submit(lambda: None, lambda _o: note("short"), 50)
    virtual.pool.submit(lambda: None, lambda _o: note("none"), 0)
    virtual.serve()
    assert came == [("none", 1), ("short", 50), ("slow", 100), ("long", 5000)]


def test_on_the_virtual_clock_work_is_done_in_order(virtual: Bench) -> None:
    order: list[int] = []
    for number in range(50):
        virtual.pool.submit(
            lambda number=number: order.append(number),  # type: ignore[misc]
            lambda outcome: outcome.get(),
            cost=1000 - number,
        )
    virtual.serve()
    assert order == list(range(50))


def test_jobs_of_jobs(bench: Bench) -> None:
    count = [0]

    def done(_outcome: object) -> None:
        count[0] += 1
        if count[0] < 20:
            bench.pool.submit(lambda: None, done)

    bench.pool.submit(lambda: None, done)
    bench.serve()
    assert count == [20]


def test_drain_waits_for_everything(bench: Bench) -> None:
    done: list[int] = []
    for number in range(10):
        bench.pool.submit(lambda: time.sleep(0.002), lambda _o, n=number: done.append(n))  # type: ignore[misc]
    bench.pool.drain()
    assert sorted(done) == list(range(10))
    assert not bench.pool.outstanding
    bench.pool.drain()


@pytest.mark.parametrize("virtual", [False, True])
def test_close_finishes_and_ends_the_threads(virtual: bool) -> None:
    bench = Bench(virtual)
    done: list[int] = []
    bench.pool.submit(lambda: 1, lambda outcome: done.append(outcome.get()))
    bench.close()
    assert done == [1]
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("xenograft-io") for name in names)

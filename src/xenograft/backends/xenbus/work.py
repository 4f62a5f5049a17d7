# SPDX-License-Identifier: GPL-2.0-or-later
"""Host I/O beside the machine: a few threads do what may take long, and the machine goes on.

A job's `work` runs on a thread of the pool and touches nothing of the machine's; its `done` runs
on the machine's thread, at a border between two slices.

On the real clock a job ends when the host is done, and comes in by the machine's door.  On the
virtual clock it takes as long as its `cost` says, whatever the host needed: a timer stands for
its end, which waits for the host if it has to.  Jobs are then done one after the other, in the
order in which they were submitted, so that those that get into each other's way do so in the
same way each time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.timers import Timer

T = TypeVar("T")

THREADS = 4

DEFAULT_COST_NS = 50_000
"""How long a job takes on the virtual clock unless it says."""


class Outcome(Generic[T]):
    """How a job ended: `get` returns what `work` returned, or raises what it raised."""

    __slots__ = ("_value", "error")

    def __init__(self, value: T | None, error: BaseException | None) -> None:
        self._value = value
        self.error = error

    def get(self) -> T:
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]  # a value, since there's no error


class _Job:
    """A job on its way."""

    __slots__ = ("done", "exclusive", "outcome", "ready", "work")

    def __init__(
        self,
        work: Callable[[], object],
        done: Callable[[Outcome[object]], None],
        ready: threading.Event | None,
        exclusive: bool,
    ) -> None:
        self.work = work
        self.done = done
        self.ready = ready
        self.exclusive = exclusive
        self.outcome: Outcome[object] | None = None

    def run(self) -> None:
        try:
            self.outcome = Outcome(self.work(), None)
        # Whatever it was goes to the one who asked for the job.
        except BaseException as error:
            self.outcome = Outcome(None, error)

    def finish(self) -> None:
        assert self.outcome is not None  # it has run
        self.done(self.outcome)


class WorkPool:
    """The threads of one machine; they start with the first job."""

    def __init__(self, hypervisor: Hypervisor, threads: int = THREADS) -> None:
        self._hypervisor = hypervisor
        self._virtual = hypervisor.clock.virtual
        self._limit = 1 if self._virtual else threads
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._active = 0
        self._alone = False
        self._queue: deque[_Job] = deque()
        self._finished: deque[_Job] = deque()
        self._timers: dict[_Job, Timer] = {}
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._came_home = threading.Condition(self._lock)
        self._posted = False
        self._after: list[Callable[[], None]] = []
        self._closing = False
        self.outstanding = 0
        """Jobs whose `done` has not been called."""

    def submit(
        self,
        work: Callable[[], T],
        done: Callable[[Outcome[T]], None],
        cost: int = DEFAULT_COST_NS,
        *,
        exclusive: bool = False,
    ) -> None:
        """Have `work` done, and then `done` called with how it ended.

        `cost` is how long that takes on the virtual clock, in ns.  An `exclusive` job begins when
        those submitted before it have ended, and those after it wait for its end.  Only the
        machine's thread may call this.
        """
        hypervisor = self._hypervisor
        ready = threading.Event() if self._virtual else None
        job = _Job(work, done, ready, exclusive)  # type: ignore[arg-type]  # of the same T
        self.outstanding += 1
        if self._virtual:
            deadline = hypervisor.clock.now() + max(cost, 1)
            self._timers[job] = hypervisor.timers.add(deadline, lambda: self._finish_virtual(job))
        else:
            hypervisor.door.expect(1)
        with self._condition:
            self._queue.append(job)
            if self._idle:
                self._condition.notify()
            elif len(self._threads) < self._limit:
                thread = threading.Thread(
                    target=self._run, name=f"xenograft-io-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _run(self) -> None:
        """A thread of the pool."""
        condition = self._condition
        while True:
            with condition:
                self._idle += 1
                while not self._may_begin() and not (self._closing and not self._queue):
                    condition.wait()
                self._idle -= 1
                if not self._queue:
                    return
                job = self._queue.popleft()
                self._active += 1
                self._alone = job.exclusive
            job.run()
            with condition:
                self._active -= 1
                self._alone = False
                if self._queue:
                    condition.notify_all()
                if job.ready is not None:
                    job.ready.set()
                    continue
                self._finished.append(job)
                self._came_home.notify()
                post, self._posted = not self._posted, True
            if post:
                self._hypervisor.door.post(self._serve)

    def _may_begin(self) -> bool:
        """Whether the first job that waits may begin (the lock is held)."""
        if not self._queue or self._alone:
            return False
        return not (self._queue[0].exclusive and self._active)

    def after_batch(self, function: Callable[[], None]) -> None:
        """Call `function` once all jobs that have ended by now are done.

        For use in a job's `done`: so that one notice serves many answers.
        """
        self._after.append(function)

    def _run_after(self) -> None:
        after, self._after = self._after, []
        for function in after:
            function()

    def _serve(self) -> None:
        """Bring the finished jobs home (real clock)."""
        with self._condition:
            self._posted = False
            finished = list(self._finished)
            self._finished.clear()
        for job in finished:
            self._hypervisor.door.expect(-1)
            self.outstanding -= 1
            job.finish()
        self._run_after()

    def _finish_virtual(self, job: _Job) -> None:
        timer = self._timers.pop(job, None)
        if timer is None or job.ready is None:
            return
        self._hypervisor.timers.cancel(timer)
        job.ready.wait()
        self.outstanding -= 1
        job.finish()
        self._run_after()

    def drain(self) -> None:
        """Wait until nothing is outstanding, bringing the jobs home at once."""
        while self._timers:
            self._finish_virtual(next(iter(self._timers)))
        while self.outstanding:
            with self._condition:
                while not self._finished:
                    self._came_home.wait()
            self._serve()

    def close(self) -> None:
        """Finish what is outstanding, and end the threads."""
        self.drain()
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

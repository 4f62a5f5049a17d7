# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine CPUs that run at the same time, each on a thread of the host's.

While they run, nothing else of the machine does: whoever comes back first stops the others, and
only when all stand still does the machine's thread look at what they ask for.  So nothing that
it does to one guest can meet another one's running engine.  What concerns nobody else (`Aside`)
is answered on the CPU's own thread meanwhile, one such thing at a time.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xenograft.engine.protocol import Cpu, Exit

FOREVER = 1 << 62

Aside: TypeAlias = "Callable[[int, Exit], Exit | int]"
"""Answers an exit of a CPU (its index) while others run, if it can: the host's time until which it
runs on.  Else the exit that ends the round: as it was, or another if it was answered all the same.
"""


class _Round:
    """CPUs that run at the same time until `deadline`; `over` once one of them has come back."""

    __slots__ = ("aside", "cpus", "deadline", "lock", "over")

    def __init__(self, cpus: Sequence[Cpu], deadline: int, aside: Aside | None) -> None:
        self.cpus = cpus
        self.deadline = deadline
        self.aside = aside
        self.lock = threading.Lock()
        self.over = False

    def run(self, index: int) -> Exit | BaseException:
        """One CPU's part: its exit, or what went wrong."""
        try:
            result: Exit | BaseException = self._run(index)
        except BaseException as error:
            result = error
        if not self.over:
            # Those who come back later need no kick any more; it would end their next run.
            self.over = True
            for other, cpu in enumerate(self.cpus):
                if other != index:
                    cpu.kick()
        return result

    def _run(self, index: int) -> Exit:
        cpu, deadline = self.cpus[index], self.deadline
        while True:
            exit_ = cpu.run(FOREVER, deadline)
            if self.aside is None:
                return exit_
            with self.lock:
                if self.over:
                    return exit_
                answer = self.aside(index, exit_)
                if not isinstance(answer, int):
                    return answer
                deadline = answer


JOIN_SECONDS = 10.0


def host_cpus() -> int:
    """How many threads of this process the host can run at once."""
    return len(os.sched_getaffinity(0))


class Team:
    """Runs up to `size` CPUs at once: one on the caller's thread, the others on threads of its own.

    The threads begin when they're first needed, and end with `close`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._jobs: list[SimpleQueue[tuple[_Round, int] | None]] = []
        self._threads: list[threading.Thread] = []
        self._done: SimpleQueue[tuple[int, Exit | BaseException]] = SimpleQueue()

    def run(self, cpus: Sequence[Cpu], deadline: int, aside: Aside | None = None) -> list[Exit]:
        """Run all of them until one has an exit or the host's time is `deadline`.

        `aside` is asked about each exit until then, on any thread, by one at a time.

        Returns an exit for each; those who were stopped for another's sake have a KICK.  Raises
        what a run raises, when all stand still.
        """
        while len(self._threads) < len(cpus) - 1:
            self._begin()
        turn = _Round(cpus, deadline, aside)
        begun = 0
        results: dict[int, Exit | BaseException] = {}
        try:
            for index in range(1, len(cpus)):
                self._jobs[index - 1].put((turn, index))
                begun += 1
            results[0] = turn.run(0)
            while len(results) < len(cpus):
                index, result = self._done.get()
                results[index] = result
        except BaseException:
            # A signal handler raised: who leaves now may close CPUs, so none may still run.
            while len(results.keys() - {0}) < begun:
                for cpu in cpus:
                    cpu.kick()
                index, result = self._done.get(timeout=JOIN_SECONDS)
                results[index] = result
            raise
        exits: list[Exit] = []
        for index in range(len(cpus)):
            result = results[index]
            if isinstance(result, BaseException):
                raise result
            exits.append(result)
        return exits

    def _begin(self) -> None:
        jobs: SimpleQueue[tuple[_Round, int] | None] = SimpleQueue()
        name = f"pcpu-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._serve, args=(jobs,), name=name, daemon=True)
        self._jobs.append(jobs)
        self._threads.append(thread)
        thread.start()

    def _serve(self, jobs: SimpleQueue[tuple[_Round, int] | None]) -> None:
        while (job := jobs.get()) is not None:
            turn, index = job
            self._done.put((index, turn.run(index)))

    def close(self) -> None:
        """End the threads; no round may be under way."""
        for jobs in self._jobs:
            jobs.put(None)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        self._jobs.clear()
        self._threads.clear()

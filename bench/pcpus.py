# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests that compute: on two physical CPUs, on one, and in two processes.

The last is what the host can give at all: two machines that have nothing to do with each other.
All of them are there from the start, and take turns; what counts is the work done in each turn.
"""

from __future__ import annotations

import multiprocessing
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection

from bench.harness import Result, images
from xenograft import Domain, Machine

WORK = "while :; do i=0; while [ $i -lt 500 ]; do i=$((i+1)); done; echo; done\n"
"""Computes for ever, and tells of each piece of work, which takes about 10 ms, by a line."""
TURN = 1.0
"""Seconds."""
TURNS = 6
"""For each run that is asked for."""


class Busy:
    """A machine whose guests compute whenever it runs."""

    def __init__(self, cpus: int, guests: int) -> None:
        self.machine = Machine(cpus=cpus)
        self._pieces = 0
        try:
            begun = [self._guest(f"guest{number}") for number in range(guests)]
            for guest in begun:
                guest.console.send(WORK)
            self.turn()
        except BaseException:
            self.close()
            raise

    def _guest(self, name: str) -> Domain:
        kernel, ramdisk = images()
        guest = self.machine.create_pvh(
            kernel=kernel, ramdisk=ramdisk, cmdline="console=hvc0 quiet", memory="128M", name=name
        )
        guest.console.expect("guest:~#", timeout=120)
        guest.console.on_output(self._on_output)
        return guest

    def _on_output(self, data: bytes) -> None:
        self._pieces += data.count(b"\n")

    def turn(self) -> int:
        """Let it run for a while; the pieces of work that were done."""
        before = self._pieces
        self.machine.run(timeout=TURN)
        return self._pieces - before

    def close(self) -> None:
        self.machine.close()


def _other_process(orders: Connection) -> None:
    """A machine of one guest that has a turn for each order, until there are no more."""
    with closing(Busy(1, 1)) as busy:
        orders.send(0)
        while orders.recv():
            orders.send(busy.turn())


def _at_once(processes: list[Connection]) -> int:
    for process in processes:
        process.send(True)
    return sum(process.recv() for process in processes)


def run(runs: int) -> list[Result]:
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        processes: list[Connection] = []
        for _ in range(2):
            ours, its = context.Pipe()
            process = context.Process(target=_other_process, args=(its,))
            process.start()
            stack.callback(process.join, 30)
            stack.callback(ours.send, False)
            processes.append(ours)
        for ready in processes:
            ready.recv()
        two, one = (stack.enter_context(closing(Busy(cpus, 2))) for cpus in (2, 1))
        turns = [(two.turn(), one.turn(), _at_once(processes)) for _ in range(runs * TURNS)]
    # Milliseconds for each piece, whoever did it.
    times = [len(turns) * TURN * 1000 / sum(column) for column in zip(*turns, strict=True)]
    return [
        Result("two guests compute, two CPUs", times[0], "ms", 1.8, times[1], "one CPU", True),
        Result("  in two processes", times[2], "ms", None, times[1], "one CPU", True),
    ]

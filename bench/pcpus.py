# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests that compute: on two physical CPUs, on one, and in two processes.

The last is what the host can give at all: two machines that have nothing to do with each other.
All of them are there from the start, and take turns in short pieces.
"""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from statistics import median

from bench.harness import Result, images
from xenograft import Domain, Machine

WORK = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; echo done$((1+1))\n"
TURNS = 3
"""Pieces for each run that is asked for."""


def _guest(machine: Machine, name: str) -> Domain:
    kernel, ramdisk = images()
    guest = machine.create_pvh(
        kernel=kernel,
        ramdisk=ramdisk,
        cmdline="console=hvc0 quiet",
        memory="128M",
        name=name,
    )
    guest.console.expect("guest:~#", timeout=120)
    return guest


def _compute(guests: list[Domain]) -> float:
    """Seconds until all of them have done their piece of work."""
    begin = time.perf_counter()
    for guest in guests:
        guest.console.send(WORK)
    for guest in guests:
        guest.console.expect("done2", timeout=300)
    return time.perf_counter() - begin


def _other_process(orders: Connection) -> None:
    """A machine of one guest that does a piece of work for each order, until there are no more."""
    with Machine(cpus=1) as machine:
        guest = _guest(machine, "alone")
        orders.send(True)
        while orders.recv():
            _compute([guest])
            orders.send(True)


def _beside(processes: list[Connection]) -> float:
    begin = time.perf_counter()
    for process in processes:
        process.send(True)
    for process in processes:
        process.recv()
    return time.perf_counter() - begin


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
        machines = [stack.enter_context(Machine(cpus=cpus)) for cpus in (2, 1)]
        both, turns = ([_guest(machine, name) for name in ("one", "two")] for machine in machines)
        times = [(_compute(both), _compute(turns), _beside(processes)) for _ in range(runs * TURNS)]
    two, one, apart = (median(column) for column in zip(*times, strict=True))
    return [
        Result("two guests compute, two CPUs", two, "s", 1.8, one, "one CPU", higher=True),
        Result("  in two processes", apart, "s", None, one, "one CPU", higher=True),
    ]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Two CPU-bound guests on two physical CPUs: how much more they get done than on one."""

from __future__ import annotations

import statistics
import time

from bench.harness import Result
from xenograft.guests import guest_path
from xenograft.toolstack.machine import Machine

_SECONDS = 2.0
_TURNS = 3


def speed(cpus: int) -> tuple[float, float]:
    """Seconds that 1e9 guest instructions took, of both guests, and host CPUs kept busy."""
    with Machine(cpus=cpus) as machine:
        guests = [
            machine.create_pvh(kernel=guest_path("spin-64"), name=f"spin{number}", memory=16)
            for number in range(2)
        ]
        for guest in guests:
            guest.console.expect("spinning")
        cores = [cpu for guest in guests for vcpu in guest.xen.vcpus if (cpu := vcpu.cpu)]
        before = sum(cpu.instructions() for cpu in cores)
        begin, spent = time.perf_counter(), time.process_time()
        machine.run(timeout=_SECONDS)
        wall = time.perf_counter() - begin
        busy = (time.process_time() - spent) / wall
        done = sum(cpu.instructions() for cpu in cores) - before
        return wall / (done / 1e9), busy


def run(runs: int) -> list[Result]:
    """The ratio that is promised; on a busy host the CPUs kept busy say what limited it."""
    one, two = list[tuple[float, float]](), list[tuple[float, float]]()
    for _ in range(min(runs, _TURNS)):
        one.append(speed(1))
        two.append(speed(2))
    return [
        Result(
            "two CPU-bound guests on two CPUs, 1e9 instructions",
            min(time for time, _ in two),
            "s",
            1.8,
            min(time for time, _ in one),
            "one CPU",
            higher=True,
            note=f"{statistics.median(busy for _, busy in two):.2f} host CPUs busy, "
            f"{statistics.median(busy for _, busy in one):.2f} on one",
        )
    ]

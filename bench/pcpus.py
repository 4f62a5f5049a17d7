# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests that compute: on two physical CPUs, and on one."""

from __future__ import annotations

import time
from statistics import median

from bench.harness import Result, images
from xenograft import Machine

WORK = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done$((1+1))\n"


def _seconds(cpus: int) -> float:
    kernel, ramdisk = images()
    with Machine(cpus=cpus) as machine:
        guests = [
            machine.create_pvh(
                kernel=kernel,
                ramdisk=ramdisk,
                cmdline="console=hvc0 quiet",
                memory="128M",
                name=name,
            )
            for name in ("one", "two")
        ]
        for guest in guests:
            guest.console.expect("guest:~#", timeout=120)
        begin = time.perf_counter()
        for guest in guests:
            guest.console.send(WORK)
        for guest in guests:
            guest.console.expect("done2", timeout=300)
        return time.perf_counter() - begin


def run(runs: int) -> list[Result]:
    times = [(_seconds(2), _seconds(1)) for _ in range(runs)]
    two, one = (median(column) for column in zip(*times, strict=True))
    return [
        Result(
            "two guests compute, two CPUs",
            two,
            "s",
            1.8,
            one,
            "one CPU",
            higher=True,
        )
    ]

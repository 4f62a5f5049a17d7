# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that are saved, restored, cloned and sent: how long it takes, and what clones cost."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench.harness import XG, Result, images
from xenograft import Machine
from xenograft.toolstack.images.cache import ImageCache
from xenograft.toolstack.machine import Domain

CLONES = 100
REST_S = 10
MOVES = 5
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def _seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _booted(machine: Machine) -> Domain:
    kernel, ramdisk = images()
    guest = machine.create_pvh(
        kernel=kernel, ramdisk=ramdisk, cmdline="console=hvc0 quiet", memory="256M"
    )
    guest.console.expect("guest:~#", timeout=120)
    machine.run(timeout=1)
    return guest


def _pss() -> float:
    """MiB of this process's share of memory, guests' frames included."""
    found = _PSS.search(Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _saved() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "guest.save"
        with Machine() as machine:
            guest = _booted(machine)
            save = _seconds(lambda: guest.save(path, mode="snapshot"))
        with Machine() as machine:
            restore = _seconds(lambda: machine.restore(path))
    return save, restore


def _cloned() -> tuple[float, float, float]:
    """(one clone, a hundred, MiB of each when it has been idle for a while)"""
    with Machine() as machine:
        guest = _booted(machine)
        one = []
        for _ in range(21):
            begin = time.perf_counter()
            clone = guest.fork()
            one.append(time.perf_counter() - begin)
            machine.run(timeout=0.01)
            clone.destroy()
        machine.run(timeout=REST_S)
        before = _pss()
        many = _seconds(lambda: [guest.fork() for _ in range(CLONES)])
        machine.run(timeout=REST_S)
        return median(one[1:]), many, (_pss() - before) / CLONES


def _sent() -> dict[str, float]:
    """How long a guest stood still when it moved between two services, by the way it was asked.

    Seconds; the median of some moves each.
    """
    cache = ImageCache()
    took: dict[str, list[float]] = {"suspend": [], "snapshot": []}
    with (
        tempfile.TemporaryDirectory(prefix="xg-") as here,
        tempfile.TemporaryDirectory(prefix="xg-") as there,
    ):
        config = Path(here) / "bench.cfg"
        config.write_text(
            f'name="bench"\ntype="pvh"\nkernel="{cache.get("debian-cloud").path}"\n'
            f'ramdisk="{cache.get("demo-initrd").path}"\nextra="console=hvc0"\nmemory=256\n'
        )
        at, to = here, there
        env = {place: {**os.environ, "XG_SERVICE_DIR": place} for place in (here, there)}
        try:
            subprocess.run([XG, "create", "-q", str(config)], check=True, env=env[here])
            time.sleep(5)
            for _ in range(MOVES):
                for way, samples in took.items():
                    done = subprocess.run(
                        [XG, "migrate", f"--{way}", "bench", f"unix:{to}"],
                        check=True,
                        env=env[at],
                        capture_output=True,
                        text=True,
                    )
                    found = re.search(r"was down for (\d+) ms", done.stderr)
                    assert found is not None, done.stderr
                    samples.append(int(found[1]) / 1000)
                    at, to = to, at
        finally:
            for place in env.values():
                subprocess.run([XG, "service", "stop"], check=False, env=place, capture_output=True)
    return {way: median(samples) for way, samples in took.items()}


def run(runs: int) -> list[Result]:
    saved = [_saved() for _ in range(runs)]
    one, many, memory = _cloned()
    sent = _sent()
    return [
        Result("save 256 MiB", median(save for save, _ in saved), "s", 1.0),
        Result("restore 256 MiB", median(restore for _, restore in saved), "s", 1.0),
        Result("clone, median of 20", one * 1000, "ms", 5.0),
        Result(f"{CLONES} clones", many, "s", 1.0),
        Result("memory of an idle clone", memory, "MiB", 15.0),
        Result("down time of a migration", sent["suspend"] * 1000, "ms", 300),
        Result("  without the guest's help", sent["snapshot"] * 1000, "ms", 300),
    ]

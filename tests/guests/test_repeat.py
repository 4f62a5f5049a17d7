# SPDX-License-Identifier: GPL-2.0-or-later
"""On the virtual clock a run repeats, byte for byte: Debian's kernel, from its entry to its end.

Each run is a process of its own, with another hash seed and another layout of memory; the
second has other slices and a busy machine besides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Image = Callable[[str], Path]

ROOT = Path(__file__).parents[2]


def boot(image: Image, vcpus: int, host_slice: int, hash_seed: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.guests.replay"),
            *(str(image("debian-cloud")), str(image("demo-initrd")), str(vcpus), str(host_slice)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr.decode()
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def load() -> Iterator[None]:
    """Something else to do for the machine."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_boot_repeats(image: Image, vcpus: int) -> None:
    first = boot(image, vcpus, 8_000_000, "1")
    with load():
        second = boot(image, vcpus, 77_777, "2")
    assert first["reason"] == "poweroff"
    assert "hvc_console" in first["console"]
    assert first["console"] == second["console"]
    assert first == second
    for stream, least in (("hypercalls", 1000), ("exits", 1000), ("injections", 100)):
        assert int(first[stream].split(":")[0]) > least, f"{stream}: too few to prove anything"
    assert int(first["output"].split(":")[0]) > 10

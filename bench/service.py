# SPDX-License-Identifier: GPL-2.0-or-later
"""The host service: how quickly commands answer, and what it adds to a boot."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.harness import OURS, XG, Result, boot
from xenograft.toolstack.images.cache import ImageCache
from xenograft.toolstack.images.initrd import MARKER

_REPEAT = 15


@contextmanager
def _service() -> Iterator[Path]:
    """A service of our own, beside the user's."""
    with tempfile.TemporaryDirectory(prefix="xg-") as folder:
        os.environ["XG_SERVICE_DIR"] = folder
        try:
            subprocess.run([XG, "service", "start"], check=True)
            yield Path(folder)
        finally:
            subprocess.run([XG, "service", "stop"], check=False, stderr=subprocess.DEVNULL)
            del os.environ["XG_SERVICE_DIR"]


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _boot(folder: Path) -> float:
    """`xg create -c` to user space, of the guest that `bench boot` runs with `xg run`."""
    cache = ImageCache()
    config = folder / "bench.cfg"
    config.write_text(
        f'name="bench"\ntype="pvh"\nkernel="{cache.get("debian-cloud").path}"\n'
        f'ramdisk="{cache.get("demo-initrd").path}"\nextra="{OURS.parameters} xg.run=true"\n'
        "memory=256\n"
    )
    begin = time.perf_counter()
    command = subprocess.Popen(
        [XG, "create", "-q", "-c", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert command.stdout is not None
    seen = b""
    while MARKER.encode() not in seen:
        piece = os.read(command.stdout.fileno(), 65536)
        if not piece:
            raise RuntimeError("the guest ended before user space")
        seen += piece
    taken = time.perf_counter() - begin
    command.wait()  # it powers off
    command.stdout.close()
    return taken


def run(runs: int) -> list[Result]:
    """The boots take turns with `xg run`'s, so that a busy host is the same for both."""
    with _service() as folder:
        listing = min(_seconds([XG, "list"]) for _ in range(_REPEAT))
        created, run_ = [], []
        for _ in range(runs):
            run_.append(boot(OURS, 1).at(MARKER))
            created.append(_boot(folder))
    extra = median(created) - median(run_)
    return [
        Result("xg list", listing, "s", 0.2),
        Result("xg create to user space", median(created), "s"),
        Result("  over xg run", extra, "s", 0.3),
    ]

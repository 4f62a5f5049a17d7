# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory beside the guest's own, ten seconds after user space."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path

from bench.harness import OURS, Result, images
from xenograft.toolstack.images.initrd import MARKER

_ENTRY = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$")


def proportional(smaps: str) -> dict[str, int]:
    """Proportional set size in KiB by name of the mapping, from the text of an smaps file.

    >>> proportional("1000-2000 rw-s 00000000 00:01 7 /memfd:frames (deleted)\\nPss: 4 kB\\n")
    {'/memfd:frames (deleted)': 4}
    """
    sizes: dict[str, int] = {}
    name = ""
    for line in smaps.splitlines():
        if found := _ENTRY.match(line):
            name = found.group(1)
        elif line.startswith("Pss:"):
            sizes[name] = sizes.get(name, 0) + int(line.split()[1])
    return sizes


def measure(wait: float = 10) -> float:
    """MiB of this process's share of memory, less the frames of guests (memfds)."""
    kernel, ramdisk = images()
    cmdline = f'{OURS.parameters} xg.run="sleep 60"'
    process = subprocess.Popen(
        OURS.command(kernel, ramdisk, cmdline, 1, 256),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if MARKER in line:
                break
        else:
            raise RuntimeError("the guest didn't reach user space")
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        time.sleep(wait)
        if process.poll() is not None:
            raise RuntimeError("the guest ended too early")
        sizes = proportional(Path(f"/proc/{process.pid}/smaps").read_text())
    finally:
        process.terminate()
        process.wait(10)
    return sum(size for name, size in sizes.items() if not name.startswith("/memfd:")) / 1024


def run(runs: int) -> list[Result]:
    """One guest: at most 60 MiB beside its frames."""
    return [Result("memory beside the guest", measure(), "MiB", 60)]

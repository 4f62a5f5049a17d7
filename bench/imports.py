# SPDX-License-Identifier: GPL-2.0-or-later
"""How quickly the package and the command line start."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.harness import XG, Result

_REPEAT = 15


def _best(command: list[str]) -> float:
    """The quickest of several runs: what's slower was somebody else's work."""
    best = float("inf")
    for _ in range(_REPEAT):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - begin)
    return best


def run(runs: int) -> list[Result]:
    """Import time is what it adds to the start of Python; commands are whole processes."""
    bare = _best([sys.executable, "-c", "pass"])
    whole = _best([sys.executable, "-c", "import xenograft; xenograft.Machine"])
    package = _best([sys.executable, "-c", "import xenograft"])
    return [
        Result("import xenograft", package - bare, "s", 0.1),
        Result("import xenograft.Machine", whole - bare, "s"),
        Result("xg --version", _best([XG, "--version"]), "s", 0.2),
        Result("xg --help", _best([XG, "--help"]), "s", 0.2),
    ]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the tiny guests with the host's make, gcc and ld: ``python -m xenograft.guests.build``.

Cheap when all is up to date (make decides), and safe to call from several processes at once.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from xenograft.guests import IMAGES, GuestBuildError

__all__ = ["SOURCES", "build", "main"]

SOURCES = Path(__file__).resolve().parents[3] / "guests"
"""The guests' sources in a checkout; absent where only the built package is installed."""

TOOLS = ("make", "gcc", "ld")


def build(target: str = "all", out: Path = IMAGES, *, werror: bool = False) -> None:
    """Build `target` (``all``, or ``demo`` for the one that the package carries) into `out`.

    `werror` makes compiler warnings errors.  Raises GuestBuildError with one line that names the
    missing tool or the first message of the compiler.
    """
    if not (SOURCES / "Makefile").exists():
        raise GuestBuildError(f"the guests' sources are not at {SOURCES}")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise GuestBuildError(f"{tool} is needed to build the guests: install gcc and make")
    out.mkdir(parents=True, exist_ok=True)
    command = ["make", "--silent", "-C", str(SOURCES), f"OUT={out.resolve()}", target]
    if werror:
        command.append("WERROR=-Werror")
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        first = next((line for line in lines if "error" in line.lower()), "no message")
        if "error" not in first.lower() and lines:
            first = lines[-1]
        raise GuestBuildError(f"the guests could not be built: {first}")


def main(argv: list[str] | None = None) -> int:
    """The command line: builds into the package (or ``--out``); exit status 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m xenograft.guests.build")
    parser.add_argument("target", nargs="?", default="all", choices=["all", "demo"])
    parser.add_argument("--out", type=Path, default=IMAGES)
    options = parser.parse_args(argv)
    try:
        build(options.target, options.out)
    except GuestBuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

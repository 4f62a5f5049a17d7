# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs benchmarks and prints a table; the exit status is 1 if a promise isn't kept."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys

from bench.harness import Result
from xenograft.guests import GuestBuildError
from xenograft.toolstack.errors import UserError

NAMES = (
    *("imports", "service", "hypercall", "pv", "xenstore", "sched"),
    *("boot", "memory", "work", "disk", "net", "state", "pcpus"),
)


def _cell(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.3g} {unit}".strip()


def _row(result: Result) -> list[str]:
    sign = ">=" if result.higher else "<="
    promise = "-" if result.bound is None else f"{sign} {result.bound:g}"
    if result.bound is not None and not result.peer_name:
        promise += f" {result.unit}"
    verdict = {True: "kept", False: "BROKEN", None: "-"}[result.kept]
    peer = f"{_cell(result.peer, result.unit)} ({result.peer_name})" if result.peer else "-"
    ours = _cell(result.value, result.unit)
    return [result.name, ours, peer, _cell(result.ratio), promise, verdict, result.note]


def table(results: list[Result]) -> str:
    """The results in columns; ratio is ours to the peer's (of speeds where more is better)."""
    rows = [["what", "ours", "peer", "ratio", "promise", "", ""], *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--runs", type=int, default=5, help="of each boot (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    # Users' Python caches what it compiles; without that, starting is mostly compiling.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    results: list[Result] = []
    for name in options.names or NAMES:
        print(f"bench {name} ...", file=sys.stderr, flush=True)
        try:
            results += importlib.import_module(f"bench.{name}").run(options.runs)
        except (RuntimeError, UserError, GuestBuildError, OSError) as error:
            results.append(Result(name, None, "", note=f"not measured: {error}"))
    if options.json:
        records = [{**dataclasses.asdict(one), "ratio": one.ratio} for one in results]
        print(json.dumps(records, indent=2))
    else:
        print(table(results))
    broken = any(one.kept is False or one.value is None for one in results)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

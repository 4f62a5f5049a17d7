# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg xtf`: runs tests of the Xen Test Framework that the user has built."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

import click
import msgspec

from xenograft.cli.status import FAULT, OK

_EPILOG = """\b
The framework isn't part of Xenograft.  Build it first:
  git clone its repository, and run make in it
  xg xtf xtf/tests
  xg xtf xtf/tests/selftest/test-pv64-selftest
  xg xtf xtf/tests --only 'test-pv64-*'

Exit status: 0 if none failed or erred, else 1."""


@click.command(epilog=_EPILOG, short_help="Run tests of the Xen Test Framework.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH…")
@click.option("--only", metavar="PATTERN", help="Only tests whose name matches, as test-pv64-*.")
@click.option("--timeout", type=float, default=120.0, help="Seconds of a test's own time [120].")
@click.option("--verbose", "-v", is_flag=True, help="Show what each test prints.")
@click.option("--json", "as_json", is_flag=True, help="Print an array with an object per test.")
def xtf(
    paths: tuple[Path, ...], only: str | None, timeout: float, verbose: bool, as_json: bool
) -> int:
    """Run tests of the Xen Test Framework: binaries, or trees that hold them.

    Prints a line per test: its name, the result, and the reason if it isn't SUCCESS.
    """
    from xenograft.toolstack.xtf import find_tests, run_test

    tests = find_tests(paths)
    results = []
    for test in tests:
        if only is not None and not fnmatch.fnmatch(test.name, only):
            continue
        result = run_test(test, timeout)
        results.append(result)
        if not as_json:
            if verbose:
                click.echo(result.output.rstrip())
            click.echo(f"{result.name:40} {result.result:8} {result.reason}".rstrip())
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(results), indent=2))
    return OK if all(result.passed for result in results) else FAULT

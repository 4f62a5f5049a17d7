# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a test guest of ours on a whole machine, and reads what it prints (`guests/lib/test.h`)."""

from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from xenograft.guests.build import SOURCES
from xenograft.toolstack.build.domain import build_domain
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Domain, Machine

VCPUS = 4
"""Of each test guest: some tests want others to wake, send to and stop."""

SECONDS = 60.0
"""Of the machine's time that a guest may take: a hundred times what the slowest needs."""

_LINE = re.compile(r"^(?:\(d\d+\) )?(PASS|FAIL|SKIP) (\w+)(?:: (.*?))?\r?$", re.MULTILINE)
_TEST = re.compile(r"^(?:[A-Z_]*)TEST\((\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """What a guest said about its tests, by name."""

    output: str
    passed: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the guest came to its end, and counts as many tests as it has named."""
        counts = f"Tests: {len(self.passed)} passed, {len(self.failed)} failed, "
        return f"{counts}{len(self.skipped)} skipped" in self.output


def read(output: str) -> Report:
    """The report in a guest's output."""
    found: dict[str, dict[str, str]] = {"PASS": {}, "FAIL": {}, "SKIP": {}}
    for result, name, why in _LINE.findall(output):
        found[result][name] = why
    return Report(output, tuple(found["PASS"]), found["FAIL"], found["SKIP"])


def run(
    kernel: Path,
    cmdline: str = "",
    *,
    clock: Literal["real", "virtual"] = "virtual",
    vcpus: int = VCPUS,
    memory: int = 64,
    seconds: float = SECONDS,
    patient: bool = True,
) -> Report:
    """Run a guest's tests; unless `patient`, one that doesn't end in time is read all the same.

    One that is called hvm_… runs as an HVM guest, entered as a PVH guest is.
    """
    kind = "pv" if kernel.stem.endswith("-pv64") else "pvh"
    config = from_options(
        name="guest", type=kind, kernel=str(kernel), cmdline=cmdline, memory=memory, vcpus=vcpus
    )
    with Machine(clock=clock) as machine:
        hvm = kernel.stem.startswith("hvm_")
        guest = create_hvm(machine, config) if hvm else machine.create(config)
        with nullcontext() if patient else suppress(TimeoutError):
            guest.wait(timeout=seconds)
        return read(guest.console.output + machine.log)


def create_hvm(machine: Machine, config: DomainConfig, *, paused: bool = False) -> Domain:
    """A PVH guest's configuration as an HVM guest: it's entered in the same way."""
    built = msgspec.structs.replace(build_domain(config), kind="hvm")
    return machine.create_built(built, config, paused=paused)


def suites() -> list[tuple[str, str]]:
    """All test guests as (source, environment), from the list that they're built from."""
    words = (SOURCES / "tests" / "environments.txt").read_text().split()
    return [(name.removeprefix("tests/"), env) for name, env in (w.split(":") for w in words)]


def declared(source: str) -> set[str]:
    """The tests in a guest's source; some environments leave some out."""
    return set(_TEST.findall((SOURCES / f"{source}.c").read_text()))

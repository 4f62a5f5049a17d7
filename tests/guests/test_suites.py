# SPDX-License-Identifier: GPL-2.0-or-later
"""Every test guest (`guests/tests`), in every environment that it's built for.

A failure names the guest's own tests that failed, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guests.support import Report, declared, run, suites

Guest = Callable[[str], Path]

LIMITS: dict[str, str] = {
    "exceptions.page_fault_read_modify_write_is_a_write": (
        "the engine does a read-modify-write as a load and a store: the load faults first"
    ),
    "fpu.misaligned_movaps_faults": "the engine's vector loads and stores ask for no alignment",
}
"""What the CPU engine doesn't do as a machine would, by guest and test. Strict: one that passes
must go from here."""

CMDLINE = "word"

SKIPS: dict[str, set[str]] = {
    "events": {"reset_closes_all"},  # has a run of its own, below
}
"""Tests that may be skipped here; all others must run."""


def check(source: str, report: Report) -> None:
    """The report of a guest must be complete, and nothing in it failed but known limits."""
    assert report.complete, report.output[-2000:]
    limits = {name for name in LIMITS if name.startswith(f"{source}.")}
    failed = {f"{source}.{name}: {why}" for name, why in report.failed.items()}
    unexpected = {line for line in failed if line.split(":")[0] not in limits}
    assert not unexpected, "\n".join(sorted(unexpected))
    mended = {name for name in report.passed if f"{source}.{name}" in limits}
    assert not mended, f"no limit any more: {mended}"
    assert not set(report.skipped) - SKIPS.get(source, set()), report.skipped


@pytest.mark.parametrize(("source", "env"), suites(), ids=lambda word: word)
def test_guest(guest: Guest, source: str, env: str) -> None:
    report = run(guest(f"{source}-{env}"), CMDLINE)
    names = {*report.passed, *report.failed, *report.skipped}
    image = guest(f"{source}-{env}").read_bytes()
    assert names <= declared(f"tests/{source}")
    built = {n for n in declared(f"tests/{source}") if b"\0" + n.encode() + b"\0" in image}
    assert built <= names, "the guest has tests that it didn't run"
    check(source, report)


TIMED = {"events", "hvm_devices", "lapic", "smp", "vcpu"}
"""These look how long things take, which on the real clock depends on who else is busy."""


@pytest.mark.parametrize("source", sorted({source for source, _ in suites()} - TIMED))
def test_guest_on_the_real_clock(guest: Guest, source: str) -> None:
    check(source, run(guest(f"{source}-64"), CMDLINE, clock="real"))


@pytest.mark.parametrize("env", ["64", "pae"])
def test_reset_of_all_events(guest: Guest, env: str) -> None:
    """It takes the console's channel too, so that the guest prints by console_io."""
    report = run(guest(f"events-{env}"), "only=reset_closes_all console_io")
    assert report.passed == ("reset_closes_all",), report.output


def test_one_vcpu_is_enough(guest: Guest) -> None:
    """Tests of several vCPUs are skipped, and none fails, where there's one."""
    report = run(guest("vcpu-64"), vcpus=1)
    assert report.complete
    assert not report.failed
    assert set(report.skipped.values()) == {"one vCPU"}


def test_every_test_runs_somewhere(guest: Guest) -> None:
    """No declared test is left out of all environments."""
    for source in {source for source, _ in suites()}:
        seen: set[str] = set()
        for other, env in suites():
            if other == source:
                image = guest(f"{source}-{env}").read_bytes()
                seen |= {n for n in declared(f"tests/{source}") if n.encode() + b"\0" in image}
        assert seen == declared(f"tests/{source}")

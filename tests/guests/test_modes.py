# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of guest modes (`xg modes`): every cell of an implemented kind has a passing test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_play import xg
from tests.guests.support import Report, declared, run
from xenograft.observe.modes import GUEST_TESTS, KINDS, Row, kind, records

Guest = Callable[[str], Path]


@pytest.fixture(scope="module")
def reports(guest: Guest) -> dict[str, Report]:
    """What each of the guests that hold the tests says."""
    return {name: run(guest(name)) for name in GUEST_TESTS}


@pytest.mark.parametrize("row", Row)
@pytest.mark.parametrize("name", [each.name for each in KINDS if each.test(Row.io_devices)])
def test_cell(reports: dict[str, Report], name: str, row: Row) -> None:
    test = kind(name).test(row)
    assert test is not None
    holders = [g for g, r in reports.items() if test in {*r.passed, *r.failed, *r.skipped}]
    assert holders, f"no guest has the test {test}"
    for holder in holders:
        report = reports[holder]
        assert test in report.passed, report.failed.get(test) or report.skipped.get(test)


def test_both_widths_hold_every_test_of_pvh(reports: dict[str, Report]) -> None:
    tests = {kind("pvh").test(row) for row in Row}
    for name in ("modes-64", "modes-pae"):
        assert set(reports[name].passed) == tests
        assert reports[name].complete
    assert declared("modes/modes") == tests


def test_the_pv_guest_holds_every_test_of_pv(reports: dict[str, Report]) -> None:
    tests = {kind("pv").test(row) for row in Row}
    assert set(reports["modes_pv-pv64"].passed) == tests
    assert reports["modes_pv-pv64"].complete
    assert declared("modes/modes_pv") == tests


def test_what_xg_prints_is_the_table() -> None:
    done = xg("modes", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == records()
    text = xg("modes").stdout.decode()
    for record in records():
        shown = kind(record["kind"])
        assert (record["test"] is not None) is shown.implemented
        if record["test"] is not None:
            assert f"[{record['test']}]" in text


def test_a_cell_can_be_wrong(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a device where the table says none fails the cell's test."""
    from xenograft.hypervisor import exits

    answers = {size: exits.Action(exits.Act.COMPLETE, 0) for size in (1, 2, 4, 8)}
    monkeypatch.setattr(exits, "_UNCLAIMED", answers)
    report = run(guest("modes-64"))
    assert {"pvh_legacy_devices", "pvh_io_devices"} <= set(report.failed)
    assert "pvh_kernel_entry" in report.passed


def test_a_cell_of_pv_can_be_wrong(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports that answer something fail the tests of the cells that say there are none."""
    from xenograft.hypervisor.pv import emulate

    def port(self: emulate._Emulation, _insn: object) -> None:
        self.cpu.set("rax", 0)

    monkeypatch.setattr(emulate._Emulation, "_port", port)
    report = run(guest("modes_pv-pv64"))
    assert {"pv_legacy_devices", "pv_io_devices"} <= set(report.failed)
    assert "pv_kernel_entry" in report.passed

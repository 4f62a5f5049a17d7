# SPDX-License-Identifier: GPL-2.0-or-later
"""The schedule of a machine as a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hypervisor.support import OPEN, Bench
from tests.hypervisor.test_loop import Spin
from tests.observe.test_xentrace import read
from xenograft.abi.trace import TRC_SCHED_SWITCH
from xenograft.observe.schedule import ScheduleFile
from xenograft.toolstack.errors import UserError


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def record(path: Path) -> Bench:
    bench = Bench(Spin(), Spin())
    with ScheduleFile(bench.xen, path):
        bench.run(deadline=8_000_000)
        bench.xen.destroy_domain(bench.domain)
    return bench


def test_svg(tmp_path: Path) -> None:
    record(tmp_path / "s.svg")
    text = (tmp_path / "s.svg").read_text()
    assert "Domain-1 v0" in text
    assert "Domain-1 v1" in text
    assert text.count("<title>") > 3


def test_png(tmp_path: Path) -> None:
    record(tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_xentrace(tmp_path: Path) -> None:
    bench = record(tmp_path / "s.xentrace")
    switches = [one[3] for one in read(tmp_path / "s.xentrace") if one[1] == TRC_SCHED_SWITCH]
    domid = bench.domain.domid
    assert (domid, 0, domid, 1) in switches
    assert (domid, 1, domid, 0) in switches


def test_errors_come_first_and_in_a_line(tmp_path: Path) -> None:
    bench = Bench(Spin())
    with pytest.raises(UserError, match=r"has to end in \.svg"):
        ScheduleFile(bench.xen, tmp_path / "s.gif")
    for name in ("s.svg", "s.xentrace"):
        with pytest.raises(UserError, match="No such file"):
            ScheduleFile(bench.xen, tmp_path / "nowhere" / name)

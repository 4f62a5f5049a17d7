# SPDX-License-Identifier: GPL-2.0-or-later
"""All observers at once, and none of them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hypervisor.support import Bench
from tests.observe.test_crash import crashes
from tests.observe.test_log import guest
from tests.observe.test_trace import Read
from xenograft.hypervisor.instruments import HOOKS
from xenograft.observe.session import Observation
from xenograft.toolstack.errors import UserError


def test_everything(tmp_path: Path) -> None:
    bench = Bench(guest)
    lines: list[str] = []
    out = io.StringIO()
    path = tmp_path / "trace"
    with Observation(
        bench.xen,
        trace=path,
        log=["hypercalls=sched_op", "exits"],
        stats=True,
        write=lines.append,
        out=out,
    ) as observation:
        bench.run()
    assert any("SCHEDOP_shutdown" in line for line in lines)
    assert "event_channel_op.EVTCHNOP_send" in out.getvalue()
    Read(path.read_bytes()).check_slices()
    assert observation.stats is not None
    assert observation.stats.report().exits["HYPERCALL"] == 2
    assert all(getattr(bench.xen.instruments, hook) is None for hook in HOOKS)
    # A second end prints nothing more.
    printed = out.getvalue()
    observation.close()
    assert out.getvalue() == printed


def test_without_options_only_the_crash_report_listens() -> None:
    bench = Bench(crashes)
    with Observation(bench.xen):
        heard = {hook for hook in HOOKS if getattr(bench.xen.instruments, hook) is not None}
        # Calls that the engine answers by itself are still answered by itself.
        assert heard == {"hypercall_exit", "domain_state"}
        bench.run()
    assert bench.domain.crash_report is not None
    assert "Registers:" in bench.domain.crash_report


def test_stats_are_innermost() -> None:
    """They begin last and end first, so that other observers' work isn't counted."""
    bench = Bench(guest)
    with Observation(bench.xen, log=["hypercalls"], stats=True, write=str, out=io.StringIO()):
        names = [type(one).__name__ for one in bench.xen.instruments._listeners]
    assert names[0] == names[-1] == "SimpleNamespace"
    assert len(names) == 4


def test_bad_options_leave_nothing_behind(tmp_path: Path) -> None:
    bench = Bench(guest)
    with pytest.raises(UserError):
        Observation(bench.xen, log=["frob"])
    with pytest.raises(UserError):
        Observation(bench.xen, trace=tmp_path / "missing" / "trace")
    assert all(getattr(bench.xen.instruments, hook) is None for hook in HOOKS)


def test_heavy_modules_are_imported_when_they_are_used() -> None:
    program = (
        "import sys, xenograft.observe.session, xenograft.observe.log, xenograft.observe.stats\n"
        "import xenograft.observe.trace, xenograft.observe.crash\n"
        "heavy = {'perfetto', 'capstone', 'rich', 'elftools'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

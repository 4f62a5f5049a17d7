# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's own xenalyze, as Debian has it, reads our files and finds what really ran."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hypervisor.support import OPEN, Bench
from tests.hypervisor.test_loop import Spin
from tests.hypervisor.test_metering import sleeper
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.hypervisor.sched.topology import Topology
from xenograft.hypervisor.sched.unit import SchedUnit
from xenograft.observe.xentrace import XentraceWriter
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import cache_root
from xenograft.toolstack.images.tools import program
from xenograft.toolstack.sched.history import DOMID_IDLE, History
from xenograft.toolstack.sched.loads import Blocking, Busy, Periodic
from xenograft.toolstack.sched.simulator import Simulator

MS = 1_000_000
Runs = dict[tuple[int, int], tuple[int, int]]
"""How often each (domid, vCPU) ran, and how long at a time on the average (ns)."""


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def xenalyze(path: Path) -> Runs:
    """What it tells of our domains; it has to be content with the file."""
    try:
        found = program("xenalyze", cache_root())
    except UserError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [found.path, "--cpu-hz=1G", "-s", path],
        env=found.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    complaints = re.compile("skew|fatal|strange|warn|error|not updating", re.IGNORECASE)
    assert [line for line in done.stderr.splitlines() if complaints.search(line)] == []
    runs: Runs = {}
    domid = vcpu = -1
    for line in done.stdout.splitlines():
        if match := re.match(r"\|-- Domain (\d+) --\|", line):
            domid, vcpu = int(match[1]), -1
        elif match := re.match(r"-- v(\d+) --", line):
            vcpu = int(match[1])
        elif vcpu >= 0 and (match := re.match(r" +running: +(\d+) +\S+ +(\d+) ", line)):
            runs[domid, vcpu] = (int(match[1]), int(match[2]))
    return {who: what for who, what in runs.items() if who[0] < 0x7FF0}


def ours(history: History) -> Runs:
    """The same, as it was."""
    lengths: dict[tuple[int, int], list[int]] = {}
    for one in history.segments:
        lengths.setdefault((one.domid, one.vcpu), []).append(one.end - one.start)
    return {who: (len(each), sum(each) // len(each)) for who, each in lengths.items()}


def stop(history: History, writer: XentraceWriter, now: int, cpus: int) -> None:
    """Let all CPUs idle, so that no run is cut off by the end of the file."""
    for cpu in range(cpus):
        history.sched_decision(now, cpu, DOMID_IDLE, cpu)
        writer.sched_decision(now, cpu, DOMID_IDLE, cpu)


def same(theirs: Runs, mine: Runs) -> bool:
    """As many runs; what happened at one moment on two CPUs is a nanosecond apart in the file."""
    return theirs.keys() == mine.keys() and all(
        theirs[who][0] == mine[who][0] and abs(theirs[who][1] - mine[who][1]) <= 2 for who in mine
    )


@pytest.mark.parametrize("scheduler", ["credit", "credit2", "rtds", "null"])
def test_a_simulation(scheduler: str, tmp_path: Path) -> None:
    sim = Simulator(Topology.of(cores=2), BY_NAME[scheduler].sched_id)
    history, path = History(), tmp_path / "t.xentrace"
    with XentraceWriter(path) as writer:

        def decided(
            now: int, cpu: int, prev: SchedUnit | None, following: SchedUnit | None
        ) -> None:
            history.decided(now, cpu, prev, following)
            writer.decided(now, cpu, prev, following)

        sim.core.hook, sim.woken = decided, writer.woken
        reserve = Params(period_us=10_000, budget_us=3_000, extratime=False)
        for number in range(3):
            params = reserve if scheduler == "rtds" else None
            sim.add_domain(f"hog{number}", [Busy(), Blocking(MS, 3 * MS, seed=number)], params)
        sim.add_domain("task", [Periodic(10 * MS, 2 * MS)], params)
        sim.run(2_000 * MS)
        stop(history, writer, sim.time, 2)
    mine = ours(history)
    # Under null those that come first have the CPUs for ever.
    assert len(mine) == (2 if scheduler == "null" else 7)
    theirs = xenalyze(path)
    assert same(theirs, mine), (theirs, mine)


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_machine_with_guests(cpus: int, tmp_path: Path) -> None:
    bench = Bench(Spin(), sleeper, topology=Topology.of(cores=cpus))
    bench.use_callback()
    bench.domain.events.bind_virq(0, 1)
    other = bench.add_domain(2)
    history, path = History(), tmp_path / "t.xentrace"
    with XentraceWriter(path) as writer:
        bench.xen.instruments.add(history)
        bench.xen.instruments.add(writer)
        for vcpu in other.vcpus:
            bench.start(vcpu)
        other.unpause()
        bench.run(until=lambda: False, deadline=100 * MS)
        stop(history, writer, max(bench.xen.sched.since), cpus)
    mine = ours(history)
    assert len(mine) >= 2
    theirs = xenalyze(path)
    assert same(theirs, mine), (theirs, mine)

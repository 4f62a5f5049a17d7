# SPDX-License-Identifier: GPL-2.0-or-later
"""Command start to user space: Debian's cloud kernel with one and with four vCPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

from bench.harness import OURS, Result, Run, alternate, boot, peers
from xenograft.toolstack.images.initrd import MARKER


def _seconds(run: Run) -> float:
    return run.at(MARKER)


def _cpu(run: Run) -> float:
    return run.cpu


def _show(run: Run) -> str:
    return f"{_seconds(run):.3f} s, {run.cpu:.3f} s of processor time"


def _boots(vcpus: int, runs: int) -> dict[str, list[Run]]:
    machines = [OURS, *(peer for peer in peers() if not peer.missing)]
    return alternate(runs, {one.name: partial(boot, one, vcpus) for one in machines}, _show)


def _result(
    name: str, taken: dict[str, list[Run]], figure: Callable[[Run], float], bound: float | None
) -> Result:
    medians = {machine: median(map(figure, values)) for machine, values in taken.items()}
    ours = medians.pop(OURS.name)
    note = "; ".join(f"{peer.name}: {peer.missing}" for peer in peers() if peer.missing)
    fastest = min(medians, key=lambda peer: medians[peer], default="QEMU TCG")
    return Result(name, ours, "s", bound, medians.get(fastest), fastest, note=note)


def run(runs: int) -> list[Result]:
    """The boots: bounds are ratios to QEMU's faster machine.

    Processor time is shown beside them, since it says more where the host is busy.
    """
    one, four = _boots(1, runs), _boots(4, runs)
    ours = [median(map(_seconds, taken[OURS.name])) for taken in (one, four)]
    return [
        _result("boot, 1 vCPU", one, _seconds, 1.0),
        _result("  its processor time", one, _cpu, None),
        _result("boot, 4 vCPUs", four, _seconds, 1.2),
        _result("  its processor time", four, _cpu, None),
        Result("boot, 4 vCPUs by 1", ours[1] / ours[0], "times", note="goal 1.5"),
    ]

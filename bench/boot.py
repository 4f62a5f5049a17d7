# SPDX-License-Identifier: GPL-2.0-or-later
"""Command start to user space: Debian's cloud kernel with one and with four vCPUs."""

from __future__ import annotations

from functools import partial

from bench.harness import OURS, Peer, Result, alternate, boot_time, peers


def _boot(name: str, vcpus: int, bound: float, runs: int) -> tuple[Result, float]:
    present = [peer for peer in peers() if not peer.missing]
    machines: list[Peer] = [OURS, *present]
    medians = alternate(runs, {one.name: partial(boot_time, one, vcpus) for one in machines})
    ours = medians.pop(OURS.name)
    note = "; ".join(f"{peer.name}: {peer.missing}" for peer in peers() if peer.missing)
    fastest = min(medians, key=lambda peer: medians[peer], default="QEMU TCG")
    return Result(name, ours, "s", bound, medians.get(fastest), fastest, note=note), ours


def run(runs: int) -> list[Result]:
    """The boots: bounds are ratios to QEMU's faster machine."""
    one, single = _boot("boot, 1 vCPU", 1, 1.0, runs)
    four, quadruple = _boot("boot, 4 vCPUs", 4, 1.2, runs)
    return [one, four, Result("boot, 4 vCPUs by 1", quadruple / single, "times", note="goal 1.5")]

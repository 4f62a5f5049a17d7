# SPDX-License-Identifier: GPL-2.0-or-later
"""On which NUMA nodes a new domain would rather run (libxl's numa_place_domain()).

On a machine with several nodes a domain that isn't pinned by its configuration is put on the
fewest nodes that have as many CPUs as it has vCPUs; of those that do, on the ones where the
fewest vCPUs are.  Its vCPUs prefer the CPUs of these nodes (soft affinity), and may run elsewhere.
Memory plays no part, since the machine's is shared out evenly whatever is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

from xenograft.hypervisor.sched.cpumask import CpuMask, mask_of

if TYPE_CHECKING:
    from xenograft.toolstack.sched.control import PoolInfo, SchedControl

_MOST = 2000
"""How many sets of nodes are looked at."""


def place(
    control: SchedControl,
    domid: int,
    vcpus: int,
    pool: PoolInfo,
    others: Iterable[tuple[int, int]],
) -> None:
    """Place a domain; `others`: domids and vCPUs of those that are there. Raises UserError."""
    online = mask_of(pool.cpus)
    nodes = {node: mask & online for node, mask in control.node_cpus().items() if mask & online}
    if len(nodes) < 2:
        return
    prefer: list[CpuMask] = []
    for other, count in others:
        for vcpu in range(count):
            info = control.vcpu_info(other, vcpu)
            prefer.append(info.hard & info.soft or info.hard)
    best = _choose(nodes, vcpus, prefer)
    if best is None:
        return
    control.set_node_affinity(domid, best)
    mask = sum(nodes[node] for node in best)
    for vcpu in range(vcpus):
        control.set_affinity(domid, vcpu, soft=mask)


def _choose(nodes: dict[int, CpuMask], vcpus: int, prefer: list[CpuMask]) -> tuple[int, ...] | None:
    """The nodes for so many vCPUs; None if it takes all of them."""
    for count in range(1, len(nodes)):
        if comb(len(nodes), count) > _MOST:
            return None
        found = [
            (sum(1 for one in prefer if one & mask), chosen)
            for chosen in combinations(sorted(nodes), count)
            if (mask := sum(nodes[node] for node in chosen)).bit_count() >= vcpus
        ]
        if found:
            return min(found)[1]
    return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of CPUs and machines' topologies, as people write them."""

from __future__ import annotations

from xenograft.hypervisor.sched.cpumask import CpuMask, mask_of
from xenograft.hypervisor.sched.topology import Topology
from xenograft.toolstack.errors import UserError, unknown

_LEVELS = ("nodes", "sockets", "cores", "threads")


def parse_topology(text: str, what: str) -> Topology:
    """ "4", or "nodes=2,cores=4,threads=2"; what isn't named is 1.

    >>> parse_topology("nodes=2,cores=2", "--cpus").cpus
    4

    Raises UserError.
    """
    counts: dict[str, int] = {}
    for part in text.replace(" ", "").split(","):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = "cores", part
        if name not in _LEVELS:
            raise UserError(f"{what}: {unknown('level of CPUs', name, _LEVELS)}")
        if name in counts or not value.isascii() or not value.isdigit() or len(value) > 5:
            raise UserError(f"{what} {text[:60]!r}: write 4, or nodes=2,cores=4,threads=2")
        counts[name] = int(value)
    try:
        return Topology.of(**counts)
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


def parse_cpu_list(text: str, everything: CpuMask, nodes: dict[int, CpuMask]) -> CpuMask:
    """CPUs as in xl.cfg's cpus= and `xl vcpu-pin`: "all", "none", "0-3,5", "^1", "node:0".

    >>> bin(parse_cpu_list("0-3,^1", 0b111111, {}))
    '0b1101'

    Raises UserError. CPUs that the machine doesn't have are left out by the caller.
    """
    mask = 0
    for part in text.replace(" ", "").split(","):
        item = part.removeprefix("^")
        negative = item is not part and part.startswith("^")
        chosen = _cpu_range(item, everything, nodes, text)
        mask = mask & ~chosen if negative else mask | chosen
    return mask


def _cpu_range(item: str, everything: CpuMask, nodes: dict[int, CpuMask], text: str) -> CpuMask:
    if item == "all":
        return everything
    by_node = item.startswith(("node:", "nodes:"))
    first, dash, last = item.partition(":")[2].partition("-") if by_node else item.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or len(first + last) > 8:
        raise UserError(f"Invalid pcpu range: {text}.")
    low, high = int(first), int(last or first)
    if low > high or high > 4095:
        raise UserError(f"Invalid pcpu range: {text}.")
    if by_node:
        return sum(nodes.get(node, 0) for node in range(low, high + 1))
    return mask_of(range(low, high + 1))

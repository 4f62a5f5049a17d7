# SPDX-License-Identifier: GPL-2.0-or-later
"""domctl and sysctl as the embedded toolstack (domain 0) makes them, and what CPUs there are.

Nothing here reaches into the hypervisor: all goes through the one table of hypercalls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from xenograft.abi import domctl, sysctl
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sysctl_structs import (
    xen_sysctl_cputopo,
    xen_sysctl_meminfo,
    xen_sysctl_physinfo,
)
from xenograft.abi.xen import HYPERCALLS, xenctl_bitmap
from xenograft.hypervisor.call import HostAccess
from xenograft.hypervisor.sched.cpumask import CpuMask, cpus_in, mask_of
from xenograft.hypervisor.sched.topology import Place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor

_NUMBERS = {name: number for number, name in HYPERCALLS.items()}


class Node(msgspec.Struct, frozen=True):
    """A NUMA node: bytes of memory, bytes that are free, distances to all nodes."""

    memory: int
    free: int
    distances: tuple[int, ...]


class HostCalls:
    """Hypercalls of domain 0."""

    def __init__(self, hypervisor: Hypervisor, control: Domain) -> None:
        self._hypervisor = hypervisor
        self._control = control
        self._places = self._ask_topology()
        """Where each CPU is; that doesn't change."""

    # -- hypercalls ------------------------------------------------------------------------------
    def _domctl(self, op: domctl.xen_domctl, memory: HostAccess) -> domctl.xen_domctl:
        op.interface_version = domctl.XEN_DOMCTL_INTERFACE_VERSION
        where = self._call("domctl", op.pack(), memory)
        return domctl.xen_domctl.unpack(memory.read(where, op.sizeof()))

    def _sysctl(self, op: sysctl.xen_sysctl, memory: HostAccess) -> sysctl.xen_sysctl:
        op.interface_version = sysctl.XEN_SYSCTL_INTERFACE_VERSION
        where = self._call("sysctl", op.pack(), memory)
        return sysctl.xen_sysctl.unpack(memory.read(where, op.sizeof()))

    def _call(self, name: str, argument: bytes, memory: HostAccess) -> int:
        where = memory.put(argument)
        result = self._hypervisor.host_call(self._control, _NUMBERS[name], where, memory=memory)
        if result < 0:
            raise XenError(Errno(-result))
        return where

    def _bitmap(self, memory: HostAccess, mask: CpuMask) -> xenctl_bitmap:
        size = (self.cpus + 7) // 8
        return xenctl_bitmap(
            bitmap=memory.put((mask & self.all_cpus).to_bytes(size, "little")), nr_bits=self.cpus
        )

    @staticmethod
    def _mask(memory: HostAccess, where: xenctl_bitmap) -> CpuMask:
        return int.from_bytes(memory.read(where.bitmap, (where.nr_bits + 7) // 8), "little")

    # -- CPUs ------------------------------------------------------------------------------------
    @property
    def cpus(self) -> int:
        """How many physical CPUs there are."""
        return len(self._places)

    @property
    def all_cpus(self) -> CpuMask:
        return (1 << self.cpus) - 1

    def topology(self) -> list[Place]:
        """Where each CPU is (`xl info -n`)."""
        return list(self._places)

    def _ask_topology(self) -> list[Place]:
        op = sysctl.xen_sysctl(cmd=sysctl.XEN_SYSCTL_cputopoinfo)
        op.u.cputopoinfo.cputopo = 0
        count = int(self._sysctl(op, HostAccess()).u.cputopoinfo.num_cpus)
        memory, size = HostAccess(), xen_sysctl_cputopo.sizeof()
        op = sysctl.xen_sysctl(cmd=sysctl.XEN_SYSCTL_cputopoinfo)
        array = memory.put(bytes(size * count))
        op.u.cputopoinfo.num_cpus, op.u.cputopoinfo.cputopo = count, array
        self._sysctl(op, memory)
        records = [
            xen_sysctl_cputopo.unpack(memory.read(array + size * cpu, size)) for cpu in range(count)
        ]
        return [Place(record.core, record.socket, record.node) for record in records]

    def node_cpus(self) -> dict[int, CpuMask]:
        """The CPUs of each NUMA node."""
        nodes: dict[int, CpuMask] = {}
        for cpu, place in enumerate(self.topology()):
            nodes[place.node] = nodes.get(place.node, 0) | 1 << cpu
        return nodes

    def physinfo(self) -> xen_sysctl_physinfo:
        """The machine as a whole (`xl info`)."""
        op = sysctl.xen_sysctl(cmd=sysctl.XEN_SYSCTL_physinfo)
        return self._sysctl(op, HostAccess()).u.physinfo

    def numa(self) -> list[Node]:
        """The NUMA nodes (`xl info -n`)."""
        op = sysctl.xen_sysctl(cmd=sysctl.XEN_SYSCTL_numainfo)
        op.u.numainfo.num_nodes = 0
        count = int(self._sysctl(op, HostAccess()).u.numainfo.num_nodes)
        memory, size = HostAccess(), xen_sysctl_meminfo.sizeof()
        op = sysctl.xen_sysctl(cmd=sysctl.XEN_SYSCTL_numainfo)
        sizes, distances = memory.put(bytes(size * count)), memory.put(bytes(4 * count * count))
        ask = op.u.numainfo
        ask.num_nodes, ask.meminfo, ask.distance = count, sizes, distances
        self._sysctl(op, memory)
        rows = memory.read(distances, 4 * count * count)
        flat = [int.from_bytes(rows[at : at + 4], "little") for at in range(0, len(rows), 4)]
        infos = [
            xen_sysctl_meminfo.unpack(memory.read(sizes + size * node, size))
            for node in range(count)
        ]
        return [
            Node(one.memsize, one.memfree, tuple(flat[node * count : (node + 1) * count]))
            for node, one in enumerate(infos)
        ]

    # -- node affinity ---------------------------------------------------------------------------
    def node_affinity(self, domid: int) -> tuple[int, ...]:
        """The NUMA nodes of a domain. Raises XenError."""
        memory = HostAccess()
        op = domctl.xen_domctl(cmd=domctl.XEN_DOMCTL_getnodeaffinity, domain=domid)
        op.u.nodeaffinity.nodemap = where = xenctl_bitmap(bitmap=memory.put(bytes(8)), nr_bits=64)
        self._domctl(op, memory)
        return tuple(cpus_in(self._mask(memory, where)))

    def set_node_affinity(self, domid: int, nodes: Iterable[int] | None) -> None:
        """Name its nodes; None: they follow its vCPUs' affinity. Raises XenError."""
        memory = HostAccess()
        mask = (1 << 64) - 1 if nodes is None else mask_of(nodes)
        op = domctl.xen_domctl(cmd=domctl.XEN_DOMCTL_setnodeaffinity, domain=domid)
        data = memory.put(mask.to_bytes(8, "little"))
        op.u.nodeaffinity.nodemap = xenctl_bitmap(bitmap=data, nr_bits=64)
        self._domctl(op, memory)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the physical CPUs sit: threads in cores, cores in sockets, sockets in NUMA nodes.

Facts: xen_sysctl_cputopo, xen_sysctl_numainfo (public/sysctl.h).  Core numbers count within a
socket, as x86 reports them; sockets and nodes count over the machine.
"""

from __future__ import annotations

import msgspec

from xenograft.hypervisor.sched.cpumask import CpuMask

MAX_CPUS = 1024
"""The most physical CPUs of a machine."""

MAX_NUMNODES = 64
"""How many bits sets of nodes have (Xen's default, CONFIG_NR_NUMA_NODES)."""


class Place(msgspec.Struct, frozen=True):
    """Where one CPU is."""

    core: int
    socket: int
    node: int


class Topology(msgspec.Struct, frozen=True):
    """All CPUs of a machine, by number.

    >>> topology = Topology.of(nodes=2, sockets=1, cores=2, threads=2)
    >>> topology.cpus, topology.places[5]
    (8, Place(core=0, socket=1, node=1))
    """

    places: tuple[Place, ...]
    threads_per_core: int = 1

    @classmethod
    def of(cls, *, nodes: int = 1, sockets: int = 1, cores: int = 1, threads: int = 1) -> Topology:
        """A regular machine: `sockets` per node, `cores` per socket, `threads` per core.

        Raises ValueError for counts below 1 or more than MAX_CPUS CPUs.
        """
        for what, count in (
            ("nodes", nodes),
            ("sockets", sockets),
            ("cores", cores),
            ("threads", threads),
        ):
            if count < 1:
                raise ValueError(f"{what}: {count}; there is at least 1")
        if (total := nodes * sockets * cores * threads) > MAX_CPUS:
            raise ValueError(f"{total} CPUs; a machine has at most {MAX_CPUS}")
        return cls(
            tuple(
                Place(core, node * sockets + socket, node)
                for node in range(nodes)
                for socket in range(sockets)
                for core in range(cores)
                for _ in range(threads)
            ),
            threads,
        )

    @property
    def cpus(self) -> int:
        return len(self.places)

    @property
    def all_cpus(self) -> CpuMask:
        return (1 << len(self.places)) - 1

    @property
    def cores_per_socket(self) -> int:
        """As sysctl physinfo reports it: of the first socket."""
        first = self.places[0].socket
        return len({place.core for place in self.places if place.socket == first})

    @property
    def nodes(self) -> int:
        return max(place.node for place in self.places) + 1

    def node_cpus(self, node: int) -> CpuMask:
        """The CPUs of a NUMA node."""
        return sum(1 << cpu for cpu, place in enumerate(self.places) if place.node == node)

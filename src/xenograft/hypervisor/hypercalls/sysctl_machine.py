# SPDX-License-Identifier: GPL-2.0-or-later
"""sysctl operations that tell of the machine: its CPUs, memory and NUMA nodes.

Facts: public/sysctl.h; Xen's do_sysctl() and arch_do_physinfo() (4.17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi import sysctl as abi
from xenograft.abi.sysctl_structs import (
    xen_sysctl_cpuinfo,
    xen_sysctl_cputopo,
    xen_sysctl_meminfo,
    xen_sysctl_physinfo,
)
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.hypervisor.sched.topology import MAX_NUMNODES

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenograft.hypervisor.call import Call

LOCAL_DISTANCE, REMOTE_DISTANCE = 10, 20
"""Distances of NUMA nodes, as ACPI's SLIT has them when it says nothing."""

_CAPABILITIES = (
    abi.XEN_SYSCTL_PHYSCAP_hvm
    | abi.XEN_SYSCTL_PHYSCAP_pv
    | abi.XEN_SYSCTL_PHYSCAP_hap
    | abi.XEN_SYSCTL_PHYSCAP_gnttab_v1
    | abi.XEN_SYSCTL_PHYSCAP_gnttab_v2
)
_EAX, _EBX, _ECX, _EDX = range(4)
_HW_CAPS = (
    (0x1, 0, _EDX),
    (0x1, 0, _ECX),
    (0x80000001, 0, _EDX),
    (0x80000001, 0, _ECX),
    (0xD, 1, _EAX),
    (0x7, 0, _EBX),
    (0x7, 0, _ECX),
    (0x80000007, 0, _EDX),
)
"""CPUID leaf, subleaf and register of each word: 1d, 1c, e1d, e1c, Da1, 7b0, 7c0, e7d."""


def physinfo(call: Call, arg: int) -> int:
    """How many CPUs, nodes and pages there are, and what guests can be."""
    op = call.read(arg, abi.xen_sysctl)
    hypervisor = call.hypervisor
    topology, memory = hypervisor.sched.topology, hypervisor.memory
    policy = CpuPolicy.make(hvm=True, vcpus=1, edits=(), maximum=True)
    op.u.physinfo = xen_sysctl_physinfo(
        threads_per_core=topology.threads_per_core,
        cores_per_socket=topology.cores_per_socket,
        nr_cpus=topology.cpus,
        max_cpu_id=topology.cpus - 1,
        nr_nodes=topology.nodes,
        max_node_id=MAX_NUMNODES - 1,
        cpu_khz=hypervisor.tsc_khz,
        capabilities=_CAPABILITIES,
        total_pages=memory.frames,
        free_pages=memory.free_frames(),
        max_mfn=memory.frames - 1,
        hw_cap=[policy.cpuid(leaf, subleaf)[register] for leaf, subleaf, register in _HW_CAPS],
    )
    call.write(arg, op)
    return 0


def cputopoinfo(call: Call, arg: int) -> int:
    """Core, socket and node of each CPU; without an array, how many there are."""
    op = call.read(arg, abi.xen_sysctl)
    ask, places = op.u.cputopoinfo, call.hypervisor.sched.topology.places
    count = len(places)
    if ask.cputopo:
        count = min(count, ask.num_cpus)
        size = xen_sysctl_cputopo.sizeof(call.bits)
        for cpu, place in enumerate(places[:count]):
            record = xen_sysctl_cputopo(core=place.core, socket=place.socket, node=place.node)
            call.write(ask.cputopo + cpu * size, record)
    ask.num_cpus = count
    call.write(arg, op)
    return 0


def numainfo(call: Call, arg: int) -> int:
    """Memory and distances of the nodes; the machine's memory is shared out evenly."""
    op = call.read(arg, abi.xen_sysctl)
    ask, hypervisor = op.u.numainfo, call.hypervisor
    nodes = hypervisor.sched.topology.nodes
    count = nodes
    if ask.meminfo or ask.distance:
        count = min(nodes, ask.num_nodes)
    if ask.meminfo:
        size = xen_sysctl_meminfo.sizeof(call.bits)
        total, free = hypervisor.memory.frames, hypervisor.memory.free_frames()
        record = xen_sysctl_meminfo(memsize=(total << 12) // nodes, memfree=(free << 12) // nodes)
        for node in range(count):
            call.write(ask.meminfo + node * size, record)
    if ask.distance:
        distances = [
            LOCAL_DISTANCE if a == b else REMOTE_DISTANCE
            for a in range(count)
            for b in range(count)
        ]
        call.write_ints(ask.distance, 4, distances)
    ask.num_nodes = count
    call.write(arg, op)
    return 0


def getcpuinfo(call: Call, arg: int) -> int:
    """How long each CPU has idled."""
    op = call.read(arg, abi.xen_sysctl)
    ask, core = op.u.getcpuinfo, call.hypervisor.sched
    now = call.hypervisor.clock.now()
    count = min(ask.max_cpus, core.topology.cpus)
    size = xen_sysctl_cpuinfo.sizeof(call.bits)
    for cpu in range(count):
        record = xen_sysctl_cpuinfo(idletime=core.total_idle_ns(cpu, now))
        call.write(ask.info + cpu * size, record)
    ask.nr_cpus = count
    call.write(arg, op)
    return 0


SYSCTLS: dict[int, Callable[[Call, int], int]] = {
    abi.XEN_SYSCTL_physinfo: physinfo,
    abi.XEN_SYSCTL_cputopoinfo: cputopoinfo,
    abi.XEN_SYSCTL_numainfo: numainfo,
    abi.XEN_SYSCTL_getcpuinfo: getcpuinfo,
}

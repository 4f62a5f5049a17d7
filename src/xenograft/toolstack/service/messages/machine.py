# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine: what it is, what it says, what was used of it."""

from __future__ import annotations

import msgspec

from xenograft.hypervisor.metering import Reading
from xenograft.toolstack.service.messages.base import Request
from xenograft.toolstack.service.messages.domains import DomainInfo


# -- the machine ----------------------------------------------------------------------------------
class CpuRow(msgspec.Struct, frozen=True):
    """Where a physical CPU is."""

    core: int
    socket: int
    node: int


class NodeRow(msgspec.Struct, frozen=True):
    """A NUMA node."""

    memory_mib: int
    free_mib: int
    distances: list[int]


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What `xl info` shows, by its own names where they are fields of a line."""

    host: str
    release: str
    version: str
    machine: str
    nr_cpus: int
    max_cpu_id: int
    nr_nodes: int
    cores_per_socket: int
    threads_per_core: int
    cpu_mhz: float
    hw_caps: list[int]
    virt_caps: list[str]
    total_memory_mib: int
    free_memory_mib: int
    free_cpus: int
    xen_major: int
    xen_minor: int
    xen_extra: str
    xen_caps: str
    xen_scheduler: str
    xen_pagesize: int
    virt_start: int
    xen_changeset: str
    xen_commandline: str
    cc_compiler: str
    cc_compile_by: str
    cc_compile_domain: str
    cc_compile_date: str
    build_id: str
    now_ns: int
    cpus: list[CpuRow] = []
    nodes: list[NodeRow] = []


class GetInfo(Request[HostInfo], frozen=True):
    """The machine."""


class Dmesg(Request[str], frozen=True):
    """The hypervisor's messages; `clear` forgets them."""

    clear: bool = False


class DebugKeys(Request[None], frozen=True):
    """Have the hypervisor print what its debug keys print."""

    keys: str


class SetParameters(Request[None], frozen=True):
    """Change the hypervisor's parameters at run time."""

    parameters: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain has used, for `xg top`; `net_tx` are the bytes that it has sent."""

    domain: DomainInfo
    networks: int = 0
    net_tx: int = 0
    net_rx: int = 0
    disks: int = 0
    disk_busy: int = 0
    disk_reads: int = 0
    disk_writes: int = 0
    sectors_read: int = 0
    sectors_written: int = 0


class GetUsage(Request[list[Usage]], frozen=True):
    """What all domains have used."""


# -- accounts -------------------------------------------------------------------------------------
class Period(msgspec.Struct, frozen=True):
    """The account at two moments; `start` None: the machine's start."""

    start: Reading | None
    end: Reading


class GetPeriod(Request[Period], frozen=True):
    """The account between two marks: since the machine's start, until now."""

    since: str | None = None
    until: str | None = None


class MarkMeter(Request[Reading], frozen=True):
    """Keep the account of this moment under a name."""

    name: str


class ListMarks(Request[dict[str, int]], frozen=True):
    """The marks, with the machine's times (ns)."""


class GetView(Request[str], frozen=True):
    """What a view of the machine says (`views`), as JSON: of all domains, or of one."""

    name: str
    domain: str | None = None

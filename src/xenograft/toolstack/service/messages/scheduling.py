# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedulers, CPU pools and tables."""

from __future__ import annotations

import msgspec

from xenograft.toolstack.service.messages.base import Request


class PoolRow(msgspec.Struct, frozen=True):
    """A CPU pool."""

    pool_id: int
    name: str
    sched: str
    domains: int
    cpus: list[int]


class ListPools(Request[list[PoolRow]], frozen=True):
    """All CPU pools."""


class CreatePool(Request[PoolRow], frozen=True):
    """A pool of free CPUs; None: the first that is free."""

    name: str
    sched: str | None = None
    cpus: list[int] | None = None
    nodes: list[int] | None = None


class DestroyPool(Request[None], frozen=True):
    """Its CPUs are free afterwards."""

    name: str


class RenamePool(Request[None], frozen=True):
    """Give a pool another name."""

    name: str
    new: str


class MovePoolCpus(Request[None], frozen=True):
    """Give a pool CPUs, or take them away: "1", "0-3", "node:0"."""

    name: str
    cpus: str
    add: bool


class MigrateToPool(Request[None], frozen=True):
    """Move a domain into a pool."""

    domain: str
    pool: str


class SplitPools(Request[None], frozen=True):
    """One pool for each NUMA node."""


class PinVcpu(Request[None], frozen=True):
    """Affinities of a vCPU ("all": of each); "-" leaves one as it is."""

    domain: str
    vcpu: str
    hard: str = "-"
    soft: str = "-"
    force: bool = False


class SchedParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Parameters of a domain, a vCPU or a scheduler; None: not given, or without meaning."""

    weight: int | None = None
    cap: int | None = None
    period_us: int | None = None
    budget_us: int | None = None
    extratime: bool | None = None
    ratelimit_us: int | None = None
    tslice_ms: int | None = None
    migration_delay_us: int | None = None


class SchedRow(msgspec.Struct, frozen=True):
    """A domain's parameters, or a vCPU's."""

    domid: int
    name: str
    params: SchedParams
    vcpu: int | None = None


class SchedPool(msgspec.Struct, frozen=True):
    """A pool's scheduler, its parameters, and its domains."""

    pool: str
    params: SchedParams
    rows: list[SchedRow]


class GetSched(Request[list[SchedPool]], frozen=True):
    """The pools of one scheduler: all, or the named one; `vcpus`: a row for each vCPU."""

    sched: str
    pool: str | None = None
    vcpus: bool = False


class GetDomainSched(Request[list[SchedRow]], frozen=True):
    """One domain's parameters, or those of its vCPUs ("all", or their numbers)."""

    domain: str
    sched: str
    vcpus: list[str] = msgspec.field(default_factory=list)


class SetDomainSched(Request[None], frozen=True):
    """Change a domain's parameters, or its vCPUs'."""

    domain: str
    sched: str
    params: SchedParams
    vcpus: dict[str, SchedParams] = msgspec.field(default_factory=dict)


class SetPoolSched(Request[None], frozen=True):
    """Change parameters of a pool's scheduler."""

    sched: str
    pool: str
    params: SchedParams


class WindowRow(msgspec.Struct, frozen=True):
    """A window of an ARINC 653 schedule; `domain` None: nobody's."""

    domain: str | None
    uuid: str | None
    vcpu: int
    start_ns: int
    runtime_ns: int


class TableRow(msgspec.Struct, frozen=True):
    """The schedule of an ARINC 653 pool."""

    pool: str
    major_frame_ns: int
    windows: list[WindowRow]


class GetTables(Request[list[TableRow]], frozen=True):
    """The schedules of all ARINC 653 pools, or of the named one."""

    pool: str | None = None


class SetTable(Request[TableRow], frozen=True):
    """Check a schedule and load it into a pool (None: the only one with ARINC 653).

    `text`: a schedule, or a system with one (toolstack.sched.description); `source`: its name in
    errors; `force`: though a vCPU of the pool has no window; `dry`: only check it.
    """

    text: str
    source: str
    pool: str | None = None
    force: bool = False
    dry: bool = False


class Schedule(msgspec.Struct, frozen=True):
    """What ran lately: the window of time that ends at `now` (ns)."""

    now: int
    segments: list[tuple[int, int, int, int, int]]
    """CPU, domid, vCPU, from when to when (ns)."""
    names: dict[int, str]
    """Of domains, by number."""


class GetSchedule(Request[Schedule], frozen=True):
    """Record what runs, and answer with the last `span_ns` of it.

    The first time nothing is known; the recording ends when nobody asks for some seconds.
    """

    span_ns: int

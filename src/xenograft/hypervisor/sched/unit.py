# SPDX-License-Identifier: GPL-2.0-or-later
"""What schedulers schedule: units (one per vCPU) of domains (Xen's struct sched_unit).

A *record* is what a scheduler keeps about a unit or a domain; it is the scheduler's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenograft.hypervisor.sched.cpumask import CpuMask

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.scheduler import Scheduler

ALL_CPUS: CpuMask = (1 << 1024) - 1
"""An affinity without limits."""


class SchedDomain:
    """A domain as the schedulers see it."""

    __slots__ = (
        "domid",
        "name",
        "nodes",
        "pool_id",
        "record",
        "run_ns",
        "scheduler",
        "units",
        "uuid",
    )

    scheduler: Scheduler

    def __init__(self, domid: int, *, name: str = "", uuid: bytes = bytes(16)) -> None:
        self.domid = domid
        self.name = name or f"Domain-{domid}"
        self.uuid = uuid
        """Its handle, by which ARINC 653 schedules name it."""
        self.units: list[SchedUnit] = []
        self.nodes: int | None = None
        """Its NUMA node affinity, a bit per node; None: it follows its vCPUs' affinity."""
        self.pool_id = -1
        self.record: Any = None
        self.run_ns = 0
        """CPU time of all its units, up to the last time each was switched out."""

    def __repr__(self) -> str:
        return f"<SchedDomain {self.domid}>"


class SchedUnit:
    """A vCPU as the schedulers see it.

    `runnable` is what schedulers ask; it differs from `wanted` (whether the vCPU could run)
    while the unit is on its way from one CPU to another.
    """

    __slots__ = (
        "cpu",
        "domain",
        "hard",
        "migrating",
        "online",
        "override",
        "owner",
        "record",
        "run_ns",
        "runnable",
        "running",
        "soft",
        "switches",
        "unit_id",
        "wanted",
    )

    def __init__(self, domain: SchedDomain, unit_id: int, owner: Any = None) -> None:
        self.domain = domain
        self.unit_id = unit_id
        self.owner = owner
        """What it stands for: a Vcpu, or a simulated load."""
        self.hard: CpuMask = ALL_CPUS
        """Where it may run."""
        self.soft: CpuMask = ALL_CPUS
        """Where it would rather run."""
        self.override: CpuMask | None = None
        """The hard affinity that SCHEDOP_pin_override has set aside."""
        self.cpu = 0
        """Where it runs, or was last placed (Xen's sched_unit_master)."""
        self.running = False
        self.wanted = False
        self.runnable = False
        self.migrating = False
        self.online = True
        """Whether the vCPU is up (null gives a CPU to no other)."""
        self.run_ns = 0
        """CPU time, up to the last time it was switched out."""
        self.switches = 0
        """How often it was switched in."""
        self.record: Any = None

    def __repr__(self) -> str:
        return f"<SchedUnit d{self.domain.domid}v{self.unit_id}>"

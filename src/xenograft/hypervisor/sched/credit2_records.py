# SPDX-License-Identifier: GPL-2.0-or-later
"""What credit2 keeps: csched2_dom, csched2_unit and csched2_runqueue_data of Xen."""

from __future__ import annotations

from xenograft.hypervisor.sched.constants import CSCHED2_CREDIT_INIT, CSCHED2_DEFAULT_WEIGHT
from xenograft.hypervisor.sched.cpumask import CpuMask, cpus_in
from xenograft.hypervisor.sched.credit2_load import FULL_LOAD, Load
from xenograft.hypervisor.sched.runqueue import Queued, RunQueue
from xenograft.hypervisor.sched.unit import SchedUnit
from xenograft.hypervisor.timers import Timer


class DomainRecord:
    """A domain: its weight, its cap and the budget that follows from it."""

    __slots__ = ("budget", "cap", "next_repl", "parked", "timer", "total", "units", "weight")

    def __init__(self) -> None:
        self.weight = CSCHED2_DEFAULT_WEIGHT
        self.cap = 0
        self.total = 0
        """Budget per period (ns)."""
        self.budget = 0
        self.next_repl = 0
        self.timer: Timer | None = None
        self.units: list[UnitRecord] = []
        self.parked: list[UnitRecord] = []


class UnitRecord(Queued):
    """A unit: its credit, its share of the domain's budget."""

    __slots__ = (
        "budget",
        "counted",
        "credit",
        "domain",
        "load",
        "parked",
        "residual",
        "rqd",
        "start",
        "switched_in",
        "weight",
        "yielding",
    )

    def __init__(self, unit: SchedUnit, domain: DomainRecord, rqd: SharedQueue, now: int) -> None:
        super().__init__(unit)
        self.domain = domain
        self.weight = domain.weight
        self.rqd = rqd
        self.credit = CSCHED2_CREDIT_INIT - rqd.given
        """Relative to `rqd.given`; see credit2's docstring."""
        self.residual = 0
        self.start = -1
        """Since when it burns credit; -1 while it doesn't run."""
        self.switched_in = 0
        self.budget = 0
        self.parked = False
        self.yielding = False
        self.counted = False
        """Whether the queue's load counts it."""
        self.load = Load(now, FULL_LOAD >> 1)


class SharedQueue:
    """A run queue with the CPUs that share it."""

    __slots__ = ("cpu_list", "cpus", "given", "load", "max_weight", "queue", "units", "weights")

    def __init__(self, now: int) -> None:
        self.cpus: CpuMask = 0
        self.cpu_list: list[int] = []
        self.queue = RunQueue()
        self.units: dict[UnitRecord, None] = {}
        self.weights: dict[int, int] = {}
        self.max_weight = 1
        self.given = 0
        """The sum of what all resets have given each unit."""
        self.load = Load(now)

    def set_cpus(self, cpus: CpuMask) -> None:
        self.cpus = cpus
        self.cpu_list = list(cpus_in(cpus))
        self.queue.set_cpus(cpus)

    def add(self, svc: UnitRecord, now: int) -> None:
        self.units[svc] = None
        self.weights[svc.weight] = self.weights.get(svc.weight, 0) + 1
        self.max_weight = max(self.weights)
        self.load.change(0, now)
        self.load.planned += svc.load.average
        svc.rqd = self

    def drop(self, svc: UnitRecord, now: int) -> None:
        del self.units[svc]
        self.forget_weight(svc.weight)
        self.load.change(0, now)
        self.load.planned = max(self.load.planned - svc.load.average, 0)

    def forget_weight(self, weight: int) -> None:
        self.weights[weight] -= 1
        if not self.weights[weight]:
            del self.weights[weight]
        self.max_weight = max(self.weights, default=1)

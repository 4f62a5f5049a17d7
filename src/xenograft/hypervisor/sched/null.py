# SPDX-License-Identifier: GPL-2.0-or-later
"""null: each vCPU has a CPU of its own; those that find none wait until one is free.

Facts: Xen's xen/common/sched/null.c.  Nothing is ever decided twice: a CPU runs its vCPU or
idles.  vCPUs that are down give their CPU back.
"""

from __future__ import annotations

from xenograft.abi.domctl import XEN_SCHEDULER_NULL
from xenograft.hypervisor.sched.constants import (
    FOREVER,
)
from xenograft.hypervisor.sched.cpumask import cpus_in, first
from xenograft.hypervisor.sched.scheduler import Decision, Host, Scheduler
from xenograft.hypervisor.sched.unit import SchedUnit


class Null(Scheduler):
    """The null scheduler."""

    name = "null Scheduler"
    opt_name = "null"
    sched_id = XEN_SCHEDULER_NULL
    adjustable = False

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.assigned: dict[int, SchedUnit] = {}
        """Whose each CPU is."""
        self.waiting: dict[SchedUnit, None] = {}
        """Who waits for a CPU, in the order of coming."""

    def _has_cpu(self, unit: SchedUnit) -> bool:
        return self.assigned.get(unit.cpu) is unit

    def _free(self, unit: SchedUnit) -> int | None:
        """A free CPU for a unit: the one where it was, one that it likes, one that it may have."""
        taken = sum(1 << cpu for cpu in self.assigned)
        free = self.cpus & unit.hard & ~taken
        if not free:
            return None
        if free & unit.soft:
            free &= unit.soft
        return unit.cpu if free >> unit.cpu & 1 else first(free)

    def _assign(self, unit: SchedUnit, cpu: int) -> None:
        self.assigned[cpu] = unit
        unit.cpu = cpu
        if unit.runnable:
            self.host.tickle(cpu)

    def _settle(self, unit: SchedUnit) -> None:
        """Give a unit a CPU, or let it wait for one."""
        cpu = self._free(unit)
        if cpu is not None:
            self._assign(unit, cpu)
        else:
            self.waiting[unit] = None

    def _release(self, unit: SchedUnit) -> None:
        """Take a unit's CPU, or its place among those that wait."""
        if self._has_cpu(unit):
            del self.assigned[unit.cpu]
            self.host.tickle(unit.cpu)
            self._serve(unit.cpu)
        else:
            self.waiting.pop(unit, None)

    def _serve(self, cpu: int) -> None:
        """A CPU is free: the first that waits and likes it has it, else the first that may."""
        if not self.cpus >> cpu & 1:
            return
        allowed = [unit for unit in self.waiting if unit.hard >> cpu & 1]
        if allowed:
            unit = next((unit for unit in allowed if unit.soft >> cpu & 1), allowed[0])
            del self.waiting[unit]
            self._assign(unit, cpu)

    def add_cpu(self, cpu: int) -> None:
        super().add_cpu(cpu)
        self._serve(cpu)

    def remove_cpu(self, cpu: int) -> None:
        super().remove_cpu(cpu)
        unit = self.assigned.pop(cpu, None)
        if unit is not None:
            self._settle(unit)

    def insert(self, unit: SchedUnit, now: int) -> None:
        if unit.online:
            self._settle(unit)

    def remove(self, unit: SchedUnit, now: int) -> None:
        self._release(unit)

    def pick(self, unit: SchedUnit, now: int) -> int:
        if self._has_cpu(unit) and unit.hard >> unit.cpu & 1:
            return unit.cpu
        cpu = self._free(unit)
        if cpu is not None:
            return cpu
        allowed = self.cpus & unit.hard or self.cpus
        return unit.cpu if allowed >> unit.cpu & 1 or not allowed else first(allowed)

    def migrate(self, unit: SchedUnit, cpu: int, now: int) -> None:
        self._release(unit)
        unit.cpu = cpu
        if unit.online:
            self._settle(unit)

    def wake(self, unit: SchedUnit, now: int) -> None:
        if self._has_cpu(unit):
            self.host.tickle(unit.cpu)
        elif unit not in self.waiting:
            self._settle(unit)

    def sleep(self, unit: SchedUnit, now: int) -> None:
        if unit.running:
            self.host.tickle(unit.cpu)
        if not unit.online and not unit.migrating:
            self._release(unit)

    def schedule(self, cpu: int, now: int, prev: SchedUnit | None) -> Decision:
        unit = self.assigned.get(cpu)
        if unit is not None and unit.runnable and not (unit.running and unit is not prev):
            return unit, FOREVER
        return None, FOREVER

    def switched_out(self, unit: SchedUnit, now: int) -> None:
        # It may have been given another CPU while it ran.
        if unit.runnable:
            for cpu in cpus_in(self.cpus):
                if self.assigned.get(cpu) is unit:
                    self.host.tickle(cpu)

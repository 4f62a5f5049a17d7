# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU pools: each has its CPUs and a scheduler; a domain is in one of them.

Facts: XEN_SYSCTL_CPUPOOL_OP_* (public/sysctl.h); Xen's xen/common/sched/cpupool.c, whose errors
these are.  Names of pools are the toolstack's affair (they live in xenstore).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenograft.abi.domctl import XEN_SCHEDULER_CREDIT2
from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.sched.cpumask import CpuMask, first, last
from xenograft.hypervisor.sched.registry import make_scheduler

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.core import SchedCore
    from xenograft.hypervisor.sched.scheduler import Scheduler
    from xenograft.hypervisor.sched.unit import SchedDomain

BOOT_CPU = 0
"""The CPU that never leaves Pool-0."""


class CpuPool:
    """One pool."""

    __slots__ = ("domains", "pool_id", "scheduler")

    def __init__(self, pool_id: int, scheduler: Scheduler) -> None:
        self.pool_id = pool_id
        self.scheduler = scheduler
        self.domains: dict[int, SchedDomain] = {}

    @property
    def cpus(self) -> CpuMask:
        return self.scheduler.cpus

    def __repr__(self) -> str:
        return f"<CpuPool {self.pool_id} {self.scheduler.opt_name} cpus={self.cpus:#x}>"


class CpuPools:
    """All pools of a machine; Pool 0 is there from the start, with all CPUs.

    With a scheduler of one CPU alone it has the boot CPU; the others are free.
    """

    def __init__(self, core: SchedCore, default_sched: int = XEN_SCHEDULER_CREDIT2) -> None:
        """`default_sched`: XEN_SCHEDULER_* of Pool-0 (boot option sched=)."""
        self.core = core
        self.default_sched = default_sched
        self.free: CpuMask = core.topology.all_cpus
        """CPUs in no pool."""
        self._pools: dict[int, CpuPool] = {}
        one = self.create(default_sched, 0).scheduler.one_cpu
        for cpu in range(1 if one else core.topology.cpus):
            self.add_cpu(0, cpu)

    def __iter__(self) -> Iterator[CpuPool]:
        """In the order of their numbers."""
        return iter([self._pools[number] for number in sorted(self._pools)])

    def get(self, pool_id: int) -> CpuPool:
        """Raises XenError(ENOENT)."""
        pool = self._pools.get(pool_id)
        if pool is None:
            raise XenError(Errno.ENOENT)
        return pool

    def next(self, pool_id: int) -> CpuPool:
        """The first pool whose number isn't below `pool_id`. Raises XenError(ENOENT)."""
        for pool in self:
            if pool.pool_id >= pool_id:
                return pool
        raise XenError(Errno.ENOENT)

    def create(self, sched_id: int, pool_id: int | None = None) -> CpuPool:
        """A pool without CPUs; None: numbered after the last one.

        Raises XenError: EEXIST for a number in use, ENOENT for an unknown scheduler.
        """
        if pool_id is None:
            pool_id = max(self._pools) + 1
        elif pool_id in self._pools:
            raise XenError(Errno.EEXIST)
        pool = self._pools[pool_id] = CpuPool(pool_id, make_scheduler(sched_id, self.core))
        return pool

    def destroy(self, pool_id: int) -> None:
        """Raises XenError: ENOENT; EBUSY while it has domains or CPUs."""
        pool = self.get(pool_id)
        if pool.domains or pool.cpus:
            raise XenError(Errno.EBUSY)
        pool.scheduler.close()
        del self._pools[pool_id]

    # -- CPUs ------------------------------------------------------------------------------------
    def add_cpu(self, pool_id: int, cpu: int | None) -> int:
        """Move a free CPU into a pool (None: the first that is free); returns which.

        Raises XenError: ENOENT for the pool, EINVAL for a CPU that the machine doesn't have,
        ENODEV for one that isn't free, or if none is, EOPNOTSUPP for a second CPU of a scheduler
        that is made for one (Xen lets that pass, and its ARINC 653 isn't right then).
        """
        pool = self.get(pool_id)
        if cpu is None:
            if not self.free:
                raise XenError(Errno.ENODEV)
            cpu = first(self.free)
        if cpu >= self.core.topology.cpus:
            raise XenError(Errno.EINVAL)
        if not self.free >> cpu & 1:
            raise XenError(Errno.ENODEV)
        if pool.cpus and pool.scheduler.one_cpu:
            raise XenError(Errno.EOPNOTSUPP)
        self.free &= ~(1 << cpu)
        self.core.give_cpu(cpu, pool.scheduler)
        return cpu

    def remove_cpu(self, pool_id: int, cpu: int | None) -> int:
        """Take a CPU from a pool (None: its last), while guests run; returns which.

        Raises XenError: ENOENT for the pool, EINVAL for a CPU that the machine doesn't have and
        for the boot CPU of Pool-0, EADDRNOTAVAIL for a CPU of another pool, EBUSY for the last
        CPU of a pool that has domains.
        """
        pool = self.get(pool_id)
        if cpu is None:
            cpu = last(pool.cpus) if pool.cpus else self.core.topology.cpus
        if cpu >= self.core.topology.cpus or (pool_id == 0 and cpu == BOOT_CPU):
            raise XenError(Errno.EINVAL)
        if not pool.cpus >> cpu & 1:
            raise XenError(Errno.EADDRNOTAVAIL)
        if pool.domains and pool.cpus == 1 << cpu:
            raise XenError(Errno.EBUSY)
        self.core.take_cpu(cpu, list(pool.domains.values()), self.core.now())
        self.free |= 1 << cpu
        return cpu

    # -- domains ---------------------------------------------------------------------------------
    def add_domain(self, domain: SchedDomain, pool_id: int = 0) -> None:
        """A new domain joins a pool.

        Raises XenError: ESRCH for a pool that isn't there, ENODEV for one without CPUs.
        """
        pool = self._pools.get(pool_id)
        if pool is None:
            raise XenError(Errno.ESRCH)
        if not pool.cpus:
            raise XenError(Errno.ENODEV)
        self.core.add_domain(domain, pool.scheduler)
        domain.pool_id = pool_id
        pool.domains[domain.domid] = domain

    def remove_domain(self, domain: SchedDomain) -> None:
        """A domain that goes leaves its pool."""
        self.core.remove_domain(domain, self.core.now())
        del self._pools[domain.pool_id].domains[domain.domid]
        domain.pool_id = -1

    def move_domain(self, domain: SchedDomain, pool_id: int) -> None:
        """A domain goes on in another pool, running or not.

        Raises XenError: EINVAL if it's in none, ENOENT for a pool that isn't there or has no CPU.
        """
        if domain.pool_id < 0:
            raise XenError(Errno.EINVAL)
        if domain.pool_id == pool_id:
            return
        pool = self._pools.get(pool_id)
        if pool is None or not pool.cpus:
            raise XenError(Errno.ENOENT)
        self.core.move_domain(domain, pool.scheduler, self.core.now())
        del self._pools[domain.pool_id].domains[domain.domid]
        pool.domains[domain.domid] = domain
        domain.pool_id = pool_id

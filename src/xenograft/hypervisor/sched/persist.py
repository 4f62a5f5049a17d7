# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of scheduling when a machine, or a domain, is saved: plain values.

Pools with their CPUs, schedulers and tables; domains with affinities and parameters.  Credits,
budgets under way and queues aren't kept, as Xen doesn't keep them: vCPUs begin anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from xenograft.hypervisor.sched.arinc653 import Arinc653, Schedule
from xenograft.hypervisor.sched.cpumask import CpuMask, cpus_in
from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.hypervisor.sched.unit import ALL_CPUS

if TYPE_CHECKING:
    from xenograft.hypervisor.cpupool import CpuPools
    from xenograft.hypervisor.sched.core import SchedCore
    from xenograft.hypervisor.sched.unit import SchedDomain


class UnitState(msgspec.Struct, frozen=True):
    """The CPUs of a vCPU's affinity (None: without limits) and, of RTDS, its reservation."""

    hard: tuple[int, ...] | None
    soft: tuple[int, ...] | None
    params: Params | None = None


class DomainSchedState(msgspec.Struct, frozen=True):
    """A domain's scheduling: for which scheduler, its parameters, its vCPUs."""

    sched_id: int
    pool_id: int
    params: Params
    units: tuple[UnitState, ...]
    nodes: int | None = None
    """Its NUMA nodes, if they were named."""


class PoolState(msgspec.Struct, frozen=True):
    """A pool."""

    pool_id: int
    sched_id: int
    cpus: CpuMask
    params: GlobalParams
    table: Schedule | None = None


def save_domain(domain: SchedDomain) -> DomainSchedState:
    """A domain's scheduling as plain values."""
    scheduler = domain.scheduler
    per_unit = scheduler.opt_name == "rtds"
    return DomainSchedState(
        scheduler.sched_id,
        domain.pool_id,
        scheduler.get_params(domain),
        tuple(
            UnitState(
                _cpus(unit.hard if unit.override is None else unit.override),
                _cpus(unit.soft),
                scheduler.get_unit_params(unit) if per_unit else None,
            )
            for unit in domain.units
        ),
        domain.nodes,
    )


def _cpus(mask: CpuMask) -> tuple[int, ...] | None:
    return None if mask == ALL_CPUS else tuple(cpus_in(mask))


def _mask(cpus: tuple[int, ...] | None) -> CpuMask:
    return ALL_CPUS if cpus is None else sum(1 << cpu for cpu in set(cpus)) & ALL_CPUS


def restore_domain(core: SchedCore, domain: SchedDomain, state: DomainSchedState) -> None:
    """Give a domain, with as many vCPUs, what was saved; parameters only to the same scheduler.

    Affinities that leave no CPU of its pool are let go. Raises XenError for bad parameters.
    """
    now, scheduler = core.now(), domain.scheduler
    domain.nodes = state.nodes
    for unit, saved in zip(domain.units, state.units, strict=True):
        hard = _mask(saved.hard)
        core.set_affinity(unit, now, hard if hard & scheduler.cpus else None, _mask(saved.soft))
        if saved.params is not None and scheduler.sched_id == state.sched_id:
            scheduler.set_unit_params(unit, saved.params, now)
    per_unit = any(saved.params is not None for saved in state.units)
    if scheduler.sched_id == state.sched_id and scheduler.adjustable and not per_unit:
        scheduler.set_params(domain, state.params, now)


def save_pools(pools: CpuPools) -> tuple[PoolState, ...]:
    """All pools, by number."""
    return tuple(
        PoolState(
            pool.pool_id,
            pool.scheduler.sched_id,
            pool.cpus,
            pool.scheduler.get_global(),
            pool.scheduler.table if isinstance(pool.scheduler, Arinc653) else None,
        )
        for pool in pools
    )


def restore_pools(pools: CpuPools, states: tuple[PoolState, ...]) -> None:
    """On a machine with as many CPUs that has but Pool-0, and that with the same scheduler.

    Raises XenError.
    """
    for state in states:
        if state.pool_id:
            pools.create(state.sched_id, state.pool_id)
            for cpu in cpus_in(state.cpus & pools.get(0).cpus):
                pools.remove_cpu(0, cpu)
            for cpu in cpus_in(state.cpus):
                pools.add_cpu(state.pool_id, cpu)
        scheduler = pools.get(state.pool_id).scheduler
        scheduler.set_global(state.params)
        if state.table is not None and state.table.frames and isinstance(scheduler, Arinc653):
            scheduler.set_schedule(state.table, pools.core.now())
    taken = sum(state.cpus for state in states)
    for cpu in cpus_in(pools.core.topology.all_cpus & ~taken & pools.get(0).cpus):
        pools.remove_cpu(0, cpu)

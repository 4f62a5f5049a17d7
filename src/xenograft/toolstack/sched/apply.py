# SPDX-License-Identifier: GPL-2.0-or-later
"""A new domain's pool, affinity and parameters, as its configuration has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import XenError
from xenograft.hypervisor.sched.cpumask import CpuMask, show
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched.control import PoolInfo, SchedControl, reason
from xenograft.toolstack.sched.cpulist import parse_cpu_list
from xenograft.toolstack.sched.placement import place

if TYPE_CHECKING:
    from xenograft.toolstack.config.domain import DomainConfig


def apply_scheduling(
    control: SchedControl,
    domid: int,
    config: DomainConfig,
    vcpus: int,
    others: Iterable[tuple[int, int]] = (),
) -> None:
    """What libxl does between a domain's creation and its start. Raises UserError.

    `others`: domids and numbers of vCPUs of the domains that are there.
    """
    if config.pool is not None:
        control.move_domain(domid, control.pool(config.pool).name)
    if config.cpus is not None or config.cpus_soft is not None:
        _affinity(control, domid, config, vcpus)
    elif len(control.node_cpus()) > 1:
        place(control, domid, vcpus, control.pool(config.pool or "0"), others)
    weights = config.cpu_weight is not None or config.cap is not None
    times = (config.period, config.slice, config.extratime) != (None, None, None)
    if not weights and not times:
        return
    pool = next(one for one in control.pools() if one.name == (config.pool or control.names[0]))
    try:
        if weights:
            _weights(control, domid, config, vcpus, pool)
        if times:
            _reservation(control, domid, config, vcpus, pool)
    except XenError as error:
        raise UserError(f"scheduling of {config.name}: {reason(error)}") from None


def _weights(
    control: SchedControl, domid: int, config: DomainConfig, vcpus: int, pool: PoolInfo
) -> None:
    if pool.sched not in ("credit", "credit2"):
        key = "cap" if config.cpu_weight is None else "cpu_weight"
        raise UserError(f"{key}: pool {pool.name} has the scheduler {pool.sched}, without weights")
    params = Params(weight=config.cpu_weight, cap=config.cap)
    control.set_params(domid, pool.sched, params, vcpus)


def _reservation(
    control: SchedControl, domid: int, config: DomainConfig, vcpus: int, pool: PoolInfo
) -> None:
    if pool.sched != "rtds":
        raise UserError(f"period: pool {pool.name} has the scheduler {pool.sched}, without periods")
    found = control.get_vcpu_params(domid, range(vcpus))
    control.set_vcpu_params(
        domid,
        {
            vcpu: Params(
                period_us=one.period_us if config.period is None else config.period,
                budget_us=one.budget_us if config.slice is None else config.slice,
                extratime=one.extratime if config.extratime is None else config.extratime,
            )
            for vcpu, one in enumerate(found)
        },
    )


def _affinity(control: SchedControl, domid: int, config: DomainConfig, vcpus: int) -> None:
    everything, nodes = control.all_cpus, control.node_cpus()

    def masks(key: str, value: str | tuple[str, ...] | None) -> list[CpuMask | None]:
        if value is None:
            return [None] * vcpus
        # One text counts for all vCPUs; a list has one for each, and those that it lacks are free.
        texts = [value] * vcpus if isinstance(value, str) else list(value)
        found: list[CpuMask | None] = []
        for text in texts[:vcpus]:
            mask = parse_cpu_list(text, everything, nodes)
            if not mask & everything:
                raise UserError(
                    f"{key}: the machine has no CPU of {text!r}, only 0 to {control.cpus - 1}"
                )
            found.append(mask)
        return found + [None] * (vcpus - len(found))

    hard, soft = masks("cpus", config.cpus), masks("cpus_soft", config.cpus_soft)
    for vcpu in range(vcpus):
        if hard[vcpu] is not None or soft[vcpu] is not None:
            control.set_affinity(domid, vcpu, hard[vcpu], soft[vcpu])


def scheduling_of(control: SchedControl, domid: int, config: DomainConfig) -> DomainConfig:
    """The configuration with the scheduling that the domain has now: the inverse of the above.

    As libxl_retrieve_domain_configuration() does it. RTDS's reservation is that of the first
    vCPU: a configuration has one for all.  Raises XenError.
    """
    pool = control.pool_of(domid)
    weights, times = Params(), Params()
    if pool.sched in ("credit", "credit2"):
        weights = control.get_params(domid, pool.sched)
    elif pool.sched == "rtds":
        (times,) = control.get_vcpu_params(domid, [0])
    vcpus = [control.vcpu_info(domid, vcpu) for vcpu in range(config.max_vcpus)]
    return msgspec.structs.replace(
        config,
        pool=None if pool.pool_id == 0 and config.pool is None else pool.name,
        cpu_weight=weights.weight,
        cap=weights.cap,
        period=times.period_us,
        slice=times.budget_us,
        extratime=times.extratime,
        cpus=_lists([vcpu.hard for vcpu in vcpus], control.all_cpus),
        cpus_soft=_lists([vcpu.soft for vcpu in vcpus], control.all_cpus),
    )


def _lists(masks: list[CpuMask], everything: CpuMask) -> str | tuple[str, ...] | None:
    """One text for all vCPUs if it does, none if they are free."""
    texts = [show(mask, everything) for mask in masks]
    if len(set(texts)) > 1:
        return tuple(texts)
    return None if texts[0] == "all" else texts[0]

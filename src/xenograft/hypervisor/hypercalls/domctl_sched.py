# SPDX-License-Identifier: GPL-2.0-or-later
"""domctl operations on scheduling: parameters, affinity, what a vCPU does.

Facts: public/domctl.h; Xen's sched_adjust() and vcpu_affinity_domctl() (4.17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi import domctl as abi
from xenograft.abi.domctl_structs import (
    xen_domctl_sched_credit,
    xen_domctl_sched_rtds,
    xen_domctl_schedparam_vcpu,
    xen_domctl_vcpuaffinity,
)
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.vcpu import RUNSTATE_running
from xenograft.hypervisor.hypercalls.bitmap import read_bitmap, write_bitmap
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.hypervisor.sched.topology import MAX_NUMNODES
from xenograft.hypervisor.sched.unit import ALL_CPUS

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.sched.unit import SchedUnit
    from xenograft.hypervisor.vcpu import Vcpu

NO_CAP = 0xFFFF
"""The cap that leaves what is there."""

MAX_VCPU_PARAMS = 128
"""How many vCPUs' parameters one call handles; no domain has more."""


def _domain(call: Call, op: abi.xen_domctl) -> Domain:
    domain = call.hypervisor.domains.get(op.domain)
    if domain is None:
        raise XenError(Errno.ESRCH)
    return domain


def _vcpu(domain: Domain, number: int) -> Vcpu:
    if number >= len(domain.vcpus):
        raise XenError(Errno.EINVAL)
    return domain.vcpus[number]


# -- affinity ------------------------------------------------------------------------------------
def _check_affinity(op: xen_domctl_vcpuaffinity) -> None:
    hard, soft = abi.XEN_VCPUAFFINITY_HARD, abi.XEN_VCPUAFFINITY_SOFT
    if (
        op.flags == 0
        or (op.flags & hard and not op.cpumap_hard.bitmap)
        or (op.flags & soft and not op.cpumap_soft.bitmap)
    ):
        raise XenError(Errno.EINVAL)


def setvcpuaffinity(call: Call, arg: int) -> int:
    """Set hard and soft affinity; what is in force is written back, as far as the pool has it."""
    op = call.read(arg, abi.xen_domctl)
    domain = _domain(call, op)
    ask = op.u.vcpuaffinity
    _check_affinity(ask)
    unit = _vcpu(domain, ask.vcpu).unit
    core, now = call.hypervisor.sched, call.hypervisor.clock.now()
    cpus = core.topology.cpus
    if ask.flags & abi.XEN_VCPUAFFINITY_FORCE and unit.override is not None:
        core.pin_override(unit, -1, now)
    online = domain.sched.scheduler.cpus
    before = unit.hard
    if ask.flags & abi.XEN_VCPUAFFINITY_HARD:
        core.set_affinity(unit, now, hard=_all(read_bitmap(call, ask.cpumap_hard, cpus), cpus))
        write_bitmap(call, ask.cpumap_hard, unit.hard & online, cpus)
    if ask.flags & abi.XEN_VCPUAFFINITY_SOFT:
        try:
            core.set_affinity(unit, now, soft=_all(read_bitmap(call, ask.cpumap_soft, cpus), cpus))
        except XenError:
            if ask.flags & abi.XEN_VCPUAFFINITY_HARD and unit.override is None:
                core.set_affinity(unit, now, hard=before)
            raise
        write_bitmap(call, ask.cpumap_soft, unit.soft & unit.hard & online, cpus)
    call.write(arg, op)
    return 0


def _all(mask: int, cpus: int) -> int:
    """All CPUs there are: wherever there may be CPUs."""
    return ALL_CPUS if mask == (1 << cpus) - 1 else mask


def getvcpuaffinity(call: Call, arg: int) -> int:
    op = call.read(arg, abi.xen_domctl)
    domain = _domain(call, op)
    ask = op.u.vcpuaffinity
    _check_affinity(ask)
    unit = _vcpu(domain, ask.vcpu).unit
    cpus = call.hypervisor.sched.topology.cpus
    if ask.flags & abi.XEN_VCPUAFFINITY_HARD:
        write_bitmap(call, ask.cpumap_hard, unit.hard, cpus)
    if ask.flags & abi.XEN_VCPUAFFINITY_SOFT:
        write_bitmap(call, ask.cpumap_soft, unit.soft, cpus)
    return 0


def setnodeaffinity(call: Call, arg: int) -> int:
    """Name the domain's nodes; all of them: let them follow its vCPUs (domain_set_node_affinity).

    Raises XenError: EINVAL for nodes of which the machine has none.
    """
    op = call.read(arg, abi.xen_domctl)
    domain = _domain(call, op)
    everything = (1 << call.hypervisor.sched.topology.nodes) - 1
    nodes = read_bitmap(call, op.u.nodeaffinity.nodemap, MAX_NUMNODES)
    if not nodes & everything:
        raise XenError(Errno.EINVAL)
    domain.sched.nodes = None if nodes == (1 << MAX_NUMNODES) - 1 else nodes
    return 0


def getnodeaffinity(call: Call, arg: int) -> int:
    """The nodes that were named, or those where the domain's vCPUs may (or would rather) run."""
    op = call.read(arg, abi.xen_domctl)
    domain = _domain(call, op)
    topology = call.hypervisor.sched.topology
    nodes = domain.sched.nodes
    if nodes is None:
        cpus = 0
        for vcpu in domain.vcpus:
            cpus |= (vcpu.unit.hard & vcpu.unit.soft) or vcpu.unit.hard
        cpus = (cpus or ALL_CPUS) & domain.sched.scheduler.cpus
        nodes = sum(1 << node for node in range(topology.nodes) if topology.node_cpus(node) & cpus)
    write_bitmap(call, op.u.nodeaffinity.nodemap, nodes, MAX_NUMNODES)
    return 0


# -- what a vCPU does ------------------------------------------------------------------------------
def getvcpuinfo(call: Call, arg: int) -> int:
    op = call.read(arg, abi.xen_domctl)
    vcpu = _vcpu(_domain(call, op), op.u.getvcpuinfo.vcpu)
    info = op.u.getvcpuinfo
    info.online = int(vcpu.online)
    info.blocked = int(vcpu.blocked)
    info.running = int(vcpu.unit.running)
    info.cpu_time = vcpu.runstate_now()[2][RUNSTATE_running]
    info.cpu = vcpu.unit.cpu
    call.write(arg, op)
    return 0


# -- parameters ------------------------------------------------------------------------------------
def _from_rtds(rtds: xen_domctl_sched_rtds, *, flags: bool) -> Params:
    extra = bool(rtds.flags & abi.XEN_DOMCTL_SCHEDRT_extra) if flags else None
    return Params(period_us=rtds.period, budget_us=rtds.budget, extratime=extra)


def _from_credit(credit: xen_domctl_sched_credit) -> Params:
    return Params(weight=credit.weight, cap=None if credit.cap == NO_CAP else credit.cap)


def scheduler_op(call: Call, arg: int) -> int:
    """Get or set parameters of a domain or of its vCPUs, with the pool's scheduler."""
    op = call.read(arg, abi.xen_domctl)
    domain = _domain(call, op)
    ask, scheduler = op.u.scheduler_op, domain.sched.scheduler
    if ask.sched_id != scheduler.sched_id or ask.cmd not in _COMMANDS:
        raise XenError(Errno.EINVAL)
    if not scheduler.adjustable:
        return 0
    now = call.hypervisor.clock.now()
    rtds = scheduler.sched_id == abi.XEN_SCHEDULER_RTDS
    # credit2's parameters are laid out as credit's.
    if ask.cmd == abi.XEN_DOMCTL_SCHEDOP_putinfo:
        params = _from_rtds(ask.u.rtds, flags=False) if rtds else _from_credit(ask.u.credit)
        scheduler.set_params(domain.sched, params, now)
    elif ask.cmd == abi.XEN_DOMCTL_SCHEDOP_getinfo:
        params = scheduler.get_params(domain.sched)
        if rtds:
            ask.u.rtds.period = params.period_us or 0
            ask.u.rtds.budget = params.budget_us or 0
        else:
            ask.u.credit.weight, ask.u.credit.cap = params.weight or 0, params.cap or 0
        call.write(arg, op)
    elif not rtds:
        raise XenError(Errno.EINVAL)
    else:
        _vcpu_params(call, domain, ask.cmd, ask.u.v, now)
        call.write(arg, op)
    return 0


def _vcpu_params(call: Call, domain: Domain, cmd: int, vector: object, now: int) -> None:
    """Each vCPU's parameters in turn; `nr_vcpus` becomes how many were handled."""
    count: int = vector.nr_vcpus  # type: ignore[attr-defined]
    array: int = vector.vcpus  # type: ignore[attr-defined]
    size = xen_domctl_schedparam_vcpu.sizeof(call.bits)
    scheduler = domain.sched.scheduler
    for index in range(min(count, MAX_VCPU_PARAMS)):
        entry = call.read(array + index * size, xen_domctl_schedparam_vcpu)
        unit: SchedUnit = _vcpu(domain, entry.vcpuid).unit
        if cmd == abi.XEN_DOMCTL_SCHEDOP_putvcpuinfo:
            scheduler.set_unit_params(unit, _from_rtds(entry.u.rtds, flags=True), now)
            continue
        params = scheduler.get_unit_params(unit)
        rtds = entry.u.rtds
        rtds.period, rtds.budget = params.period_us or 0, params.budget_us or 0
        rtds.flags = abi.XEN_DOMCTL_SCHEDRT_extra if params.extratime else 0
        call.write(array + index * size, entry)
    vector.nr_vcpus = min(count, MAX_VCPU_PARAMS)  # type: ignore[attr-defined]


_COMMANDS = (
    abi.XEN_DOMCTL_SCHEDOP_putinfo,
    abi.XEN_DOMCTL_SCHEDOP_getinfo,
    abi.XEN_DOMCTL_SCHEDOP_putvcpuinfo,
    abi.XEN_DOMCTL_SCHEDOP_getvcpuinfo,
)

DOMCTLS: dict[int, Callable[[Call, int], int]] = {
    abi.XEN_DOMCTL_setvcpuaffinity: setvcpuaffinity,
    abi.XEN_DOMCTL_getvcpuaffinity: getvcpuaffinity,
    abi.XEN_DOMCTL_setnodeaffinity: setnodeaffinity,
    abi.XEN_DOMCTL_getnodeaffinity: getnodeaffinity,
    abi.XEN_DOMCTL_getvcpuinfo: getvcpuinfo,
    abi.XEN_DOMCTL_scheduler_op: scheduler_op,
}

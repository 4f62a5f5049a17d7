# SPDX-License-Identifier: GPL-2.0-or-later
"""sysctl operations on pools and schedulers.

Facts: public/sysctl.h; Xen's cpupool_do_sysctl() and sched_adjust_global() (4.17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi import sysctl as abi
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sysctl_structs import (
    _minor_frame,
    xen_sysctl_arinc653_schedule,
    xen_sysctl_scheduler_op,
)
from xenograft.hypervisor.hypercalls.bitmap import write_bitmap
from xenograft.hypervisor.sched.arinc653 import Arinc653, MinorFrame, Schedule
from xenograft.hypervisor.sched.scheduler import GlobalParams, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenograft.hypervisor.call import Call


def sched_id(call: Call, arg: int) -> int:
    """Which scheduler pools have by default."""
    op = call.read(arg, abi.xen_sysctl)
    op.u.sched_id.sched_id = call.hypervisor.pools.default_sched
    call.write(arg, op)
    return 0


# -- pools -----------------------------------------------------------------------------------------
def cpupool_op(call: Call, arg: int) -> int:
    """XEN_SYSCTL_CPUPOOL_OP_*."""
    op = call.read(arg, abi.xen_sysctl)
    ask, pools = op.u.cpupool_op, call.hypervisor.pools
    cpus = call.hypervisor.sched.topology.cpus
    any_ = abi.XEN_SYSCTL_CPUPOOL_PAR_ANY
    cpu = None if ask.cpu == any_ else ask.cpu
    match ask.op:
        case abi.XEN_SYSCTL_CPUPOOL_OP_CREATE:
            number = None if ask.cpupool_id == any_ else ask.cpupool_id
            ask.cpupool_id = pools.create(ask.sched_id, number).pool_id
        case abi.XEN_SYSCTL_CPUPOOL_OP_DESTROY:
            pools.destroy(ask.cpupool_id)
        case abi.XEN_SYSCTL_CPUPOOL_OP_INFO:
            pool = pools.next(ask.cpupool_id)
            ask.cpupool_id = pool.pool_id
            ask.sched_id = pool.scheduler.sched_id
            ask.n_dom = len(pool.domains)
            write_bitmap(call, ask.cpumap, pool.cpus, cpus)
        case abi.XEN_SYSCTL_CPUPOOL_OP_ADDCPU:
            pools.add_cpu(ask.cpupool_id, cpu)
        case abi.XEN_SYSCTL_CPUPOOL_OP_RMCPU:
            pools.remove_cpu(ask.cpupool_id, cpu)
        case abi.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN:
            _move_domain(call, ask.domid, ask.cpupool_id)
        case abi.XEN_SYSCTL_CPUPOOL_OP_FREEINFO:
            write_bitmap(call, ask.cpumap, pools.free, cpus)
        case _:
            raise XenError(Errno.ENOSYS)
    call.write(arg, op)
    return 0


def _move_domain(call: Call, domid: int, pool_id: int) -> None:
    domain = call.hypervisor.domains.get(domid)
    if domain is None:
        raise XenError(Errno.ESRCH)
    if domain is call.domain:
        raise XenError(Errno.EPERM)
    call.hypervisor.pools.move_domain(domain.sched, pool_id)


# -- schedulers ------------------------------------------------------------------------------------
def scheduler_op(call: Call, arg: int) -> int:
    """Get or set the parameters of a pool's scheduler."""
    op = call.read(arg, abi.xen_sysctl)
    ask = op.u.scheduler_op
    if ask.cmd not in (abi.XEN_SYSCTL_SCHEDOP_putinfo, abi.XEN_SYSCTL_SCHEDOP_getinfo):
        raise XenError(Errno.EINVAL)
    try:
        scheduler = call.hypervisor.pools.get(ask.cpupool_id).scheduler
    except XenError:
        raise XenError(Errno.ESRCH) from None
    if ask.sched_id != scheduler.sched_id:
        raise XenError(Errno.EINVAL)
    if isinstance(scheduler, Arinc653):
        _arinc653(call, scheduler, ask)
        return 0
    if ask.cmd == abi.XEN_SYSCTL_SCHEDOP_putinfo:
        _put(scheduler, ask)
        if scheduler.opt_name == "credit":
            _get(scheduler, ask)
            call.write(arg, op)
    else:
        _get(scheduler, ask)
        call.write(arg, op)
    return 0


def _put(scheduler: Scheduler, ask: xen_sysctl_scheduler_op) -> None:
    if scheduler.opt_name == "credit":
        credit = ask.u.sched_credit
        scheduler.set_global(
            GlobalParams(
                ratelimit_us=credit.ratelimit_us,
                tslice_ms=credit.tslice_ms,
                migration_delay_us=credit.vcpu_migr_delay_us,
            )
        )
    elif scheduler.opt_name == "credit2":
        scheduler.set_global(GlobalParams(ratelimit_us=ask.u.sched_credit2.ratelimit_us))


def _get(scheduler: Scheduler, ask: xen_sysctl_scheduler_op) -> None:
    params = scheduler.get_global()
    if scheduler.opt_name == "credit":
        credit = ask.u.sched_credit
        credit.ratelimit_us = params.ratelimit_us or 0
        credit.tslice_ms = params.tslice_ms or 0
        credit.vcpu_migr_delay_us = params.migration_delay_us or 0
    elif scheduler.opt_name == "credit2":
        ask.u.sched_credit2.ratelimit_us = params.ratelimit_us or 0


def _arinc653(call: Call, scheduler: Arinc653, ask: xen_sysctl_scheduler_op) -> None:
    where = ask.u.sched_arinc653.schedule
    if ask.cmd == abi.XEN_SYSCTL_SCHEDOP_putinfo:
        got = call.read(where, xen_sysctl_arinc653_schedule)
        if got.num_sched_entries > abi.ARINC653_MAX_DOMAINS_PER_SCHEDULE:
            raise XenError(Errno.EINVAL)
        frames = tuple(
            MinorFrame(bytes(entry.dom_handle), entry.vcpu_id, _signed(entry.runtime))
            for entry in got.sched_entries[: got.num_sched_entries]
        )
        schedule = Schedule(_signed(got.major_frame), frames)
        scheduler.set_schedule(schedule, call.hypervisor.clock.now())
        return
    table = scheduler.table
    entries = [_minor_frame() for _ in range(abi.ARINC653_MAX_DOMAINS_PER_SCHEDULE)]
    for entry, frame in zip(entries, table.frames, strict=False):
        entry.dom_handle, entry.vcpu_id, entry.runtime = frame.uuid, frame.vcpu, frame.runtime_ns
    call.write(
        where,
        xen_sysctl_arinc653_schedule(
            major_frame=table.major_frame_ns,
            num_sched_entries=len(table.frames),
            sched_entries=entries,
        ),
    )


def _signed(value: int) -> int:
    """Xen's s_time_t of an unsigned member."""
    return value - (1 << 64) if value >> 63 else value


SYSCTLS: dict[int, Callable[[Call, int], int]] = {
    abi.XEN_SYSCTL_sched_id: sched_id,
    abi.XEN_SYSCTL_cpupool_op: cpupool_op,
    abi.XEN_SYSCTL_scheduler_op: scheduler_op,
}

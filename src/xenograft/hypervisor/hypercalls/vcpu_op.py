# SPDX-License-Identifier: GPL-2.0-or-later
"""vcpu_op: bring vCPUs up and down, their timers and their shared areas.

Facts: public/vcpu.h; Xen's do_vcpu_op() and common_vcpu_op() of 4.17.  Unlike other families,
the number of a vCPU stands before the argument, and an absent vCPU is -ENOENT.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenograft.abi import vcpu as abi
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sched import SHUTDOWN_poweroff
from xenograft.hypervisor.guest_time import (
    runstate_record,
    update_runstate_area,
    update_vcpu_time,
)
from xenograft.hypervisor.ops import Decisions, everyone

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.vcpu import Vcpu

STIME_DELTA_MAX = (1 << 64) - 1 >> 2
MIN_PERIOD_NS = 1_000_000

VcpuHandler = Callable[["Call", "Vcpu", int], int]


def initialise(call: Call, vcpu: Vcpu, arg: int) -> int:
    """Set the registers of a vCPU that has never run."""
    if vcpu.vcpu_info_maddr is None:
        raise XenError(Errno.EINVAL)
    call.domain.arch.initialise_vcpu(call, vcpu, arg)
    return 0


def up(_call: Call, vcpu: Vcpu, _arg: int) -> int:
    if not vcpu.initialised:
        raise XenError(Errno.EINVAL)
    vcpu.bring_up()
    return 0


def down(call: Call, vcpu: Vcpu, _arg: int) -> int:
    """Take a vCPU down; the last one is a power-off."""
    if all(other is vcpu or other.down for other in call.domain.vcpus):
        call.domain.shutdown(SHUTDOWN_poweroff)
    else:
        vcpu.take_down()
    return 0


def is_up(_call: Call, vcpu: Vcpu, _arg: int) -> int:
    return int(vcpu.online)


def get_runstate_info(call: Call, vcpu: Vcpu, arg: int) -> int:
    call.write(arg, runstate_record(vcpu))
    return 0


def register_runstate_memory_area(call: Call, vcpu: Vcpu, arg: int) -> int:
    """From now on the runstate is copied to the area each time it changes."""
    area = call.read(arg, abi.vcpu_register_runstate_memory_area)
    vcpu.runstate_area = area.addr.v
    if vcpu is call.vcpu:
        update_runstate_area(vcpu)
    elif vcpu.runstate_area:
        # Xen doesn't look whether this copy succeeds; later ones need not, either.
        with suppress(XenError):
            call.write(vcpu.runstate_area, runstate_record(vcpu))
    return 0


def set_periodic_timer(call: Call, vcpu: Vcpu, arg: int) -> int:
    period = call.read(arg, abi.vcpu_set_periodic_timer).period_ns
    if not MIN_PERIOD_NS <= period <= STIME_DELTA_MAX:
        raise XenError(Errno.EINVAL)
    vcpu.set_periodic_timer(period)
    return 0


def stop_periodic_timer(_call: Call, vcpu: Vcpu, _arg: int) -> int:
    vcpu.set_periodic_timer(0)
    return 0


def set_singleshot_timer(call: Call, vcpu: Vcpu, arg: int) -> int:
    """One VIRQ_TIMER at a system time; at once if it has passed.

    VCPU_SSHOTTMR_future (fail with -ETIME instead) is accepted and has no effect in Xen 4.17.
    """
    _require_current(call, vcpu)
    timer = call.read(arg, abi.vcpu_set_singleshot_timer)
    # Xen's own time is signed: what is beyond lies in the past.
    domain = call.domain
    if timer.timeout_abs_ns < domain.system_time or timer.timeout_abs_ns >> 63:
        vcpu.stop_singleshot_timer()
        vcpu.send_timer_event()
    else:
        vcpu.set_singleshot_timer(domain.machine_time(timer.timeout_abs_ns))
    return 0


def stop_singleshot_timer(call: Call, vcpu: Vcpu, _arg: int) -> int:
    _require_current(call, vcpu)
    vcpu.stop_singleshot_timer()
    return 0


def register_vcpu_info(call: Call, vcpu: Vcpu, arg: int) -> int:
    """Move the vCPU's vcpu_info into a page of the guest; only once."""
    info = call.read(arg, abi.vcpu_register_vcpu_info)
    try:
        vcpu.map_vcpu_info(info.mfn, info.offset, call.vcpu)
    finally:
        update_vcpu_time(vcpu, force=True)
    return 0


def send_nmi(_call: Call, vcpu: Vcpu, arg: int) -> int:
    if arg:
        raise XenError(Errno.EINVAL)
    vcpu.send_nmi()
    return 0


def get_physid(_call: Call, _vcpu: Vcpu, _arg: int) -> int:
    """The ids of the physical CPU: only for a hardware domain whose vCPUs are pinned at boot."""
    raise XenError(Errno.EINVAL)


def register_vcpu_time_memory_area(call: Call, vcpu: Vcpu, arg: int) -> int:
    """From now on the time record is copied to the area too."""
    vcpu.time_area = call.read(arg, abi.vcpu_register_time_memory_area).addr.v
    update_vcpu_time(vcpu, force=True)
    return 0


def _require_current(call: Call, vcpu: Vcpu) -> None:
    if vcpu is not call.vcpu:
        raise XenError(Errno.EINVAL)


@dataclass(frozen=True, slots=True)
class VcpuOp:
    """A row of the family: as `ops.Op`, but the handler is given the vCPU."""

    number: int
    name: str
    decisions: Decisions


def _row(number: int, name: str, handler: VcpuHandler) -> VcpuOp:
    return VcpuOp(number, name, everyone(handler))  # type: ignore[arg-type]


VCPU_OPS: dict[int, VcpuOp] = {
    row.number: row
    for row in (
        _row(abi.VCPUOP_initialise, "VCPUOP_initialise", initialise),
        _row(abi.VCPUOP_up, "VCPUOP_up", up),
        _row(abi.VCPUOP_down, "VCPUOP_down", down),
        _row(abi.VCPUOP_is_up, "VCPUOP_is_up", is_up),
        _row(abi.VCPUOP_get_runstate_info, "VCPUOP_get_runstate_info", get_runstate_info),
        _row(
            abi.VCPUOP_register_runstate_memory_area,
            "VCPUOP_register_runstate_memory_area",
            register_runstate_memory_area,
        ),
        _row(abi.VCPUOP_set_periodic_timer, "VCPUOP_set_periodic_timer", set_periodic_timer),
        _row(abi.VCPUOP_stop_periodic_timer, "VCPUOP_stop_periodic_timer", stop_periodic_timer),
        _row(abi.VCPUOP_set_singleshot_timer, "VCPUOP_set_singleshot_timer", set_singleshot_timer),
        _row(
            abi.VCPUOP_stop_singleshot_timer, "VCPUOP_stop_singleshot_timer", stop_singleshot_timer
        ),
        _row(abi.VCPUOP_register_vcpu_info, "VCPUOP_register_vcpu_info", register_vcpu_info),
        _row(abi.VCPUOP_send_nmi, "VCPUOP_send_nmi", send_nmi),
        _row(abi.VCPUOP_get_physid, "VCPUOP_get_physid", get_physid),
        _row(
            abi.VCPUOP_register_vcpu_time_memory_area,
            "VCPUOP_register_vcpu_time_memory_area",
            register_vcpu_time_memory_area,
        ),
    )
}


def vcpu_op(call: Call, cmd: int, vcpu_id: int, arg: int) -> int:
    """__HYPERVISOR_vcpu_op: on a vCPU of the calling domain."""
    vcpus = call.domain.vcpus
    if vcpu_id >= len(vcpus):
        raise XenError(Errno.ENOENT)
    row = VCPU_OPS.get(cmd)
    if row is None:
        raise XenError(Errno.ENOSYS)
    decision = row.decisions[call.domain.kind]
    if isinstance(decision, Errno):
        raise XenError(decision)
    return decision(call, vcpus[vcpu_id], arg)  # type: ignore[call-arg]

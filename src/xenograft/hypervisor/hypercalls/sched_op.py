# SPDX-License-Identifier: GPL-2.0-or-later
"""sched_op: yield, block, poll, shut down, watchdogs (public/sched.h; Xen's do_sched_op)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenograft.abi import sched
from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.ops import Op, dispatch_family, everyone, family
from xenograft.hypervisor.privilege import Xsm, check
from xenograft.hypervisor.vcpu import UPCALL_MASK

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call

MAX_POLL_PORTS = 128


def yield_(call: Call, _arg: int) -> int:
    call.hypervisor.yield_vcpu(call.current)
    return 0


def block(call: Call, _arg: int) -> int:
    """Enable event delivery, and sleep until an event needs it."""
    vcpu = call.current
    if vcpu.vcpu_info_maddr is not None:
        call.domain.memory.write(vcpu.vcpu_info_maddr + UPCALL_MASK, b"\0")
    if not vcpu.events_need_delivery():
        vcpu.block()
    return 0


def shutdown(call: Call, arg: sched.sched_shutdown) -> int:
    call.domain.shutdown(arg.reason & 0xFF)
    return 0


def shutdown_code(call: Call, arg: sched.sched_shutdown) -> int:
    """Say beforehand with what reason the next shutdown counts; the first one to say so wins."""
    if call.domain.shutdown_code is None:
        call.domain.shutdown_code = arg.reason & 0xFF
    return 0


def poll(call: Call, arg: sched.sched_poll) -> int:
    """Sleep until one of the ports is pending, an event needs delivery, or the time-out."""
    if arg.nr_ports > MAX_POLL_PORTS:
        raise XenError(Errno.EINVAL)
    vcpu = call.current
    if vcpu.events_need_delivery():
        return 0

    def ports() -> Iterator[int]:
        for index in range(arg.nr_ports):
            yield call.read_ints(arg.ports, 4, 1, index)[0]

    if call.domain.events.poll(vcpu, ports()):
        vcpu.block(timeout_ns=arg.timeout)
    return 0


def remote_shutdown(call: Call, arg: sched.sched_remote_shutdown) -> int:
    domain = call.hypervisor.domains.get(arg.domain_id)
    if domain is None:
        raise XenError(Errno.ESRCH)
    check(Xsm.DM_PRIV, call.domain, domain)
    domain.shutdown(arg.reason & 0xFF)
    return 0


def watchdog(call: Call, arg: sched.sched_watchdog) -> int:
    return call.domain.watchdogs.set(arg.id, arg.timeout)


def pin_override(call: Call, arg: int) -> int:
    """Only the hardware domain may tie itself to a physical CPU."""
    if not call.domain.is_hardware:
        raise XenError(Errno.EPERM)
    pcpu = call.read(arg, sched.sched_pin_override).pcpu
    hypervisor = call.hypervisor
    hypervisor.sched.pin_override(call.current.unit, pcpu, hypervisor.clock.now())
    return 0


SCHED_OPS = family(
    [
        Op(sched.SCHEDOP_yield, "SCHEDOP_yield", None, everyone(yield_)),
        Op(sched.SCHEDOP_block, "SCHEDOP_block", None, everyone(block)),
        Op(sched.SCHEDOP_shutdown, "SCHEDOP_shutdown", sched.sched_shutdown, everyone(shutdown)),
        Op(sched.SCHEDOP_poll, "SCHEDOP_poll", sched.sched_poll, everyone(poll)),
        Op(
            sched.SCHEDOP_remote_shutdown,
            "SCHEDOP_remote_shutdown",
            sched.sched_remote_shutdown,
            everyone(remote_shutdown),
        ),
        Op(
            sched.SCHEDOP_shutdown_code,
            "SCHEDOP_shutdown_code",
            sched.sched_shutdown,
            everyone(shutdown_code),
        ),
        Op(sched.SCHEDOP_watchdog, "SCHEDOP_watchdog", sched.sched_watchdog, everyone(watchdog)),
        Op(sched.SCHEDOP_pin_override, "SCHEDOP_pin_override", None, everyone(pin_override)),
    ]
)


def sched_op(call: Call, cmd: int, arg: int) -> int:
    """__HYPERVISOR_sched_op."""
    return dispatch_family(SCHED_OPS, call, cmd, arg)


def sched_op_compat(call: Call, cmd: int, arg: int) -> int:
    """__HYPERVISOR_sched_op_compat: the interface before 0x00030101; the reason is the argument."""
    if cmd == sched.SCHEDOP_yield:
        return yield_(call, 0)
    if cmd == sched.SCHEDOP_block:
        return block(call, 0)
    if cmd == sched.SCHEDOP_shutdown:
        call.domain.shutdown(arg & 0xFF)
        return 0
    raise XenError(Errno.ENOSYS)

# SPDX-License-Identifier: GPL-2.0-or-later
"""set_timer_op: the calling vCPU's one-shot timer (Xen's do_set_timer_op)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call

FAR = 1 << 50
"""Time-outs further away than this (13 days) count as mistakes of the guest: 100 ms are taken."""


def set_timer_op(call: Call, timeout: int) -> int:
    """VIRQ_TIMER at `timeout` (signed ns of system time); 0 stops the timer."""
    vcpu, domain = call.current, call.domain
    now = domain.system_time
    if timeout == 0:
        vcpu.stop_singleshot_timer()
    elif timeout < 0 or (timeout > now and timeout - now >> 50 & 0xFFFFFFFF):
        call.domain.log.message(f"Warning: huge timeout set: {timeout & (1 << 64) - 1:x}")
        vcpu.set_singleshot_timer(domain.machine_time(now + 100_000_000))
    else:
        vcpu.set_singleshot_timer(domain.machine_time(timeout))
    return 0


def set_timer_op_64(call: Call, timeout: int) -> int:
    """64-bit callers: the time-out is one register."""
    return set_timer_op(call, timeout - (1 << 64) if timeout >> 63 else timeout)


def set_timer_op_32(call: Call, low: int, high: int) -> int:
    """32-bit callers: two registers."""
    return set_timer_op_64(call, high << 32 | low)

# SPDX-License-Identifier: GPL-2.0-or-later
"""multicall: many hypercalls in one (Xen's xen/common/multicall.c).

Each entry gets its own result.  After `BUDGET` entries the call continues later, so that a long
list holds up neither the machine nor the guest's interrupts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import __HYPERVISOR_multicall, multicall_entry
from xenograft.hypervisor.call import Continuation

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call

BUDGET = 32
"""Entries done at a time."""


def multicall(call: Call, call_list: int, nr_calls: int) -> int:
    """__HYPERVISOR_multicall. Raises XenError: EINVAL inside another one, EFAULT."""
    if call.in_multicall:
        raise XenError(Errno.EINVAL)
    call.in_multicall = True
    try:
        return _run(call, call_list, nr_calls)
    finally:
        call.in_multicall = False


def _run(call: Call, call_list: int, nr_calls: int) -> int:
    size = multicall_entry.sizeof(call.bits)
    result_at = multicall_entry.offsetof("result", call.bits)
    width = call.bits // 8
    for index in range(min(nr_calls, BUDGET)):
        addr = call_list + index * size
        entry = call.read(addr, multicall_entry)
        try:
            result = call.hypervisor.dispatch(call, entry.op & 0xFFFFFFFF, tuple(entry.args))
        except Continuation as rest:
            # The entry takes the rest of its work; the list goes on from there.
            entry.op = rest.number
            entry.args = [*rest.arguments, *entry.args[len(rest.arguments) :]]
            call.write(addr, entry)
            raise Continuation(__HYPERVISOR_multicall, addr, nr_calls - index) from None
        call.write_ints(addr + result_at, width, [result & (1 << call.bits) - 1])
        if call.vcpu is not None and not call.vcpu.runnable and index + 1 < nr_calls:
            # The vCPU blocked, or its domain shut down: the rest comes when it runs again.
            raise Continuation(__HYPERVISOR_multicall, addr + size, nr_calls - index - 1)
    if nr_calls > BUDGET:
        raise Continuation(__HYPERVISOR_multicall, call_list + BUDGET * size, nr_calls - BUDGET)
    return 0

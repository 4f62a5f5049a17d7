# SPDX-License-Identifier: GPL-2.0-or-later
"""What bounds memory operations: extent orders per caller, and work per call.

Facts: max_order() and propagate_node() in xen/common/memory.c; xen/arch/x86/include/asm/config.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.memory import MEMOP_EXTENT_SHIFT, XENMEMF_exact_node_request, XENMEMF_node
from xenograft.abi.xen import __HYPERVISOR_memory_op as HYPERVISOR_memory_op
from xenograft.hypervisor.call import Continuation

if TYPE_CHECKING:
    from xenograft.abi.struct import Struct
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain

DOMU_MAX_ORDER = 9
HWDOM_MAX_ORDER = 12
CTLDOM_MAX_ORDER = 18
MAX_ORDER = 18
MAX_NUMNODES = 64

MAX_EXTENTS = 0xFFFFFFFF >> MEMOP_EXTENT_SHIFT
"""More can't be encoded in a continuation."""

BUDGET = 128
"""Extents (or single frames, where an operation takes them one by one) per call: then it
continues, and interrupts, timers and other vCPUs get their turn."""


def is_hardware_domain(domain: Domain) -> bool:
    """Whether the domain owns the machine's devices (Xen's is_hardware_domain)."""
    return domain.is_hardware


def max_order(domain: Domain) -> int:
    """The largest extent that the calling domain may handle, as a power of two."""
    order = DOMU_MAX_ORDER
    if domain.is_privileged:
        order = max(order, CTLDOM_MAX_ORDER)
    if is_hardware_domain(domain):
        order = max(order, HWDOM_MAX_ORDER)
    return min(order, MAX_ORDER)


def check_node(caller: Domain, mem_flags: int) -> None:
    """Refuse a NUMA node that the caller may not name. Raises XenError(EINVAL)."""
    node = XENMEMF_node(mem_flags)
    if node is None:
        return
    if caller.is_privileged or is_hardware_domain(caller):
        if node >= MAX_NUMNODES:
            raise XenError(Errno.EINVAL)
    elif mem_flags & XENMEMF_exact_node_request:
        raise XenError(Errno.EINVAL)


def continue_at(cmd: int, extent: int, addr: int) -> Continuation:
    """The memory operation `cmd`, to go on with `extent` (in the upper bits of its number)."""
    return Continuation(HYPERVISOR_memory_op, cmd | extent << MEMOP_EXTENT_SHIFT, addr)


def copy_member(call: Call, addr: int, value: Struct, name: str) -> None:
    """Copy a single member of a structure out. Raises XenError(EFAULT)."""
    bits = call.bits
    for member in type(value).fields(bits):
        if member.name == name:
            at = member.offset
            data = value.pack(bits)[at : at + member.size]
            call.write_bytes((addr + at) & (1 << bits) - 1, data)
            return
    raise KeyError(name)

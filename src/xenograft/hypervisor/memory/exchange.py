# SPDX-License-Identifier: GPL-2.0-or-later
"""XENMEM_exchange: give frames back for others, of another extent size or lower addresses.

Only domains that see machine frame numbers can: for the others Xen's steal_page() refuses.

Facts: memory_exchange() in xen/common/memory.c of Xen 4.17; public/memory.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.memory import XENMEM_exchange, xen_memory_exchange
from xenograft.hypervisor.memory.limits import (
    BUDGET,
    check_node,
    continue_at,
    copy_member,
    max_order,
)
from xenograft.hypervisor.memory.reservation import machine_bits
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.memory.p2m import P2m

ULONG_MAX = (1 << 64) - 1


def memory_exchange(call: Call, addr: int) -> int:
    """Raises XenError; `nr_exchanged` in the caller's structure says how far it came."""
    if call.start:
        raise XenError(Errno.EINVAL)
    exchange = call.read(addr, xen_memory_exchange)
    try:
        p2m = _check(call, exchange)
    except XenError:
        copy_member(call, addr, exchange, "nr_exchanged")
        raise
    if exchange.nr_exchanged == exchange.in_.nr_extents:
        return 0
    return _exchange(call, addr, exchange, p2m)


def _check(call: Call, exchange: xen_memory_exchange) -> P2m:
    given, taken = exchange.in_, exchange.out
    if max(given.extent_order, taken.extent_order) > max_order(call.domain):
        raise XenError(Errno.EPERM)
    if (
        exchange.nr_exchanged > given.nr_extents
        or given.domid != taken.domid
        or ULONG_MAX >> given.extent_order < given.nr_extents
        or ULONG_MAX >> taken.extent_order < taken.nr_extents
        or given.nr_extents << given.extent_order != taken.nr_extents << taken.extent_order
    ):
        raise XenError(Errno.EINVAL)
    check_node(call.domain, taken.mem_flags)
    domain = call.hypervisor.resolve_domid(call, given.domid)
    check(Xsm.TARGET, call.domain, domain)
    p2m: P2m = domain.p2m
    return p2m


def _exchange(call: Call, addr: int, exchange: xen_memory_exchange, p2m: P2m) -> int:
    given, taken = exchange.in_, exchange.out
    in_order = max(0, taken.extent_order - given.extent_order)
    out_order = max(0, given.extent_order - taken.extent_order)
    first = exchange.nr_exchanged >> in_order
    for chunk in range(first, given.nr_extents >> in_order):
        exchange.nr_exchanged = chunk << in_order
        if chunk - first == BUDGET:
            copy_member(call, addr, exchange, "nr_exchanged")
            raise continue_at(XENMEM_exchange, 0, addr)
        try:
            _exchange_chunk(call, exchange, p2m, chunk, in_order, out_order)
        except XenError:
            copy_member(call, addr, exchange, "nr_exchanged")
            raise
    exchange.nr_exchanged = given.nr_extents
    copy_member(call, addr, exchange, "nr_exchanged")
    return 0


def _exchange_chunk(
    call: Call,
    exchange: xen_memory_exchange,
    p2m: P2m,
    chunk: int,
    in_order: int,
    out_order: int,
) -> None:
    """Exchange as many extents as make up one of the larger size."""
    frames, pool = p2m.frames, p2m.pool
    given, taken = exchange.in_, exchange.out
    stolen: list[int] = []
    new: list[int] = []
    count = 1 << taken.extent_order
    try:
        for gfn in call.read_ulongs(given.extent_start, 1 << in_order, chunk << in_order):
            for i in range(1 << given.extent_order):
                mfn, _ = p2m.lookup(gfn + i)
                if not frames.valid(mfn):
                    raise XenError(Errno.EINVAL)
                if p2m.translated:
                    raise XenError(Errno.EOPNOTSUPP)
                frames.steal(pool, mfn)
                stolen.append(mfn)
        bits = machine_bits(call, taken.mem_flags)
        for _ in range(1 << out_order):
            new.append(frames.alloc(pool, count, contiguous=True, bits=bits)[0][0])
    except XenError:
        for mfn in new:
            for i in range(count):
                frames.put_alloc_ref(mfn + i)
        for mfn in stolen:
            frames.assign(pool, mfn)
        raise
    for mfn in stolen:
        frames.free_stolen(mfn)
    failure: XenError | None = None
    for j, mfn in enumerate(new):
        at = (chunk << out_order) + j
        try:
            (gpfn,) = call.read_ulongs(taken.extent_start, 1, at)
            p2m.add_page(gpfn, mfn, count, fresh=True)
            call.write_ulongs(taken.extent_start, [mfn], at)
        except XenError as error:
            failure = error
    if failure is not None:
        raise failure

# SPDX-License-Identifier: GPL-2.0-or-later
"""Growing and shrinking a domain's memory: populate_physmap, increase_ and decrease_reservation.

These three answer with the number of extents done, whatever went wrong with the next one.

Facts: xen/common/memory.c of Xen 4.17; public/memory.h (struct xen_memory_reservation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.memory import (
    XENMEM_decrease_reservation,
    XENMEM_increase_reservation,
    XENMEM_populate_physmap,
    XENMEMF_address_bits,
    XENMEMF_populate_on_demand,
    XENMEMF_vnode,
    xen_memory_reservation,
)
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.memory.limits import (
    BUDGET,
    MAX_EXTENTS,
    check_node,
    continue_at,
    max_order,
)
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.memory.p2m import P2m

Step = Callable[["Call", xen_memory_reservation, "P2m", int], None]


def machine_bits(call: Call, mem_flags: int) -> int | None:
    """The address width that frames must keep to, or None. Raises XenError(EINVAL)."""
    wanted = XENMEMF_address_bits(mem_flags)
    order = (call.hypervisor.memory.frames - 1).bit_length()
    if wanted == 0 or wanted >= order + PAGE_SHIFT:
        return None
    if wanted <= PAGE_SHIFT:
        raise XenError(Errno.EINVAL)
    return wanted


def increase_reservation(call: Call, addr: int) -> int:
    """Allocate frames; where they appear is up to others for a translated domain."""
    return _extents(call, addr, XENMEM_increase_reservation, _increase)


def decrease_reservation(call: Call, addr: int) -> int:
    """Give frames back."""
    return _extents(call, addr, XENMEM_decrease_reservation, _decrease)


def populate_physmap(call: Call, addr: int) -> int:
    """Allocate frames and map them at the gfns listed."""
    return _extents(call, addr, XENMEM_populate_physmap, _populate)


def _extents(call: Call, addr: int, cmd: int, step: Step) -> int:
    start = call.start
    try:
        reservation = call.read(addr, xen_memory_reservation)
        domain = _check(call, reservation, start)
    except XenError:
        return start
    for extent in range(start, reservation.nr_extents):
        if extent - start == BUDGET:
            raise continue_at(cmd, extent, addr)
        try:
            step(call, reservation, domain.p2m, extent)
        except XenError:
            return extent
    return int(reservation.nr_extents)


def _check(call: Call, reservation: xen_memory_reservation, start: int) -> Domain:
    """The domain meant. Raises XenError where no extent may be touched."""
    if not start < reservation.nr_extents <= MAX_EXTENTS:
        raise XenError(Errno.EINVAL)
    domain = call.hypervisor.resolve_domid(call, reservation.domid)
    machine_bits(call, reservation.mem_flags)
    if not reservation.mem_flags & XENMEMF_vnode:
        check_node(call.domain, reservation.mem_flags)
    check(Xsm.TARGET, call.domain, domain)
    if reservation.extent_order > max_order(call.domain):
        raise XenError(Errno.EPERM)
    return domain


def _gfn(call: Call, reservation: xen_memory_reservation, extent: int) -> int:
    return call.read_ulongs(reservation.extent_start, 1, extent)[0]


def _tell_mfn(
    call: Call, reservation: xen_memory_reservation, p2m: P2m, extent: int, mfn: int
) -> None:
    """Domains that see the machine's frame numbers learn which they got."""
    if not p2m.translated:
        call.write_ulongs(reservation.extent_start, [mfn], extent)


def _increase(call: Call, reservation: xen_memory_reservation, p2m: P2m, extent: int) -> None:
    extents = p2m.frames.alloc(
        p2m.pool,
        1 << reservation.extent_order,
        contiguous=not p2m.translated,
        bits=machine_bits(call, reservation.mem_flags),
    )
    if reservation.extent_start:
        _tell_mfn(call, reservation, p2m, extent, extents[0][0])


def _populate(call: Call, reservation: xen_memory_reservation, p2m: P2m, extent: int) -> None:
    gfn = _gfn(call, reservation, extent)
    if reservation.mem_flags & XENMEMF_populate_on_demand:
        # Nobody may do it to themselves.
        if p2m is call.domain.p2m or not p2m.translated:
            raise XenError(Errno.EINVAL)
        p2m.populate_on_demand(gfn, 1 << reservation.extent_order)
        return
    extents = p2m.populate(
        gfn, 1 << reservation.extent_order, bits=machine_bits(call, reservation.mem_flags)
    )
    _tell_mfn(call, reservation, p2m, extent, extents[0][0])


def _decrease(call: Call, reservation: xen_memory_reservation, p2m: P2m, extent: int) -> None:
    gfn = _gfn(call, reservation, extent)
    for i in range(1 << reservation.extent_order):
        p2m.guest_remove_page(gfn + i)

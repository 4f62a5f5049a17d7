# SPDX-License-Identifier: GPL-2.0-or-later
"""Rearranging a physical map: add_to_physmap, its batch form, remove_from_physmap.

Facts: xenmem_add_to_physmap*() in xen/common/memory.c, xenmem_add_to_physmap_one() and
p2m_add_foreign() in xen/arch/x86/mm/p2m.c of Xen 4.17; public/memory.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.memory import (
    XENMAPSPACE_dev_mmio,
    XENMAPSPACE_gmfn,
    XENMAPSPACE_gmfn_foreign,
    XENMAPSPACE_gmfn_range,
    XENMAPSPACE_grant_table,
    XENMAPSPACE_shared_info,
    XENMEM_add_to_physmap,
    XENMEM_add_to_physmap_batch,
    xen_add_to_physmap,
    xen_add_to_physmap_batch,
    xen_remove_from_physmap,
)
from xenograft.abi.xen import DOMID_INVALID, DOMID_XEN
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.memory.frames import INVALID_GFN
from xenograft.hypervisor.memory.limits import BUDGET, continue_at, is_hardware_domain
from xenograft.hypervisor.memory.p2m_types import RAM_TYPES, P2mType
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.memory.p2m import P2m


def _may_add(call: Call, domain: Domain, space: int) -> None:
    if not domain.p2m.translated:
        raise XenError(Errno.EACCES)
    if space == XENMAPSPACE_dev_mmio and (
        not is_hardware_domain(domain) or domain is not call.domain
    ):
        raise XenError(Errno.EACCES)
    check(Xsm.TARGET, call.domain, domain)


def add_to_physmap(call: Call, addr: int) -> int:
    """Put one page of a source space, or a range of the domain's own, at another gfn."""
    start = call.start
    if start >> 16:
        raise XenError(Errno.EDOM)
    request = call.read(addr, xen_add_to_physmap)
    if request.space == XENMAPSPACE_gmfn_foreign:
        raise XenError(Errno.ENOSYS)
    domain = call.hypervisor.resolve_domid(call, request.domid)
    _may_add(call, domain, request.space)
    idx, gpfn, size = request.idx, request.gpfn, request.size
    if gpfn == INVALID_GFN:
        raise XenError(Errno.EINVAL)
    if request.space != XENMAPSPACE_gmfn_range:
        add_one(call, domain, request.space, idx, gpfn)
        return 0
    if size < start:
        raise XenError(Errno.EILSEQ)
    if (gpfn + size) >> 64 or (idx + size) >> 64:
        raise XenError(Errno.EOVERFLOW)
    for done in range(start, size):
        if done - start == BUDGET:
            raise continue_at(XENMEM_add_to_physmap, done, addr)
        add_one(call, domain, XENMAPSPACE_gmfn, idx + done, gpfn + done)
    return 0


def add_to_physmap_batch(call: Call, addr: int) -> int:
    """The same for pages that are listed, each with an errno of its own."""
    extent = call.start
    if extent >> 16:
        raise XenError(Errno.EDOM)
    request = call.read(addr, xen_add_to_physmap_batch)
    if request.space == XENMAPSPACE_gmfn_range:
        raise XenError(Errno.EOPNOTSUPP)
    domain = call.hypervisor.resolve_domid(call, request.domid)
    _may_add(call, domain, request.space)
    if request.size < extent or (request.size == extent and extent):
        raise XenError(Errno.EILSEQ)
    if request.space == XENMAPSPACE_dev_mmio and request.u.res0:
        raise XenError(Errno.EOPNOTSUPP)
    foreign = request.u.foreign_domid
    for at in range(extent, request.size):
        if at - extent == BUDGET:
            raise continue_at(XENMEM_add_to_physmap_batch, at, addr)
        (idx,) = call.read_ulongs(request.idxs, 1, at)
        (gpfn,) = call.read_ulongs(request.gpfns, 1, at)
        if gpfn == INVALID_GFN:
            raise XenError(Errno.EINVAL)
        errno = 0
        try:
            add_one(call, domain, request.space, idx, gpfn, foreign)
        except XenError as error:
            errno = -error.errno & 0xFFFFFFFF
        call.write_ints(request.errs, 4, [errno], at)
    return 0


def remove_from_physmap(call: Call, request: xen_remove_from_physmap) -> int:
    """Unmap a page; it stays the domain's."""
    if call.start:
        raise XenError(Errno.EINVAL)
    domain = call.hypervisor.resolve_domid(call, request.domid)
    p2m = domain.p2m
    if not p2m.translated:
        raise XenError(Errno.EACCES)
    check(Xsm.TARGET, call.domain, domain)
    page = p2m.get_page(request.gpfn)
    if page is None:
        raise XenError(Errno.ENOENT)
    try:
        p2m.remove_page(request.gpfn, page[0])
    finally:
        p2m.frames.put_page(page[0])
    return 0


# -- one page -----------------------------------------------------------------------------------
def add_one(
    call: Call,
    domain: Domain,
    space: int,
    idx: int,
    gpfn: int,
    foreign_domid: int = DOMID_INVALID,
) -> None:
    """Put one page at gpfn: it leaves its old place, and what was at gpfn is released.

    Raises XenError: EINVAL for no such page, EXDEV for a page that is elsewhere, EPERM over
    device memory, and what `P2m.guest_remove_page` and `P2m.add_page` raise.
    """
    if space == XENMAPSPACE_gmfn_foreign:
        _add_foreign(call, domain, idx, gpfn, foreign_domid)
        return
    p2m: P2m = domain.p2m
    if gpfn >= p2m.gfn_limit:
        raise XenError(Errno.EINVAL)
    mfn = _source(domain, space, idx)
    old_gfn = p2m.frames.gfn_of(mfn)
    if space == XENMAPSPACE_gmfn and old_gfn != idx:
        raise XenError(Errno.EXDEV)
    _make_room(p2m, gpfn, mfn)
    if old_gfn not in (INVALID_GFN, gpfn):
        p2m.remove_page(old_gfn, mfn)
    p2m.add_page(gpfn, mfn)


def _source(domain: Domain, space: int, idx: int) -> int:
    p2m: P2m = domain.p2m
    if space == XENMAPSPACE_shared_info and idx == 0:
        return domain.shared_info_maddr >> PAGE_SHIFT
    if space == XENMAPSPACE_grant_table:
        mfn: int = domain.grants.frame_for_map(idx)
        return mfn
    if space == XENMAPSPACE_gmfn and (page := p2m.get_page(idx)) is not None:
        mfn = page[0]
        p2m.frames.put_page(mfn)
        if p2m.frames.memory.owner(mfn) == domain.domid:
            return mfn
    raise XenError(Errno.EINVAL)


def _make_room(p2m: P2m, gpfn: int, mfn: int | None) -> None:
    """Release what is at gpfn, unless it's the frame that is to come there."""
    previous, kind = p2m.lookup(gpfn)
    if kind is P2mType.mmio_direct:
        raise XenError(Errno.EPERM)
    if not p2m.frames.valid(previous):
        return
    if p2m.frames.is_special(previous):
        # The hypervisor's own pages only lose their place.
        p2m.remove_page(gpfn, previous)
    elif previous != mfn:
        p2m.guest_remove_page(gpfn)


def _add_foreign(call: Call, domain: Domain, fgfn: int, gpfn: int, foreign_domid: int) -> None:
    """Map a page of another domain: for the hardware domain alone, as in Xen 4.17."""
    if not is_hardware_domain(domain):
        raise XenError(Errno.EPERM)
    if foreign_domid == DOMID_XEN:
        # Xen's own pages (its trace buffers) are in nobody's physical map here.
        raise XenError(Errno.EINVAL)
    foreign = call.hypervisor.domains.get(foreign_domid)
    if foreign is None:
        raise XenError(Errno.ESRCH)
    if foreign is call.domain:
        raise XenError(Errno.EPERM)
    if foreign is domain:
        raise XenError(Errno.EINVAL)
    check(Xsm.TARGET, domain, foreign)
    p2m: P2m = domain.p2m
    page = foreign.p2m.get_page(fgfn)
    if page is None:
        raise XenError(Errno.EINVAL)
    mfn, kind = page
    try:
        if kind not in RAM_TYPES:
            raise XenError(Errno.EINVAL)
        previous, _ = p2m.lookup(gpfn)
        if p2m.frames.valid(previous):
            if p2m.frames.is_special(previous):
                p2m.remove_page(gpfn, previous)
            else:
                p2m.guest_remove_page(gpfn)
        p2m.set_foreign(gpfn, mfn)
    finally:
        p2m.frames.put_page(mfn)

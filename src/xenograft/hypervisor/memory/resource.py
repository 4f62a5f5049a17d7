# SPDX-License-Identifier: GPL-2.0-or-later
"""XENMEM_acquire_resource: map what the hypervisor keeps for a domain (grant frames, …).

Facts: acquire_resource() in xen/common/memory.c of Xen 4.17; public/memory.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.memory import (
    XENMEM_acquire_resource,
    XENMEM_resource_grant_table,
    XENMEM_resource_ioreq_server,
    XENMEM_resource_vmtrace_buf,
    xen_mem_acquire_resource,
)
from xenograft.engine.protocol import PAGE_SIZE
from xenograft.hypervisor.memory.limits import (
    MAX_EXTENTS,
    continue_at,
    copy_member,
    is_hardware_domain,
)
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain

STRIDE = 32
"""Frames that are handled at once; then the operation may continue later."""

SIZEOF_IOREQ = 32


def acquire_resource(call: Call, addr: int) -> int:
    """Map frames of a resource into the caller, or tell how many there are."""
    if call.domain.p2m.translated and not is_hardware_domain(call.domain):
        raise XenError(Errno.EACCES)
    request = call.read(addr, xen_mem_acquire_resource)
    if request.pad or request.frame >> 32 or (request.frame + request.nr_frames) >> 32:
        raise XenError(Errno.EINVAL)
    domain = call.hypervisor.resolve_domid(call, request.domid)
    if domain is call.domain:
        raise XenError(Errno.EPERM)
    check(Xsm.DM_PRIV, call.domain, domain)
    max_frames = _max_frames(domain, request.type, request.id)
    if not max_frames:
        raise XenError(Errno.EINVAL)
    if not request.frame_list:
        if request.nr_frames or call.start:
            raise XenError(Errno.EINVAL)
        request.nr_frames = max_frames
        copy_member(call, addr, request, "nr_frames")
        return 0
    if not call.start < request.nr_frames <= MAX_EXTENTS:
        raise XenError(Errno.EINVAL)
    count = min(STRIDE, request.nr_frames - call.start)
    mfns = _frames(domain, request.type, request.id, request.frame + call.start, count)
    _hand_over(call, request, mfns)
    if call.start + count < request.nr_frames:
        raise continue_at(XENMEM_acquire_resource, call.start + count, addr)
    return 0


def _max_frames(domain: Domain, kind: int, ident: int) -> int:
    if kind == XENMEM_resource_grant_table:
        return int(domain.grants.resource_max_frames(ident))
    if kind == XENMEM_resource_ioreq_server:
        if not domain.kind.is_hvm_type:
            return 0
        return 1 - (-len(domain.vcpus) * SIZEOF_IOREQ // PAGE_SIZE)
    if kind == XENMEM_resource_vmtrace_buf:
        return 0
    # Xen's function returns the error as the unsigned number of frames.
    return -Errno.EOPNOTSUPP & 0xFFFFFFFF


def _frames(domain: Domain, kind: int, ident: int, frame: int, count: int) -> list[int]:
    if kind == XENMEM_resource_grant_table:
        mfns: list[int] = domain.grants.acquire_resource(ident, frame, count)
        return mfns
    if kind == XENMEM_resource_ioreq_server:
        # Nobody has made an ioreq server of that number.
        raise XenError(Errno.ENOENT if ident >> 16 == 0 else Errno.EINVAL)
    raise XenError(Errno.EOPNOTSUPP)


def _hand_over(call: Call, request: xen_mem_acquire_resource, mfns: list[int]) -> None:
    p2m = call.domain.p2m
    if not p2m.translated:
        call.write_ulongs(request.frame_list, mfns, call.start)
        return
    gfns = call.read_ulongs(request.frame_list, len(mfns), call.start)
    for i, (gfn, mfn) in enumerate(zip(gfns, mfns, strict=True)):
        try:
            p2m.set_foreign(gfn, mfn)
        except XenError:
            if i:
                raise XenError(Errno.EIO) from None
            raise

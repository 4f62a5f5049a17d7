# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory operations that tell and set numbers: reservations, memory maps, claims, m2p.

Facts: xen/common/memory.c, arch_memory_op() in xen/arch/x86/mm.c, subarch_memory_op() in
xen/arch/x86/x86_64/mm.c, compat_arch_memory_op() of Xen 4.17; public/memory.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.hvm.e820 import E820_RAM, e820entry
from xenograft.abi.memory import (
    XENMEM_RDM_ALL,
    xen_foreign_memory_map,
    xen_machphys_mapping,
    xen_machphys_mfn_list,
    xen_mem_access_op,
    xen_memory_domain,
    xen_memory_map,
    xen_memory_reservation,
    xen_pod_target,
    xen_reserved_device_memory_map,
    xen_vnuma_topology_info,
)
from xenograft.abi.xen import shared_info
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.memory.limits import is_hardware_domain
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain

E820MAX = 1024
"""Entries that a domain's map may have."""

# Where PV guests see the machine-to-physical table (public/arch-x86/xen-x86_64.h, -x86_32.h).
MACH2PHYS_VIRT_START = 0xFFFF800000000000
MACH2PHYS_VIRT_END = 0xFFFF804000000000
MACH2PHYS_COMPAT_VIRT_START = 0xF5800000
MACH2PHYS_COMPAT_VIRT_END = 0xFFE00000


def _first(call: Call) -> None:
    """Operations that never continue refuse a continuation."""
    if call.start:
        raise XenError(Errno.EINVAL)


# -- reservations -----------------------------------------------------------------------------
def maximum_ram_page(call: Call, _addr: int) -> int:
    """The number of machine frames."""
    _first(call)
    return call.hypervisor.memory.frames


def _asked(call: Call, request: xen_memory_domain) -> Domain:
    _first(call)
    domain = call.hypervisor.resolve_domid(call, request.domid)
    check(Xsm.TARGET, call.domain, domain)
    return domain


def current_reservation(call: Call, request: xen_memory_domain) -> int:
    """Frames that a domain has."""
    return int(_asked(call, request).p2m.pool.tot_pages)


def maximum_reservation(call: Call, request: xen_memory_domain) -> int:
    """Frames that a domain may have."""
    return int(_asked(call, request).p2m.pool.max_pages)


def maximum_gpfn(call: Call, request: xen_memory_domain) -> int:
    """The highest frame number in a domain's physical map."""
    domain = _asked(call, request)
    if domain.p2m.translated:
        return max(0, domain.p2m.max_mapped)
    # PV guests say in their shared info how many there are.
    at = shared_info.offsetof("arch.max_pfn", domain.bits)
    data = call.hypervisor.memory.read(domain.shared_info_maddr + at, domain.bits // 8)
    return max(int.from_bytes(data, "little"), 1) - 1


def claim_pages(call: Call, reservation: xen_memory_reservation) -> int:
    """Reserve free frames for a domain that is being built."""
    _first(call)
    if reservation.extent_start or reservation.extent_order or reservation.mem_flags:
        raise XenError(Errno.EINVAL)
    domain = call.hypervisor.domains.get(reservation.domid)
    if domain is None:
        raise XenError(Errno.EINVAL)
    check(Xsm.PRIV, call.domain, domain)
    call.hypervisor.frames.claim(domain.p2m.pool, reservation.nr_extents)
    return 0


def get_vnumainfo(call: Call, request: xen_vnuma_topology_info) -> int:
    """No domain has virtual NUMA nodes."""
    _first(call)
    if request.pad:
        raise XenError(Errno.EINVAL)
    check(Xsm.TARGET, call.domain, call.hypervisor.resolve_domid(call, request.domid))
    raise XenError(Errno.EOPNOTSUPP)


# -- memory maps --------------------------------------------------------------------------------
def _unencoded(call: Call) -> None:
    """Xen compares these numbers with all their bits: with an extent they're unknown."""
    if call.start:
        raise XenError(Errno.ENOSYS)


def memory_map(call: Call, request: xen_memory_map) -> int:
    """The caller's own memory map, as its builder set it."""
    _unencoded(call)
    e820 = call.domain.p2m.e820
    if not e820:
        raise XenError(Errno.ENOSYS)
    request.nr_entries = min(request.nr_entries, len(e820))
    _put_e820(call, request, e820[: request.nr_entries])
    return 0


def set_memory_map(call: Call, request: xen_foreign_memory_map) -> int:
    """Set a domain's memory map."""
    _unencoded(call)
    count = request.map.nr_entries
    if count > E820MAX:
        raise XenError(Errno.EINVAL)
    domain = call.hypervisor.resolve_domid(call, request.domid)
    check(Xsm.TARGET, call.domain, domain)
    entries = call.read_array(request.map.buffer, e820entry, count)
    domain.p2m.e820 = tuple((entry.addr, entry.size, entry.type) for entry in entries)
    return 0


def machine_memory_map(call: Call, request: xen_memory_map) -> int:
    """The machine's memory map: all of its frames are RAM."""
    _unencoded(call)
    check(Xsm.PRIV, call.domain)
    e820 = ((0, call.hypervisor.memory.frames << PAGE_SHIFT, E820_RAM),)
    if request.buffer:
        if request.nr_entries < len(e820) + 1:
            raise XenError(Errno.EINVAL)
        _put_e820(call, request, e820)
    request.nr_entries = len(e820)
    return 0


def _put_e820(
    call: Call, request: xen_memory_map, entries: tuple[tuple[int, int, int], ...]
) -> None:
    packed = [e820entry(addr=addr, size=size, type=kind) for addr, size, kind in entries]
    call.write_bytes(request.buffer, b"".join(entry.pack(call.bits) for entry in packed))


def reserved_device_memory_map(call: Call, request: xen_reserved_device_memory_map) -> int:
    """No device needs memory regions of its own: none is passed through."""
    _first(call)
    if request.flags & ~XENMEM_RDM_ALL:
        raise XenError(Errno.EINVAL)
    request.nr_entries = 0
    return 0


# -- machine to physical ------------------------------------------------------------------------
def machphys_mapping(call: Call, addr: int) -> int:
    """Where a PV guest sees the machine-to-physical table."""
    _unencoded(call)
    if call.bits == 64:
        start, end = MACH2PHYS_VIRT_START, MACH2PHYS_VIRT_END
    else:
        start, end = MACH2PHYS_COMPAT_VIRT_START, MACH2PHYS_COMPAT_VIRT_END
    max_mfn = (end - start) // (call.bits // 8) - 1
    if is_hardware_domain(call.domain):
        max_mfn = call.hypervisor.memory.frames - 1
    call.write(addr, xen_machphys_mapping(v_start=start, v_end=end, max_mfn=max_mfn))
    return 0


def machphys_mfn_list(call: Call, request: xen_machphys_mfn_list) -> int:
    """The frames of the machine-to-physical table: it isn't in frames, so none."""
    _unencoded(call)
    request.nr_extents = 0
    return 0


# -- populate on demand, sharing, access ----------------------------------------------------------
def set_pod_target(call: Call, target: xen_pod_target) -> int:
    """Set how much memory a domain with populate-on-demand pages may have in all.

    As in Xen nothing happens for a domain that has none.
    """
    domain = _pod_domain(call, target)
    if target.target_pages > domain.p2m.pool.max_pages:
        raise XenError(Errno.EINVAL)
    if domain.p2m.pod is not None:
        domain.p2m.pod.set_target(target.target_pages)
    return _tell_pod(domain, target)


def get_pod_target(call: Call, target: xen_pod_target) -> int:
    """How much populate-on-demand memory a domain has."""
    return _tell_pod(_pod_domain(call, target), target)


def _pod_domain(call: Call, target: xen_pod_target) -> Domain:
    _unencoded(call)
    domain = call.hypervisor.resolve_domid(call, target.domid)
    if not domain.kind.is_hvm_type:
        raise XenError(Errno.EINVAL)
    check(Xsm.PRIV, call.domain, domain)
    return domain


def _tell_pod(domain: Domain, target: xen_pod_target) -> int:
    target.tot_pages = domain.p2m.pool.tot_pages
    pod = domain.p2m.pod
    target.pod_cache_pages = 0 if pod is None else len(pod.cache)
    target.pod_entries = 0 if pod is None else len(pod.entries)
    return 0


def get_sharing_pages(call: Call, _addr: int) -> int:
    """Frames shared, or saved by sharing: none."""
    _unencoded(call)
    return 0


def access_op(call: Call, request: xen_mem_access_op) -> int:
    """Access rights for listeners of vm_event: no domain has a listener."""
    domain = call.hypervisor.resolve_remote_domid(call, request.domid)
    if not domain.kind.is_hvm_type:
        raise XenError(Errno.EINVAL)
    check(Xsm.DM_PRIV, call.domain, domain)
    raise XenError(Errno.ENODEV)

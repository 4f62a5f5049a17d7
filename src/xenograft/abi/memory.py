# SPDX-License-Identifier: GPL-2.0-or-later
"""public/memory.h: memory operations (HYPERVISOR_memory_op)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.physdev import physdev_pci_device
from xenograft.abi.struct import (
    Struct,
    Union,
    domid_t,
    handle,
    handle64,
    named,
    octets,
    selects,
    u8,
    u16,
    u32,
    u64,
    ulong,
    x16,
    x32,
    x64,
    x64_aligned,
    xen_pfn_t,
    xulong,
)

# memory_op; the bits from MEMOP_EXTENT_SHIFT up hold where a continued call goes on.
XENMEM_increase_reservation = 0
XENMEM_decrease_reservation = 1
XENMEM_maximum_ram_page = 2
XENMEM_current_reservation = 3
XENMEM_maximum_reservation = 4
XENMEM_machphys_mfn_list = 5
XENMEM_populate_physmap = 6
XENMEM_add_to_physmap = 7
XENMEM_memory_map = 9
XENMEM_machine_memory_map = 10
XENMEM_exchange = 11
XENMEM_machphys_mapping = 12
XENMEM_set_memory_map = 13
XENMEM_maximum_gpfn = 14
XENMEM_remove_from_physmap = 15
XENMEM_set_pod_target = 16
XENMEM_get_pod_target = 17
XENMEM_get_sharing_freed_pages = 18
XENMEM_get_sharing_shared_pages = 19
XENMEM_paging_op = 20
XENMEM_access_op = 21
XENMEM_sharing_op = 22
XENMEM_add_to_physmap_batch = 23
XENMEM_claim_pages = 24
XENMEM_machphys_compat_mfn_list = 25
XENMEM_get_vnumainfo = 26
XENMEM_reserved_device_memory_map = 27
XENMEM_acquire_resource = 28

MEMOP_EXTENT_SHIFT = 6
MEMOP_CMD_MASK = (1 << MEMOP_EXTENT_SHIFT) - 1

# xen_memory_reservation.mem_flags: bits 0-7 address width, 8-15 node + 1.
XENMEMF_populate_on_demand = 1 << 16
XENMEMF_exact_node_request = 1 << 17
XENMEMF_vnode = 1 << 18

# Source spaces of add_to_physmap.
XENMAPSPACE_shared_info = 0
XENMAPSPACE_grant_table = 1
XENMAPSPACE_gmfn = 2
XENMAPSPACE_gmfn_range = 3
XENMAPSPACE_gmfn_foreign = 4
XENMAPSPACE_dev_mmio = 5

# In xen_add_to_physmap.idx: the grant status frames are meant.
XENMAPIDX_grant_table_status = 0x80000000

# Sub-operations of paging, access and sharing, and their flags.
XENMEM_paging_op_nominate = 0
XENMEM_paging_op_evict = 1
XENMEM_paging_op_prep = 2
XENMEM_access_op_set_access = 0
XENMEM_access_op_get_access = 1
XENMEM_access_op_set_access_multi = 4
XENMEM_sharing_op_nominate_gfn = 0
XENMEM_sharing_op_nominate_gref = 1
XENMEM_sharing_op_share = 2
XENMEM_sharing_op_debug_gfn = 3
XENMEM_sharing_op_debug_mfn = 4
XENMEM_sharing_op_debug_gref = 5
XENMEM_sharing_op_add_physmap = 6
XENMEM_sharing_op_audit = 7
XENMEM_sharing_op_range_share = 8
XENMEM_sharing_op_fork = 9
XENMEM_sharing_op_fork_reset = 10
XENMEM_access_n = 0
XENMEM_access_r = 1
XENMEM_access_w = 2
XENMEM_access_rw = 3
XENMEM_access_x = 4
XENMEM_access_rx = 5
XENMEM_access_wx = 6
XENMEM_access_rwx = 7
XENMEM_access_rx2rw = 8
XENMEM_access_n2rwx = 9
XENMEM_access_default = 10
XENMEM_SHARING_OP_S_HANDLE_INVALID = -10
XENMEM_SHARING_OP_C_HANDLE_INVALID = -9
XENMEM_SHARING_OP_FIELD_IS_GREF_FLAG = 1 << 62
XENMEM_FORK_WITH_IOMMU_ALLOWED = 1 << 0
XENMEM_FORK_BLOCK_INTERRUPTS = 1 << 1
XENMEM_FORK_RESET_STATE = 1 << 2
XENMEM_FORK_RESET_MEMORY = 1 << 3

# xen_reserved_device_memory_map.flags.
XENMEM_RDM_ALL = 1

# Resources of acquire_resource.
XENMEM_resource_ioreq_server = 0
XENMEM_resource_grant_table = 1
XENMEM_resource_vmtrace_buf = 2
XENMEM_resource_grant_table_id_shared = 0
XENMEM_resource_grant_table_id_status = 1
XENMEM_resource_ioreq_server_frame_bufioreq = 0

XENMAPSPACE_NAMES: dict[int, str] = {
    XENMAPSPACE_shared_info: "XENMAPSPACE_shared_info",
    XENMAPSPACE_grant_table: "XENMAPSPACE_grant_table",
    XENMAPSPACE_gmfn: "XENMAPSPACE_gmfn",
    XENMAPSPACE_gmfn_range: "XENMAPSPACE_gmfn_range",
    XENMAPSPACE_gmfn_foreign: "XENMAPSPACE_gmfn_foreign",
    XENMAPSPACE_dev_mmio: "XENMAPSPACE_dev_mmio",
}
"""Source space to name."""


def XENMEMF_address_bits(mem_flags: int) -> int:
    """Widest machine address wanted, in bits; 0: any."""
    return mem_flags & 0xFF


def XENMEMF_node(mem_flags: int) -> int | None:
    """NUMA node wanted, or None."""
    node = (mem_flags >> 8) & 0xFF
    return node - 1 if node else None


class xen_memory_reservation(Struct):
    """Extents of 2**extent_order pages, listed at extent_start, of `domid`."""

    extent_start: handle
    nr_extents: ulong
    extent_order: u32
    mem_flags: x32
    domid: domid_t


class xen_memory_exchange(Struct):
    """Give the extents of `in_` back and get those of `out`. OUT: nr_exchanged."""

    in_: xen_memory_reservation
    out: xen_memory_reservation
    nr_exchanged: ulong


class xen_memory_domain(Struct):
    """Whom XENMEM_{current,maximum}_reservation and XENMEM_maximum_gpfn ask about."""

    domid: domid_t


class xen_machphys_mfn_list(Struct):
    """Where the machine-to-physical table lies. OUT: nr_extents."""

    max_extents: u32
    extent_start: handle
    nr_extents: u32


class xen_machphys_mapping(Struct):
    """OUT: where the machine-to-physical table is mapped in PV guests."""

    v_start: xulong
    v_end: xulong
    max_mfn: xulong


class xen_add_to_physmap(Struct):
    """Put page `idx` of a source space at `gpfn`."""

    domid: domid_t
    size: u16
    space: Annotated[int, named(u32, XENMAPSPACE_NAMES)]
    idx: xulong
    gpfn: xen_pfn_t


class xen_add_to_physmap_batch_extra(Union):
    """foreign_domid for XENMAPSPACE_gmfn_foreign; 0 otherwise."""

    foreign_domid: domid_t
    res0: u16


class xen_add_to_physmap_batch(Struct):
    """Like xen_add_to_physmap for `size` pages, with an errno for each."""

    _selects_ = selects(u=("space", {XENMAPSPACE_gmfn_foreign: "foreign_domid"}))

    domid: domid_t
    space: Annotated[int, named(u16, XENMAPSPACE_NAMES)]
    size: u16
    u: xen_add_to_physmap_batch_extra
    idxs: handle
    gpfns: handle
    errs: handle


class xen_remove_from_physmap(Struct):
    """Unmap `gpfn`."""

    domid: domid_t
    gpfn: xen_pfn_t


class xen_memory_map(Struct):
    """Room for, or number of, e820 entries at `buffer`."""

    nr_entries: u32
    buffer: handle


class xen_foreign_memory_map(Struct):
    """Set a domain's memory map."""

    domid: domid_t
    map: xen_memory_map


class xen_pod_target(Struct):
    """Populate-on-demand target and state of a domain."""

    target_pages: u64
    tot_pages: u64
    pod_cache_pages: u64
    pod_entries: u64
    domid: domid_t


class xen_mem_paging_op(Struct):
    """XENMEM_paging_op."""

    op: u8
    domain: domid_t
    buffer: handle64
    gfn: x64_aligned


class xen_mem_access_op(Struct):
    """XENMEM_access_op: a page's access rights as vm_event listeners set them."""

    op: u8
    access: u8
    domid: domid_t
    nr: u32
    pfn: x64_aligned
    pfn_list: handle
    access_list: handle


class _nominate_u(Union):
    gfn: x64_aligned
    grant_ref: u32


class mem_sharing_op_nominate(Struct):
    """Nominate a page for sharing. OUT: handle."""

    u: _nominate_u
    handle: x64_aligned


class mem_sharing_op_share(Struct):
    """Share one page."""

    source_gfn: x64_aligned
    source_handle: x64_aligned
    client_gfn: x64_aligned
    client_handle: x64_aligned
    client_domain: domid_t


class mem_sharing_op_range(Struct):
    """Share a range of pages."""

    first_gfn: x64_aligned
    last_gfn: x64_aligned
    opaque: x64_aligned
    client_domain: domid_t
    _pad: Annotated[bytes, octets(6)]


class _debug_u(Union):
    gfn: x64_aligned
    mfn: x64_aligned
    gref: u32


class mem_sharing_op_debug(Struct):
    """Print a shared page's state on Xen's console."""

    u: _debug_u


class mem_sharing_op_fork(Struct):
    """Make the domain a fork of `parent_domain` (XENMEM_FORK_* flags)."""

    parent_domain: domid_t
    flags: x16
    pad: u32


class _sharing_u(Union):
    nominate: mem_sharing_op_nominate
    share: mem_sharing_op_share
    range: mem_sharing_op_range
    debug: mem_sharing_op_debug
    fork: mem_sharing_op_fork


class xen_mem_sharing_op(Struct):
    """XENMEM_sharing_op."""

    _selects_ = selects(
        u=(
            "op",
            {
                XENMEM_sharing_op_nominate_gfn: "nominate",
                XENMEM_sharing_op_nominate_gref: "nominate",
                XENMEM_sharing_op_share: "share",
                XENMEM_sharing_op_debug_gfn: "debug",
                XENMEM_sharing_op_debug_mfn: "debug",
                XENMEM_sharing_op_debug_gref: "debug",
                XENMEM_sharing_op_add_physmap: "share",
                XENMEM_sharing_op_range_share: "range",
                XENMEM_sharing_op_fork: "fork",
                XENMEM_sharing_op_fork_reset: "fork",
            },
        )
    )

    op: u8
    domain: domid_t
    u: _sharing_u


class xen_reserved_device_memory(Struct):
    """One region reserved for a device."""

    start_pfn: xen_pfn_t
    nr_pages: ulong


class _rdm_dev(Union):
    pci: physdev_pci_device


class xen_reserved_device_memory_map(Struct):
    """Ask for the regions reserved for a device or for all. IN/OUT: nr_entries."""

    flags: x32
    nr_entries: u32
    buffer: handle
    dev: _rdm_dev


class xen_mem_acquire_resource(Struct):
    """Map a resource of a domain: ioreq server pages, grant frames, trace buffer."""

    domid: domid_t
    type: u16
    id: u32
    nr_frames: u32
    pad: u32
    frame: u64
    frame_list: handle


class xen_vmemrange(Struct):
    """One memory range of a virtual NUMA node."""

    start: x64
    end: x64
    flags: x32
    nid: u32


class _vnuma_handle(Union):
    h: handle
    pad: x64


class xen_vnuma_topology_info(Struct):
    """A domain's virtual NUMA topology. IN/OUT: the three counts."""

    domid: domid_t
    pad: u16
    nr_vnodes: u32
    nr_vcpus: u32
    nr_vmemranges: u32
    vdistance: _vnuma_handle
    vcpu_to_vnode: _vnuma_handle
    vmemrange: _vnuma_handle

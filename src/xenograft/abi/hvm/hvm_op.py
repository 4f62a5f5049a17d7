# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hvm/hvm_op.h: operations of and on HVM and PVH domains (HYPERVISOR_hvm_op)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.hvm.params import HVM_PARAM_NAMES
from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    domid_t,
    handle,
    i32,
    named,
    octets,
    selects,
    u8,
    u16,
    u32,
    u64,
    x8,
    x64,
)

# hvm_op; those below 16 that are missing here were replaced by dm_op.
HVMOP_set_param = 0
HVMOP_get_param = 1
HVMOP_set_pci_intx_level = 2
HVMOP_set_isa_irq_level = 3
HVMOP_set_pci_link_route = 4
HVMOP_flush_tlbs = 5
HVMOP_pagetable_dying = 9
HVMOP_get_time = 10
HVMOP_xentrace = 11
HVMOP_set_mem_access = 12
HVMOP_get_mem_access = 13
HVMOP_get_mem_type = 15
HVMOP_set_evtchn_upcall_vector = 23
HVMOP_guest_request_vm_event = 24
HVMOP_altp2m = 25

# hvmmem_type_t.
HVMMEM_ram_rw = 0
HVMMEM_ram_ro = 1
HVMMEM_mmio_dm = 2

# Buffered requests of an ioreq server.
HVM_IOREQSRV_BUFIOREQ_OFF = 0
HVM_IOREQSRV_BUFIOREQ_LEGACY = 1
HVM_IOREQSRV_BUFIOREQ_ATOMIC = 2

# xen_hvm_altp2m_op.
HVMOP_ALTP2M_INTERFACE_VERSION = 0x00000001
HVMOP_altp2m_get_domain_state = 1
HVMOP_altp2m_set_domain_state = 2
HVMOP_altp2m_vcpu_enable_notify = 3
HVMOP_altp2m_create_p2m = 4
HVMOP_altp2m_destroy_p2m = 5
HVMOP_altp2m_switch_p2m = 6
HVMOP_altp2m_set_mem_access = 7
HVMOP_altp2m_change_gfn = 8
HVMOP_altp2m_set_mem_access_multi = 9
HVMOP_altp2m_set_suppress_ve = 10
HVMOP_altp2m_get_suppress_ve = 11
HVMOP_altp2m_get_mem_access = 12
HVMOP_altp2m_vcpu_disable_notify = 13
HVMOP_altp2m_get_p2m_idx = 14
HVMOP_altp2m_set_suppress_ve_multi = 15
HVMOP_altp2m_set_visibility = 16


class xen_hvm_param(Struct):
    """A parameter of a domain. IN or OUT: value."""

    domid: domid_t
    pad: u16
    index: Annotated[int, named(u32, HVM_PARAM_NAMES)]
    value: x64


class xen_hvm_set_pci_intx_level(Struct):
    """Level of a PCI INTx wire (superseded by dm_op)."""

    domid: domid_t
    domain: u8
    bus: u8
    device: u8
    intx: u8
    level: u8


class xen_hvm_set_isa_irq_level(Struct):
    """Level of an ISA interrupt wire (superseded by dm_op)."""

    domid: domid_t
    isa_irq: u8
    level: u8


class xen_hvm_set_pci_link_route(Struct):
    """Route of a PCI link (superseded by dm_op)."""

    domid: domid_t
    link: u8
    isa_irq: u8


class xen_hvm_pagetable_dying(Struct):
    """Hint: a top-level page table is about to go."""

    domid: domid_t
    pad: Annotated[list[int], array(u16, 3)]
    gpa: x64


class xen_hvm_get_time(Struct):
    """OUT: ns since the system's boot."""

    now: u64


class xen_hvm_xentrace(Struct):
    """A trace record of the guest's own."""

    event: u16
    extra_bytes: u16
    extra: Annotated[bytes, octets(28)]


class xen_hvm_get_mem_type(Struct):
    """OUT: mem_type (HVMMEM_*) of a page."""

    domid: domid_t
    mem_type: u16
    pad: Annotated[list[int], array(u16, 2)]
    pfn: x64


class xen_hvm_evtchn_upcall_vector(Struct):
    """The vector by which a vCPU is told of events (0: none of its own)."""

    vcpu: u32
    vector: x8


class xen_hvm_altp2m_domain_state(Struct):
    """Whether alternate p2ms are on."""

    state: u8


class xen_hvm_altp2m_vcpu_enable_notify(Struct):
    """Where a vCPU's #VE information goes."""

    vcpu_id: u32
    pad: u32
    gfn: x64


class xen_hvm_altp2m_vcpu_disable_notify(Struct):
    """No #VE information any more."""

    vcpu_id: u32


class xen_hvm_altp2m_view(Struct):
    """A view and its default access. IN or OUT: view."""

    view: u16
    hvmmem_default_access: u16


class xen_hvm_altp2m_mem_access(Struct):
    """Access to one page in a view."""

    view: u16
    access: u16
    pad: u32
    gfn: x64


class xen_hvm_altp2m_set_mem_access_multi(Struct):
    """Access to many pages in a view."""

    view: u16
    pad: u16
    nr: u32
    opaque: u64
    pfn_list: handle
    access_list: handle


class xen_hvm_altp2m_change_gfn(Struct):
    """Show another page at old_gfn; new_gfn ~0: revert."""

    view: u16
    pad1: u16
    pad2: u32
    old_gfn: x64
    new_gfn: x64


class xen_hvm_altp2m_suppress_ve(Struct):
    """Suppress #VE for a page."""

    view: u16
    suppress_ve: u8
    pad1: u8
    pad2: u32
    gfn: x64


class xen_hvm_altp2m_suppress_ve_multi(Struct):
    """Suppress #VE for a range of pages."""

    view: u16
    suppress_ve: u8
    pad1: u8
    first_error: i32
    first_gfn: x64
    last_gfn: x64
    first_error_gfn: x64


class xen_hvm_altp2m_get_vcpu_p2m_idx(Struct):
    """OUT: the view that a vCPU uses."""

    vcpu_id: u32
    altp2m_idx: u16


class xen_hvm_altp2m_set_visibility(Struct):
    """Whether the guest may switch to a view."""

    altp2m_idx: u16
    visible: u8
    pad: u8


class _altp2m_u(Union):
    domain_state: xen_hvm_altp2m_domain_state
    enable_notify: xen_hvm_altp2m_vcpu_enable_notify
    view: xen_hvm_altp2m_view
    mem_access: xen_hvm_altp2m_mem_access
    change_gfn: xen_hvm_altp2m_change_gfn
    set_mem_access_multi: xen_hvm_altp2m_set_mem_access_multi
    suppress_ve: xen_hvm_altp2m_suppress_ve
    suppress_ve_multi: xen_hvm_altp2m_suppress_ve_multi
    disable_notify: xen_hvm_altp2m_vcpu_disable_notify
    get_vcpu_p2m_idx: xen_hvm_altp2m_get_vcpu_p2m_idx
    set_visibility: xen_hvm_altp2m_set_visibility
    pad: Annotated[bytes, octets(64)]


class xen_hvm_altp2m_op(Struct):
    """HVMOP_altp2m."""

    _selects_ = selects(
        u=(
            "cmd",
            {
                HVMOP_altp2m_get_domain_state: "domain_state",
                HVMOP_altp2m_set_domain_state: "domain_state",
                HVMOP_altp2m_vcpu_enable_notify: "enable_notify",
                HVMOP_altp2m_create_p2m: "view",
                HVMOP_altp2m_destroy_p2m: "view",
                HVMOP_altp2m_switch_p2m: "view",
                HVMOP_altp2m_set_mem_access: "mem_access",
                HVMOP_altp2m_change_gfn: "change_gfn",
                HVMOP_altp2m_set_mem_access_multi: "set_mem_access_multi",
                HVMOP_altp2m_set_suppress_ve: "suppress_ve",
                HVMOP_altp2m_get_suppress_ve: "suppress_ve",
                HVMOP_altp2m_get_mem_access: "mem_access",
                HVMOP_altp2m_vcpu_disable_notify: "disable_notify",
                HVMOP_altp2m_get_p2m_idx: "get_vcpu_p2m_idx",
                HVMOP_altp2m_set_suppress_ve_multi: "suppress_ve_multi",
                HVMOP_altp2m_set_visibility: "set_visibility",
            },
        )
    )

    version: u32
    cmd: u32
    domain: domid_t
    pad1: u16
    pad2: u32
    u: _altp2m_u

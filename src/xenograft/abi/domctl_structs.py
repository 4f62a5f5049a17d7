# SPDX-License-Identifier: GPL-2.0-or-later
"""public/domctl.h: the operands of the operations; see `xenograft.abi.domctl`."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.arch_x86.xen import xen_arch_domainconfig
from xenograft.abi.hvm.save import hvm_vmce_vcpu
from xenograft.abi.struct import (
    Struct,
    Union,
    domid_t,
    evtchn_port_t,
    handle64,
    i32,
    i64_aligned,
    octets,
    u8,
    u16,
    u32,
    u64,
    u64_aligned,
    x8,
    x16,
    x32,
    x64_aligned,
    xen_pfn_t,
)
from xenograft.abi.xen import xenctl_bitmap


class xen_domctl_createdomain(Struct):
    """Make a domain: identity, XEN_DOMCTL_CDF_* flags, limits."""

    ssidref: u32
    handle: Annotated[bytes, octets(16)]
    flags: x32
    iommu_opts: u32
    max_vcpus: u32
    max_evtchn_port: u32
    max_grant_frames: i32
    max_maptrack_frames: i32
    grant_opts: u32
    vmtrace_size: u32
    cpupool_id: u32
    arch: xen_arch_domainconfig


class xen_domctl_getdomaininfo(Struct):
    """OUT: state of a domain."""

    domain: domid_t
    pad1: u16
    flags: x32
    tot_pages: u64_aligned
    max_pages: u64_aligned
    outstanding_pages: u64_aligned
    shr_pages: u64_aligned
    paged_pages: u64_aligned
    shared_info_frame: u64_aligned
    cpu_time: u64_aligned
    nr_online_vcpus: u32
    max_vcpu_id: u32
    ssidref: u32
    handle: Annotated[bytes, octets(16)]
    cpupool: u32
    gpaddr_bits: x8
    pad2: Annotated[bytes, octets(7)]
    arch_config: xen_arch_domainconfig


class xen_domctl_getpageframeinfo3(Struct):
    """IN: frames; OUT: their types in place."""

    num: u64_aligned
    array: handle64


class xen_domctl_shadow_op_stats(Struct):
    """Statistics of the dirty log."""

    fault_count: u32
    dirty_count: u32


class xen_domctl_shadow_op(Struct):
    """Shadow page tables and dirty logging."""

    op: u32
    mode: u32
    mb: u32
    dirty_bitmap: handle64
    pages: u64_aligned
    stats: xen_domctl_shadow_op_stats


class xen_domctl_max_mem(Struct):
    """A domain's limit in KiB."""

    max_memkb: u64_aligned


class xen_domctl_vcpucontext(Struct):
    """State of a PV vCPU."""

    vcpu: u32
    ctxt: handle64


class xen_domctl_getvcpuinfo(Struct):
    """OUT: state of a vCPU."""

    vcpu: u32
    online: u8
    blocked: u8
    running: u8
    cpu_time: u64_aligned
    cpu: u32


class xen_domctl_nodeaffinity(Struct):
    """NUMA nodes of a domain."""

    nodemap: xenctl_bitmap


class xen_domctl_vcpuaffinity(Struct):
    """Hard and soft affinity of a vCPU."""

    vcpu: u32
    flags: x32
    cpumap_hard: xenctl_bitmap
    cpumap_soft: xenctl_bitmap


class xen_domctl_max_vcpus(Struct):
    """How many vCPUs a domain may have."""

    max: u32


class xen_domctl_sched_credit(Struct):
    """Credit scheduler."""

    weight: u16
    cap: x16


class xen_domctl_sched_credit2(Struct):
    """Credit2 scheduler."""

    weight: u16
    cap: x16


class xen_domctl_sched_rtds(Struct):
    """Real-time deferrable server; us."""

    period: u32
    budget: u32
    flags: x32


class _xen_domctl_schedparam_vcpu_u(Union):
    credit: xen_domctl_sched_credit
    credit2: xen_domctl_sched_credit2
    rtds: xen_domctl_sched_rtds


class xen_domctl_schedparam_vcpu(Struct):
    """Scheduling of one vCPU."""

    u: _xen_domctl_schedparam_vcpu_u
    vcpuid: u32


class _xen_domctl_scheduler_op_u_v(Struct):
    vcpus: handle64
    nr_vcpus: u32
    padding: u32


class _xen_domctl_scheduler_op_u(Union):
    credit: xen_domctl_sched_credit
    credit2: xen_domctl_sched_credit2
    rtds: xen_domctl_sched_rtds
    v: _xen_domctl_scheduler_op_u_v


class xen_domctl_scheduler_op(Struct):
    """Scheduling of a domain."""

    sched_id: u32
    cmd: u32
    u: _xen_domctl_scheduler_op_u


class xen_domctl_setdomainhandle(Struct):
    """Set a domain's UUID."""

    handle: Annotated[bytes, octets(16)]


class xen_domctl_setdebugging(Struct):
    """Domain is debugged."""

    enable: u8


class xen_domctl_irq_permission(Struct):
    """Access to an interrupt."""

    pirq: u32
    allow_access: u8
    pad: Annotated[bytes, octets(3)]


class xen_domctl_iomem_permission(Struct):
    """Access to memory-mapped I/O."""

    first_mfn: x64_aligned
    nr_mfns: x64_aligned
    allow_access: u8


class xen_domctl_ioport_permission(Struct):
    """Access to ports."""

    first_port: u32
    nr_ports: u32
    allow_access: u8


class xen_domctl_hypercall_init(Struct):
    """Fill a hypercall page."""

    gmfn: x64_aligned


class xen_domctl_settimeoffset(Struct):
    """Wall-clock offset of a domain (s)."""

    time_offset_seconds: i64_aligned


class xen_domctl_hvmcontext(Struct):
    """Save records of an HVM domain."""

    size: u32
    buffer: handle64


class xen_domctl_address_size(Struct):
    """Width of a PV domain (bits)."""

    size: u32


class xen_domctl_sendtrigger(Struct):
    """Press a button."""

    trigger: u32
    vcpu: u32


class _xen_domctl_assign_device_u_pci(Struct):
    machine_sbdf: u32


class _xen_domctl_assign_device_u_dt(Struct):
    size: u32
    path: handle64


class _xen_domctl_assign_device_u(Union):
    pci: _xen_domctl_assign_device_u_pci
    dt: _xen_domctl_assign_device_u_dt


class xen_domctl_assign_device(Struct):
    """Assign a device."""

    dev: u32
    flags: x32
    u: _xen_domctl_assign_device_u


class xen_domctl_get_device_group(Struct):
    """OUT: devices that belong together."""

    machine_sbdf: u32
    max_sdevs: u32
    num_sdevs: u32
    sdev_array: handle64


class _xen_domctl_bind_pt_irq_u_isa(Struct):
    isa_irq: u8


class _xen_domctl_bind_pt_irq_u_pci(Struct):
    bus: u8
    device: u8
    intx: u8


class _xen_domctl_bind_pt_irq_u_msi(Struct):
    gvec: u8
    gflags: x32
    gtable: u64_aligned


class _xen_domctl_bind_pt_irq_u_spi(Struct):
    spi: u16


class _xen_domctl_bind_pt_irq_u(Union):
    isa: _xen_domctl_bind_pt_irq_u_isa
    pci: _xen_domctl_bind_pt_irq_u_pci
    msi: _xen_domctl_bind_pt_irq_u_msi
    spi: _xen_domctl_bind_pt_irq_u_spi


class xen_domctl_bind_pt_irq(Struct):
    """Bind a device's interrupt."""

    machine_irq: u32
    irq_type: u32
    u: _xen_domctl_bind_pt_irq_u


class xen_domctl_memory_mapping(Struct):
    """Map I/O memory."""

    first_gfn: x64_aligned
    first_mfn: x64_aligned
    nr_mfns: x64_aligned
    add_mapping: u32
    padding: u32


class xen_domctl_ioport_mapping(Struct):
    """Map ports."""

    first_gport: u32
    first_mport: u32
    nr_ports: u32
    add_mapping: u32


class _ext_vcpucontext_vmce(Union):
    mcg_cap: u64_aligned
    vmce: hvm_vmce_vcpu


class xen_domctl_ext_vcpucontext(Struct):
    """PV entry points beyond vcpu_guest_context."""

    vcpu: u32
    size: u32
    syscall32_callback_eip: x64_aligned
    sysenter_callback_eip: x64_aligned
    syscall32_callback_cs: x16
    sysenter_callback_cs: x16
    syscall32_disables_events: u8
    sysenter_disables_events: u8
    vmce: _ext_vcpucontext_vmce


class xen_domctl_set_target(Struct):
    """The domain that a stub domain serves."""

    target: domid_t


class xen_domctl_cpu_policy(Struct):
    """CPUID and MSR policy of a domain."""

    nr_leaves: u32
    nr_msrs: u32
    leaves: handle64
    msrs: handle64
    err_leaf: x32
    err_subleaf: x32
    err_msr: u32


class xen_domctl_subscribe(Struct):
    """Port for suspend notification."""

    port: u32


class xen_domctl_debug_op(Struct):
    """Single-step a vCPU."""

    op: u32
    vcpu: u32


class xen_domctl_hvmcontext_partial(Struct):
    """One save record."""

    type: u32
    instance: u32
    bufsz: u64_aligned
    buffer: handle64


class xen_domctl_tsc_info(Struct):
    """TSC mode, frequency and incarnation."""

    tsc_mode: u32
    gtsc_khz: u32
    incarnation: u32
    pad: u32
    elapsed_nsec: u64_aligned


class xen_domctl_gdbsx_memio(Struct):
    """Read or write guest memory."""

    pgd3val: u64_aligned
    gva: u64_aligned
    uva: u64_aligned
    len: u32
    gwr: u8
    remain: u32


class xen_domctl_gdbsx_pauseunp_vcpu(Struct):
    """Pause or resume a vCPU."""

    vcpu: u32


class xen_domctl_gdbsx_domstatus(Struct):
    """OUT: which vCPU hit a breakpoint."""

    paused: u8
    vcpu_id: u32
    vcpu_ev: u32


class _xen_domctl_vm_event_op_u_enable(Struct):
    port: u32


class _xen_domctl_vm_event_op_u(Union):
    enable: _xen_domctl_vm_event_op_u_enable
    version: u32


class xen_domctl_vm_event_op(Struct):
    """Set a vm_event ring up."""

    op: u32
    mode: u32
    u: _xen_domctl_vm_event_op_u


class _xen_domctl_mem_sharing_op_u(Union):
    enable: u8


class xen_domctl_mem_sharing_op(Struct):
    """Memory sharing."""

    op: u8
    u: _xen_domctl_mem_sharing_op_u


class xen_domctl_audit_p2m(Struct):
    """OUT: faults found in the p2m."""

    orphans: u64
    m2p_bad: u64
    p2m_bad: u64


class xen_domctl_set_virq_handler(Struct):
    """Send a global VIRQ to a domain."""

    virq: u32


class xen_domctl_vcpuextstate(Struct):
    """XSAVE state of a vCPU."""

    vcpu: u32
    xfeature_mask: x64_aligned
    size: u64_aligned
    buffer: handle64


class xen_domctl_set_access_required(Struct):
    """Whether a monitor must answer."""

    access_required: u8


class xen_domctl_set_broken_page_p2m(Struct):
    """Mark a page as broken."""

    pfn: x64_aligned


class xen_domctl_cacheflush(Struct):
    """Clean caches (Arm)."""

    start_pfn: xen_pfn_t
    nr_pfns: xen_pfn_t


class xen_domctl_paging_mempool(Struct):
    """Bytes kept for page tables of the second stage."""

    size: u64_aligned


class xen_domctl_vcpu_msr(Struct):
    """One MSR."""

    index: u32
    reserved: u32
    value: x64_aligned


class xen_domctl_vcpu_msrs(Struct):
    """MSRs of a vCPU."""

    vcpu: u32
    msr_count: x32
    msrs: handle64


class xen_domctl_vnuma(Struct):
    """Virtual NUMA topology."""

    nr_vnodes: u32
    nr_vmemranges: u32
    nr_vcpus: u32
    pad: u32
    vdistance: handle64
    vcpu_to_vnode: handle64
    vnode_to_pnode: handle64
    vmemrange: handle64


class xen_domctl_psr_cmt_op(Struct):
    """Cache monitoring."""

    cmd: u32
    data: u32


class _xen_domctl_monitor_op_u_mov_to_cr(Struct):
    index: u8
    sync: u8
    onchangeonly: u8
    pad1: u8
    pad2: u32
    bitmask: x64_aligned


class _xen_domctl_monitor_op_u_mov_to_msr(Struct):
    msr: x32
    onchangeonly: u8


class _xen_domctl_monitor_op_u_guest_request(Struct):
    sync: u8
    allow_userspace: u8


class _xen_domctl_monitor_op_u_debug_exception(Struct):
    sync: u8


class _xen_domctl_monitor_op_u_vmexit(Struct):
    sync: u8


class _xen_domctl_monitor_op_u(Union):
    mov_to_cr: _xen_domctl_monitor_op_u_mov_to_cr
    mov_to_msr: _xen_domctl_monitor_op_u_mov_to_msr
    guest_request: _xen_domctl_monitor_op_u_guest_request
    debug_exception: _xen_domctl_monitor_op_u_debug_exception
    vmexit: _xen_domctl_monitor_op_u_vmexit


class xen_domctl_monitor_op(Struct):
    """Which events a monitor gets."""

    op: u32
    event: u32
    u: _xen_domctl_monitor_op_u


class xen_domctl_psr_alloc(Struct):
    """Cache and bandwidth allocation."""

    cmd: u32
    target: u32
    data: u64


class xen_domctl_vuart_op(Struct):
    """Emulated UART (Arm)."""

    cmd: u32
    type: u32
    gfn: x64_aligned
    console_domid: domid_t
    pad: Annotated[bytes, octets(2)]
    evtchn: evtchn_port_t


class xen_domctl_vmtrace_op(Struct):
    """Processor trace of a vCPU."""

    cmd: u32
    vcpu: u32
    key: u64_aligned
    value: x64_aligned

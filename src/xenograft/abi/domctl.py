# SPDX-License-Identifier: GPL-2.0-or-later
"""public/domctl.h: what a toolstack does to a domain (HYPERVISOR_domctl)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.domctl_structs import (
    xen_domctl_address_size,
    xen_domctl_assign_device,
    xen_domctl_audit_p2m,
    xen_domctl_bind_pt_irq,
    xen_domctl_cacheflush,
    xen_domctl_cpu_policy,
    xen_domctl_createdomain,
    xen_domctl_debug_op,
    xen_domctl_ext_vcpucontext,
    xen_domctl_gdbsx_domstatus,
    xen_domctl_gdbsx_memio,
    xen_domctl_gdbsx_pauseunp_vcpu,
    xen_domctl_get_device_group,
    xen_domctl_getdomaininfo,
    xen_domctl_getpageframeinfo3,
    xen_domctl_getvcpuinfo,
    xen_domctl_hvmcontext,
    xen_domctl_hvmcontext_partial,
    xen_domctl_hypercall_init,
    xen_domctl_iomem_permission,
    xen_domctl_ioport_mapping,
    xen_domctl_ioport_permission,
    xen_domctl_irq_permission,
    xen_domctl_max_mem,
    xen_domctl_max_vcpus,
    xen_domctl_mem_sharing_op,
    xen_domctl_memory_mapping,
    xen_domctl_monitor_op,
    xen_domctl_nodeaffinity,
    xen_domctl_paging_mempool,
    xen_domctl_psr_alloc,
    xen_domctl_psr_cmt_op,
    xen_domctl_scheduler_op,
    xen_domctl_sendtrigger,
    xen_domctl_set_access_required,
    xen_domctl_set_broken_page_p2m,
    xen_domctl_set_target,
    xen_domctl_set_virq_handler,
    xen_domctl_setdebugging,
    xen_domctl_setdomainhandle,
    xen_domctl_settimeoffset,
    xen_domctl_shadow_op,
    xen_domctl_subscribe,
    xen_domctl_tsc_info,
    xen_domctl_vcpu_msrs,
    xen_domctl_vcpuaffinity,
    xen_domctl_vcpucontext,
    xen_domctl_vcpuextstate,
    xen_domctl_vm_event_op,
    xen_domctl_vmtrace_op,
    xen_domctl_vnuma,
    xen_domctl_vuart_op,
)
from xenograft.abi.struct import Struct, Union, array, domid_t, octets, selects, u16, u32

XEN_DOMCTL_INTERFACE_VERSION = 0x15

# xen_domctl.cmd.
XEN_DOMCTL_createdomain = 1
XEN_DOMCTL_destroydomain = 2
XEN_DOMCTL_pausedomain = 3
XEN_DOMCTL_unpausedomain = 4
XEN_DOMCTL_getdomaininfo = 5
XEN_DOMCTL_setvcpuaffinity = 9
XEN_DOMCTL_shadow_op = 10
XEN_DOMCTL_max_mem = 11
XEN_DOMCTL_setvcpucontext = 12
XEN_DOMCTL_getvcpucontext = 13
XEN_DOMCTL_getvcpuinfo = 14
XEN_DOMCTL_max_vcpus = 15
XEN_DOMCTL_scheduler_op = 16
XEN_DOMCTL_setdomainhandle = 17
XEN_DOMCTL_setdebugging = 18
XEN_DOMCTL_irq_permission = 19
XEN_DOMCTL_iomem_permission = 20
XEN_DOMCTL_ioport_permission = 21
XEN_DOMCTL_hypercall_init = 22
XEN_DOMCTL_settimeoffset = 24
XEN_DOMCTL_getvcpuaffinity = 25
XEN_DOMCTL_real_mode_area = 26
XEN_DOMCTL_resumedomain = 27
XEN_DOMCTL_sendtrigger = 28
XEN_DOMCTL_subscribe = 29
XEN_DOMCTL_gethvmcontext = 33
XEN_DOMCTL_sethvmcontext = 34
XEN_DOMCTL_set_address_size = 35
XEN_DOMCTL_get_address_size = 36
XEN_DOMCTL_assign_device = 37
XEN_DOMCTL_bind_pt_irq = 38
XEN_DOMCTL_memory_mapping = 39
XEN_DOMCTL_ioport_mapping = 40
XEN_DOMCTL_set_ext_vcpucontext = 42
XEN_DOMCTL_get_ext_vcpucontext = 43
XEN_DOMCTL_set_opt_feature = 44
XEN_DOMCTL_test_assign_device = 45
XEN_DOMCTL_set_target = 46
XEN_DOMCTL_deassign_device = 47
XEN_DOMCTL_unbind_pt_irq = 48
XEN_DOMCTL_get_device_group = 50
XEN_DOMCTL_debug_op = 54
XEN_DOMCTL_gethvmcontext_partial = 55
XEN_DOMCTL_vm_event_op = 56
XEN_DOMCTL_mem_sharing_op = 57
XEN_DOMCTL_gettscinfo = 59
XEN_DOMCTL_settscinfo = 60
XEN_DOMCTL_getpageframeinfo3 = 61
XEN_DOMCTL_setvcpuextstate = 62
XEN_DOMCTL_getvcpuextstate = 63
XEN_DOMCTL_set_access_required = 64
XEN_DOMCTL_audit_p2m = 65
XEN_DOMCTL_set_virq_handler = 66
XEN_DOMCTL_set_broken_page_p2m = 67
XEN_DOMCTL_setnodeaffinity = 68
XEN_DOMCTL_getnodeaffinity = 69
XEN_DOMCTL_cacheflush = 71
XEN_DOMCTL_get_vcpu_msrs = 72
XEN_DOMCTL_set_vcpu_msrs = 73
XEN_DOMCTL_setvnumainfo = 74
XEN_DOMCTL_psr_cmt_op = 75
XEN_DOMCTL_monitor_op = 77
XEN_DOMCTL_psr_alloc = 78
XEN_DOMCTL_soft_reset = 79
XEN_DOMCTL_vuart_op = 81
XEN_DOMCTL_get_cpu_policy = 82
XEN_DOMCTL_set_cpu_policy = 83
XEN_DOMCTL_vmtrace_op = 84
XEN_DOMCTL_get_paging_mempool_size = 85
XEN_DOMCTL_set_paging_mempool_size = 86
XEN_DOMCTL_gdbsx_guestmemio = 1000
XEN_DOMCTL_gdbsx_pausevcpu = 1001
XEN_DOMCTL_gdbsx_unpausevcpu = 1002
XEN_DOMCTL_gdbsx_domstatus = 1003

# xen_domctl_createdomain.flags, .iommu_opts, .grant_opts.
XEN_DOMCTL_CDF_hvm = 1
XEN_DOMCTL_CDF_hap = 2
XEN_DOMCTL_CDF_s3_integrity = 4
XEN_DOMCTL_CDF_oos_off = 8
XEN_DOMCTL_CDF_xs_domain = 0x10
XEN_DOMCTL_CDF_iommu = 0x20
XEN_DOMCTL_CDF_nested_virt = 0x40
XEN_DOMCTL_CDF_vpmu = 1 << 7
XEN_DOMCTL_CDF_MAX = 128
XEN_DOMCTL_IOMMU_no_sharept = 1
XEN_DOMCTL_IOMMU_MAX = 1
XEN_DOMCTL_GRANT_version_mask = 0xF

# xen_domctl_getdomaininfo.flags, and the shutdown code in it.
XEN_DOMINF_dying = 1
XEN_DOMINF_hvm_guest = 2
XEN_DOMINF_shutdown = 4
XEN_DOMINF_paused = 8
XEN_DOMINF_blocked = 0x10
XEN_DOMINF_running = 0x20
XEN_DOMINF_debugged = 0x40
XEN_DOMINF_xs_domain = 0x80
XEN_DOMINF_hap = 0x100
XEN_DOMINF_shutdownmask = 255
XEN_DOMINF_shutdownshift = 16
XEN_INVALID_MAX_VCPU_ID = 0xFFFFFFFF

# Types of frames.
XEN_DOMCTL_PFINFO_LTAB_SHIFT = 28
XEN_DOMCTL_PFINFO_NOTAB = 0
XEN_DOMCTL_PFINFO_L1TAB = 0x10000000
XEN_DOMCTL_PFINFO_L2TAB = 0x20000000
XEN_DOMCTL_PFINFO_L3TAB = 0x30000000
XEN_DOMCTL_PFINFO_L4TAB = 0x40000000
XEN_DOMCTL_PFINFO_LTABTYPE_MASK = 0x70000000
XEN_DOMCTL_PFINFO_LPINTAB = 0x80000000
XEN_DOMCTL_PFINFO_XTAB = 0xF0000000
XEN_DOMCTL_PFINFO_XALLOC = 0xE0000000
XEN_DOMCTL_PFINFO_BROKEN = 0xD0000000
XEN_DOMCTL_PFINFO_LTAB_MASK = 0xF0000000

# xen_domctl_shadow_op.
XEN_DOMCTL_SHADOW_OP_OFF = 0
XEN_DOMCTL_SHADOW_OP_ENABLE = 32
XEN_DOMCTL_SHADOW_OP_CLEAN = 11
XEN_DOMCTL_SHADOW_OP_PEEK = 12
XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION = 30
XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION = 31
XEN_DOMCTL_SHADOW_OP_ENABLE_TEST = 1
XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY = 2
XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT = 1 << 1
XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY = 1 << 2
XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE = 1 << 3
XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL = 1 << 4
XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL = 1 << 0

# xen_domctl_vcpuaffinity.flags.
XEN_VCPUAFFINITY_HARD = 1
XEN_VCPUAFFINITY_SOFT = 2
XEN_VCPUAFFINITY_FORCE = 4

# xen_domctl_scheduler_op.
XEN_SCHEDULER_CREDIT = 5
XEN_SCHEDULER_CREDIT2 = 6
XEN_SCHEDULER_ARINC653 = 7
XEN_SCHEDULER_RTDS = 8
XEN_SCHEDULER_NULL = 9
XEN_DOMCTL_SCHEDRT_extra = 1
XEN_DOMCTL_SCHEDOP_putinfo = 0
XEN_DOMCTL_SCHEDOP_getinfo = 1
XEN_DOMCTL_SCHEDOP_putvcpuinfo = 2
XEN_DOMCTL_SCHEDOP_getvcpuinfo = 3

# xen_domctl_sendtrigger.trigger.
XEN_DOMCTL_SENDTRIGGER_NMI = 0
XEN_DOMCTL_SENDTRIGGER_RESET = 1
XEN_DOMCTL_SENDTRIGGER_INIT = 2
XEN_DOMCTL_SENDTRIGGER_POWER = 3
XEN_DOMCTL_SENDTRIGGER_SLEEP = 4

# Devices and their interrupts.
XEN_DOMCTL_DEV_PCI = 0
XEN_DOMCTL_DEV_DT = 1
XEN_DOMCTL_DEV_RDM_RELAXED = 1
XEN_DOMCTL_VMSI_X86_DEST_ID_MASK = 0xFF
XEN_DOMCTL_VMSI_X86_RH_MASK = 0x100
XEN_DOMCTL_VMSI_X86_DM_MASK = 0x200
XEN_DOMCTL_VMSI_X86_DELIV_MASK = 0x7000
XEN_DOMCTL_VMSI_X86_TRIG_MASK = 0x8000
XEN_DOMCTL_VMSI_X86_UNMASKED = 0x10000
PT_IRQ_TYPE_PCI = 0
PT_IRQ_TYPE_ISA = 1
PT_IRQ_TYPE_MSI = 2
PT_IRQ_TYPE_MSI_TRANSLATE = 3
PT_IRQ_TYPE_SPI = 4

# Mappings.
DPCI_ADD_MAPPING = 1
DPCI_REMOVE_MAPPING = 0
XEN_DOMCTL_MEM_CACHEATTR_UC = 0
XEN_DOMCTL_MEM_CACHEATTR_WC = 1
XEN_DOMCTL_MEM_CACHEATTR_WT = 4
XEN_DOMCTL_MEM_CACHEATTR_WP = 5
XEN_DOMCTL_MEM_CACHEATTR_WB = 6
XEN_DOMCTL_MEM_CACHEATTR_UCM = 7
XEN_DOMCTL_DELETE_MEM_CACHEATTR = 0xFFFFFFFF

# CPUID input that is not used.
XEN_CPUID_INPUT_UNUSED = 0xFFFFFFFF

# xen_domctl_debug_op.op.
XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF = 0
XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON = 1

# xen_domctl_vm_event_op.
XEN_VM_EVENT_ENABLE = 0
XEN_VM_EVENT_DISABLE = 1
XEN_VM_EVENT_RESUME = 2
XEN_VM_EVENT_GET_VERSION = 3
XEN_DOMCTL_VM_EVENT_OP_PAGING = 1
XEN_DOMCTL_VM_EVENT_OP_MONITOR = 2
XEN_DOMCTL_VM_EVENT_OP_SHARING = 3

# xen_domctl_mem_sharing_op.op.
XEN_DOMCTL_MEM_SHARING_CONTROL = 0

# xen_domctl_psr_cmt_op.cmd, xen_domctl_psr_alloc.cmd.
XEN_DOMCTL_PSR_CMT_OP_DETACH = 0
XEN_DOMCTL_PSR_CMT_OP_ATTACH = 1
XEN_DOMCTL_PSR_CMT_OP_QUERY_RMID = 2
XEN_DOMCTL_PSR_SET_L3_CBM = 0
XEN_DOMCTL_PSR_GET_L3_CBM = 1
XEN_DOMCTL_PSR_SET_L3_CODE = 2
XEN_DOMCTL_PSR_SET_L3_DATA = 3
XEN_DOMCTL_PSR_GET_L3_CODE = 4
XEN_DOMCTL_PSR_GET_L3_DATA = 5
XEN_DOMCTL_PSR_SET_L2_CBM = 6
XEN_DOMCTL_PSR_GET_L2_CBM = 7
XEN_DOMCTL_PSR_SET_MBA_THRTL = 8
XEN_DOMCTL_PSR_GET_MBA_THRTL = 9

# xen_domctl_monitor_op.
XEN_DOMCTL_MONITOR_OP_ENABLE = 0
XEN_DOMCTL_MONITOR_OP_DISABLE = 1
XEN_DOMCTL_MONITOR_OP_GET_CAPABILITIES = 2
XEN_DOMCTL_MONITOR_OP_EMULATE_EACH_REP = 3
XEN_DOMCTL_MONITOR_OP_CONTROL_REGISTERS = 4
XEN_DOMCTL_MONITOR_EVENT_WRITE_CTRLREG = 0
XEN_DOMCTL_MONITOR_EVENT_MOV_TO_MSR = 1
XEN_DOMCTL_MONITOR_EVENT_SINGLESTEP = 2
XEN_DOMCTL_MONITOR_EVENT_SOFTWARE_BREAKPOINT = 3
XEN_DOMCTL_MONITOR_EVENT_GUEST_REQUEST = 4
XEN_DOMCTL_MONITOR_EVENT_DEBUG_EXCEPTION = 5
XEN_DOMCTL_MONITOR_EVENT_CPUID = 6
XEN_DOMCTL_MONITOR_EVENT_PRIVILEGED_CALL = 7
XEN_DOMCTL_MONITOR_EVENT_INTERRUPT = 8
XEN_DOMCTL_MONITOR_EVENT_DESC_ACCESS = 9
XEN_DOMCTL_MONITOR_EVENT_EMUL_UNIMPLEMENTED = 10
XEN_DOMCTL_MONITOR_EVENT_INGUEST_PAGEFAULT = 11
XEN_DOMCTL_MONITOR_EVENT_VMEXIT = 12

# xen_domctl_vuart_op.
XEN_DOMCTL_VUART_OP_INIT = 0
XEN_DOMCTL_VUART_TYPE_VPL011 = 0

# xen_domctl_vmtrace_op.cmd.
XEN_DOMCTL_vmtrace_enable = 1
XEN_DOMCTL_vmtrace_disable = 2
XEN_DOMCTL_vmtrace_reset_and_enable = 3
XEN_DOMCTL_vmtrace_output_position = 4
XEN_DOMCTL_vmtrace_get_option = 5
XEN_DOMCTL_vmtrace_set_option = 6

DOMCTL_NAMES: dict[int, str] = {
    number: name.removeprefix("XEN_DOMCTL_")
    for name, number in sorted(globals().items())
    if name.startswith("XEN_DOMCTL_")
    and name[11].islower()
    and (name == "XEN_DOMCTL_vmtrace_op" or not name.startswith("XEN_DOMCTL_vmtrace"))
}
"""Operation to name."""

# Where the operand of an operation is not the member of its own name.
_MEMBERS = DOMCTL_NAMES | {
    XEN_DOMCTL_setvcpuaffinity: "vcpuaffinity",
    XEN_DOMCTL_getvcpuaffinity: "vcpuaffinity",
    XEN_DOMCTL_setvcpucontext: "vcpucontext",
    XEN_DOMCTL_getvcpucontext: "vcpucontext",
    XEN_DOMCTL_gethvmcontext: "hvmcontext",
    XEN_DOMCTL_sethvmcontext: "hvmcontext",
    XEN_DOMCTL_gethvmcontext_partial: "hvmcontext_partial",
    XEN_DOMCTL_set_address_size: "address_size",
    XEN_DOMCTL_get_address_size: "address_size",
    XEN_DOMCTL_test_assign_device: "assign_device",
    XEN_DOMCTL_deassign_device: "assign_device",
    XEN_DOMCTL_unbind_pt_irq: "bind_pt_irq",
    XEN_DOMCTL_set_ext_vcpucontext: "ext_vcpucontext",
    XEN_DOMCTL_get_ext_vcpucontext: "ext_vcpucontext",
    XEN_DOMCTL_gettscinfo: "tsc_info",
    XEN_DOMCTL_settscinfo: "tsc_info",
    XEN_DOMCTL_setvcpuextstate: "vcpuextstate",
    XEN_DOMCTL_getvcpuextstate: "vcpuextstate",
    XEN_DOMCTL_set_access_required: "access_required",
    XEN_DOMCTL_setnodeaffinity: "nodeaffinity",
    XEN_DOMCTL_getnodeaffinity: "nodeaffinity",
    XEN_DOMCTL_get_vcpu_msrs: "vcpu_msrs",
    XEN_DOMCTL_set_vcpu_msrs: "vcpu_msrs",
    XEN_DOMCTL_setvnumainfo: "vnuma",
    XEN_DOMCTL_get_cpu_policy: "cpu_policy",
    XEN_DOMCTL_set_cpu_policy: "cpu_policy",
    XEN_DOMCTL_get_paging_mempool_size: "paging_mempool",
    XEN_DOMCTL_set_paging_mempool_size: "paging_mempool",
    XEN_DOMCTL_gdbsx_guestmemio: "gdbsx_guest_memio",
    XEN_DOMCTL_gdbsx_pausevcpu: "gdbsx_pauseunp_vcpu",
    XEN_DOMCTL_gdbsx_unpausevcpu: "gdbsx_pauseunp_vcpu",
}


class _xen_domctl_u(Union):
    createdomain: xen_domctl_createdomain
    getdomaininfo: xen_domctl_getdomaininfo
    getpageframeinfo3: xen_domctl_getpageframeinfo3
    nodeaffinity: xen_domctl_nodeaffinity
    vcpuaffinity: xen_domctl_vcpuaffinity
    shadow_op: xen_domctl_shadow_op
    max_mem: xen_domctl_max_mem
    vcpucontext: xen_domctl_vcpucontext
    getvcpuinfo: xen_domctl_getvcpuinfo
    max_vcpus: xen_domctl_max_vcpus
    scheduler_op: xen_domctl_scheduler_op
    setdomainhandle: xen_domctl_setdomainhandle
    setdebugging: xen_domctl_setdebugging
    irq_permission: xen_domctl_irq_permission
    iomem_permission: xen_domctl_iomem_permission
    ioport_permission: xen_domctl_ioport_permission
    hypercall_init: xen_domctl_hypercall_init
    settimeoffset: xen_domctl_settimeoffset
    tsc_info: xen_domctl_tsc_info
    hvmcontext: xen_domctl_hvmcontext
    hvmcontext_partial: xen_domctl_hvmcontext_partial
    address_size: xen_domctl_address_size
    sendtrigger: xen_domctl_sendtrigger
    get_device_group: xen_domctl_get_device_group
    assign_device: xen_domctl_assign_device
    bind_pt_irq: xen_domctl_bind_pt_irq
    memory_mapping: xen_domctl_memory_mapping
    ioport_mapping: xen_domctl_ioport_mapping
    ext_vcpucontext: xen_domctl_ext_vcpucontext
    set_target: xen_domctl_set_target
    subscribe: xen_domctl_subscribe
    debug_op: xen_domctl_debug_op
    vm_event_op: xen_domctl_vm_event_op
    mem_sharing_op: xen_domctl_mem_sharing_op
    cpu_policy: xen_domctl_cpu_policy
    vcpuextstate: xen_domctl_vcpuextstate
    vcpu_msrs: xen_domctl_vcpu_msrs
    access_required: xen_domctl_set_access_required
    audit_p2m: xen_domctl_audit_p2m
    set_virq_handler: xen_domctl_set_virq_handler
    gdbsx_guest_memio: xen_domctl_gdbsx_memio
    set_broken_page_p2m: xen_domctl_set_broken_page_p2m
    cacheflush: xen_domctl_cacheflush
    gdbsx_pauseunp_vcpu: xen_domctl_gdbsx_pauseunp_vcpu
    gdbsx_domstatus: xen_domctl_gdbsx_domstatus
    vnuma: xen_domctl_vnuma
    psr_cmt_op: xen_domctl_psr_cmt_op
    monitor_op: xen_domctl_monitor_op
    psr_alloc: xen_domctl_psr_alloc
    vuart_op: xen_domctl_vuart_op
    vmtrace_op: xen_domctl_vmtrace_op
    paging_mempool: xen_domctl_paging_mempool
    pad: Annotated[bytes, octets(128)]


class xen_domctl(Struct):
    """HYPERVISOR_domctl."""

    _selects_ = selects(u=("cmd", _MEMBERS))

    cmd: u32
    interface_version: u32
    domain: domid_t
    _pad: Annotated[list[int], array(u16, 3)]
    u: _xen_domctl_u

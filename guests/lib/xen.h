/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Xen's interface as far as these guests use it: numbers and layouts from Xen 4.17's public
 * headers (xen.h, sched.h, vcpu.h, event_channel.h, memory.h, version.h, grant_table.h,
 * hvm/hvm_op.h, hvm/params.h, hvm/hvm_vcpu.h, io/console.h, arch-x86/cpuid.h), declared anew.
 * u64 is aligned to 4 in 32-bit guests, as the i386 ABI has it.
 */
#ifndef GUEST_XEN_H
#define GUEST_XEN_H

#include "guest.h"

/* Hypercalls. */
#define HYPERVISOR_memory_op 12
#define HYPERVISOR_multicall 13
#define HYPERVISOR_set_timer_op 15
#define HYPERVISOR_xen_version 17
#define HYPERVISOR_console_io 18
#define HYPERVISOR_grant_table_op 20
#define HYPERVISOR_vm_assist 21
#define HYPERVISOR_vcpu_op 24
#define HYPERVISOR_sched_op 29
#define HYPERVISOR_event_channel_op 32
#define HYPERVISOR_physdev_op 33
#define HYPERVISOR_hvm_op 34
#define HYPERVISOR_domctl 36
#define HYPERVISOR_sysctl 35

#define DOMID_SELF 0x7ff0u

#define EPERM 1
#define ENOENT 2
#define ESRCH 3
#define ENXIO 6
#define E2BIG 7
#define ENOMEM 12
#define EACCES 13
#define EFAULT 14
#define EBUSY 16
#define EEXIST 17
#define ENODEV 19
#define EINVAL 22
#define ENOSPC 28
#define ENOSYS 38
#define ENODATA 61
#define ETIME 62
#define EOPNOTSUPP 95

/* sched.h */
#define SCHEDOP_yield 0
#define SCHEDOP_block 1
#define SCHEDOP_shutdown 2
#define SCHEDOP_poll 3
#define SCHEDOP_remote_shutdown 4
#define SCHEDOP_shutdown_code 5
#define SCHEDOP_watchdog 6
#define SHUTDOWN_poweroff 0
#define SHUTDOWN_reboot 1
#define SHUTDOWN_suspend 2
#define SHUTDOWN_crash 3
#define SHUTDOWN_watchdog 4
#define SHUTDOWN_soft_reset 5

struct sched_poll {
    u32 *ports;
    u32 nr_ports;
    u64 timeout;
};
struct sched_watchdog {
    u32 id, timeout;
};

/* console_io */
#define CONSOLEIO_write 0
#define CONSOLEIO_read 1

/* version.h */
#define XENVER_version 0
#define XENVER_extraversion 1
#define XENVER_compile_info 2
#define XENVER_capabilities 3
#define XENVER_changeset 4
#define XENVER_platform_parameters 5
#define XENVER_get_features 6
#define XENVER_pagesize 7
#define XENVER_guest_handle 8
#define XENVER_commandline 9
#define XENVER_build_id 10

struct xen_feature_info {
    u32 submap_idx, submap;
};
#define XENFEAT_writable_page_tables 0
#define XENFEAT_auto_translated_physmap 2
#define XENFEAT_supervisor_mode_kernel 3
#define XENFEAT_memory_op_vnode_supported 13
#define XENFEAT_hvm_callback_vector 8
#define XENFEAT_hvm_safe_pvclock 9
#define XENFEAT_hvm_pirqs 10
#define XENFEAT_dom0 11

/* vm_assist */
#define VMASST_CMD_enable 0
#define VMASST_CMD_disable 1
#define VMASST_TYPE_runstate_update_flag 5

/* memory.h */
#define XENMEM_increase_reservation 0
#define XENMEM_decrease_reservation 1
#define XENMEM_maximum_ram_page 2
#define XENMEM_current_reservation 3
#define XENMEM_maximum_reservation 4
#define XENMEM_populate_physmap 6
#define XENMEM_add_to_physmap 7
#define XENMEM_memory_map 9
#define XENMEM_machine_memory_map 10
#define XENMEM_exchange 11
#define XENMEM_machphys_mapping 12
#define XENMEM_maximum_gpfn 14
#define XENMEM_remove_from_physmap 15
#define XENMEM_add_to_physmap_batch 23
#define XENMAPSPACE_shared_info 0
#define XENMAPSPACE_grant_table 1
#define XENMAPSPACE_gmfn 2
#define XENMAPSPACE_gmfn_range 3
#define XENMAPIDX_grant_table_status 0x80000000u

struct xen_memory_reservation {
    ulong *extent_start;
    ulong nr_extents;
    u32 extent_order, mem_flags;
    u16 domid;
};
struct xen_memory_exchange {
    struct xen_memory_reservation in, out;
    ulong nr_exchanged;
};
struct xen_add_to_physmap {
    u16 domid, size;
    u32 space;
    ulong idx, gpfn;
};
struct xen_add_to_physmap_batch {
    u16 domid, space, size, foreign_domid;
    ulong *idxs, *gpfns;
    s32 *errs;
};
struct xen_remove_from_physmap {
    u16 domid;
    ulong gpfn;
};
struct xen_memory_map {
    u32 nr_entries;
    void *buffer;
};
struct e820_entry {
    u64 addr, size;
    u32 type;
} __attribute__((packed));

/* event_channel.h */
#define EVTCHNOP_bind_interdomain 0
#define EVTCHNOP_bind_virq 1
#define EVTCHNOP_bind_pirq 2
#define EVTCHNOP_close 3
#define EVTCHNOP_send 4
#define EVTCHNOP_status 5
#define EVTCHNOP_alloc_unbound 6
#define EVTCHNOP_bind_ipi 7
#define EVTCHNOP_bind_vcpu 8
#define EVTCHNOP_unmask 9
#define EVTCHNOP_reset 10
#define EVTCHNOP_init_control 11
#define EVTCHNOP_expand_array 12
#define EVTCHNOP_set_priority 13
#define EVTCHNSTAT_closed 0
#define EVTCHNSTAT_unbound 1
#define EVTCHNSTAT_interdomain 2
#define EVTCHNSTAT_virq 4
#define EVTCHNSTAT_ipi 5
#define VIRQ_TIMER 0
#define VIRQ_DEBUG 1

struct evtchn_alloc_unbound {
    u16 dom, remote_dom;
    u32 port;
};
struct evtchn_bind_interdomain {
    u16 remote_dom;
    u32 remote_port, local_port;
};
struct evtchn_bind_virq {
    u32 virq, vcpu, port;
};
struct evtchn_bind_ipi {
    u32 vcpu, port;
};
struct evtchn_port {
    u32 port;
};
struct evtchn_bind_vcpu {
    u32 port, vcpu;
};
struct evtchn_status {
    u16 dom;
    u32 port, status, vcpu;
    union {
        struct {
            u16 dom;
            u32 port;
        } interdomain;
        u16 unbound_dom;
        u32 virq;
    };
};
struct evtchn_reset {
    u16 dom;
};
struct evtchn_init_control {
    u64 control_gfn;
    u32 offset, vcpu;
    u8 link_bits, pad[7];
};
struct evtchn_expand_array {
    u64 array_gfn;
};
struct evtchn_set_priority {
    u32 port, priority;
};

#define EVTCHN_FIFO_PENDING 31
#define EVTCHN_FIFO_MASKED 30
#define EVTCHN_FIFO_LINKED 29
#define EVTCHN_FIFO_LINK_MASK 0x1ffff
struct evtchn_fifo_control_block {
    u32 ready, rsvd;
    u32 head[16];
};

/* vcpu.h */
#define VCPUOP_initialise 0
#define VCPUOP_up 1
#define VCPUOP_down 2
#define VCPUOP_is_up 3
#define VCPUOP_get_runstate_info 4
#define VCPUOP_register_runstate_memory_area 5
#define VCPUOP_set_periodic_timer 6
#define VCPUOP_stop_periodic_timer 7
#define VCPUOP_set_singleshot_timer 8
#define VCPUOP_stop_singleshot_timer 9
#define VCPUOP_register_vcpu_info 10
#define VCPUOP_send_nmi 11
#define VCPUOP_get_physid 12
#define VCPUOP_register_vcpu_time_memory_area 13
#define VCPU_SSHOTTMR_future 1
#define RUNSTATE_running 0
#define RUNSTATE_runnable 1
#define RUNSTATE_blocked 2
#define RUNSTATE_offline 3
#define XEN_RUNSTATE_UPDATE (1ull << 63)

struct vcpu_runstate_info {
    s32 state;
    u64 state_entry_time;
    u64 time[4];
};
struct vcpu_set_singleshot_timer {
    u64 timeout_abs_ns;
    u32 flags;
};
struct vcpu_register_vcpu_info {
    u64 mfn;
    u32 offset, rsvd;
};
struct vcpu_time_info {
    u32 version, pad0;
    u64 tsc_timestamp, system_time;
    u32 tsc_to_system_mul;
    s8 tsc_shift;
    u8 flags, pad1[2];
};
struct vcpu_info {
    volatile u8 evtchn_upcall_pending;
    volatile u8 evtchn_upcall_mask;
    volatile ulong evtchn_pending_sel;
    ulong arch_cr2, arch_pad[BITS == 64 ? 1 : 5];
    volatile struct vcpu_time_info time;
};
struct shared_info {
    struct vcpu_info vcpu_info[32];
    volatile ulong evtchn_pending[sizeof(ulong) * 8];
    volatile ulong evtchn_mask[sizeof(ulong) * 8];
    volatile u32 wc_version, wc_sec, wc_nsec;
#if BITS == 64
    volatile u32 wc_sec_hi;
#endif
    /* struct arch_shared_info: where a PV guest has the list of its frames. */
    volatile ulong max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr,
        p2m_generation;
#if BITS == 32
    volatile u32 wc_sec_hi;
#endif
} PAGE_ALIGNED; /* takes its whole page */
_Static_assert(sizeof(struct vcpu_info) == 64, "vcpu_info");

/* hvm/hvm_vcpu.h: what VCPUOP_initialise takes from HVM and PVH guests. */
struct vcpu_hvm_context {
    u32 mode, pad; /* mode 0: 32-bit registers, 1: 64-bit */
    union {
        struct {
            u32 eax, ecx, edx, ebx, esp, ebp, esi, edi, eip, eflags, cr0, cr3, cr4, pad1;
            u64 efer;
            u32 cs_base, ds_base, ss_base, es_base, tr_base;
            u32 cs_limit, ds_limit, ss_limit, es_limit, tr_limit;
            u16 cs_ar, ds_ar, ss_ar, es_ar, tr_ar, pad2[3];
        } x86_32;
        struct {
            u64 rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, rip, rflags, cr0, cr3, cr4, efer;
        } x86_64;
    };
};

/* hvm/hvm_op.h, hvm/params.h */
#define HVMOP_set_param 0
#define HVMOP_get_param 1
#define HVMOP_flush_tlbs 5
#define HVMOP_get_time 10
#define HVMOP_get_mem_type 15
#define HVMOP_set_evtchn_upcall_vector 23
#define HVM_PARAM_VM86_TSS 15
#define HVM_PARAM_VM86_TSS_SIZED 37
#define HVM_PARAM_CALLBACK_IRQ 0
#define HVM_PARAM_STORE_PFN 1
#define HVM_PARAM_STORE_EVTCHN 2
#define HVM_PARAM_CONSOLE_PFN 17
#define HVM_PARAM_CONSOLE_EVTCHN 18
#define HVM_PARAM_TRIPLE_FAULT_REASON 31
#define CALLBACK_VIA_VECTOR (2ull << 56)

struct xen_hvm_param {
    u16 domid, pad;
    u32 index;
    u64 value;
};
struct xen_hvm_evtchn_upcall_vector {
    u32 vcpu;
    u8 vector;
};
struct xen_hvm_get_mem_type {
    u16 domid, mem_type, pad[2];
    u64 pfn;
};

/* grant_table.h */
#define GNTTABOP_map_grant_ref 0
#define GNTTABOP_setup_table 2
#define GNTTABOP_dump_table 3
#define GNTTABOP_query_size 6
#define GNTTABOP_set_version 8
#define GNTTABOP_get_status_frames 9
#define GNTTABOP_get_version 10
#define GNTTABOP_swap_grant_ref 11
#define GNTMAP_host_map 2
#define GNTMAP_contains_pte 16
#define GTF_permit_access 1
#define GNTST_okay 0
#define GNTST_general_error (-1)
#define GNTST_bad_domain (-2)
#define GNTST_bad_gntref (-3)
#define GNTST_permission_denied (-8)

struct gnttab_map_grant_ref {
    u64 host_addr;
    u32 flags, ref;
    u16 dom;
    s16 status;
    u32 handle;
    u64 dev_bus_addr;
};
struct gnttab_setup_table {
    u16 dom;
    u32 nr_frames;
    s16 status;
    ulong *frame_list;
};
struct gnttab_query_size {
    u16 dom;
    u32 nr_frames, max_nr_frames;
    s16 status;
};
struct gnttab_set_version {
    u32 version;
};
struct gnttab_get_version {
    u16 dom, pad;
    u32 version;
};
struct gnttab_swap_grant_ref {
    u32 ref_a, ref_b;
    s16 status;
};
struct grant_entry_v1 {
    volatile u16 flags, domid;
    volatile u32 frame;
};
struct grant_entry_v2 {
    volatile u16 flags, domid;
    volatile u32 pad;
    volatile u64 frame;
};

/* multicall */
struct multicall_entry {
    ulong op;
#if BITS == 64
    s64 result;
#else
    s32 result;
#endif
    ulong args[6];
};

/* io/console.h */
struct xencons_interface {
    char in[1024];
    char out[2048];
    volatile u32 in_cons, in_prod;
    volatile u32 out_cons, out_prod;
};

/* ---- the library's own ---- */

#define VEC_UPCALL 0xf3

struct xen {
    bool present;
    u32 cpuid_base, major, minor, hypercall_msr;
    u32 console_port, store_port;
    struct xencons_interface *console;
    bool console_works;
};
extern struct xen xen;
extern u8 hypercall_page[];

void xen_init(void); /* hypercall page, shared info, console; nothing where there's no Xen */
extern struct shared_info shared_info;
extern struct vcpu_info *vcpu_infos[MAX_CPUS]; /* where each vCPU's vcpu_info lies */

long hypercall(u32 number, ulong a1, ulong a2, ulong a3, ulong a4, ulong a5);
static inline long hypercall2(u32 number, ulong command, const void *argument)
{
    return hypercall(number, command, (ulong)argument, 0, 0, 0);
}
static inline long memory_op(ulong command, const void *argument)
{
    return hypercall2(HYPERVISOR_memory_op, command, argument);
}
static inline long event_op(ulong command, const void *argument)
{
    return hypercall2(HYPERVISOR_event_channel_op, command, argument);
}
static inline long sched_op(ulong command, const void *argument)
{
    return hypercall2(HYPERVISOR_sched_op, command, argument);
}
static inline long hvm_op(ulong command, const void *argument)
{
    return hypercall2(HYPERVISOR_hvm_op, command, argument);
}
static inline long version_op(ulong command, const void *argument)
{
    return hypercall2(HYPERVISOR_xen_version, command, argument);
}
static inline long vcpu_op(ulong command, ulong vcpu, const void *argument)
{
    return hypercall(HYPERVISOR_vcpu_op, command, vcpu, (ulong)argument, 0, 0);
}
static inline long grant_op(ulong command, const void *argument, ulong count)
{
    return hypercall(HYPERVISOR_grant_table_op, command, (ulong)argument, count, 0, 0);
}
static inline long console_io(ulong command, ulong count, const void *buffer)
{
    return hypercall(HYPERVISOR_console_io, command, count, (ulong)buffer, 0, 0);
}

void NORETURN xen_shutdown(u32 reason);
long hvm_get_param(u32 index, u64 *value);
long hvm_set_param(u32 index, u64 value);
long add_to_physmap(u32 space, ulong idx, ulong gpfn);

/* Events, with the 2-level ABI: a function per port, run in the upcall. */
typedef void (*event_fn)(u32 port);
void events_init(void); /* the upcall vector for all vCPUs */
void handle_events(struct regs *r);
void on_event(u32 port, event_fn fn);
long bind_virq(u32 virq, u32 vcpu, u32 *port);
long bind_ipi(u32 vcpu, u32 *port);
long send_event(u32 port);
void mask_event(u32 port);
void unmask_event(u32 port);
bool event_pending(u32 port);
void clear_event(u32 port);
extern volatile u32 upcalls[MAX_CPUS]; /* how many upcalls each CPU has had */

u64 system_time(void); /* ns since the machine's start, from this CPU's vcpu_time_info */
long set_singleshot_timer(u64 deadline, u32 flags);

void console_write(const char *text, size_t n);
void console_io_sink(const char *text, size_t n); /* by hypercall instead of the ring */
int console_read(void); /* the next input byte, or -1 */

#endif

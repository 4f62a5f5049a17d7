/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What PV guests of both widths know of their machine: start info, page tables, frames.
 *
 * The guest is linked where its memory is mapped: address = pfn * 4096.  Facts: public/xen.h,
 * public/arch-x86/xen.h, xen-x86_64.h and xen-x86_32.h of Xen 4.17, declared anew.
 */
#ifndef GUEST_PV_H
#define GUEST_PV_H

#include "xen.h"

#define HYPERVISOR_set_trap_table 0
#define HYPERVISOR_mmu_update 1
#define HYPERVISOR_set_gdt 2
#define HYPERVISOR_stack_switch 3
#define HYPERVISOR_set_callbacks 4
#define HYPERVISOR_fpu_taskswitch 5
#define HYPERVISOR_set_debugreg 8
#define HYPERVISOR_get_debugreg 9
#define HYPERVISOR_update_descriptor 10
#define HYPERVISOR_update_va_mapping 14
#define HYPERVISOR_update_va_mapping_otherdomain 22
#define HYPERVISOR_iret 23
#define HYPERVISOR_set_segment_base 25
#define HYPERVISOR_mmuext_op 26

#if BITS == 64
#define FLAT_KERNEL_CS 0xe033
#define FLAT_KERNEL_SS 0xe02b
#else
#define FLAT_KERNEL_CS 0xe019
#define FLAT_KERNEL_SS 0xe021
#endif

#define MMU_NORMAL_PT_UPDATE 0
#define MMU_MACHPHYS_UPDATE 1
#define MMU_PT_UPDATE_PRESERVE_AD 2
#define UVMF_NONE 0
#define UVMF_TLB_FLUSH 1
#define UVMF_INVLPG 2
#define UVMF_ALL 4

#define MMUEXT_PIN_L1_TABLE 0
#define MMUEXT_PIN_L2_TABLE 1
#define MMUEXT_PIN_L3_TABLE 2
#define MMUEXT_PIN_L4_TABLE 3
#define MMUEXT_UNPIN_TABLE 4
#define MMUEXT_NEW_BASEPTR 5
#define MMUEXT_TLB_FLUSH_LOCAL 6
#define MMUEXT_INVLPG_LOCAL 7
#define MMUEXT_SET_LDT 13
#define MMUEXT_NEW_USER_BASEPTR 15
#define MMUEXT_CLEAR_PAGE 16
#define MMUEXT_COPY_PAGE 17

#define PHYSDEVOP_set_iopl 6
#define PHYSDEVOP_set_iobitmap 7
#define SIF_MOD_START_PFN 8
#define DOMID_IO 0x7ff1u
#define VMASST_TYPE_writable_pagetables 2

/* The machine-to-physical table is at its beginning. */
#if BITS == 64
#define HYPERVISOR_VIRT_START 0xffff800000000000ul
#else
#define HYPERVISOR_VIRT_START 0xf5800000ul
#endif
#define HYPERVISOR_VIRT_END 0xffff880000000000ul
#define XEN_FIRST_SLOT 256
#define XEN_LAST_SLOT 271

struct pv_start_info {
    char magic[32];
    ulong nr_pages, shared_info;
    u32 flags;
    ulong store_mfn;
    u32 store_evtchn;
    ulong console_mfn;
    u32 console_evtchn;
    ulong pt_base, nr_pt_frames, mfn_list, mod_start, mod_len;
    char cmd_line[1024];
    ulong first_p2m_pfn, nr_p2m_frames;
};

struct pv_trap_info {
    u8 vector, flags;
    u16 cs;
    ulong address;
};
#define TRAP_MASKS_EVENTS 4

struct mmu_update {
    u64 ptr, val;
};
struct mmuext_op {
    u32 cmd;
    ulong arg1, arg2;
};

extern struct pv_start_info *pv_start_info;
extern ulong pv_entry_flags, pv_entry_stack;
extern u16 pv_entry_cs, pv_entry_ss;

/* An IRET to the next instruction with these selectors; returns the CS that is in force then. */
ulong pv_iret_to(ulong cs, ulong ss);

/* ---- start (pv.c); again after a suspend, in another machine ---- */
void shared_info_init(void); /* mapped, and all events masked */
void console_init(void);

/* ---- memory (pv_memory.c) ---- */
#define MFN(entry) (((entry) & PTE_ADDRESS) >> PAGE_SHIFT)
#define ENTRY(mfn, flags) ((pte_t)(mfn) << PAGE_SHIFT | (flags))

ulong mfn_of(const void *page);                 /* by the list of frames */
ulong pfn_of(ulong mfn);                        /* by the machine-to-physical table */
pte_t *pv_table_of(ulong va, unsigned level);   /* the table of that level over va, to read */
ulong pv_entry_at(ulong va, unsigned level);    /* machine address of its entry for va */
pte_t pv_entry_of(ulong va, unsigned level);
long mmu_update_for(u64 ptr, u64 val, u32 domid);
long mmuext_for(u32 cmd, u64 arg1, u64 arg2, u32 domid);
long update_va(const void *va, pte_t entry);    /* with INVLPG */
long pv_protect(void *page, bool writable);     /* remap one of our own pages */
/* In 64-bit guests alone; false: it faulted (see trap). */
bool pv_store(volatile u64 *at, u64 value);
bool pv_load(const volatile u64 *at, u64 *value);

/* ---- xenstore (pv_store.c) ---- */
int store_read(const char *path, char *answer, u32 size); /* the answer's length, or -1 */
bool store_write(const char *path, const char *value);

static inline long mmu_update(u64 ptr, u64 val)
{
    return mmu_update_for(ptr, val, DOMID_SELF);
}
static inline long mmuext(u32 cmd, u64 arg1, u64 arg2)
{
    return mmuext_for(cmd, arg1, arg2, DOMID_SELF);
}

#endif

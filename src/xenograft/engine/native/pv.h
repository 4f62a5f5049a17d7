/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * PV guests: page types and reference counts (pv_pages.c), updates of page tables (pv_update.c),
 * traps and modes of a vCPU (pv_trap.c), hypercalls that are answered here (pv_call.c).
 *
 * A PV guest's page tables hold machine frame numbers.  What keeps it inside its own memory is
 * that it can't write a page table: each frame has one type at a time, and only frames whose
 * entries were all checked become tables.  The rules are those of Xen's xen/arch/x86/mm.c.
 */
#ifndef XG_PV_H
#define XG_PV_H

#include "core.h"

/* frame.types: what a frame is used as, and how often */
#define PGT_count_mask 0x03ffffffu
#define PGT_pae_xen_l2 (1u << 26)
#define PGT_validated (1u << 27)
#define PGT_pinned (1u << 28)
#define PGT_type_mask (7u << 29)
#define PGT_none 0u
#define PGT_level(n) ((uint32_t)(n) << 29) /* 1 to 4: a page table of that level */
#define PGT_seg_desc_page (5u << 29)
#define PGT_shared_page (6u << 29)
#define PGT_writable_page (7u << 29)

#define PTE_P 1ull
#define PTE_RW 2ull
#define PTE_US 4ull
#define PTE_PWT 8ull
#define PTE_PCD 16ull
#define PTE_A 32ull
#define PTE_D 64ull
#define PTE_PAT 128ull
#define PTE_G 256ull
#define PTE_AVAIL 0xe00ull
#define PTE_GUEST_KERNEL (1ull << 52)
#define PTE_AVAIL_HIGH (0x7ffull << 52)
#define PTE_NX (1ull << 63)
#define PTE_FLAGS (0xfff0000000000fffull)
#define PTE_MFN(e) (((e) & ~PTE_FLAGS) >> PAGE_SHIFT)

enum {
    PV_EPERM = 1, PV_ENOENT = 2, PV_ESRCH = 3, PV_EFAULT = 14, PV_EACCES = 13, PV_EBUSY = 16,
    PV_EINVAL = 22, PV_ENOSYS = 38, PV_EOPNOTSUPP = 95,
};

#define DOMID_SELF 0x7ff0u
#define DOMID_IO 0x7ff1u

/* where Xen's own mappings lie in each 64-bit root table */
#define L4_FIRST_XEN_SLOT 256
#define L4_LAST_XEN_SLOT 271
#define L4_M2P_SLOT 256
#define L4_LINEAR_SLOT 258
#define L4_PERDOMAIN_SLOT 260
#define HYPERVISOR_VIRT_START 0xffff800000000000ull
#define HYPERVISOR_VIRT_END 0xffff880000000000ull
#define PERDOMAIN_VIRT_START 0xffff820000000000ull
#define GDT_LDT_VCPU_SHIFT 17
#define COMPAT_L2_FIRST_XEN_SLOT 428 /* of 0xf5800000 */

#define FIRST_RESERVED_GDT_ENTRY 7168u
#define FLAT_KERNEL_CS64 0xe033u
#define FLAT_USER_CS32 0xe023u
#define FLAT_KERNEL_SS 0xe02bu
#define FLAT_COMPAT_KERNEL_CS 0xe019u
#define FLAT_COMPAT_KERNEL_SS 0xe021u
#define FLAT_COMPAT_USER_CS 0xe02bu
#define FLAT_COMPAT_USER_SS 0xe033u

/* One PV domain's rules. */
struct pv_domain {
    PyObject_HEAD
    struct memory *memory;
    struct space *space;
    uint32_t domid;
    bool compat; /* a 32-bit guest */
    bool m2p_strict;
    uint64_t vm_assist;
    uint64_t m2p_l4e, perdomain_l4e;
    uint64_t compat_l2[512 - COMPAT_L2_FIRST_XEN_SLOT];
    uint64_t work; /* entries looked at: what a call has cost */
#define PV_WORK_MAX (16u << 20) /* more in one go is no guest's honest need */
};

extern PyTypeObject PvDomain_Type;

/* -- pv_pages.c -- */
bool pv_get_page(struct memory *m, uint64_t mfn, uint32_t owner);
void pv_put_page(struct memory *m, uint64_t mfn);
int pv_get_type(struct pv_domain *d, uint64_t mfn, uint32_t type);
void pv_put_type(struct pv_domain *d, uint64_t mfn);
bool pv_get_writable(struct memory *m, uint64_t mfn);
void pv_put_writable(struct memory *m, uint64_t mfn);
int pv_get_page_and_type(struct pv_domain *d, uint64_t mfn, uint32_t type);
void pv_put_page_and_type(struct pv_domain *d, uint64_t mfn);
int pv_get_l1e(struct pv_domain *d, uint64_t entry, uint32_t owner);
void pv_put_l1e(struct pv_domain *d, uint64_t entry);
int pv_get_lne(struct pv_domain *d, uint64_t entry, int level, uint64_t table);
void pv_put_lne(struct pv_domain *d, uint64_t entry, int level, uint64_t table);
uint64_t pv_adjust_l1e(struct pv_domain *d, uint64_t entry);
uint64_t pv_adjust_lne(struct pv_domain *d, uint64_t entry, int level);
uint64_t pv_disallowed(struct pv_domain *d, int level);
bool pv_check_descriptor(struct pv_domain *d, uint64_t *descriptor);

static inline uint64_t *pv_table(struct memory *m, uint64_t mfn)
{
    return (uint64_t *)(m->base + (mfn << PAGE_SHIFT));
}

static inline uint32_t pv_type(struct memory *m, uint64_t mfn)
{
    return m->table[mfn].types & PGT_type_mask;
}

static inline uint32_t pv_count(struct memory *m, uint64_t mfn)
{
    return m->table[mfn].types & PGT_count_mask;
}

/* -- pv_update.c -- */
enum { MMU_NORMAL_PT_UPDATE, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD,
       MMU_PT_UPDATE_NO_TRANSLATE };
int pv_mod_l1(struct pv_domain *d, uint64_t *pte, uint64_t table, uint64_t entry, int cmd,
              uint32_t owner);
int pv_mmu_update(struct pv_domain *d, uint64_t ptr, uint64_t val, uint32_t owner);
int pv_pin(struct pv_domain *d, uint64_t mfn, int level);
int pv_unpin(struct pv_domain *d, uint64_t mfn);
int pv_update_descriptor(struct pv_domain *d, uint64_t maddr, uint64_t descriptor);
int pv_clear_page(struct pv_domain *d, uint64_t mfn);
int pv_copy_page(struct pv_domain *d, uint64_t to, uint64_t from);

/* -- a vCPU -- */
#define TRAP_MASKS_EVENTS 4u
#define VGCF_failsafe_disables_events 8u
#define VGCF_syscall_disables_events 16u

struct pv_trap {
    uint64_t address;
    uint16_t cs;
    uint8_t flags; /* bits 0-1: DPL, bit 2: masks events */
};

struct pv_vcpu {
    struct pv_domain *domain;
    bool user;           /* in guest user mode */
    bool flush;          /* before the next run */
    bool native;         /* hypercalls may be answered here */
    bool deliver;        /* the exception under way goes to the guest as it is */
    bool iret;           /* and this one stands for an IRET */
    bool nmi_masked;     /* an NMI is being handled: until the next IRET */
    bool taskswitch;     /* the guest's CR0.TS */
    uint64_t kernel_table, user_table; /* mfns */
    uint64_t root;       /* 32-bit: the root table that Xen made; kernel_table is an L3 */
    uint64_t kernel_ss, kernel_sp;
    uint64_t event, failsafe, syscall, syscall32, sysenter;
    uint64_t event_cs, failsafe_cs, syscall32_cs, sysenter_cs;
    uint64_t flags;      /* VGCF_* */
    uint64_t syscall32_masks, sysenter_masks;
    uint64_t iopl;
    uint64_t cr4;
    uint64_t ldt_base, ldt_entries, gdt_entries;
    uint64_t gdt_frames[16], ldt_frames[16];
    uint64_t reserved_gdt; /* the frame of Xen's own descriptors */
    uint64_t descriptors;  /* machine address of the 32 entries that map its GDT and LDT */
    uint64_t info;       /* machine address of vcpu_info, or ~0 */
    uint32_t flushed_at;
    uint64_t window, window_mfn; /* a page table that the instruction under way may write */
    uint64_t hypercalls, bounces, irets, window_writes; /* counters for people */
    struct pv_trap traps[256];
};

/* -- pv_walk.c: the guest's memory, and its stores to page tables -- */
#define PFEC_present 1
#define PFEC_write 2
#define PFEC_user 4
#define PFEC_reserved 8
#define PFEC_insn 16
#define VMASST_writable_pagetables (1u << 2)
uint64_t pv_root(struct vcpu *v);
bool pv_address_fine(struct vcpu *v, uint64_t gva);
uint64_t *pv_entry(struct vcpu *v, uint64_t root, uint64_t gva, bool write);
bool pv_open_window(struct vcpu *v, uint32_t error);
uint64_t pv_walk(struct vcpu *v, uint64_t gva, bool write);
bool pv_copy_in(struct vcpu *v, void *to, uint64_t gva, size_t size);
bool pv_copy_out(struct vcpu *v, uint64_t gva, const void *from, size_t size);
void pv_flush(struct vcpu *v);
void pv_flush_others(struct vcpu *v);
bool pv_fill_window(struct vcpu *v, uint64_t addr, int access, int mmu_idx);
void pv_window_write(struct vcpu *v, uint64_t maddr, uint64_t value, unsigned size);
uint64_t pv_window_read(struct vcpu *v, uint64_t maddr, unsigned size);
void pv_type_flush(struct pv_domain *d, uint32_t stamp);

/* -- pv_segment.c -- */
#define DESC_CODE64 0xaffb00u
#define DESC_CODE32 0xcffb00u
#define DESC_DATA32 0xcff300u
#define LDT_PAGE 16 /* of a vCPU's 32 pages of descriptors */
void pv_set_segment(void *env, int n, uint32_t selector, uint64_t base, uint32_t limit,
                    uint32_t flags);
bool pv_map_ldt_page(struct vcpu *v, uint64_t page);
bool pv_load_segment(struct vcpu *v, int n, uint32_t selector);
void pv_drop_ldt(struct vcpu *v);

/* -- pv_trap.c -- */
bool pv_in_kernel(struct vcpu *v);
void pv_exception(struct vcpu *v, int vector);
void pv_debug_trap(struct vcpu *v);
bool pv_event(struct vcpu *v);
bool pv_event_due(struct vcpu *v);
void pv_syscall(struct vcpu *v, int length, uintptr_t retaddr);
void pv_sysenter(struct vcpu *v);
void pv_iret(struct vcpu *v);
void pv_load_roots(struct vcpu *v);
_Noreturn void pv_give_up(struct vcpu *v, int vector, uint64_t address);

/* -- pv_call.c: true if answered here; *result is the value for RAX then -- */
enum pv_answer { PV_ANSWERED, PV_PASS, PV_AGAIN, PV_DONE };
enum pv_answer pv_hypercall(struct vcpu *v, uint64_t number, uint64_t args[6], int64_t *result);
int pv_new_baseptr(struct vcpu *v, uint64_t mfn, bool user);

/* -- pv_python.c -- */
int pv_register(PyObject *module);
extern PyMethodDef pv_cpu_methods[];
void pv_release(struct vcpu *v);

#endif

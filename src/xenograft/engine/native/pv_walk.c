/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A PV guest's memory as its page tables show it, its TLB, and its stores to page tables: those
 * go through a window, one store at a time, so that each is checked like an update by hypercall.
 *
 * Facts: xen/arch/x86/pv/ro-page-fault.c, xen/arch/x86/usercopy.c, flushtlb.c of Xen 4.17.
 */
#include "pv.h"
#include "qemu.h"

#include <string.h>

enum { VECTOR_PF = 14 };

/* -- the TLB ---------------------------------------------------------------------------------------- */

void pv_flush(struct vcpu *v)
{
    struct memory *m = v->space->memory;
    NAME(tlb_flush)(v->cs);
    v->pv->flush = false;
    if (++m->tlb_clock == 0) {
        /* Come round: old times mean nothing any more. */
        m->tlb_clock = 1;
        for (struct engine *e = m->engines; e; e = e->next)
            for (struct vcpu *other = e->vcpus; other; other = other->next)
                if (other->pv)
                    other->pv->flushed_at = 0;
    }
    v->pv->flushed_at = m->tlb_clock;
}

void pv_flush_others(struct vcpu *v)
{
    for (struct vcpu *other = v->engine->vcpus; other; other = other->next)
        if (other != v && other->pv)
            other->pv->flush = true;
}

/* A frame that could be written until `stamp` becomes something else. */
void pv_type_flush(struct pv_domain *d, uint32_t stamp)
{
    if (!d->space || !d->space->engine)
        return;
    for (struct vcpu *v = d->space->engine->vcpus; v; v = v->next) {
        if (!v->pv || v->pv->flushed_at > stamp)
            continue;
        if (v == xg_current)
            pv_flush(v);
        else
            v->pv->flush = true;
    }
}

/* -- the guest's memory ------------------------------------------------------------------------------- */

uint64_t *pv_entry(struct vcpu *v, uint64_t root, uint64_t gva, bool write)
{
    struct memory *m = v->space->memory;
    uint64_t mfn = root, *entry = NULL;
    for (int shift = 39; shift >= 12; shift -= 9) {
        if (mfn >= m->frames)
            return NULL;
        entry = &pv_table(m, mfn)[gva >> shift & 511];
        if (!(*entry & PTE_P) || (write && !(*entry & PTE_RW)) || (shift > 12 && *entry & PTE_PAT))
            return NULL;
        mfn = PTE_MFN(*entry);
    }
    return entry;
}

uint64_t pv_root(struct vcpu *v)
{
    struct pv_vcpu *p = v->pv;
    return p->domain->compat ? p->root : p->user ? p->user_table : p->kernel_table;
}

bool pv_address_fine(struct vcpu *v, uint64_t gva)
{
    if (v->pv->domain->compat)
        return gva < 0xf5800000ull;
    return gva < 1ull << 47 || gva >= HYPERVISOR_VIRT_END;
}

/* Machine address behind gva, as the guest may read or write it now, or ~0. */
uint64_t pv_walk(struct vcpu *v, uint64_t gva, bool write)
{
    if (!pv_address_fine(v, gva))
        return ~0ull;
    uint64_t *entry = pv_entry(v, pv_root(v), gva, write);
    if (!entry || PTE_MFN(*entry) >= v->space->memory->frames)
        return ~0ull;
    *entry |= write ? PTE_A | PTE_D : PTE_A;
    return PTE_MFN(*entry) << PAGE_SHIFT | (gva & (PAGE_SIZE - 1));
}

bool pv_copy_in(struct vcpu *v, void *to, uint64_t gva, size_t size)
{
    while (size) {
        size_t part = PAGE_SIZE - (gva & (PAGE_SIZE - 1));
        part = part < size ? part : size;
        uint64_t maddr = pv_walk(v, gva, false);
        if (maddr == ~0ull)
            return false;
        memcpy(to, v->space->memory->base + maddr, part);
        to = (char *)to + part, gva += part, size -= part;
    }
    return true;
}

bool pv_copy_out(struct vcpu *v, uint64_t gva, const void *from, size_t size)
{
    /* All pages are checked first: a bad pointer leaves nothing half written. */
    for (uint64_t page = gva & ~(PAGE_SIZE - 1); page < gva + size; page += PAGE_SIZE)
        if (pv_walk(v, page > gva ? page : gva, true) == ~0ull)
            return false;
    while (size) {
        size_t part = PAGE_SIZE - (gva & (PAGE_SIZE - 1));
        part = part < size ? part : size;
        uint64_t maddr = pv_walk(v, gva, true);
        frame_written(v->space->memory, maddr >> PAGE_SHIFT);
        memcpy(v->space->memory->base + maddr, from, part);
        from = (const char *)from + part, gva += part, size -= part;
    }
    return true;
}

/* -- stores to page tables --------------------------------------------------------------------------------------- */

bool pv_fill_window(struct vcpu *v, uint64_t addr, int access, int mmu_idx)
{
    struct pv_vcpu *p = v->pv;
    memory_attributes none = {0};
    if (likely(!p->window) || (addr & ~(PAGE_SIZE - 1)) != p->window || access == ACCESS_FETCH)
        return false;
    NAME(real_tlb_set_page_with_attrs)(v->cs, p->window, HOLE_BASE + (p->window_mfn << PAGE_SHIFT),
                                       none, PAGE_READ | PAGE_WRITE, mmu_idx, PAGE_SIZE);
    return true;
}

uint64_t pv_window_read(struct vcpu *v, uint64_t maddr, unsigned size)
{
    struct memory *m = v->space->memory;
    uint64_t value = 0;
    if (maddr >> PAGE_SHIFT < m->frames)
        memcpy(&value, m->base + maddr, size);
    return value;
}

void pv_window_write(struct vcpu *v, uint64_t maddr, uint64_t value, unsigned size)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    uint64_t mfn = maddr >> PAGE_SHIFT, page = p->window;
    uint64_t *pte = (uint64_t *)(m->base + (maddr & ~7ull)), entry = 0;
    int rc = -PV_EINVAL;
    if (page && mfn == p->window_mfn && pv_type(m, mfn) == PGT_level(1) && pv_count(m, mfn)) {
        entry = *pte;
        memcpy((char *)&entry + (maddr & 7), &value, size);
        rc = pv_mod_l1(p->domain, pte, mfn, entry, MMU_NORMAL_PT_UPDATE, p->domain->domid);
        if (rc && p->domain->compat && size == 4 && maddr & 4 && entry & PTE_P)
            /* The halves of an entry in the wrong order: the lower one will follow. */
            rc = pv_mod_l1(p->domain, pte, mfn, entry & ~PTE_P, MMU_NORMAL_PT_UPDATE,
                           p->domain->domid);
    }
    p->window = 0;
    p->window_writes++;
    if (page)
        NAME(tlb_flush_page)(v->cs, page);
    if (!rc)
        return;
    NAME(cpu_restore_state)(v->cs, CPU_MEM_IO_PC(v->cs), true);
    ENV_CR(v->env, 2) = page | (maddr & (PAGE_SIZE - 1));
    ENV_ERROR_CODE(v->env) = PFEC_present | PFEC_write;
    ENV_EXCEPTION_IS_INT(v->env) = 0;
    p->deliver = true;
    CPU_EXCEPTION_INDEX(v->cs) = VECTOR_PF;
    NAME(cpu_loop_exit)(v->cs);
}

/* Whether a fault is a kernel's store to a page table that may be carried out. */
bool pv_open_window(struct vcpu *v, uint32_t error)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    uint64_t gva = ENV_CR(v->env, 2);
    if (!(p->domain->vm_assist & VMASST_writable_pagetables) || !pv_in_kernel(v) ||
        error & (PFEC_reserved | PFEC_insn) ||
        (error & (PFEC_present | PFEC_write)) != (PFEC_present | PFEC_write) ||
        !pv_address_fine(v, gva))
        return false;
    uint64_t *entry = pv_entry(v, pv_root(v), gva, false);
    if (!entry || *entry & PTE_RW)
        return false;
    uint64_t mfn = PTE_MFN(*entry);
    if (mfn >= m->frames || m->table[mfn].owner != p->domain->domid ||
        pv_type(m, mfn) != PGT_level(1) || !pv_count(m, mfn))
        return false;
    p->window = gva & ~(PAGE_SIZE - 1);
    p->window_mfn = mfn;
    return true;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Segment registers of PV guests, loaded from their own descriptor tables, and their LDTs, whose
 * pages are mapped when they are first looked into.
 *
 * Facts: xen/arch/x86/pv/descriptor-tables.c of Xen 4.17.
 */
#include "pv.h"
#include "qemu.h"

/* -- segments ---------------------------------------------------------------------------------------------- */

void pv_set_segment(void *env, int n, uint32_t selector, uint64_t base, uint32_t limit,
                        uint32_t flags)
{
    *ENV_SEG(env, n) = (struct segment){selector, 0, base, limit, flags};
}

bool pv_map_ldt_page(struct vcpu *v, uint64_t page)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    uint64_t kernel = p->domain->compat ? p->root : p->kernel_table;
    uint64_t gva = p->ldt_base + (page << PAGE_SHIFT);
    if (page * 512 >= p->ldt_entries || p->ldt_frames[page])
        return false;
    uint64_t *entry = pv_address_fine(v, gva) ? pv_entry(v, kernel, gva, false) : NULL;
    if (!entry || pv_get_page_and_type(p->domain, PTE_MFN(*entry), PGT_seg_desc_page))
        return false;
    p->ldt_frames[page] = PTE_MFN(*entry);
    uint64_t *slot = (uint64_t *)(m->base + p->descriptors) + LDT_PAGE + page;
    *slot = p->ldt_frames[page] << PAGE_SHIFT | PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX;
    return true;
}

void pv_drop_ldt(struct vcpu *v)
{
    struct pv_vcpu *p = v->pv;
    bool dropped = false;
    for (int i = 0; i < 16; i++)
        if (p->ldt_frames[i]) {
            ((uint64_t *)(v->space->memory->base + p->descriptors))[LDT_PAGE + i] = 0;
            uint64_t mfn = p->ldt_frames[i];
            p->ldt_frames[i] = 0;
            pv_put_page_and_type(p->domain, mfn);
            dropped = true;
        }
    if (dropped && v == xg_current)
        pv_flush(v);
    else if (dropped)
        p->flush = true;
}

/* The descriptor behind a selector. False: there is none. */
static bool descriptor_of(struct vcpu *v, uint32_t selector, uint64_t *descriptor)
{
    struct pv_vcpu *p = v->pv;
    uint64_t index = selector >> 3, page = index >> 9, mfn;
    if (selector & 4) {
        if (index >= p->ldt_entries || (!p->ldt_frames[page] && !pv_map_ldt_page(v, page)))
            return false;
        mfn = p->ldt_frames[page];
    } else if (index >= FIRST_RESERVED_GDT_ENTRY) {
        if (index >= FIRST_RESERVED_GDT_ENTRY + 32)
            return false;
        mfn = p->reserved_gdt;
    } else {
        if (index >= p->gdt_entries)
            return false;
        mfn = p->gdt_frames[page];
    }
    *descriptor = pv_table(v->space->memory, mfn)[index & 511];
    return true;
}

/*
 * Load a segment register as IRET or MOV would at the guest's privilege.  False: that faults.
 */
bool pv_load_segment(struct vcpu *v, int n, uint32_t selector)
{
    void *env = v->env;
    uint64_t raw;
    selector &= 0xffff;
    if (n == SEG_CS && selector == FLAT_KERNEL_CS64 && !v->pv->domain->compat) {
        pv_set_segment(env, n, selector, 0, 0xffffffff, DESC_CODE64);
        return true;
    }
    if (n == SEG_SS && selector == FLAT_KERNEL_SS) {
        pv_set_segment(env, n, selector, 0, 0xffffffff, DESC_DATA32);
        return true;
    }
    if (!(selector & ~3u)) {
        if (n == SEG_CS || (n == SEG_SS && !(ENV_SEG(env, SEG_CS)->flags & 1u << 21)))
            return false;
        /* In 64-bit mode a null stack segment is fine outside of ring 0's usual needs. */
        pv_set_segment(env, n, selector, 0, 0, n == SEG_SS ? (selector & 3) << 13 : 0);
        return true;
    }
    if (!descriptor_of(v, selector, &raw))
        return false;
    uint32_t low = (uint32_t)raw, high = (uint32_t)(raw >> 32);
    uint32_t dpl = high >> 13 & 3, rpl = selector & 3, kind = high >> 8 & 0x1f;
    bool code = kind & 8, present = high & 1u << 15;
    if (!(kind & 0x10) || !present)
        return false;
    if (n == SEG_CS) {
        if (!code || (kind & 4 ? dpl > rpl : dpl != rpl) ||
            ((high & 1u << 21) && (high & 1u << 22)))
            return false;
    } else if (n == SEG_SS) {
        if (code || !(kind & 2) || dpl != rpl || rpl != (ENV_SEG(env, SEG_CS)->selector & 3))
            return false;
    } else if ((code && !(kind & 2)) || (!(code && kind & 4) && dpl < rpl)) {
        return false;
    }
    uint32_t limit = (low & 0xffff) | (high & 0xf0000);
    if (high & 1u << 23)
        limit = limit << 12 | 0xfff;
    pv_set_segment(env, n, selector, (high & 0xff000000u) | (high & 0xff) << 16 | low >> 16, limit,
                (high & 0x00ffff00u) | 0x100);
    return true;
}

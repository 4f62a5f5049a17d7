/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Changes of page tables and descriptors that are in use: take what the new entry maps, write it,
 * drop what the old one mapped.
 *
 * Facts: mod_l1_entry() … mod_l4_entry(), do_mmu_update(), do_mmuext_op() in xen/arch/x86/mm.c,
 * do_update_descriptor() in xen/arch/x86/pv/descriptor-tables.c of Xen 4.17.
 */
#include "pv.h"

#include <string.h>

/* Flags that can change without another look at the page behind: an L1 entry may have them all. */
#define SAME_PAGE_FLAGS (PTE_NX | PTE_AVAIL_HIGH | PTE_AVAIL | PTE_G | PTE_D | PTE_A | PTE_US)

static void put_entry(struct pv_domain *d, uint64_t *pte, uint64_t table, uint64_t entry, int cmd)
{
    frame_written(d->memory, table);
    if (cmd == MMU_PT_UPDATE_PRESERVE_AD)
        entry |= *pte & (PTE_A | PTE_D);
    *pte = entry;
}

int pv_mod_l1(struct pv_domain *d, uint64_t *pte, uint64_t table, uint64_t entry, int cmd,
              uint32_t owner)
{
    uint64_t old = *pte;
    d->work++;
    if (entry & PTE_P) {
        entry = pv_adjust_l1e(d, entry);
        if (!((old ^ entry) & ~SAME_PAGE_FLAGS)) {
            put_entry(d, pte, table, entry, cmd);
            return 0;
        }
        int rc = pv_get_l1e(d, entry, owner);
        if (rc)
            return rc;
    }
    put_entry(d, pte, table, entry, cmd);
    pv_put_l1e(d, old);
    return 0;
}

static int mod_higher(struct pv_domain *d, uint64_t *pte, uint64_t table, int level,
                      uint64_t entry, int cmd)
{
    struct memory *m = d->memory;
    uint64_t old = *pte, slot = (uint64_t)(pte - pv_table(m, table));
    d->work += 4;
    if (level == 4 && (d->compat ? slot != 0
                                 : slot >= L4_FIRST_XEN_SLOT && slot <= L4_LAST_XEN_SLOT))
        return -PV_EINVAL;
    if (level == 3 && d->compat && slot >= 3)
        return -PV_EINVAL;
    if (level == 2 && m->table[table].types & PGT_pae_xen_l2 && slot >= COMPAT_L2_FIRST_XEN_SLOT)
        return -PV_EPERM;
    if (entry & PTE_P) {
        if (entry & pv_disallowed(d, level))
            return -PV_EINVAL;
        /* PTE_RW isn't harmless: it tells a linear table's mapping from another. */
        if (!((old ^ pv_adjust_lne(d, entry, level)) & ~SAME_PAGE_FLAGS)) {
            put_entry(d, pte, table, pv_adjust_lne(d, entry, level), cmd);
            return 0;
        }
        int rc = pv_get_lne(d, entry, level, table);
        if (rc)
            return rc;
        entry = pv_adjust_lne(d, entry, level);
    }
    put_entry(d, pte, table, entry, cmd);
    pv_put_lne(d, old, level, table);
    return 0;
}

static int machphys_update(struct pv_domain *d, uint64_t maddr, uint64_t gpfn, uint32_t owner)
{
    struct memory *m = d->memory;
    uint64_t mfn = maddr >> PAGE_SHIFT;
    if (!pv_get_page(m, mfn, owner))
        return -PV_EINVAL;
    memory_set_m2p(m, mfn, gpfn);
    pv_put_page(m, mfn);
    return 0;
}

/* One mmu_update on a table of d; `owner` is whose pages the entry maps. 0 or -errno. */
int pv_mmu_update(struct pv_domain *d, uint64_t ptr, uint64_t val, uint32_t owner)
{
    struct memory *m = d->memory;
    int cmd = ptr & 7, rc = -PV_EINVAL;
    uint64_t mfn = ptr >> PAGE_SHIFT;
    if (cmd == MMU_MACHPHYS_UPDATE)
        return machphys_update(d, ptr & ~7ull, val, owner);
    if (cmd > MMU_PT_UPDATE_NO_TRANSLATE)
        return -PV_ENOSYS;
    if (!pv_get_page(m, mfn, d->domid))
        return -PV_EINVAL;
    uint64_t *pte = (uint64_t *)(m->base + (ptr & ~7ull));
    uint32_t type = pv_type(m, mfn);
    if (pv_count(m, mfn) && type != PGT_writable_page) {
        int level = (int)(type >> 29);
        if (level == 1)
            rc = pv_mod_l1(d, pte, mfn, val, cmd, owner);
        else if (level <= 4 && owner == d->domid)
            rc = mod_higher(d, pte, mfn, level, val, cmd);
    } else if (pv_get_writable(m, mfn)) {
        frame_written(m, mfn);
        *pte = val;
        pv_put_writable(m, mfn);
        d->work++;
        rc = 0;
    }
    pv_put_page(m, mfn);
    return rc;
}

int pv_pin(struct pv_domain *d, uint64_t mfn, int level)
{
    struct memory *m = d->memory;
    int rc = pv_get_page_and_type(d, mfn, PGT_level(level));
    if (rc)
        return rc;
    if (m->table[mfn].types & PGT_pinned) {
        pv_put_page_and_type(d, mfn);
        return -PV_EINVAL;
    }
    m->table[mfn].types |= PGT_pinned;
    return 0;
}

int pv_unpin(struct pv_domain *d, uint64_t mfn)
{
    struct memory *m = d->memory;
    if (!pv_get_page(m, mfn, d->domid))
        return -PV_EINVAL;
    int rc = -PV_EINVAL;
    if (m->table[mfn].types & PGT_pinned) {
        m->table[mfn].types &= ~PGT_pinned;
        pv_put_page_and_type(d, mfn);
        rc = 0;
    }
    pv_put_page(m, mfn);
    return rc;
}

int pv_update_descriptor(struct pv_domain *d, uint64_t maddr, uint64_t descriptor)
{
    struct memory *m = d->memory;
    uint64_t mfn = maddr >> PAGE_SHIFT;
    if (maddr & 7 || !pv_check_descriptor(d, &descriptor) || !pv_get_page(m, mfn, d->domid))
        return -PV_EINVAL;
    int rc = -PV_EINVAL;
    bool segment = pv_count(m, mfn) && pv_type(m, mfn) == PGT_seg_desc_page;
    if (segment ? !pv_get_type(d, mfn, PGT_seg_desc_page) : pv_get_writable(m, mfn)) {
        frame_written(m, mfn);
        *(uint64_t *)(m->base + maddr) = descriptor;
        pv_put_type(d, mfn);
        rc = 0;
    }
    pv_put_page(m, mfn);
    return rc;
}

int pv_clear_page(struct pv_domain *d, uint64_t mfn)
{
    struct memory *m = d->memory;
    if (!pv_get_page(m, mfn, d->domid))
        return -PV_EINVAL;
    bool fine = pv_get_writable(m, mfn);
    if (fine) {
        frame_written(m, mfn);
        memset(pv_table(m, mfn), 0, PAGE_SIZE);
        pv_put_writable(m, mfn);
        d->work += 64;
    }
    pv_put_page(m, mfn);
    return fine ? 0 : -PV_EINVAL;
}

int pv_copy_page(struct pv_domain *d, uint64_t to, uint64_t from)
{
    struct memory *m = d->memory;
    if (!pv_get_page(m, from, d->domid))
        return -PV_EINVAL;
    int rc = -PV_EINVAL;
    if (pv_get_page(m, to, d->domid)) {
        if (pv_get_writable(m, to)) {
            frame_written(m, to);
            memmove(pv_table(m, to), pv_table(m, from), PAGE_SIZE);
            pv_put_writable(m, to);
            d->work += 64;
            rc = 0;
        }
        pv_put_page(m, to);
    }
    pv_put_page(m, from);
    return rc;
}

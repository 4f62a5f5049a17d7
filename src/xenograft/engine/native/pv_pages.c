/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a frame may be used as.  A frame has a type and a count of uses as that type; the type
 * can change while the count is zero alone.  A frame becomes a page table only when each of its
 * entries was checked, and holds a reference and a type for everything that its entries map.
 *
 * Facts: xen/arch/x86/mm.c of Xen 4.17 (get_page_type, promote_*_table, demote_*_table,
 * get_page_from_l1e, the rules for linear page tables), xen/arch/x86/pv/descriptor-tables.c.
 */
#include "pv.h"

#include <string.h>

/* -- references ------------------------------------------------------------------------------- */

static bool held(struct memory *m, uint64_t mfn)
{
    if (mfn < RESERVED_FRAMES || mfn >= m->frames)
        return false;
    struct frame *f = &m->table[mfn];
    return !(f->flags & FRAME_ZOMBIE) && f->refs && f->refs != UINT32_MAX;
}

bool pv_get_page(struct memory *m, uint64_t mfn, uint32_t owner)
{
    if (!held(m, mfn) || m->table[mfn].owner != owner)
        return false;
    m->table[mfn].refs++;
    return true;
}

/* The last reference isn't dropped here: accounts are kept elsewhere, so the frame waits there. */
void pv_put_page(struct memory *m, uint64_t mfn)
{
    struct frame *f = &m->table[mfn];
    if (likely(f->refs > 1)) {
        f->refs--;
        return;
    }
    f->flags |= FRAME_ZOMBIE;
    f->next_zombie = m->zombies;
    m->zombies = (uint32_t)mfn;
}

/* -- types -------------------------------------------------------------------------------------- */

static int validate(struct pv_domain *d, uint64_t mfn, uint32_t type);
static void devalidate(struct pv_domain *d, uint64_t mfn, uint32_t type);

static void last_use(struct memory *m, struct frame *f)
{
    f->stamp = m->tlb_clock;
}

bool pv_get_writable(struct memory *m, uint64_t mfn)
{
    struct frame *f = &m->table[mfn];
    uint32_t count = f->types & PGT_count_mask;
    if (count == PGT_count_mask || (count && (f->types & PGT_type_mask) != PGT_writable_page))
        return false;
    if (!count)
        f->types = PGT_writable_page | PGT_validated;
    f->types++;
    return true;
}

void pv_put_writable(struct memory *m, uint64_t mfn)
{
    struct frame *f = &m->table[mfn];
    if (!(--f->types & PGT_count_mask))
        last_use(m, f);
}

/* Take one more use of a frame as `type`; the caller holds a reference. 0 or -errno. */
int pv_get_type(struct pv_domain *d, uint64_t mfn, uint32_t type)
{
    struct memory *m = d->memory;
    struct frame *f = &m->table[mfn];
    uint32_t old = f->types;
    if ((old & PGT_count_mask) == PGT_count_mask)
        return -PV_EINVAL;
    if (old & PGT_count_mask) {
        if ((old & (PGT_type_mask | PGT_pae_xen_l2)) != type || !(old & PGT_validated))
            return -PV_EINVAL;
        f->types++;
        return 0;
    }
    if ((old & PGT_type_mask) == (type & PGT_type_mask) && old & PGT_validated &&
        !(type & PGT_pae_xen_l2)) {
        f->types++;
        return 0;
    }
    /* No TLB may let anybody write what becomes a table. */
    if ((old & PGT_type_mask) == PGT_writable_page && type != PGT_writable_page)
        pv_type_flush(d, f->stamp);
    f->types = type | 1;
    if (type == PGT_writable_page || type == PGT_shared_page) {
        f->types |= PGT_validated;
        return 0;
    }
    f->linear = 0;
    int rc = validate(d, mfn, type);
    if (rc)
        f->types = PGT_none;
    else
        f->types |= PGT_validated;
    return rc;
}

void pv_put_type(struct pv_domain *d, uint64_t mfn)
{
    struct frame *f = &d->memory->table[mfn];
    uint32_t type = f->types & PGT_type_mask;
    if ((f->types & PGT_count_mask) > 1) {
        f->types--;
        return;
    }
    if (type != PGT_none && type <= PGT_level(4) && f->types & PGT_validated) {
        /* While its entries go, the frame can't be taken as anything. */
        f->types &= ~PGT_validated;
        devalidate(d, mfn, f->types & (PGT_type_mask | PGT_pae_xen_l2));
        f->types = PGT_none;
    } else {
        f->types--;
    }
    last_use(d->memory, f);
}

int pv_get_page_and_type(struct pv_domain *d, uint64_t mfn, uint32_t type)
{
    if (!pv_get_page(d->memory, mfn, d->domid))
        return -PV_EINVAL;
    int rc = pv_get_type(d, mfn, type);
    if (rc)
        pv_put_page(d->memory, mfn);
    return rc;
}

void pv_put_page_and_type(struct pv_domain *d, uint64_t mfn)
{
    pv_put_type(d, mfn);
    pv_put_page(d->memory, mfn);
}

/* -- entries of L1 tables: data pages ------------------------------------------------------------- */

/* Flags that an entry may not have: cache attributes need a device, PSE is for tables of Xen. */
uint64_t pv_disallowed(struct pv_domain *d, int level)
{
    const uint64_t allowed = PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D | PTE_AVAIL | PTE_AVAIL_HIGH |
                             PTE_NX;
    if (level == 1)
        return PTE_FLAGS & ~(allowed | PTE_G);
    if (level == 3 && d->compat)
        return 0xfff0000000000198ull;
    return PTE_FLAGS & ~allowed;
}

/* Whether a mapping by d counts as a use that writes. */
static bool counts_as_write(struct pv_domain *d, uint64_t entry, uint32_t owner)
{
    return entry & PTE_RW && (owner == d->domid || !memory_external(d->memory, owner));
}

/* Take what a present L1 entry maps; `owner` is whose page it has to be. 0 or -errno. */
int pv_get_l1e(struct pv_domain *d, uint64_t entry, uint32_t owner)
{
    struct memory *m = d->memory;
    uint64_t mfn = PTE_MFN(entry);
    if (entry & pv_disallowed(d, 1))
        return -PV_EINVAL;
    if (mfn >= m->frames)
        return mfn == ((1ull << 40) - 1) ? -PV_EINVAL : -PV_EPERM;
    if (!pv_get_page(m, mfn, owner == DOMID_IO ? d->domid : owner))
        return -PV_EBUSY;
    if (counts_as_write(d, entry, owner) && !pv_get_writable(m, mfn)) {
        pv_put_page(m, mfn);
        return -PV_EBUSY;
    }
    return 0;
}

void pv_put_l1e(struct pv_domain *d, uint64_t entry)
{
    struct memory *m = d->memory;
    uint64_t mfn = PTE_MFN(entry);
    if (!(entry & PTE_P) || mfn >= m->frames)
        return;
    /* Whoever owns it flushes its own vCPUs before it becomes a table, and knows none of ours. */
    if (entry & PTE_RW && m->table[mfn].owner != d->domid)
        pv_type_flush(d, UINT32_MAX);
    if (counts_as_write(d, entry, m->table[mfn].owner))
        pv_put_writable(m, mfn);
    else if (pv_type(m, mfn) == PGT_seg_desc_page && pv_count(m, mfn) &&
             m->table[mfn].owner == d->domid && d->space && d->space->engine)
        /* It may be mapped as part of an LDT by that mapping. */
        for (struct vcpu *v = d->space->engine->vcpus; v; v = v->next)
            if (v->pv)
                pv_drop_ldt(v);
    pv_put_page(m, mfn);
}

/* A 64-bit guest's kernel and user pages are both the user's to the processor. */
uint64_t pv_adjust_l1e(struct pv_domain *d, uint64_t entry)
{
    if (!(entry & PTE_P) || d->compat)
        return entry;
    if (!(entry & PTE_US))
        entry |= PTE_GUEST_KERNEL | PTE_US;
    if (!(entry & PTE_GUEST_KERNEL))
        entry |= PTE_G | PTE_US;
    return entry;
}

/* -- entries of higher tables ----------------------------------------------------------------------- */

uint64_t pv_adjust_lne(struct pv_domain *d, uint64_t entry, int level)
{
    if (!(entry & PTE_P))
        return entry;
    if (!d->compat)
        entry |= PTE_US;
    else if (level == 3)
        entry |= PTE_US | PTE_RW;
    return level == 4 ? entry | PTE_A : entry;
}

/*
 * A table that maps a table of its own level, to see its entries in the address space.  Only
 * for reading; a table that is mapped so by another can't itself map others so.
 */
static bool get_linear(struct pv_domain *d, uint64_t entry, int level, uint64_t table)
{
    struct memory *m = d->memory;
    uint64_t mfn = PTE_MFN(entry);
    if (entry & PTE_RW)
        return false;
    if (mfn == table)
        return true;
    if (!pv_get_page(m, mfn, d->domid))
        return false;
    struct frame *target = &m->table[mfn], *source = &m->table[table];
    if ((target->types & (PGT_type_mask | PGT_validated)) != (PGT_level(level) | PGT_validated) ||
        !(target->types & PGT_count_mask) ||
        (target->types & PGT_count_mask) == PGT_count_mask || target->linear > 0 ||
        target->linear == INT16_MIN || source->linear < 0 || source->linear == INT16_MAX) {
        pv_put_page(m, mfn);
        return false;
    }
    source->linear++;
    target->linear--;
    target->types++;
    return true;
}

/* Take the table that a present entry of a level 2 to 4 table maps. 0 or -errno. */
int pv_get_lne(struct pv_domain *d, uint64_t entry, int level, uint64_t table)
{
    if (entry & pv_disallowed(d, level))
        return -PV_EINVAL;
    int rc = pv_get_page_and_type(d, PTE_MFN(entry), PGT_level(level - 1));
    if (rc == -PV_EINVAL && !(d->compat && level == 3) && get_linear(d, entry, level, table))
        rc = 0;
    return rc;
}

void pv_put_lne(struct pv_domain *d, uint64_t entry, int level, uint64_t table)
{
    struct memory *m = d->memory;
    uint64_t mfn = PTE_MFN(entry);
    if (!(entry & PTE_P) || mfn == table || mfn >= m->frames)
        return;
    if (pv_type(m, mfn) == PGT_level(level)) {
        m->table[table].linear--;
        m->table[mfn].linear++;
    }
    pv_put_page_and_type(d, mfn);
}

/* -- whole tables ------------------------------------------------------------------------------------ */

static bool guest_slot(struct pv_domain *d, uint32_t type, int i)
{
    if (type == PGT_level(4))
        return d->compat ? i == 0 : i < L4_FIRST_XEN_SLOT || i > L4_LAST_XEN_SLOT;
    if (type == (PGT_level(2) | PGT_pae_xen_l2))
        return i < COMPAT_L2_FIRST_XEN_SLOT;
    return true;
}

static int validate_l1(struct pv_domain *d, uint64_t mfn)
{
    uint64_t *table = pv_table(d->memory, mfn);
    int rc = 0, i;
    for (i = 0; i < 512; i++) {
        if (!(table[i] & PTE_P))
            continue;
        rc = pv_get_l1e(d, table[i], d->domid);
        if (rc)
            break;
        table[i] = pv_adjust_l1e(d, table[i]);
    }
    for (; rc && i > 0; i--)
        pv_put_l1e(d, table[i - 1]);
    return rc;
}

static void xen_l4_slots(struct pv_domain *d, uint64_t mfn)
{
    uint64_t *table = pv_table(d->memory, mfn);
    for (int i = L4_FIRST_XEN_SLOT; i <= L4_LAST_XEN_SLOT; i++)
        table[i] = 0;
    /* A guest that asked for strictness has it in each table; others when a kernel uses it. */
    table[L4_M2P_SLOT] = d->m2p_strict ? d->m2p_l4e : 0;
    table[L4_PERDOMAIN_SLOT] = d->perdomain_l4e;
}

/* The slot that holds Xen's mappings of a 32-bit guest: one table of level 2, in one place. */
static int get_compat_slot(struct pv_domain *d, uint64_t entry)
{
    struct memory *m = d->memory;
    if (!(entry & PTE_P) || entry & pv_disallowed(d, 3))
        return -PV_EINVAL;
    int rc = pv_get_page_and_type(d, PTE_MFN(entry), PGT_level(2) | PGT_pae_xen_l2);
    if (!rc && pv_count(m, PTE_MFN(entry)) != 1) {
        pv_put_page_and_type(d, PTE_MFN(entry));
        rc = -PV_EINVAL;
    }
    return rc;
}

static int validate(struct pv_domain *d, uint64_t mfn, uint32_t type)
{
    struct memory *m = d->memory;
    uint64_t *table = pv_table(m, mfn);
    int level = (int)(type >> 29), rc = 0, i;
    frame_written(m, mfn);
    d->work += 512;
    if (d->work > PV_WORK_MAX)
        return -PV_EBUSY;
    if (type == PGT_level(1))
        return validate_l1(d, mfn);
    if (type == PGT_seg_desc_page) {
        for (i = 0; i < 512; i++)
            if (!pv_check_descriptor(d, &table[i]))
                return -PV_EINVAL;
        return 0;
    }
    bool compat_l3 = d->compat && level == 3;
    if (compat_l3)
        memset(table + 4, 0, 508 * sizeof(*table));
    for (i = 0; i < (compat_l3 ? 4 : 512); i++) {
        if (!guest_slot(d, type, i))
            continue;
        if (compat_l3 && i == 3)
            rc = get_compat_slot(d, table[i]);
        else if (!(table[i] & PTE_P))
            continue;
        else
            rc = pv_get_lne(d, table[i], level, mfn);
        if (rc)
            break;
        table[i] = pv_adjust_lne(d, table[i], level);
    }
    if (rc) {
        while (i-- > 0)
            if (guest_slot(d, type, i)) {
                pv_put_lne(d, table[i], level, mfn);
                if (compat_l3)
                    table[i] &= ~(PTE_US | PTE_RW | PTE_A);
            }
        return rc;
    }
    if (level == 4)
        xen_l4_slots(d, mfn);
    if (type & PGT_pae_xen_l2)
        memcpy(table + COMPAT_L2_FIRST_XEN_SLOT, d->compat_l2, sizeof(d->compat_l2));
    return 0;
}

static void devalidate(struct pv_domain *d, uint64_t mfn, uint32_t type)
{
    uint64_t *table = pv_table(d->memory, mfn);
    int level = (int)(type >> 29);
    frame_written(d->memory, mfn);
    d->work += 512;
    for (int i = 0; i < 512; i++) {
        if (!(table[i] & PTE_P) || !guest_slot(d, type, i))
            continue;
        if (level == 1) {
            pv_put_l1e(d, table[i]);
        } else {
            pv_put_lne(d, table[i], level, mfn);
            if (d->compat && level == 3)
                table[i] &= ~(PTE_US | PTE_RW | PTE_A);
        }
    }
    /* Entries of ours must not become the guest's. */
    if (level == 4)
        memset(table + L4_FIRST_XEN_SLOT, 0,
               (L4_LAST_XEN_SLOT - L4_FIRST_XEN_SLOT + 1) * sizeof(*table));
    if (type & PGT_pae_xen_l2)
        memset(table + COMPAT_L2_FIRST_XEN_SLOT, 0, sizeof(d->compat_l2));
}

/* -- descriptors -------------------------------------------------------------------------------------- */

#define SEGMENT_P (1u << 15)
#define SEGMENT_S (1u << 12)
#define SEGMENT_TYPE (0xfu << 8)
#define SEGMENT_L (1u << 21)
#define SEGMENT_G (1u << 23)

static uint32_t least_privilege(struct pv_domain *d, uint32_t rpl)
{
    uint32_t least = d->compat ? 1 : 3;
    return rpl > least ? rpl : least;
}

static bool gate_selector_fine(struct pv_domain *d, uint32_t selector)
{
    return selector >> 3 < FIRST_RESERVED_GDT_ENTRY || selector & 4 ||
           selector == (d->compat ? FLAT_COMPAT_KERNEL_CS : FLAT_KERNEL_CS64);
}

/* Whether a guest may have a descriptor in its tables; it is mended where Xen mends it. */
bool pv_check_descriptor(struct pv_domain *d, uint64_t *descriptor)
{
    uint32_t a = (uint32_t)*descriptor, b = (uint32_t)(*descriptor >> 32);
    if (!(b & SEGMENT_P))
        return true;
    uint32_t asked = b >> 13 & 3, dpl = least_privilege(d, asked);
    b = (b & ~(3u << 13)) | dpl << 13;
    if (b & SEGMENT_S) {
        if (d->compat) {
            if (b & SEGMENT_L)
                return false;
            uint64_t base = (b & 0xff000000u) | (b & 0xff) << 16 | a >> 16;
            uint64_t limit = ((b & 0xf0000u) | (a & 0xffff)) + 1ull;
            if (b & SEGMENT_G)
                limit <<= 12;
            if (!base && limit > 0xf5800000ull) {
                a |= 0xffffu;
                b |= 0xf0000u;
            }
        }
    } else {
        if (!(b & SEGMENT_TYPE))
            return true;
        if ((b & SEGMENT_TYPE) != 0xc00u || !gate_selector_fine(d, a >> 16) ||
            b & (d->compat ? 0xe0u : 0xffu))
            return false;
        /* Gates fault, and are carried out by hand: their DPL waits in the selector. */
        b &= ~(3u << 13);
        a = (a & 0xffffu) | (((a >> 16) & ~3u) | dpl) << 16;
    }
    *descriptor = (uint64_t)b << 32 | a;
    return true;
}

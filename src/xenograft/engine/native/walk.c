/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where a guest's linear address leads, by the guest's own page tables: for who looks on, without
 * a trace; for a write of the hypervisor's, with their write permissions, and with accessed and
 * dirty bits as the processor sets them.  (Semantics: AMD64 Architecture Programmer's Manual,
 * volume 2, chapter 5; Xen's copies to a guest fail where the guest's kernel couldn't write
 * itself.)
 */
#include "pv.h"
#include "qemu.h"

#include <string.h>

#define PTE_PS PTE_PAT /* in tables above level 1 */
#define CR0_WP (1ull << 16)
#define CR0_PG (1ull << 31)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define ADDRESS 0x000ffffffffff000ull
#define EFER_NXE (1ull << 11)
#define PHYSICAL_BITS 40 /* that CPUID shows, and the engine has */
#define PDPTE_RESERVED 0x1e6ull

/* Bits of a present entry that have to be zero; `large`: it maps a page above level 1. */
static uint64_t reserved(struct vcpu *v, int level, bool wide, bool long_mode, bool top, bool large)
{
    if (!wide)
        return large ? 1ull << 21 : 0;
    uint64_t bits = ADDRESS & ~((1ull << PHYSICAL_BITS) - 1);
    if (top) /* of PAE */
        return bits | PTE_NX | PDPTE_RESERVED | 0x7ffull << 52;
    if (!(ENV_EFER(v->env) & EFER_NXE))
        bits |= PTE_NX;
    if (level == 4)
        bits |= PTE_PS;
    if (large)
        bits |= ((1ull << (PAGE_SHIFT + 9 * (level - 1))) - 1) & ~0x1fffull;
    return long_mode ? bits : bits | 0x7ffull << 52;
}

static uint64_t translate(struct vcpu *v, uint64_t gva, bool write)
{
    void *env = v->env;
    struct space *s = v->space;
    uint64_t cr4 = ENV_CR(env, 4), table = ENV_CR(env, 3);
    if (!(ENV_CR(env, 0) & CR0_PG))
        return gva;
    bool long_mode = ENV_HFLAGS(env) & HF_LMA, wide = long_mode || cr4 & CR4_PAE;
    unsigned size = wide ? 8 : 4, bits = wide ? 9 : 10;
    if (long_mode ? !canonical(gva) : gva >> 32)
        return ~0ull;
    table &= long_mode ? ADDRESS : wide ? 0xffffffe0ull : 0xfffff000ull;
    uint64_t at[4], mask = 0, page = ~0ull;
    bool writable = true, top = !long_mode && wide; /* four entries of PAE, without rights */
    int level = long_mode ? 4 : wide ? 3 : 2, depth = 0;
    for (; page == ~0ull; level--, top = false) {
        uint64_t pte = 0;
        unsigned shift = PAGE_SHIFT + bits * (unsigned)(level - 1);
        at[depth] = table + (gva >> shift & ((1ull << bits) - 1)) * size;
        uint8_t *from = space_host(s, at[depth], false);
        if (!from)
            return ~0ull;
        memcpy(&pte, from, size);
        if (!(pte & PTE_P))
            return ~0ull;
        bool large = pte & PTE_PS && !top && (level == 2 || level == 3) && (wide || cr4 & CR4_PSE);
        if (pte & reserved(v, level, wide, long_mode, top, large))
            return ~0ull;
        writable &= top || pte & PTE_RW;
        depth += !top;
        table = wide ? pte & ADDRESS : pte & 0xfffff000;
        mask = (1ull << shift) - 1;
        if (level == 1)
            page = table;
        else if (large)
            page = wide ? table & ~mask : (pte & 0xffc00000) | (pte >> 13 & 0xff) << 32;
    }
    if (write && !writable && ENV_CR(env, 0) & CR0_WP)
        return ~0ull;
    for (int i = 0; write && i < depth; i++) {
        uint32_t low, bits_set = (uint32_t)(i == depth - 1 ? PTE_A | PTE_D : PTE_A);
        uint8_t *entry = space_host(s, at[i], false);
        memcpy(&low, entry, sizeof(low));
        if ((low & bits_set) != bits_set && (entry = space_host(s, at[i], true))) {
            low |= bits_set;
            memcpy(entry, &low, sizeof(low));
        }
    }
    return page | (gva & mask);
}

uint64_t vcpu_translate(struct vcpu *v, uint64_t gva)
{
    return v->pv ? pv_walk(v, gva, false) : translate(v, gva, false);
}

uint64_t vcpu_translate_write(struct vcpu *v, uint64_t gva)
{
    return translate(v, gva, true);
}

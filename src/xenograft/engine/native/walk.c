/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where a write of the hypervisor's to a guest's linear address goes, by the guest's own page
 * tables: with their write permissions, and with accessed and dirty bits as the processor sets
 * them.  (Semantics: AMD64 Architecture Programmer's Manual, volume 2, chapter 5; Xen's copies
 * to a guest fail where the guest's kernel couldn't write itself.)
 */
#include "core.h"
#include "qemu.h"

#include <string.h>

#define CR0_WP (1ull << 16)
#define CR0_PG (1ull << 31)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define ADDRESS 0x000ffffffffff000ull

uint64_t vcpu_translate_write(struct vcpu *v, uint64_t gva)
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
        writable &= top || pte & PTE_W;
        depth += !top;
        table = wide ? pte & ADDRESS : pte & 0xfffff000;
        mask = (1ull << shift) - 1;
        if (level == 1)
            page = table;
        else if (pte & PTE_PS && !top && level <= 3 && (wide || cr4 & CR4_PSE))
            page = wide ? table & ~mask : (pte & 0xffc00000) | (pte >> 13 & 0xff) << 32;
    }
    if (!writable && ENV_CR(env, 0) & CR0_WP)
        return ~0ull;
    for (int i = 0; i < depth; i++) {
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

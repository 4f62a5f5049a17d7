/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A PV guest's page tables and frames. */
#include "pv.h"

ulong mfn_of(const void *page)
{
    return ((const ulong *)pv_start_info->mfn_list)[(ulong)page >> PAGE_SHIFT];
}

ulong pfn_of(ulong mfn)
{
    return ((const ulong *)HYPERVISOR_VIRT_START)[mfn];
}

pte_t *pv_table_of(ulong va, unsigned level)
{
    pte_t *table = (pte_t *)pv_start_info->pt_base;

    for (unsigned at = PAGING_LEVELS; at > level; at--) {
        pte_t entry = table[va >> (12 + 9 * (at - 1)) & 511];

        if (!(entry & PTE_P))
            panic("no table of level %u over %lx", at - 1, va);
        table = (pte_t *)(pfn_of(MFN(entry)) << PAGE_SHIFT);
    }
    return table;
}

ulong pv_entry_at(ulong va, unsigned level)
{
    ulong slot = va >> (12 + 9 * (level - 1)) & 511;

    return mfn_of(pv_table_of(va, level)) << PAGE_SHIFT | slot * 8;
}

pte_t pv_entry_of(ulong va, unsigned level)
{
    return *(volatile pte_t *)&pv_table_of(va, level)[va >> (12 + 9 * (level - 1)) & 511];
}

long mmu_update_for(u64 ptr, u64 val, u32 domid)
{
    struct mmu_update update = { ptr, val };

    return hypercall(HYPERVISOR_mmu_update, (ulong)&update, 1, 0, domid, 0);
}

long mmuext_for(u32 cmd, u64 arg1, u64 arg2, u32 domid)
{
    struct mmuext_op op = { cmd, (ulong)arg1, (ulong)arg2 };

    return hypercall(HYPERVISOR_mmuext_op, (ulong)&op, 1, 0, domid, 0);
}

long update_va(const void *va, pte_t entry)
{
#if BITS == 64
    return hypercall(HYPERVISOR_update_va_mapping, (ulong)va, entry, UVMF_INVLPG, 0, 0);
#else
    return hypercall(HYPERVISOR_update_va_mapping, (ulong)va, (ulong)entry, (ulong)(entry >> 32),
                     UVMF_INVLPG, 0);
#endif
}

long pv_protect(void *page, bool writable)
{
    return update_va(page, ENTRY(mfn_of(page), PTE_P | PTE_A | (writable ? PTE_W : 0)));
}

#if BITS == 64
bool pv_store(volatile u64 *at, u64 value)
{
    u32 before = trap.count;

    asm volatile(MAY_TRAP("mov %1, %0") : "=m"(*at) : "r"(value) : "memory");
    return trap.count == before;
}

bool pv_load(const volatile u64 *at, u64 *value)
{
    u32 before = trap.count;

    asm volatile(MAY_TRAP("mov %1, %0") : "+r"(*value) : "m"(*at) : "memory");
    return trap.count == before;
}
#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A page heap, and small pages in the window of layout.h, in every paging mode. */
#include "guest.h"

#define HEAP_PAGES 512
static u8 heap[HEAP_PAGES][4096] PAGE_ALIGNED;
static unsigned heap_used;

void *alloc_pages(unsigned count)
{
    void *pages = heap[heap_used];

    if (heap_used + count > HEAP_PAGES)
        panic("the page heap is empty");
    heap_used += count;
    return memset(pages, 0, count * PAGE_SIZE);
}

void *alloc_page(void)
{
    return alloc_pages(1);
}

#if PAGING_LEVELS
extern pte_t page_root[];

#if PAGING_LEVELS >= 3
extern pte_t page_l2[]; /* 2048 entries of 2 MiB: the low 4 GiB */

pte_t *large_entry(ulong va)
{
    return &page_l2[va >> 21];
}
#define TABLE_INDEX(va) (((va) >> 12) & 511)
#else
pte_t *large_entry(ulong va)
{
    return &page_root[va >> 22];
}
#define TABLE_INDEX(va) (((va) >> 12) & 1023)
#endif

void reload_cr3(void)
{
    write_cr3(read_cr3());
}

pte_t *window_pte(ulong va)
{
    pte_t *entry = large_entry(va);

    if (va < WINDOW_BASE || va >= WINDOW_END)
        panic("%lx is outside the window", va);
    if (!(*entry & PTE_P) || (*entry & PTE_PS)) {
        *entry = (pte_t)(ulong)alloc_page() | PTE_P | PTE_W | PTE_U;
        reload_cr3();
    }
    return (pte_t *)(ulong)(*entry & PTE_ADDRESS) + TABLE_INDEX(va);
}

void map_page(ulong va, ulong pa, u64 flags)
{
    *window_pte(va) = (pte_t)(pa & ~(PAGE_SIZE - 1)) | (pte_t)flags;
    invlpg(va);
}
#endif

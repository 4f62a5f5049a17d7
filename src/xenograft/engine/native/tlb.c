/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the engine's TLB and its search for the next block cost: both are where a guest kernel
 * spends its time, and the engine's own ways are made for every architecture.
 */
#include "core.h"
#include "qemu.h"

#include <stdlib.h>
#include <string.h>

#define CR0_PG (1ull << 31)
#define CR4_PGE (1ull << 7)
#define PTE_GLOBAL (1ull << 8)
/* bits of EFLAGS that the engine tells blocks apart by: TF, IOPL, RF, VM, AC */
#define EFLAGS_BLOCK 0x73100u

/* -- which block is next ----------------------------------------------------------------------- */

/*
 * Indirect jumps look here first.  Unlike the engine's own cache, which holds pointers to blocks'
 * records, an entry has all that has to be compared: no further line of memory is touched.
 */
struct jump {
    uint64_t pc, cs_base, tag; /* the vCPU's epoch in the upper half, the block's flags below */
    void *code;
};

#define EPOCH (1ull << 32)
#define NO_TAG (~0ull)

/*
 * A page's blocks lie together, in one of 64 groups.  Functions begin at multiples of 16: bits 8
 * to 11 make up for it.
 */
static uint32_t slot_of(uint64_t pc)
{
    uint64_t page = pc >> PAGE_SHIFT, within = pc ^ (pc >> 8 & 15);
    return (uint32_t)(((page ^ page >> 6) & 63) * JUMPS_PAGE + within % JUMPS_PAGE);
}

/* The same in the engine's own cache. */
static uint32_t engine_slot_of(uint64_t pc)
{
    uint64_t mixed = pc ^ pc >> 6;
    return (uint32_t)((mixed >> 6 & 0xfc0) | (mixed & 0x3f));
}

bool jumps_open(struct vcpu *v)
{
    v->jumps = calloc(JUMPS, sizeof(*v->jumps));
    v->epoch = EPOCH;
    return v->jumps;
}

void jumps_forget(struct vcpu *v)
{
    v->epoch += EPOCH;
    if (unlikely(v->epoch == NO_TAG - (EPOCH - 1))) {
        memset(v->jumps, 0, JUMPS * sizeof(*v->jumps));
        v->epoch = EPOCH;
    }
}

static void jumps_forget_page(struct vcpu *v, uint64_t vaddr)
{
    for (int before = 0; before < 2; before++) {
        struct jump *page = &v->jumps[slot_of((vaddr & ~(PAGE_SIZE - 1)) - before * PAGE_SIZE)];
        for (unsigned i = 0; i < JUMPS_PAGE; i++)
            page[i].tag = NO_TAG;
    }
}

/* Apart, so that what finds its jump saves no registers. */
static __attribute__((noinline)) void *look_further(struct vcpu *v, void *env, struct jump *jump,
                                                    uint64_t pc, uint64_t base, uint32_t flags)
{
    void *code = NAME(real_helper_lookup_tb_ptr)(env);
    void *tb = ((void **)CPU_TB_JMP_CACHE(v->cs))[engine_slot_of(pc)];
    /* Without a block the engine gives the way back to its loop. */
    if (tb && TB_CODE(tb) == code && TB_PC(tb) == pc)
        *jump = (struct jump){pc, base, v->epoch | flags, code};
    return code;
}

void *NAME(helper_lookup_tb_ptr)(void *env);
void *NAME(helper_lookup_tb_ptr)(void *env)
{
    struct vcpu *v = ENV_VCPU(env);
    uint64_t base = ENV_SEG(env, SEG_CS)->base, pc = ENV_EIP(env) + base;
    uint32_t flags = ENV_HFLAGS(env) | (ENV_EFLAGS(env) & EFLAGS_BLOCK);
    struct jump *jump = &v->jumps[slot_of(pc)];
    if (likely(jump->pc == pc && jump->tag == (v->epoch | flags) && jump->cs_base == base))
        return jump->code;
    return look_further(v, env, jump, pc, base, flags);
}

/* A block goes out of use. */
bool qht_remove(void *table, const void *tb, uint32_t hash);
bool qht_remove(void *table, const void *tb, uint32_t hash)
{
    for (struct vcpu *v = xg_current ? xg_current->engine->vcpus : NULL; v; v = v->next) {
        struct jump *jump = &v->jumps[slot_of(TB_PC(tb))];
        if (jump->code == TB_CODE(tb))
            jump->tag = NO_TAG;
    }
    return real_qht_remove(table, tb, hash);
}

/* -- flushes -------------------------------------------------------------------------------------- */

/* All flushes come through these two. */
void NAME(tlb_flush_by_mmuidx)(void *cs, uint16_t modes);
void NAME(tlb_flush_by_mmuidx)(void *cs, uint16_t modes)
{
    if (CPU_VCPU(cs))
        jumps_forget(CPU_VCPU(cs));
    NAME(real_tlb_flush_by_mmuidx)(cs, modes);
}

void NAME(tlb_flush_page_by_mmuidx)(void *cs, uint64_t vaddr, uint16_t modes);
void NAME(tlb_flush_page_by_mmuidx)(void *cs, uint64_t vaddr, uint16_t modes)
{
    if (CPU_VCPU(cs))
        jumps_forget_page(CPU_VCPU(cs), vaddr);
    NAME(real_tlb_flush_page_by_mmuidx)(cs, vaddr, modes);
}

void tlb_filled(struct vcpu *v, uint64_t vaddr)
{
    if (v->leaf & PTE_GLOBAL && ENV_CR(v->env, 4) & CR4_PGE)
        return;
    if (v->locals && v->locals <= LOCALS && v->local[v->locals - 1] == vaddr)
        return;
    if (v->locals < LOCALS)
        v->local[v->locals++] = vaddr;
    else
        v->locals = LOCALS + 1;
}

static bool within_large(void *cs, uint64_t vaddr)
{
    for (int mode = 0; mode < MMU_MODES; mode++)
        if ((vaddr & CPU_TLB_LARGE_MASK(cs, mode)) == CPU_TLB_LARGE_ADDRESS(cs, mode))
            return true;
    return false;
}

/*
 * Global translations outlive a new CR3, so that the kernel's stay; where few others were made
 * since the last time they are taken out one by one.  The engine would begin with an empty TLB.
 */
void NAME(cpu_x86_update_cr3)(void *env, uint64_t cr3);
void NAME(cpu_x86_update_cr3)(void *env, uint64_t cr3)
{
    struct vcpu *v = ENV_VCPU(env);
    void *cs = (char *)env - CPU_TO_ENV;
    ENV_CR(env, 3) = cr3;
    if (!(ENV_CR(env, 0) & CR0_PG))
        return;
    bool few = v && ENV_CR(env, 4) & CR4_PGE && v->locals <= LOCALS;
    for (uint32_t i = 0; few && i < v->locals; i++)
        few = !within_large(cs, v->local[i]);
    if (few)
        for (uint32_t i = 0; i < v->locals; i++)
            NAME(tlb_flush_page)(cs, v->local[i]);
    else
        NAME(tlb_flush)(cs);
    if (v)
        v->locals = 0;
}

/* -- fills ----------------------------------------------------------------------------------------- */

/* The engine looks its map up for each fill, though it has two regions that never change. */
void *NAME(address_space_translate_for_iotlb)(void *cs, int index, uint64_t address,
                                              uint64_t *offset, uint64_t *length,
                                              memory_attributes attrs, int *prot);
void *NAME(address_space_translate_for_iotlb)(void *cs, int index, uint64_t address,
                                              uint64_t *offset, uint64_t *length,
                                              memory_attributes attrs, int *prot)
{
    struct engine *e = xg_current->engine;
    bool memory = address < e->memory->frames << PAGE_SHIFT;
    if (likely(memory && e->memory_section)) {
        *offset = address;
        return e->memory_section;
    }
    void *section = NAME(real_address_space_translate_for_iotlb)(cs, index, address, offset, length,
                                                                 attrs, prot);
    if (memory && *offset == address)
        e->memory_section = section;
    return section;
}

/* The TLB's size follows its use over time, and time is the guest's: runs are repeatable. */
int xg_engine_gettimeofday(void *tv, void *zone);
int xg_engine_gettimeofday(void *tv, void *zone)
{
    (void)zone;
    struct engine *e = xg_current ? xg_current->engine : NULL;
    uint64_t now = e && e->running ? engine_count(e) : 0;
    uint64_t parts[2] = {now / 1000000000, now % 1000000000 / 1000};
    memcpy(tv, parts, sizeof(parts));
    return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The second stage inside the engine: its page walker and TLB see guest-physical addresses, and
 * these replacements turn them into machine addresses; and the tracking of translated code.
 */
#include "pv.h"
#include "qemu.h"

#include <stddef.h>
#include <string.h>

#define SLOW_STORES 32 /* stores to a code page before its translations are given up */

/* -- the page walker's loads and stores ------------------------------------------------------ */

uint64_t NAME(x86_ldq_phys)(void *cs, uint64_t gpa);
uint64_t NAME(x86_ldq_phys)(void *cs, uint64_t gpa)
{
    (void)cs;
    uint64_t value = 0;
    uint8_t *from = space_host(xg_current->space, gpa, false);
    if (from)
        memcpy(&value, from, sizeof(value));
    xg_current->leaf = value;
    return value;
}

uint32_t NAME(x86_ldl_phys)(void *cs, uint64_t gpa);
uint32_t NAME(x86_ldl_phys)(void *cs, uint64_t gpa)
{
    (void)cs;
    uint32_t value = 0;
    uint8_t *from = space_host(xg_current->space, gpa, false);
    if (from)
        memcpy(&value, from, sizeof(value));
    xg_current->leaf = value;
    return value;
}

/* Accessed and dirty bits. */
void NAME(x86_stl_phys_notdirty)(void *cs, uint64_t gpa, uint32_t value);
void NAME(x86_stl_phys_notdirty)(void *cs, uint64_t gpa, uint32_t value)
{
    (void)cs;
    uint8_t *to = space_host(xg_current->space, gpa, true);
    if (to)
        memcpy(to, &value, sizeof(value));
}

/* -- TLB fills --------------------------------------------------------------------------------- */

bool NAME(x86_cpu_tlb_fill)(void *cs, uint64_t addr, int size, int access, int mmu_idx, bool probe,
                            uintptr_t retaddr);
bool NAME(x86_cpu_tlb_fill)(void *cs, uint64_t addr, int size, int access, int mmu_idx, bool probe,
                            uintptr_t retaddr)
{
    xg_current->leaf = 0;
    if (unlikely(xg_current->pv) && pv_fill_window(xg_current, addr, access, mmu_idx))
        return true;
    xg_current->fill_access = access;
    xg_current->fill_retaddr = retaddr;
    return NAME(real_x86_cpu_tlb_fill)(cs, addr, size, access, mmu_idx, probe, retaddr);
}

static _Noreturn void violation(struct vcpu *v, uint64_t gpa, uint64_t gva)
{
    v->args[0] = gpa;
    v->args[1] = (uint64_t)v->fill_access;
    v->args[2] = gva;
    vcpu_leave(v, EXIT_STAGE2, v->fill_retaddr);
}

void NAME(tlb_set_page_with_attrs)(void *cs, uint64_t vaddr, uint64_t gpa, memory_attributes attrs,
                                   int prot, int mmu_idx, uint64_t size);
void NAME(tlb_set_page_with_attrs)(void *cs, uint64_t vaddr, uint64_t gpa, memory_attributes attrs,
                                   int prot, int mmu_idx, uint64_t size)
{
    struct vcpu *v = xg_current;
    struct space *s = v->space;
    uint64_t *entry = space_entry(s, gpa >> PAGE_SHIFT, false), paddr;
    if (!entry || !(*entry & P2M_PRESENT)) {
        if (v->fill_access == ACCESS_FETCH || gpa >> (GFN_BITS + PAGE_SHIFT))
            violation(v, gpa, vaddr);
        s->holes_filled = true;
        prot &= ~PAGE_EXEC;
        paddr = HOLE_BASE + gpa;
    } else {
        if (*entry & P2M_COW) {
            if (v->fill_access == ACCESS_STORE && *entry & P2M_WRITE) {
                uint64_t old = s->generation;
                if (!space_unshare(s, entry))
                    violation(v, gpa, vaddr);
                /* Other addresses of this vCPU may still show the shared frame. */
                if (s->generation != old) {
                    if (v->seen_generation == old)
                        v->seen_generation = s->generation;
                    NAME(tlb_flush)(cs);
                }
            } else {
                prot &= ~PAGE_WRITE;
            }
        }
        if (!(*entry & P2M_WRITE)) {
            if (v->fill_access == ACCESS_STORE)
                violation(v, gpa, vaddr);
            prot &= ~PAGE_WRITE;
        }
        if (!(*entry & P2M_EXEC) && v->fill_access == ACCESS_FETCH)
            violation(v, gpa, vaddr);
        /* A TLB entry that may be executed takes the slow path on every store. */
        if (v->fill_access != ACCESS_FETCH)
            prot &= ~PAGE_EXEC;
        *entry |= P2M_FILLED;
        paddr = *entry & ~(PAGE_SIZE - 1);
    }
    tlb_filled(v, vaddr);
    NAME(real_tlb_set_page_with_attrs)(cs, vaddr, paddr, attrs, prot, mmu_idx, size);
}

/* -- holes: memory-mapped I/O ---------------------------------------------------------------------- */

bool vcpu_access(struct vcpu *v, int reason, const uint64_t args[3], uint64_t values[4],
                 uintptr_t retaddr);

int NAME(memory_region_dispatch_read)(void *uc, void *mr, uint64_t offset, uint64_t *value, int op,
                                      memory_attributes attrs);
int NAME(memory_region_dispatch_read)(void *uc, void *mr, uint64_t offset, uint64_t *value, int op,
                                      memory_attributes attrs)
{
    (void)uc, (void)mr, (void)attrs;
    struct vcpu *v = xg_current;
    if (v->pv) {
        *value = pv_window_read(v, offset, 1u << (op & 3));
        return 0;
    }
    uint64_t values[4], args[3] = {offset, 1ull << (op & 3), 0};
    vcpu_access(v, EXIT_MMIO_READ, args, values, CPU_MEM_IO_PC(v->cs));
    *value = values[0];
    return 0;
}

int NAME(memory_region_dispatch_write)(void *uc, void *mr, uint64_t offset, uint64_t value, int op,
                                       memory_attributes attrs);
int NAME(memory_region_dispatch_write)(void *uc, void *mr, uint64_t offset, uint64_t value, int op,
                                       memory_attributes attrs)
{
    (void)uc, (void)mr, (void)attrs;
    struct vcpu *v = xg_current;
    unsigned bits = 8u << (op & 3);
    if (v->pv) {
        pv_window_write(v, offset, value, bits / 8);
        return 0;
    }
    uint64_t values[4];
    uint64_t args[3] = {offset, bits / 8, bits == 64 ? value : value & ((1ull << bits) - 1)};
    vcpu_access(v, EXIT_MMIO_WRITE, args, values, CPU_MEM_IO_PC(v->cs));
    return 0;
}

/* -- translated code ---------------------------------------------------------------------------- */

void *NAME(tb_gen_code)(void *cs, uint64_t pc, uint64_t cs_base, uint32_t flags, int cflags);
void *NAME(tb_gen_code)(void *cs, uint64_t pc, uint64_t cs_base, uint32_t flags, int cflags)
{
    void *tb = NAME(real_tb_gen_code)(cs, pc, cs_base, flags, cflags);
    for (int i = 0; i < 2; i++)
        if (TB_PAGE_ADDR(tb, i) != ~0ull)
            engine_mark_code(xg_current->engine, TB_PAGE_ADDR(tb, i) >> PAGE_SHIFT);
    return tb;
}

/* The engine would look through the whole TLB for each block; engine_mark_code does once a page. */
void NAME(tlb_reset_dirty_by_vaddr)(void *cs, uint64_t start, uint64_t length);
void NAME(tlb_reset_dirty_by_vaddr)(void *cs, uint64_t start, uint64_t length)
{
    (void)cs, (void)start, (void)length;
}

void NAME(tb_flush)(void *cs)
{
    NAME(real_tb_flush)(cs);
    if (!xg_current) /* the engine is being closed */
        return;
    struct engine *e = xg_current->engine;
    /* The engine cleared the jump cache of one CPU; the others' point into freed blocks. */
    for (struct vcpu *v = e->vcpus; v; v = v->next) {
        memset(CPU_TB_JMP_CACHE(v->cs), 0, TB_JMP_CACHE_BYTES);
        jumps_forget(v);
    }
}

/* The first store to a page after each fill, and all stores to pages with code, come here. */
void NAME(tb_invalidate_phys_page_fast)(void *uc, void *pages, uint64_t start, int length,
                                        uintptr_t retaddr);
void NAME(tb_invalidate_phys_page_fast)(void *uc, void *pages, uint64_t start, int length,
                                        uintptr_t retaddr)
{
    struct engine *e = xg_current->engine;
    struct memory *m = e->memory;
    uint64_t mfn = start >> PAGE_SHIFT;
    struct frame *f = &m->table[mfn];
    e->slow_store_mfn = mfn;
    if (m->log_dirty)
        f->flags |= FRAME_DIRTY;
    if (likely(!(f->flags & FRAME_CODE)))
        return;
    if (f->refs > 1) {
        pthread_mutex_lock(&m->lock);
        for (struct engine *other = m->engines; other; other = other->next)
            if (other != e)
                engine_queue(other, mfn);
        pthread_mutex_unlock(&m->lock);
    }
    if (e->code[mfn / 8] & 1u << mfn % 8) {
        /* May leave through the CPU loop when the running block changes itself. */
        NAME(real_tb_invalidate_phys_page_fast)(uc, pages, start, length, retaddr);
        if (++f->writes < SLOW_STORES)
            return;
        NAME(tb_invalidate_phys_page_range)(uc, start & ~(PAGE_SIZE - 1),
                                            (start & ~(PAGE_SIZE - 1)) + PAGE_SIZE);
        e->code[mfn / 8] &= (uint8_t)~(1u << mfn % 8);
    }
    f->flags &= ~FRAME_CODE;
}

void NAME(tlb_set_dirty)(void *cs, uint64_t vaddr);
void NAME(tlb_set_dirty)(void *cs, uint64_t vaddr)
{
    struct engine *e = xg_current->engine;
    if (!(e->memory->table[e->slow_store_mfn].flags & FRAME_CODE))
        NAME(real_tlb_set_dirty)(cs, vaddr);
}

/* -- counting instructions at block starts --------------------------------------------------------- */

uint64_t engine_count(struct engine *e)
{
    return e->limit - (uint64_t)ENV_LEFT(e->current->env);
}

void engine_set_limit(struct engine *e, uint64_t limit)
{
    uint64_t count = engine_count(e);
    e->limit = limit;
    ENV_LEFT(e->current->env) = (int64_t)(limit - count);
}

/* The translator's name for the CPU's state: the base of its global variables. */
static void *env_handle;

void *NAME(tcg_global_mem_new_internal)(void *ctx, int type, void *base, intptr_t offset,
                                        const char *name);
void *NAME(tcg_global_mem_new_internal)(void *ctx, int type, void *base, intptr_t offset,
                                        const char *name)
{
    env_handle = base;
    return NAME(real_tcg_global_mem_new_internal)(ctx, type, base, offset, name);
}

/* A temporary's handle is its distance from the context. */
static void *temporary(void *ctx, void *handle)
{
    return (char *)ctx + (uintptr_t)handle;
}

static void *handle_of(void *ctx, void *temp)
{
    return (void *)((char *)temp - (char *)ctx);
}

static void *constant(void *ctx, int64_t value)
{
    return temporary(ctx, NAME(tcg_const_i64)(ctx, value));
}

static void set_label(void *ctx, void *label)
{
    LABEL_STATE(label) |= LABEL_PRESENT;
    NAME(tcg_gen_op1)(ctx, OP_SET_LABEL, (uint64_t)label);
}

/*
 * Each block starts with: before = left; left -= icount; if (before <= 0) goto slow; on:
 * and ends, out of the way, with: slow: call the helper; goto on.
 * The engine would call the helper each time.
 */
#define SINGLE_BLOCK (1 << 16)

static void count_block(struct engine *e, void *ctx)
{
    void *before = NAME(tcg_temp_new_internal)(ctx, TYPE_I64, false);
    void *after = NAME(tcg_temp_new_internal)(ctx, TYPE_I64, false);
    void *icount = NAME(tcg_temp_new_internal)(ctx, TYPE_I64, false);
    uint64_t env = (uint64_t)temporary(ctx, env_handle);
    NAME(tcg_gen_op3)(ctx, OP_LD_I64, (uint64_t)before, env, (uint64_t)LEFT_OFFSET);
    e->icount_op = NAME(tcg_emit_op)(ctx, OP_MOVI_I64);
    OP_ARG(e->icount_op, 0) = (uint64_t)icount;
    OP_ARG(e->icount_op, 1) = 0; /* known when the block is translated */
    NAME(tcg_gen_op3)(ctx, OP_ADD_I64, (uint64_t)after, (uint64_t)before, (uint64_t)icount);
    NAME(tcg_gen_op3)(ctx, OP_ST_I64, (uint64_t)after, env, (uint64_t)LEFT_OFFSET);
    void *bound = NAME(tcg_temp_new_internal)(ctx, TYPE_I64, false);
    e->bound_op = NAME(tcg_emit_op)(ctx, OP_MOVI_I64);
    OP_ARG(e->bound_op, 0) = (uint64_t)bound;
    OP_ARG(e->bound_op, 1) = 0;
    e->slow_label = NAME(gen_new_label)(ctx);
    NAME(tcg_gen_brcond_i64)(ctx, COND_LE, handle_of(ctx, before), handle_of(ctx, bound),
                             e->slow_label);
    e->on_label = NAME(gen_new_label)(ctx);
    set_label(ctx, e->on_label);
}

static void finish_block(struct engine *e, void *tb, void *ctx)
{
    OP_ARG(e->icount_op, 1) = (uint64_t)-(int64_t)TB_ICOUNT(tb);
    uint32_t string = e->single_block ? 0 : string_of(xg_current, tb);
    if (string) /* takes the way out each time */
        OP_ARG(e->bound_op, 1) = INT64_MAX;
    set_label(ctx, e->slow_label);
    int32_t kind = e->single_block ? SINGLE_BLOCK : (int32_t)string;
    void *args[] = {constant(ctx, (int64_t)(uintptr_t)tb),
                    temporary(ctx, NAME(tcg_const_i32)(ctx, kind))};
    NAME(real_tcg_gen_callN)(ctx, e->check, NULL, 2, args);
    LABEL_STATE(e->on_label) += LABEL_REFERENCE;
    NAME(tcg_gen_op1)(ctx, OP_BR, (uint64_t)e->on_label);
}

void NAME(helper_check_exit_request)(void *tb, uint32_t kind);

void NAME(tcg_gen_callN)(void *ctx, void *func, void *ret, int nargs, void **args);
void NAME(tcg_gen_callN)(void *ctx, void *func, void *ret, int nargs, void **args)
{
    struct engine *e = xg_current->engine;
    if (func == (void *)NAME(helper_check_exit_request) && e->patch_block) {
        e->patch_block = false;
        e->check = func;
        e->context = ctx;
        count_block(e, ctx);
        return;
    }
    NAME(real_tcg_gen_callN)(ctx, func, ret, nargs, args);
}

void NAME(translator_loop)(const void *ops, void *db, void *cs, void *tb, int max_insns);
void NAME(translator_loop)(const void *ops, void *db, void *cs, void *tb, int max_insns)
{
    struct engine *e = xg_current->engine;
    e->single_block = (TB_CFLAGS(tb) & CF_COUNT_MASK) != 0;
    e->patch_block = true;
    NAME(real_translator_loop)(ops, db, cs, tb, max_insns);
    if (!e->patch_block)
        finish_block(e, tb, e->context);
    e->patch_block = false;
}

/* Loads and stores aren't places to stop: an instruction would run twice. */
void NAME(check_exit_request)(void *tcg_ctx);
void NAME(check_exit_request)(void *tcg_ctx)
{
    (void)tcg_ctx;
}

#define CLOCK_CHUNK 20000 /* instructions between looks at the clock */

/* A block is about to start, and the count has reached the limit. */
static void look_up(struct vcpu *v, void *tb)
{
    struct engine *e = v->engine;
    /* As if the block had not been counted yet, and where it begins. */
    ENV_LEFT(v->env) += TB_ICOUNT(tb);
    ENV_EIP(v->env) = TB_PC(tb) - TB_CS_BASE(tb);
    v->watching = false;
    if (unlikely(v->watch_hits)) {
        CPU_INTERRUPT_REQUEST(v->cs) |= CPU_INTERRUPT_HARD;
        CPU_EXCEPTION_INDEX(v->cs) = -1;
        NAME(cpu_loop_exit)(v->cs);
    }
    if (v->kicked)
        vcpu_leave(v, EXIT_KICK, 0);
    uint64_t count = engine_count(e);
    if (count >= e->hard_limit || (e->deadline && monotonic_ns() >= e->deadline))
        vcpu_leave(v, EXIT_BUDGET, 0);
    if (v->log_pos >= v->log_len) { /* else an answer is about to be used */
        uint64_t limit = count + CLOCK_CHUNK;
        engine_set_limit(e, limit < e->hard_limit ? limit : e->hard_limit);
        if (unlikely(CPU_INTERRUPT_REQUEST(v->cs))) {
            /* An interrupt had to wait for that: back to the loop, which delivers it. */
            CPU_EXCEPTION_INDEX(v->cs) = -1;
            NAME(cpu_loop_exit)(v->cs);
        }
    }
    ENV_LEFT(v->env) -= TB_ICOUNT(tb);
}

void NAME(helper_check_exit_request)(void *tb, uint32_t kind)
{
    struct vcpu *v = xg_current;
    /* The engine asked for a one-instruction block and would forget it: no exit there. */
    if (kind & SINGLE_BLOCK)
        return;
    if (ENV_LEFT(v->env) + TB_ICOUNT(tb) <= 0)
        look_up(v, tb);
    if (kind)
        string_run(v, kind);
}

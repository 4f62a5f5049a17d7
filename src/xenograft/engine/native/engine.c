/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One engine per space: opened with the machine's memory as one region and one region for all
 * holes; keeps track of which frames hold code that it translated.
 */
#include "core.h"
#include "qemu.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { UC_ARCH_X86 = 4, UC_MODE_64 = 8, UC_PROT_ALL = 7, UC_HOOK_INTR = 1 };
enum { UC_CTL_UC_USE_EXITS = 4, UC_CTL_CPU_MODEL = 7, UC_CTL_TCG_BUFFER_SIZE = 13 };
#define UC_CTL_WRITE_1(type) ((type) | 1 << 26 | 1 << 30)
enum { UC_CPU_X86_EPYC_ROME = 37 };
#define CODE_BUFFER (64u << 20)
#define SMALL_CODE (1u << 20) /* code that is kept in small pages */
#define HUGE_PAGE ((uintptr_t)2 << 20)
#define BLOCK_ALIGN 32 /* of a block's record, 160 bytes; a cache line would waste 32 of them */
#define HOLE_SIZE (1ull << (GFN_BITS + PAGE_SHIFT))

extern void engine_exception(void *uc, uint32_t vector, void *user);

int64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t hole_read(void *uc, uint64_t offset, unsigned size, void *user)
{
    (void)uc, (void)offset, (void)size, (void)user;
    return ~0ull;
}

static void hole_write(void *uc, uint64_t offset, unsigned size, uint64_t value, void *user)
{
    (void)uc, (void)offset, (void)size, (void)value, (void)user;
}

static void *anonymous(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/*
 * The engine knows one CPU; further ones are copies of it.  Pointers into the CPU itself (its
 * registers, empty lists) move along, all else is shared, and each has a TLB of its own.
 */
void *engine_further_cpu(struct engine *e)
{
    if (e->cpus == MAX_CPUS)
        return NULL;
    uint64_t *copy = aligned_alloc(64, (CPU_SIZE + 63) & ~63ul);
    if (!copy)
        return NULL;
    uintptr_t from = (uintptr_t)e->first_cpu;
    memcpy(copy, e->first_cpu, CPU_SIZE);
    for (size_t i = 0; i < CPU_SIZE / sizeof(*copy); i++)
        if (copy[i] >= from && copy[i] < from + CPU_SIZE)
            copy[i] += (uintptr_t)copy - from;
    memset(CPU_TB_JMP_CACHE(copy), 0, TB_JMP_CACHE_BYTES);
    NAME(tlb_init)(copy);
    e->further[e->cpus++] = copy;
    return copy;
}

static void engine_free(struct engine *e)
{
    if (e->first_cpu)
        UC_CPU(e->uc) = e->first_cpu;
    for (uint32_t i = 0; i < e->cpus; i++) {
        for (int mode = 0; mode < MMU_MODES; mode++) {
            free(CPU_TLB_TABLE(e->further[i], mode));
            free(CPU_TLB_IOTLB(e->further[i], mode));
        }
        free(e->further[i]);
    }
    if (e->uc)
        uc_close(e->uc);
    if (e->code)
        munmap(e->code, e->memory->frames / 8 + 1);
    free(e);
}

/*
 * The engine asks for huge pages when it makes its code buffer, and the first use of one clears
 * all of it: 2 ms of each opening, and 2 MiB of each idle guest.  So they begin further up.
 */
int qemu_madvise(void *address, size_t size, int advice);
int qemu_madvise(void *address, size_t size, int advice)
{
    (void)address, (void)size, (void)advice;
    return 0;
}

static void use_huge_pages(struct engine *e)
{
    uintptr_t begin = (uintptr_t)TRANSLATOR_BUFFER(UC_TRANSLATOR(e->uc)) + SMALL_CODE;
    uintptr_t end = (uintptr_t)TRANSLATOR_END(UC_TRANSLATOR(e->uc)) & ~(HUGE_PAGE - 1);
    begin = (begin + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_HUGEPAGE);
}

struct engine *engine_open(struct space *s, char *error, size_t size)
{
    struct memory *m = s->memory;
    struct engine *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    uintptr_t hook;
    const char *reason = NULL;
    e->space = s;
    e->memory = m;
    e->code = anonymous(m->frames / 8 + 1);
    int rc = uc_open(UC_ARCH_X86, UC_MODE_64, &e->uc);
    if (!e->code)
        reason = "out of memory";
    else if (rc || (rc = uc_ctl(e->uc, UC_CTL_WRITE_1(UC_CTL_CPU_MODEL), UC_CPU_X86_EPYC_ROME)) ||
             (rc = uc_ctl(e->uc, UC_CTL_WRITE_1(UC_CTL_TCG_BUFFER_SIZE), CODE_BUFFER)) ||
             (rc = uc_mem_map_ptr(e->uc, 0, m->frames << PAGE_SHIFT, UC_PROT_ALL, m->base)) ||
             (rc = uc_mmio_map(e->uc, HOLE_BASE, HOLE_SIZE, hole_read, NULL, hole_write, NULL)) ||
             (rc = uc_ctl(e->uc, UC_CTL_WRITE_1(UC_CTL_UC_USE_EXITS), 1)) ||
             (rc = uc_hook_add(e->uc, &hook, UC_HOOK_INTR, engine_exception, e, 1, 0)))
        reason = uc_strerror(rc);
    else
        reason = selfcheck(e);
    if (reason) {
        snprintf(error, size, "%s", reason);
        engine_free(e);
        return NULL;
    }
    use_huge_pages(e);
    e->first_cpu = UC_CPU(e->uc);
    UC_CODE_ALIGN(e->uc) = BLOCK_ALIGN;
    e->spares[e->spare++] = e->first_cpu;
    /* #UD would go to another kind of hook; we decode it with the others. */
    UC_STOP_INTERRUPT(e->uc) = NULL;
    pthread_mutex_lock(&m->lock);
    e->next = m->engines;
    m->engines = e;
    pthread_mutex_unlock(&m->lock);
    return e;
}

/*
 * Forget all translations if they take at least so many bytes; the pages go back to the host.
 * What is still needed is translated again.
 */
uint64_t engine_trim(struct engine *e, uint64_t least)
{
    char *begin = TRANSLATOR_BUFFER(UC_TRANSLATOR(e->uc));
    uint64_t used = (uint64_t)(TRANSLATOR_NEXT(UC_TRANSLATOR(e->uc)) - begin);
    if (e->running || !e->vcpus || used < least)
        return 0;
    xg_current = e->vcpus;
    NAME(tb_flush)(e->vcpus->cs);
    xg_current = NULL;
    char *unused = TRANSLATOR_NEXT(UC_TRANSLATOR(e->uc)) + PAGE_SIZE - 1;
    unused -= (uintptr_t)unused % PAGE_SIZE;
    uint64_t before = used - (uint64_t)(TRANSLATOR_NEXT(UC_TRANSLATOR(e->uc)) - begin);
    madvise(unused, (size_t)(TRANSLATOR_END(UC_TRANSLATOR(e->uc)) - unused) & ~(PAGE_SIZE - 1),
            MADV_DONTNEED);
#ifdef __GLIBC__
    malloc_trim(0); /* the indexes of what was translated */
#endif
    return before;
}

void engine_close(struct engine *e)
{
    struct memory *m = e->memory;
    pthread_mutex_lock(&m->lock);
    struct engine **link = &m->engines;
    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    pthread_mutex_unlock(&m->lock);
    engine_free(e);
}

static bool code_here(struct engine *e, uint64_t mfn)
{
    return e->code[mfn / 8] & 1u << mfn % 8;
}

/* Another party wrote a frame: e drops its translations before it runs again (lock held). */
void engine_queue(struct engine *e, uint64_t mfn)
{
    if (!code_here(e, mfn))
        return;
    if (e->queued < INVALIDATE_QUEUE)
        e->queue[e->queued++] = mfn;
    else
        e->queued = INVALIDATE_QUEUE + 1; /* too many: all translations go */
    /* e itself may be marking other frames of this byte meanwhile. */
    __atomic_fetch_and(&e->code[mfn / 8], (uint8_t)~(1u << mfn % 8), __ATOMIC_RELAXED);
    if (e->busy)
        for (struct vcpu *v = e->vcpus; v; v = v->next)
            v->kicked = true;
}

void engine_catch_up(struct engine *e)
{
    struct memory *m = e->memory;
    if (unlikely(e->queued)) {
        pthread_mutex_lock(&m->lock);
        xg_current = e->vcpus;
        if (e->queued > INVALIDATE_QUEUE && e->vcpus)
            NAME(tb_flush)(e->vcpus->cs);
        for (uint32_t i = 0; i < e->queued && i < INVALIDATE_QUEUE; i++) {
            uint64_t start = e->queue[i] << PAGE_SHIFT;
            NAME(tb_invalidate_phys_page_range)(e->uc, start, start + PAGE_SIZE);
        }
        xg_current = NULL;
        e->queued = 0;
        pthread_mutex_unlock(&m->lock);
    }
    if (unlikely(e->flush_all)) {
        e->flush_all = false;
        for (struct vcpu *v = e->vcpus; v; v = v->next)
            NAME(tlb_flush)(v->cs);
    }
}

/* e translated code from a frame: from now on stores to it must be seen, whoever makes them. */
void engine_mark_code(struct engine *e, uint64_t mfn)
{
    struct memory *m = e->memory;
    if (mfn >= m->frames || code_here(e, mfn))
        return;
    __atomic_fetch_or(&e->code[mfn / 8], (uint8_t)(1u << mfn % 8), __ATOMIC_RELAXED);
    m->table[mfn].flags |= FRAME_CODE;
    m->table[mfn].writes = 0;
    for (struct vcpu *v = e->vcpus; v; v = v->next)
        NAME(tlb_reset_dirty)(v->cs, (uint64_t)(uintptr_t)m->base + (mfn << PAGE_SHIFT), PAGE_SIZE);
    if (m->table[mfn].refs > 1) {
        pthread_mutex_lock(&m->lock);
        for (struct engine *other = m->engines; other; other = other->next)
            if (other != e) {
                other->flush_all = true;
                for (struct vcpu *v = other->vcpus; v && other->busy; v = v->next)
                    v->kicked = true;
            }
        pthread_mutex_unlock(&m->lock);
    }
}

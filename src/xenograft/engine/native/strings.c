/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * REP MOVS and REP STOS: as many repetitions at once as lie within pages that the TLB holds.
 *
 * The engine translates one repetition and jumps back to it.  Kernels clear and copy pages this
 * way, so that much of a boot is repetitions.  All but the last are made here; that one, and
 * whatever needs the slow path (a fault, a page with code, memory-mapped I/O), is left to the
 * translated code.  Each counts as it would there: time is the same.
 */
#include "core.h"
#include "qemu.h"

#include <string.h>

#define EFLAGS_TF 0x100u
#define EFLAGS_AC 0x40000u
#define REX_W 8u

/* What a block repeats: 0, or the bytes of an element and whether it's a STOS. */
enum { STRING_SIZE = 15, STRING_STORE = 16 };

uint32_t string_of(struct vcpu *v, const void *tb)
{
    uint8_t code[3];
    uint32_t size = TB_SIZE(tb);
    if (TB_ICOUNT(tb) != 1 || (size != 2 && size != 3) || !(TB_FLAGS(tb) & HF_CS64) ||
        !vcpu_read_virtual(v, TB_PC(tb), code, size) || code[0] != 0xf3)
        return 0;
    uint8_t rex = size == 3 ? code[1] : 0x40, op = code[size - 1];
    if ((rex & 0xf0) != 0x40)
        return 0;
    uint32_t wide = rex & REX_W ? 8 : 4;
    switch (op) {
    case 0xa4: return 1;
    case 0xa5: return wide;
    case 0xaa: return STRING_STORE | 1;
    case 0xab: return STRING_STORE | wide;
    default: return 0;
    }
}

static uint8_t *host_of(void *env, int mode, uint64_t vaddr, bool store)
{
    void *cs = (char *)env - CPU_TO_ENV;
    uint64_t page = vaddr & ~(PAGE_SIZE - 1);
    char *entry = (char *)CPU_TLB_TABLE(cs, mode) +
                  ((vaddr >> PAGE_SHIFT << TLB_ENTRY_SHIFT) & CPU_TLB_MASK(cs, mode));
    /* Flags in the entry's low bits ask for the slow path. */
    if (AT(uint64_t, entry, store ? TLB_WRITE : TLB_READ) != page)
        return NULL;
    return (uint8_t *)(uintptr_t)(vaddr + AT(uint64_t, entry, TLB_ADDEND));
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void fill(uint8_t *to, uint64_t value, uint64_t size, uint64_t count)
{
    if (size == 1 || value == 0)
        memset(to, (int)(value & 0xff), size * count);
    else
        for (; count; count--, to += size)
            memcpy(to, &value, size);
}

void string_run(struct vcpu *v, uint32_t what)
{
    void *env = v->env;
    uint64_t *r = &ENV_REGS(env, 0), size = what & STRING_SIZE;
    uint32_t hflags = ENV_HFLAGS(env), eflags = ENV_EFLAGS(env);
    /* Answers that wait are for the repetition that asked; used ones stay in the log. */
    if (r[R_ECX] < 2 || ENV_LEFT(env) <= 0 || ENV_DF(env) != 1 || eflags & EFLAGS_TF ||
        hflags & HF_INHIBIT_IRQ || v->log_pos < v->log_len)
        return;
    /* as the engine's cpu_mmu_index() */
    int mode = (hflags & HF_CPL) == 3 ? 1 : !(hflags & HF_SMAP) || eflags & EFLAGS_AC ? 2 : 0;
    uint64_t count = least(r[R_ECX] - 1, (uint64_t)ENV_LEFT(env));
    count = least(count, (PAGE_SIZE - r[R_EDI] % PAGE_SIZE) / size);
    uint8_t *to = count ? host_of(env, mode, r[R_EDI], true) : NULL;
    if (!to)
        return;
    if (what & STRING_STORE) {
        fill(to, size == 8 ? r[R_EAX] : r[R_EAX] & ((1ull << 8 * size) - 1), size, count);
    } else {
        count = least(count, (PAGE_SIZE - r[R_ESI] % PAGE_SIZE) / size);
        uint8_t *from = count ? host_of(env, mode, r[R_ESI], false) : NULL;
        /* A source that is overwritten ahead repeats itself. */
        if (!from || (to > from && to < from + count * size))
            return;
        memmove(to, from, count * size);
        r[R_ESI] += count * size;
    }
    r[R_EDI] += count * size;
    r[R_ECX] -= count;
    ENV_LEFT(env) -= (int64_t)count;
}

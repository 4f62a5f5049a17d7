/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Debug registers: breakpoints on data, and the detection of accesses to the registers.
 *
 * The engine has breakpoints on code, and the places where accesses are compared; what they
 * call is empty there.  Semantics: AMD64 Architecture Programmer's Manual, volume 2, chapter 13.
 */
#include "pv.h"
#include "qemu.h"

#define DR6_BD (1ull << 13)
#define DR7_GD (1ull << 13)
#define DR7_ON(dr7, n) ((dr7) >> (2 * (n)) & 3)
#define DR7_TYPE(dr7, n) ((dr7) >> (16 + 4 * (n)) & 3)
#define DR7_LENGTH(dr7, n) ((dr7) >> (18 + 4 * (n)) & 3)

enum { ON_WRITE = 1, ON_ACCESS = 3 };
enum { MEM_READ = 1, MEM_WRITE = 2 };

/* Which of DR0 to DR3 watch these kinds of access in a range, as bits. */
static uint32_t watched(void *env, uint64_t address, uint64_t length, int kinds)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    uint64_t dr7 = ENV_DR(env, 7);
    uint32_t found = 0;
    for (int n = 0; n < 4; n++) {
        unsigned type = DR7_TYPE(dr7, n);
        uint64_t size = lengths[DR7_LENGTH(dr7, n)], first = ENV_DR(env, n) & ~(size - 1);
        int kind = type == ON_WRITE ? MEM_WRITE : type == ON_ACCESS ? MEM_READ | MEM_WRITE : 0;
        if (DR7_ON(dr7, n) && kind & kinds && first <= address + (length - 1) &&
            address <= first + (size - 1))
            found |= 1u << n;
    }
    return found;
}

static bool any_data(void *env)
{
    uint64_t dr7 = ENV_DR(env, 7);
    for (int n = 0; n < 4; n++)
        if (DR7_ON(dr7, n) && DR7_TYPE(dr7, n) & 1)
            return true;
    return false;
}

/* What a TLB entry of this page must look out for. */
int NAME(cpu_watchpoint_address_matches)(void *cs, uint64_t page, uint64_t length);
int NAME(cpu_watchpoint_address_matches)(void *cs, uint64_t page, uint64_t length)
{
    int result = 0;
    for (int kind = MEM_READ; kind <= MEM_WRITE; kind++)
        if (watched(CPU_ENV_PTR(cs), page, length, kind))
            result |= kind;
    return result;
}

/*
 * An access to a page that is watched.  The trap comes behind the instruction: the block is
 * left, the instruction runs again in a block of its own, and the next block's start delivers.
 */
void NAME(cpu_check_watchpoint)(void *cs, uint64_t address, uint64_t length,
                                memory_attributes attributes, int kinds, uintptr_t retaddr);
void NAME(cpu_check_watchpoint)(void *cs, uint64_t address, uint64_t length,
                                memory_attributes attributes, int kinds, uintptr_t retaddr)
{
    (void)attributes;
    struct vcpu *v = xg_current;
    uint32_t hits = watched(v->env, address, length, kinds);
    if (!hits)
        return;
    if (v->watching && v->watch_rip == ENV_EIP(v->env)) {
        v->watch_hits |= hits;
        return;
    }
    if (retaddr)
        NAME(cpu_restore_state)(cs, retaddr, true);
    v->watching = true;
    v->watch_rip = ENV_EIP(v->env);
    engine_set_limit(v->engine, engine_count(v->engine)); /* the block after that one looks */
    CPU_CFLAGS_NEXT_TB(cs) = 1;
    CPU_EXCEPTION_INDEX(cs) = -1;
    NAME(cpu_loop_exit)(cs);
}

void debug_trap(struct vcpu *v)
{
    void *env = v->env;
    v->watching = false;
    ENV_DR(env, 6) = (ENV_DR(env, 6) & ~15ull) | v->watch_hits;
    v->watch_hits = 0;
    if (v->pv) {
        pv_debug_trap(v);
        return;
    }
    NAME(do_interrupt_x86_hardirq)(env, 1, 1);
}

static void detect(void *env, uintptr_t retaddr)
{
    if (!(ENV_DR(env, 7) & DR7_GD))
        return;
    ENV_DR(env, 6) |= DR6_BD;
    ENV_DR(env, 7) &= ~DR7_GD;
    NAME(raise_exception_err_ra)(env, 1, 0, retaddr);
}

uint64_t NAME(helper_get_dr)(void *env, int reg);
uint64_t NAME(helper_get_dr)(void *env, int reg)
{
    detect(env, RETADDR());
    return NAME(real_helper_get_dr)(env, reg);
}

void NAME(helper_set_dr)(void *env, int reg, uint64_t value);
void NAME(helper_set_dr)(void *env, int reg, uint64_t value)
{
    detect(env, RETADDR());
    bool before = any_data(env);
    NAME(real_helper_set_dr)(env, reg, value);
    if (before || any_data(env))
        NAME(tlb_flush)(xg_current->cs);
}

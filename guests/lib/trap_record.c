/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the traps of all kernels have in common: handlers, fix-ups, and the record of the last one.
 */
#include "guest.h"

static vector_fn vector_fns[256];
volatile struct trap trap;

struct extable_entry {
    u32 ip, fixup;
};
extern const struct extable_entry extable_start[], extable_end[];

void set_vector(unsigned vector, vector_fn fn)
{
    vector_fns[vector & 255] = fn;
}

void trap_clear(void)
{
    memset((void *)&trap, 0, sizeof(trap));
}

bool trap_handled(struct regs *r)
{
    vector_fn fn = vector_fns[r->vector & 255];

    if (fn)
        fn(r);
    return fn;
}

bool trap_fixed_up(struct regs *r)
{
    for (const struct extable_entry *e = extable_start; e < extable_end; e++)
        if (e->ip == r->ip) {
            r->ip = e->fixup;
            return true;
        }
    return false;
}

void trap_record(const struct regs *r, ulong cr2)
{
    trap.count++;
    trap.vector = (u32)r->vector;
    trap.error = (u32)r->error;
    trap.ip = r->ip;
    trap.cs = (u16)r->cs;
    trap.flags = r->flags;
    trap.cr2 = cr2;
    trap.ax = r->ax;
    trap.cx = r->cx;
    trap.dx = r->dx;
    trap.si = r->si;
    trap.di = r->di;
    trap.sp = r->sp;
    trap.ss = (u16)r->ss;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Exceptions of a PV guest: a handler, a fix-up, a guard, or a panic, in this order. */
#include "pv.h"

extern u8 event_callback[], failsafe_callback[];

static struct guard *guard;

static long set_callbacks(void)
{
    ulong event = (ulong)event_callback, failsafe = (ulong)failsafe_callback;

#if BITS == 64
    return hypercall(HYPERVISOR_set_callbacks, event, failsafe, 0, 0, 0);
#else
    return hypercall(HYPERVISOR_set_callbacks, FLAT_KERNEL_CS, event, FLAT_KERNEL_CS, failsafe, 0);
#endif
}

void traps_init(void)
{
    static struct pv_trap_info table[257];

    /* Stubs are padded to 32 bytes each.  A handler of INT 0x80 is the user's way in. */
    for (unsigned v = 0; v < 256; v++)
        table[v] = (struct pv_trap_info){ (u8)v, 0, FLAT_KERNEL_CS,
                                          (ulong)vector_stubs + 32 * v };
    if (hypercall(HYPERVISOR_set_trap_table, (ulong)table, 0, 0, 0, 0) || set_callbacks())
        panic("the trap table was refused");
}

/* Called by the stubs in pv_entry.S and pv_entry32.S. */
void handle_vector(struct regs *r);
void handle_vector(struct regs *r)
{
    if (r->vector == 0x100) {
        handle_events(r);
        return;
    }
    if (trap_handled(r))
        return;
    trap_record(r, shared_info.vcpu_info[0].arch_cr2);
    if (trap_fixed_up(r))
        return;
    if (guard)
        guard_jump(guard);
    panic("trap %lu error %lx at %lx:%lx cr2 %lx", r->vector, r->error, r->cs, r->ip, trap.cr2);
}

bool guarded(void (*fn)(void *), void *argument)
{
    struct guard here, *outer = guard;

    if (!guard_set(&here)) {
        guard = &here;
        fn(argument);
        barrier();
        guard = outer;
        return true;
    }
    guard = outer;
    return false;
}

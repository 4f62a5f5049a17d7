/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ends in every way a guest can: `how=` on the command line says which.
 *
 *   poweroff reboot crash suspend watchdog soft_reset unknown   SCHEDOP_shutdown with the reason
 *   halt         HLT with interrupts off on all CPUs: the last one down is a power-off
 *   triple       a triple fault
 *   bite         sets a watchdog of one second and spins
 *   panic        as a kernel does: a message, then SHUTDOWN_crash
 *   spin         never ends (with `cpus`: on all of them); block: blocks for ever
 *   deadloop     an exception handler that faults for ever
 */
#include "apic.h"
#include "xen.h"

static const char *const reasons[] = { "poweroff", "reboot",   "suspend",
                                       "crash",    "watchdog", "soft_reset" };

static void fault_again(struct regs *r)
{
    (void)r; /* and returns to the faulting instruction */
}

static void halt(void *argument)
{
    (void)argument;
    for (;;)
        asm volatile("cli; hlt");
}

static void spin(void *argument)
{
    (void)argument;
    for (;;)
        barrier();
}

static void on_all_cpus(void (*fn)(void *))
{
    u32 cpus = (u32)option_number("cpus", 1);

    apic_enable();
    for (u32 i = 1; i < cpus && i < MAX_CPUS; i++)
        if (start_cpu(i * 2))
            on_cpu(i, fn, NULL);
    print("%u CPUs\n", cpus_online);
    fn(NULL);
}

void guest_main(void)
{
    char how[32] = "poweroff";
    u64 reason = option_number("triple_fault_reason", ~0ull);

    option("how", how, sizeof(how));
    print("Ending by %s\n", how);
    if (reason != ~0ull)
        print("triple fault reason: %ld\n", hvm_set_param(HVM_PARAM_TRIPLE_FAULT_REASON, reason));
    for (u32 i = 0; i < ARRAY_SIZE(reasons); i++)
        if (!strcmp(how, reasons[i]))
            xen_shutdown(i);
    if (!strcmp(how, "unknown"))
        print("refused: %ld\n", sched_op(SCHEDOP_shutdown, &(u32){ 99 }));
    else if (!strcmp(how, "halt"))
        on_all_cpus(halt);
    else if (!strcmp(how, "triple")) {
        set_idt_limit(0);
        asm volatile("ud2");
    } else if (!strcmp(how, "bite")) {
        struct sched_watchdog w = { 0, 1 };

        print("watchdog %ld\n", sched_op(SCHEDOP_watchdog, &w));
        spin(NULL);
    } else if (!strcmp(how, "panic"))
        panic("told to");
    else if (!strcmp(how, "spin"))
        on_all_cpus(spin);
    else if (!strcmp(how, "block"))
        for (;;)
            sched_op(SCHEDOP_block, NULL);
    else if (!strcmp(how, "deadloop")) {
        set_vector(VEC_UD, fault_again);
        asm volatile("ud2");
    }
    print("Still here\n");
    power_off(1);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Other CPUs: INIT and start-up IPIs, and a mailbox per CPU to run functions there. */
#include "apic.h"
#include "guest.h"

bool x2apic;
volatile u32 cpus_online = 1;
u32 cpu_apic_id[MAX_CPUS];

struct mailbox {
    void (*volatile fn)(void *);
    void *volatile argument;
};
static struct mailbox mailboxes[MAX_CPUS];

unsigned cpu_index(void)
{
    ulong offset = stack_pointer() - (ulong)cpu_stacks;

    return offset < (ulong)MAX_CPUS * STACK_SIZE ? (unsigned)(offset / STACK_SIZE) : 0;
}

u32 apic_own_id(void)
{
    return x2apic ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
}

void apic_enable(void)
{
    u64 base = rdmsr(MSR_APIC_BASE);

    wrmsr(MSR_APIC_BASE, base | 0x800);
    if (x2apic)
        wrmsr(MSR_APIC_BASE, base | 0xc00);
    apic_write(APIC_SVR, 0x100 | VEC_SPURIOUS);
    apic_write(APIC_TPR, 0);
}

/* The C entry of an application processor (see entry.S): serves its mailbox for ever. */
void ap_main(void)
{
    unsigned cpu = cpu_index();
    struct mailbox *box = &mailboxes[cpu];

    cpu_tables_init(cpu);
    cpu_apic_id[cpu] = cpuid(1, 0).b >> 24;
    atomic_add(&cpus_online, 1);
    for (;;) {
        while (!box->fn)
            pause();
        box->fn(box->argument);
        barrier();
        box->fn = NULL;
    }
}

void on_cpu(unsigned cpu, void (*fn)(void *), void *argument)
{
    mailboxes[cpu].argument = argument;
    barrier();
    mailboxes[cpu].fn = fn;
}

bool wait_cpu(unsigned cpu, u64 tsc_ticks)
{
    u64 start = rdtsc();

    while (mailboxes[cpu].fn) {
        if (rdtsc() - start > tsc_ticks)
            return false;
        pause();
    }
    return true;
}

static void delay(u64 tsc_ticks)
{
    u64 start = rdtsc();

    /* No PAUSE: where it lets other CPUs run, and they spin too, time would hardly pass. */
    while (rdtsc() - start < tsc_ticks)
        ;
}

bool start_cpu(u32 apic_id)
{
    u32 before = cpus_online;

    memcpy((void *)AP_TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    apic_send(apic_id, ICR_INIT | ICR_ASSERT);
    delay(1000000);
    apic_send(apic_id, ICR_STARTUP | ICR_ASSERT | AP_TRAMPOLINE >> 12);
    for (unsigned i = 0; i < 2000 && cpus_online == before; i++)
        delay(1000000);
    return cpus_online != before;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Measures what a guest waits for its hypervisor: prints "latency NAME N ns" for each way in. */
#include "xen.h"

#define ROUNDS 20000

static u32 timer_port;

/* Answered by the hypervisor's handlers. */
static void ask_vcpu(void)
{
    vcpu_op(VCPUOP_is_up, 0, NULL);
}

/* The same with a structure copied in and out. */
static void ask_port(void)
{
    struct evtchn_status status = { .dom = DOMID_SELF, .port = timer_port };

    event_op(EVTCHNOP_status, &status);
}

/* A number that can't change, which needs no handler. */
static void ask_version(void)
{
    version_op(XENVER_version, NULL);
}

/* A port that nobody answers: an exit, a decision and back. */
static void port_read(void)
{
    u8 value;

    asm volatile("inb %w1, %0" : "=a"(value) : "Nd"((u16)0x2e0));
}

static void empty(void)
{
    asm volatile("" ::: "memory");
}

static u64 measure(void (*operation)(void))
{
    u64 best = ~0ull;

    /* The least of several turns: what's more was the host's other work. */
    for (u32 turn = 0; turn < 5; turn++) {
        u64 begin = rdtsc();

        for (u32 i = 0; i < ROUNDS; i++)
            operation();
        begin = rdtsc() - begin;
        if (begin < best)
            best = begin;
    }
    return best;
}

void guest_main(void)
{
    static const struct {
        const char *name;
        void (*operation)(void);
    } ways[] = { { "vcpu_op", ask_vcpu },
                 { "event_channel_op", ask_port },
                 { "xen_version", ask_version },
                 { "port", port_read } };
    u64 khz, nothing;

    if (!xen.present)
        panic("there is no Xen under this guest");
    khz = cpuid(xen.cpuid_base + 3, 0).c;
    events_init();
    if (bind_virq(VIRQ_TIMER, 0, &timer_port))
        panic("VIRQ_TIMER could not be bound");
    nothing = measure(empty);
    for (u32 i = 0; i < ARRAY_SIZE(ways); i++) {
        u64 ticks = measure(ways[i].operation);
        u32 rest;

        ticks = ticks > nothing ? ticks - nothing : 0;
        print("latency %s %llu ns\n", ways[i].name,
              div64(div64(ticks * 1000000, (u32)khz, &rest), ROUNDS, &rest));
    }
    xen_shutdown(SHUTDOWN_poweroff);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The I/O APIC and the HPET, which HVM guests alone have: interrupts of the HPET's timers through
 * the I/O APIC into local APICs (IA-PC HPET specification 1.0a; Intel 82093AA), with the limits
 * that are Xen's (pins 20 to 23, a shortest period).
 */
#include "apic.h"
#include "test.h"
#include "xen.h"

#define IOAPIC 0xfec00000ul
#define IOAPIC_ID 0
#define IOAPIC_VERSION 1
#define IOAPIC_ENTRY(pin) (0x10 + 2 * (pin))
#define IOAPIC_PINS 48
#define ENTRY_LOGICAL 0x800
#define ENTRY_LOWEST 0x100
#define ENTRY_REMOTE_IRR 0x4000
#define ENTRY_LEVEL 0x8000
#define ENTRY_MASKED 0x10000

#define HPET 0xfed00000ul
#define HPET_ID 0x000
#define HPET_CONFIG 0x010
#define HPET_STATUS 0x020
#define HPET_COUNTER 0x0f0
#define HPET_TIMER(n) (0x100 + 0x20 * (n))
#define HPET_COMPARATOR(n) (0x108 + 0x20 * (n))
#define TN_LEVEL 0x002
#define TN_ENABLE 0x004
#define TN_PERIODIC 0x008
#define TN_SETVAL 0x040
#define TN_32BIT 0x100
#define TN_ROUTE(pin) ((u32)(pin) << 9)

#define PERIOD 6250u /* 100 us: the shortest there is */
#define VEC_DEVICE 0x51
#define VEC_OTHER 0x61
#define ENOUGH 200000000ull /* TSC ticks to wait for anything: about 0.1 s */

static volatile u32 taken[256], taken_by[MAX_CPUS];
static void (*before_eoi)(void);

static u32 ioapic_read(u32 index)
{
    *(volatile u32 *)IOAPIC = index;
    return *(volatile u32 *)(IOAPIC + 0x10);
}

static void ioapic_write(u32 index, u32 value)
{
    *(volatile u32 *)IOAPIC = index;
    *(volatile u32 *)(IOAPIC + 0x10) = value;
}

static void redirect(u32 pin, u32 destination, u32 low)
{
    ioapic_write(IOAPIC_ENTRY(pin) + 1, destination << 24);
    ioapic_write(IOAPIC_ENTRY(pin), low);
}

static u32 hpet_read(u32 offset)
{
    return *(volatile u32 *)(HPET + offset);
}

static void hpet_write(u32 offset, u32 value)
{
    *(volatile u32 *)(HPET + offset) = value;
}

static void hpet_set_comparator(u32 timer, u32 ticks)
{
    hpet_write(HPET_COMPARATOR(timer) + 4, 0);
    hpet_write(HPET_COMPARATOR(timer), ticks);
}

static void take(struct regs *r)
{
    atomic_add(&taken[r->vector & 255], 1);
    atomic_add(&taken_by[cpu_index()], 1);
    if (before_eoi)
        before_eoi();
    apic_eoi();
}

void tests_init(void)
{
    apic_enable();
    set_vector(VEC_DEVICE, take);
    set_vector(VEC_OTHER, take);
}

/* Everything stopped, masked and at 0. */
static void start(void)
{
    cli();
    before_eoi = NULL;
    hpet_write(HPET_CONFIG, 0);
    for (u32 timer = 0; timer < 3; timer++)
        hpet_write(HPET_TIMER(timer), 0);
    hpet_write(HPET_STATUS, 7);
    hpet_write(HPET_COUNTER, 0);
    hpet_write(HPET_COUNTER + 4, 0);
    for (u32 pin = 0; pin < IOAPIC_PINS; pin++)
        redirect(pin, 0, ENTRY_MASKED);
    memset((void *)taken, 0, sizeof(taken));
    memset((void *)taken_by, 0, sizeof(taken_by));
}

/* No PAUSE in loops: where it lets other CPUs run, and they spin too, time would hardly pass. */
static bool wait_taken(u32 vector, u32 count)
{
    u64 begin = rdtsc();

    sti();
    while (taken[vector] < count && rdtsc() - begin < ENOUGH)
        ;
    cli();
    return taken[vector] >= count;
}

/* Lets `ticks` of the counter pass, with interrupts on. */
static void wait_ticks(u32 ticks)
{
    u32 begin = hpet_read(HPET_COUNTER);

    sti();
    while (hpet_read(HPET_COUNTER) - begin < ticks)
        for (volatile u32 i = 0; i < 100; i++)
            ;
    cli();
}

TEST(ioapic_registers)
{
    start();
    CHECK_EQUAL(ioapic_read(IOAPIC_VERSION), 0x002f0011);
    ioapic_write(IOAPIC_ID, 0xff000000);
    CHECK_EQUAL(ioapic_read(IOAPIC_ID), 0x0f000000);
    ioapic_write(IOAPIC_ID, 0);
    redirect(5, 0x12, ENTRY_MASKED | ENTRY_REMOTE_IRR | 0x1000 | 0x44);
    CHECK_EQUAL(ioapic_read(IOAPIC_ENTRY(5)), ENTRY_MASKED | 0x44);
    CHECK_EQUAL(ioapic_read(IOAPIC_ENTRY(5) + 1), 0x12000000);
    CHECK_EQUAL(ioapic_read(IOAPIC_ENTRY(IOAPIC_PINS)), 0);
}

TEST(hpet_registers)
{
    start();
    CHECK_EQUAL(hpet_read(HPET_ID), 0x8086a201);
    CHECK_EQUAL(hpet_read(HPET_ID + 4), 16000000);
    CHECK_EQUAL(hpet_read(HPET_TIMER(2)), 0x30);
    CHECK_EQUAL(hpet_read(HPET_TIMER(2) + 4), 0x00f00000);
    hpet_write(HPET_CONFIG, 0xfffffffe);
    CHECK_EQUAL(hpet_read(HPET_CONFIG), 2);
#if BITS == 64
    CHECK_EQUAL(*(volatile u64 *)HPET, 16000000ull << 32 | 0x8086a201);
#endif
}

TEST(hpet_counts)
{
    u64 tsc;
    u32 ticks;

    start();
    CHECK_EQUAL(hpet_read(HPET_COUNTER), 0);
    hpet_write(HPET_CONFIG, 1);
    tsc = rdtsc();
    wait_ticks(PERIOD);
    CHECK(rdtsc() > tsc);
    hpet_write(HPET_CONFIG, 0);
    ticks = hpet_read(HPET_COUNTER);
    CHECK(ticks >= PERIOD);
    for (volatile u32 i = 0; i < 100000; i++)
        ;
    CHECK_EQUAL(hpet_read(HPET_COUNTER), ticks);
}

static void one_shot(u32 timer, u32 pin, u32 bits, u32 ticks)
{
    hpet_write(HPET_TIMER(timer), TN_ENABLE | TN_32BIT | TN_ROUTE(pin) | bits);
    hpet_set_comparator(timer, ticks);
    hpet_write(HPET_CONFIG, 1);
}

TEST(hpet_interrupt)
{
    for (u32 timer = 0; timer < 3; timer++) {
        start();
        redirect(20 + timer, apic_own_id(), VEC_DEVICE);
        one_shot(timer, 20 + timer, 0, PERIOD);
        CHECK_EQUAL(taken[VEC_DEVICE], 0);
        CHECK(wait_taken(VEC_DEVICE, 1));
        CHECK(hpet_read(HPET_COUNTER) >= PERIOD);
        wait_ticks(2 * PERIOD);
        CHECK_EQUAL(taken[VEC_DEVICE], 1);
    }
}

TEST(hpet_wakes_a_halted_cpu)
{
    start();
    redirect(20, apic_own_id(), VEC_DEVICE);
    one_shot(0, 20, 0, 5 * PERIOD);
    while (!taken[VEC_DEVICE]) {
        sti_hlt();
        cli();
    }
    CHECK(hpet_read(HPET_COUNTER) >= 5 * PERIOD);
}

TEST(hpet_periodic)
{
    start();
    redirect(20, apic_own_id(), VEC_DEVICE);
    hpet_write(HPET_TIMER(0), TN_ENABLE | TN_PERIODIC | TN_SETVAL | TN_32BIT | TN_ROUTE(20));
    hpet_write(HPET_COMPARATOR(0), PERIOD);
    CHECK(!(hpet_read(HPET_TIMER(0)) & TN_SETVAL));
    hpet_write(HPET_COMPARATOR(0), PERIOD);
    hpet_write(HPET_CONFIG, 1);
    CHECK(wait_taken(VEC_DEVICE, 5));
    CHECK(hpet_read(HPET_COUNTER) >= 5 * PERIOD);
    /* It's always ahead of the counter. */
    CHECK(hpet_read(HPET_COMPARATOR(0)) - hpet_read(HPET_COUNTER) <= PERIOD);
    start();
}

static void clear_status(void)
{
    if (taken[VEC_DEVICE] == 2)
        hpet_write(HPET_STATUS, 1);
}

TEST(level_rings_until_it_is_cleared)
{
    start();
    before_eoi = clear_status;
    redirect(20, apic_own_id(), ENTRY_LEVEL | VEC_DEVICE);
    one_shot(0, 20, TN_LEVEL, PERIOD);
    CHECK(wait_taken(VEC_DEVICE, 2));
    wait_ticks(PERIOD);
    CHECK_EQUAL(taken[VEC_DEVICE], 2);
    CHECK_EQUAL(hpet_read(HPET_STATUS), 0);
    CHECK(!(ioapic_read(IOAPIC_ENTRY(20)) & ENTRY_REMOTE_IRR));
}

TEST(masked_pin_holds_back)
{
    start();
    redirect(20, apic_own_id(), ENTRY_MASKED | VEC_DEVICE);
    one_shot(0, 20, 0, 100);
    wait_ticks(PERIOD);
    CHECK_EQUAL(taken[VEC_DEVICE], 0);
    redirect(20, apic_own_id(), VEC_DEVICE);
    CHECK(wait_taken(VEC_DEVICE, 1));
}

/* XSA-261: pins that no timer may have. */
TEST(foreign_routes_ring_nothing)
{
    start();
    for (u32 pin = 0; pin < IOAPIC_PINS; pin++)
        redirect(pin, apic_own_id(), pin == 20 ? VEC_DEVICE : VEC_OTHER);
    for (u32 timer = 0; timer < 3; timer++)
        for (u32 pin = 0; pin < 32; pin++) {
            if (pin > 20 && pin < 24)
                continue;
            hpet_write(HPET_CONFIG, 0);
            hpet_write(HPET_COUNTER, 0);
            taken[VEC_DEVICE] = 0;
            one_shot(timer, pin, 0, 10);
            CHECK_EQUAL(hpet_read(HPET_TIMER(timer)) >> 9 & 31, 20);
            CHECK(wait_taken(VEC_DEVICE, 1));
            hpet_write(HPET_TIMER(timer), 0);
        }
    CHECK_EQUAL(taken[VEC_OTHER], 0);
}

TEST(logical_destination)
{
    start();
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x04000000);
    redirect(20, 0x02, ENTRY_LOGICAL | VEC_OTHER);
    redirect(21, 0x06, ENTRY_LOGICAL | VEC_DEVICE);
    one_shot(0, 20, 0, 100);
    one_shot(1, 21, 0, 200);
    CHECK(wait_taken(VEC_DEVICE, 1));
    CHECK_EQUAL(taken[VEC_OTHER], 0);
    apic_write(APIC_LDR, 0);
}

static void enable_here(void *argument)
{
    apic_enable();
    sti();
}

static void disable_here(void *argument)
{
    cli();
}

TEST(another_cpu_takes_it)
{
    start();
    if (!start_cpu(2)) /* Xen's APIC ids are even */
        SKIP("one vCPU");
    on_cpu(1, enable_here, NULL);
    CHECK(wait_cpu(1, ENOUGH));
    redirect(22, cpu_apic_id[1], ENTRY_LOWEST | VEC_DEVICE);
    one_shot(2, 22, 0, PERIOD);
    CHECK(wait_taken(VEC_DEVICE, 1));
    CHECK_EQUAL(taken_by[0], 0);
    CHECK_EQUAL(taken_by[1], 1);
    on_cpu(1, disable_here, NULL);
    CHECK(wait_cpu(1, ENOUGH));
}

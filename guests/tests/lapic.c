/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The local APIC on one CPU: interrupts by self-IPI, priorities, shadows, the timer's three
 * modes, and x2APIC (Intel SDM volume 3, chapter 10).
 */
#include "apic.h"
#include "test.h"
#include "xen.h"

#define VEC_LOW 0x41
#define VEC_MIDDLE 0x61
#define VEC_HIGH 0x91

static volatile u32 taken[256];
static volatile ulong taken_ip;
static volatile u32 order[16], order_count;

static void take(struct regs *r)
{
    taken[r->vector & 255]++;
    taken_ip = r->ip;
    if (order_count < ARRAY_SIZE(order))
        order[order_count++] = (u32)r->vector;
    apic_eoi();
}

static void spurious(struct regs *r)
{
    taken[r->vector & 255]++;
}

void tests_init(void)
{
    apic_enable();
    set_vector(VEC_LOW, take);
    set_vector(VEC_MIDDLE, take);
    set_vector(VEC_HIGH, take);
    set_vector(VEC_SPURIOUS, spurious);
}

static void start(void)
{
    cli();
    memset((void *)taken, 0, sizeof(taken));
    order_count = 0;
    apic_write(APIC_TPR, 0);
}

static void self_ipi(u32 vector)
{
    apic_send(0, ICR_SELF | vector);
}

/* A window in which pending interrupts enter. */
static void open_window(void)
{
    asm volatile("sti; nop; nop; nop; cli" ::: "memory");
}

TEST(identity)
{
    CHECK_EQUAL(apic_own_id(), cpuid(1, 0).b >> 24);
    CHECK_EQUAL(apic_read(APIC_VERSION) & 0xff, 0x14);
    CHECK((apic_read(APIC_VERSION) >> 16 & 0xff) >= 3);
}

TEST(self_ipi_waits_for_if)
{
    start();
    self_ipi(VEC_LOW);
    CHECK_EQUAL(taken[VEC_LOW], 0);
    CHECK(apic_bit(APIC_IRR, VEC_LOW));
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
    CHECK(!apic_bit(APIC_IRR, VEC_LOW));
    CHECK(!apic_bit(APIC_ISR, VEC_LOW));
}

TEST(sti_shadow)
{
    extern u8 after_sti_shadow[];

    start();
    self_ipi(VEC_LOW);
    asm volatile("sti; nop; after_sti_shadow: nop; cli" ::: "memory");
    CHECK_EQUAL(taken[VEC_LOW], 1);
    CHECK_EQUAL(taken_ip, (ulong)after_sti_shadow);
}

TEST(sti_cli_opens_no_window)
{
    start();
    self_ipi(VEC_LOW);
    asm volatile("sti; cli; nop" ::: "memory");
    CHECK_EQUAL(taken[VEC_LOW], 0);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
}

TEST(mov_ss_shadow)
{
    extern u8 after_ss_shadow[];
    ulong flags = read_flags() | FLAG_IF;

    start();
    self_ipi(VEC_LOW);
    /* POPF opens at its end, but the load of SS before it holds interrupts back for one
     * instruction: POPF itself is that one. */
    asm volatile("mov %%ss, %%ecx; push %0; mov %%ecx, %%ss; popf; after_ss_shadow: nop; nop; cli"
                 ::"r"(flags)
                 : "ecx", "memory", "cc");
    CHECK_EQUAL(taken[VEC_LOW], 1);
    CHECK_EQUAL(taken_ip, (ulong)after_ss_shadow);
}

TEST(popf_opens)
{
    start();
    self_ipi(VEC_LOW);
    write_flags(read_flags() | FLAG_IF);
    asm volatile("nop");
    cli();
    CHECK_EQUAL(taken[VEC_LOW], 1);
}

TEST(hlt_wakes)
{
    start();
    self_ipi(VEC_LOW);
    sti_hlt();
    cli();
    CHECK_EQUAL(taken[VEC_LOW], 1);
}

TEST(highest_priority_first)
{
    start();
    self_ipi(VEC_LOW);
    self_ipi(VEC_HIGH);
    self_ipi(VEC_MIDDLE);
    open_window();
    CHECK_EQUAL(order_count, 3);
    CHECK_EQUAL(order[0], VEC_HIGH);
    CHECK_EQUAL(order[1], VEC_MIDDLE);
    CHECK_EQUAL(order[2], VEC_LOW);
}

TEST(task_priority_holds_back)
{
    start();
    apic_write(APIC_TPR, 0x60);
    self_ipi(VEC_LOW);
    self_ipi(VEC_MIDDLE);
    self_ipi(VEC_HIGH);
    open_window();
    CHECK_EQUAL(order_count, 1);
    CHECK_EQUAL(order[0], VEC_HIGH);
    CHECK_EQUAL(apic_read(APIC_PPR), 0x60);
    apic_write(APIC_TPR, 0x50);
    open_window();
    CHECK_EQUAL(taken[VEC_MIDDLE], 1);
    CHECK_EQUAL(taken[VEC_LOW], 0);
    apic_write(APIC_TPR, 0);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
}

#if BITS == 64
TEST(cr8_and_tpr_are_one)
{
    start();
    write_cr8(6);
    CHECK_EQUAL(apic_read(APIC_TPR), 0x60);
    self_ipi(VEC_LOW);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 0);
    write_cr8(0);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
    apic_write(APIC_TPR, 0x90);
    CHECK_EQUAL(read_cr8(), 9);
    apic_write(APIC_TPR, 0);
}
#endif

/* In a handler, before its EOI: only a higher class enters. */
static volatile u32 in_service_seen, low_during, high_during;

static void nest(struct regs *r)
{
    in_service_seen = apic_bit(APIC_ISR, VEC_MIDDLE);
    self_ipi(VEC_LOW);
    self_ipi(VEC_HIGH);
    open_window();
    low_during = taken[VEC_LOW];
    high_during = taken[VEC_HIGH];
    apic_eoi();
}

TEST(in_service_blocks_lower_classes)
{
    start();
    set_vector(VEC_MIDDLE, nest);
    self_ipi(VEC_MIDDLE);
    open_window();
    set_vector(VEC_MIDDLE, take);
    open_window();
    CHECK_EQUAL(in_service_seen, 1);
    CHECK_EQUAL(low_during, 0);
    CHECK_EQUAL(high_during, 1);
    CHECK_EQUAL(taken[VEC_LOW], 1);
}

TEST(one_pending_per_vector)
{
    start();
    self_ipi(VEC_LOW);
    self_ipi(VEC_LOW);
    self_ipi(VEC_LOW);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
}

TEST(physical_and_all_including_self)
{
    start();
    apic_send(apic_own_id(), ICR_FIXED | VEC_LOW);
    apic_send(0, ICR_ALL | VEC_MIDDLE);
    apic_send(0, ICR_OTHERS | VEC_HIGH);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
    CHECK_EQUAL(taken[VEC_MIDDLE], 1);
    CHECK_EQUAL(taken[VEC_HIGH], 0);
}

TEST(logical_destination)
{
    start();
    if (x2apic)
        SKIP("flat mode is xAPIC's");
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x04000000);
    apic_send(0x04, ICR_LOGICAL | VEC_LOW);
    apic_send(0x02, ICR_LOGICAL | VEC_MIDDLE);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
    CHECK_EQUAL(taken[VEC_MIDDLE], 0);
}

TEST(illegal_vector_sets_the_error_status)
{
    start();
    apic_write(APIC_ESR, 0);
    self_ipi(5);
    apic_write(APIC_ESR, 0);
    CHECK(apic_read(APIC_ESR) & 0x20);
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
    CHECK_EQUAL(apic_read(APIC_ESR), 0);
}

TEST(software_disable_masks)
{
    u32 lvt;

    start();
    apic_write(APIC_LVT_TIMER, VEC_LOW);
    apic_write(APIC_SVR, VEC_SPURIOUS);
    lvt = apic_read(APIC_LVT_TIMER);
    apic_write(APIC_SVR, 0x100 | VEC_SPURIOUS);
    CHECK(lvt & LVT_MASKED);
}

static volatile u32 nmis;

static void nmi(struct regs *r)
{
    nmis++;
}

TEST(nmi_ignores_if)
{
    start();
    nmis = 0;
    set_vector(VEC_NMI, nmi);
    apic_send(apic_own_id(), ICR_NMI);
    for (volatile u32 i = 0; i < 1000 && !nmis; i++)
        ;
    set_vector(VEC_NMI, NULL);
    CHECK_EQUAL(nmis, 1);
}

/* ---- timer ---- */

static bool wait_taken(u32 vector, u32 count)
{
    u64 begin = rdtsc();

    sti();
    while (taken[vector] < count && rdtsc() - begin < 4000000000ull)
        pause();
    cli();
    return taken[vector] >= count;
}

TEST(timer_one_shot)
{
    start();
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_LVT_TIMER, TIMER_ONE_SHOT | VEC_LOW);
    apic_write(APIC_TIMER_INITIAL, 100000);
    CHECK(apic_read(APIC_TIMER_CURRENT) <= 100000);
    CHECK(wait_taken(VEC_LOW, 1));
    CHECK_EQUAL(apic_read(APIC_TIMER_CURRENT), 0);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
}

TEST(timer_masked)
{
    u64 begin = rdtsc();

    start();
    apic_write(APIC_LVT_TIMER, LVT_MASKED | TIMER_ONE_SHOT | VEC_LOW);
    apic_write(APIC_TIMER_INITIAL, 1000);
    while (apic_read(APIC_TIMER_CURRENT) && rdtsc() - begin < 1000000000)
        pause();
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 0);
    CHECK_EQUAL(apic_read(APIC_TIMER_CURRENT), 0);
}

TEST(timer_stopped)
{
    start();
    apic_write(APIC_LVT_TIMER, TIMER_ONE_SHOT | VEC_LOW);
    apic_write(APIC_TIMER_INITIAL, 0xffffffff);
    CHECK(apic_read(APIC_TIMER_CURRENT) != 0);
    apic_write(APIC_TIMER_INITIAL, 0);
    CHECK_EQUAL(apic_read(APIC_TIMER_CURRENT), 0);
}

TEST(timer_periodic)
{
    start();
    apic_write(APIC_LVT_TIMER, TIMER_PERIODIC | VEC_LOW);
    apic_write(APIC_TIMER_INITIAL, 200000);
    CHECK(wait_taken(VEC_LOW, 5));
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    apic_write(APIC_TIMER_INITIAL, 0);
}

TEST(timer_counts_down)
{
    u32 a, b;

    start();
    apic_write(APIC_LVT_TIMER, LVT_MASKED | TIMER_ONE_SHOT | VEC_LOW);
    apic_write(APIC_TIMER_INITIAL, 0xffffffff);
    a = apic_read(APIC_TIMER_CURRENT);
    for (volatile u32 i = 0; i < 100000; i++)
        ;
    b = apic_read(APIC_TIMER_CURRENT);
    apic_write(APIC_TIMER_INITIAL, 0);
    CHECK(b < a);
}

TEST(timer_tsc_deadline)
{
    u64 deadline;

    if (!(cpuid(1, 0).c >> 24 & 1))
        SKIP("no TSC deadline");
    start();
    apic_write(APIC_LVT_TIMER, TIMER_TSC_DEADLINE | VEC_LOW);
    deadline = rdtsc() + 1000000;
    wrmsr(MSR_TSC_DEADLINE, deadline);
    CHECK_EQUAL(rdmsr(MSR_TSC_DEADLINE), deadline);
    CHECK(wait_taken(VEC_LOW, 1));
    CHECK(rdtsc() >= deadline);
    CHECK_EQUAL(rdmsr(MSR_TSC_DEADLINE), 0);
    wrmsr(MSR_TSC_DEADLINE, 1); /* in the past: at once */
    CHECK(wait_taken(VEC_LOW, 2));
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000000000ull);
    wrmsr(MSR_TSC_DEADLINE, 0);
    CHECK_EQUAL(rdmsr(MSR_TSC_DEADLINE), 0);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}

TEST(timer_wakes_a_halted_cpu)
{
    start();
    apic_write(APIC_LVT_TIMER, TIMER_ONE_SHOT | VEC_LOW);
    apic_write(APIC_TIMER_INITIAL, 5000000);
    while (!taken[VEC_LOW]) {
        sti_hlt();
        cli();
    }
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}

/* ---- x2APIC, last since there is no way back to xAPIC mode but through off ---- */

TEST(x2apic_registers_fault_in_xapic_mode)
{
    if (!(cpuid(1, 0).c >> 21 & 1))
        SKIP("no x2APIC");
    try_rdmsr(0x802);
    CHECK_TRAP(VEC_GP, 0);
}

TEST(x2apic_mode)
{
    u64 base = rdmsr(MSR_APIC_BASE);
    u32 id = apic_own_id();

    if (!(cpuid(1, 0).c >> 21 & 1))
        SKIP("no x2APIC");
    start();
    wrmsr(MSR_APIC_BASE, base | 0x400);
    x2apic = true;
    CHECK_EQUAL(rdmsr(MSR_APIC_BASE), base | 0x400);
    CHECK_EQUAL(apic_own_id(), id);
    CHECK_EQUAL(apic_read(APIC_LDR), (id >> 4) << 16 | 1u << (id & 15));
    apic_send(id, VEC_LOW);
    wrmsr(0x83f, VEC_MIDDLE); /* SELF IPI */
    apic_send(1u << (id & 15) | (id >> 4) << 16, ICR_LOGICAL | VEC_HIGH);
    open_window();
    CHECK_EQUAL(taken[VEC_LOW], 1);
    CHECK_EQUAL(taken[VEC_MIDDLE], 1);
    CHECK_EQUAL(taken[VEC_HIGH], 1);
}

TEST(x2apic_faults)
{
    u64 base = rdmsr(MSR_APIC_BASE);

    if (!x2apic)
        SKIP("no x2APIC");
    try_wrmsr(0x802, 0); /* the id is read-only */
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    try_rdmsr(0x80b); /* EOI is write-only */
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    try_wrmsr(0x80b, 1); /* and takes zero alone */
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    try_rdmsr(0x80e); /* no DFR */
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    try_wrmsr(MSR_APIC_BASE, base & ~0x400ull); /* x2APIC to xAPIC */
    CHECK_TRAP(VEC_GP, 0);
}

TEST(x2apic_timer)
{
    if (!x2apic)
        SKIP("no x2APIC");
    start();
    apic_write(APIC_LVT_TIMER, TIMER_ONE_SHOT | VEC_LOW);
    apic_write(APIC_TIMER_INITIAL, 100000);
    CHECK(wait_taken(VEC_LOW, 1));
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}

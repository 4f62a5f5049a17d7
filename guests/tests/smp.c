/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Several CPUs: start by INIT and start-up IPI through real mode, IPIs of all kinds, events and
 * atomics between CPUs, and translated code that another CPU changes.
 */
#include "apic.h"
#include "test.h"
#include "xen.h"

#define VEC_IPI 0x61
#define ENOUGH 20000000000ull /* TSC ticks to wait for another CPU */

static volatile u32 ipis[MAX_CPUS];
static u32 cpus;

static void ipi(struct regs *r)
{
    atomic_add(&ipis[cpu_index()], 1);
    apic_eoi();
}

static void enable_here(void *argument)
{
    apic_enable();
    sti();
}

static u32 count_in_madt(void);

void tests_init(void)
{
    apic_enable();
    set_vector(VEC_IPI, ipi);
    cpu_apic_id[0] = apic_own_id();
    cpus = count_in_madt();
    sti();
}

/* The MADT (ACPI specification, 5.2.12) tells how many CPUs there are, and their APIC ids. */
static u32 madt_ids[MAX_CPUS];

static const u8 *find_table(const char *signature)
{
    const u8 *rsdp = (const u8 *)(ulong)start_info->rsdp_paddr;
    const u8 *xsdt = (const u8 *)(ulong) * (const u64 *)(rsdp + 24);
    u32 length = *(const u32 *)(xsdt + 4);

    for (u32 at = 36; at < length; at += 8) {
        const u8 *table = (const u8 *)(ulong) * (const u64 *)(xsdt + at);

        if (!memcmp(table, signature, 4))
            return table;
    }
    return NULL;
}

static u32 count_in_madt(void)
{
    const u8 *madt = find_table("APIC");
    u32 n = 0, length;

    if (!madt)
        return 1;
    length = *(const u32 *)(madt + 4);
    for (u32 at = 44; at + 2 <= length && madt[at + 1]; at += madt[at + 1])
        if (madt[at] == 0 && madt[at + 4] & 1 && n < MAX_CPUS)
            madt_ids[n++] = madt[at + 3];
    return n;
}

TEST(madt)
{
    const u8 *madt = find_table("APIC");
    u8 sum = 0;

    CHECK(madt);
    for (u32 i = 0; i < *(const u32 *)(madt + 4); i++)
        sum = (u8)(sum + madt[i]);
    CHECK_EQUAL(sum, 0);
    CHECK_EQUAL(*(const u32 *)(madt + 36), APIC_PAGE);
    CHECK(cpus >= 1);
    CHECK_EQUAL(madt_ids[0], apic_own_id());
}

TEST(all_cpus_start)
{
    for (u32 i = 1; i < cpus; i++)
        if (!start_cpu(madt_ids[i]))
            FAIL("CPU %u (APIC id %u) didn't come", i, madt_ids[i]);
    CHECK_EQUAL(cpus_online, cpus);
    for (u32 i = 1; i < cpus; i++) {
        CHECK_EQUAL(cpu_apic_id[i], madt_ids[i]);
        on_cpu(i, enable_here, NULL);
        CHECK(wait_cpu(i, ENOUGH));
    }
}

static bool wait_ipis(u32 cpu, u32 count)
{
    u64 begin = rdtsc();

    while (ipis[cpu] < count && rdtsc() - begin < ENOUGH)
        pause();
    return ipis[cpu] == count;
}

static void clear(void)
{
    memset((void *)ipis, 0, sizeof(ipis));
}

TEST(physical_ipi)
{
    for (u32 i = 0; i < cpus; i++) {
        clear();
        apic_send(cpu_apic_id[i], VEC_IPI);
        CHECK(wait_ipis(i, 1));
        for (u32 other = 0; other < cpus; other++)
            CHECK_EQUAL(ipis[other], other == i);
    }
}

TEST(shorthands)
{
    clear();
    apic_send(0, ICR_ALL | VEC_IPI);
    for (u32 i = 0; i < cpus; i++)
        CHECK(wait_ipis(i, 1));
    clear();
    apic_send(0, ICR_OTHERS | VEC_IPI);
    for (u32 i = 1; i < cpus; i++)
        CHECK(wait_ipis(i, 1));
    CHECK_EQUAL(ipis[0], 0);
    clear();
    apic_send(0xff, VEC_IPI); /* physical broadcast */
    for (u32 i = 0; i < cpus; i++)
        CHECK(wait_ipis(i, 1));
}

static void set_logical(void *argument)
{
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 1u << (24 + cpu_index()));
}

TEST(logical_flat_ipi)
{
    u32 n = cpus < 8 ? cpus : 8;

    set_logical(NULL);
    for (u32 i = 1; i < n; i++) {
        on_cpu(i, set_logical, NULL);
        CHECK(wait_cpu(i, ENOUGH));
    }
    for (u32 i = 0; i < n; i++) {
        clear();
        apic_send(1u << i, ICR_LOGICAL | VEC_IPI);
        CHECK(wait_ipis(i, 1));
    }
    clear();
    apic_send(0xff, ICR_LOGICAL | VEC_IPI);
    for (u32 i = 0; i < n; i++)
        CHECK(wait_ipis(i, 1));
}

static void set_cluster(void *argument)
{
    apic_write(APIC_DFR, 0x0fffffff);
    apic_write(APIC_LDR, ((cpu_index() / 4) << 28) | (1u << (24 + cpu_index() % 4)));
}

TEST(logical_cluster_ipi)
{
    set_cluster(NULL);
    for (u32 i = 1; i < cpus; i++) {
        on_cpu(i, set_cluster, NULL);
        CHECK(wait_cpu(i, ENOUGH));
    }
    for (u32 i = 0; i < cpus; i++) {
        clear();
        apic_send((i / 4) << 4 | 1u << (i % 4), ICR_LOGICAL | VEC_IPI);
        CHECK(wait_ipis(i, 1));
        for (u32 other = 0; other < cpus; other++)
            CHECK_EQUAL(ipis[other], other == i);
    }
}

/* Back to flat for what follows. */
TEST(many_ipis_each_way)
{
    for (u32 round = 0; round < 200; round++) {
        clear();
        apic_send(0, ICR_ALL | VEC_IPI);
        for (u32 i = 0; i < cpus; i++)
            if (!wait_ipis(i, 1))
                FAIL("round %u: CPU %u has %u", round, i, ipis[i]);
    }
}

static volatile u32 total;

static void add_many(void *argument)
{
    for (u32 i = 0; i < 20000; i++)
        asm volatile("lock incl %0" : "+m"(total));
}

TEST(atomics_lose_nothing)
{
    total = 0;
    for (u32 i = 1; i < cpus; i++)
        on_cpu(i, add_many, NULL);
    add_many(NULL);
    for (u32 i = 1; i < cpus; i++)
        CHECK(wait_cpu(i, ENOUGH));
    CHECK_EQUAL(total, 20000 * cpus);
}

static volatile u32 lock_word, guarded_count;

static void add_under_lock(void *argument)
{
    for (u32 i = 0; i < 2000; i++) {
        while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
            pause();
        guarded_count = guarded_count + 1;
        __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
    }
}

TEST(spin_lock)
{
    guarded_count = 0;
    for (u32 i = 1; i < cpus; i++)
        on_cpu(i, add_under_lock, NULL);
    add_under_lock(NULL);
    for (u32 i = 1; i < cpus; i++)
        CHECK(wait_cpu(i, ENOUGH));
    CHECK_EQUAL(guarded_count, 2000 * cpus);
}

/* Code that another CPU has run, changed by this one. */
static u8 code[64] __attribute__((aligned(64)));
static volatile u32 code_result;

static void run_code(void *argument)
{
    code_result = ((u32(*)(void))code)();
}

TEST(code_changed_by_another_cpu)
{
    for (u32 round = 1; round < 50; round++) {
        code[0] = 0xb8;
        *(volatile u32 *)(code + 1) = round;
        code[5] = 0xc3;
        for (u32 i = 1; i < cpus; i++) {
            on_cpu(i, run_code, NULL);
            CHECK(wait_cpu(i, ENOUGH));
            CHECK_EQUAL(code_result, round);
        }
    }
}

static void halt_once(void *argument)
{
    u32 before = ipis[cpu_index()];

    cli();
    while (ipis[cpu_index()] == before) {
        sti_hlt();
        cli();
    }
    sti();
}

TEST(ipi_wakes_a_halted_cpu)
{
    clear();
    for (u32 i = 1; i < cpus; i++) {
        on_cpu(i, halt_once, NULL);
        for (u32 n = 0; n < 20; n++)
            sched_op(SCHEDOP_yield, NULL);
        apic_send(cpu_apic_id[i], VEC_IPI);
        CHECK(wait_cpu(i, ENOUGH));
    }
}

/* ---- events between vCPUs ---- */

static volatile u32 event_cpu[MAX_CPUS];

static void note_cpu(u32 port)
{
    atomic_add(&event_cpu[cpu_index()], 1);
}

TEST(event_ipis)
{
    u32 port;

    events_init();
    for (u32 i = 0; i < cpus; i++) {
        u64 begin = rdtsc();

        CHECK_RESULT(bind_ipi(i, &port), 0);
        on_event(port, note_cpu);
        unmask_event(port);
        CHECK_RESULT(send_event(port), 0);
        while (!event_cpu[i] && rdtsc() - begin < ENOUGH)
            pause();
        CHECK_EQUAL(event_cpu[i], 1);
    }
}

TEST(channel_moves_between_vcpus)
{
    struct evtchn_alloc_unbound a = { DOMID_SELF, DOMID_SELF, 0 };
    struct evtchn_bind_interdomain b = { DOMID_SELF, 0, 0 };

    CHECK_RESULT(event_op(EVTCHNOP_alloc_unbound, &a), 0);
    b.remote_port = a.port;
    CHECK_RESULT(event_op(EVTCHNOP_bind_interdomain, &b), 0);
    clear_event(b.local_port);
    on_event(a.port, note_cpu);
    unmask_event(a.port);
    for (u32 i = 0; i < cpus; i++) {
        struct evtchn_bind_vcpu v = { a.port, i };
        u64 begin = rdtsc();

        memset((void *)event_cpu, 0, sizeof(event_cpu));
        CHECK_RESULT(event_op(EVTCHNOP_bind_vcpu, &v), 0);
        CHECK_RESULT(send_event(b.local_port), 0);
        while (!event_cpu[i] && rdtsc() - begin < ENOUGH)
            pause();
        CHECK_EQUAL(event_cpu[i], 1);
    }
}

static volatile u64 other_time;

static void take_time(void *argument)
{
    other_time = system_time();
}

TEST(time_agrees_between_cpus)
{
    for (u32 round = 0; round < 20; round++)
        for (u32 i = 1; i < cpus; i++) {
            u64 before = system_time(), after;

            on_cpu(i, take_time, NULL);
            CHECK(wait_cpu(i, ENOUGH));
            after = system_time();
            if (other_time < before || other_time > after)
                FAIL("CPU %u: %llu is not in %llu .. %llu", i, other_time, before, after);
        }
}

#if PAGING_LEVELS
static volatile u32 window_value;

static void read_window(void *argument)
{
    invlpg(WINDOW_BASE);
    window_value = *(volatile u32 *)(ulong)WINDOW_BASE;
}

/* Page tables are shared: another CPU sees a change after its own INVLPG. */
TEST(tlb_of_another_cpu)
{
    u32 *a = alloc_page(), *b = alloc_page();

    *a = 1;
    *b = 2;
    for (u32 i = 1; i < cpus; i++) {
        map_page(WINDOW_BASE, (ulong)a, PTE_P);
        on_cpu(i, read_window, NULL);
        CHECK(wait_cpu(i, ENOUGH));
        CHECK_EQUAL(window_value, 1);
        map_page(WINDOW_BASE, (ulong)b, PTE_P);
        on_cpu(i, read_window, NULL);
        CHECK(wait_cpu(i, ENOUGH));
        CHECK_EQUAL(window_value, 2);
    }
}
#endif

static void stop_here(void *argument)
{
    for (;;)
        asm volatile("cli; hlt"); /* takes the vCPU down */
}

/* Last: HLT with interrupts off takes a vCPU down; INIT and start-up bring it back. */
TEST(cpu_goes_down_and_comes_back)
{
    u32 before;

    if (cpus < 2)
        SKIP("one CPU");
    on_cpu(1, stop_here, NULL);
    for (u64 begin = system_time();
         vcpu_op(VCPUOP_is_up, 1, NULL) == 1 && system_time() - begin < 3000000000ull;)
        sched_op(SCHEDOP_yield, NULL);
    CHECK_RESULT(vcpu_op(VCPUOP_is_up, 1, NULL), 0);
    before = cpus_online;
    on_cpu(1, NULL, NULL);
    ap_ticket = 0; /* it takes stack 1 again */
    CHECK(start_cpu(cpu_apic_id[1]));
    CHECK_EQUAL(cpus_online, before + 1);
    CHECK_RESULT(vcpu_op(VCPUOP_is_up, 1, NULL), 1);
}

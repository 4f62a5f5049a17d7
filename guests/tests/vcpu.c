/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vcpu_op (public/vcpu.h): registered areas, runstates, bring-up by VCPUOP_initialise, timers of
 * other vCPUs.  Some tests want two vCPUs.
 */
#include "test.h"
#include "xen.h"

static u32 vcpus(void)
{
    u32 n = 1;

    while (n < MAX_CPUS && vcpu_op(VCPUOP_is_up, n, NULL) >= 0)
        n++;
    return n;
}

TEST(first_vcpu_is_up)
{
    CHECK_RESULT(vcpu_op(VCPUOP_is_up, 0, NULL), 1);
    CHECK_RESULT(vcpu_op(VCPUOP_is_up, 5000, NULL), -ENOENT);
    CHECK_RESULT(vcpu_op(99, 0, NULL), -ENOSYS);
}

TEST(runstate_info)
{
    static struct vcpu_runstate_info info;

    CHECK_RESULT(vcpu_op(VCPUOP_get_runstate_info, 0, &info), 0);
    CHECK_EQUAL(info.state, RUNSTATE_running);
    CHECK(info.time[RUNSTATE_running] > 0);
    CHECK(info.state_entry_time <= system_time());
}

static struct vcpu_runstate_info runstate_area __attribute__((aligned(64)));

TEST(runstate_area_is_kept_up)
{
    struct {
        u64 address;
    } area = { (ulong)&runstate_area };
    u64 blocked, slept;
    u64 begin;

    CHECK_RESULT(vcpu_op(VCPUOP_register_runstate_memory_area, 0, &area), 0);
    CHECK_EQUAL(runstate_area.state, RUNSTATE_running);
    barrier();
    blocked = *(volatile u64 *)&runstate_area.time[RUNSTATE_blocked];
    begin = system_time();
    {
        u32 port;
        struct sched_poll p = { &port, 1, begin + 5000000 };

        CHECK_RESULT(bind_ipi(0, &port), 0);
        CHECK_RESULT(sched_op(SCHEDOP_poll, &p), 0);
    }
    slept = system_time() - begin;
    barrier();
    CHECK(*(volatile u64 *)&runstate_area.time[RUNSTATE_blocked] >= blocked + 1000000);
    CHECK(*(volatile u64 *)&runstate_area.time[RUNSTATE_blocked] <= blocked + slept);
    CHECK_EQUAL(*(volatile s32 *)&runstate_area.state, RUNSTATE_running);
}

TEST(bad_areas)
{
    struct vcpu_register_vcpu_info r = { 0xfffff000u, 0, 0 };

    CHECK_RESULT(vcpu_op(VCPUOP_register_vcpu_info, 0, &r), -EINVAL);
    r.mfn = (ulong)alloc_page() >> PAGE_SHIFT;
    r.offset = 4096 - 32; /* must lie in one page */
    CHECK_RESULT(vcpu_op(VCPUOP_register_vcpu_info, 0, &r), -ENXIO);
    r.offset = 2; /* and be aligned */
    CHECK_RESULT(vcpu_op(VCPUOP_register_vcpu_info, 0, &r), -ENXIO);
}

static struct vcpu_info own_infos[MAX_CPUS] PAGE_ALIGNED;

TEST(vcpu_info_moves_once)
{
    struct vcpu_register_vcpu_info r = { (ulong)own_infos >> PAGE_SHIFT, 0, 0 };
    u32 port;

    events_init();
    CHECK_RESULT(vcpu_op(VCPUOP_register_vcpu_info, 0, &r), 0);
    vcpu_infos[0] = &own_infos[0];
    CHECK(own_infos[0].time.tsc_to_system_mul);
    /* Xen raises the upcall, since events may have come while it moved. */
    CHECK_EQUAL(own_infos[0].evtchn_upcall_pending, 1);
    CHECK_RESULT(vcpu_op(VCPUOP_register_vcpu_info, 0, &r), -EINVAL);
    sti();
    cli();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    unmask_event(port);
    asm volatile("sti; nop; nop; cli" ::: "memory");
    upcalls[0] = 0;
    CHECK_RESULT(send_event(port), 0);
    CHECK_EQUAL(own_infos[0].evtchn_upcall_pending, 1);
    asm volatile("sti; nop; nop; cli" ::: "memory");
    CHECK_EQUAL(upcalls[0], 1);
}

TEST(time_area)
{
    static struct vcpu_time_info area;
    struct {
        u64 address;
    } r = { (ulong)&area };
    u64 time;

    CHECK_RESULT(vcpu_op(VCPUOP_register_vcpu_time_memory_area, 0, &r), 0);
    CHECK_EQUAL(area.tsc_to_system_mul, vcpu_infos[0]->time.tsc_to_system_mul);
    CHECK_EQUAL(area.tsc_shift, vcpu_infos[0]->time.tsc_shift);
    time = *(volatile u64 *)&area.system_time;
    CHECK(time <= system_time());
}

TEST(physical_id)
{
    u64 id = 0;
    long rc = vcpu_op(VCPUOP_get_physid, 0, &id);

    CHECK_RESULT(rc, -EINVAL); /* only a pinned hardware domain may know */
}

static volatile u32 nmis;

static void nmi(struct regs *r)
{
    nmis++;
}

TEST(send_nmi)
{
    nmis = 0;
    set_vector(VEC_NMI, nmi);
    CHECK_RESULT(vcpu_op(VCPUOP_send_nmi, 0, NULL), 0);
    for (volatile u32 i = 0; i < 1000 && !nmis; i++)
        ;
    set_vector(VEC_NMI, NULL);
    CHECK_EQUAL(nmis, 1);
}

/* ---- a second vCPU ---- */

static volatile u32 came, came_mode;
extern u8 vcpu_entry[];
#if BITS == 64
asm("vcpu_entry:\n lgdt gdt_pointer\n mov $1, %eax\n cpuid\n mov %ebx, came\n"
    "mov %cs, %eax\n mov %eax, came_mode\n1: pause\n jmp 1b\n");
#else
asm("vcpu_entry:\n mov $1, %eax\n cpuid\n or $1, %ebx\n mov %ebx, came\n"
    "mov %cr0, %eax\n mov %eax, came_mode\n1: pause\n jmp 1b\n");
#endif

static bool wait_for(volatile u32 *what)
{
    u64 begin = system_time();

    while (!*what && system_time() - begin < 3000000000ull) {
        pause();
        sched_op(SCHEDOP_yield, NULL);
    }
    return *what;
}

static void context(struct vcpu_hvm_context *c)
{
    memset(c, 0, sizeof(*c));
#if BITS == 64
    c->mode = 1;
    c->x86_64.rip = (ulong)vcpu_entry;
    c->x86_64.rsp = (ulong)cpu_stacks + 2 * STACK_SIZE;
    c->x86_64.rflags = 2;
    c->x86_64.cr0 = read_cr0();
    c->x86_64.cr3 = read_cr3();
    c->x86_64.cr4 = read_cr4();
    c->x86_64.efer = rdmsr(MSR_EFER);
#else
    c->mode = 0;
    c->x86_32.eip = (ulong)vcpu_entry;
    c->x86_32.esp = (ulong)cpu_stacks + 2 * STACK_SIZE;
    c->x86_32.eflags = 2;
    c->x86_32.cr0 = 0x11;
    c->x86_32.cs_limit = c->x86_32.ds_limit = c->x86_32.ss_limit = c->x86_32.es_limit = ~0u;
    c->x86_32.tr_limit = 0x67;
    c->x86_32.cs_ar = 0xc9b;
    c->x86_32.ds_ar = c->x86_32.ss_ar = c->x86_32.es_ar = 0xc93;
    c->x86_32.tr_ar = 0x8b;
#endif
}

TEST(bad_contexts)
{
    static struct vcpu_hvm_context c;

    if (vcpus() < 2)
        SKIP("one vCPU");
    context(&c);
    c.mode = 7;
    CHECK_RESULT(vcpu_op(VCPUOP_initialise, 1, &c), -EINVAL);
    context(&c);
    c.pad = 1;
    CHECK_RESULT(vcpu_op(VCPUOP_initialise, 1, &c), -EINVAL);
#if BITS == 64
    context(&c);
    c.x86_64.efer = 0; /* 64-bit registers need long mode */
    CHECK_RESULT(vcpu_op(VCPUOP_initialise, 1, &c), -EINVAL);
#else
    context(&c);
    c.x86_32.cs_ar = 0; /* not present */
    CHECK_RESULT(vcpu_op(VCPUOP_initialise, 1, &c), -EINVAL);
#endif
    CHECK_RESULT(vcpu_op(VCPUOP_initialise, 1, (void *)0xd0000000), -EFAULT);
    CHECK_RESULT(vcpu_op(VCPUOP_up, 1, NULL), -EINVAL); /* not initialised */
}

TEST(initialise_and_up)
{
    static struct vcpu_hvm_context c;
    static struct vcpu_runstate_info info;

    if (vcpus() < 2)
        SKIP("one vCPU");
    CHECK_RESULT(vcpu_op(VCPUOP_is_up, 1, NULL), 0);
    CHECK_RESULT(vcpu_op(VCPUOP_get_runstate_info, 1, &info), 0);
    CHECK_EQUAL(info.state, RUNSTATE_offline);
    context(&c);
    CHECK_RESULT(vcpu_op(VCPUOP_initialise, 1, &c), 0);
    CHECK_RESULT(vcpu_op(VCPUOP_initialise, 1, &c), -EEXIST);
    CHECK_EQUAL(came, 0);
    CHECK_RESULT(vcpu_op(VCPUOP_up, 1, NULL), 0);
    CHECK(wait_for(&came));
    CHECK_RESULT(vcpu_op(VCPUOP_is_up, 1, NULL), 1);
#if BITS == 32
    CHECK_EQUAL(came_mode & 0x80000001, 1); /* paging off, protection on */
#endif
    CHECK_EQUAL(came >> 24, cpuid(1, 0).b >> 24 == 0 ? 2 : came >> 24); /* APIC id of vCPU 1 */
}

TEST(down_and_up_again)
{
    static struct vcpu_runstate_info before, after;
    u64 begin;

    if (vcpus() < 2)
        SKIP("one vCPU");
    if (vcpu_op(VCPUOP_is_up, 1, NULL) != 1)
        SKIP("vCPU 1 isn't up");
    CHECK_RESULT(vcpu_op(VCPUOP_down, 1, NULL), 0);
    CHECK_RESULT(vcpu_op(VCPUOP_is_up, 1, NULL), 0);
    vcpu_op(VCPUOP_get_runstate_info, 1, &before);
    begin = system_time();
    while (system_time() - begin < 2000000)
        sched_op(SCHEDOP_yield, NULL);
    vcpu_op(VCPUOP_get_runstate_info, 1, &after);
    CHECK_EQUAL(after.time[RUNSTATE_running], before.time[RUNSTATE_running]);
    CHECK_EQUAL(after.state, RUNSTATE_offline);
    CHECK_RESULT(vcpu_op(VCPUOP_up, 1, NULL), 0);
    CHECK_RESULT(vcpu_op(VCPUOP_is_up, 1, NULL), 1);
    CHECK_RESULT(vcpu_op(VCPUOP_down, 1, NULL), 0);
}

/* A vCPU sees its own id where CPUID tells it. */
TEST(cpuid_tells_vcpu_and_domain)
{
    struct cpuid r = cpuid(xen.cpuid_base + 4, 0);

    CHECK(r.a & 8);
    CHECK_EQUAL(r.b, 0);
    CHECK(r.a & 16);
    CHECK(r.c > 0 && r.c < 0x7ff0);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A guest that means harm: random hypercalls with random arguments and pointers, random port,
 * MMIO, MSR and CPUID accesses, from a seed.
 *
 *   seed=N    the random sequence (default 1)
 *   count=N   how many hypercalls (default 1000000; 0: it never ends)
 *   all       leave nothing out, so that it may well end itself
 *   burst=N   compute for N rounds before each call, so that it runs beside others (default 0)
 *   devices   for an HVM guest: half of the MMIO accesses go to the I/O APIC's and HPET's registers
 *
 * Left out otherwise: what ends or blocks this guest itself (shutdown, block, its own VCPUOP_down,
 * watchdogs, parameters that crash their owner, INIT to itself), and what takes its own code away.
 */
#include "apic.h"
#include "xen.h"

/* Far from our own image, so that results which run over its end hit nothing of ours. */
#define ARENA_PAGES 64
#define arena ((u8(*)[4096])0x1800000ul)
#define ARENA_BYTES (ARENA_PAGES * 4096)
#define VICTIM_GFN 0x2000 /* 32 MiB: pages that may come and go */
#define VICTIM_COUNT 0x400

static u64 state;
static bool leave_nothing_out, has_devices;
static u64 calls, ports, mmios, msrs, traps, answered;

static u64 next(void) /* xorshift64* */
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dull;
}

static u32 below(u32 n)
{
    return (u32)(next() >> 33) % n;
}

static ulong victim(void)
{
    return VICTIM_GFN + below(VICTIM_COUNT);
}

static ulong arena_address(void)
{
    return (ulong)arena + below(ARENA_BYTES - 4096);
}

/* Addresses: good, at the edges of pages, and bad in every way. */
static ulong some_pointer(void)
{
    switch (below(10)) {
    case 0:
        return 0;
    case 1:
        return ~0ul - below(16);
    case 2:
        return 0xd0000000ul + below(0x10000);
    case 3:
        return 0xfee00000ul + below(0x1000);
    case 4:
        return (ulong)arena[1 + below(ARENA_PAGES - 1)] - below(64);
#if BITS == 64
    case 5:
        return next() | 0xffff000000000000ull;
    case 6:
        return next() & 0x00007fffffffffffull & ~0xffffffffull;
#endif
    default:
        return arena_address() & ~7ul;
    }
}

static u64 some_word(void)
{
    switch (below(12)) {
    case 0:
    case 1:
    case 2:
    case 3:
        return below(4);
    case 4:
        return DOMID_SELF;
    case 5:
        return 0;
    case 6:
        return below(2) ? 0xffffffff : ~0ull;
    case 7:
        return 1ull << (25 + below(39)); /* not into our own image */
    case 8:
    case 9:
        return some_pointer();
    case 10:
        return victim();
    default:
        return next() | 1ull << 40 | 1ull << 28; /* in both widths beyond our memory */
    }
}

/* Halves of two values may make a pointer into our own image, stack included: not so. */
static void spare_ourselves(u8 *at)
{
    ulong word;
    u32 low;

    memcpy(&word, at, sizeof(word));
    if (word < 0xf0000 || word >= 0x400000 || leave_nothing_out)
        return;
    low = (u32)word | 1u << 28;
    memcpy(at, &low, sizeof(low));
}

static void fill(void *at, u32 bytes)
{
    for (u32 i = 0; i + 4 <= bytes; i += 4) {
        u64 word = some_word();

        memcpy((u8 *)at + i, &word, i + 8 <= bytes && below(2) ? 8 : 4);
    }
    for (u32 i = 0; i < bytes + 8; i += 4)
        spare_ourselves((u8 *)at + i - 4);
}

/* ---- hypercalls ---- */

static const u32 families[] = {
    HYPERVISOR_memory_op, HYPERVISOR_memory_op, HYPERVISOR_multicall, HYPERVISOR_set_timer_op,
    HYPERVISOR_xen_version, HYPERVISOR_console_io, HYPERVISOR_grant_table_op,
    HYPERVISOR_grant_table_op, HYPERVISOR_vm_assist, HYPERVISOR_vcpu_op, HYPERVISOR_vcpu_op,
    HYPERVISOR_sched_op, HYPERVISOR_event_channel_op, HYPERVISOR_event_channel_op,
    HYPERVISOR_event_channel_op, HYPERVISOR_physdev_op, HYPERVISOR_hvm_op, HYPERVISOR_hvm_op,
    HYPERVISOR_domctl, HYPERVISOR_sysctl, 7 /* platform_op */, 26 /* mmuext_op */,
    27 /* xsm_op */, 31 /* xenoprof */, 37 /* kexec */, 39 /* argo */, 40 /* pmu */, 41 /* dm_op */,
    42 /* hypfs */, 48 /* mca */, 49 /* paging_domctl_cont */,
};

/* A well-formed memory operation on pages that may go, so that something happens. */
static void plausible_memory_op(void)
{
    static ulong list[16];
    struct xen_memory_reservation r = { list, 1 + below(16), below(3), 0, DOMID_SELF };

    for (u32 i = 0; i < ARRAY_SIZE(list); i++)
        list[i] = victim() & ~7ul;
    switch (below(5)) {
    case 0:
        memory_op(XENMEM_decrease_reservation, &r);
        break;
    case 1:
    case 2:
        memory_op(XENMEM_populate_physmap, &r);
        break;
    case 3:
        add_to_physmap(below(5), below(2) ? victim() : below(40), victim());
        break;
    default: {
        struct xen_remove_from_physmap m = { DOMID_SELF, victim() };

        memory_op(XENMEM_remove_from_physmap, &m);
    }
    }
}

/* Nonsense in the place of a task state segment crashes the domain that sets it. */
static void sane_parameter(struct xen_hvm_param *p)
{
    if (p->index == HVM_PARAM_VM86_TSS || p->index == HVM_PARAM_VM86_TSS_SIZED)
        p->index = HVM_PARAM_CALLBACK_IRQ;
}

static bool ends_us(u32 number, const ulong *a)
{
    u32 command = (u32)a[0]; /* Xen takes an int */

    if (number == HYPERVISOR_sched_op)
        return command == SCHEDOP_shutdown || command == SCHEDOP_block ||
               command == SCHEDOP_poll || command == SCHEDOP_watchdog ||
               command == SCHEDOP_shutdown_code;
    if (number == HYPERVISOR_vcpu_op)
        return command == VCPUOP_down;
    return number == HYPERVISOR_console_io; /* it would flood the log */
}

static void random_hypercall(void *argument)
{
    ulong a[5];
    u32 number = families[below(ARRAY_SIZE(families))];
    void *structure = (void *)(arena_address() & ~63ul);

    (void)argument;
    if (!below(50))
        number = below(64);
    if (!below(6)) {
        plausible_memory_op();
        return;
    }
    fill(structure, 64 + below(64));
    for (u32 i = 0; i < 5; i++)
        a[i] = (ulong)some_word();
    if (number == HYPERVISOR_multicall) {
        struct multicall_entry *e = structure;

        a[0] = below(4) ? (ulong)e : some_pointer();
        /* A long list is worked off piece by piece, to no end but taking long. */
        a[1] = below(4) || leave_nothing_out ? 1 + below(2) : 100 + below(1000);
        if (leave_nothing_out && !below(1000))
            a[1] = (ulong)some_word();
        e[0].op = families[below(ARRAY_SIZE(families))];
        if (e[0].op == HYPERVISOR_sched_op || e[0].op == HYPERVISOR_vcpu_op ||
            e[0].op == HYPERVISOR_console_io)
            e[0].op = HYPERVISOR_event_channel_op;
        e[1].op = 100 + below(100);
    } else if (number != HYPERVISOR_set_timer_op && number != HYPERVISOR_domctl &&
               number != HYPERVISOR_sysctl) {
        a[0] = below(50) ? below(32) : (ulong)some_word();
        a[1] = below(4) ? (ulong)structure : some_pointer();
        if (number == HYPERVISOR_vcpu_op) {
            a[1] = below(8) ? below(3) : (ulong)some_word();
            a[2] = below(4) ? (ulong)structure : some_pointer();
        }
        if (number == HYPERVISOR_grant_table_op)
            a[2] = below(4);
        if (number == HYPERVISOR_hvm_op && below(2)) {
            struct xen_hvm_param *p = structure;

            p->domid = below(4) ? DOMID_SELF : (u16)next();
            p->index = below(45);
            p->value = some_word();
        }
    } else if (below(2))
        a[0] = (ulong)structure;
    if (number == HYPERVISOR_hvm_op && a[0] == HVMOP_set_param && !leave_nothing_out) {
        a[1] = (ulong)structure;
        sane_parameter(structure);
    }
    if (ends_us(number, a) && !leave_nothing_out)
        return;
    calls++;
    if (hypercall(number, a[0], a[1], a[2], a[3], a[4]) >= 0)
        answered++;
}

/* ---- the rest ---- */

static void random_port(void *argument)
{
    u16 port = (u16)next();
    ulong at = (ulong)arena[below(ARENA_PAGES - 1)] + below(4096), n = below(20);

    (void)argument;
    if ((port & ~3u) == 0xe8)
        return; /* the debug console: it would flood the log */
    ports++;
    switch (below(8)) {
    case 0:
        out8(port, (u8)next());
        break;
    case 1:
        out16(port, (u16)next());
        break;
    case 2:
        out32(port, (u32)next());
        break;
    case 3:
        asm volatile("rep insb" : "+D"(at), "+c"(n) : "d"(port) : "memory");
        break;
    case 4:
        asm volatile("rep outsw" : "+S"(at), "+c"(n) : "d"(port) : "memory");
        break;
    case 5:
        (void)in16(port);
        break;
    case 6:
        (void)in32(port);
        break;
    default:
        (void)in8(port);
    }
}

/* A register of the I/O APIC or the HPET; for the window, one that has an effect is selected. */
static ulong device_register(u64 *value)
{
    static const u16 hpet[] = { 0x10, 0x10, 0x20, 0x20, 0xf0 };

    if (below(2)) {
        *(volatile u32 *)0xfec00000 = below(4) ? 0x10 + below(96) : (u32)next();
        if (below(2))
            *value &= 0xf0ff; /* no mask, and a mode that delivers */
        return 0xfec00000 + (below(8) ? 0x10 : below(0x100));
    }
    if (below(2))
        *value &= 0x3fff;
    return 0xfed00000 + (below(2) ? hpet[below(ARRAY_SIZE(hpet))] : 0x100 + 4 * below(24));
}

static void random_mmio(void *argument)
{
    static const ulong pages[] = { 0xfee00000, 0xfec00000, 0xfed00000, 0xfeff8000, 0xfeff9000,
                                   0xfeffe000, 0xfefff000, 0xfc000000, 0xd0000000, 0xfffff000 };
    ulong at = pages[below(ARRAY_SIZE(pages))] + below(4096 - 8);
    bool write = below(2);
    u64 value = next();

    (void)argument;
    if (below(3) == 0)
        at = 0x80000000ul + ((ulong)next() & 0x7ffffff8ul);
    if (at >> 12 == 0xfee00 && (at & 0xff8) >= 0x2f8 && (at & 0xff8) <= 0x310) {
        at = 0xfee00300;
        value &= ~0x700ull; /* no INIT to ourselves */
    }
    if (has_devices && below(2))
        at = device_register(&value);
    mmios++;
    switch (below(4)) {
    case 0:
        if (write)
            *(volatile u8 *)at = (u8)value;
        else
            (void)*(volatile u8 *)at;
        break;
    case 1:
        if (write)
            *(volatile u16 *)at = (u16)value;
        else
            (void)*(volatile u16 *)at;
        break;
    case 2:
        if (write)
            *(volatile u32 *)at = (u32)value;
        else
            (void)*(volatile u32 *)at;
        break;
    default:
        if (write)
            *(volatile u64 *)at = value;
        else
            (void)*(volatile u64 *)at;
    }
}

static void random_msr(void *argument)
{
    static const u32 known[] = { 0x10, 0x1b, 0x8b, 0xfe, 0x174, 0x175, 0x176, 0x179, 0x1a0, 0x1d9,
                                 0x200, 0x250, 0x277, 0x2ff, 0x48, 0x49, 0x10a, 0x6e0, 0xc0000081,
                                 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102,
                                 0xc0000103, 0xc0010015, 0x40000000, 0x40000001 };
    u32 msr = below(2) ? known[below(ARRAY_SIZE(known))] : (u32)next();
    u64 value = below(2) ? some_word() : next();

    (void)argument;
    if (!below(8))
        msr = 0x800 + below(0x40);
    if (msr == 0x830)
        value &= ~0x700ull;
    if (msr == 0x1b)
        value |= 0xfee00800ull;
    msrs++;
    if (below(2))
        (void)rdmsr(msr);
    else
        wrmsr(msr, value);
}

static void random_cpuid(void *argument)
{
    (void)argument;
    (void)cpuid(below(2) ? 0x40000000u + below(0x200) : (u32)next(), below(8));
}

static void open_window(void *argument)
{
    (void)argument;
    asm volatile("sti; nop; nop; cli" ::: "memory");
}

static void interrupt(struct regs *r)
{
    (void)r; /* vectors that others may raise: no matter */
}

void guest_main(void)
{
    u64 count = option_number("count", 1000000), seed = option_number("seed", 1);
    u64 step = count ? div64(count, 10, NULL) : 100000, shown = 0;
    u64 burst = option_number("burst", 0);

    state = seed * 0x9e3779b97f4a7c15ull | 1;
    leave_nothing_out = option("all", NULL, 0);
    has_devices = option("devices", NULL, 0);
    if (!xen.present)
        panic("this guest wants Xen");
    print_sink = console_io_sink; /* what it does to its console ring is nobody's business */
    print("hostile: seed %llu, %llu hypercalls\n", seed, count);
    for (u32 v = 32; v < 256; v++)
        if (v != VEC_USER_RETURN)
            set_vector(v, interrupt);
    fill(arena[1], ARENA_BYTES - 2 * 4096);
    while (!count || calls < count) {
        void (*what)(void *) = random_hypercall;

        for (volatile u64 i = 0; i < burst; i++)
            ;
        switch (below(16)) {
        case 0:
            what = random_port;
            break;
        case 1:
            what = random_mmio;
            break;
        case 2:
            what = random_msr;
            break;
        case 3:
            what = below(8) ? random_cpuid : open_window;
            break;
        }
        if (!guarded(what, NULL))
            traps++;
        if (step && calls >= shown + step) {
            shown = calls;
            print("hostile: %llu calls, %llu answered, %llu ports, %llu MMIO, %llu MSRs, "
                  "%llu traps\n",
                  calls, answered, ports, mmios, msrs, traps);
        }
    }
    print("hostile: done\n");
    xen_shutdown(SHUTDOWN_poweroff);
}

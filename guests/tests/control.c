/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Control registers, EFER, other MSRs, CPUID, TSC: what is kept, what faults (Intel SDM volume
 * 3, chapters 2 and 17; AMD APM volume 2, chapter 3).
 */
#include "test.h"
#include "xen.h"

static void check_cr0(ulong value, bool faults, const char *what)
{
    ulong old = read_cr0();

    trap_clear();
    try_write_cr0(value);
    if (!faults)
        write_cr0(old);
    if (faults && (trap.count != 1 || trap.vector != VEC_GP || trap.error))
        test_failed(0, "%s: %u traps, vector %u", what, trap.count, trap.vector);
    if (!faults && trap.count)
        test_failed(0, "%s: trap %u", what, trap.vector);
    if (faults && read_cr0() != old)
        test_failed(0, "%s: CR0 changed to %lx", what, read_cr0());
}

TEST(cr0_rules)
{
    ulong cr0 = read_cr0();

    check_cr0(cr0 | CR0_NW, true, "NW without CD");
    check_cr0(cr0 | CR0_TS, false, "TS");
    check_cr0(cr0 ^ CR0_WP, false, "WP");
    check_cr0(cr0 | CR0_CD, false, "CD");
#if BITS == 64
    check_cr0(cr0 | 1ul << 32, true, "bit 32");
#endif
}

TEST(cr0_et_is_fixed)
{
    ulong cr0 = read_cr0();

    write_cr0(cr0 & ~(1ul << 4));
    CHECK(read_cr0() & 1 << 4);
    write_cr0(cr0);
}

TEST(cr4_reserved_bits_fault)
{
    ulong cr4 = read_cr4();
    static const u8 reserved[] = { 15, 24, 29, 31 };

    if (!xen.present)
        SKIP("QEMU hangs");
    for (unsigned i = 0; i < ARRAY_SIZE(reserved); i++) {
        trap_clear();
        try_write_cr4(cr4 | 1ul << reserved[i]);
        if (trap.count != 1 || trap.vector != VEC_GP) {
            write_cr4(cr4);
            FAIL("bit %u: %u traps", reserved[i], trap.count);
        }
    }
    CHECK_EQUAL(read_cr4(), cr4);
}

/* A bit of CR4 whose feature CPUID doesn't show must fault; a shown one must stick. */
static const struct {
    u8 bit, subleaf_reg, shift;
    u32 leaf;
    const char *name;
} cr4_features[] = {
    { 2, 'd', 4, 1, "TSD" },        { 3, 'd', 2, 1, "DE" },
    { 7, 'd', 13, 1, "PGE" },       { 11, 'c', 2, 7, "UMIP" },
    { 16, 'b', 0, 7, "FSGSBASE" },  { 18, 'c', 26, 1, "OSXSAVE" },
    { 20, 'b', 7, 7, "SMEP" },      { 21, 'b', 20, 7, "SMAP" },
    { 22, 'c', 3, 7, "PKE" },
};

TEST(cr4_follows_cpuid)
{
    ulong cr4 = read_cr4();

    if (!xen.present)
        SKIP("QEMU hangs");
    for (unsigned i = 0; i < ARRAY_SIZE(cr4_features); i++) {
        struct cpuid r = { 0, 0, 0, 0 };
        bool shown, set;

        if (cpuid(0, 0).a >= cr4_features[i].leaf)
            r = cpuid(cr4_features[i].leaf, 0);
        shown = (cr4_features[i].subleaf_reg == 'd'   ? r.d
                 : cr4_features[i].subleaf_reg == 'c' ? r.c
                                                      : r.b) >>
                    cr4_features[i].shift & 1;
        trap_clear();
        try_write_cr4(cr4 | 1ul << cr4_features[i].bit);
        set = read_cr4() >> cr4_features[i].bit & 1;
        write_cr4(cr4);
        if (shown && (trap.count || !set))
            FAIL("%s is shown but can't be set", cr4_features[i].name);
        if (!shown && !trap.count)
            FAIL("%s is not shown but can be set", cr4_features[i].name);
    }
}

#if BITS == 64
TEST(pae_cannot_go_in_long_mode)
{
    ulong cr4 = read_cr4();

    try_write_cr4(cr4 & ~CR4_PAE);
    CHECK_TRAP(VEC_GP, 0);
    CHECK_EQUAL(read_cr4(), cr4);
}

TEST(paging_off_needs_compatibility_mode)
{
    try_write_cr0(read_cr0() & ~CR0_PG);
    CHECK_TRAP(VEC_GP, 0);
}

TEST(cr8_is_the_task_priority)
{
    write_cr8(9);
    CHECK_EQUAL(read_cr8(), 9);
    write_cr8(0);
    try_write_cr8(16);
    CHECK_TRAP(VEC_GP, 0);
    CHECK_EQUAL(read_cr8(), 0);
}

TEST(addresses_in_msrs_are_canonical)
{
    static const u32 msrs[] = { MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE,
                                MSR_SYSENTER_EIP, MSR_SYSENTER_ESP };

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        u64 old = rdmsr(msrs[i]);

        trap_clear();
        try_wrmsr(msrs[i], 0x0000800000000000ull);
        if (!trap.count) {
            wrmsr(msrs[i], old);
            FAIL("MSR %x took a non-canonical address", msrs[i]);
        }
        trap_clear();
        try_wrmsr(msrs[i], 0xffff800000001000ull);
        if (trap.count)
            FAIL("MSR %x refused a canonical address", msrs[i]);
        CHECK_EQUAL(rdmsr(msrs[i]), 0xffff800000001000ull);
        wrmsr(msrs[i], old);
    }
}
#endif

#if PAGING_LEVELS
TEST(efer_lme_is_fixed_while_paging)
{
    u64 efer = rdmsr(MSR_EFER);

    if (!(cpuid(0x80000001, 0).d >> 29 & 1))
        SKIP("no long mode");
    try_wrmsr(MSR_EFER, efer ^ EFER_LME);
    CHECK_TRAP(VEC_GP, 0);
    CHECK_EQUAL(rdmsr(MSR_EFER), efer);
}
#endif

TEST(efer_reserved_bits_fault)
{
    u64 efer = rdmsr(MSR_EFER);
    static const u8 reserved[] = { 1, 7, 9, 20, 40, 63 };

    for (unsigned i = 0; i < ARRAY_SIZE(reserved); i++) {
        trap_clear();
        try_wrmsr(MSR_EFER, efer | 1ull << reserved[i]);
        if (trap.count != 1 || trap.vector != VEC_GP)
            FAIL("bit %u: %u traps", reserved[i], trap.count);
    }
    CHECK_EQUAL(rdmsr(MSR_EFER), efer);
}

TEST(efer_lma_is_kept)
{
    u64 efer = rdmsr(MSR_EFER);

    CHECK_EQUAL(efer >> 10 & 1, BITS == 64);
}

TEST(efer_sce)
{
    u64 efer = rdmsr(MSR_EFER);

    wrmsr(MSR_EFER, efer | EFER_SCE);
    CHECK_EQUAL(rdmsr(MSR_EFER), efer | EFER_SCE);
    wrmsr(MSR_EFER, efer & ~(u64)EFER_SCE);
    CHECK_EQUAL(rdmsr(MSR_EFER), efer & ~(u64)EFER_SCE);
    wrmsr(MSR_EFER, efer);
}

TEST(unknown_msrs_fault)
{
    static const u32 msrs[] = { 0x12345, 0x4b564d00, 0xc0001fff, 0xdeadbeef, 0x3ff };

    if (!xen.present)
        SKIP("QEMU answers unknown MSRs with zero");
    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        trap_clear();
        try_rdmsr(msrs[i]);
        if (trap.count != 1 || trap.vector != VEC_GP || trap.error)
            FAIL("reading %x: %u traps", msrs[i], trap.count);
        trap_clear();
        try_wrmsr(msrs[i], 0);
        if (trap.count != 1 || trap.vector != VEC_GP)
            FAIL("writing %x: %u traps", msrs[i], trap.count);
    }
}

TEST(msrs_are_kept)
{
    static const u32 msrs[] = { MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP,
#if BITS == 64
                                MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE,
                                MSR_KERNEL_GS_BASE,
#endif
    };

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        u64 old = rdmsr(msrs[i]), now;

        wrmsr(msrs[i], 0x7654);
        now = rdmsr(msrs[i]);
        wrmsr(msrs[i], old);
        if (now != 0x7654)
            FAIL("MSR %x holds %llx", msrs[i], now);
    }
}

TEST(pat)
{
    u64 old = rdmsr(MSR_PAT);

    CHECK_EQUAL(old, 0x0007040600070406ull);
    wrmsr(MSR_PAT, 0x0007010600070106ull);
    CHECK_EQUAL(rdmsr(MSR_PAT), 0x0007010600070106ull);
    wrmsr(MSR_PAT, old);
    try_wrmsr(MSR_PAT, 0x0007040600070402ull); /* type 2 doesn't exist */
    CHECK_TRAP(VEC_GP, 0);
}

TEST(apic_base)
{
    u64 base = rdmsr(MSR_APIC_BASE);

    CHECK_EQUAL(base & 0xfffff000, 0xfee00000);
    CHECK(base & 0x100); /* the boot CPU */
    CHECK(base & 0x800); /* enabled */
}

TEST(debug_registers)
{
    write_dr0(0x1234);
    CHECK_EQUAL(read_dr0(), 0x1234);
    write_dr0(0);
    write_dr7(0x400);
    CHECK_EQUAL(read_dr7(), 0x400);
    CHECK_EQUAL(read_dr6() & 0xffff0ff0, 0xffff0ff0);
}

TEST(dr4_and_dr5)
{
    ulong cr4 = read_cr4();

    write_cr4(cr4 & ~CR4_DE);
    asm volatile(MAY_TRAP(".byte 0x0f, 0x21, 0xe0") ::: "eax", "memory"); /* mov %dr4, %eax */
    CHECK_NO_TRAP(); /* an alias of DR6 */
    write_cr4(cr4 | CR4_DE);
    asm volatile(MAY_TRAP(".byte 0x0f, 0x21, 0xe0") ::: "eax", "memory");
    write_cr4(cr4);
    CHECK_TRAP(VEC_UD, 0);
}

TEST(general_detect)
{
    write_dr7(0x2400);
    asm volatile(MAY_TRAP("mov %%dr0, %0") : "=r"((ulong){ 0 })::"memory");
    write_dr7(0x400);
    CHECK_TRAP(VEC_DB, 0);
    CHECK(trap.dr6 & 1 << 13);
    write_dr6(0xffff0ff0);
}

TEST(cpuid_leaves)
{
    struct cpuid basic = cpuid(0, 0), extended = cpuid(0x80000000, 0);

    CHECK(basic.a >= 1 && basic.a < 0x100);
    CHECK(extended.a >= 0x80000004 && extended.a < 0x80000100);
    CHECK(cpuid(1, 0).d & 1);           /* FPU */
    CHECK(cpuid(1, 0).d >> 9 & 1);      /* APIC */
    CHECK(cpuid(1, 0).d >> 4 & 1);      /* TSC */
    CHECK(cpuid(1, 0).d >> 5 & 1);      /* MSR */
    CHECK(cpuid(1, 0).d >> 8 & 1);      /* CX8 */
    CHECK(cpuid(0x80000008, 0).a & 0xff);
}

/* CPUID shows the state of CR4.OSXSAVE. */
TEST(cpuid_osxsave_follows_cr4)
{
    ulong cr4 = read_cr4();
    u32 off, on;

    if (!(cpuid(1, 0).c >> 26 & 1))
        SKIP("no XSAVE");
    off = cpuid(1, 0).c >> 27 & 1;
    write_cr4(cr4 | CR4_OSXSAVE);
    on = cpuid(1, 0).c >> 27 & 1;
    write_cr4(cr4);
    CHECK_EQUAL(off, (cr4 & CR4_OSXSAVE) != 0);
    CHECK_EQUAL(on, 1);
}

TEST(tsc_never_goes_back)
{
    u64 last = rdtsc();

    for (unsigned i = 0; i < 20000; i++) {
        u64 now = rdtsc();

        if (now < last)
            FAIL("%llx after %llx", now, last);
        last = now;
    }
}

TEST(tsc_advances)
{
    u64 start = rdtsc();

    for (volatile unsigned i = 0; i < 100000; i++)
        ;
    CHECK(rdtsc() > start);
}

TEST(rdtscp)
{
    u32 a, d, c;
    u64 old;

    if (!(cpuid(0x80000001, 0).d >> 27 & 1))
        SKIP("no RDTSCP");
    old = rdmsr(MSR_TSC_AUX);
    wrmsr(MSR_TSC_AUX, 0x1357);
    asm volatile("rdtscp" : "=a"(a), "=d"(d), "=c"(c));
    wrmsr(MSR_TSC_AUX, old);
    CHECK_EQUAL(c, 0x1357);
    CHECK(((u64)d << 32 | a) <= rdtsc());
}

TEST(xgetbv_and_xsetbv)
{
    ulong cr4 = read_cr4();
    u32 lo, hi;

    asm volatile(MAY_TRAP(".byte 0x0f, 0x01, 0xd0") : "=a"(lo), "=d"(hi) : "c"(0));
    if (!(cr4 & CR4_OSXSAVE))
        CHECK_TRAP(VEC_UD, 0);
    if (!(cpuid(1, 0).c >> 26 & 1))
        SKIP("no XSAVE");
    write_cr4(cr4 | CR4_OSXSAVE);
    trap_clear();
    asm volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(lo), "=d"(hi) : "c"(0));
    if (!(lo & 1)) {
        write_cr4(cr4);
        FAIL("XCR0 is %x", lo);
    }
    asm volatile(MAY_TRAP(".byte 0x0f, 0x01, 0xd1")::"a"(2), "d"(0), "c"(0)); /* x87 off */
    write_cr4(cr4);
    CHECK_TRAP(VEC_GP, 0);
}

TEST(lmsw_and_smsw)
{
    ulong cr0 = read_cr0(), msw;

    asm volatile("smsw %0" : "=r"(msw));
    CHECK_EQUAL(msw & 0xffff, cr0 & 0xffff);
    asm volatile("lmsw %0" ::"r"((u16)(cr0 | CR0_TS)));
    CHECK(read_cr0() & CR0_TS);
    asm volatile("lmsw %0" ::"r"((u16)(cr0 & ~1ul))); /* PE stays */
    CHECK(read_cr0() & 1);
    write_cr0(cr0);
}

TEST(descriptor_tables_are_kept)
{
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) p;

    asm volatile("sgdt %0" : "=m"(p));
    CHECK_EQUAL(p.base, (ulong)gdt);
    CHECK_EQUAL(p.limit, GDT_BYTES - 1);
}

TEST(lar_lsl_verr)
{
    u32 access = 0, limit = 0;
    u8 ok;

    asm volatile("lar %2, %0; setz %1" : "+r"(access), "=q"(ok) : "r"(SEL_KDS) : "cc");
    CHECK_EQUAL(ok, 1);
    CHECK_EQUAL(access & 0x00f0ff00, 0x00c09300);
    asm volatile("lsl %2, %0; setz %1" : "+r"(limit), "=q"(ok) : "r"(SEL_KDS) : "cc");
    CHECK_EQUAL(limit, 0xffffffff);
    asm volatile("verw %w1; setz %0" : "=q"(ok) : "r"(SEL_KDS) : "cc");
    CHECK_EQUAL(ok, 1);
    asm volatile("verw %w1; setz %0" : "=q"(ok) : "r"(SEL_KCS) : "cc");
    CHECK_EQUAL(ok, 0);
    asm volatile("lar %2, %0; setz %1" : "+r"(access), "=q"(ok) : "r"(0xfff8) : "cc");
    CHECK_EQUAL(ok, 0);
}

/* Last, since a processor that takes it is lost. */
TEST(cr0_pg_needs_pe)
{
    if (!xen.present)
        SKIP("QEMU takes it");
    check_cr0((read_cr0() | CR0_PG) & ~1ul, true, "PG without PE");
}

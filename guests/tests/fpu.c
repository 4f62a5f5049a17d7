/* SPDX-License-Identifier: GPL-2.0-or-later */
/* x87 and SSE: arithmetic that is right, and state that exceptions and exits don't disturb. */
#include "test.h"
#include "xen.h"

#define VEC_SPARE 0x52

static u8 image[1024] __attribute__((aligned(64)));

TEST(x87_arithmetic)
{
    double half = 0;
    u16 status = 1, control = 0;

    asm volatile("fninit; fnstsw %0; fnstcw %1" : "=m"(status), "=m"(control));
    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(control, 0x037f);
    asm volatile("fld1; fld1; fld1; faddp; fdivrp; fstpl %0" : "=m"(half));
    CHECK_EQUAL(*(u64 *)&half, 0x3fe0000000000000ull);
}

TEST(x87_keeps_80_bits)
{
    u8 in[10] = { 1, 2, 3, 4, 5, 6, 7, 0x88, 0xfe, 0x3f }, out[10] = { 0 };

    asm volatile("fninit; fldt %1; fstpt %0" : "=m"(out) : "m"(in));
    CHECK_EQUAL(memcmp(in, out, 10), 0);
}

TEST(sse_arithmetic)
{
    float a[4] __attribute__((aligned(16))), b[4] __attribute__((aligned(16)));
    u32 *words = (u32 *)a;

    for (u32 i = 0; i < 4; i++)
        words[i] = 0x3f800000 + (i << 23); /* 1, 2, 4, 8 */
    asm volatile("movaps %1, %%xmm3; addps %%xmm3, %%xmm3; movaps %%xmm3, %0" : "=m"(b) : "m"(a));
    for (u32 i = 0; i < 4; i++)
        CHECK_EQUAL(((u32 *)b)[i], 0x40000000 + (i << 23));
}

TEST(sse2_integers)
{
    u64 a[2] __attribute__((aligned(16))) = { 0x0001000200030004ull, 0x0005000600070008ull };
    u64 b[2] __attribute__((aligned(16)));

    asm volatile("movdqa %1, %%xmm0; pmullw %%xmm0, %%xmm0; movdqa %%xmm0, %0"
                 : "=m"(b)
                 : "m"(a));
    CHECK_EQUAL(b[0], 0x0001000400090010ull);
    CHECK_EQUAL(b[1], 0x0019002400310040ull);
}

TEST(mxcsr)
{
    u32 value = 0x1f80, read = 0;

    asm volatile("ldmxcsr %0" ::"m"(value));
    asm volatile("stmxcsr %0" : "=m"(read));
    CHECK_EQUAL(read, 0x1f80);
    value = 0xffff0000;
    asm volatile(MAY_TRAP("ldmxcsr %0")::"m"(value));
    CHECK_TRAP(VEC_GP, 0);
}

TEST(misaligned_movaps_faults)
{
    asm volatile(MAY_TRAP("movaps (%0), %%xmm0") ::"r"(image + 4));
    CHECK_TRAP(VEC_GP, 0);
}

TEST(fxsave_and_fxrstor)
{
    static u8 second[512] __attribute__((aligned(16)));
    u64 pattern[2] __attribute__((aligned(16))) = { 0x1122334455667788ull, 0x99aabbccddeeff00ull };
    u64 seen[2] __attribute__((aligned(16)));

    asm volatile("fninit; movdqa %0, %%xmm5; fldpi" ::"m"(pattern));
    asm volatile("fxsave %0" : "=m"(image));
    asm volatile("pxor %xmm5, %xmm5; fninit");
    asm volatile("fxrstor %0" ::"m"(image));
    asm volatile("movdqa %%xmm5, %0" : "=m"(seen));
    asm volatile("fxsave %0; fninit" : "=m"(second));
    CHECK_EQUAL(seen[0], pattern[0]);
    CHECK_EQUAL(seen[1], pattern[1]);
    CHECK_EQUAL(memcmp(image + 32, second + 32, 16), 0);
    CHECK_EQUAL(image[4], second[4]); /* the tag byte */
}

TEST(misaligned_fxsave_faults)
{
    asm volatile(MAY_TRAP("fxsave (%0)") ::"r"(image + 8) : "memory");
    CHECK_TRAP(VEC_GP, 0);
}

/* The state lives through exceptions, software interrupts and exits to the hypervisor. */
static void do_nothing(struct regs *r)
{
}

TEST(sse_state_lives_through_exits)
{
    u64 pattern[2] __attribute__((aligned(16))) = { 0x0123456789abcdefull, 0xfedcba9876543210ull };
    u64 seen[2] __attribute__((aligned(16)));

    set_vector(VEC_SPARE, do_nothing);
    asm volatile("movdqa %0, %%xmm7" ::"m"(pattern));
    asm volatile("int %0" ::"i"(VEC_SPARE));
    cpuid(0x40000000, 0);
    (void)in8(0x80);
    if (xen.present)
        version_op(XENVER_version, NULL);
    asm volatile("movdqa %%xmm7, %0" : "=m"(seen));
    set_vector(VEC_SPARE, NULL);
    CHECK_EQUAL(seen[0], pattern[0]);
    CHECK_EQUAL(seen[1], pattern[1]);
}

#if BITS == 64
TEST(all_16_registers)
{
    u64 out[2] __attribute__((aligned(16)));

    asm volatile("mov $0x1515, %%eax; movq %%rax, %%xmm15; mov $0x0808, %%eax; movq %%rax, %%xmm8;"
                 "movdqa %%xmm15, %%xmm1; paddq %%xmm8, %%xmm1; movdqa %%xmm1, %0"
                 : "=m"(out)
                 :
                 : "rax");
    CHECK_EQUAL(out[0], 0x1d1d);
}
#endif

/* Vector instructions that CPUID shows must run, those it doesn't show must raise #UD. */
#define FEATURE_TEST(name, leaf, reg, bit, code)                                                  \
    TEST(name)                                                                                    \
    {                                                                                             \
        bool shown = cpuid(leaf & 0x80000000, 0).a >= leaf && cpuid(leaf, 0).reg >> bit & 1;      \
        asm volatile(MAY_TRAP(code) ::: "eax", "ecx", "edx", "memory", "cc");                     \
        if (shown)                                                                                \
            CHECK_NO_TRAP();                                                                      \
        else                                                                                      \
            CHECK_TRAP(VEC_UD, 0);                                                                \
    }

FEATURE_TEST(cpuid_tells_sse3, 1, c, 0, "haddps %%xmm0, %%xmm0")
FEATURE_TEST(cpuid_tells_pclmulqdq, 1, c, 1, "pclmulqdq $0, %%xmm0, %%xmm0")
FEATURE_TEST(cpuid_tells_ssse3, 1, c, 9, "pshufb %%xmm0, %%xmm0")
FEATURE_TEST(cpuid_tells_sse4_1, 1, c, 19, "pmulld %%xmm0, %%xmm0")
FEATURE_TEST(cpuid_tells_sse4_2, 1, c, 20, "pcmpgtq %%xmm0, %%xmm0")
FEATURE_TEST(cpuid_tells_movbe, 1, c, 22, "movbe image, %%eax")
FEATURE_TEST(cpuid_tells_popcnt, 1, c, 23, "popcnt %%eax, %%ecx")
FEATURE_TEST(cpuid_tells_aes, 1, c, 25, "aesenc %%xmm0, %%xmm0")
FEATURE_TEST(cpuid_tells_rdrand, 1, c, 30, "rdrand %%eax")
FEATURE_TEST(cpuid_tells_rdseed, 7, b, 18, "rdseed %%eax")
FEATURE_TEST(cpuid_tells_bmi1, 7, b, 3, "andn %%eax, %%ecx, %%edx")
FEATURE_TEST(cpuid_tells_bmi2, 7, b, 8, "rorx $3, %%eax, %%ecx")
FEATURE_TEST(cpuid_tells_adx, 7, b, 19, "adcx %%eax, %%ecx")
FEATURE_TEST(cpuid_tells_clflushopt, 7, b, 23, "clflushopt image")
FEATURE_TEST(cpuid_tells_rdpid, 7, c, 22, ".byte 0xf3, 0x0f, 0xc7, 0xf8")

/* One vendor's, that a policy with the other's name hides: hidden instructions run all the same. */
TEST(cpuid_tells_sse4a)
{
    bool shown = cpuid(0x80000000u, 0).a > 0x80000000u && cpuid(0x80000001u, 0).c >> 6 & 1;

    asm volatile(MAY_TRAP("extrq %%xmm1, %%xmm0")::: "memory");
    if (shown)
        CHECK_NO_TRAP();
}

TEST(cpuid_tells_avx)
{
    ulong cr4 = read_cr4();
    bool shown = cpuid(1, 0).c >> 28 & 1;

    if (cpuid(1, 0).c >> 26 & 1) {
        write_cr4(cr4 | CR4_OSXSAVE);
        asm volatile(MAY_TRAP(".byte 0x0f, 0x01, 0xd1")::"a"(shown ? 7 : 3), "d"(0), "c"(0));
    }
    CHECK_NO_TRAP();
    asm volatile(MAY_TRAP("vxorps %ymm0, %ymm0, %ymm0"));
    if (cpuid(1, 0).c >> 26 & 1)
        asm volatile(".byte 0x0f, 0x01, 0xd1" ::"a"(1), "d"(0), "c"(0));
    write_cr4(cr4);
    if (shown)
        CHECK_NO_TRAP();
    else
        CHECK_TRAP(VEC_UD, 0);
}

TEST(xsave_and_xrstor)
{
    ulong cr4 = read_cr4();
    u64 pattern[2] __attribute__((aligned(16))) = { 0xaaaabbbbccccddddull, 0x1111222233334444ull };
    u64 seen[2] __attribute__((aligned(16)));

    if (!(cpuid(1, 0).c >> 26 & 1))
        SKIP("no XSAVE");
    if (cpuid(0xd, 0).b > sizeof(image))
        SKIP("a larger state than this test's");
    memset(image, 0, sizeof(image));
    write_cr4(cr4 | CR4_OSXSAVE);
    asm volatile(".byte 0x0f, 0x01, 0xd1" ::"a"(3), "d"(0), "c"(0));
    asm volatile("movdqa %0, %%xmm2" ::"m"(pattern));
    asm volatile("xsave %0" : "=m"(image) : "a"(3), "d"(0));
    asm volatile("pxor %xmm2, %xmm2");
    asm volatile("xrstor %0" ::"m"(image), "a"(3), "d"(0));
    asm volatile("movdqa %%xmm2, %0" : "=m"(seen));
    write_cr4(cr4);
    CHECK_EQUAL(seen[0], pattern[0]);
    CHECK_EQUAL(seen[1], pattern[1]);
    CHECK_EQUAL(*(u64 *)(image + 512) & ~3ull, 0);
}

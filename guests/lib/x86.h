/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The instructions C has no words for. */
#ifndef GUEST_X86_H
#define GUEST_X86_H

#include "types.h"

#define VEC_DE 0
#define VEC_DB 1
#define VEC_NMI 2
#define VEC_BP 3
#define VEC_OF 4
#define VEC_BR 5
#define VEC_UD 6
#define VEC_NM 7
#define VEC_DF 8
#define VEC_TS 10
#define VEC_NP 11
#define VEC_SS 12
#define VEC_GP 13
#define VEC_PF 14
#define VEC_MF 16
#define VEC_AC 17

#define PF_P 1
#define PF_W 2
#define PF_U 4
#define PF_RSVD 8
#define PF_I 16

#define FLAG_CF (1ul << 0)
#define FLAG_TF (1ul << 8)
#define FLAG_IF (1ul << 9)
#define FLAG_OF (1ul << 11)
#define FLAG_IOPL (3ul << 12)
#define FLAG_NT (1ul << 14)
#define FLAG_RF (1ul << 16)
#define FLAG_AC (1ul << 18)

#define CR0_MP (1ul << 1)
#define CR0_EM (1ul << 2)
#define CR0_TS (1ul << 3)
#define CR0_NE (1ul << 5)
#define CR0_WP (1ul << 16)
#define CR0_NW (1ul << 29)
#define CR0_CD (1ul << 30)
#define CR0_PG (1ul << 31)
#define CR4_TSD (1ul << 2)
#define CR4_DE (1ul << 3)
#define CR4_PSE (1ul << 4)
#define CR4_PAE (1ul << 5)
#define CR4_PGE (1ul << 7)
#define CR4_OSXSAVE (1ul << 18)
#define CR4_FSGSBASE (1ul << 16)
#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_PAT 0x277
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)

/* An instruction that may fault: on a fault `trap` (trap.h) is filled in, and execution goes on
 * after it. */
#define MAY_TRAP(insn)                                                                            \
    "771: " insn "\n772:\n"                                                                       \
    ".pushsection .extable, \"a\"\n.long 771b, 772b\n.popsection\n"

struct cpuid {
    u32 a, b, c, d;
};

static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;

    asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(subleaf));
    return r;
}

static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;

    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 msr, u64 value)
{
    asm volatile("wrmsr" ::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u64 rdtsc(void)
{
    u32 lo, hi;

    asm volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

#define DEFINE_PORT_IO(width, suffix)                                                             \
    static inline u##width in##width(u16 port)                                                    \
    {                                                                                             \
        u##width v;                                                                               \
        asm volatile("in" suffix " %1, %0" : "=a"(v) : "Nd"(port));                               \
        return v;                                                                                 \
    }                                                                                             \
    static inline void out##width(u16 port, u##width v)                                           \
    {                                                                                             \
        asm volatile("out" suffix " %0, %1" ::"a"(v), "Nd"(port));                                \
    }
DEFINE_PORT_IO(8, "b")
DEFINE_PORT_IO(16, "w")
DEFINE_PORT_IO(32, "l")

#define DEFINE_CONTROL_REGISTER(n)                                                                \
    static inline ulong read_##n(void)                                                            \
    {                                                                                             \
        ulong v;                                                                                  \
        asm volatile("mov %%" #n ", %0" : "=r"(v)::"memory");                                     \
        return v;                                                                                 \
    }                                                                                             \
    static inline void write_##n(ulong v)                                                         \
    {                                                                                             \
        asm volatile("mov %0, %%" #n ::"r"(v) : "memory");                                        \
    }                                                                                             \
    static inline void try_write_##n(ulong v)                                                     \
    {                                                                                             \
        asm volatile(MAY_TRAP("mov %0, %%" #n)::"r"(v) : "memory");                               \
    }
DEFINE_CONTROL_REGISTER(cr0)
DEFINE_CONTROL_REGISTER(cr2)
DEFINE_CONTROL_REGISTER(cr3)
DEFINE_CONTROL_REGISTER(cr4)
DEFINE_CONTROL_REGISTER(dr0)
DEFINE_CONTROL_REGISTER(dr2)
DEFINE_CONTROL_REGISTER(dr6)
DEFINE_CONTROL_REGISTER(dr7)
#if BITS == 64
DEFINE_CONTROL_REGISTER(cr8)
#endif

static inline ulong read_flags(void)
{
    ulong v;

    asm volatile("pushf; pop %0" : "=r"(v)::"memory");
    return v;
}

static inline void write_flags(ulong v)
{
    asm volatile("push %0; popf" ::"r"(v) : "memory", "cc");
}

static inline void cli(void)
{
    asm volatile("cli" ::: "memory");
}

static inline void sti(void)
{
    asm volatile("sti" ::: "memory");
}

static inline void pause(void)
{
    asm volatile("pause" ::: "memory");
}

static inline void sti_hlt(void)
{
    asm volatile("sti; hlt" ::: "memory");
}

static inline void invlpg(ulong va)
{
    asm volatile("invlpg (%0)" ::"r"(va) : "memory");
}

static inline void barrier(void)
{
    asm volatile("" ::: "memory");
}

static inline ulong stack_pointer(void)
{
    ulong v;

#if BITS == 64
    asm volatile("mov %%rsp, %0" : "=r"(v));
#else
    asm volatile("mov %%esp, %0" : "=r"(v));
#endif
    return v;
}

/* Reading and writing an MSR where a fault is a possible answer (see `trap`). */
static inline u64 try_rdmsr(u32 msr)
{
    u32 lo = 0, hi = 0;

    asm volatile(MAY_TRAP("rdmsr") : "+a"(lo), "+d"(hi) : "c"(msr));
    return (u64)hi << 32 | lo;
}

static inline void try_wrmsr(u32 msr, u64 value)
{
    asm volatile(MAY_TRAP("wrmsr")::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

/* 64-by-32 division without the compiler's run-time library. */
static inline u64 div64(u64 n, u32 d, u32 *rest)
{
#if BITS == 64
    if (rest)
        *rest = (u32)(n % d);
    return n / d;
#else
    u32 hi = (u32)(n >> 32), lo = (u32)n, q1 = hi / d, q0, r = hi % d;

    asm("divl %4" : "=a"(q0), "=d"(r) : "a"(lo), "d"(r), "rm"(d));
    if (rest)
        *rest = r;
    return (u64)q1 << 32 | q0;
#endif
}

#endif

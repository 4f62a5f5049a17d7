/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where the fields that we touch lie in the engine's structures.
 *
 * These are facts of one engine build (setup.py pins its hash and refuses others); selfcheck.c
 * proves them when the module is loaded, by values that the engine itself put there.
 */
#ifndef XG_LAYOUT_H
#define XG_LAYOUT_H

#include <stdint.h>

#define AT(type, base, offset) (*(type *)((char *)(base) + (offset)))

/* struct uc_struct */
#define UC_CPU(uc) AT(void *, uc, 440)
#define UC_STOP_INTERRUPT(uc) AT(void *, uc, 224)
#define UC_MEMORY_MAPPING(uc) AT(void *, uc, 288)
#define UC_SIZE_RECUR_MEM(uc) AT(int, uc, 1384)
#define UC_INVALID_ERROR(uc) AT(int, uc, 1424)
#define UC_TRANSLATOR(uc) AT(void *, uc, 768)
#define TRANSLATOR_BUFFER(t) AT(char *, t, 160)
#define TRANSLATOR_NEXT(t) AT(char *, t, 192)
#define TRANSLATOR_END(t) AT(char *, t, 208) /* 1 KiB before the buffer's end */
#define UC_CODE_ALIGN(uc) AT(int, uc, 2008)
#define UC_NESTED_LEVEL(uc) AT(int, uc, 14840)

/* CPUState */
#define CPU_CREATED(cs) AT(uint8_t, cs, 16)
#define CPU_STOP(cs) AT(uint8_t, cs, 17)
#define CPU_STOPPED(cs) AT(uint8_t, cs, 18)
#define CPU_EXIT_REQUEST(cs) AT(uint8_t, cs, 21)
#define CPU_CFLAGS_NEXT_TB(cs) AT(uint32_t, cs, 24)
#define CPU_INTERRUPT_REQUEST(cs) AT(uint32_t, cs, 28)
#define CPU_ENV_PTR(cs) AT(void *, cs, 296)
#define CPU_TB_JMP_CACHE(cs) ((char *)(cs) + 312)
#define TB_JMP_CACHE_BYTES (4096 * sizeof(void *))
#define CPU_VCPU(cs) AT(struct vcpu *, cs, 33136) /* free for the engine's user */
#define CPU_MEM_IO_PC(cs) AT(uintptr_t, cs, 33144)
#define CPU_HALTED(cs) AT(uint32_t, cs, 33176)
#define CPU_EXCEPTION_INDEX(cs) AT(int32_t, cs, 33184)
#define CPU_UC(cs) AT(void *, cs, 33192)
#define CPU_TO_ENV 35408
#define CPU_SIZE 42976
#define CPU_TLB_MASK(cs, mode) AT(uint64_t, cs, 35344 + 16 * (mode)) /* in bytes */
#define CPU_TLB_TABLE(cs, mode) AT(void *, cs, 35352 + 16 * (mode))
#define CPU_TLB_IOTLB(cs, mode) AT(void *, cs, 33936 + 696 * (mode))
#define CPU_TLB_LARGE_ADDRESS(cs, mode) AT(uint64_t, cs, 33248 + 696 * (mode))
#define CPU_TLB_LARGE_MASK(cs, mode) AT(uint64_t, cs, 33256 + 696 * (mode))
#define MMU_MODES 3
enum { TLB_ENTRY_SHIFT = 6, TLB_READ = 0, TLB_WRITE = 8, TLB_ADDEND = 32 };
enum { TLB_SPARE, TLB_USER }; /* modes: supervisor under SMAP, user */
#define CPU_TLB_DIRTY(cs) AT(uint16_t, cs, 33216)
#define CPU_TLB_DESC(cs, mode) ((char *)(cs) + 33248 + 696 * (mode))
#define CPU_TLB_DESC_SIZE 696
#define CPU_TLB_FAST(cs, mode) ((char *)(cs) + 35344 + 16 * (mode))
#define CPU_TLB_FAST_SIZE 16

/* TranslationBlock */
#define TB_PC(tb) AT(uint64_t, tb, 0)
#define TB_CS_BASE(tb) AT(uint64_t, tb, 8)
#define TB_CODE(tb) AT(void *, tb, 32)
#define TB_FLAGS(tb) AT(uint32_t, tb, 16)
#define TB_SIZE(tb) AT(uint16_t, tb, 20)
#define TB_ICOUNT(tb) AT(uint16_t, tb, 22)
#define TB_CFLAGS(tb) AT(uint32_t, tb, 24)
#define TB_PAGE_ADDR(tb, n) AT(uint64_t, tb, 72 + 8 * (n))

/* The translator's intermediate operations */
#define OP_ARG(op, n) AT(uint64_t, op, 24 + 8 * (n))
#define LABEL_STATE(label) AT(uint32_t, label, 0)
#define LABEL_PRESENT 1u
#define LABEL_REFERENCE (1u << 16)
enum { OP_SET_LABEL = 1, OP_BR = 3, OP_MOVI_I64 = 64, OP_LD_I64 = 73, OP_ST_I64 = 77 };
enum { OP_ADD_I64 = 78 };
enum { TYPE_I64 = 1, COND_LE = 10 };

/*
 * CPUX86State ("env").  Between it and what lies before are 12 unused bytes, near enough for
 * short instructions: how many instructions may start before a block looks up.
 */
#define ENV_LEFT(env) AT(int64_t, env, LEFT_OFFSET)
#define LEFT_OFFSET (-8)
#define ENV_VCPU(env) CPU_VCPU((char *)(env) - CPU_TO_ENV)
#define ENV_REGS(env, n) AT(uint64_t, env, 8 * (n))
#define ENV_EIP(env) AT(uint64_t, env, 128)
#define ENV_EFLAGS(env) AT(uint64_t, env, 136)
#define ENV_CC_DST(env) AT(uint64_t, env, 144)
#define ENV_CC_SRC(env) AT(uint64_t, env, 152)
#define ENV_CC_SRC2(env) AT(uint64_t, env, 160)
#define ENV_CC_OP(env) AT(uint32_t, env, 168)
#define ENV_DF(env) AT(int32_t, env, 172)
#define ENV_HFLAGS(env) AT(uint32_t, env, 176)
#define ENV_HFLAGS2(env) AT(uint32_t, env, 180)
#define ENV_SEGS 184
#define ENV_LDT 328
#define ENV_TR 352
#define ENV_GDT 376
#define ENV_IDT 400
#define ENV_CR(env, n) AT(uint64_t, env, 424 + 8 * (n))
#define ENV_EFER(env) AT(uint64_t, env, 592)
#define ENV_FPSTT(env) AT(uint32_t, env, 604)
#define ENV_FPUS(env) AT(uint16_t, env, 608)
#define ENV_FPUC(env) AT(uint16_t, env, 610)
#define ENV_FPTAGS 612
#define ENV_FPREGS 624
#define ENV_FPOP(env) AT(uint16_t, env, 752)
#define ENV_FPIP(env) AT(uint64_t, env, 760)
#define ENV_FPDP(env) AT(uint64_t, env, 768)
#define ENV_MXCSR(env) AT(uint32_t, env, 816)
#define ENV_XMM(n) (824 + 64 * (n))
#define ENV_SYSENTER_CS(env) AT(uint32_t, env, 4800)
#define ENV_SYSENTER_ESP(env) AT(uint64_t, env, 4808)
#define ENV_SYSENTER_EIP(env) AT(uint64_t, env, 4816)
#define ENV_STAR(env) AT(uint64_t, env, 4824)
#define ENV_LSTAR(env) AT(uint64_t, env, 4840)
#define ENV_CSTAR(env) AT(uint64_t, env, 4848)
#define ENV_FMASK(env) AT(uint64_t, env, 4856)
#define ENV_KERNELGSBASE(env) AT(uint64_t, env, 4864)
#define ENV_TSC_AUX(env) AT(uint64_t, env, 4896)
#define ENV_XCR0(env) AT(uint64_t, env, 4904)
#define ENV_PAT(env) AT(uint64_t, env, 5280)
#define ENV_PKRU(env) AT(uint32_t, env, 5304)
#define ENV_ERROR_CODE(env) AT(int32_t, env, 5384)
#define ENV_EXCEPTION_IS_INT(env) AT(int32_t, env, 5388)
#define ENV_EXCEPTION_NEXT_EIP(env) AT(uint64_t, env, 5392)
#define ENV_DR(env, n) AT(uint64_t, env, 5400 + 8 * (n))
#define ENV_OLD_EXCEPTION(env) AT(int32_t, env, 5496)
#define ENV_CPUID_VENDOR1(env) AT(uint32_t, env, 5616)
#define ENV_FEATURES(env, word) AT(uint64_t, env, 5632 + 8 * (word))

struct segment {
    uint32_t selector;
    uint32_t pad;
    uint64_t base;
    uint32_t limit;
    uint32_t flags; /* bits 8-23 of a descriptor's high word, in place */
};
#define ENV_SEG(env, n) (&AT(struct segment, env, ENV_SEGS + 24 * (n)))
#define ENV_TABLE(env, offset) (&AT(struct segment, env, offset))

enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };
enum { R_EAX, R_ECX, R_EDX, R_EBX, R_ESP, R_EBP, R_ESI, R_EDI, R_R8, R_R9, R_R10, R_R11 };

/* words of the engine's feature array, which its translator consults */
enum {
    FEAT_1_EDX = 0,
    FEAT_1_ECX = 1,
    FEAT_7_0_EBX = 2,
    FEAT_7_0_ECX = 3,
    FEAT_8000_0001_EDX = 6,
    FEAT_8000_0001_ECX = 7,
    FEAT_XSAVE = 19,
    FEAT_XSAVE_COMP_LO = 21,
};

/* bits of hflags: what the translator must know of the CPU's mode */
#define HF_CPL 3u
#define HF_INHIBIT_IRQ (1u << 3)
#define HF_CS32 (1u << 4)
#define HF_SS32 (1u << 5)
#define HF_ADDSEG (1u << 6)
#define HF_PE (1u << 7)
#define HF_MP (1u << 9)
#define HF_EM (1u << 10)
#define HF_TS (1u << 11)
#define HF_LMA (1u << 14)
#define HF_CS64 (1u << 15)
#define HF_OSFXSR (1u << 22)
#define HF_SMAP (1u << 23)
#define HF_PV_USER (1u << 30) /* ours: translations of guest user mode stay apart */
#define HF2_GIF (1u << 0)
#define HF2_NMI_MASK (1u << 2)

#define CPU_INTERRUPT_HARD 2u
#define CPU_INTERRUPT_NMI 512u
#define EXCP_INTERRUPT 0x10000
#define CC_OP_EFLAGS 1u
#define PAGE_READ 1
#define PAGE_WRITE 2
#define PAGE_EXEC 4
enum { ACCESS_LOAD, ACCESS_STORE, ACCESS_FETCH };
#define CF_COUNT_MASK 0x7fffu

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The CPU's side of the engine: instructions and exceptions that it doesn't carry out, or not
 * as a machine would.  Semantics: AMD64 Architecture Programmer's Manual, volumes 2 and 3.
 */
#include "pv.h"
#include "qemu.h"

#include <string.h>

enum { VECTOR_DB = 1, VECTOR_UD = 6, VECTOR_GP = 13 };

#define EFLAGS_TF 0x100u
#define EFLAGS_IF 0x200u
#define EFLAGS_DF 0x400u
#define EFLAGS_RF 0x10000u
#define EFLAGS_VM 0x20000u
#define EFLAGS_CC 0x8d5u
#define CR0_PE 1ull
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)
#define CR4_TSD (1ull << 2)
#define CR4_PAE (1ull << 5)
#define CR4_OSXSAVE (1ull << 18)
#define CR4_PKE (1ull << 22)
#define EFER_SCE 1ull
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)
#define CR3_RESERVED (~0ull << 52)
#define MSR_APIC_BASE 0x1bu
#define MSR_X2APIC_EOI 0x80bu
#define VENDOR_INTEL 0x756e6547u /* "Genu" */
#define MXCSR_RESERVED 0xffff0000u

__thread struct vcpu *xg_current __attribute__((tls_model("initial-exec")));

bool canonical(uint64_t address)
{
    return (int64_t)(address << 16) >> 16 == (int64_t)address;
}

uint64_t vcpu_eflags(void *env)
{
    uint64_t cc = ENV_CC_OP(env) == CC_OP_EFLAGS
        ? ENV_CC_SRC(env)
        : NAME(helper_cc_compute_all)(ENV_CC_DST(env), ENV_CC_SRC(env), ENV_CC_SRC2(env),
                                      (int)ENV_CC_OP(env));
    return (ENV_EFLAGS(env) & ~(uint64_t)(EFLAGS_CC | EFLAGS_DF)) | (cc & EFLAGS_CC) |
           ((uint32_t)ENV_DF(env) & EFLAGS_DF) | 2;
}

void vcpu_set_eflags(void *env, uint64_t value)
{
    ENV_CC_SRC(env) = value & EFLAGS_CC;
    ENV_CC_OP(env) = CC_OP_EFLAGS;
    ENV_DF(env) = value & EFLAGS_DF ? -1 : 1;
    ENV_EFLAGS(env) = (value & ~(uint64_t)(EFLAGS_CC | EFLAGS_DF)) | 2;
}

/* -- leaving ------------------------------------------------------------------------------------ */

_Noreturn void vcpu_leave(struct vcpu *v, int reason, uintptr_t retaddr)
{
    if (retaddr)
        NAME(cpu_restore_state)(v->cs, retaddr, true);
    /* The instruction will run again: its earlier accesses must not be made twice. */
    if (reason == EXIT_STAGE2 && v->log_len && v->log_count == engine_count(v->engine) &&
        v->log_rip == ENV_EIP(v->env))
        v->log_pos = 0;
    v->reason = reason;
    CPU_EXCEPTION_INDEX(v->cs) = EXCP_INTERRUPT;
    NAME(cpu_loop_exit)(v->cs);
}

static _Noreturn void raise_fault(void *env, int vector, int error, uintptr_t retaddr)
{
    NAME(raise_exception_err_ra)(env, vector, error, retaddr);
}

/*
 * One access of an instruction that the hypervisor answers.
 *
 * The first time it leaves; after the answer the instruction runs again from its start, and the
 * accesses that were answered are taken from the log in order, so that an instruction with
 * several (a read-modify-write, an unaligned one) finishes after as many exits.
 */
bool vcpu_access(struct vcpu *v, int reason, const uint64_t args[3], uint64_t values[4],
                 uintptr_t retaddr);
bool vcpu_access(struct vcpu *v, int reason, const uint64_t args[3], uint64_t values[4],
                 uintptr_t retaddr)
{
    struct engine *e = v->engine;
    if (v->log_pos < v->log_len) {
        struct access *a = &v->log[v->log_pos];
        if (a->reason == reason && a->address == args[0]) {
            if (v->log_pos++ == 0)
                v->log_count = engine_count(e);
            memcpy(values, a->value, sizeof(a->value));
            return true;
        }
        v->log_len = v->log_pos = 0; /* the guest changed the instruction meanwhile */
    }
    if (retaddr)
        NAME(cpu_restore_state)(v->cs, retaddr, true);
    uint64_t rip = ENV_EIP(v->env);
    if (!(v->log_len && v->log_count == engine_count(e) && v->log_rip == rip && v->log_len < LOG_MAX))
        v->log_len = 0;
    v->log_rip = rip;
    v->log[v->log_len] = (struct access){.reason = reason, .address = args[0]};
    memcpy(v->args, args, 3 * sizeof(uint64_t));
    v->pending = true;
    vcpu_leave(v, reason, 0);
}

/* -- interrupts and exceptions ------------------------------------------------------------------- */

static void record_injection(struct vcpu *v, int vector, int kind)
{
    uint32_t at = v->injections++ % INJECTIONS;
    v->injected[at].count = engine_count(v->engine);
    v->injected[at].vector = vector;
    v->injected[at].kind = kind;
}

static bool line_raised(struct vcpu *v)
{
    return v->line_vector >= 0 && v->space->memory->base[v->line] != 0;
}

bool NAME(x86_cpu_exec_interrupt)(void *cs, int request);
bool NAME(x86_cpu_exec_interrupt)(void *cs, int request)
{
    struct vcpu *v = xg_current;
    void *env = v->env;
    if (v->watch_hits) {
        debug_trap(v);
        return true;
    }
    /* No interrupt may enter between an exit and its answer's use, or an access that is watched
     * and its trap. */
    if (v->reason != EXIT_NONE || v->log_pos < v->log_len || v->watching) {
        /* look again as soon as the answer is used */
        engine_set_limit(v->engine, engine_count(v->engine));
        return false;
    }
    if (v->pv) {
        CPU_INTERRUPT_REQUEST(cs) &= ~(CPU_INTERRUPT_HARD | CPU_INTERRUPT_NMI);
        return pv_event(v);
    }
    if (request & CPU_INTERRUPT_NMI && !(ENV_HFLAGS2(env) & HF2_NMI_MASK)) {
        CPU_INTERRUPT_REQUEST(cs) &= ~CPU_INTERRUPT_NMI;
        v->nmi = false;
        ENV_HFLAGS2(env) |= HF2_NMI_MASK;
        record_injection(v, 2, 2);
        NAME(do_interrupt_x86_hardirq)(env, 2, 1);
        return true;
    }
    if (!(ENV_EFLAGS(env) & EFLAGS_IF) || ENV_HFLAGS(env) & HF_INHIBIT_IRQ)
        return false;
    int vector;
    if (line_raised(v)) {
        vector = v->line_vector;
        record_injection(v, vector, 1);
    } else if (v->vector >= 0) {
        vector = v->taken = v->vector;
        v->vector = -1;
        v->ending = v->ends;
        record_injection(v, vector, 0);
    } else {
        CPU_INTERRUPT_REQUEST(cs) &= ~CPU_INTERRUPT_HARD;
        return false;
    }
    NAME(do_interrupt_x86_hardirq)(env, vector, 1);
    return true;
}

static void leave_for_hypercall(struct vcpu *v)
{
    void *env = v->env;
    uint64_t *r = &ENV_REGS(env, 0);
    if (ENV_HFLAGS(env) & HF_CS64) {
        uint64_t args[] = {r[R_EAX], r[R_EDI], r[R_ESI], r[R_EDX], r[R_R10], r[R_R8]};
        if (!(ENV_HFLAGS(env) & HF_CPL))
            for (size_t i = 0; i < v->fast_rows; i++)
                if (v->fast[i].number == args[0] && v->fast[i].arg == args[1]) {
                    r[R_EAX] = v->fast[i].result;
                    ENV_EIP(env) += 3;
                    return;
                }
        memcpy(v->args, args, sizeof(args));
    } else {
        static const int order[] = {R_EAX, R_EBX, R_ECX, R_EDX, R_ESI, R_EDI};
        for (int i = 0; i < 6; i++)
            v->args[i] = (uint32_t)r[order[i]];
    }
    v->call_length = 3;
    v->pending = true;
    vcpu_leave(v, EXIT_HYPERCALL, 0);
}

/* All exceptions of the guest, from the CPU loop. */
void engine_exception(void *uc, uint32_t vector, void *user);
void engine_exception(void *uc, uint32_t vector, void *user)
{
    (void)uc, (void)user;
    struct vcpu *v = xg_current;
    void *env = v->env;
    if (v->pv) {
        pv_exception(v, (int)vector);
        return;
    }
    v->log_len = v->log_pos = 0;
    v->watching = false;
    v->watch_hits = 0; /* the access has failed */
    if (ENV_EXCEPTION_IS_INT(env)) {
        /* A fault on the way to the handler belongs to the INT itself. */
        ENV_EIP(env) = ENV_EXCEPTION_NEXT_EIP(env) - (uint64_t)v->int_length;
    } else if (vector == VECTOR_UD) {
        uint8_t code[3] = {0};
        uint64_t at = ENV_SEG(env, SEG_CS)->base + ENV_EIP(env);
        if (!(ENV_HFLAGS(env) & HF_CS64))
            at = (uint32_t)at;
        vcpu_read_virtual(v, at, code, 1);
        if (code[0] == 0xf1) { /* ICEBP: a #DB that asks nobody's privilege */
            ENV_EIP(env)++;
            CPU_EXCEPTION_INDEX(v->cs) = VECTOR_DB;
        } else if (code[0] == 0x0f && ENV_CR(env, 0) & CR0_PE &&
                   vcpu_read_virtual(v, at, code, 3) && code[1] == 0x01 &&
                   (code[2] == 0xc1 || code[2] == 0xd9)) {
            /* VMCALL, VMMCALL */
            ENV_OLD_EXCEPTION(env) = -1;
            leave_for_hypercall(v);
            return;
        }
    }
    NAME(x86_cpu_do_interrupt)(v->cs);
}

void NAME(helper_raise_interrupt)(void *env, int vector, int next_eip_addend);
void NAME(helper_raise_interrupt)(void *env, int vector, int next_eip_addend)
{
    xg_current->int_length = next_eip_addend;
    NAME(real_helper_raise_interrupt)(env, vector, next_eip_addend);
}

/*
 * Faults on the way to a handler.  In long mode the engine counts 16 bytes a gate also in error
 * codes (bit 1: an IDT entry), where the architecture has the vector in bits 3 to 10.
 */
_Noreturn void NAME(raise_exception_err)(void *env, int vector, int error);
_Noreturn void NAME(raise_exception_err)(void *env, int vector, int error)
{
    if (ENV_HFLAGS(env) & HF_LMA && error & 2 && (vector == 11 || vector == VECTOR_GP))
        error = ((error & ~2) >> 1) | 2;
    NAME(real_raise_exception_err)(env, vector, error);
}

/* The engine's answer to a fault on the way to the double-fault handler. */
void qemu_system_reset_request(void *uc);
void qemu_system_reset_request(void *uc)
{
    (void)uc;
    struct vcpu *v = xg_current;
    v->dead = true;
    v->args[0] = 8;
    vcpu_leave(v, EXIT_SHUTDOWN, 0);
}

/* -- system calls ---------------------------------------------------------------------------------- */

static void load_flat(void *env, int n, uint32_t selector, uint32_t flags, uint32_t limit)
{
    *ENV_SEG(env, n) = (struct segment){selector, 0, 0, limit, flags};
}

#define DESC_FLAT_CODE 0xc09b00u /* G, D, present, accessed, readable code, DPL 0 */
#define DESC_FLAT_DATA 0xc09300u
#define DESC_LONG_CODE 0xa09b00u

static void enter_kernel(void *env, uint32_t selector, bool long_mode)
{
    load_flat(env, SEG_CS, selector & 0xfffc, long_mode ? DESC_LONG_CODE : DESC_FLAT_CODE,
              0xffffffff);
    load_flat(env, SEG_SS, (selector & 0xfffc) + 8, DESC_FLAT_DATA, 0xffffffff);
}

void NAME(helper_syscall)(void *env, int next_eip_addend);
void NAME(helper_syscall)(void *env, int next_eip_addend)
{
    if (xg_current->pv) {
        pv_syscall(xg_current, next_eip_addend, RETADDR());
        return;
    }
    /* Outside 64-bit code SYSCALL exists on one vendor's CPUs only. */
    if (!(ENV_EFER(env) & EFER_SCE) ||
        (!(ENV_HFLAGS(env) & HF_CS64) && ENV_CPUID_VENDOR1(env) == VENDOR_INTEL))
        raise_fault(env, VECTOR_UD, 0, RETADDR());
    uint32_t selector = ENV_STAR(env) >> 32 & 0xffff;
    uint64_t flags = vcpu_eflags(env), next = ENV_EIP(env) + (uint64_t)next_eip_addend;
    if (ENV_HFLAGS(env) & HF_LMA) {
        bool from_long = ENV_HFLAGS(env) & HF_CS64;
        ENV_REGS(env, R_ECX) = next;
        ENV_REGS(env, R_R11) = flags & ~(uint64_t)EFLAGS_RF;
        vcpu_set_eflags(env, flags & ~ENV_FMASK(env) & ~(uint64_t)EFLAGS_RF);
        enter_kernel(env, selector, true);
        ENV_EIP(env) = from_long ? ENV_LSTAR(env) : ENV_CSTAR(env);
    } else {
        ENV_REGS(env, R_ECX) = (uint32_t)next;
        vcpu_set_eflags(env, flags & ~(uint64_t)(EFLAGS_IF | EFLAGS_RF | EFLAGS_VM));
        enter_kernel(env, selector, false);
        ENV_EIP(env) = (uint32_t)ENV_STAR(env);
    }
    vcpu_sync_hflags(xg_current);
}

void NAME(helper_sysenter)(void *env, int next_eip_addend);
void NAME(helper_sysenter)(void *env, int next_eip_addend)
{
    (void)next_eip_addend;
    if (xg_current->pv) {
        pv_sysenter(xg_current);
        return;
    }
    if (!(ENV_SYSENTER_CS(env) & 0xfffc))
        raise_fault(env, VECTOR_GP, 0, RETADDR());
    bool long_mode = ENV_HFLAGS(env) & HF_LMA;
    vcpu_set_eflags(env, vcpu_eflags(env) & ~(uint64_t)(EFLAGS_IF | EFLAGS_RF | EFLAGS_VM));
    enter_kernel(env, ENV_SYSENTER_CS(env), long_mode);
    ENV_REGS(env, R_ESP) = long_mode ? ENV_SYSENTER_ESP(env) : (uint32_t)ENV_SYSENTER_ESP(env);
    ENV_EIP(env) = long_mode ? ENV_SYSENTER_EIP(env) : (uint32_t)ENV_SYSENTER_EIP(env);
    vcpu_sync_hflags(xg_current);
}

void NAME(helper_ldmxcsr)(void *env, uint32_t value);
void NAME(helper_ldmxcsr)(void *env, uint32_t value)
{
    if (value & MXCSR_RESERVED)
        raise_fault(env, VECTOR_GP, 0, RETADDR());
    NAME(real_helper_ldmxcsr)(env, value);
}

/* -- control registers, MSRs, CPUID, time --------------------------------------------------------- */

/* CR8 is the local APIC's task priority; it travels as this register number. */
#define SYSREG_CR8 (1ull << 32 | 8)

uint64_t NAME(helper_read_crN)(void *env, int reg);
uint64_t NAME(helper_read_crN)(void *env, int reg)
{
    uint64_t values[4], args[3] = {SYSREG_CR8, 0, 0};
    if (reg != 8)
        return NAME(real_helper_read_crN)(env, reg);
    vcpu_access(xg_current, EXIT_MSR_READ, args, values, RETADDR());
    return values[0];
}

void NAME(helper_write_crN)(void *env, int reg, uint64_t value);
void NAME(helper_write_crN)(void *env, int reg, uint64_t value)
{
    bool bad = false, paging = ENV_CR(env, 0) & CR0_PG;
    uint64_t values[4], args[3] = {SYSREG_CR8, value, 0};
    switch (reg) {
    case 0:
        bad = value >> 32 || (value & CR0_PG && !(value & CR0_PE)) ||
              (value & CR0_NW && !(value & CR0_CD)) ||
              (value & CR0_PG && !paging && ENV_EFER(env) & EFER_LME && !(ENV_CR(env, 4) & CR4_PAE)) ||
              (!(value & CR0_PG) && paging && ENV_HFLAGS(env) & HF_CS64);
        break;
    case 3:
        bad = ENV_HFLAGS(env) & HF_LMA && value & CR3_RESERVED;
        break;
    case 4:
        bad = value & ~xg_current->cr4_valid || (ENV_HFLAGS(env) & HF_LMA && !(value & CR4_PAE));
        break;
    case 8:
        bad = value >> 4;
        break;
    }
    if (bad)
        raise_fault(env, VECTOR_GP, 0, RETADDR());
    if (reg == 8)
        vcpu_access(xg_current, EXIT_MSR_WRITE, args, values, RETADDR());
    else
        NAME(real_helper_write_crN)(env, reg, value);
}

static uint64_t *plain_msr(void *env, uint32_t index)
{
    switch (index) {
    case 0x175: return &ENV_SYSENTER_ESP(env);
    case 0x176: return &ENV_SYSENTER_EIP(env);
    case 0x277: return &ENV_PAT(env);
    case 0xc0000080: return &ENV_EFER(env);
    case 0xc0000081: return &ENV_STAR(env);
    case 0xc0000082: return &ENV_LSTAR(env);
    case 0xc0000083: return &ENV_CSTAR(env);
    case 0xc0000084: return &ENV_FMASK(env);
    case 0xc0000100: return &ENV_SEG(env, SEG_FS)->base;
    case 0xc0000101: return &ENV_SEG(env, SEG_GS)->base;
    case 0xc0000102: return &ENV_KERNELGSBASE(env);
    case 0xc0000103: return &ENV_TSC_AUX(env);
    default: return NULL;
    }
}

static bool passed(struct vcpu *v, uint32_t index)
{
    for (size_t i = 0; i < v->msr_count; i++)
        if (v->msrs[i] == index)
            return true;
    return false;
}

void NAME(helper_rdmsr)(void *env);
void NAME(helper_rdmsr)(void *env)
{
    struct vcpu *v = xg_current;
    uint32_t index = (uint32_t)ENV_REGS(env, R_ECX);
    uint64_t values[4], args[3] = {index, 0, 0};
    if (passed(v, index) && index == 0x174)
        values[0] = ENV_SYSENTER_CS(env);
    else if (passed(v, index) && plain_msr(env, index))
        values[0] = *plain_msr(env, index);
    else
        vcpu_access(v, EXIT_MSR_READ, args, values, RETADDR());
    ENV_REGS(env, R_EAX) = (uint32_t)values[0];
    ENV_REGS(env, R_EDX) = values[0] >> 32;
}

static bool pat_valid(uint64_t pat)
{
    for (int i = 0; i < 8; i++, pat >>= 8)
        if ((pat & 0xff) > 7 || (pat & 0xff) == 2 || (pat & 0xff) == 3)
            return false;
    return true;
}

void NAME(helper_wrmsr)(void *env);
void NAME(helper_wrmsr)(void *env)
{
    struct vcpu *v = xg_current;
    uint32_t index = (uint32_t)ENV_REGS(env, R_ECX);
    uint64_t value = (uint32_t)ENV_REGS(env, R_EAX) | ENV_REGS(env, R_EDX) << 32;
    uint64_t values[4], args[3] = {index, value, 0};
    uint64_t *plain = passed(v, index) ? plain_msr(env, index) : NULL;
    bool bad = false;
    if (passed(v, index) && index == 0x174) {
        ENV_SYSENTER_CS(env) = (uint32_t)value & 0xffff;
        return;
    }
    if (index == MSR_X2APIC_EOI && !value && v->ending) {
        v->ending = false;
        v->ended = true;
        return;
    }
    if (index == MSR_APIC_BASE)
        v->ends = v->ending = false; /* in another mode that MSR doesn't exist */
    if (!plain) {
        vcpu_access(v, EXIT_MSR_WRITE, args, values, RETADDR());
        return;
    }
    switch (index) {
    case 0xc0000080:
        bad = value & ~v->efer_valid ||
              (ENV_CR(env, 0) & CR0_PG && (value ^ ENV_EFER(env)) & EFER_LME);
        value = (value & ~EFER_LMA) | (ENV_EFER(env) & EFER_LMA);
        break;
    case 0x175: case 0x176: case 0xc0000082: case 0xc0000083:
    case 0xc0000100: case 0xc0000101: case 0xc0000102:
        bad = !canonical(value);
        break;
    case 0x277:
        bad = !pat_valid(value);
        break;
    case 0xc0000103:
        bad = value >> 32;
        break;
    }
    if (bad)
        raise_fault(env, VECTOR_GP, 0, RETADDR());
    bool flush = index == 0xc0000080 && (value ^ *plain) & EFER_NXE;
    *plain = value;
    if (flush)
        NAME(tlb_flush)(v->cs);
}

void NAME(helper_cpuid)(void *env);
void NAME(helper_cpuid)(void *env)
{
    struct vcpu *v = xg_current;
    uint32_t leaf = (uint32_t)ENV_REGS(env, R_EAX), subleaf = (uint32_t)ENV_REGS(env, R_ECX);
    uint64_t values[4], args[3] = {leaf, subleaf, 0};
    const struct cpuid_row *row = v->cpuid, *end = row + v->cpuid_rows;
    while (row < end && !(row->leaf == leaf && (row->subleaf_any || row->subleaf == subleaf)))
        row++;
    if (row < end)
        for (int i = 0; i < 4; i++)
            values[i] = row->regs[i];
    else
        vcpu_access(v, EXIT_CPUID, args, values, RETADDR());
    /* Two bits mirror what the guest enabled. */
    if (leaf == 1 && values[2] & 1u << 26)
        values[2] = (values[2] & ~(1ull << 27)) | (ENV_CR(env, 4) & CR4_OSXSAVE ? 1u << 27 : 0);
    if (leaf == 7 && !subleaf && values[2] & 1u << 3)
        values[2] = (values[2] & ~(1ull << 4)) | (ENV_CR(env, 4) & CR4_PKE ? 1u << 4 : 0);
    ENV_REGS(env, R_EAX) = (uint32_t)values[0];
    ENV_REGS(env, R_EBX) = (uint32_t)values[1];
    ENV_REGS(env, R_ECX) = (uint32_t)values[2];
    ENV_REGS(env, R_EDX) = (uint32_t)values[3];
}

uint64_t vcpu_tsc(struct vcpu *v, uint64_t count)
{
    uint64_t ns = v->tsc.is_virtual ? count : (uint64_t)monotonic_ns();
    return (uint64_t)((unsigned __int128)ns * v->tsc.khz / 1000000) + (uint64_t)v->tsc.offset;
}

static void read_tsc(void *env, uintptr_t retaddr)
{
    if (ENV_CR(env, 4) & CR4_TSD && ENV_HFLAGS(env) & HF_CPL)
        raise_fault(env, VECTOR_GP, 0, retaddr);
    uint64_t value = vcpu_tsc(xg_current, engine_count(xg_current->engine));
    ENV_REGS(env, R_EAX) = (uint32_t)value;
    ENV_REGS(env, R_EDX) = value >> 32;
}

void NAME(helper_rdtsc)(void *env);
void NAME(helper_rdtsc)(void *env)
{
    read_tsc(env, RETADDR());
}

void NAME(helper_rdtscp)(void *env);
void NAME(helper_rdtscp)(void *env)
{
    read_tsc(env, RETADDR());
    ENV_REGS(env, R_ECX) = (uint32_t)ENV_TSC_AUX(env);
}

/* Entropy has one door: the stream's seed comes from the hypervisor. */
uint64_t NAME(helper_rdrand)(void *env);
uint64_t NAME(helper_rdrand)(void *env)
{
    uint64_t z = xg_current->entropy += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    ENV_CC_SRC(env) = 1; /* success is the carry flag alone */
    return z ^ z >> 31;
}

/* -- port I/O ------------------------------------------------------------------------------------------ */

static uint64_t port_access(void *env, int reason, uint32_t port, unsigned size, uint64_t value,
                            uintptr_t retaddr)
{
    static void (*const check[])(void *, uint32_t) = {
        NAME(helper_check_iob), NAME(helper_check_iow), NAME(helper_check_iol)};
    struct vcpu *v = xg_current;
    uint64_t values[4], args[3] = {port & 0xffff, size, value};
    uint32_t cpl = ENV_HFLAGS(env) & HF_CPL;
    if (ENV_CR(env, 0) & CR0_PE &&
        (cpl > (ENV_EFLAGS(env) >> 12 & 3) || ENV_EFLAGS(env) & EFLAGS_VM)) {
        NAME(cpu_restore_state)(v->cs, retaddr, true);
        check[size / 2](env, port & 0xffff);
    }
    bool trapped = false;
    for (uint32_t p = port & 0xffff; p < (port & 0xffff) + size; p++)
        trapped |= v->ports[p / 8 & 8191] >> p % 8 & 1;
    if (!trapped)
        return ~0ull;
    vcpu_access(v, reason, args, values, retaddr);
    return values[0];
}

#define PORT_HELPERS(suffix, size, type)                                                       \
    uint64_t NAME(helper_in##suffix)(void *env, uint32_t port);                                \
    uint64_t NAME(helper_in##suffix)(void *env, uint32_t port)                                 \
    {                                                                                          \
        return (type)port_access(env, EXIT_IO_IN, port, size, 0, RETADDR());                   \
    }                                                                                          \
    void NAME(helper_out##suffix)(void *env, uint32_t port, uint32_t data);                    \
    void NAME(helper_out##suffix)(void *env, uint32_t port, uint32_t data)                     \
    {                                                                                          \
        port_access(env, EXIT_IO_OUT, port, size, (type)data, RETADDR());                      \
    }
PORT_HELPERS(b, 1, uint8_t)
PORT_HELPERS(w, 2, uint16_t)
PORT_HELPERS(l, 4, uint32_t)

/* -- waiting ------------------------------------------------------------------------------------------ */

static _Noreturn void halt(void *env, int next_eip_addend)
{
    struct vcpu *v = xg_current;
    ENV_EIP(env) += (uint64_t)next_eip_addend;
    ENV_HFLAGS(env) &= ~HF_INHIBIT_IRQ;
    v->args[0] = (ENV_EFLAGS(env) & EFLAGS_IF) != 0;
    vcpu_leave(v, EXIT_HALT, 0);
}

void NAME(helper_hlt)(void *env, int next_eip_addend);
void NAME(helper_hlt)(void *env, int next_eip_addend)
{
    halt(env, next_eip_addend);
}

void NAME(helper_mwait)(void *env, int next_eip_addend);
void NAME(helper_mwait)(void *env, int next_eip_addend)
{
    (void)next_eip_addend;
    raise_fault(env, VECTOR_UD, 0, RETADDR());
}

void NAME(helper_monitor)(void *env, uint64_t address);
void NAME(helper_monitor)(void *env, uint64_t address)
{
    (void)address;
    raise_fault(env, VECTOR_UD, 0, RETADDR());
}

void NAME(helper_pause)(void *env, int next_eip_addend);
void NAME(helper_pause)(void *env, int next_eip_addend)
{
    struct vcpu *v = xg_current;
    ENV_EIP(env) += (uint64_t)next_eip_addend;
    if (v->pause_every && ++v->pauses % v->pause_every == 0)
        vcpu_leave(v, EXIT_PAUSE, 0);
    CPU_EXCEPTION_INDEX(v->cs) = -1;
    NAME(cpu_loop_exit)(v->cs);
}

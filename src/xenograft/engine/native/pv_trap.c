/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A PV vCPU's ways in and out of its kernel: exceptions, system calls and events are pushed on
 * the kernel's stack as Xen pushes them; IRET is a hypercall.  Kernel and user both run at CPL 3
 * (a 32-bit kernel at CPL 1), with a page table each.
 *
 * Facts: create_bounce_frame and its callers in xen/arch/x86/x86_64/entry.S and
 * compat/entry.S, xen/arch/x86/pv/{traps,iret,ro-page-fault,descriptor-tables}.c of Xen 4.17;
 * public/arch-x86/xen-x86_64.h for the frames.
 */
#include "pv.h"
#include "qemu.h"

#include <string.h>

enum { VECTOR_NMI = 2, VECTOR_BP = 3, VECTOR_OF = 4, VECTOR_UD = 6, VECTOR_NM = 7, VECTOR_GP = 13,
       VECTOR_PF = 14 };
#define HAS_ERROR_CODE 0x00227d00u /* by vector: 8, 10 to 14, 17, 21 */
#define EFLAGS_TF 0x100u
#define EFLAGS_IF 0x200u
#define EFLAGS_DF 0x400u
#define EFLAGS_IOPL 0x3000u
#define EFLAGS_NT 0x4000u
#define EFLAGS_RF 0x10000u
#define EFLAGS_VM 0x20000u
#define EFLAGS_AC 0x40000u
#define VMASST_architectural_iopl (1u << 4)
#define VGCF_in_syscall 0x100u
#define VENDOR_AMD 0x68747541u /* EBX of CPUID leaf 0 */

/* -- modes ----------------------------------------------------------------------------------------------- */

bool pv_in_kernel(struct vcpu *v)
{
    if (v->pv->domain->compat)
        return (ENV_SEG(v->env, SEG_CS)->selector & 3) == 1;
    return !v->pv->user;
}

void pv_load_roots(struct vcpu *v)
{
    ENV_CR(v->env, 3) = pv_root(v) << PAGE_SHIFT;
    ENV_HFLAGS(v->env) = (ENV_HFLAGS(v->env) & ~HF_PV_USER) | (v->pv->user ? HF_PV_USER : 0);
}

static void swap(void *a, void *b, size_t size)
{
    char saved[CPU_TLB_DESC_SIZE];
    memcpy(saved, a, size);
    memcpy(a, b, size);
    memcpy(b, saved, size);
}

/*
 * Between kernel and user mode the other half of the page tables comes into force.  Both run
 * at the same privilege, so the translations of the mode that sleeps are parked in a TLB that
 * this vCPU never looks into (that of a supervisor under SMAP), where flushes reach them.
 */
static void toggle(struct vcpu *v)
{
    struct segment *gs = ENV_SEG(v->env, SEG_GS);
    uint64_t base = gs->base;
    gs->base = ENV_KERNELGSBASE(v->env);
    ENV_KERNELGSBASE(v->env) = base;
    v->pv->user = !v->pv->user;
    pv_load_roots(v);
    swap(CPU_TLB_DESC(v->cs, TLB_SPARE), CPU_TLB_DESC(v->cs, TLB_USER), CPU_TLB_DESC_SIZE);
    swap(CPU_TLB_FAST(v->cs, TLB_SPARE), CPU_TLB_FAST(v->cs, TLB_USER), CPU_TLB_FAST_SIZE);
    CPU_TLB_DIRTY(v->cs) |= 1u << TLB_SPARE | 1u << TLB_USER;
}

_Noreturn void pv_give_up(struct vcpu *v, int vector, uint64_t address)
{
    v->dead = true;
    v->args[0] = (uint64_t)vector;
    v->args[1] = address;
    v->args[2] = ENV_EIP(v->env);
    vcpu_leave(v, EXIT_SHUTDOWN, 0);
}

/* -- bouncing ------------------------------------------------------------------------------------------------ */

static uint8_t *info(struct vcpu *v)
{
    return v->pv->info == ~0ull ? NULL : v->space->memory->base + v->pv->info;
}

static uint32_t take_mask(struct vcpu *v, bool masks)
{
    uint8_t *at = info(v), old = at ? at[1] : 1;
    if (masks && at)
        at[1] = old | 1;
    return old;
}

static uint64_t saved_flags(struct vcpu *v, uint32_t mask)
{
    uint64_t flags = vcpu_eflags(v->env) & ~(uint64_t)(EFLAGS_IF | EFLAGS_IOPL);
    if (!mask)
        flags |= EFLAGS_IF;
    return v->pv->domain->vm_assist & VMASST_architectural_iopl ? flags | v->pv->iopl : flags;
}

static void bounce_32(struct vcpu *v, uint64_t eip, uint32_t cs, int64_t error, bool masks)
{
    void *env = v->env;
    struct segment *code = ENV_SEG(env, SEG_CS), *stack = ENV_SEG(env, SEG_SS);
    uint32_t frame[6], words = 0, esp = (uint32_t)ENV_REGS(env, R_ESP);
    struct segment old_stack = *stack;
    uint32_t old_cs = code->selector & 0xffff;
    bool switches = old_cs & 2;
    uint32_t mask = take_mask(v, masks);
    uint64_t flags = saved_flags(v, mask);
    if (!(cs & ~3u))
        pv_give_up(v, -1, eip);
    /* The new code segment first: the stack's privilege is checked against it. */
    if (!pv_load_segment(v, SEG_CS, cs))
        pv_give_up(v, -2, cs);
    if (switches && !pv_load_segment(v, SEG_SS, (uint32_t)v->pv->kernel_ss))
        pv_give_up(v, -3, v->pv->kernel_ss);
    if (error >= 0)
        frame[words++] = (uint32_t)error;
    frame[words++] = (uint32_t)ENV_EIP(env);
    frame[words++] = old_cs | mask << 16;
    frame[words++] = (uint32_t)flags;
    if (switches) {
        frame[words++] = esp;
        frame[words++] = old_stack.selector & 0xffff;
        esp = (uint32_t)v->pv->kernel_sp;
    }
    esp -= words * 4;
    if (!pv_copy_out(v, (uint32_t)(ENV_SEG(env, SEG_SS)->base + esp), frame, words * 4))
        pv_give_up(v, -4, esp);
    ENV_REGS(env, R_ESP) = esp;
    ENV_EIP(env) = (uint32_t)eip;
    vcpu_set_eflags(env, vcpu_eflags(env) &
                    ~(uint64_t)(EFLAGS_VM | EFLAGS_RF | EFLAGS_NT | EFLAGS_TF));
    vcpu_sync_hflags(v);
}

/* Enter the kernel at `eip`; error is -1 for none. */
static void bounce(struct vcpu *v, uint64_t eip, uint32_t cs, int64_t error, bool masks)
{
    void *env = v->env;
    struct pv_vcpu *p = v->pv;
    p->bounces++;
    v->log_len = v->log_pos = 0;
    if (p->domain->compat) {
        bounce_32(v, eip, cs, error, masks);
        return;
    }
    uint64_t frame[8], words = 0, rsp = ENV_REGS(env, R_ESP);
    uint64_t old_cs = ENV_SEG(env, SEG_CS)->selector & 0xffff;
    if (p->user) {
        toggle(v);
        rsp = p->kernel_sp;
    } else {
        old_cs &= ~3ull; /* tells the guest that it was in its kernel */
    }
    rsp &= ~0xfull;
    if (rsp > HYPERVISOR_VIRT_START && rsp < HYPERVISOR_VIRT_END + 64)
        pv_give_up(v, -4, rsp);
    if (!eip)
        pv_give_up(v, -1, rsp);
    uint64_t mask = take_mask(v, masks);
    frame[words++] = ENV_REGS(env, R_ECX);
    frame[words++] = ENV_REGS(env, R_R11);
    if (error >= 0)
        frame[words++] = (uint64_t)error;
    frame[words++] = ENV_EIP(env);
    frame[words++] = old_cs | mask << 32;
    frame[words++] = saved_flags(v, (uint32_t)mask);
    frame[words++] = ENV_REGS(env, R_ESP);
    frame[words++] = ENV_SEG(env, SEG_SS)->selector & 0xffff;
    rsp -= words * 8;
    if (!pv_copy_out(v, rsp, frame, words * 8))
        pv_give_up(v, -4, rsp);
    uint64_t flags = vcpu_eflags(env) & ~(uint64_t)(EFLAGS_AC | EFLAGS_VM | EFLAGS_RF | EFLAGS_NT |
                                                    EFLAGS_TF);
    ENV_REGS(env, R_ESP) = rsp;
    ENV_EIP(env) = eip;
    /* Xen goes there by SYSRET. */
    ENV_REGS(env, R_ECX) = eip;
    ENV_REGS(env, R_R11) = flags;
    vcpu_set_eflags(env, flags);
    pv_set_segment(env, SEG_CS, FLAT_KERNEL_CS64, 0, 0xffffffff, DESC_CODE64);
    pv_set_segment(env, SEG_SS, FLAT_KERNEL_SS, 0, 0xffffffff, DESC_DATA32);
    vcpu_sync_hflags(v);
}

static void inject(struct vcpu *v, int vector, uint32_t error)
{
    struct pv_trap *t = &v->pv->traps[vector];
    bool coded = vector < 32 && HAS_ERROR_CODE >> vector & 1;
    if (vector == VECTOR_PF) {
        uint64_t cr2 = ENV_CR(v->env, 2);
        bool compat = v->pv->domain->compat;
        error = (error & ~(uint32_t)PFEC_user) | (pv_in_kernel(v) ? 0 : PFEC_user);
        if (info(v))
            memcpy(info(v) + (compat ? 8 : 16), &cr2, compat ? 4 : 8);
    }
    if (!t->address || (v->pv->domain->compat && !(t->cs & ~3u)))
        pv_give_up(v, vector, vector == VECTOR_PF ? ENV_CR(v->env, 2) : error);
    bounce(v, t->address, t->cs, coded ? (int64_t)error : -1, t->flags & TRAP_MASKS_EVENTS);
}

/* -- events ---------------------------------------------------------------------------------------------------- */

static bool nmi_due(struct vcpu *v)
{
    return v->nmi && !v->pv->nmi_masked && v->pv->traps[VECTOR_NMI].address;
}

bool pv_event_due(struct vcpu *v)
{
    uint8_t *at = info(v);
    return nmi_due(v) || (at && at[0] && !at[1]);
}

bool pv_event(struct vcpu *v)
{
    if (!pv_event_due(v))
        return false;
    bool nmi = nmi_due(v);
    uint32_t n = v->injections++ % INJECTIONS;
    v->injected[n].count = engine_count(v->engine);
    v->injected[n].vector = nmi ? VECTOR_NMI : 0;
    v->injected[n].kind = nmi ? 2 : 1;
    if (nmi) {
        v->nmi = false;
        v->pv->nmi_masked = true;
        inject(v, VECTOR_NMI, 0);
        return true;
    }
    bounce(v, v->pv->event, (uint32_t)v->pv->event_cs, -1, true);
    return true;
}

/* -- exceptions -------------------------------------------------------------------------------------------------- */

/* Leave for the hypervisor, which emulates the instruction or says what to deliver. */
static _Noreturn void leave_for_exception(struct vcpu *v, int vector, uint32_t error)
{
    v->args[0] = (uint64_t)vector;
    v->args[1] = error;
    v->args[2] = ENV_CR(v->env, 2);
    v->args[3] = ENV_EIP(v->env);
    v->args[4] = pv_in_kernel(v);
    v->pending = true;
    vcpu_leave(v, EXIT_EXCEPTION, 0);
}

static void software_interrupt(struct vcpu *v, int vector)
{
    void *env = v->env;
    struct pv_trap *t = &v->pv->traps[vector];
    uint64_t next = ENV_EXCEPTION_NEXT_EIP(env);
    uint32_t least = pv_in_kernel(v) ? 1 : 3;
    if (vector == VECTOR_BP || vector == VECTOR_OF) {
        ENV_EIP(env) = next;
        inject(v, vector, 0);
        return;
    }
    ENV_EIP(env) = next - (uint64_t)v->int_length;
    if (vector == 0x82 && v->pv->domain->compat && pv_in_kernel(v)) {
        pv_syscall(v, v->int_length, 0);
        return;
    }
    if ((t->flags & 3u) < least || (vector == 0x80 && !t->address)) {
        inject(v, VECTOR_GP, (uint32_t)vector << 3 | 2);
        return;
    }
    ENV_EIP(env) = next;
    inject(v, vector, 0);
}

static bool handle_ldt_fault(struct vcpu *v, uint32_t error)
{
    struct pv_vcpu *p = v->pv;
    uint64_t start = PERDOMAIN_VIRT_START + ((uint64_t)v->index << GDT_LDT_VCPU_SHIFT);
    uint64_t offset = ENV_CR(v->env, 2) - start;
    if (error & PFEC_user || offset < LDT_PAGE << PAGE_SHIFT || offset >= 32 << PAGE_SHIFT)
        return false;
    offset -= LDT_PAGE << PAGE_SHIFT;
    if (pv_map_ldt_page(v, offset >> PAGE_SHIFT))
        return true;
    ENV_CR(v->env, 2) = p->ldt_base + offset;
    return false;
}

static bool forced_emulation(struct vcpu *v)
{
    static const uint8_t wanted[] = {0x0f, 0x0b, 'x', 'e', 'n', 0x0f, 0xa2};
    uint8_t code[sizeof(wanted)];
    uint64_t at = ENV_SEG(v->env, SEG_CS)->base + ENV_EIP(v->env);
    if (v->pv->domain->compat)
        at = (uint32_t)at;
    if (!pv_copy_in(v, code, at, sizeof(code)) || memcmp(code, wanted, sizeof(code)))
        return false;
    ENV_EIP(v->env) += 5; /* CPUID itself shows the policy */
    return true;
}

/* The trap behind an access that a debug register watches. */
void pv_debug_trap(struct vcpu *v)
{
    inject(v, 1, 0);
}

/* An exception of a PV vCPU: EIP and the error code are the engine's. */
void pv_exception(struct vcpu *v, int vector)
{
    void *env = v->env;
    struct pv_vcpu *p = v->pv;
    uint32_t error = (uint32_t)ENV_ERROR_CODE(env);
    ENV_OLD_EXCEPTION(env) = -1;
    v->log_len = v->log_pos = 0;
    v->watching = false;
    v->watch_hits = 0; /* the access has failed */
    if (p->iret) {
        p->iret = false;
        pv_iret(v);
        return;
    }
    if (p->deliver) {
        p->deliver = false;
        inject(v, vector, error);
        return;
    }
    if (ENV_EXCEPTION_IS_INT(env)) {
        software_interrupt(v, vector);
        return;
    }
    switch (vector) {
    case VECTOR_PF:
        if (handle_ldt_fault(v, error) || pv_open_window(v, error))
            return;
        break;
    case VECTOR_NM:
        p->taskswitch = false;
        ENV_CR(env, 0) &= ~8ull;
        ENV_HFLAGS(env) &= ~HF_TS;
        break;
    case VECTOR_UD:
        if (forced_emulation(v))
            return;
        break;
    case VECTOR_GP:
        if (!error)
            leave_for_exception(v, vector, error);
        break;
    }
    inject(v, vector, error);
}

/* -- system calls and hypercalls ------------------------------------------------------------------------------------ */

static void hypercall(struct vcpu *v, int length, uintptr_t retaddr)
{
    void *env = v->env;
    uint64_t *r = &ENV_REGS(env, 0), args[6], number;
    bool wide = !v->pv->domain->compat;
    int64_t result = 0;
    if (wide) {
        uint64_t wide_args[] = {r[R_EDI], r[R_ESI], r[R_EDX], r[R_R10], r[R_R8],
                                ENV_REGS(env, 9)};
        memcpy(args, wide_args, sizeof(args));
        number = r[R_EAX];
        /* SYSCALL forgets the segments. */
        pv_set_segment(env, SEG_CS, FLAT_KERNEL_CS64, 0, 0xffffffff, DESC_CODE64);
        pv_set_segment(env, SEG_SS, FLAT_KERNEL_SS, 0, 0xffffffff, DESC_DATA32);
        vcpu_sync_hflags(v);
    } else {
        static const int order[] = {R_EBX, R_ECX, R_EDX, R_ESI, R_EDI, R_EBP};
        for (int i = 0; i < 6; i++)
            args[i] = (uint32_t)r[order[i]];
        number = (uint32_t)r[R_EAX];
    }
    v->pv->hypercalls++;
    /* IRET never returns, so nobody could be told its result. */
    bool here = v->pv->native || number == 23;
    switch (here ? pv_hypercall(v, number, args, &result) : PV_PASS) {
    case PV_ANSWERED:
        r[R_EAX] = wide ? (uint64_t)result : (uint32_t)result;
        ENV_EIP(env) += (uint64_t)length;
        if (wide) {
            r[R_ECX] = ENV_EIP(env);
            r[R_R11] = vcpu_eflags(env);
        }
        break;
    case PV_AGAIN: /* the arguments are what is left; the instruction runs again */
        r[wide ? R_EDI : R_EBX] = args[0];
        r[wide ? R_ESI : R_ECX] = args[1];
        break;
    case PV_DONE:
        break;
    case PV_PASS:
        v->call_length = length;
        v->args[0] = number;
        memcpy(v->args + 1, args, 5 * sizeof(uint64_t));
        v->pending = true;
        vcpu_leave(v, EXIT_HYPERCALL, retaddr);
    }
    ENV_LEFT(v->env) -= (int64_t)v->pv->domain->work; /* that took its time */
    v->pv->domain->work = 0;
    pv_event(v);
    if (unlikely(v->space->memory->zombies))
        vcpu_leave(v, EXIT_KICK, 0); /* accounts have to be brought up to date */
}

/* SYSCALL, and INT 0x82 of 32-bit kernels. */
void pv_syscall(struct vcpu *v, int length, uintptr_t retaddr)
{
    void *env = v->env;
    struct pv_vcpu *p = v->pv;
    if (p->domain->compat ? pv_in_kernel(v) : !p->user) {
        hypercall(v, length, retaddr);
        return;
    }
    bool narrow = !(ENV_HFLAGS(env) & HF_CS64), compat = p->domain->compat;
    /* In 32-bit code the instruction exists on one vendor's processors only. */
    if (narrow && ENV_CPUID_VENDOR1(env) != VENDOR_AMD)
        NAME(raise_exception_err_ra)(env, VECTOR_UD, 0, retaddr);
    uint64_t entry = narrow && (compat || p->syscall32) ? p->syscall32 : p->syscall;
    if (compat ? !(p->syscall32_cs & ~3ull) : !entry) {
        inject(v, compat ? VECTOR_GP : VECTOR_UD, 0);
        return;
    }
    ENV_EIP(env) += (uint64_t)length;
    ENV_REGS(env, R_ECX) = ENV_EIP(env);
    ENV_REGS(env, R_R11) = vcpu_eflags(env) & ~(uint64_t)EFLAGS_RF;
    if (narrow)
        pv_set_segment(env, SEG_CS, compat ? FLAT_COMPAT_USER_CS : FLAT_USER_CS32, 0, 0xffffffff,
                    DESC_CODE32);
    else
        pv_set_segment(env, SEG_CS, FLAT_KERNEL_CS64, 0, 0xffffffff, DESC_CODE64);
    pv_set_segment(env, SEG_SS, compat ? FLAT_COMPAT_USER_SS : FLAT_KERNEL_SS, 0, 0xffffffff,
                DESC_DATA32);
    bool masks = compat ? p->syscall32_masks : p->flags & VGCF_syscall_disables_events;
    bounce(v, entry, compat ? (uint32_t)p->syscall32_cs : FLAT_KERNEL_CS64, -1, masks);
    vcpu_set_eflags(env, vcpu_eflags(env) & ~(uint64_t)EFLAGS_DF);
    pv_event(v);
}

void pv_sysenter(struct vcpu *v)
{
    struct pv_vcpu *p = v->pv;
    void *env = v->env;
    if (!p->sysenter || pv_in_kernel(v)) {
        ENV_ERROR_CODE(env) = 0;
        inject(v, VECTOR_GP, 0);
        return;
    }
    /* What the processor forgets, Xen makes up. */
    bool compat = p->domain->compat;
    pv_set_segment(env, SEG_CS, compat ? FLAT_COMPAT_USER_CS : FLAT_USER_CS32, 0, 0xffffffff,
                DESC_CODE32);
    pv_set_segment(env, SEG_SS, compat ? FLAT_COMPAT_USER_SS : FLAT_KERNEL_SS, 0, 0xffffffff,
                DESC_DATA32);
    ENV_REGS(env, R_ESP) = 0;
    ENV_EIP(env) = 0;
    bounce(v, p->sysenter, (uint32_t)p->sysenter_cs, -1, p->sysenter_masks);
    pv_event(v);
}

static void set_mask(struct vcpu *v, uint64_t flags)
{
    uint8_t *at = info(v);
    if (at)
        at[1] = !(flags & EFLAGS_IF);
}

static void iret_32(struct vcpu *v)
{
    void *env = v->env;
    struct segment old_cs = *ENV_SEG(env, SEG_CS), old_ss = *ENV_SEG(env, SEG_SS);
    uint32_t frame[6], esp = (uint32_t)ENV_REGS(env, R_ESP);
    uint64_t at = (uint32_t)(ENV_SEG(env, SEG_SS)->base + esp);
    if (!pv_copy_in(v, frame, at, 16))
        pv_give_up(v, -5, at);
    uint32_t cs = frame[2] & 0xffff, flags = frame[3];
    if (v->pv->domain->vm_assist & VMASST_architectural_iopl)
        v->pv->iopl = flags & EFLAGS_IOPL;
    if (!(cs & 3))
        pv_give_up(v, -5, at);
    bool outer = cs & 2;
    if (outer && !pv_copy_in(v, frame + 4, at + 16, 8))
        pv_give_up(v, -5, at);
    set_mask(v, flags);
    if (flags & EFLAGS_VM) {
        vcpu_set_eflags(env, (flags & ~(EFLAGS_IOPL | EFLAGS_VM)) | EFLAGS_IF);
        ENV_EIP(env) = frame[1];
        inject(v, VECTOR_GP, 0);
        return;
    }
    ENV_REGS(env, R_EAX) = frame[0];
    ENV_REGS(env, R_ESP) = outer ? frame[4] : esp + 16;
    ENV_EIP(env) = frame[1];
    vcpu_set_eflags(env, (flags & ~(uint64_t)EFLAGS_IOPL) | EFLAGS_IF);
    if (!pv_load_segment(v, SEG_CS, cs) || (outer && !pv_load_segment(v, SEG_SS, frame[5]))) {
        *ENV_SEG(env, SEG_CS) = old_cs;
        *ENV_SEG(env, SEG_SS) = old_ss;
        ENV_SEG(env, SEG_CS)->selector = cs;
        inject(v, VECTOR_GP, cs & ~3u);
        return;
    }
    vcpu_sync_hflags(v);
}

/* __HYPERVISOR_iret: back to where a frame on the kernel's stack says. */
void pv_iret(struct vcpu *v)
{
    void *env = v->env;
    struct pv_vcpu *p = v->pv;
    struct {
        uint64_t rax, r11, rcx, flags, rip, cs, rflags, rsp, ss;
    } saved;
    p->irets++;
    p->nmi_masked = false;
    if (p->domain->compat) {
        iret_32(v);
        return;
    }
    if (!pv_copy_in(v, &saved, ENV_REGS(env, R_ESP), sizeof(saved)))
        pv_give_up(v, -5, ENV_REGS(env, R_ESP));
    bool to_user = (saved.cs & 3) == 3;
    if (to_user && !p->user_table)
        pv_give_up(v, -6, saved.rip);
    if (to_user)
        toggle(v);
    if (p->domain->vm_assist & VMASST_architectural_iopl)
        p->iopl = saved.rflags & EFLAGS_IOPL;
    uint32_t cs = (uint32_t)(saved.cs | 3) & 0xffff, ss = (uint32_t)(saved.ss | 3) & 0xffff;
    uint64_t flags = (saved.rflags & 0x3f7fd7ull & ~(uint64_t)(EFLAGS_IOPL | EFLAGS_VM)) | EFLAGS_IF;
    bool fast = saved.flags & VGCF_in_syscall && canonical(saved.rip);
    ENV_REGS(env, R_EAX) = saved.rax;
    ENV_REGS(env, R_ESP) = saved.rsp;
    ENV_EIP(env) = saved.rip;
    vcpu_set_eflags(env, flags);
    set_mask(v, saved.rflags);
    if (fast) {
        /* By SYSRET, with the flat segments that come with it. */
        bool narrow = cs == FLAT_USER_CS32;
        ENV_REGS(env, R_ECX) = saved.rip;
        ENV_REGS(env, R_R11) = flags;
        pv_set_segment(env, SEG_CS, narrow ? FLAT_USER_CS32 : FLAT_KERNEL_CS64, 0, 0xffffffff,
                    narrow ? DESC_CODE32 : DESC_CODE64);
        pv_set_segment(env, SEG_SS, FLAT_KERNEL_SS, 0, 0xffffffff, DESC_DATA32);
    } else {
        if (!(saved.flags & VGCF_in_syscall)) {
            ENV_REGS(env, R_R11) = saved.r11;
            ENV_REGS(env, R_ECX) = saved.rcx;
        }
        struct segment old_cs = *ENV_SEG(env, SEG_CS), old_ss = *ENV_SEG(env, SEG_SS);
        bool fine = canonical(saved.rip) && pv_load_segment(v, SEG_CS, cs);
        uint32_t wrong = fine ? ss & ~3u : canonical(saved.rip) ? cs & ~3u : 0;
        if (!fine || !pv_load_segment(v, SEG_SS, ss)) {
            *ENV_SEG(env, SEG_CS) = old_cs;
            *ENV_SEG(env, SEG_SS) = old_ss;
            ENV_SEG(env, SEG_CS)->selector = cs;
            ENV_SEG(env, SEG_SS)->selector = ss;
            inject(v, VECTOR_GP, wrong);
            return;
        }
    }
    vcpu_sync_hflags(v);
}

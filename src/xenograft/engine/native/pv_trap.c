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

enum { VECTOR_DB = 1, VECTOR_BP = 3, VECTOR_OF = 4, VECTOR_UD = 6, VECTOR_NM = 7, VECTOR_GP = 13,
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
#define PFEC_present 1
#define PFEC_write 2
#define PFEC_user 4
#define PFEC_reserved 8
#define PFEC_insn 16
#define VMASST_writable_pagetables (1u << 2)
#define VMASST_architectural_iopl (1u << 4)
#define VGCF_in_syscall 0x100u
#define DESC_CODE64 0xaffb00u
#define DESC_CODE32 0xcffb00u
#define DESC_DATA32 0xcff300u
#define LDT_PAGE 16 /* of a vCPU's 32 pages of descriptors */

/* -- the TLB ---------------------------------------------------------------------------------------- */

void pv_flush(struct vcpu *v)
{
    struct memory *m = v->space->memory;
    NAME(tlb_flush)(v->cs);
    v->pv->flush = false;
    if (++m->tlb_clock == 0) {
        /* Come round: old times mean nothing any more. */
        m->tlb_clock = 1;
        for (struct engine *e = m->engines; e; e = e->next)
            for (struct vcpu *other = e->vcpus; other; other = other->next)
                if (other->pv)
                    other->pv->flushed_at = 0;
    }
    v->pv->flushed_at = m->tlb_clock;
}

void pv_flush_others(struct vcpu *v)
{
    for (struct vcpu *other = v->engine->vcpus; other; other = other->next)
        if (other != v && other->pv)
            other->pv->flush = true;
}

/* A frame that could be written until `stamp` becomes something else. */
void pv_type_flush(struct pv_domain *d, uint32_t stamp)
{
    if (!d->space || !d->space->engine)
        return;
    for (struct vcpu *v = d->space->engine->vcpus; v; v = v->next) {
        if (!v->pv || v->pv->flushed_at > stamp)
            continue;
        if (v == xg_current)
            pv_flush(v);
        else
            v->pv->flush = true;
    }
}

/* -- the guest's memory ------------------------------------------------------------------------------- */

static uint64_t *walk(struct vcpu *v, uint64_t root, uint64_t gva, bool write)
{
    struct memory *m = v->space->memory;
    uint64_t mfn = root, *entry = NULL;
    for (int shift = 39; shift >= 12; shift -= 9) {
        if (mfn >= m->frames)
            return NULL;
        entry = &pv_table(m, mfn)[gva >> shift & 511];
        if (!(*entry & PTE_P) || (write && !(*entry & PTE_RW)) || (shift > 12 && *entry & PTE_PAT))
            return NULL;
        mfn = PTE_MFN(*entry);
    }
    return entry;
}

static uint64_t root_of(struct vcpu *v)
{
    struct pv_vcpu *p = v->pv;
    return p->domain->compat ? p->root : p->user ? p->user_table : p->kernel_table;
}

static bool address_fine(struct vcpu *v, uint64_t gva)
{
    if (v->pv->domain->compat)
        return gva < 0xf5800000ull;
    return gva < 1ull << 47 || gva >= HYPERVISOR_VIRT_END;
}

/* Machine address behind gva, as the guest may read or write it now, or ~0. */
uint64_t pv_walk(struct vcpu *v, uint64_t gva, bool write)
{
    if (!address_fine(v, gva))
        return ~0ull;
    uint64_t *entry = walk(v, root_of(v), gva, write);
    if (!entry || PTE_MFN(*entry) >= v->space->memory->frames)
        return ~0ull;
    *entry |= write ? PTE_A | PTE_D : PTE_A;
    return PTE_MFN(*entry) << PAGE_SHIFT | (gva & (PAGE_SIZE - 1));
}

bool pv_copy_in(struct vcpu *v, void *to, uint64_t gva, size_t size)
{
    while (size) {
        size_t part = PAGE_SIZE - (gva & (PAGE_SIZE - 1));
        part = part < size ? part : size;
        uint64_t maddr = pv_walk(v, gva, false);
        if (maddr == ~0ull)
            return false;
        memcpy(to, v->space->memory->base + maddr, part);
        to = (char *)to + part, gva += part, size -= part;
    }
    return true;
}

bool pv_copy_out(struct vcpu *v, uint64_t gva, const void *from, size_t size)
{
    /* All pages are checked first: a bad pointer leaves nothing half written. */
    for (uint64_t page = gva & ~(PAGE_SIZE - 1); page < gva + size; page += PAGE_SIZE)
        if (pv_walk(v, page > gva ? page : gva, true) == ~0ull)
            return false;
    while (size) {
        size_t part = PAGE_SIZE - (gva & (PAGE_SIZE - 1));
        part = part < size ? part : size;
        uint64_t maddr = pv_walk(v, gva, true);
        frame_written(v->space->memory, maddr >> PAGE_SHIFT);
        memcpy(v->space->memory->base + maddr, from, part);
        from = (const char *)from + part, gva += part, size -= part;
    }
    return true;
}

/* -- modes ----------------------------------------------------------------------------------------------- */

static bool in_kernel(struct vcpu *v)
{
    if (v->pv->domain->compat)
        return (ENV_SEG(v->env, SEG_CS)->selector & 3) == 1;
    return !v->pv->user;
}

void pv_load_roots(struct vcpu *v)
{
    ENV_CR(v->env, 3) = root_of(v) << PAGE_SHIFT;
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

/* -- segments ---------------------------------------------------------------------------------------------- */

static void set_segment(void *env, int n, uint32_t selector, uint64_t base, uint32_t limit,
                        uint32_t flags)
{
    *ENV_SEG(env, n) = (struct segment){selector, 0, base, limit, flags};
}

static bool map_ldt_page(struct vcpu *v, uint64_t page)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    uint64_t kernel = p->domain->compat ? p->root : p->kernel_table;
    uint64_t gva = p->ldt_base + (page << PAGE_SHIFT);
    if (page * 512 >= p->ldt_entries || p->ldt_frames[page])
        return false;
    uint64_t *entry = address_fine(v, gva) ? walk(v, kernel, gva, false) : NULL;
    if (!entry || pv_get_page_and_type(p->domain, PTE_MFN(*entry), PGT_seg_desc_page))
        return false;
    p->ldt_frames[page] = PTE_MFN(*entry);
    uint64_t *slot = (uint64_t *)(m->base + p->descriptors) + LDT_PAGE + page;
    *slot = p->ldt_frames[page] << PAGE_SHIFT | PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX;
    return true;
}

void pv_drop_ldt(struct vcpu *v)
{
    struct pv_vcpu *p = v->pv;
    bool dropped = false;
    for (int i = 0; i < 16; i++)
        if (p->ldt_frames[i]) {
            ((uint64_t *)(v->space->memory->base + p->descriptors))[LDT_PAGE + i] = 0;
            uint64_t mfn = p->ldt_frames[i];
            p->ldt_frames[i] = 0;
            pv_put_page_and_type(p->domain, mfn);
            dropped = true;
        }
    if (dropped && v == xg_current)
        pv_flush(v);
    else if (dropped)
        p->flush = true;
}

/* The descriptor behind a selector. False: there is none. */
static bool descriptor_of(struct vcpu *v, uint32_t selector, uint64_t *descriptor)
{
    struct pv_vcpu *p = v->pv;
    uint64_t index = selector >> 3, page = index >> 9, mfn;
    if (selector & 4) {
        if (index >= p->ldt_entries || (!p->ldt_frames[page] && !map_ldt_page(v, page)))
            return false;
        mfn = p->ldt_frames[page];
    } else if (index >= FIRST_RESERVED_GDT_ENTRY) {
        if (index >= FIRST_RESERVED_GDT_ENTRY + 32)
            return false;
        mfn = p->reserved_gdt;
    } else {
        if (index >= p->gdt_entries)
            return false;
        mfn = p->gdt_frames[page];
    }
    *descriptor = pv_table(v->space->memory, mfn)[index & 511];
    return true;
}

/*
 * Load a segment register as IRET or MOV would at the guest's privilege.  False: that faults.
 */
bool pv_load_segment(struct vcpu *v, int n, uint32_t selector)
{
    void *env = v->env;
    uint64_t raw;
    selector &= 0xffff;
    if (n == SEG_CS && selector == FLAT_KERNEL_CS64 && !v->pv->domain->compat) {
        set_segment(env, n, selector, 0, 0xffffffff, DESC_CODE64);
        return true;
    }
    if (n == SEG_SS && selector == FLAT_KERNEL_SS) {
        set_segment(env, n, selector, 0, 0xffffffff, DESC_DATA32);
        return true;
    }
    if (!(selector & ~3u)) {
        if (n == SEG_CS || (n == SEG_SS && !(ENV_SEG(env, SEG_CS)->flags & 1u << 21)))
            return false;
        /* In 64-bit mode a null stack segment is fine outside of ring 0's usual needs. */
        set_segment(env, n, selector, 0, 0, n == SEG_SS ? (selector & 3) << 13 : 0);
        return true;
    }
    if (!descriptor_of(v, selector, &raw))
        return false;
    uint32_t low = (uint32_t)raw, high = (uint32_t)(raw >> 32);
    uint32_t dpl = high >> 13 & 3, rpl = selector & 3, kind = high >> 8 & 0x1f;
    bool code = kind & 8, present = high & 1u << 15;
    if (!(kind & 0x10) || !present)
        return false;
    if (n == SEG_CS) {
        if (!code || (kind & 4 ? dpl > rpl : dpl != rpl) ||
            ((high & 1u << 21) && (high & 1u << 22)))
            return false;
    } else if (n == SEG_SS) {
        if (code || !(kind & 2) || dpl != rpl || rpl != (ENV_SEG(env, SEG_CS)->selector & 3))
            return false;
    } else if ((code && !(kind & 2)) || (!(code && kind & 4) && dpl < rpl)) {
        return false;
    }
    uint32_t limit = (low & 0xffff) | (high & 0xf0000);
    if (high & 1u << 23)
        limit = limit << 12 | 0xfff;
    set_segment(env, n, selector, (high & 0xff000000u) | (high & 0xff) << 16 | low >> 16, limit,
                (high & 0x00ffff00u) | 0x100);
    return true;
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
    set_segment(env, SEG_CS, FLAT_KERNEL_CS64, 0, 0xffffffff, DESC_CODE64);
    set_segment(env, SEG_SS, FLAT_KERNEL_SS, 0, 0xffffffff, DESC_DATA32);
    vcpu_sync_hflags(v);
}

static void inject(struct vcpu *v, int vector, uint32_t error)
{
    struct pv_trap *t = &v->pv->traps[vector];
    bool coded = vector < 32 && HAS_ERROR_CODE >> vector & 1;
    if (vector == VECTOR_PF) {
        uint64_t cr2 = ENV_CR(v->env, 2);
        bool compat = v->pv->domain->compat;
        error = (error & ~(uint32_t)PFEC_user) | (in_kernel(v) ? 0 : PFEC_user);
        if (info(v))
            memcpy(info(v) + (compat ? 8 : 16), &cr2, compat ? 4 : 8);
    }
    if (!t->address || (v->pv->domain->compat && !(t->cs & ~3u)))
        pv_give_up(v, vector, vector == VECTOR_PF ? ENV_CR(v->env, 2) : error);
    bounce(v, t->address, t->cs, coded ? (int64_t)error : -1, t->flags & TRAP_MASKS_EVENTS);
}

/* -- events ---------------------------------------------------------------------------------------------------- */

bool pv_event_due(struct vcpu *v)
{
    uint8_t *at = info(v);
    return at && at[0] && !at[1];
}

bool pv_event(struct vcpu *v)
{
    if (!pv_event_due(v))
        return false;
    uint32_t n = v->injections++ % INJECTIONS;
    v->injected[n].count = engine_count(v->engine);
    v->injected[n].vector = 0;
    v->injected[n].kind = 1;
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
    v->args[4] = in_kernel(v);
    v->pending = true;
    vcpu_leave(v, EXIT_EXCEPTION, 0);
}

static void software_interrupt(struct vcpu *v, int vector)
{
    void *env = v->env;
    struct pv_trap *t = &v->pv->traps[vector];
    uint64_t next = ENV_EXCEPTION_NEXT_EIP(env);
    uint32_t least = in_kernel(v) ? 1 : 3;
    if (vector == VECTOR_BP || vector == VECTOR_OF) {
        ENV_EIP(env) = next;
        inject(v, vector, 0);
        return;
    }
    ENV_EIP(env) = next - (uint64_t)v->int_length;
    if (vector == 0x82 && v->pv->domain->compat && in_kernel(v)) {
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
    if (map_ldt_page(v, offset >> PAGE_SHIFT))
        return true;
    ENV_CR(v->env, 2) = p->ldt_base + offset;
    return false;
}

/* Whether a fault is a kernel's store to a page table that may be carried out. */
static bool open_window(struct vcpu *v, uint32_t error)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    uint64_t gva = ENV_CR(v->env, 2);
    if (!(p->domain->vm_assist & VMASST_writable_pagetables) || !in_kernel(v) ||
        error & (PFEC_reserved | PFEC_insn) ||
        (error & (PFEC_present | PFEC_write)) != (PFEC_present | PFEC_write) ||
        !address_fine(v, gva))
        return false;
    uint64_t *entry = walk(v, root_of(v), gva, false);
    if (!entry || *entry & PTE_RW)
        return false;
    uint64_t mfn = PTE_MFN(*entry);
    if (mfn >= m->frames || m->table[mfn].owner != p->domain->domid ||
        pv_type(m, mfn) != PGT_level(1) || !pv_count(m, mfn))
        return false;
    p->window = gva & ~(PAGE_SIZE - 1);
    p->window_mfn = mfn;
    return true;
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

/* An exception of a PV vCPU: EIP and the error code are the engine's. */
void pv_exception(struct vcpu *v, int vector)
{
    void *env = v->env;
    struct pv_vcpu *p = v->pv;
    uint32_t error = (uint32_t)ENV_ERROR_CODE(env);
    ENV_OLD_EXCEPTION(env) = -1;
    v->log_len = v->log_pos = 0;
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
        if (handle_ldt_fault(v, error) || open_window(v, error))
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

/* -- stores to page tables --------------------------------------------------------------------------------------- */

bool pv_fill_window(struct vcpu *v, uint64_t addr, int access, int mmu_idx)
{
    struct pv_vcpu *p = v->pv;
    memory_attributes none = {0};
    if (likely(!p->window) || (addr & ~(PAGE_SIZE - 1)) != p->window || access == ACCESS_FETCH)
        return false;
    NAME(real_tlb_set_page_with_attrs)(v->cs, p->window, HOLE_BASE + (p->window_mfn << PAGE_SHIFT),
                                       none, PAGE_READ | PAGE_WRITE, mmu_idx, PAGE_SIZE);
    return true;
}

uint64_t pv_window_read(struct vcpu *v, uint64_t maddr, unsigned size)
{
    struct memory *m = v->space->memory;
    uint64_t value = 0;
    if (maddr >> PAGE_SHIFT < m->frames)
        memcpy(&value, m->base + maddr, size);
    return value;
}

void pv_window_write(struct vcpu *v, uint64_t maddr, uint64_t value, unsigned size)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    uint64_t mfn = maddr >> PAGE_SHIFT, page = p->window;
    uint64_t *pte = (uint64_t *)(m->base + (maddr & ~7ull)), entry = 0;
    int rc = -PV_EINVAL;
    if (page && mfn == p->window_mfn && pv_type(m, mfn) == PGT_level(1) && pv_count(m, mfn)) {
        entry = *pte;
        memcpy((char *)&entry + (maddr & 7), &value, size);
        rc = pv_mod_l1(p->domain, pte, mfn, entry, MMU_NORMAL_PT_UPDATE, p->domain->domid);
        if (rc && p->domain->compat && size == 4 && maddr & 4 && entry & PTE_P)
            /* The halves of an entry in the wrong order: the lower one will follow. */
            rc = pv_mod_l1(p->domain, pte, mfn, entry & ~PTE_P, MMU_NORMAL_PT_UPDATE,
                           p->domain->domid);
    }
    p->window = 0;
    p->window_writes++;
    if (page)
        NAME(tlb_flush_page)(v->cs, page);
    if (!rc)
        return;
    NAME(cpu_restore_state)(v->cs, CPU_MEM_IO_PC(v->cs), true);
    ENV_CR(v->env, 2) = page | (maddr & (PAGE_SIZE - 1));
    ENV_ERROR_CODE(v->env) = PFEC_present | PFEC_write;
    ENV_EXCEPTION_IS_INT(v->env) = 0;
    p->deliver = true;
    CPU_EXCEPTION_INDEX(v->cs) = VECTOR_PF;
    NAME(cpu_loop_exit)(v->cs);
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
        set_segment(env, SEG_CS, FLAT_KERNEL_CS64, 0, 0xffffffff, DESC_CODE64);
        set_segment(env, SEG_SS, FLAT_KERNEL_SS, 0, 0xffffffff, DESC_DATA32);
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
    if (p->domain->compat ? in_kernel(v) : !p->user) {
        hypercall(v, length, retaddr);
        return;
    }
    if (p->domain->compat || !(ENV_HFLAGS(env) & HF_CS64))
        NAME(raise_exception_err_ra)(env, VECTOR_UD, 0, retaddr);
    if (!p->syscall) {
        inject(v, VECTOR_UD, 0);
        return;
    }
    ENV_EIP(env) += (uint64_t)length;
    ENV_REGS(env, R_ECX) = ENV_EIP(env);
    ENV_REGS(env, R_R11) = vcpu_eflags(env) & ~(uint64_t)EFLAGS_RF;
    set_segment(env, SEG_CS, FLAT_KERNEL_CS64, 0, 0xffffffff, DESC_CODE64);
    set_segment(env, SEG_SS, FLAT_KERNEL_SS, 0, 0xffffffff, DESC_DATA32);
    bounce(v, p->syscall, FLAT_KERNEL_CS64, -1, p->flags & VGCF_syscall_disables_events);
    vcpu_set_eflags(env, vcpu_eflags(env) & ~(uint64_t)EFLAGS_DF);
    pv_event(v);
}

void pv_sysenter(struct vcpu *v)
{
    struct pv_vcpu *p = v->pv;
    void *env = v->env;
    if (!p->sysenter || in_kernel(v)) {
        ENV_ERROR_CODE(env) = 0;
        inject(v, VECTOR_GP, 0);
        return;
    }
    /* What the processor forgets, Xen makes up. */
    set_segment(env, SEG_CS, p->domain->compat ? 0xe02bu : FLAT_USER_CS32, 0, 0xffffffff,
                DESC_CODE32);
    set_segment(env, SEG_SS, p->domain->compat ? 0xe033u : FLAT_KERNEL_SS, 0, 0xffffffff,
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
        set_segment(env, SEG_CS, narrow ? FLAT_USER_CS32 : FLAT_KERNEL_CS64, 0, 0xffffffff,
                    narrow ? DESC_CODE32 : DESC_CODE64);
        set_segment(env, SEG_SS, FLAT_KERNEL_SS, 0, 0xffffffff, DESC_DATA32);
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

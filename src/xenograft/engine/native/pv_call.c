/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hypercalls that PV guests make all the time, answered without leaving the engine: IRET, page
 * tables, segments, and lists of them.  What isn't plain passes on to the hypervisor.
 *
 * Facts: do_mmu_update(), do_mmuext_op(), __do_update_va_mapping(), new_guest_cr3() in
 * xen/arch/x86/mm.c; xen/arch/x86/pv/misc-hypercalls.c; xen/common/multicall.c of Xen 4.17.
 */
#include "pv.h"
#include "qemu.h"

#include <string.h>

enum {
    HC_mmu_update = 1, HC_stack_switch = 3, HC_fpu_taskswitch = 5, HC_update_descriptor = 10,
    HC_multicall = 13, HC_update_va_mapping = 14, HC_xen_version = 17, HC_iret = 23,
    HC_set_segment_base = 25, HC_mmuext_op = 26, HC_sched_op = 29,
};
#define BUDGET 512               /* entries of a list at a time */
#define MMU_UPDATE_PREEMPTED 0x80000000u
#define UVMF_FLUSHTYPE_MASK 3u
enum { UVMF_TLB_FLUSH = 1, UVMF_INVLPG = 2 };
#define UVMF_ALL 4u
enum {
    MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE,
    MMUEXT_UNPIN_TABLE, MMUEXT_NEW_BASEPTR, MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_INVLPG_LOCAL,
    MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI, MMUEXT_TLB_FLUSH_ALL, MMUEXT_INVLPG_ALL,
    MMUEXT_FLUSH_CACHE, MMUEXT_SET_LDT, MMUEXT_NEW_USER_BASEPTR = 15, MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER,
};

/* -- root tables -------------------------------------------------------------------------------------- */

static int new_compat_root(struct vcpu *v, uint64_t mfn)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    if (mfn != p->kernel_table) {
        int rc = pv_get_page_and_type(p->domain, mfn, PGT_level(3));
        if (rc)
            return rc;
        pv_table(m, p->root)[0] = mfn << PAGE_SHIFT | PTE_P | PTE_RW | PTE_US | PTE_A;
        uint64_t old = p->kernel_table;
        p->kernel_table = mfn;
        pv_drop_ldt(v);
        if (old)
            pv_put_page_and_type(p->domain, old);
    }
    pv_flush(v);
    return 0;
}

/* Change the table of the kernel, or (mfn 0: none) of the user. 0 or -errno. */
int pv_new_baseptr(struct vcpu *v, uint64_t mfn, bool user)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    if (p->domain->compat)
        return user ? -PV_EINVAL : new_compat_root(v, mfn);
    uint64_t *table = user ? &p->user_table : &p->kernel_table, old = *table;
    if (old != mfn) {
        int rc = user && !mfn ? 0 : pv_get_page_and_type(p->domain, mfn, PGT_level(4));
        if (rc)
            return rc;
        /* Guests may ask not to see the machine-to-physical table in user mode. */
        if (!user && !p->domain->m2p_strict && !pv_table(m, mfn)[L4_M2P_SLOT])
            pv_table(m, mfn)[L4_M2P_SLOT] = p->domain->m2p_l4e;
        if (user && mfn && p->domain->m2p_strict)
            pv_table(m, mfn)[L4_M2P_SLOT] = 0;
        *table = mfn;
        if (!user)
            pv_drop_ldt(v);
        if (old)
            pv_put_page_and_type(p->domain, old);
    } else if (user) {
        return 0;
    }
    pv_load_roots(v);
    pv_flush(v);
    return 0;
}

/* -- mmuext_op ------------------------------------------------------------------------------------------- */

struct ext_op {
    uint32_t cmd;
    uint64_t arg1, arg2;
};

static bool read_ext_op(struct vcpu *v, uint64_t at, struct ext_op *op)
{
    if (v->pv->domain->compat) {
        uint32_t raw[3];
        if (!pv_copy_in(v, raw, at, sizeof(raw)))
            return false;
        *op = (struct ext_op){raw[0], raw[1], raw[2]};
        return true;
    }
    uint64_t raw[3];
    if (!pv_copy_in(v, raw, at, sizeof(raw)))
        return false;
    *op = (struct ext_op){(uint32_t)raw[0], raw[1], raw[2]};
    return true;
}

static void flush_page(struct vcpu *v, uint64_t gva, bool others)
{
    NAME(tlb_flush_page)(v->cs, gva);
    if (others)
        pv_flush_others(v);
}

/* The vCPUs of a mask: one address is tried, and all are flushed. */
static bool mask_fine(struct vcpu *v, uint64_t at)
{
    uint64_t word;
    return pv_copy_in(v, &word, at, v->pv->domain->compat ? 4 : 8);
}

static int set_ldt(struct vcpu *v, uint64_t base, uint64_t entries)
{
    struct pv_vcpu *p = v->pv;
    entries = (uint32_t)entries;
    bool far = p->domain->compat ? base >= 0xf5800000ull
                                 : base >= 1ull << 47 && base < HYPERVISOR_VIRT_END;
    if (entries > 8192 || (entries && (base & (PAGE_SIZE - 1) || far)))
        return -PV_EINVAL;
    if (!entries)
        base = 0;
    if (p->ldt_entries == entries && p->ldt_base == base)
        return 0;
    pv_drop_ldt(v);
    p->ldt_base = base;
    p->ldt_entries = entries;
    struct segment *ldt = ENV_TABLE(v->env, ENV_LDT);
    uint64_t at = PERDOMAIN_VIRT_START + ((uint64_t)v->index << GDT_LDT_VCPU_SHIFT) + 0x10000;
    *ldt = entries ? (struct segment){0xe048, 0, at, (uint32_t)entries * 8 - 1, 0x8200}
                   : (struct segment){0, 0, 0, 0, 0};
    return 0;
}

static int ext_op(struct vcpu *v, const struct ext_op *op)
{
    struct pv_domain *d = v->pv->domain;
    d->work += 2;
    switch (op->cmd) {
    case MMUEXT_PIN_L1_TABLE: case MMUEXT_PIN_L2_TABLE: case MMUEXT_PIN_L3_TABLE:
        return pv_pin(d, op->arg1, (int)op->cmd + 1);
    case MMUEXT_PIN_L4_TABLE:
        return d->compat ? 0 : pv_pin(d, op->arg1, 4);
    case MMUEXT_UNPIN_TABLE:
        return pv_unpin(d, op->arg1);
    case MMUEXT_NEW_BASEPTR:
        return pv_new_baseptr(v, op->arg1, false);
    case MMUEXT_NEW_USER_BASEPTR:
        return pv_new_baseptr(v, op->arg1, true);
    case MMUEXT_TLB_FLUSH_LOCAL:
        pv_flush(v);
        return 0;
    case MMUEXT_INVLPG_LOCAL:
        flush_page(v, op->arg1, false);
        return 0;
    case MMUEXT_TLB_FLUSH_MULTI:
        if (!mask_fine(v, op->arg2))
            return -PV_EINVAL;
        /* fall through */
    case MMUEXT_TLB_FLUSH_ALL:
        pv_flush(v);
        pv_flush_others(v);
        return 0;
    case MMUEXT_INVLPG_MULTI:
        if (!mask_fine(v, op->arg2))
            return -PV_EINVAL;
        /* fall through */
    case MMUEXT_INVLPG_ALL:
        flush_page(v, op->arg1, true);
        return 0;
    case MMUEXT_FLUSH_CACHE:
        return -PV_EACCES;
    case MMUEXT_FLUSH_CACHE_GLOBAL:
        return -PV_EINVAL;
    case MMUEXT_SET_LDT:
        return set_ldt(v, op->arg1, op->arg2);
    case MMUEXT_CLEAR_PAGE:
        return pv_clear_page(d, op->arg1);
    case MMUEXT_COPY_PAGE:
        return pv_copy_page(d, op->arg1, op->arg2);
    case MMUEXT_MARK_SUPER: case MMUEXT_UNMARK_SUPER:
        return -PV_EOPNOTSUPP;
    default:
        return -PV_ENOSYS;
    }
}

/* -- lists of updates ---------------------------------------------------------------------------------------- */

/*
 * mmu_update and mmuext_op share their form: a list, its length, a place for how many were done.
 * A list that a zombie frame or the budget interrupts goes on from where it stopped.
 */
static enum pv_answer update_list(struct vcpu *v, uint64_t args[6], int64_t *result, bool ext)
{
    struct memory *m = v->space->memory;
    struct pv_domain *d = v->pv->domain;
    uint32_t count = (uint32_t)args[1], done = 0, foreign = (uint32_t)args[3];
    uint64_t size = ext ? (d->compat ? 12 : 24) : 16;
    int rc = 0;
    if (foreign != DOMID_SELF)
        return PV_PASS;
    if (count & MMU_UPDATE_PREEMPTED) {
        count &= ~MMU_UPDATE_PREEMPTED;
        if (args[2])
            pv_copy_in(v, &done, args[2], 4);
    }
    uint32_t i = 0;
    for (; i < count; i++) {
        if (i && (m->zombies || i >= BUDGET || d->work > 1u << 20)) {
            args[0] += (uint64_t)i * size;
            args[1] = (count - i) | MMU_UPDATE_PREEMPTED;
            done += i;
            if (args[2])
                pv_copy_out(v, args[2], &done, 4);
            return PV_AGAIN;
        }
        uint64_t at = args[0] + (uint64_t)i * size, update[2];
        struct ext_op op;
        if (!(ext ? read_ext_op(v, at, &op) : pv_copy_in(v, update, at, 16))) {
            rc = -PV_EFAULT;
            break;
        }
        rc = ext ? ext_op(v, &op) : pv_mmu_update(d, update[0], update[1], d->domid);
        if (rc)
            break;
    }
    done += i;
    if (args[2])
        pv_copy_out(v, args[2], &done, 4);
    *result = rc;
    return PV_ANSWERED;
}

static int64_t update_va_mapping(struct vcpu *v, uint64_t va, uint64_t entry, uint64_t flags,
                                 uint32_t owner)
{
    struct pv_vcpu *p = v->pv;
    struct memory *m = v->space->memory;
    bool compat = p->domain->compat;
    uint64_t mfn = compat ? p->root : p->kernel_table, mask = flags & ~(uint64_t)UVMF_FLUSHTYPE_MASK;
    if (compat ? va >= 1ull << 32 : !canonical(va) ||
        (va >= HYPERVISOR_VIRT_START && va < HYPERVISOR_VIRT_END))
        return -PV_EINVAL;
    for (int shift = 39; shift > 12; shift -= 9) {
        uint64_t e = pv_table(m, mfn)[va >> shift & 511];
        if (!(e & PTE_P) || e & PTE_PAT || PTE_MFN(e) >= m->frames)
            return -PV_EINVAL;
        mfn = PTE_MFN(e);
    }
    if (m->table[mfn].owner != p->domain->domid || pv_type(m, mfn) != PGT_level(1) ||
        !pv_count(m, mfn))
        return -PV_EINVAL;
    int rc = pv_mod_l1(p->domain, &pv_table(m, mfn)[va >> 12 & 511], mfn, entry,
                       MMU_NORMAL_PT_UPDATE, owner);
    if (rc)
        return rc;
    uint32_t type = flags & UVMF_FLUSHTYPE_MASK;
    if (type != UVMF_TLB_FLUSH && type != UVMF_INVLPG)
        return 0;
    if (mask && mask != UVMF_ALL && !mask_fine(v, mask))
        return -PV_EFAULT;
    if (type == UVMF_TLB_FLUSH)
        pv_flush(v);
    else
        NAME(tlb_flush_page)(v->cs, va);
    if (mask)
        pv_flush_others(v);
    return 0;
}

/* -- small ones ------------------------------------------------------------------------------------------------ */

static int64_t set_segment_base(struct vcpu *v, uint32_t which, uint64_t base)
{
    struct segment *gs = ENV_SEG(v->env, SEG_GS);
    if (v->pv->domain->compat)
        return -PV_ENOSYS;
    if (which < 3 && !canonical(base))
        return -PV_EINVAL;
    switch (which) {
    case 0:
        ENV_SEG(v->env, SEG_FS)->base = base;
        return 0;
    case 1:
        ENV_KERNELGSBASE(v->env) = base;
        return 0;
    case 2:
        gs->base = base;
        return 0;
    case 3: {
        uint64_t kernel = gs->base;
        uint32_t selector = (uint32_t)base & 0xffff;
        if (selector > 3)
            selector |= 3;
        gs->base = ENV_KERNELGSBASE(v->env);
        if (!pv_load_segment(v, SEG_GS, selector))
            pv_load_segment(v, SEG_GS, 0);
        ENV_KERNELGSBASE(v->env) = gs->base;
        gs->base = kernel;
        return 0;
    }
    default:
        return -PV_EINVAL;
    }
}

static void fpu_taskswitch(struct vcpu *v, bool set)
{
    v->pv->taskswitch = set;
    ENV_CR(v->env, 0) = (ENV_CR(v->env, 0) & ~8ull) | (set ? 8 : 0);
    ENV_HFLAGS(v->env) = (ENV_HFLAGS(v->env) & ~HF_TS) | (set ? HF_TS : 0);
}

static enum pv_answer multicall(struct vcpu *v, uint64_t args[6], int64_t *result)
{
    bool compat = v->pv->domain->compat;
    struct memory *m = v->space->memory;
    uint64_t word = compat ? 4 : 8, size = 8 * word;
    uint32_t count = (uint32_t)args[1];
    for (uint32_t i = 0; i < count; i++) {
        uint64_t call[8], at = args[0] + i * size;
        enum pv_answer answer = PV_PASS;
        int64_t value = 0;
        bool readable = pv_copy_in(v, call, at, size);
        if (compat && readable) {
            uint32_t narrow[8];
            memcpy(narrow, call, sizeof(narrow));
            for (int j = 0; j < 8; j++)
                call[j] = narrow[j];
        }
        bool over = i && (m->zombies || i >= BUDGET || v->pv->domain->work > 1u << 20);
        if (readable && !over && call[0] == HC_iret) {
            pv_iret(v); /* the end of the list */
            return PV_DONE;
        }
        if (readable && !over && call[0] != HC_multicall)
            answer = pv_hypercall(v, (uint32_t)call[0], call + 2, &value);
        if (answer == PV_ANSWERED) {
            if (!pv_copy_out(v, at + word, &value, word)) {
                *result = -PV_EFAULT;
                return PV_ANSWERED;
            }
            continue;
        }
        if (answer == PV_AGAIN) {
            uint32_t narrow[2] = {(uint32_t)call[2], (uint32_t)call[3]};
            pv_copy_out(v, at + 2 * word, compat ? (void *)narrow : (void *)(call + 2), 2 * word);
        }
        args[0] = at;
        args[1] = count - i;
        return answer == PV_AGAIN || over ? PV_AGAIN : PV_PASS;
    }
    *result = 0;
    return PV_ANSWERED;
}

enum pv_answer pv_hypercall(struct vcpu *v, uint64_t number, uint64_t args[6], int64_t *result)
{
    struct pv_vcpu *p = v->pv;
    struct pv_domain *d = p->domain;
    bool compat = d->compat;
    switch (number) {
    case HC_iret:
        pv_iret(v);
        return PV_DONE;
    case HC_mmu_update:
        return update_list(v, args, result, false);
    case HC_mmuext_op:
        return update_list(v, args, result, true);
    case HC_update_va_mapping:
        *result = compat ? update_va_mapping(v, args[0], args[1] | args[2] << 32, args[3], d->domid)
                         : update_va_mapping(v, args[0], args[1], args[2], d->domid);
        return PV_ANSWERED;
    case HC_update_descriptor:
        *result = compat ? pv_update_descriptor(d, args[0] | args[1] << 32, args[2] | args[3] << 32)
                         : pv_update_descriptor(d, args[0], args[1]);
        return PV_ANSWERED;
    case HC_stack_switch:
        p->kernel_ss = compat ? ((args[0] & 3) ? args[0] : args[0] | 1) : args[0] | 3;
        p->kernel_sp = args[1];
        *result = 0;
        return PV_ANSWERED;
    case HC_fpu_taskswitch:
        fpu_taskswitch(v, (uint32_t)args[0] != 0);
        *result = 0;
        return PV_ANSWERED;
    case HC_set_segment_base:
        *result = set_segment_base(v, (uint32_t)args[0], args[1]);
        return PV_ANSWERED;
    case HC_multicall:
        return multicall(v, args, result);
    default:
        for (size_t i = 0; i < v->fast_rows; i++)
            if (v->fast[i].number == number && v->fast[i].arg == args[0]) {
                *result = (int64_t)v->fast[i].result;
                return PV_ANSWERED;
            }
        return PV_PASS;
    }
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* IDT, TSS, and what happens on a trap: a handler, a fix-up, a guard, or a panic, in this order. */
#include "guest.h"

struct gate {
#if BITS == 64
    u64 low, high;
#else
    u64 low;
#endif
};

static struct gate idt[256] __attribute__((aligned(16)));
static struct guard *guards[MAX_CPUS];
static struct guard user_guard;
static volatile ulong user_result;

/* ---- tables ---- */

#define IO_BITMAP_BYTES 8192
#if BITS == 64
struct tss {
    u32 reserved0;
    u64 rsp[3], reserved1, ist[7], reserved2;
    u16 reserved3, io_map;
} __attribute__((packed, aligned(8)));
#else
struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, regs[8];
    u32 es, cs, ss, ds, fs, gs, ldt;
    u16 trace, io_map;
} __attribute__((packed, aligned(8)));
#endif

struct tss_with_bitmap {
    struct tss tss;
    u8 bitmap[IO_BITMAP_BYTES + 1];
};
static struct tss_with_bitmap boot_tss __attribute__((aligned(4096)));
static struct tss ap_tss[MAX_CPUS];
#if BITS == 64
static u8 ist_stacks[2][8192] __attribute__((aligned(16)));
#endif

static struct tss *tss_of(unsigned cpu)
{
    return cpu ? &ap_tss[cpu] : &boot_tss.tss;
}

void set_descriptor(u16 selector, u64 low)
{
    *(volatile u64 *)(gdt + (selector & ~7)) = low;
}

void set_gate(unsigned vector, void *stub, unsigned dpl, bool present, unsigned ist)
{
    u64 at = (ulong)stub;
    u64 low = (at & 0xffff) | (u64)SEL_KCS << 16 | (u64)(ist & 7) << 32 | (u64)0xe << 40;

    low |= (u64)(dpl & 3) << 45 | (u64)present << 47 | (at >> 16 & 0xffff) << 48;
    idt[vector].low = low;
#if BITS == 64
    idt[vector].high = at >> 32;
#endif
}

/* Stubs are padded to 16 bytes each. */
void restore_gate(unsigned vector)
{
    set_gate(vector, vector_stubs + 16 * vector, vector == VEC_USER_RETURN ? 3 : 0, true,
             BITS == 64 && vector == VEC_DF ? 1 : 0);
}

void set_idt_limit(u16 limit)
{
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) pointer = { limit, (ulong)idt };

    asm volatile("lidt %0" ::"m"(pointer) : "memory");
}

void set_io_permission(u16 port, bool allowed)
{
    u8 bit = (u8)(1u << (port & 7));

    if (allowed)
        boot_tss.bitmap[port >> 3] &= (u8)~bit;
    else
        boot_tss.bitmap[port >> 3] |= bit;
}

void set_kernel_stack(ulong sp)
{
#if BITS == 64
    tss_of(cpu_index())->rsp[0] = sp;
#else
    tss_of(cpu_index())->esp0 = sp;
#endif
}

void cpu_tables_init(unsigned cpu)
{
    struct tss *tss = tss_of(cpu);
    u16 selector = (u16)(SEL_TSS_BASE + 16 * cpu);
    u64 base = (ulong)tss, limit = sizeof(struct tss) - 1;

    memset(tss, 0, sizeof(*tss));
    tss->io_map = sizeof(struct tss);
    if (cpu == 0) {
        memset(boot_tss.bitmap, 0xff, sizeof(boot_tss.bitmap));
        limit = sizeof(boot_tss.tss) + sizeof(boot_tss.bitmap) - 1;
    }
#if BITS == 64
    tss->ist[0] = (ulong)(ist_stacks[0] + sizeof(ist_stacks[0]));
    tss->ist[1] = (ulong)(ist_stacks[1] + sizeof(ist_stacks[1]));
    set_descriptor((u16)(selector + 8), base >> 32);
#else
    tss->ss0 = SEL_KDS;
    tss->cr3 = PAGING_LEVELS ? read_cr3() : 0;
#endif
    set_descriptor(selector, (limit & 0xffff) | (base & 0xffffff) << 16 | (u64)0x89 << 40 |
                                 (limit >> 16 & 0xf) << 48 | (base >> 24 & 0xff) << 56);
    asm volatile("ltr %0; lldt %1" ::"r"(selector), "r"((u16)0));
    set_idt_limit(sizeof(idt) - 1);
}

void traps_init(void)
{
    for (unsigned v = 0; v < 256; v++)
        restore_gate(v);
    cpu_tables_init(0);
}

/* ---- traps ---- */

static bool from_user(const struct regs *r)
{
    return (r->cs & 3) == 3;
}

static void record(const struct regs *r)
{
    trap_record(r, read_cr2());
    if (r->vector == VEC_DB)
        trap.dr6 = read_dr6();
#if BITS == 32
    /* The stack isn't in the frame of a trap from the kernel. */
    if (!from_user(r)) {
        trap.sp = (ulong)&r->sp;
        trap.ss = SEL_KDS;
    }
#endif
}

void user_return(ulong result)
{
    user_result = result;
    guard_jump(&user_guard);
}

/* Called by the stubs in vectors.S. */
void handle_vector(struct regs *r);
void handle_vector(struct regs *r)
{
    if (trap_handled(r))
        return;
    if (from_user(r)) {
        if (r->vector == VEC_USER_RETURN)
            user_return(r->ax);
        record(r);
        user_return(USER_TRAPPED);
    }
    record(r);
    if (trap_fixed_up(r))
        return;
    if (guards[cpu_index()])
        guard_jump(guards[cpu_index()]);
    panic("trap %lu error %lx at %lx:%lx cr2 %lx flags %lx", r->vector, r->error, r->cs, r->ip,
          read_cr2(), r->flags);
}

bool guarded(void (*fn)(void *), void *argument)
{
    struct guard guard, *outer = guards[cpu_index()];
    ulong flags = read_flags();
    bool completed = false;

    if (!guard_set(&guard)) {
        guards[cpu_index()] = &guard;
        fn(argument);
        completed = true;
        barrier();
        guards[cpu_index()] = outer;
        return completed;
    }
    guards[cpu_index()] = outer;
    write_flags(flags & ~FLAG_TF);
    return false;
}

/* ---- ring 3 ---- */

ulong user_address(const void *code)
{
    return USER_CODE + ((ulong)code - (ulong)user_start);
}

void prepare_user(void)
{
#if PAGING_LEVELS
    static bool mapped;

    if (mapped)
        return;
    mapped = true;
    for (ulong at = 0; at < (ulong)(user_end - user_start); at += PAGE_SIZE)
        map_page(USER_CODE + at, (ulong)user_start + at, PTE_P | PTE_W | PTE_U);
    for (unsigned i = 1; i <= 4; i++)
        map_page(USER_STACK_TOP - i * PAGE_SIZE, (ulong)alloc_page(), PTE_P | PTE_W | PTE_U);
#endif
}

ulong run_user_at(const void *code, ulong a0, ulong a1, ulong cs, ulong flags)
{
    ulong saved = read_flags();

    prepare_user();
    if (guard_set(&user_guard)) {
        write_flags(saved & ~FLAG_TF);
        return user_result;
    }
    /* Ring 0 is entered below everything that this function and its callers need. */
    set_kernel_stack((stack_pointer() - 1024) & ~15ul);
#if PAGING_LEVELS
    enter_user(user_address(code), USER_STACK_TOP - 64, cs, flags | 2, a0, a1);
#else
    static u8 flat_stack[4096] __attribute__((aligned(16)));

    enter_user((ulong)code, (ulong)flat_stack + sizeof(flat_stack) - 64, cs, flags | 2, a0, a1);
#endif
}

ulong run_user(const void *code, ulong a0, ulong a1)
{
    return run_user_at(code, a0, a1, BITS == 64 ? SEL_UCS64 : SEL_UCS32, 0);
}

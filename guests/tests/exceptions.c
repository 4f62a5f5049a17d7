/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Exceptions through the IDT: vectors, error codes, CR2, and what the saved frame holds
 * (Intel SDM volume 3, chapter 6).
 */
#include "test.h"

#define ERROR_IDT 2 /* the error code names an IDT entry */
#define SPARE_VECTOR 0x50

static volatile struct regs seen;
static volatile unsigned seen_count;

static void see(struct regs *r)
{
    seen = *r;
    seen_count++;
}

static void watch(unsigned vector)
{
    seen_count = 0;
    set_vector(vector, see);
}

TEST(divide_by_zero)
{
    extern u8 label_fault[];
    u32 a = 1, d = 0;

    asm volatile("label_fault: " MAY_TRAP("divl %2")
                 : "+a"(a), "+d"(d)
                 : "r"(0));
    CHECK_TRAP(VEC_DE, 0);
    CHECK_EQUAL(trap.ip, (ulong)label_fault);
    CHECK_EQUAL(trap.cs, SEL_KCS);
}

TEST(divide_overflow)
{
    u32 a = 0, d = 5;

    asm volatile(MAY_TRAP("divl %2") : "+a"(a), "+d"(d) : "r"(5));
    CHECK_TRAP(VEC_DE, 0);
}

TEST(invalid_opcode)
{
    asm volatile(MAY_TRAP("ud2"));
    CHECK_TRAP(VEC_UD, 0);
}

TEST(lock_prefix_where_it_may_not_be)
{
    asm volatile(MAY_TRAP(".byte 0xf0, 0x90")); /* lock nop */
    CHECK_TRAP(VEC_UD, 0);
    trap_clear();
    asm volatile(MAY_TRAP(".byte 0xf0, 0x01, 0xc0")); /* lock add %eax,%eax */
    CHECK_TRAP(VEC_UD, 0);
}

TEST(instruction_longer_than_15_bytes)
{
    asm volatile(MAY_TRAP(".fill 15, 1, 0x66; nop"));
    CHECK_TRAP(VEC_GP, 0);
}

TEST(breakpoint_is_a_trap)
{
    extern u8 after_int3[];

    watch(VEC_BP);
    asm volatile("int3; after_int3:");
    set_vector(VEC_BP, NULL);
    CHECK_EQUAL(seen_count, 1);
    CHECK_EQUAL(seen.ip, (ulong)after_int3);
    CHECK_EQUAL(seen.error, 0);
}

TEST(software_interrupt)
{
    extern u8 after_int_n[];
    ulong flags = read_flags();

    watch(SPARE_VECTOR);
    asm volatile("sti; int %0; after_int_n: cli" ::"i"(SPARE_VECTOR));
    set_vector(SPARE_VECTOR, NULL);
    write_flags(flags);
    CHECK_EQUAL(seen_count, 1);
    CHECK_EQUAL(seen.ip, (ulong)after_int_n);
    CHECK(seen.flags & FLAG_IF);
}

static volatile ulong flags_in_handler;

static void see_flags(struct regs *r)
{
    flags_in_handler = read_flags();
}

TEST(interrupt_gate_clears_if_and_tf)
{
    set_vector(SPARE_VECTOR, see_flags);
    asm volatile("sti; int %0; cli" ::"i"(SPARE_VECTOR));
    set_vector(SPARE_VECTOR, NULL);
    CHECK(!(flags_in_handler & FLAG_IF));
    CHECK(!(flags_in_handler & FLAG_TF));
}

TEST(trap_gate_keeps_if)
{
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) idtr;
    volatile u8 *type;

    asm volatile("sidt %0" : "=m"(idtr));
    type = (volatile u8 *)(idtr.base + SPARE_VECTOR * (BITS == 64 ? 16 : 8) + 5);
    *type |= 1; /* gate type 0xf */
    set_vector(SPARE_VECTOR, see_flags);
    asm volatile("sti; int %0; cli" ::"i"(SPARE_VECTOR));
    set_vector(SPARE_VECTOR, NULL);
    restore_gate(SPARE_VECTOR);
    CHECK(flags_in_handler & FLAG_IF);
}

#if BITS == 32
TEST(into_traps_on_overflow_alone)
{
    watch(VEC_OF);
    asm volatile("xor %%eax, %%eax; into" ::: "eax", "cc");
    CHECK_EQUAL(seen_count, 0);
    asm volatile("mov $0x7fffffff, %%eax; inc %%eax; into" ::: "eax", "cc");
    set_vector(VEC_OF, NULL);
    CHECK_EQUAL(seen_count, 1);
}

TEST(bound_range)
{
    s32 bounds[2] = { -5, 10 };
    s32 index = 10;

    asm volatile(MAY_TRAP("bound %0, %1") ::"r"(index), "m"(bounds));
    CHECK_NO_TRAP();
    index = 11;
    asm volatile(MAY_TRAP("bound %0, %1") ::"r"(index), "m"(bounds));
    CHECK_TRAP(VEC_BR, 0);
}

/* IRET with NT set is a task return: a back link that is no TSS gives #TS with its selector. */
TEST(invalid_tss)
{
    ulong flags = read_flags();
    u16 tr;
    u32 *tss;
    u64 descriptor;
    u32 link;

    asm volatile("str %0" : "=r"(tr));
    descriptor = *(u64 *)(gdt + tr);
    tss = (u32 *)(ulong)((descriptor >> 16 & 0xffffff) | (descriptor >> 56) << 24);
    link = tss[0];
    tss[0] = SEL_KDS;
    asm volatile("push %0; popf\n" MAY_TRAP("iret") ::"r"(flags | FLAG_NT) : "memory", "cc");
    tss[0] = link;
    write_flags(flags);
    CHECK_TRAP(VEC_TS, SEL_KDS);
}
#else
TEST(iret_with_nt_in_long_mode)
{
    ulong flags = read_flags();

    asm volatile("push %0; popf\n" MAY_TRAP("iretq") ::"r"(flags | FLAG_NT) : "memory", "cc");
    write_flags(flags);
    CHECK_TRAP(VEC_GP, 0);
}

TEST(removed_instructions)
{
    asm volatile(MAY_TRAP(".byte 0x06")); /* push %es */
    CHECK_TRAP(VEC_UD, 0);
    trap_clear();
    asm volatile(MAY_TRAP(".byte 0xce")); /* into */
    CHECK_TRAP(VEC_UD, 0);
    trap_clear();
    asm volatile(MAY_TRAP(".byte 0x37")); /* aaa */
    CHECK_TRAP(VEC_UD, 0);
}

TEST(non_canonical_access)
{
    volatile ulong *p = (volatile ulong *)0x8000000000000000ul;

    asm volatile(MAY_TRAP("mov (%0), %%rax") ::"r"(p) : "rax");
    CHECK_TRAP(VEC_GP, 0);
}

static void jump_to_non_canonical(void *argument)
{
    asm volatile("jmp *%0" ::"r"(0x1234000000000000ul));
}

/* Whether RIP is the jump's or its target's differs between makers. */
TEST(non_canonical_jump)
{
    CHECK(!guarded(jump_to_non_canonical, NULL));
    CHECK_TRAP(VEC_GP, 0);
}
#endif

TEST(null_selector_into_ss)
{
    asm volatile(MAY_TRAP("mov %0, %%ss") ::"r"(0));
#if BITS == 64
    asm volatile("mov %0, %%ss" ::"r"(SEL_KDS));
    CHECK_NO_TRAP(); /* allowed in 64-bit mode below CPL 3 */
#else
    CHECK_TRAP(VEC_GP, 0);
#endif
}

TEST(selector_beyond_the_table)
{
    asm volatile(MAY_TRAP("mov %0, %%es") ::"r"(0xfff8));
    CHECK_TRAP(VEC_GP, 0xfff8);
    trap_clear();
    asm volatile(MAY_TRAP("mov %0, %%ss") ::"r"(0xfff8));
    CHECK_TRAP(VEC_GP, 0xfff8);
}

TEST(selector_in_absent_ldt)
{
    asm volatile(MAY_TRAP("mov %0, %%es") ::"r"(0x0c));
    CHECK_TRAP(VEC_GP, 0x0c);
}

TEST(segment_not_present)
{
    asm volatile(MAY_TRAP("mov %0, %%es") ::"r"(SEL_NOT_PRESENT));
    CHECK_TRAP(VEC_NP, SEL_NOT_PRESENT);
}

TEST(stack_segment_not_present)
{
    asm volatile(MAY_TRAP("mov %0, %%ss") ::"r"(SEL_NOT_PRESENT));
    CHECK_TRAP(VEC_SS, SEL_NOT_PRESENT);
}

TEST(code_segment_into_ss)
{
    asm volatile(MAY_TRAP("mov %0, %%ss") ::"r"(SEL_KCS));
    CHECK_TRAP(VEC_GP, SEL_KCS);
}

TEST(gate_not_present)
{
    set_gate(SPARE_VECTOR, vector_stubs + 16 * SPARE_VECTOR, 0, false, 0);
    asm volatile(MAY_TRAP("int %0") ::"i"(SPARE_VECTOR));
    restore_gate(SPARE_VECTOR);
    CHECK_TRAP(VEC_NP, SPARE_VECTOR * 8 + ERROR_IDT);
}

TEST(vector_beyond_the_idt)
{
    set_idt_limit(SPARE_VECTOR * (BITS == 64 ? 16 : 8) - 1);
    asm volatile(MAY_TRAP("int %0") ::"i"(SPARE_VECTOR));
    set_idt_limit(256 * (BITS == 64 ? 16 : 8) - 1);
    CHECK_TRAP(VEC_GP, SPARE_VECTOR * 8 + ERROR_IDT);
}

/* A contributory exception while another is delivered: #GP's gate isn't present, so #NP. */
static void raise_gp(void *argument)
{
    asm volatile("mov %0, %%es" ::"r"(0xfff8));
}

TEST(double_fault)
{
    bool completed;

    set_gate(VEC_GP, vector_stubs + 16 * VEC_GP, 0, false, 0);
    completed = guarded(raise_gp, NULL);
    restore_gate(VEC_GP);
    CHECK(!completed);
    CHECK_TRAP(VEC_DF, 0);
}

static void run_ud(void *argument)
{
    asm volatile("ud2");
}

/* #UD is benign: #NP while it is delivered stays #NP (with EXT, bit 0, in the error code). */
TEST(benign_then_contributory_is_no_double_fault)
{
    bool completed;

    set_gate(VEC_UD, vector_stubs + 16 * VEC_UD, 0, false, 0);
    completed = guarded(run_ud, NULL);
    restore_gate(VEC_UD);
    CHECK(!completed);
    CHECK_EQUAL(trap.vector, VEC_NP);
    CHECK_EQUAL(trap.error & ~1, VEC_UD * 8 + ERROR_IDT);
}

/* The exception that follows another in its handler is no double fault. */
static volatile unsigned nested;

static void nesting_handler(struct regs *r)
{
    nested++;
    if (nested < 3)
        asm volatile("ud2");
    r->ip += 2;
}

TEST(faults_nest)
{
    nested = 0;
    set_vector(VEC_UD, nesting_handler);
    asm volatile("ud2");
    set_vector(VEC_UD, NULL);
    CHECK_EQUAL(nested, 3);
}

TEST(device_not_available)
{
    ulong cr0 = read_cr0();

    write_cr0(cr0 | CR0_TS);
    asm volatile(MAY_TRAP("fnop"));
    write_cr0(cr0);
    CHECK_TRAP(VEC_NM, 0);
    trap_clear();
    write_cr0(cr0 | CR0_TS);
    asm volatile("clts");
    asm volatile(MAY_TRAP("fnop"));
    write_cr0(cr0);
    CHECK_NO_TRAP();
}

TEST(sse_with_ts_and_em)
{
    ulong cr0 = read_cr0();

    write_cr0(cr0 | CR0_TS);
    asm volatile(MAY_TRAP("xorps %xmm0, %xmm0"));
    write_cr0(cr0);
    CHECK_TRAP(VEC_NM, 0);
    trap_clear();
    write_cr0(cr0 | CR0_EM);
    asm volatile(MAY_TRAP("xorps %xmm0, %xmm0"));
    write_cr0(cr0);
    CHECK_TRAP(VEC_UD, 0);
}

TEST(x87_error)
{
    u16 control = 0x037b; /* zero divide unmasked */

    asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp" ::"m"(control));
    asm volatile(MAY_TRAP("fwait"));
    asm volatile("fnclex; fninit");
    CHECK_TRAP(VEC_MF, 0);
}

TEST(single_step)
{
    extern u8 step_2[];
    ulong flags = read_flags();

    watch(VEC_DB);
    asm volatile("push %0; popf; nop; push %1; popf; step_2:" ::"r"(flags | FLAG_TF),
                 "r"(flags)
                 : "memory", "cc");
    set_vector(VEC_DB, NULL);
    /* After nop, push and popf each: the step that clears TF is reported too. */
    CHECK_EQUAL(seen_count, 3);
    CHECK_EQUAL(seen.ip, (ulong)step_2);
    CHECK(read_dr6() & 1 << 14);
    write_dr6(0xffff0ff0);
}

TEST(icebp)
{
    extern u8 after_icebp[];

    watch(VEC_DB);
    asm volatile(".byte 0xf1; after_icebp:");
    set_vector(VEC_DB, NULL);
    CHECK_EQUAL(seen_count, 1);
    CHECK_EQUAL(seen.ip, (ulong)after_icebp);
}

static void see_once_and_resume(struct regs *r)
{
    see(r);
    r->flags |= FLAG_RF;
}

TEST(execution_breakpoint)
{
    extern u8 broken_here[];

    seen_count = 0;
    set_vector(VEC_DB, see_once_and_resume);
    write_dr6(0xffff0ff0);
    write_dr0((ulong)broken_here);
    write_dr7(0x402); /* G0, on execution */
    asm volatile("nop; broken_here: nop; nop");
    write_dr7(0x400);
    set_vector(VEC_DB, NULL);
    CHECK_EQUAL(seen_count, 1);
    CHECK_EQUAL(seen.ip, (ulong)broken_here);
    CHECK_EQUAL(read_dr6() & 0xf, 1);
    write_dr6(0xffff0ff0);
}

TEST(data_breakpoint)
{
    static volatile u32 watched;

    watch(VEC_DB);
    write_dr6(0xffff0ff0);
    write_dr0((ulong)&watched);
    write_dr7(0x402 | 1 << 16 | 3 << 18); /* G0, on writes, 4 bytes */
    (void)watched;
    barrier();
    CHECK_EQUAL(seen_count, 0);
    watched = 1;
    barrier();
    write_dr7(0x400);
    set_vector(VEC_DB, NULL);
    CHECK_EQUAL(seen_count, 1);
    CHECK_EQUAL(read_dr6() & 0xf, 1);
    write_dr6(0xffff0ff0);
}

static u8 watched_bytes[64] __attribute__((aligned(64)));

TEST(data_breakpoint_traps_behind_the_instruction)
{
    extern u8 behind_watched[];

    watch(VEC_DB);
    write_dr6(0xffff0ff0);
    write_dr2((ulong)watched_bytes + 8);
    write_dr7(0x420 | 3 << 24 | 1 << 26); /* G2, on reads and writes, 2 bytes */
    watched_bytes[7] = 1;
    watched_bytes[10] = 1;
    barrier();
    CHECK_EQUAL(seen_count, 0);
    /* Reads are seen, those that only overlap too; what follows has not run yet. */
    asm volatile("mov 6+%0, %%eax; behind_watched: inc %%eax; nop" ::"m"(watched_bytes) : "eax");
    CHECK_EQUAL(seen_count, 1);
    CHECK_EQUAL(seen.ip, (ulong)behind_watched);
    CHECK_EQUAL(read_dr6() & 0xf, 4);
    asm volatile("incb 9+%0" : "+m"(watched_bytes));
    CHECK_EQUAL(seen_count, 2);
    write_dr7(0x400);
    watched_bytes[8] = 1;
    barrier();
    set_vector(VEC_DB, NULL);
    CHECK_EQUAL(seen_count, 2);
    write_dr6(0xffff0ff0);
}

TEST(data_breakpoint_in_a_repeated_instruction)
{
    static u8 from[64];
    ulong to = (ulong)watched_bytes, source = (ulong)from, n = sizeof(from);

    for (u32 i = 0; i < sizeof(from); i++)
        from[i] = (u8)(i + 1);
    watch(VEC_DB);
    write_dr6(0xffff0ff0);
    write_dr0((ulong)watched_bytes + 32);
    write_dr7(0x402 | 1 << 16); /* G0, on writes, 1 byte */
    asm volatile("cld; rep movsb" : "+D"(to), "+S"(source), "+c"(n)::"memory");
    write_dr7(0x400);
    set_vector(VEC_DB, NULL);
    CHECK_EQUAL(seen_count, 1); /* between two of its rounds */
    CHECK_EQUAL(n, 0);
    CHECK_EQUAL(memcmp(watched_bytes, from, sizeof(from)), 0);
    write_dr6(0xffff0ff0);
}

#if PAGING_LEVELS
#define HOLE (WINDOW_BASE + 0x1000)
#define NX_ERROR ((PAGING_LEVELS >= 3 && nx_on()) ? PF_I : 0)

static bool nx_on(void)
{
    return rdmsr(MSR_EFER) & EFER_NXE;
}

static void call_at(void *address)
{
    ((void (*)(void))address)();
}

TEST(page_fault_read)
{
    map_page(WINDOW_BASE, 0, 0);
    asm volatile(MAY_TRAP("movb (%0), %%al") ::"r"(WINDOW_BASE + 0x123ul) : "eax");
    CHECK_TRAP(VEC_PF, 0);
    CHECK_EQUAL(trap.cr2, WINDOW_BASE + 0x123);
}

TEST(page_fault_write)
{
    map_page(WINDOW_BASE, 0, 0);
    asm volatile(MAY_TRAP("movb %%al, (%0)") ::"r"(WINDOW_BASE + 0x456ul) : "memory");
    CHECK_TRAP(VEC_PF, PF_W);
    CHECK_EQUAL(trap.cr2, WINDOW_BASE + 0x456);
}

TEST(page_fault_read_modify_write_is_a_write)
{
    map_page(WINDOW_BASE, 0, 0);
    asm volatile(MAY_TRAP("lock incl (%0)") ::"r"(WINDOW_BASE + 0x10ul) : "memory");
    CHECK_TRAP(VEC_PF, PF_W);
}

TEST(page_fault_write_to_read_only)
{
    map_page(WINDOW_BASE, (ulong)alloc_page(), PTE_P);
    asm volatile(MAY_TRAP("movb %%al, (%0)") ::"r"(WINDOW_BASE + 1ul) : "memory");
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    CHECK_EQUAL(trap.cr2, WINDOW_BASE + 1);
}

TEST(page_fault_fetch_not_present)
{
    bool completed;

    map_page(WINDOW_BASE, 0, 0);
    completed = guarded(call_at, (void *)(WINDOW_BASE + 8ul));
    CHECK(!completed);
    CHECK_TRAP(VEC_PF, NX_ERROR);
    CHECK_EQUAL(trap.cr2, WINDOW_BASE + 8);
    CHECK_EQUAL(trap.ip, WINDOW_BASE + 8);
}

#if PAGING_LEVELS >= 3
TEST(page_fault_fetch_no_execute)
{
    u8 *page = alloc_page();

    if (!nx_on())
        SKIP("no NX");
    page[0] = 0xc3;
    map_page(WINDOW_BASE, (ulong)page, PTE_P | PTE_NX);
    CHECK(!guarded(call_at, (void *)(ulong)WINDOW_BASE));
    CHECK_TRAP(VEC_PF, PF_P | PF_I);
    trap_clear();
    map_page(WINDOW_BASE, (ulong)page, PTE_P);
    CHECK(guarded(call_at, (void *)(ulong)WINDOW_BASE));
    CHECK_NO_TRAP();
}

TEST(page_fault_reserved_bit)
{
    map_page(WINDOW_BASE, (ulong)alloc_page(), PTE_P | 1ull << 51);
    asm volatile(MAY_TRAP("movb (%0), %%al") ::"r"((ulong)WINDOW_BASE) : "eax");
    map_page(WINDOW_BASE, 0, 0);
    CHECK_TRAP(VEC_PF, PF_P | PF_RSVD);
}
#endif

TEST(page_fault_on_the_second_page)
{
    map_page(WINDOW_BASE, (ulong)alloc_page(), PTE_P | PTE_W);
    map_page(HOLE, 0, 0);
    asm volatile(MAY_TRAP("movl (%0), %%eax") ::"r"(HOLE - 2ul) : "eax");
    CHECK_TRAP(VEC_PF, 0);
    CHECK_EQUAL(trap.cr2, HOLE);
    trap_clear();
    asm volatile(MAY_TRAP("movl %%eax, (%0)") ::"r"(HOLE - 2ul) : "memory");
    CHECK_TRAP(VEC_PF, PF_W);
    CHECK_EQUAL(trap.cr2, HOLE);
    CHECK_EQUAL(*(volatile u16 *)(HOLE - 2ul), 0);
}

TEST(instruction_across_into_a_hole)
{
    u8 *page = alloc_page();

    map_page(WINDOW_BASE, (ulong)page, PTE_P | PTE_W);
    map_page(HOLE, 0, 0);
    page[4095] = 0xb8; /* mov $imm32, %eax: the immediate lies in the hole */
    CHECK(!guarded(call_at, (void *)(HOLE - 1ul)));
    CHECK_TRAP(VEC_PF, NX_ERROR);
    CHECK_EQUAL(trap.cr2, HOLE);
    CHECK_EQUAL(trap.ip, HOLE - 1);
}

/* A fault leaves the registers as they were before the instruction. */
TEST(fault_changes_no_register)
{
    ulong value = 0x1234, address = WINDOW_BASE;

    map_page(WINDOW_BASE, 0, 0);
    asm volatile(MAY_TRAP("xadd %0, (%1)") : "+r"(value) : "r"(address) : "memory");
    CHECK_EQUAL(trap.vector, VEC_PF);
    CHECK_EQUAL(value, 0x1234);
    trap_clear();
    asm volatile("mov %%esp, %%ecx\n" MAY_TRAP("push (%1)") "sub %%esp, %%ecx\nmov %%ecx, %k0"
                 : "=&r"(value)
                 : "r"(address)
                 : "ecx", "memory");
    CHECK_TRAP(VEC_PF, 0);
    CHECK_EQUAL((u32)value, 0);
}

/* The stack pointer in a hole: #PF can't be delivered, #DF comes on its own stack. */
#if BITS == 64
static void lose_the_stack(void *argument)
{
    asm volatile("mov %0, %%rsp; push %%rax" ::"r"(WINDOW_BASE + 0x800ul));
}

TEST(double_fault_on_its_own_stack)
{
    map_page(WINDOW_BASE, 0, 0);
    map_page(WINDOW_BASE + 0x1000, 0, 0);
    CHECK(!guarded(lose_the_stack, NULL));
    CHECK_TRAP(VEC_DF, 0);
}
#endif

/* The page comes before the faulting instruction is tried again: demand paging. */
static volatile unsigned faults;

static void map_on_demand(struct regs *r)
{
    faults++;
    map_page(read_cr2(), (ulong)alloc_page(), PTE_P | PTE_W);
}

TEST(instruction_restarts_after_a_page_fault)
{
    ulong at = WINDOW_BASE + 0x2ff0;

    for (ulong p = 0; p < 6; p++)
        map_page(WINDOW_BASE + p * PAGE_SIZE, 0, 0);
    faults = 0;
    set_vector(VEC_PF, map_on_demand);
    memset((void *)at, 0x5a, 2 * PAGE_SIZE);
    set_vector(VEC_PF, NULL);
    CHECK_EQUAL(faults, 3);
    for (ulong i = 0; i < 2 * PAGE_SIZE; i++)
        if (((volatile u8 *)at)[i] != 0x5a)
            FAIL("byte %lu is %x", i, ((volatile u8 *)at)[i]);
}
#endif

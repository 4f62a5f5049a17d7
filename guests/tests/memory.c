/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Paging beyond faults, code that changes, string instructions, atomics, and holes
 * (Intel SDM volume 3, chapters 4, 8 and 11).
 */
#include "test.h"
#include "xen.h"

#define VA ((ulong)WINDOW_BASE)
#define ALIAS ((ulong)WINDOW_BASE + 0x100000)

/* mov $value, %eax; ret */
static void write_code(volatile u8 *at, u32 value)
{
    at[0] = 0xb8;
    at[1] = (u8)value;
    at[2] = (u8)(value >> 8);
    at[3] = (u8)(value >> 16);
    at[4] = (u8)(value >> 24);
    at[5] = 0xc3;
}

static u32 run_code(ulong at)
{
    return ((u32(*)(void))at)();
}

/* ---- code that changes ---- */

static u8 code_page[4096] PAGE_ALIGNED;

TEST(self_modifying_code)
{
    for (u32 i = 0; i < 200; i++) {
        write_code(code_page, i * 0x01010101);
        if (run_code((ulong)code_page) != i * 0x01010101)
            FAIL("round %u ran old code", i);
    }
}

/* An instruction that rewrites its own successor. */
TEST(code_modifies_the_next_instruction)
{
    static const u8 code[] = {
        0xb8, 1,    0,    0,    0,             /*  0: mov $1, %eax */
        0xc6, 0x05, 0,    0,    0, 0, 2,       /*  5: movb $2, target */
        0xb8, 3,    0,    0,    0,             /* 12: mov $3, %eax: the 3 becomes 2 */
        0xc3,
    };
    u32 where;

    memcpy(code_page, code, sizeof(code));
    /* the address: RIP-relative to offset 12 in 64-bit code, absolute in 32-bit code */
    where = BITS == 64 ? 1 : (u32)(ulong)code_page + 13;
    memcpy(code_page + 7, &where, 4);
    CHECK_EQUAL(run_code((ulong)code_page), 2);
}

TEST(code_across_two_pages_changes)
{
    u8 *pages = alloc_pages(2);

    for (u32 i = 0; i < 50; i++) {
        write_code(pages + 4096 - 3, i << 16 | i);
        CHECK_EQUAL(run_code((ulong)pages + 4096 - 3), i << 16 | i);
    }
}

#if PAGING_LEVELS
TEST(code_modified_through_an_alias)
{
    u8 *page = alloc_page();

    map_page(VA, (ulong)page, PTE_P | PTE_W);
    map_page(ALIAS, (ulong)page, PTE_P | PTE_W);
    for (u32 i = 0; i < 200; i++) {
        write_code((volatile u8 *)(i & 1 ? ALIAS : (ulong)page), i);
        CHECK_EQUAL(run_code(VA), i);
        CHECK_EQUAL(run_code(ALIAS), i);
    }
}

TEST(code_replaced_by_a_string_copy_through_an_alias)
{
    u8 *page = alloc_page();
    static u8 source[4096];

    map_page(VA, (ulong)page, PTE_P | PTE_W);
    for (u32 i = 0; i < 50; i++) {
        write_code(source, ~i);
        memcpy(page, source, sizeof(source));
        CHECK_EQUAL(run_code(VA), ~i);
    }
}

TEST(code_follows_its_mapping)
{
    u8 *a = alloc_page(), *b = alloc_page();

    write_code(a, 11);
    write_code(b, 22);
    for (u32 i = 0; i < 20; i++) {
        map_page(VA, (ulong)(i & 1 ? b : a), PTE_P);
        CHECK_EQUAL(run_code(VA), i & 1 ? 22 : 11);
    }
}

/* The page that holds code is freed for data and comes back. */
TEST(code_page_becomes_data)
{
    u8 *page = alloc_page();

    map_page(VA, (ulong)page, PTE_P | PTE_W);
    for (u32 i = 0; i < 2000; i++) {
        ((volatile u32 *)VA)[i % 1000] = i;
        if (i % 100 == 0) {
            write_code((volatile u8 *)VA, i);
            CHECK_EQUAL(run_code(VA), i);
        }
    }
}

/* ---- page tables ---- */

TEST(invlpg_shows_the_new_mapping)
{
    u32 *a = alloc_page(), *b = alloc_page();

    *a = 0xaaaa;
    *b = 0xbbbb;
    map_page(VA, (ulong)a, PTE_P);
    CHECK_EQUAL(*(volatile u32 *)VA, 0xaaaa);
    *window_pte(VA) = (pte_t)(ulong)b | PTE_P;
    invlpg(VA);
    CHECK_EQUAL(*(volatile u32 *)VA, 0xbbbb);
}

TEST(cr3_load_shows_the_new_mapping)
{
    u32 *a = alloc_page(), *b = alloc_page();

    *a = 1;
    *b = 2;
    map_page(VA, (ulong)a, PTE_P);
    CHECK_EQUAL(*(volatile u32 *)VA, 1);
    *window_pte(VA) = (pte_t)(ulong)b | PTE_P;
    reload_cr3();
    CHECK_EQUAL(*(volatile u32 *)VA, 2);
}

TEST(upgrades_need_no_flush_of_faulting_entries)
{
    u32 *page = alloc_page();

    map_page(VA, 0, 0);
    asm volatile(MAY_TRAP("mov (%0), %%eax") ::"r"(VA) : "eax");
    CHECK_TRAP(VEC_PF, 0);
    trap_clear();
    *window_pte(VA) = (pte_t)(ulong)page | PTE_P; /* not present entries aren't cached */
    asm volatile(MAY_TRAP("mov (%0), %%eax") ::"r"(VA) : "eax");
    CHECK_NO_TRAP();
    asm volatile(MAY_TRAP("mov %%eax, (%0)") ::"r"(VA) : "memory");
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    trap_clear();
    *window_pte(VA) |= PTE_W; /* a fault drops the entry that caused it */
    asm volatile(MAY_TRAP("mov %%eax, (%0)") ::"r"(VA) : "memory");
    CHECK_NO_TRAP();
}

TEST(accessed_and_dirty_bits)
{
    volatile pte_t *pte = window_pte(VA);

    map_page(VA, (ulong)alloc_page(), PTE_P | PTE_W);
    CHECK_EQUAL(*pte & (PTE_A | PTE_D), 0);
    (void)*(volatile u8 *)VA;
    CHECK_EQUAL(*pte & (PTE_A | PTE_D), PTE_A);
    *(volatile u8 *)VA = 1;
    CHECK_EQUAL(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
    *pte &= ~(pte_t)(PTE_A | PTE_D);
    invlpg(VA);
    *(volatile u8 *)VA = 2;
    CHECK_EQUAL(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
}

TEST(denied_access_sets_no_dirty_bit)
{
    volatile pte_t *pte = window_pte(VA);

    map_page(VA, (ulong)alloc_page(), PTE_P);
    asm volatile(MAY_TRAP("movb %%al, (%0)") ::"r"(VA) : "memory");
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    CHECK_EQUAL(*pte & PTE_D, 0);
}

TEST(fetch_sets_the_accessed_bit)
{
    u8 *page = alloc_page();
    volatile pte_t *pte = window_pte(VA);

    write_code(page, 5);
    map_page(VA, (ulong)page, PTE_P | PTE_W);
    CHECK_EQUAL(*pte & PTE_A, 0);
    CHECK_EQUAL(run_code(VA), 5);
    CHECK_EQUAL(*pte & (PTE_A | PTE_D), PTE_A);
}

TEST(large_page)
{
    static u8 target[4096] PAGE_ALIGNED;
    const ulong mask = PAGING_LEVELS == 2 ? 0x3fffff : 0x1fffff;
    ulong base = (ulong)target & ~mask, at = 0x62000000 + ((ulong)target & mask);
    pte_t *entry = large_entry(at), old;

    if (PAGING_LEVELS == 2 && !(cpuid(1, 0).d >> 3 & 1))
        SKIP("no PSE");
    *entry = (pte_t)base | PTE_P | PTE_W | PTE_PS;
    reload_cr3();
    *(volatile u32 *)at = 0x11223344;
    barrier();
    old = *entry;
    *entry = 0;
    reload_cr3();
    CHECK_EQUAL(*(volatile u32 *)target, 0x11223344);
    CHECK_EQUAL(old & (PTE_A | PTE_D), PTE_A | PTE_D);
}

TEST(write_right_is_the_and_of_all_levels)
{
    pte_t *entry = large_entry(VA), old;

    map_page(VA, (ulong)alloc_page(), PTE_P | PTE_W);
    old = *entry;
    *entry = old & ~(pte_t)PTE_W;
    reload_cr3();
    asm volatile(MAY_TRAP("movb %%al, (%0)") ::"r"(VA) : "memory");
    *entry = old;
    reload_cr3();
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
}

TEST(global_pages_survive_cr3)
{
    u32 *a = alloc_page(), *b = alloc_page();
    ulong cr4 = read_cr4();
    u32 after_flush;

    if (!(cpuid(1, 0).d >> 13 & 1))
        SKIP("no PGE");
    *a = 1;
    *b = 2;
    write_cr4(cr4 | CR4_PGE);
    map_page(VA, (ulong)a, PTE_P | PTE_G);
    (void)*(volatile u32 *)VA;
    *window_pte(VA) = (pte_t)(ulong)b | PTE_P;
    reload_cr3();
    (void)*(volatile u32 *)VA; /* old or new: a TLB may forget at any time */
    write_cr4(cr4);            /* changing PGE flushes global entries too */
    after_flush = *(volatile u32 *)VA;
    CHECK_EQUAL(after_flush, 2);
}

#if BITS == 64
TEST(page_of_1_gib)
{
    extern u64 page_l3[];
    static u8 target[4096] PAGE_ALIGNED;
    ulong at = 8ul << 30; /* the ninth entry of the first table */

    if (!(cpuid(0x80000001, 0).d >> 26 & 1))
        SKIP("no 1 GiB pages");
    page_l3[8] = PTE_P | PTE_W | PTE_PS;
    reload_cr3();
    *(volatile u32 *)(at + (ulong)target) = 0x55667788;
    page_l3[8] = 0;
    reload_cr3();
    CHECK_EQUAL(*(volatile u32 *)target, 0x55667788);
}

TEST(high_half_addresses)
{
    extern u64 page_root[];
    static u8 target[4096] PAGE_ALIGNED;
    ulong at = 0xffff800000000000ul;

    page_root[256] = page_root[0];
    reload_cr3();
    *(volatile u32 *)(at + (ulong)target) = 0x99aabbcc;
    page_root[256] = 0;
    reload_cr3();
    CHECK_EQUAL(*(volatile u32 *)target, 0x99aabbcc);
}

TEST(addresses_wrap_with_a_32_bit_prefix)
{
    u32 value = 0xfeed, result;

    asm volatile("mov %[p], %%rax; movabs $0x100000000, %%rcx; or %%rcx, %%rax;"
                 "mov (%%eax), %%ecx; mov %%ecx, %[r]"
                 : [r] "=r"(result)
                 : [p] "r"((ulong)&value), "m"(value)
                 : "rax", "rcx");
    CHECK_EQUAL(result, 0xfeed);
}
#endif
#if PAGING_LEVELS == 3
/* PAE keeps four PDPTEs in registers: a change shows at the next load of CR3. */
TEST(pdpte_change_needs_a_cr3_load)
{
    extern u64 page_root[];
    u64 old = page_root[3];

    page_root[3] = 0;
    reload_cr3();
    asm volatile(MAY_TRAP("mov (%0), %%eax") ::"r"(0xfee00020) : "eax");
    page_root[3] = old;
    reload_cr3();
    CHECK_TRAP(VEC_PF, 0);
}
#endif

/* ---- string instructions across pages ---- */

TEST(rep_movs_stops_at_a_fault)
{
    u8 *page = alloc_page();
    ulong from = VA + 4096 - 16, to = (ulong)alloc_page(), count = 32;

    for (u32 i = 0; i < 16; i++)
        page[4096 - 16 + i] = (u8)(i + 1);
    map_page(VA, (ulong)page, PTE_P);
    map_page(VA + 4096, 0, 0);
    asm volatile(MAY_TRAP("rep movsb") : "+S"(from), "+D"(to), "+c"(count)::"memory");
    CHECK_TRAP(VEC_PF, 0);
    CHECK_EQUAL(trap.cr2, VA + 4096);
    CHECK_EQUAL(count, 16);
    CHECK_EQUAL(from, VA + 4096);
    CHECK_EQUAL(((u8 *)to)[-1], 16);
    CHECK_EQUAL(trap.cx, 16);
}

TEST(rep_stos_stops_at_a_fault)
{
    ulong to = VA + 4096 - 8, count = 4;

    map_page(VA, (ulong)alloc_page(), PTE_P | PTE_W);
    map_page(VA + 4096, 0, 0);
    asm volatile(MAY_TRAP("rep stosl") : "+D"(to), "+c"(count) : "a"(0x5a5a5a5a) : "memory");
    CHECK_TRAP(VEC_PF, PF_W);
    CHECK_EQUAL(count, 2);
    CHECK_EQUAL(to, VA + 4096);
}
#endif

TEST(backward_copy)
{
    static u8 from[64], to[64];
    ulong s = (ulong)from + 63, d = (ulong)to + 63, n = 64;

    for (u32 i = 0; i < 64; i++)
        from[i] = (u8)i;
    asm volatile("std; rep movsb; cld" : "+S"(s), "+D"(d), "+c"(n)::"memory", "cc");
    CHECK_EQUAL(memcmp(from, to, 64), 0);
    CHECK_EQUAL(s, (ulong)from - 1);
}

TEST(overlapping_copy_replicates)
{
    static u8 text[32] = "ab";
    ulong s = (ulong)text, d = (ulong)text + 2, n = 20;

    asm volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(n)::"memory");
    CHECK_EQUAL(memcmp(text, "ababababababababababab", 22), 0);
}

TEST(repne_scas_and_repe_cmps)
{
    static const u8 a[] = "hypervisor", b[] = "hyperbole";
    ulong d = (ulong)a, s, n = 11;

    asm volatile("repne scasb" : "+D"(d), "+c"(n) : "a"('v') : "cc", "memory");
    CHECK_EQUAL(d - (ulong)a, 6);
    s = (ulong)a;
    d = (ulong)b;
    n = 10;
    asm volatile("repe cmpsb" : "+S"(s), "+D"(d), "+c"(n)::"cc", "memory");
    CHECK_EQUAL(n, 4);
}

/* ---- atomics ---- */

TEST(atomic_operations)
{
    static u32 word = 5;
    u32 old = 3;
    u8 equal;
    static u64 pair = 0x1111111122222222ull;

    asm volatile("lock xadd %0, %1" : "+r"(old), "+m"(word));
    CHECK_EQUAL(old, 5);
    CHECK_EQUAL(word, 8);
    asm volatile("lock cmpxchg %3, %1; sete %2" : "+a"(old), "+m"(word), "=q"(equal) : "r"(9));
    CHECK_EQUAL(equal, 0);
    CHECK_EQUAL(old, 8);
    asm volatile("lock cmpxchg %3, %1; sete %2" : "+a"(old), "+m"(word), "=q"(equal) : "r"(9));
    CHECK_EQUAL(equal, 1);
    CHECK_EQUAL(word, 9);
    asm volatile("lock btsl $4, %0; setc %1" : "+m"(word), "=q"(equal));
    CHECK_EQUAL(word, 25);
    CHECK_EQUAL(equal, 0);
    asm volatile("xchg %0, %1" : "+r"(old), "+m"(word));
    CHECK_EQUAL(old, 25);
    asm volatile("lock cmpxchg8b %0; sete %1"
                 : "+m"(pair), "=q"(equal)
                 : "a"(0x22222222), "d"(0x11111111), "b"(0x44444444), "c"(0x33333333)
                 : "cc");
    CHECK_EQUAL(equal, 1);
    CHECK_EQUAL(pair, 0x3333333344444444ull);
}

#if BITS == 64
TEST(compare_and_exchange_16_bytes)
{
    static u64 quad[2] __attribute__((aligned(16))) = { 1, 2 };
    u8 equal;

    if (!(cpuid(1, 0).c >> 13 & 1))
        SKIP("no CX16");
    asm volatile("lock cmpxchg16b %0; sete %1"
                 : "+m"(quad), "=q"(equal)
                 : "a"(1ul), "d"(2ul), "b"(3ul), "c"(4ul)
                 : "cc");
    CHECK_EQUAL(equal, 1);
    CHECK_EQUAL(quad[0], 3);
    CHECK_EQUAL(quad[1], 4);
    asm volatile(MAY_TRAP("lock cmpxchg16b 8(%0)") ::"r"(quad)
                 : "rax", "rdx", "memory", "cc");
    CHECK_TRAP(VEC_GP, 0); /* it must be aligned */
}
#endif

TEST(unaligned_access_across_pages)
{
    u8 *pages = alloc_pages(2);

    *(volatile u32 *)(pages + 4094) = 0xdeadbeef;
    CHECK_EQUAL(pages[4094], 0xef);
    CHECK_EQUAL(pages[4097], 0xde);
    CHECK_EQUAL(*(volatile u32 *)(pages + 4094), 0xdeadbeef);
    CHECK_EQUAL(*(volatile u64 *)(pages + 4090), 0xdeadbeef00000000ull);
}

/* ---- where there is no memory ---- */

#define NOWHERE 0xe0000000ul /* neither RAM nor device on a PVH guest */

TEST(holes_read_as_ones)
{
    if (!xen.present)
        SKIP("elsewhere holes read as zeroes");
    CHECK_EQUAL(*(volatile u8 *)(NOWHERE + 0x11), 0xff);
    CHECK_EQUAL(*(volatile u16 *)(NOWHERE + 0x22), 0xffff);
    CHECK_EQUAL(*(volatile u32 *)(NOWHERE + 0x1234), 0xffffffff);
    CHECK_EQUAL(*(volatile u64 *)(NOWHERE + 0x2000), ~0ull);
}

TEST(writes_to_holes_are_dropped)
{
    if (!xen.present)
        SKIP("elsewhere holes read as zeroes");
    *(volatile u32 *)(NOWHERE + 0x10) = 0x12345678;
    *(volatile u8 *)(NOWHERE + 0x10) = 1;
    asm volatile("lock incl (%0)" ::"r"(NOWHERE + 0x10) : "memory", "cc");
    CHECK_EQUAL(*(volatile u32 *)(NOWHERE + 0x10), 0xffffffff);
}

TEST(string_instructions_on_holes)
{
    static u8 buffer[64];
    ulong s = NOWHERE, d = (ulong)buffer, n = 16;

    if (!xen.present)
        SKIP("elsewhere holes read as zeroes");
    asm volatile("rep movsl" : "+S"(s), "+D"(d), "+c"(n)::"memory");
    CHECK_EQUAL(n, 0);
    for (unsigned i = 0; i < 64; i++)
        if (buffer[i] != 0xff)
            FAIL("byte %u is %x", i, buffer[i]);
    s = (ulong)buffer;
    d = NOWHERE;
    n = 64;
    asm volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(n)::"memory");
    CHECK_EQUAL(n, 0);
    CHECK_EQUAL(d, NOWHERE + 64);
}

TEST(operations_on_holes)
{
    u32 value = 1;
    ulong wide;

    if (!xen.present)
        SKIP("elsewhere holes read as zeroes");
    asm volatile("add (%1), %0" : "+r"(value) : "r"(NOWHERE) : "cc");
    CHECK_EQUAL(value, 0);
    asm volatile("xchg %0, (%1)" : "+r"(value) : "r"(NOWHERE) : "memory");
    CHECK_EQUAL(value, 0xffffffff);
    asm volatile("movzbl (%1), %0" : "=r"(value) : "r"(NOWHERE));
    CHECK_EQUAL(value, 0xff);
    asm volatile("push (%1); pop %0" : "=r"(wide) : "r"(NOWHERE) : "memory");
    CHECK_EQUAL(wide, ~0ul);
    asm volatile("cmpl $-1, (%1); sete %b0" : "=q"(value) : "r"(NOWHERE) : "cc");
    CHECK_EQUAL(value & 1, 1);
}

static void call_nowhere(void *address)
{
    ((void (*)(void))address)();
}

/* All ones is no instruction: fetching from a hole must end in a trap, not in the host. */
TEST(code_in_a_hole)
{
    if (!xen.present)
        SKIP("elsewhere holes read as zeroes");
    CHECK(!guarded(call_nowhere, (void *)NOWHERE));
    CHECK(trap.count);
}

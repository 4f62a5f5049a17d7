/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Port I/O: widths, string forms, and ports with nothing behind them. */
#include "test.h"

#define EMPTY_PORT 0x1a40

TEST(empty_ports_read_as_ones)
{
    CHECK_EQUAL(in8(EMPTY_PORT), 0xff);
    CHECK_EQUAL(in16(EMPTY_PORT), 0xffff);
    CHECK_EQUAL(in32(EMPTY_PORT), 0xffffffff);
}

TEST(in_leaves_the_rest_of_the_register)
{
    ulong v = 0;

    asm volatile("in %%dx, %%al" : "=a"(v) : "a"(0x12345600), "d"(EMPTY_PORT));
    CHECK_EQUAL((u32)v, 0x123456ff);
    asm volatile("in %%dx, %%ax" : "=a"(v) : "a"(0x12340000), "d"(EMPTY_PORT));
    CHECK_EQUAL((u32)v, 0x1234ffff);
}

#if BITS == 64
TEST(in_of_32_bits_clears_the_upper_half)
{
    ulong v;

    asm volatile("in %%dx, %%eax" : "=a"(v) : "a"(0x1111111122222222ul), "d"(EMPTY_PORT));
    CHECK_EQUAL(v, 0xffffffff);
}
#endif

TEST(immediate_port)
{
    u32 v = 0;

    asm volatile("in $0xee, %%al" : "+a"(v));
    CHECK_EQUAL(v & ~0xff, 0);
    asm volatile("out %%al, $0xee" ::"a"(0));
}

TEST(writes_to_empty_ports)
{
    out8(EMPTY_PORT, 1);
    out16(EMPTY_PORT, 2);
    out32(EMPTY_PORT, 3);
    CHECK_EQUAL(in32(EMPTY_PORT), 0xffffffff);
}

TEST(last_port)
{
    CHECK_EQUAL(in8(0xffff), 0xff);
    out8(0xffff, 0);
}

TEST(rep_insb)
{
    static u8 buffer[300];
    ulong d = (ulong)buffer, n = 256;

    memset(buffer, 0, sizeof(buffer));
    asm volatile("rep insb" : "+D"(d), "+c"(n) : "d"(EMPTY_PORT) : "memory");
    CHECK_EQUAL(n, 0);
    CHECK_EQUAL(d, (ulong)buffer + 256);
    for (unsigned i = 0; i < 256; i++)
        CHECK_EQUAL(buffer[i], 0xff);
    CHECK_EQUAL(buffer[256], 0);
}

TEST(rep_insl_across_pages)
{
    u8 *pages = alloc_pages(2);
    ulong d = (ulong)pages + 4096 - 6, n = 3;

    asm volatile("rep insl" : "+D"(d), "+c"(n) : "d"(EMPTY_PORT) : "memory");
    CHECK_EQUAL(pages[4095 - 6], 0);
    for (unsigned i = 4090; i < 4102; i++)
        CHECK_EQUAL(pages[i], 0xff);
    CHECK_EQUAL(pages[4102], 0);
}

TEST(rep_outs)
{
    static const u16 words[16] = { 1, 2, 3 };
    ulong s = (ulong)words, n = 16;

    asm volatile("rep outsw" : "+S"(s), "+c"(n) : "d"(EMPTY_PORT) : "memory");
    CHECK_EQUAL(n, 0);
    CHECK_EQUAL(s, (ulong)words + 32);
}

TEST(backward_ins)
{
    static u8 buffer[16];
    ulong d = (ulong)buffer + 8, n = 4;

    asm volatile("std; rep insb; cld" : "+D"(d), "+c"(n) : "d"(EMPTY_PORT) : "memory", "cc");
    CHECK_EQUAL(buffer[4], 0);
    CHECK_EQUAL(buffer[5], 0xff);
    CHECK_EQUAL(buffer[8], 0xff);
    CHECK_EQUAL(buffer[9], 0);
}

TEST(rep_with_count_zero)
{
    static u8 byte = 0x5a;
    ulong d = (ulong)&byte, n = 0;

    asm volatile("rep insb" : "+D"(d), "+c"(n) : "d"(EMPTY_PORT) : "memory");
    CHECK_EQUAL(byte, 0x5a);
}

#if PAGING_LEVELS
TEST(ins_into_a_hole_faults_and_restarts)
{
    ulong d = WINDOW_BASE + 4096 - 2, n = 4;

    map_page(WINDOW_BASE, (ulong)alloc_page(), PTE_P | PTE_W);
    map_page(WINDOW_BASE + 4096, 0, 0);
    asm volatile(MAY_TRAP("rep insb") : "+D"(d), "+c"(n) : "d"(EMPTY_PORT) : "memory");
    CHECK_TRAP(VEC_PF, PF_W);
    CHECK_EQUAL(trap.cr2, WINDOW_BASE + 4096);
    CHECK_EQUAL(n, 2);
    trap_clear();
    map_page(WINDOW_BASE + 4096, (ulong)alloc_page(), PTE_P | PTE_W);
    asm volatile("rep insb" : "+D"(d), "+c"(n) : "d"(EMPTY_PORT) : "memory");
    CHECK_EQUAL(*(volatile u8 *)(WINDOW_BASE + 4097ul), 0xff);
}

TEST(outs_from_a_hole_faults)
{
    ulong s = WINDOW_BASE + 4096, n = 1;

    map_page(WINDOW_BASE + 4096, 0, 0);
    asm volatile(MAY_TRAP("rep outsb") : "+S"(s), "+c"(n) : "d"(EMPTY_PORT) : "memory");
    CHECK_TRAP(VEC_PF, 0);
    CHECK_EQUAL(n, 1);
}
#endif

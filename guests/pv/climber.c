/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A PV kernel that tries to leave its privilege.  Each test is an attempt, and passes if it was
 * refused with the errno, or the fault, that Xen gives.
 */
#include "attack.h"

/* ---- descriptors ---- */

#define DESC_CODE 0x00af9b000000ffffull   /* ring 0, 64-bit */
#define DESC_DATA 0x00cf93000000ffffull   /* ring 0 */
#define DESC_TSS 0x0000890000000067ull
#define DESC_LDT 0x0000820000000fffull
#define DESC_INTERRUPT_GATE 0x0000ee00e0330000ull
#define DESC_TRAP_GATE 0x0000ef00e0330000ull
#define DESC_GATE_TO_XEN 0x0000ec00e0080000ull
#define DESC_TASK_GATE 0x0000e50000400000ull

TEST(descriptor_tables)
{
    static const u64 refused[] = { DESC_TSS, DESC_LDT, DESC_INTERRUPT_GATE, DESC_TRAP_GATE,
                                   DESC_GATE_TO_XEN, DESC_TASK_GATE };
    u64 *gdt = (u64 *)pages[0];
    ulong mfn = mfn_of(gdt);

    /* A page that is mapped writable, and pages with descriptors that nobody may have. */
    CHECK_RESULT(hypercall(HYPERVISOR_set_gdt, (ulong)&mfn, 512, 0, 0, 0), -EINVAL);
    for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
        memset(gdt, 0, PAGE_SIZE);
        gdt[3] = refused[i];
        CHECK_RESULT(pv_protect(gdt, false), 0);
        CHECK_RESULT(hypercall(HYPERVISOR_set_gdt, (ulong)&mfn, 512, 0, 0, 0), -EINVAL);
        CHECK_RESULT(pv_protect(gdt, true), 0);
        CHECK_RESULT(hypercall(HYPERVISOR_update_descriptor, mfn << PAGE_SHIFT | 24, refused[i],
                               0, 0, 0), -EINVAL);
    }
    /* Ring 0 becomes ring 3. */
    memset(gdt, 0, PAGE_SIZE);
    gdt[1] = DESC_CODE;
    gdt[2] = DESC_DATA;
    CHECK_RESULT(pv_protect(gdt, false), 0);
    CHECK_RESULT(hypercall(HYPERVISOR_set_gdt, (ulong)&mfn, 512, 0, 0, 0), 0);
    CHECK_EQUAL(gdt[1] >> 45 & 3, 3);
    CHECK_EQUAL(gdt[2] >> 45 & 3, 3);
    /* It can't be mapped writable now, nor become a table, nor be changed but by its rules. */
    CHECK_RESULT(pv_protect(gdt, true), -EBUSY);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_CLEAR_PAGE, mfn, 0), -EINVAL);
    CHECK_RESULT(mmu_update(mfn << PAGE_SHIFT | 8, DESC_CODE), -EINVAL);
    CHECK(!pv_store(gdt + 1, DESC_CODE));
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    CHECK_RESULT(hypercall(HYPERVISOR_update_descriptor, mfn << PAGE_SHIFT | 24, DESC_TSS, 0, 0,
                           0), -EINVAL);
    CHECK_RESULT(hypercall(HYPERVISOR_update_descriptor, mfn << PAGE_SHIFT | 24, DESC_CODE, 0, 0,
                           0), 0);
    CHECK_EQUAL(gdt[3] >> 45 & 3, 3);
    CHECK_RESULT(hypercall(HYPERVISOR_update_descriptor, mfn << PAGE_SHIFT | 25, 0, 0, 0, 0),
                 -EINVAL);
    /* With the segment of ring 0 that was asked for: it is one of ring 3. */
    CHECK_EQUAL(pv_iret_to(1 << 3, 0xe02b) & 3, 3);
    /* Xen's own part of the table isn't ours. */
    CHECK_RESULT(hypercall(HYPERVISOR_set_gdt, (ulong)&mfn, 7169, 0, 0, 0), -EINVAL);
    CHECK_EQUAL(pv_iret_to(FLAT_KERNEL_CS & ~3, FLAT_KERNEL_SS), FLAT_KERNEL_CS);
    CHECK_RESULT(hypercall(HYPERVISOR_set_gdt, (ulong)&mfn, 0, 0, 0, 0), 0);
    CHECK_RESULT(hypercall(HYPERVISOR_set_gdt, (ulong)&victim, 512, 0, 0, 0), -EINVAL);
    give_back(pages[0]);
}

static void load_fs(void *selector)
{
    asm volatile("mov %0, %%fs" ::"r"((u16)(ulong)selector));
}

TEST(local_descriptor_tables)
{
    u64 *ldt = (u64 *)pages[0];
    ulong mfn = mfn_of(ldt);

    memset(ldt, 0, PAGE_SIZE);
    ldt[1] = DESC_DATA;
    ldt[2] = DESC_TSS;
    CHECK_RESULT(mmuext(MMUEXT_SET_LDT, 0xffff820000000000ul, 512), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_SET_LDT, (ulong)ldt + 8, 512), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_SET_LDT, (ulong)ldt, 8193), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_SET_LDT, (ulong)ldt, 512), 0);
    /* It is looked at when it is used: writable pages and bad descriptors don't work. */
    CHECK(!guarded(load_fs, (void *)0xful));
    CHECK_RESULT(pv_protect(ldt, false), 0);
    CHECK(!guarded(load_fs, (void *)0xful));
    CHECK_RESULT(pv_protect(ldt, true), 0);
    ldt[2] = 0;
    CHECK_RESULT(pv_protect(ldt, false), 0);
    CHECK(guarded(load_fs, (void *)0xful));
    CHECK_EQUAL(ldt[1] >> 45 & 3, 3);
    CHECK_RESULT(pv_protect(ldt, true), -EBUSY);
    CHECK_RESULT(mmuext(MMUEXT_CLEAR_PAGE, mfn, 0), -EINVAL);
    load_fs(NULL);
    /* When the mapping goes that it was found by, the page is no part of the table any more. */
    CHECK_RESULT(update_va(ldt, 0), 0);
    give_back(pages[0]);
    CHECK(!guarded(load_fs, (void *)0xful));
    CHECK_RESULT(mmuext(MMUEXT_SET_LDT, 0, 0), 0);
}

/* ---- privilege ---- */

static void iret_to_ring_0(void *cs)
{
    pv_iret_to((ulong)cs, 0);
}

TEST(return_to_ring_0)
{
    static const u16 selectors[] = { 0xe008, 0xe010, 0xe018, 0x8, 0x10, 0xe040, 0xe048 };
    u16 cs;

    CHECK_EQUAL(pv_iret_to(FLAT_KERNEL_CS & ~3, FLAT_KERNEL_SS & ~3), FLAT_KERNEL_CS);
    for (unsigned i = 0; i < ARRAY_SIZE(selectors); i++) {
        bool returned = guarded(iret_to_ring_0, (void *)(ulong)selectors[i]);

        asm volatile("mov %%cs, %0" : "=r"(cs));
        CHECK_EQUAL(cs & 3, 3);
        if (returned || trap.vector != VEC_GP)
            FAIL("an IRET to %x went through", selectors[i]);
    }
}

static u64 sgdt_limit(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) table;

    asm volatile("sgdt %0" : "=m"(table));
    return table.limit;
}

#define REFUSED(insn, ...)                                                                        \
    do {                                                                                          \
        trap_clear();                                                                             \
        asm volatile(MAY_TRAP(insn)::__VA_ARGS__ : "memory", "rax", "cc");                        \
        if (trap.count != 1 || trap.vector != VEC_GP || trap.error)                               \
            FAIL("%s: trap %u error %x (%u)", insn, trap.vector, trap.error, trap.count);         \
    } while (0)

TEST(privileged_instructions)
{
    ulong table[2] = { 0, 0 }, root = mfn_of((void *)pv_start_info->pt_base);
    ulong cr0 = read_cr0(), cr4 = read_cr4();

    REFUSED("lgdt %0", "m"(table));
    REFUSED("lidt %0", "m"(table));
    REFUSED("lldt %w0", "r"(8));
    REFUSED("ltr %w0", "r"(8));
    REFUSED("invlpg %0", "m"(table));
    REFUSED("mov %0, %%cr8", "r"(0ul));
    REFUSED("hlt", "r"(0));
    REFUSED("cli", "r"(0));
    REFUSED("inb $0x60, %%al", "r"(0));
    REFUSED("outb %%al, $0x80", "r"(0));
    REFUSED("mov %0, %%cr0", "r"(cr0 & ~CR0_PG));
    REFUSED("mov %0, %%cr0", "r"(cr0 & ~CR0_WP));
    REFUSED("mov %0, %%cr0", "r"(cr0 & ~1ul));
    REFUSED("mov %0, %%cr3", "r"(victim << PAGE_SHIFT));
    REFUSED("mov %0, %%cr3", "r"(mfn_of(pages[0]) << PAGE_SHIFT));
    trap_clear();
    write_cr3(root << PAGE_SHIFT);
    CHECK_NO_TRAP();
    CHECK_EQUAL(read_cr3(), root << PAGE_SHIFT);
    /* What isn't the guest's of CR4 stays. */
    write_cr4(cr4 | CR4_SMEP | CR4_SMAP | 1 << 13);
    CHECK_EQUAL(read_cr4() & (CR4_SMEP | CR4_SMAP | 1 << 13), 0);
    write_cr4(cr4);
    CHECK_EQUAL(sgdt_limit() >> 12, 0xe); /* Xen's own descriptors lie at its end */
}

static u32 set_iopl(u32 level)
{
    return (u32)hypercall2(HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &level);
}

static void string_in(void *to, ulong count)
{
    asm volatile(MAY_TRAP("rep insb") : "+D"(to), "+c"(count) : "d"(0x60) : "memory");
}

static void string_out(const void *from, ulong count)
{
    asm volatile(MAY_TRAP("rep outsb") : "+S"(from), "+c"(count) : "d"(0x80) : "memory");
}

TEST(string_port_io)
{
    ulong at = (ulong)pages[0], left = 4;

    memset(pages[0], 0, 2 * PAGE_SIZE);
    string_in(pages[0], 4);
    CHECK_TRAP(VEC_GP, 0);
    CHECK_RESULT(set_iopl(1), 0);
    trap_clear();
    /* Ones, over the border of a page, and nothing behind them; none for none. */
    string_in(pages[0] + PAGE_SIZE - 3, 6);
    string_in(pages[0], 0);
    CHECK_NO_TRAP();
    CHECK_EQUAL(pages[0][0], 0);
    CHECK_EQUAL(pages[0][PAGE_SIZE - 4], 0);
    CHECK_EQUAL(*(volatile u32 *)(pages[0] + PAGE_SIZE - 3), 0xffffffff);
    CHECK_EQUAL(pages[1][2], 0xff);
    CHECK_EQUAL(pages[1][3], 0);
    /* Downwards, four bytes at a time. */
    at += 64;
    asm volatile("std; rep insl; cld" : "+D"(at), "+c"(left) : "d"(0x60) : "memory");
    CHECK_EQUAL(at, (ulong)pages[0] + 48);
    CHECK_EQUAL(pages[0][51], 0);
    CHECK_EQUAL(pages[0][52], 0xff);
    CHECK_EQUAL(pages[0][67], 0xff);
    CHECK_EQUAL(pages[0][68], 0);
    /* It's no way to write what the guest may not, nor to read what it may not see. */
    CHECK_RESULT(pv_protect(pages[1], false), 0);
    string_in(pages[0] + PAGE_SIZE - 8, 16);
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    CHECK_EQUAL(trap.cr2, (ulong)pages[1]);
    CHECK_EQUAL(trap.cx, 8);
    CHECK_EQUAL(trap.di, (ulong)pages[1]);
    give_back(pages[1]);
    trap_clear();
    string_in((void *)pv_start_info->pt_base, 8);
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    trap_clear();
    string_out(pages[0], 64);
    CHECK_NO_TRAP();
    string_out((void *)0x7fff00000000ul, 64);
    CHECK_TRAP(VEC_PF, 0);
    trap_clear();
    string_out((void *)0xffff82d040000000ul, 64);
    CHECK_EQUAL(trap.vector, VEC_PF);
    CHECK_RESULT(set_iopl(0), 0);
}

TEST(ports_by_a_bitmap)
{
    struct {
        void *bitmap;
        u32 ports;
    } set = { pages[0], 0x88 };
    u32 value = 0;

    memset(pages[0], 0xff, PAGE_SIZE);
    pages[0][0x80 / 8] = 0xfe; /* port 0x80 alone */
    CHECK_RESULT(hypercall2(HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &set), 0);
    asm volatile(MAY_TRAP("inb $0x80, %%al") : "+a"(value));
    CHECK_NO_TRAP();
    CHECK_EQUAL(value, 0xff);
    REFUSED("inb $0x81, %%al", "r"(0));
    REFUSED("inw $0x80, %%ax", "r"(0));
    /* Beyond the bitmap, and where no memory is, there's no permission. */
    memset(pages[0], 0, PAGE_SIZE);
    trap_clear();
    asm volatile(MAY_TRAP("inb $0x87, %%al") : "+a"(value));
    CHECK_NO_TRAP();
    REFUSED("inb $0x88, %%al", "r"(0));
    set.bitmap = (void *)0x7fff00000000ul;
    CHECK_RESULT(hypercall2(HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &set), 0);
    REFUSED("inb $0x80, %%al", "r"(0));
    set.ports = 65537;
    CHECK_RESULT(hypercall2(HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &set), -EINVAL);
    set.ports = 0;
    CHECK_RESULT(hypercall2(HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &set), 0);
}

TEST(model_specific_registers)
{
    static const struct {
        u32 msr;
        u64 value;
    } writes[] = { { MSR_LSTAR, 0x100000 },    { MSR_STAR, 0 },          { MSR_CSTAR, 0x100000 },
                   { MSR_SFMASK, 0 },          { MSR_EFER, EFER_SCE },   { MSR_APIC_BASE, 0 },
                   { MSR_SYSENTER_CS, 8 },     { MSR_SYSENTER_EIP, 1 },  { MSR_PAT, 0 },
                   { 0x79, 0x1000 },           { 0x3a, 5 },              { 0x1d9, 1 },
                   { MSR_FS_BASE, 1ull << 47 }, { MSR_GS_BASE, 1ull << 47 },
                   { MSR_KERNEL_GS_BASE, 1ull << 63 }, { 0xc0010114, 0 }, { 0x40000001, 0 } };

    for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
        trap_clear();
        try_wrmsr(writes[i].msr, writes[i].value);
        if (trap.count != 1 || trap.vector != VEC_GP || trap.error)
            FAIL("MSR %x was written", writes[i].msr);
    }
    /* Hypercall code into a page table, or into somebody else's memory. */
    trap_clear();
    try_wrmsr(0x40000000, (u64)mfn_of((void *)pv_start_info->pt_base) << PAGE_SHIFT);
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    try_wrmsr(0x40000000, (u64)victim << PAGE_SHIFT);
    CHECK_TRAP(VEC_GP, 0);
}

TEST(debug_registers)
{
    CHECK_RESULT(hypercall(HYPERVISOR_set_debugreg, 0, 0xffff82d040000000ul, 0, 0, 0), -EPERM);
    CHECK_RESULT(hypercall(HYPERVISOR_set_debugreg, 0, 1ul << 47, 0, 0, 0), -EPERM);
    CHECK_RESULT(hypercall(HYPERVISOR_set_debugreg, 7, 1ul << 40, 0, 0, 0), -EINVAL);
    CHECK_RESULT(hypercall(HYPERVISOR_set_debugreg, 7, 1ul << 13, 0, 0, 0), -EPERM);
    CHECK_RESULT(hypercall(HYPERVISOR_set_debugreg, 9, 0, 0, 0, 0), -ENODEV);
    CHECK_RESULT(hypercall(HYPERVISOR_set_segment_base, 0, 1ul << 47, 0, 0, 0), -EINVAL);
    CHECK_RESULT(hypercall(HYPERVISOR_set_segment_base, 7, 0, 0, 0, 0), -EINVAL);
}

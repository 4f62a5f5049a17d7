/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What each cell of the table of guest modes promises, asserted from inside a guest.  The names of
 * these tests stand in the table (`xg modes`): KIND_ROW, as `pvh_legacy_devices`.
 */
#include "apic.h"
#include "test.h"
#include "xen.h"

static const u8 *rsdp(void)
{
    return (const u8 *)(ulong)start_info->rsdp_paddr;
}

static const u8 *find_table(const char *signature)
{
    const u8 *xsdt = (const u8 *)(ulong) * (const u64 *)(rsdp() + 24);

    for (u32 at = 36; at < *(const u32 *)(xsdt + 4); at += 8) {
        const u8 *table = (const u8 *)(ulong) * (const u64 *)(xsdt + at);

        if (!memcmp(table, signature, 4))
            return table;
    }
    return NULL;
}

static bool sums_to_zero(const u8 *at, u32 n)
{
    u8 sum = 0;

    for (u32 i = 0; i < n; i++)
        sum = (u8)(sum + at[i]);
    return sum == 0;
}

/* ---- I/O devices: paravirtual ones alone ---- */

TEST(pvh_io_devices)
{
    u64 page, port;
    struct evtchn_status s = { .dom = DOMID_SELF };

    CHECK_RESULT(hvm_get_param(HVM_PARAM_CONSOLE_PFN, &page), 0);
    CHECK_RESULT(hvm_get_param(HVM_PARAM_CONSOLE_EVTCHN, &port), 0);
    CHECK(page && port);
    s.port = (u32)port;
    CHECK_RESULT(event_op(EVTCHNOP_status, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_interdomain);
    CHECK_EQUAL(s.interdomain.dom, 0);
    /* What these lines are printed with: a ring in a page, and an event. */
    CHECK(xen.console->out_prod - xen.console->out_cons <= sizeof(xen.console->out));
    /* No PCI bus, where emulated disks and network cards would be. */
    out32(0xcf8, 0x80000000);
    CHECK_EQUAL(in32(0xcfc), 0xffffffff);
    /* No IDE, no floppy, no serial port. */
    CHECK_EQUAL(in8(0x1f7), 0xff);
    CHECK_EQUAL(in8(0x3f4), 0xff);
    CHECK_EQUAL(in8(0x3fd), 0xff);
}

/* ---- legacy devices: none, but a local APIC ---- */

static volatile u32 taken;

static void take(struct regs *r)
{
    taken++;
    apic_eoi();
}

TEST(pvh_legacy_devices)
{
    static const struct {
        u16 port;
        const char *name;
    } ports[] = { { 0x20, "PIC" },   { 0x21, "PIC" },  { 0xa1, "PIC" },  { 0x40, "PIT" },
                  { 0x42, "PIT" },   { 0x43, "PIT" },  { 0x60, "8042" }, { 0x64, "8042" },
                  { 0x71, "CMOS" },  { 0x92, "A20" },  { 0x3cc, "VGA" }, { 0x3da, "VGA" },
                  { 0x3d5, "VGA" },  { 0x00, "DMA" },  { 0x87, "DMA" },  { 0x4d0, "ELCR" } };
    const u8 *fadt = find_table("FACP"), *madt = find_table("APIC");

    for (unsigned i = 0; i < ARRAY_SIZE(ports); i++)
        if (in8(ports[i].port) != 0xff)
            FAIL("port %x (%s) answers %x", ports[i].port, ports[i].name, in8(ports[i].port));
    CHECK_EQUAL(*(volatile u32 *)0xfed00000, 0xffffffff); /* no HPET */
    CHECK(!find_table("HPET"));
    *(volatile u32 *)0xfec00000 = 1;
    CHECK_EQUAL(*(volatile u32 *)0xfec00010, 0xffffffff); /* no I/O APIC by default */
    CHECK(madt && fadt);
    for (u32 at = 44; at < *(const u32 *)(madt + 4); at += madt[at + 1])
        CHECK(madt[at] != 1); /* no I/O APIC entry */
    /* FADT, IA-PC boot flags: no VGA, no CMOS clock, no 8042, no legacy devices. */
    CHECK(!(*(const u16 *)(fadt + 109) & 3));
    CHECK(*(const u16 *)(fadt + 109) & 1 << 2);
    CHECK(*(const u16 *)(fadt + 109) & 1 << 5);
    /* The local APIC is there and works. */
    apic_enable();
    set_vector(0x41, take);
    apic_send(0, ICR_SELF | 0x41);
    asm volatile("sti; nop; nop; cli" ::: "memory");
    CHECK_EQUAL(taken, 1);
}

/* ---- privileged instructions: the processor's own ---- */

TEST(pvh_privileged_instructions)
{
    u16 cs;
    ulong flags;

    asm volatile("mov %%cs, %0" : "=r"(cs));
    CHECK_EQUAL(cs & 3, 0); /* a kernel in ring 0 */
    cli();
    flags = read_flags();
    CHECK(!(flags & FLAG_IF)); /* CLI and STI are real */
    sti();
    flags = read_flags();
    cli();
    CHECK(flags & FLAG_IF);
    write_cr3(read_cr3());
    write_cr0(read_cr0() | CR0_TS);
    CHECK(read_cr0() & CR0_TS);
    asm volatile("clts");
    set_idt_limit(256 * (BITS == 64 ? 16 : 8) - 1);
    asm volatile(MAY_TRAP("ud2"));
    CHECK_TRAP(VEC_UD, 0); /* exceptions go through our own IDT */
#if PAGING_LEVELS
    {
        u32 *page = alloc_page();

        /* Our page tables are the processor's: written without asking, used at once. */
        *page = 0x600d;
        *window_pte(WINDOW_BASE) = (pte_t)(ulong)page | PTE_P;
        invlpg(WINDOW_BASE);
        CHECK_EQUAL(*(volatile u32 *)WINDOW_BASE, 0x600d);
        CHECK(*window_pte(WINDOW_BASE) & PTE_A);
    }
#endif
    CHECK_RESULT(hypercall(1, 0, 0, 0, 0, 0), -ENOSYS);  /* mmu_update */
    CHECK_RESULT(hypercall(0, 0, 0, 0, 0, 0), -ENOSYS);  /* set_trap_table */
    CHECK_RESULT(hypercall(14, 0, 0, 0, 0, 0), -ENOSYS); /* update_va_mapping */
}

/* ---- system configuration: ACPI and Xen's own ---- */

TEST(pvh_system_configuration)
{
    static struct e820_entry map[64];
    struct xen_memory_map m = { 64, map };
    const struct memory_map_entry *entries = (const void *)(ulong)start_info->memmap_paddr;
    struct xen_feature_info features = { 0, 0 };
    const u8 *dsdt, *fadt;

    /* ACPI */
    CHECK(start_info->rsdp_paddr);
    CHECK_EQUAL(memcmp(rsdp(), "RSD PTR ", 8), 0);
    CHECK(sums_to_zero(rsdp(), 20));
    CHECK(sums_to_zero(rsdp(), *(const u32 *)(rsdp() + 20)));
    fadt = find_table("FACP");
    CHECK(fadt && sums_to_zero(fadt, *(const u32 *)(fadt + 4)));
    dsdt = (const u8 *)(ulong) * (const u64 *)(fadt + 140);
    CHECK(dsdt && !memcmp(dsdt, "DSDT", 4));
    CHECK(sums_to_zero(dsdt, *(const u32 *)(dsdt + 4)));
    CHECK(find_table("APIC"));
    /* Xen: CPUID leaves, features, hypercalls */
    CHECK(xen.present);
    CHECK_RESULT(version_op(XENVER_get_features, &features), 0);
    CHECK(features.submap >> XENFEAT_auto_translated_physmap & 1);
    /* The memory map comes with the start info, and by hypercall: both say the same of RAM. */
    CHECK_RESULT(memory_op(XENMEM_memory_map, &m), 0);
    for (u32 i = 0; i < start_info->memmap_entries; i++) {
        bool found = false;

        if (entries[i].type != 1)
            continue;
        for (u32 j = 0; j < m.nr_entries; j++)
            found |= map[j].type == 1 && map[j].addr == entries[i].addr &&
                     map[j].size == entries[i].size;
        CHECK(found);
    }
}

/* ---- kernel entry: the PVH entry point ---- */

TEST(pvh_kernel_entry)
{
    /* docs/misc/pvh.pandoc: 32-bit protected mode, paging off, interrupts off. */
    CHECK_EQUAL(entry_cr0 & 1, 1);
    CHECK_EQUAL(entry_cr0 >> 31, 0);
    CHECK_EQUAL(entry_cr4, 0);
    CHECK_EQUAL(entry_flags & (FLAG_IF | FLAG_TF | FLAG_IOPL | 1 << 17), 0);
    CHECK_EQUAL(start_info->magic, START_MAGIC);
    CHECK(start_info->version >= 1);
    CHECK(start_info->memmap_entries);
    CHECK(start_info_paddr < 0xffffffffu - 4096);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the cells of the table of guest modes promise to PV guests: see modes.c. */
#include "pv.h"
#include "test.h"

static u32 set_iopl(u32 level)
{
    return (u32)hypercall2(HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &level);
}

/* ---- I/O devices: paravirtual ones alone ---- */

TEST(pv_io_devices)
{
    struct evtchn_status s = { .dom = DOMID_SELF };

    CHECK(pv_start_info->console_mfn && pv_start_info->console_evtchn);
    s.port = pv_start_info->console_evtchn;
    CHECK_RESULT(event_op(EVTCHNOP_status, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_interdomain);
    CHECK_EQUAL(s.interdomain.dom, 0);
    /* What these lines are printed with: a ring in a page, and an event. */
    CHECK(xen.console->out_prod - xen.console->out_cons <= sizeof(xen.console->out));
    /* No PCI bus, where emulated disks and network cards would be; no IDE, floppy, serial port. */
    CHECK_RESULT(set_iopl(3), 0);
    out32(0xcf8, 0x80000000);
    CHECK_EQUAL(in32(0xcfc), 0xffffffff);
    CHECK_EQUAL(in8(0x1f7), 0xff);
    CHECK_EQUAL(in8(0x3f4), 0xff);
    CHECK_EQUAL(in8(0x3fd), 0xff);
    CHECK_RESULT(set_iopl(0), 0);
}

/* ---- legacy devices: none; event channels, and Xen's timer and clock ---- */

static volatile u32 taken;

static void take(u32 port)
{
    taken++;
}

TEST(pv_legacy_devices)
{
    static const u16 ports[] = { 0x20, 0x21, 0xa1, 0x40, 0x42, 0x43, 0x60, 0x64, 0x71,
                                 0x92, 0x3cc, 0x3d5, 0x00, 0x87, 0x4d0 };
    u32 port, timer;
    u64 begin, end;

    /* A port is a fault, or, with IOPL, nothing. */
    asm volatile(MAY_TRAP("inb $0x20, %%al") ::: "rax");
    CHECK_TRAP(VEC_GP, 0);
    CHECK_RESULT(set_iopl(3), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(ports); i++)
        if (in8(ports[i]) != 0xff)
            FAIL("port %x answers %x", ports[i], in8(ports[i]));
    CHECK_RESULT(set_iopl(0), 0);
    /* No local APIC, by its register of MSRs and by its page. */
    trap_clear();
    try_rdmsr(0x802);
    CHECK_TRAP(VEC_GP, 0);
    CHECK(update_va(&shared_info, ENTRY(0xfee00, PTE_P | PTE_W)) < 0);
    /* Interrupts are events; they wait while they're masked. */
    events_init();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    on_event(port, take);
    vcpu_infos[0]->evtchn_upcall_mask = 1;
    unmask_event(port);
    CHECK_RESULT(send_event(port), 0);
    CHECK_EQUAL(taken, 0);
    vcpu_infos[0]->evtchn_upcall_mask = 0;
    version_op(XENVER_version, NULL); /* a look at what is pending */
    CHECK_EQUAL(taken, 1);
    /* Time and its interrupt are Xen's. */
    CHECK_RESULT(bind_virq(VIRQ_TIMER, 0, &timer), 0);
    on_event(timer, take);
    unmask_event(timer);
    begin = system_time();
    CHECK_RESULT(set_singleshot_timer(begin + 200000, 0), 0);
    while (taken < 2 && system_time() < begin + 1000000000)
        sched_op(SCHEDOP_block, NULL);
    end = system_time();
    CHECK_EQUAL(taken, 2);
    CHECK(end >= begin + 200000);
    CHECK(shared_info.wc_sec);
    vcpu_infos[0]->evtchn_upcall_mask = 1;
}

/* ---- privileged instructions: none; page tables by hypercall ---- */

TEST(pv_privileged_instructions)
{
    static u8 page[PAGE_SIZE] PAGE_ALIGNED, other[PAGE_SIZE] PAGE_ALIGNED;
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) table = { 0, 0 };
    volatile u32 *at = (volatile u32 *)page;
    u16 cs;

    asm volatile("mov %%cs, %0" : "=r"(cs));
    CHECK_EQUAL(cs & 3, 3); /* a kernel in ring 3 */
    asm volatile(MAY_TRAP("lidt %0")::"m"(table));
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    asm volatile(MAY_TRAP("cli"));
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    asm volatile(MAY_TRAP("ud2"));
    CHECK_TRAP(VEC_UD, 0); /* exceptions come by the table that a hypercall has set */
    /* Control registers are emulated, as far as a PV kernel has any. */
    trap_clear();
    CHECK_EQUAL(read_cr3() >> PAGE_SHIFT, mfn_of((void *)pv_start_info->pt_base));
    write_cr0(read_cr0() | CR0_TS);
    CHECK(read_cr0() & CR0_TS);
    asm volatile("clts");
    CHECK(!(read_cr0() & CR0_TS));
    CHECK_NO_TRAP();
    /* Page tables can be read, and are changed by hypercall; they hold machine frame numbers. */
    CHECK(!pv_store(pv_table_of((ulong)page, 1), 0));
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    *at = 1;
    *(volatile u32 *)other = 2;
    CHECK_RESULT(update_va(page, ENTRY(mfn_of(other), PTE_P)), 0);
    CHECK_EQUAL(*at, 2);
    CHECK(mfn_of(page) != (ulong)page >> PAGE_SHIFT);
    CHECK_EQUAL(pfn_of(mfn_of(page)), (ulong)page >> PAGE_SHIFT);
}

/* ---- system configuration: start info and xenstore ---- */

TEST(pv_system_configuration)
{
    u16 self = DOMID_SELF;
    struct xen_feature_info features = { 0, 0 };
    struct e820_entry map[4];
    struct xen_memory_map m = { 4, map };
    char answer[32] = "";

    CHECK_EQUAL(strncmp(pv_start_info->magic, "xen-3.0-x86_64", 15), 0);
    CHECK_RESULT(memory_op(XENMEM_current_reservation, &self), (long)pv_start_info->nr_pages);
    CHECK_RESULT(memory_op(XENMEM_memory_map, &m), 0);
    CHECK_EQUAL(m.nr_entries, 1);
    CHECK_EQUAL(map[0].size, pv_start_info->nr_pages << PAGE_SHIFT);
    CHECK_RESULT(version_op(XENVER_get_features, &features), 0);
    CHECK(!(features.submap >> XENFEAT_auto_translated_physmap & 1));
    CHECK(store_read("name", answer, sizeof(answer) - 1) > 0);
    CHECK_EQUAL(strcmp(answer, "guest"), 0);
    /* No ACPI, nor other firmware tables: these pages are RAM of ours. */
    CHECK_EQUAL(pfn_of(mfn_of((void *)0xe0000)), 0xe0);
    for (const char *at = (const char *)0xe0000; at < (const char *)0x100000; at += 16)
        CHECK(memcmp(at, "RSD PTR ", 8));
}

/* ---- kernel entry: the PV entry point ---- */

TEST(pv_kernel_entry)
{
    /* public/xen.h, "The domain's initial state": 64-bit mode, paging on, events masked. */
    CHECK_EQUAL(pv_entry_cs, FLAT_KERNEL_CS);
    CHECK_EQUAL(pv_entry_ss, FLAT_KERNEL_SS);
    CHECK(pv_entry_flags & FLAG_IF);
    CHECK_EQUAL(pv_entry_flags & (FLAG_TF | FLAG_IOPL | 1 << 10), 0);
    CHECK_EQUAL(shared_info.vcpu_info[0].evtchn_upcall_mask, 1);
    /* Page tables, then the boot stack: what the start info says is mapped, and read-only. */
    CHECK_EQUAL(pv_entry_stack,
                pv_start_info->pt_base + ((pv_start_info->nr_pt_frames + 1) << PAGE_SHIFT));
    for (u64 i = 0; i < pv_start_info->nr_pt_frames; i++)
        CHECK(!(pv_entry_of(pv_start_info->pt_base + (i << PAGE_SHIFT), 1) & PTE_W));
    CHECK_EQUAL(*(u32 *)hypercall_page & 0xffffff, 0x534151); /* push %rcx; push %r11; … */
    /* A ramdisk is mapped for who doesn't say that its frame number will do. */
    if (pv_start_info->mod_len) {
        const char *ramdisk = (const char *)pv_start_info->mod_start;

        CHECK_EQUAL(pv_start_info->flags & SIF_MOD_START_PFN, 0);
        CHECK_EQUAL(memcmp(ramdisk, "ramdisk", 7), 0);
        CHECK_EQUAL(memcmp(ramdisk + pv_start_info->mod_len - 3, "end", 3), 0);
    }
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A PV kernel that tries to leave its own memory, and its privilege.  Each test is an attempt, and
 * passes if it was refused with the errno, or the fault, that Xen gives.  Command line:
 *   domid=N victim=M   a neighbour, and one of its frames
 *   stay               block at the end, so that the host can look at what is left
 */
#include "pv.h"
#include "test.h"

static u8 pages[8][PAGE_SIZE] PAGE_ALIGNED;
static ulong victim;
static u32 neighbour;

#define RO (PTE_P | PTE_A)
#define RW (PTE_P | PTE_A | PTE_W)
#define TABLE (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)

void tests_init(void)
{
    victim = (ulong)option_number("victim", 0);
    neighbour = (u32)option_number("domid", 0);
}

/* A page that holds one entry in slot 0, no longer writable: ready to become a table. */
static ulong table_with(u8 *page, pte_t entry)
{
    memset(page, 0, PAGE_SIZE);
    *(pte_t *)page = entry;
    if (pv_protect(page, false))
        panic("a page of our own can't be made read-only");
    return mfn_of(page);
}

static void give_back(u8 *page)
{
    if (pv_protect(page, true))
        panic("a page of our own can't be made writable");
}

/* ---- frames of others ---- */

TEST(map_a_foreign_frame)
{
    u8 *at = pages[0];

    CHECK_RESULT(update_va(at, ENTRY(victim, RO)), -EBUSY);
    CHECK_RESULT(update_va(at, ENTRY(victim, RW)), -EBUSY);
    CHECK_RESULT(mmu_update(pv_entry_at((ulong)at, 1), ENTRY(victim, RO)), -EBUSY);
    CHECK_RESULT(mmu_update(pv_entry_at((ulong)at, 1) | MMU_PT_UPDATE_PRESERVE_AD,
                            ENTRY(victim, RW)), -EBUSY);
    CHECK_EQUAL(MFN(pv_entry_of((ulong)at, 1)), mfn_of(at));
}

TEST(map_a_foreign_frame_by_the_owners_name)
{
    u8 *at = pages[0];
    ulong entry = pv_entry_at((ulong)at, 1);

    CHECK_RESULT(mmu_update_for(entry, ENTRY(victim, RO), neighbour), -EPERM);
    CHECK_RESULT(mmu_update_for(entry, ENTRY(victim, RO), 0), -EPERM);      /* domain 0's */
    CHECK_RESULT(mmu_update_for(entry, ENTRY(victim, RO), 0x7000), -ESRCH); /* nobody's */
    CHECK_RESULT(mmu_update_for(entry, ENTRY(victim, RO), DOMID_IO), -EBUSY);
    CHECK_RESULT(hypercall(HYPERVISOR_update_va_mapping_otherdomain, (ulong)at,
                           ENTRY(victim, RW), UVMF_INVLPG, neighbour, 0), -EPERM);
    CHECK_RESULT(hypercall(HYPERVISOR_update_va_mapping_otherdomain, (ulong)at,
                           ENTRY(victim, RW), UVMF_INVLPG, 0x7000, 0), -ESRCH);
    CHECK_EQUAL(MFN(pv_entry_of((ulong)at, 1)), mfn_of(at));
}

TEST(change_a_table_of_another_domain)
{
    CHECK_RESULT(mmu_update((u64)victim << PAGE_SHIFT, ENTRY(victim, RW)), -EINVAL);
    CHECK_RESULT(mmu_update_for((u64)victim << PAGE_SHIFT, 0, (neighbour + 1) << 16 | DOMID_SELF),
                 -EPERM);
    CHECK_RESULT(mmu_update((u64)victim << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, 1), -EINVAL);
    CHECK_RESULT(mmu_update_for((u64)victim << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, 1, neighbour),
                 -EPERM);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE, victim, 0), -EINVAL);
    CHECK_RESULT(mmuext_for(MMUEXT_PIN_L1_TABLE, victim, 0, neighbour), -EPERM);
    CHECK_RESULT(mmuext(MMUEXT_UNPIN_TABLE, victim, 0), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_CLEAR_PAGE, victim, 0), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_COPY_PAGE, victim, mfn_of(pages[0])), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_COPY_PAGE, mfn_of(pages[0]), victim), -EINVAL);
    CHECK_RESULT(hypercall(HYPERVISOR_update_descriptor, victim << PAGE_SHIFT, 0, 0, 0, 0),
                 -EINVAL);
}

TEST(map_frames_of_xens_own)
{
    /* Our own root table says where they are. */
    pte_t m2p = pv_entry_of(HYPERVISOR_VIRT_START, 4);
    pte_t descriptors = pv_entry_of(0xffff820000000000ul, 4);

    CHECK((m2p & PTE_P) && (descriptors & PTE_P));
    CHECK_RESULT(update_va(pages[0], ENTRY(MFN(m2p), RO)), -EBUSY);
    CHECK_RESULT(update_va(pages[0], ENTRY(MFN(descriptors), RW)), -EBUSY);
    CHECK_RESULT(mmu_update((MFN(descriptors) << PAGE_SHIFT), 0), -EINVAL);
}

TEST(map_frames_that_do_not_exist)
{
    CHECK_RESULT(update_va(pages[0], ENTRY(1ull << 30, RO)), -EPERM);
    CHECK_RESULT(update_va(pages[0], ENTRY((1ull << 40) - 1, RO)), -EINVAL);
    CHECK_RESULT(update_va(pages[0], ENTRY(0, RO)), -EBUSY);
    CHECK_RESULT(mmu_update(~7ull, 0), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L4_TABLE, ~0ull, 0), -EINVAL);
}

TEST(enter_a_foreign_frame_as_a_table)
{
    for (unsigned level = 2; level <= 4; level++) {
        ulong at = pv_entry_at(0x4000000000ul * (level == 2 ? 0 : 1), level);

        if (level == 2)
            at = pv_entry_at(0, 2) | 511 * 8;
        else if (level == 3)
            at = pv_entry_at(0, 3) | 511 * 8;
        CHECK_RESULT(mmu_update(at, ENTRY(victim, TABLE)), -EINVAL);
        CHECK_RESULT(mmu_update_for(at, ENTRY(victim, TABLE), neighbour), -EPERM);
    }
    CHECK_RESULT(mmuext(MMUEXT_NEW_BASEPTR, victim, 0), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_NEW_USER_BASEPTR, victim, 0), -EINVAL);
}

/* ---- tables that could be written ---- */

TEST(map_tables_writable)
{
    for (unsigned level = 1; level <= 4; level++) {
        pte_t *table = pv_table_of((ulong)pages, level);
        u64 value = 0;

        CHECK_RESULT(update_va(pages[0], ENTRY(mfn_of(table), RW)), -EBUSY);
        CHECK_RESULT(update_va(pages[0], ENTRY(mfn_of(table), RO)), 0);
        /* Flags alone don't do it either. */
        CHECK_RESULT(update_va(pages[0], ENTRY(mfn_of(table), RW | PTE_D)), -EBUSY);
        CHECK(pv_load((u64 *)pages[0], &value));
        trap_clear();
        CHECK(!pv_store((u64 *)pages[0], value));
        CHECK_TRAP(VEC_PF, PF_P | PF_W);
        CHECK_EQUAL(*(volatile u64 *)pages[0], value);
        CHECK_RESULT(mmuext(MMUEXT_CLEAR_PAGE, mfn_of(table), 0), -EINVAL);
        CHECK_RESULT(mmuext(MMUEXT_COPY_PAGE, mfn_of(table), mfn_of(pages[1])), -EINVAL);
    }
    give_back(pages[0]);
}

TEST(make_a_table_of_what_is_writable)
{
    /* pages[0] is mapped writable where it is. */
    for (u32 level = 0; level < 4; level++)
        CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE + level, mfn_of(pages[0]), 0), -EINVAL);
    CHECK_RESULT(mmu_update(pv_entry_at(0, 2) | 511 * 8, ENTRY(mfn_of(pages[0]), TABLE)), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_NEW_BASEPTR, mfn_of(pages[0]), 0), -EINVAL);
}

TEST(keep_a_writable_translation_of_a_table)
{
    ulong mfn = mfn_of(pages[0]);

    memset(pages[0], 0, PAGE_SIZE); /* the TLB knows it as writable now */
    /* Taken away without a flush, then made a table: the store must fault all the same. */
    CHECK_RESULT(mmu_update(pv_entry_at((ulong)pages[0], 1), ENTRY(mfn, RO)), 0);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
    CHECK(!pv_store((u64 *)pages[0], ENTRY(victim, RW)));
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    CHECK_EQUAL(*(volatile u64 *)pages[0], 0);
    CHECK_RESULT(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
    give_back(pages[0]);
}

TEST(pin_tables_with_bad_entries)
{
    static const struct {
        u32 level;
        u64 flags;
    } bad[] = {
        { 1, PTE_P | PTE_PS },      { 1, PTE_P | 1 << 3 },   { 1, PTE_P | 1 << 4 },
        { 2, TABLE | PTE_PS },      { 3, TABLE | PTE_PS },   { 4, TABLE | PTE_PS },
        { 2, TABLE | PTE_G },       { 3, TABLE | 1 << 4 },   { 4, TABLE | 1 << 3 },
    };
    ulong data = mfn_of(pages[7]);

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        ulong mfn = table_with(pages[0], ENTRY(data, bad[i].flags));

        CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE + bad[i].level - 1, mfn, 0), -EINVAL);
        give_back(pages[0]);
    }
    for (u32 level = 1; level <= 4; level++) {
        ulong mfn = table_with(pages[0], ENTRY(victim, level == 1 ? RO : TABLE));

        CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE + level - 1, mfn, 0), level == 1 ? -EBUSY : -EINVAL);
        /* A table whose entry is a page that's written isn't one either. */
        give_back(pages[0]);
        if (level == 1)
            continue;
        mfn = table_with(pages[0], ENTRY(data, TABLE));
        CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE + level - 1, mfn, 0), -EINVAL);
        give_back(pages[0]);
    }
    /* An L1 table that maps itself writable, or another table. */
    {
        ulong mfn = table_with(pages[0], ENTRY(mfn_of(pages[0]), RW));

        CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), -EBUSY);
        give_back(pages[0]);
        mfn = table_with(pages[0], ENTRY(mfn_of((void *)pv_start_info->pt_base), RW));
        CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), -EBUSY);
        give_back(pages[0]);
    }
}

TEST(use_a_table_at_two_levels)
{
    ulong mfn = table_with(pages[0], 0);

    CHECK_RESULT(mmuext(MMUEXT_PIN_L2_TABLE, mfn, 0), 0);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L2_TABLE, mfn, 0), -EINVAL);
    CHECK_RESULT(mmu_update(pv_entry_at(0, 2) | 511 * 8, ENTRY(mfn, TABLE)), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_NEW_BASEPTR, mfn, 0), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
    CHECK_RESULT(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), -EINVAL);
    give_back(pages[0]);
}

TEST(superpages)
{
    ulong l2 = pv_entry_at(0, 2) | 510 * 8, l3 = pv_entry_at(0, 3) | 510 * 8;

    CHECK_RESULT(mmu_update(l2, ENTRY(victim & ~511ul, RW | PTE_PS)), -EINVAL);
    CHECK_RESULT(mmu_update(l3, ENTRY(0, RW | PTE_PS)), -EINVAL);
    /* Nor of frames of our own. */
    CHECK_RESULT(mmu_update(l2, ENTRY(mfn_of(pages[0]), RW | PTE_PS)), -EINVAL);
    /* Nor by changing an entry that is there. */
    CHECK_RESULT(mmu_update(pv_entry_at((ulong)pages, 2),
                            pv_entry_of((ulong)pages, 2) | PTE_PS), -EINVAL);
}

TEST(xens_slots_of_the_root)
{
    ulong root = mfn_of((void *)pv_start_info->pt_base) << PAGE_SHIFT;
    ulong l3 = mfn_of(pv_table_of(0, 3)), mfn;

    for (unsigned slot = XEN_FIRST_SLOT; slot <= XEN_LAST_SLOT; slot++) {
        CHECK_RESULT(mmu_update(root + 8 * slot, ENTRY(l3, TABLE)), -EINVAL);
        CHECK_RESULT(mmu_update(root + 8 * slot, 0), -EINVAL);
    }
    /* What a table of our own says there is forgotten when it becomes a root. */
    memset(pages[0], 0, PAGE_SIZE);
    for (unsigned slot = XEN_FIRST_SLOT; slot <= XEN_LAST_SLOT; slot++)
        ((pte_t *)pages[0])[slot] = ENTRY(victim, TABLE);
    CHECK_RESULT(pv_protect(pages[0], false), 0);
    mfn = mfn_of(pages[0]);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L4_TABLE, mfn, 0), 0);
    for (unsigned slot = XEN_FIRST_SLOT; slot <= XEN_LAST_SLOT; slot++)
        CHECK(MFN(((volatile pte_t *)pages[0])[slot]) != victim);
    CHECK_RESULT(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
    /* And Xen's entries don't stay behind as ours. */
    for (unsigned slot = XEN_FIRST_SLOT; slot <= XEN_LAST_SLOT; slot++)
        CHECK_EQUAL(((volatile pte_t *)pages[0])[slot], 0);
    give_back(pages[0]);
}

TEST(linear_tables)
{
    ulong root = mfn_of((void *)pv_start_info->pt_base), slot = root << PAGE_SHIFT | 300 * 8;
    ulong window = 0xffff000000000000ul | 300ul << 39, other;
    volatile u64 *own;
    u64 value = 0;

    CHECK_RESULT(mmu_update(slot, ENTRY(root, TABLE)), -EINVAL); /* writable: never */
    CHECK_RESULT(mmu_update(slot, ENTRY(root, PTE_P | PTE_U)), 0);
    CHECK_RESULT(mmu_update(slot, ENTRY(root, TABLE)), -EINVAL); /* XSA-182 */
    CHECK_RESULT(mmu_update(slot, ENTRY(root, PTE_P | PTE_U | PTE_W)), -EINVAL);
    /* The root, seen through itself: four times slot 300. */
    own = (volatile u64 *)(window | 300ul << 30 | 300ul << 21 | 300ul << 12);
    CHECK(pv_load(&own[0], &value));
    CHECK_EQUAL(MFN(value), mfn_of(pv_table_of(0, 3)));
    trap_clear();
    CHECK(!pv_store(&own[301], ENTRY(victim, TABLE)));
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    /* Nor is a root an L1 table because it stands where one would. */
    CHECK_RESULT(update_va((void *)own, ENTRY(victim, RO)), -EINVAL);
    CHECK_RESULT(update_va((void *)own, ENTRY(mfn_of(pages[0]), RO)), -EINVAL);
    CHECK_RESULT(mmu_update(slot, 0), 0);
    /* Chains of them: refused (XSA-240). */
    other = table_with(pages[0], 0);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L4_TABLE, other, 0), 0);
    CHECK_RESULT(mmu_update(other << PAGE_SHIFT | 8, ENTRY(root, PTE_P | PTE_U)), 0);
    CHECK_RESULT(mmu_update(slot, ENTRY(other, PTE_P | PTE_U)), -EINVAL);
    CHECK_RESULT(mmuext(MMUEXT_UNPIN_TABLE, other, 0), 0);
    give_back(pages[0]);
}

TEST(stores_to_page_tables)
{
    ulong l1 = (ulong)pv_table_of((ulong)pages, 1);
    volatile u64 *entry = (volatile u64 *)l1 + ((ulong)pages[0] >> PAGE_SHIFT & 511);
    u64 old = *entry;

    CHECK_RESULT(hypercall(HYPERVISOR_vm_assist, VMASST_CMD_enable,
                           VMASST_TYPE_writable_pagetables, 0, 0, 0), 0);
    CHECK(pv_store(entry, old & ~PTE_W)); /* checked, and carried out */
    CHECK_EQUAL(*entry & ~PTE_A, old & ~(PTE_W | PTE_A));
    CHECK(!pv_store((u64 *)pages[0], 1));
    trap_clear();
    CHECK(!pv_store(entry, ENTRY(victim, RW)));
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    CHECK_EQUAL(MFN(*entry), mfn_of(pages[0]));
    CHECK(!pv_store(entry, ENTRY(mfn_of((void *)l1), RW)));
    /* The halves of an entry can be written one by one, and are checked as well. */
    trap_clear();
    asm volatile(MAY_TRAP("movl %1, %0") : "=m"(*(u32 *)entry)
                 : "r"((u32)ENTRY(victim, RO)) : "memory");
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    CHECK_EQUAL(MFN(*entry), mfn_of(pages[0]));
    /* Tables of higher levels aren't emulated at all. */
    trap_clear();
    CHECK(!pv_store(pv_table_of((ulong)pages, 2) + 510, 0));
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    CHECK(pv_store(entry, old));
    CHECK_RESULT(hypercall(HYPERVISOR_vm_assist, VMASST_CMD_disable,
                           VMASST_TYPE_writable_pagetables, 0, 0, 0), 0);
    trap_clear();
    CHECK(!pv_store(entry, old));
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
}

/* ---- Xen's part of the address space ---- */

TEST(xens_addresses)
{
    static const ulong there[] = { 0xffff800000000000ul, 0xffff810000000000ul,
                                   0xffff820000000000ul, 0xffff82d040000000ul,
                                   0xffff87fffffff000ul };
    ulong frame = mfn_of(pages[0]);
    u64 value = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(there); i++) {
        trap_clear();
        CHECK(!pv_store((u64 *)there[i], ~0ull));
        CHECK(trap.vector == VEC_PF);
        CHECK_RESULT(update_va((void *)there[i], ENTRY(frame, RW)), -EINVAL);
        CHECK_RESULT(hypercall(HYPERVISOR_xen_version, XENVER_extraversion, there[i], 0, 0, 0),
                     -EFAULT);
        CHECK_RESULT(hypercall(HYPERVISOR_mmu_update, there[i] + 8, 1, there[i], DOMID_SELF, 0),
                     -EFAULT);
        if (i)
            CHECK(!pv_load((u64 *)there[i], &value));
    }
    /* The machine-to-physical table can be read, and changed by hypercall for our own frames. */
    CHECK(pv_load((u64 *)HYPERVISOR_VIRT_START + frame, &value));
    CHECK_EQUAL(value, (ulong)pages[0] >> PAGE_SHIFT);
    CHECK_RESULT(mmu_update((u64)frame << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, 0x1234), 0);
    CHECK_EQUAL(pfn_of(frame), 0x1234);
    CHECK_RESULT(mmu_update((u64)frame << PAGE_SHIFT | MMU_MACHPHYS_UPDATE,
                            (ulong)pages[0] >> PAGE_SHIFT), 0);
    /* Pointers that no canonical address is. */
    CHECK_RESULT(update_va((void *)(1ul << 47), ENTRY(frame, RW)), -EINVAL);
    CHECK_RESULT(hypercall(HYPERVISOR_xen_version, XENVER_extraversion, 1ul << 47, 0, 0, 0),
                 -EFAULT);
}

TEST(lists_that_end_badly)
{
    static struct mmu_update list[3];
    u32 done = 99;
    ulong at = pv_entry_at((ulong)pages[0], 1);

    list[0] = (struct mmu_update){ at, ENTRY(mfn_of(pages[0]), RO) };
    list[1] = (struct mmu_update){ at, ENTRY(victim, RW) };
    list[2] = (struct mmu_update){ at, 0 };
    CHECK_RESULT(hypercall(HYPERVISOR_mmu_update, (ulong)list, 3, (ulong)&done, DOMID_SELF, 0),
                 -EBUSY);
    CHECK_EQUAL(done, 1);
    CHECK_EQUAL(MFN(pv_entry_of((ulong)pages[0], 1)), mfn_of(pages[0]));
    CHECK_RESULT(mmu_update(at | 4, 0), -ENOSYS);
    CHECK_RESULT(mmu_update(at | 7, 0), -ENOSYS);
    CHECK_RESULT(mmuext(99, 0, 0), -ENOSYS);
    /* As long as lists can be, over memory that isn't there. */
    CHECK_RESULT(hypercall(HYPERVISOR_mmu_update, 0x7fff00000000ul, 0x7fffffff, 0, DOMID_SELF, 0),
                 -EFAULT);
    CHECK_RESULT(hypercall(HYPERVISOR_mmuext_op, 0x7fff00000000ul, 0x7fffffff, 0, DOMID_SELF, 0),
                 -EFAULT);
    give_back(pages[0]);
}

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

/* ---- what the hypervisor writes on a guest's behalf ---- */

TEST(have_the_hypervisor_write_to_a_table)
{
    ulong root = mfn_of((void *)pv_start_info->pt_base);
    struct vcpu_register_vcpu_info info = { root, 0, 0 };
    struct evtchn_init_control control = { root, 0, 0, 0, { 0 } };
    const void *table = (void *)pv_start_info->pt_base;

    CHECK_RESULT(vcpu_op(VCPUOP_register_vcpu_info, 0, &info), -EINVAL);
    info.mfn = victim;
    CHECK_RESULT(vcpu_op(VCPUOP_register_vcpu_info, 0, &info), -EINVAL);
    CHECK_RESULT(event_op(EVTCHNOP_init_control, &control), -EINVAL);
    control.control_gfn = victim;
    CHECK_RESULT(event_op(EVTCHNOP_init_control, &control), -EINVAL);
    /* Results of hypercalls into a table that we can read. */
    CHECK_RESULT(hypercall(HYPERVISOR_xen_version, XENVER_extraversion, (ulong)table, 0, 0, 0),
                 -EFAULT);
    CHECK_RESULT(hypercall(HYPERVISOR_memory_op, XENMEM_maximum_ram_page + 100, (ulong)table, 0, 0,
                           0), -ENOSYS);
    CHECK_RESULT(vcpu_op(VCPUOP_get_runstate_info, 0, table), -EFAULT);
}

static struct grant_entry_v1 grants[512] PAGE_ALIGNED;

struct gnttab_map_grant_ref {
    u64 host_addr;
    u32 flags, ref;
    u16 dom;
    s16 status;
    u32 handle;
    u64 dev_bus_addr;
};
#define GNTTABOP_map_grant_ref 0
#define GNTMAP_host_map 2
#define GNTMAP_readonly 4
#define GNTMAP_contains_pte 16
#define GTF_readonly 4

TEST(grant_what_is_not_ours)
{
    ulong frame = 0, root = mfn_of((void *)pv_start_info->pt_base);
    struct gnttab_setup_table setup = { DOMID_SELF, 1, 0, &frame };
    struct gnttab_map_grant_ref map = { 0 };

    CHECK_RESULT(grant_op(GNTTABOP_setup_table, &setup, 1), 0);
    CHECK_EQUAL(setup.status, 0);
    CHECK_RESULT(update_va(grants, ENTRY(frame, RW)), 0);
    /* A frame that isn't ours, granted to ourselves: neither it nor a table can be had. */
    for (unsigned i = 0; i < 2; i++) {
        grants[8].frame = (u32)(i ? root : victim);
        grants[8].domid = DOMID_SELF;
        grants[8].flags = GTF_permit_access;
        map = (struct gnttab_map_grant_ref){ (ulong)pages[0], GNTMAP_host_map, 8, DOMID_SELF,
                                             0, 0, 0 };
        CHECK_RESULT(grant_op(GNTTABOP_map_grant_ref, &map, 1), 0);
        CHECK(map.status < 0);
        CHECK_EQUAL(MFN(pv_entry_of((ulong)pages[0], 1)), mfn_of(pages[0]));
    }
    /* A grant that nobody gave, and one mapped over a table by the place of its entry. */
    map = (struct gnttab_map_grant_ref){ (ulong)pages[0], GNTMAP_host_map, 8, (u16)neighbour,
                                         0, 0, 0 };
    CHECK_RESULT(grant_op(GNTTABOP_map_grant_ref, &map, 1), 0);
    CHECK(map.status < 0);
    grants[8].frame = (u32)mfn_of(pages[1]);
    map = (struct gnttab_map_grant_ref){ pv_entry_at((ulong)pages[0], 2),
                                         GNTMAP_host_map | GNTMAP_contains_pte, 8, DOMID_SELF, 0,
                                         0, 0 };
    CHECK_RESULT(grant_op(GNTTABOP_map_grant_ref, &map, 1), 0);
    CHECK(map.status < 0);
    map.host_addr = victim << PAGE_SHIFT;
    CHECK_RESULT(grant_op(GNTTABOP_map_grant_ref, &map, 1), 0);
    CHECK(map.status < 0);
    grants[8].flags = 0;
}

TEST(give_a_table_away)
{
    ulong mfn = table_with(pages[6], 0);
    struct xen_memory_reservation r = { &mfn, 1, 0, 0, DOMID_SELF };

    CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
    CHECK_RESULT(memory_op(XENMEM_decrease_reservation, &r), 1);
    /* It stays a table until nobody uses it any more, and isn't anybody's to write. */
    CHECK_RESULT(update_va(pages[0], ENTRY(mfn, RW)), -EBUSY);
    CHECK_RESULT(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
    CHECK_RESULT(update_va(pages[6], 0), 0);
    CHECK_RESULT(update_va(pages[0], ENTRY(mfn, RO)), -EBUSY);
    CHECK_RESULT(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), -EINVAL);
    /* Frames of others can't be given away. */
    CHECK_RESULT(memory_op(XENMEM_decrease_reservation,
                           &(struct xen_memory_reservation){ &victim, 1, 0, 0, DOMID_SELF }), 0);
    CHECK_RESULT(memory_op(XENMEM_decrease_reservation,
                           &(struct xen_memory_reservation){ &victim, 1, 0, 0, (u16)neighbour }),
                 0); /* none done */
}

TEST(operations_of_control_domains)
{
    static u8 buffer[256];

    CHECK_RESULT(hypercall(HYPERVISOR_domctl, (ulong)buffer, 0, 0, 0, 0), -EACCES);
    CHECK_RESULT(hypercall(HYPERVISOR_sysctl, (ulong)buffer, 0, 0, 0, 0), -EACCES);
    *(u32 *)buffer = 2; /* destroydomain */
    *(u32 *)(buffer + 4) = 0x15;
    *(u16 *)(buffer + 8) = (u16)neighbour;
    CHECK_RESULT(hypercall(HYPERVISOR_domctl, (ulong)buffer, 0, 0, 0, 0), -EPERM);
}

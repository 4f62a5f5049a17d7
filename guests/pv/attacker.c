/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A PV kernel that tries to leave its own memory.  Each test is an attempt, and
 * passes if it was refused with the errno, or the fault, that Xen gives.
 */
#include "attack.h"

#define RO (PTE_P | PTE_A)
#define RW (PTE_P | PTE_A | PTE_W)
#define TABLE (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)

/* A page that holds one entry in slot 0, no longer writable: ready to become a table. */
static ulong table_with(u8 *page, pte_t entry)
{
    memset(page, 0, PAGE_SIZE);
    *(pte_t *)page = entry;
    if (pv_protect(page, false))
        panic("a page of our own can't be made read-only");
    return mfn_of(page);
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

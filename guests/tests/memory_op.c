/* SPDX-License-Identifier: GPL-2.0-or-later */
/* memory_op from a PVH guest (public/memory.h): what it owns, gives back, asks for and maps. */
#include "test.h"
#include "xen.h"

static ulong gfn_of(const void *page)
{
    return (ulong)page >> PAGE_SHIFT;
}

static long change(u32 command, ulong *gfns, ulong count)
{
    struct xen_memory_reservation r = { gfns, count, 0, 0, DOMID_SELF };

    return memory_op(command, &r);
}

static long reservation(u32 command)
{
    u16 self = DOMID_SELF;

    return memory_op(command, &self);
}

static u32 read_at(const volatile void *at)
{
    return *(const volatile u32 *)at;
}

TEST(reservations)
{
    long current = reservation(XENMEM_current_reservation);
    long maximum = reservation(XENMEM_maximum_reservation);

    CHECK(current > 0);
    CHECK(maximum >= current);
    CHECK(reservation(XENMEM_maximum_gpfn) >= (long)gfn_of(image_end) - 1);
    CHECK(memory_op(XENMEM_maximum_ram_page, NULL) > 0);
}

TEST(reservations_of_others)
{
    u16 other = 600;
    long rc = memory_op(XENMEM_current_reservation, &other);

    if (rc != -ESRCH && rc != -EPERM)
        FAIL("%ld", rc);
}

TEST(decrease_and_populate)
{
    u8 *page = alloc_page();
    ulong gfn = gfn_of(page);
    long before = reservation(XENMEM_current_reservation);

    *(volatile u32 *)page = 0x12345678;
    CHECK_RESULT(change(XENMEM_decrease_reservation, &gfn, 1), 1);
    CHECK_RESULT(reservation(XENMEM_current_reservation), before - 1);
    CHECK_EQUAL(read_at(page), 0xffffffff); /* a hole now */
    gfn = gfn_of(page);
    CHECK_RESULT(change(XENMEM_decrease_reservation, &gfn, 1), 0); /* it isn't ours any more */
    gfn = gfn_of(page);
    CHECK_RESULT(change(XENMEM_populate_physmap, &gfn, 1), 1);
    CHECK_RESULT(reservation(XENMEM_current_reservation), before);
    CHECK_EQUAL(read_at(page), 0); /* a fresh frame shows nothing of others */
    *(volatile u32 *)page = 5;
    CHECK_EQUAL(read_at(page), 5);
}

TEST(many_pages_at_once)
{
    static ulong gfns[64];
    u8 *pages = alloc_pages(64);
    long before = reservation(XENMEM_current_reservation);

    for (u32 i = 0; i < 64; i++)
        gfns[i] = gfn_of(pages) + i;
    CHECK_RESULT(change(XENMEM_decrease_reservation, gfns, 64), 64);
    CHECK_RESULT(reservation(XENMEM_current_reservation), before - 64);
    for (u32 i = 0; i < 64; i++)
        gfns[i] = gfn_of(pages) + i;
    CHECK_RESULT(change(XENMEM_populate_physmap, gfns, 64), 64);
    for (u32 i = 0; i < 64; i++)
        CHECK_EQUAL(read_at(pages + i * PAGE_SIZE), 0);
}

TEST(extents_of_2_mib)
{
    ulong gfn = 0x50000; /* 1.25 GiB: beyond this guest's memory */
    struct xen_memory_reservation r = { &gfn, 1, 9, 0, DOMID_SELF };
    long rc, before = reservation(XENMEM_current_reservation);
    long room = reservation(XENMEM_maximum_reservation) - before;

    rc = memory_op(XENMEM_populate_physmap, &r);
    if (room < 512) {
        CHECK_RESULT(rc, 0); /* over the limit: nothing */
        CHECK_RESULT(reservation(XENMEM_current_reservation), before);
        return;
    }
    CHECK_RESULT(rc, 1);
    *(volatile u32 *)(0x50000000ul + 0x1ff000) = 7;
    CHECK_EQUAL(read_at((void *)(0x50000000ul + 0x1ff000)), 7);
    gfn = 0x50000;
    CHECK_RESULT(memory_op(XENMEM_decrease_reservation, &r), 1);
}

TEST(limit_of_memory)
{
    long room =
        reservation(XENMEM_maximum_reservation) - reservation(XENMEM_current_reservation);
    long got = 0;

    for (long i = 0; i <= room && i < 5000; i++) {
        ulong gfn = 0x50000 + (ulong)i;
        long rc = change(XENMEM_populate_physmap, &gfn, 1);

        if (rc < 0)
            FAIL("populate gave %ld", rc);
        if (rc == 0)
            break;
        got++;
    }
    if (room < 5000)
        CHECK_EQUAL(got, room);
    for (long i = 0; i < got; i++) {
        ulong gfn = 0x50000 + (ulong)i;

        CHECK_RESULT(change(XENMEM_decrease_reservation, &gfn, 1), 1);
    }
}

TEST(bad_reservations)
{
    struct xen_memory_reservation r = { (void *)0xd0000000, 1, 0, 0, DOMID_SELF };
    ulong gfn = ~0ul;

    CHECK_RESULT(memory_op(XENMEM_decrease_reservation, &r), 0);
    CHECK_RESULT(memory_op(XENMEM_populate_physmap, &r), 0);
    CHECK(change(XENMEM_decrease_reservation, &gfn, 1) <= 0);
#if BITS == 64
    gfn = ~0ul;
    CHECK(change(XENMEM_populate_physmap, &gfn, 1) <= 0);
#endif
    r.extent_order = 200;
    CHECK(memory_op(XENMEM_populate_physmap, &r) <= 0);
    r.extent_order = 0;
    r.nr_extents = ~0ul;
    CHECK(memory_op(XENMEM_populate_physmap, &r) <= 0);
    CHECK_RESULT(memory_op(60, &r), -ENOSYS);
}

TEST(what_only_others_have)
{
    static u64 buffer[8];

    CHECK_RESULT(memory_op(XENMEM_machine_memory_map, buffer), -ENOSYS);
    CHECK_RESULT(memory_op(XENMEM_machphys_mapping, buffer), -ENOSYS);
}

TEST(exchange)
{
    u8 *page = alloc_page();
    ulong in = gfn_of(page), out = gfn_of(page);
    struct xen_memory_exchange e = { { &in, 1, 0, 0, DOMID_SELF }, { &out, 1, 0, 0, DOMID_SELF }, 0 };
    long before = reservation(XENMEM_current_reservation), rc;

    rc = memory_op(XENMEM_exchange, &e);
    CHECK_RESULT(reservation(XENMEM_current_reservation), before);
    if (rc == -EOPNOTSUPP || rc == -ENOSYS)
        return; /* Xen refuses it for translated guests, depending on its age */
    CHECK_RESULT(rc, 0);
    CHECK_EQUAL(e.nr_exchanged, 1);
}

/* ---- mapping ---- */

TEST(shared_info_can_move)
{
    struct shared_info *second = alloc_page();

    CHECK_RESULT(add_to_physmap(XENMAPSPACE_shared_info, 0, gfn_of(second)), 0);
    CHECK_EQUAL(second->wc_version, ((volatile struct shared_info *)second)->wc_version);
    CHECK(second->vcpu_info[0].time.tsc_to_system_mul);
    CHECK_EQUAL(second->evtchn_mask[5], ~0ul);
    CHECK_RESULT(add_to_physmap(XENMAPSPACE_shared_info, 0, gfn_of(&shared_info)), 0);
    CHECK_EQUAL(read_at(second), 0xffffffff);
    CHECK(shared_info.vcpu_info[0].time.tsc_to_system_mul);
}

TEST(move_a_page)
{
    u8 *from = alloc_page(), *to = alloc_page();
    long before = reservation(XENMEM_current_reservation);

    *(volatile u32 *)from = 0xabcd;
    CHECK_RESULT(add_to_physmap(XENMAPSPACE_gmfn, gfn_of(from), gfn_of(to)), 0);
    CHECK_EQUAL(read_at(to), 0xabcd);
    CHECK_EQUAL(read_at(from), 0xffffffff);
    CHECK_RESULT(reservation(XENMEM_current_reservation), before - 1); /* to's old frame went */
}

TEST(map_in_a_batch)
{
    static ulong idxs[4], gpfns[4];
    static s32 errs[4];
    u8 *from = alloc_pages(4), *to = alloc_pages(4);
    struct xen_add_to_physmap_batch b = { DOMID_SELF, XENMAPSPACE_gmfn, 4, 0, idxs, gpfns, errs };

    for (u32 i = 0; i < 4; i++) {
        *(volatile u32 *)(from + i * PAGE_SIZE) = 100 + i;
        idxs[i] = gfn_of(from) + i;
        gpfns[i] = gfn_of(to) + i;
        errs[i] = 1;
    }
    idxs[2] = 0x70000; /* nothing is there */
    CHECK_RESULT(memory_op(XENMEM_add_to_physmap_batch, &b), 0);
    CHECK_EQUAL(errs[0], 0);
    CHECK(errs[2] < 0);
    CHECK_EQUAL(errs[3], 0);
    CHECK_EQUAL(read_at(to + 3 * PAGE_SIZE), 103);
}

TEST(remove_from_physmap)
{
    u8 *page = alloc_page();
    struct xen_remove_from_physmap r = { DOMID_SELF, gfn_of(page) };

    CHECK_RESULT(memory_op(XENMEM_remove_from_physmap, &r), 0);
    CHECK_EQUAL(read_at(page), 0xffffffff);
    CHECK_RESULT(memory_op(XENMEM_remove_from_physmap, &r), -ENOENT);
}

TEST(bad_mappings)
{
    u8 *page = alloc_page();
    struct xen_add_to_physmap a = { 700, 0, XENMAPSPACE_shared_info, 0, gfn_of(page) };
    long rc = memory_op(XENMEM_add_to_physmap, &a);

    if (rc != -ESRCH && rc != -EPERM)
        FAIL("another domain: %ld", rc);
    CHECK(add_to_physmap(99, 0, gfn_of(page)) < 0);
#if BITS == 64
    CHECK(add_to_physmap(XENMAPSPACE_shared_info, 0, ~0ul) < 0);
#endif
    CHECK(add_to_physmap(XENMAPSPACE_gmfn, ~0ul, gfn_of(page)) < 0);
    CHECK(add_to_physmap(XENMAPSPACE_grant_table, 100000, gfn_of(page)) < 0);
    *(volatile u32 *)page = 3;
    CHECK_EQUAL(read_at(page), 3);
}

TEST(memory_map)
{
    static struct e820_entry map[64];
    struct xen_memory_map m = { 64, map };
    u64 ram = 0;
    long rc = memory_op(XENMEM_memory_map, &m);

    CHECK_RESULT(rc, 0);
    CHECK(m.nr_entries > 0 && m.nr_entries < 64);
    for (u32 i = 0; i < m.nr_entries; i++)
        if (map[i].type == 1)
            ram += map[i].size;
    CHECK(ram >> PAGE_SHIFT <= (u64)reservation(XENMEM_maximum_reservation));
    CHECK(ram > 16 << 20);
    m.nr_entries = 1;
    CHECK_RESULT(memory_op(XENMEM_memory_map, &m), 0);
    CHECK_EQUAL(m.nr_entries, 1);
}

/* Code that runs from a page which is replaced. */
TEST(replaced_code)
{
    u8 *a = alloc_page(), *b = alloc_page();

    a[0] = b[0] = 0xb8;
    a[5] = b[5] = 0xc3;
    *(volatile u32 *)(a + 1) = 1;
    *(volatile u32 *)(b + 1) = 2;
    CHECK_EQUAL(((u32(*)(void))a)(), 1);
    CHECK_RESULT(add_to_physmap(XENMAPSPACE_gmfn, gfn_of(b), gfn_of(a)), 0);
    CHECK_EQUAL(((u32(*)(void))a)(), 2);
}

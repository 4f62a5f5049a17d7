/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The grant table as a guest sets it up: versions 1 and 2, sizes, mapping, swapping
 * (public/grant_table.h).
 */
#include "test.h"
#include "xen.h"

static ulong gfn_of(const void *page)
{
    return (ulong)page >> PAGE_SHIFT;
}

static struct gnttab_query_size query(void)
{
    struct gnttab_query_size q = { .dom = DOMID_SELF };

    grant_op(GNTTABOP_query_size, &q, 1);
    return q;
}

static long set_version(u32 version)
{
    struct gnttab_set_version v = { version };

    return grant_op(GNTTABOP_set_version, &v, 1);
}

static u32 get_version(void)
{
    struct gnttab_get_version v = { .dom = DOMID_SELF };

    return grant_op(GNTTABOP_get_version, &v, 1) ? 0 : v.version;
}

TEST(size)
{
    struct gnttab_query_size q = query();

    CHECK_EQUAL(q.status, GNTST_okay);
    CHECK(q.nr_frames >= 1);
    CHECK(q.max_nr_frames >= q.nr_frames);
}

TEST(version_1_at_first)
{
    CHECK_EQUAL(get_version(), 1);
}

TEST(table_is_mapped)
{
    volatile struct grant_entry_v1 *table = alloc_page();

    CHECK_RESULT(add_to_physmap(XENMAPSPACE_grant_table, 0, gfn_of((void *)table)), 0);
    CHECK_EQUAL(table[100].flags, 0);
    table[100].domid = 0;
    table[100].frame = 5;
    table[100].flags = GTF_permit_access;
    CHECK_EQUAL(table[100].flags, GTF_permit_access);
    CHECK_EQUAL(table[100].frame, 5);
    table[100].flags = 0;
}

TEST(table_grows_when_mapped)
{
    struct gnttab_query_size before = query(), after;
    u8 *page = alloc_page();

    if (before.nr_frames >= before.max_nr_frames)
        SKIP("it is as large as it may be");
    CHECK_RESULT(add_to_physmap(XENMAPSPACE_grant_table, before.nr_frames, gfn_of(page)), 0);
    after = query();
    CHECK_EQUAL(after.nr_frames, before.nr_frames + 1);
    CHECK(add_to_physmap(XENMAPSPACE_grant_table, before.max_nr_frames, gfn_of(page)) < 0);
}

TEST(setup_table)
{
    static ulong frames[4];
    struct gnttab_setup_table s = { DOMID_SELF, 2, 7, frames };
    struct gnttab_query_size q;

    CHECK_RESULT(grant_op(GNTTABOP_setup_table, &s, 1), 0);
    CHECK_EQUAL((u16)s.status, GNTST_okay);
    q = query();
    CHECK(q.nr_frames >= 2);
    s.nr_frames = q.max_nr_frames + 1;
    grant_op(GNTTABOP_setup_table, &s, 1);
    CHECK(s.status < 0);
}

TEST(versions_change)
{
    CHECK_RESULT(set_version(2), 0);
    CHECK_EQUAL(get_version(), 2);
    CHECK_RESULT(set_version(3), -EINVAL);
    CHECK_EQUAL(get_version(), 2);
}

TEST(version_2_status_frames)
{
    volatile u16 *status = alloc_page();

    if (get_version() != 2)
        SKIP("version 2 is off");
    CHECK_RESULT(add_to_physmap(XENMAPSPACE_grant_table, XENMAPIDX_grant_table_status,
                                gfn_of((void *)status)), 0);
    CHECK_EQUAL(status[50], 0);
}

TEST(version_2_entries)
{
    volatile struct grant_entry_v2 *table = alloc_page();

    if (get_version() != 2)
        SKIP("version 2 is off");
    CHECK_RESULT(add_to_physmap(XENMAPSPACE_grant_table, 0, gfn_of((void *)table)), 0);
    table[20].domid = 0;
    table[20].frame = 0x123456789ull;
    table[20].flags = GTF_permit_access;
    CHECK_EQUAL(table[20].frame, 0x123456789ull);
    table[20].flags = 0;
    CHECK_RESULT(set_version(1), 0);
    CHECK_EQUAL(get_version(), 1);
}

TEST(swapped_entries)
{
    volatile struct grant_entry_v1 *table = alloc_page();
    struct gnttab_swap_grant_ref s = { 60, 61, 9 };

    CHECK_RESULT(add_to_physmap(XENMAPSPACE_grant_table, 0, gfn_of((void *)table)), 0);
    table[60].frame = 0x60;
    table[61].frame = 0x61;
    CHECK_RESULT(grant_op(GNTTABOP_swap_grant_ref, &s, 1), 0);
    CHECK_EQUAL((u16)s.status, GNTST_okay);
    CHECK_EQUAL(table[60].frame, 0x61);
    CHECK_EQUAL(table[61].frame, 0x60);
    s.ref_b = 10000000;
    grant_op(GNTTABOP_swap_grant_ref, &s, 1);
    CHECK_EQUAL((u16)s.status, (u16)GNTST_bad_gntref);
}

TEST(refused_operations)
{
    static u64 buffer[8];
    struct gnttab_query_size q = { .dom = 800 };
    long rc;

    CHECK_RESULT(grant_op(GNTTABOP_dump_table, buffer, 1), -ENOSYS);
    CHECK_RESULT(grant_op(GNTTABOP_get_status_frames, buffer, 1), -ENOSYS);
    CHECK_RESULT(grant_op(99, buffer, 1), -ENOSYS);
    rc = grant_op(GNTTABOP_query_size, &q, 1);
    CHECK_RESULT(rc, 0);
    if (q.status != GNTST_bad_domain && q.status != GNTST_permission_denied)
        FAIL("status %d", q.status);
    CHECK_RESULT(grant_op(GNTTABOP_query_size, (void *)0xd0000000, 1), -EFAULT);
    CHECK_RESULT(grant_op(GNTTABOP_query_size, &q, 0), -EINVAL); /* one at a time */
}

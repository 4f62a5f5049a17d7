/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that somebody else replaces while it runs: a page is called again and again, on one vCPU,
 * until it returns another number than at first.
 *
 *   how=disk    by a read from a disk: a front end of blkif with one request (public/io/blkif.h).
 *               Whoever tests writes its nodes into the store; sector 0 holds the new code.
 *   how=victim peer=N            by domain N, which may write the page by grant 9
 *   how=map|copy|hold peer=N     that domain: maps the page and writes, has Xen copy the code
 *                                there, or maps the page and keeps it
 */
#include "xen.h"

#define RING_REF 8
#define CODE_REF 9
#define RETURNS(n) 0xb8, (n), 0x00, 0x00, 0x00, 0xc3 /* mov $n, %eax; ret */

#define GNTTABOP_copy 5
#define GNTCOPY_dest_gref 2

struct copy_ptr {
    ulong ref_or_gmfn;
    u16 domid, offset;
};
struct gnttab_copy {
    struct copy_ptr source, dest;
    u16 len, flags;
    s16 status;
};

/* blkif.h, 64-bit layout (the node `protocol` says so, for guests of 32 bits too). */
struct blkif_segment {
    u32 gref;
    u8 first_sect, last_sect;
    u16 pad;
};
struct blkif_request {
    u8 operation, nr_segments;
    u16 handle;
    u32 pad;
    u64 id, sector_number;
    struct blkif_segment seg[11];
};
struct blkif_ring {
    u32 req_prod, req_event, rsp_prod, rsp_event;
    u8 pad[48];
    struct blkif_request ring[32];
};

static const u8 old_code[] = { RETURNS(1) }, new_code[] = { RETURNS(2) };
static PAGE_ALIGNED u8 code[PAGE_SIZE], ring_page[PAGE_SIZE], spare[PAGE_SIZE];

static void grant(volatile struct grant_entry_v1 *table, u32 ref, u16 domid, const void *page)
{
    table[ref].domid = domid;
    table[ref].frame = (u32)((ulong)page >> PAGE_SHIFT);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    table[ref].flags = GTF_permit_access;
}

/* Calls the page until it returns something new; the count of calls that it took. */
static u64 run(void)
{
    int (*volatile function)(void) = (int (*)(void))(ulong)code;
    u64 calls = 0;
    int got;

    do {
        got = function();
        calls++;
    } while (got == 1);
    print("returned %d\n", got);
    return calls;
}

static void read_from_disk(volatile struct grant_entry_v1 *table)
{
    volatile struct blkif_ring *ring = (void *)ring_page;
    struct evtchn_alloc_unbound alloc = { DOMID_SELF, 0, 0 };
    volatile struct blkif_request *request = &ring->ring[0];

    if (event_op(EVTCHNOP_alloc_unbound, &alloc))
        panic("no port");
    grant(table, RING_REF, 0, ring_page);
    grant(table, CODE_REF, 0, code);
    ring->req_event = ring->rsp_event = 1;
    request->nr_segments = 1;
    request->id = 7;
    request->seg[0].gref = CODE_REF;
    request->seg[0].last_sect = 7;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    ring->req_prod = 1;
    print("ring %u port %u\n", RING_REF, alloc.port);
    run();
    while (!ring->rsp_prod) /* the data come before the answer */
        barrier();
    print("responses %u\n", ring->rsp_prod);
}

static void map(u16 peer)
{
    struct gnttab_map_grant_ref m = {
        .host_addr = (ulong)spare, .flags = GNTMAP_host_map, .ref = CODE_REF, .dom = peer,
    };

    if (grant_op(GNTTABOP_map_grant_ref, &m, 1) || m.status)
        panic("mapping: %d", m.status);
}

static void copy(u16 peer)
{
    struct gnttab_copy c = {
        .source = { (ulong)spare >> PAGE_SHIFT, DOMID_SELF, 0 }, .dest = { CODE_REF, peer, 0 },
        .len = sizeof(new_code), .flags = GNTCOPY_dest_gref,
    };

    memcpy(spare, new_code, sizeof(new_code));
    if (grant_op(GNTTABOP_copy, &c, 1) || c.status)
        panic("copying: %d", c.status);
}

void guest_main(void)
{
    volatile struct grant_entry_v1 *table = alloc_page();
    u16 peer = (u16)option_number("peer", 0);
    char how[16] = "";

    option("how", how, sizeof(how));
    memcpy(code, old_code, sizeof(old_code));
    if (add_to_physmap(XENMAPSPACE_grant_table, 0, (ulong)table >> PAGE_SHIFT))
        panic("no grant table");
    if (!strcmp(how, "disk")) {
        read_from_disk(table);
    } else if (!strcmp(how, "victim")) {
        grant(table, CODE_REF, peer, code);
        print("runs\n");
        run();
    } else if (!strcmp(how, "map")) {
        map(peer);
        memcpy(spare, new_code, sizeof(new_code));
        print("wrote\n");
    } else if (!strcmp(how, "copy")) {
        copy(peer);
        print("wrote\n");
    } else if (!strcmp(how, "hold")) {
        map(peer);
        print("holds\n");
        for (;;)
            sched_op(SCHEDOP_block, NULL);
    } else {
        panic("how?");
    }
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A PV guest that suspends itself, and looks at itself when it wakes.  Command line:
 *   form=tree|address|none   how it tells where the list of its frames is: by the frames of lists
 *                       of frames, or by an address and the root of page tables
 *   rounds=N            power off after so many suspends (1)
 *   ask                 wait each time until the toolstack asks for it in xenstore
 */
#include "pv.h"

#define DATA_PAGES 300
#define LIST_ENTRIES (PAGE_SIZE / sizeof(ulong))

static u8 data[DATA_PAGES][PAGE_SIZE] PAGE_ALIGNED;
static ulong upper[LIST_ENTRIES] PAGE_ALIGNED, lower[LIST_ENTRIES] PAGE_ALIGNED;
static u64 gdt_page[PAGE_SIZE / 8] PAGE_ALIGNED, ldt_page[PAGE_SIZE / 8] PAGE_ALIGNED;
static ulong by_gdt = 0x6d7, by_ldt = 0x1d7; /* what segments of our tables lead to */
static ulong old_frames[1 << 14];
static volatile u32 taken;

#define GDT_SELECTOR (1 << 3 | 3)
#define LDT_SELECTOR (2 << 3 | 4 | 3)

static u32 checksum(void)
{
    u32 sum = 2166136261u;

    for (size_t i = 0; i < sizeof(data); i++)
        sum = (sum ^ ((u8 *)data)[i]) * 16777619u;
    return sum;
}

static void fill(u32 seed)
{
    for (size_t i = 0; i < sizeof(data); i++) {
        seed = seed * 1664525u + 1013904223u;
        ((u8 *)data)[i] = (u8)(seed >> 24);
    }
}

/* ---- descriptor tables of our own ---- */

static u64 data_segment(const void *at)
{
    u64 base = (ulong)at;

    /* Writable data for all rings: base, limit 4 GiB. */
    return 0xffff | (base & 0xffffff) << 16 | 0xf3ull << 40 | 0xcfull << 48 | base >> 24 << 56;
}

static void segments_init(void)
{
    ulong frame = mfn_of(gdt_page);

    gdt_page[GDT_SELECTOR >> 3] = data_segment(&by_gdt);
    ldt_page[LDT_SELECTOR >> 3] = data_segment(&by_ldt);
    if (pv_protect(gdt_page, false) || pv_protect(ldt_page, false) ||
        hypercall(HYPERVISOR_set_gdt, (ulong)&frame, 512, 0, 0, 0) ||
        mmuext(MMUEXT_SET_LDT, (ulong)ldt_page, 512))
        panic("the descriptor tables were refused");
    asm volatile("mov %0, %%fs; mov %1, %%gs" ::"r"(GDT_SELECTOR), "r"(LDT_SELECTOR));
}

static bool segments_fine(void)
{
    ulong gdt, ldt, again;
    u32 fs, gs;

    asm volatile("mov %%fs, %0; mov %%gs, %1" : "=r"(fs), "=r"(gs));
    asm volatile("mov %%fs:0, %0" : "=r"(gdt));
    asm volatile("mov %%gs:0, %0" : "=r"(ldt));
    /* Not only what the processor remembers: the tables are there. */
    asm volatile("mov %1, %%fs; mov %2, %%gs; mov %%fs:0, %0"
                 : "=&r"(again) : "r"(GDT_SELECTOR), "r"(LDT_SELECTOR));
    return fs == GDT_SELECTOR && gs == LDT_SELECTOR && gdt == by_gdt && ldt == by_ldt &&
           again == by_gdt;
}

/* ---- traps and events ---- */

static void take(u32 port)
{
    taken++;
}

static bool traps_fine(void)
{
    trap_clear();
    asm volatile(MAY_TRAP("ud2"));
    return trap.count == 1 && trap.vector == VEC_UD;
}

static bool events_fine(void)
{
    u32 port, before = taken;

    if (bind_ipi(0, &port))
        return false;
    on_event(port, take);
    unmask_event(port);
    vcpu_infos[0]->evtchn_upcall_mask = 0;
    send_event(port);
    version_op(XENVER_version, NULL); /* a look at what is pending */
    vcpu_infos[0]->evtchn_upcall_mask = 1;
    event_op(EVTCHNOP_close, &(struct evtchn_port){ port });
    return taken == before + 1;
}

/* ---- the list of our frames ---- */

static void tell_list(const char *form)
{
    const u8 *list = (const u8 *)pv_start_info->mfn_list;
    ulong size = pv_start_info->nr_pages * sizeof(ulong);

    if (!strcmp(form, "none"))
        return;
    shared_info.max_pfn = pv_start_info->nr_pages;
    if (!strcmp(form, "tree")) {
        for (ulong i = 0; i * PAGE_SIZE < size; i++)
            lower[i] = mfn_of(list + i * PAGE_SIZE);
        upper[0] = mfn_of(lower);
        shared_info.pfn_to_mfn_frame_list_list = mfn_of(upper);
        shared_info.p2m_cr3 = 0;
    } else {
        ulong root = mfn_of((void *)pv_start_info->pt_base);

        shared_info.p2m_vaddr = (ulong)list;
#if BITS == 64
        shared_info.p2m_cr3 = root << PAGE_SHIFT;
#else
        shared_info.p2m_cr3 = root << PAGE_SHIFT | root >> 20;
#endif
    }
}

/* How many frames the list names that it didn't name before; panics where it's wrong. */
static ulong moved(ulong pages)
{
    ulong count = 0;

    for (ulong pfn = 0; pfn < pages; pfn++) {
        ulong mfn = mfn_of((void *)(pfn << PAGE_SHIFT));

        if (pfn_of(mfn) != pfn)
            panic("frame %lx of page %lx has the name %lx", mfn, pfn, pfn_of(mfn));
        count += mfn != old_frames[pfn];
    }
    return count;
}

/* ---- suspend ---- */

static long suspend(const char *form)
{
    ulong store = pv_start_info->store_mfn, console = pv_start_info->console_mfn, pages;
    u32 reason = SHUTDOWN_suspend;
    long cancelled;

    pages = pv_start_info->nr_pages;
    if (pages > ARRAY_SIZE(old_frames) || pages > LIST_ENTRIES * LIST_ENTRIES)
        panic("%lu pages are too many", pages);
    memcpy(old_frames, (void *)pv_start_info->mfn_list, pages * sizeof(ulong));
    tell_list(form);
    pv_start_info->store_mfn = pfn_of(store);
    pv_start_info->console_mfn = pfn_of(console);
    if (update_va(&shared_info, 0))
        panic("shared info could not be given up");
    cancelled = hypercall(HYPERVISOR_sched_op, SCHEDOP_shutdown, (ulong)&reason,
                          mfn_of(pv_start_info), 0, 0);
    if (cancelled) {
        pv_start_info->store_mfn = store;
        pv_start_info->console_mfn = console;
    }
    shared_info_init();
    console_init();
    return cancelled;
}

static void wait_for_request(u32 counter)
{
    char word[16];

    if (!store_write("control/feature-suspend", "1"))
        panic("xenstore doesn't take it");
    print("Waiting: counter %u\n", counter);
    do {
        memset(word, 0, sizeof(word));
        set_singleshot_timer(system_time() + 20000000, 0);
        sched_op(SCHEDOP_block, NULL);
    } while (store_read("control/shutdown", word, sizeof(word) - 1) <= 0 ||
             strcmp(word, "suspend"));
    store_write("control/shutdown", "");
}

void guest_main(void)
{
    u64 rounds = option_number("rounds", 1), before, after;
    char form[16] = "tree";
    bool ask = option("ask", NULL, 0);
    u32 timer = 0, counter = 0, sum;
    s32 whole = -77;

    option("form", form, sizeof(form));
    segments_init();
    fill((u32)rdtsc());
    sum = checksum();
    print("Pages %lu, checksum %08x\n", pv_start_info->nr_pages, sum);
    while (counter < rounds) {
        ulong pages = pv_start_info->nr_pages, others;
        long cancelled;

        if (ask) {
            if (!timer)
                bind_virq(VIRQ_TIMER, 0, &timer);
            unmask_event(timer);
            wait_for_request(counter);
        }
        asm volatile("fninit; fildl %0" ::"m"(whole));
        before = system_time();
        cancelled = suspend(form);
        after = system_time();
        timer = cancelled ? timer : 0;
        asm volatile("fistpl %0" : "=m"(whole));
        others = moved(pages);
        counter++;
        print("%s: counter %u, checksum %08x %s, %lu of %lu frames are others\n",
              cancelled ? "Still here" : "Woken", counter, checksum(),
              checksum() == sum ? "as before" : "WRONG", others, pages);
        print("FPU %s, segments %s, traps %s, events %s, time %s, lists %s\n",
              whole == -77 ? "fine" : "WRONG", segments_fine() ? "fine" : "WRONG",
              traps_fine() ? "fine" : "WRONG", events_fine() ? "fine" : "WRONG",
              after >= before && after < before + 60000000000ull ? "fine" : "WRONG",
              cancelled || !shared_info.pfn_to_mfn_frame_list_list ? "forgotten" : "WRONG");
    }
    print("Done\n");
}

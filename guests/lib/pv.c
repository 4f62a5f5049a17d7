/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From the PV entry point to guest_main: traps, shared info, the console ring. */
#include "pv.h"

unsigned cpu_index(void)
{
    return 0;
}

void console_init(void)
{
    xen.console_port = pv_start_info->console_evtchn;
    xen.store_port = pv_start_info->store_evtchn;
    if (!xen.console_port)
        return;
    xen.console = (void *)(pfn_of(pv_start_info->console_mfn) << PAGE_SHIFT);
    if (!option("console_io", NULL, 0))
        print_sink = console_write;
}

void shared_info_init(void)
{
    if (update_va(&shared_info, pv_start_info->shared_info | PTE_P | PTE_W))
        panic("shared info could not be mapped");
    for (unsigned i = 0; i < ARRAY_SIZE(shared_info.evtchn_mask); i++)
        shared_info.evtchn_mask[i] = ~0ul;
}

void cmain(void);
void cmain(void)
{
    long version;

    print_sink = console_io_sink;
    xen.present = true;
    version = version_op(XENVER_version, NULL);
    xen.major = (u32)(version >> 16);
    xen.minor = (u32)version & 0xffff;
    cmdline = pv_start_info->cmd_line;
    traps_init();
    shared_info_init();
    for (unsigned i = 0; i < MAX_CPUS; i++)
        vcpu_infos[i] = &shared_info.vcpu_info[i];
    console_init();
    guest_main();
    power_off(0);
}

/* Events come by the callback that traps_init() has set. */
void events_init(void)
{
    vcpu_infos[0]->evtchn_upcall_mask = 0;
}

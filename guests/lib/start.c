/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From the entry point to guest_main. */
#include "guest.h"
#include "xen.h"

const struct start_info *start_info;

void cmain(void);
void cmain(void)
{
    traps_init();
    start_info = (const struct start_info *)(ulong)start_info_paddr;
    if (start_info->magic != START_MAGIC)
        panic("no hvm_start_info at %x", start_info_paddr);
    if (start_info->cmdline_paddr)
        cmdline = (const char *)(ulong)start_info->cmdline_paddr;
    xen_init();
    guest_main();
    power_off(0);
}

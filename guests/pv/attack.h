/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What guests that attack have in common.  Command line:
 *   domid=N victim=M   a neighbour, and one of its frames
 *   stay               block at the end, so that the host can look at what is left
 */
#include "pv.h"
#include "test.h"

static u8 pages[8][PAGE_SIZE] PAGE_ALIGNED;
static ulong victim;
static u32 neighbour;

void tests_init(void)
{
    victim = (ulong)option_number("victim", 0);
    neighbour = (u32)option_number("domid", 0);
}

static void give_back(u8 *page)
{
    if (pv_protect(page, true))
        panic("a page of our own can't be made writable");
}

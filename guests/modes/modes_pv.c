/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the cells of the table of guest modes promise to PV guests: see modes.c. */
#include "pv.h"
#include "test.h"

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
}

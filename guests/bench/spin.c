/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Computes for ever and never asks its hypervisor for anything: "spinning", then silence. */
#include "xen.h"

void guest_main(void)
{
    volatile u64 sum = 0;

    print("spinning\n");
    for (u64 i = 0;; i++)
        sum += i ^ (sum >> 3);
}

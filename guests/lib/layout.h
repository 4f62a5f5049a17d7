/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers that assembly and C share: selectors, stacks and the virtual layout.
 *
 * Memory below 4 GiB is mapped one to one for the supervisor with large pages, except for the
 * window [WINDOW_BASE, WINDOW_END), which has small pages that paging.c fills.  A guest that
 * uses the library should have less than 1.5 GiB of memory.
 */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define MAX_CPUS 32
#define STACK_SIZE 16384

#define SEL_KCS 0x08      /* kernel code, of the guest's own width */
#define SEL_KDS 0x10
#define SEL_UCS32 0x1b    /* the order that SYSRET wants: 32-bit code, data, 64-bit code */
#define SEL_UDS 0x23
#define SEL_UCS64 0x2b
#define SEL_NOT_PRESENT 0x30
#define SEL_KCS32 0x38    /* 32-bit kernel code, in all environments */
#define SEL_SPARE 0x40    /* two slots that tests fill */
#define SEL_TSS_BASE 0x50 /* one 16-byte slot per CPU */
#define GDT_BYTES (SEL_TSS_BASE + 16 * (MAX_CPUS + 1))
#define SEL_TSS_SPARE (SEL_TSS_BASE + 16 * MAX_CPUS)

#define WINDOW_BASE 0x60000000
#define WINDOW_END 0x70000000
#define USER_CODE 0x68000000 /* where run_user() puts ring-3 code */
#define USER_STACK_TOP 0x68404000

#define AP_TRAMPOLINE 0x8000 /* where AP start-up code is copied to */

#endif

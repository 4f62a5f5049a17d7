/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The local APIC (Intel SDM volume 3, chapter 10), in xAPIC and x2APIC mode. */
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include "guest.h"

#define APIC_PAGE 0xfee00000ul
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_ERROR 0x370
#define APIC_TIMER_INITIAL 0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE 0x3e0

#define ICR_FIXED 0x000
#define ICR_NMI 0x400
#define ICR_INIT 0x500
#define ICR_STARTUP 0x600
#define ICR_LOGICAL 0x800
#define ICR_BUSY 0x1000
#define ICR_ASSERT 0x4000
#define ICR_SELF 0x40000
#define ICR_ALL 0x80000
#define ICR_OTHERS 0xc0000

#define LVT_MASKED 0x10000
#define TIMER_ONE_SHOT 0x00000
#define TIMER_PERIODIC 0x20000
#define TIMER_TSC_DEADLINE 0x40000

#define VEC_SPURIOUS 0xff

extern bool x2apic; /* whether this library uses x2APIC mode */

static inline u32 apic_read(u32 reg)
{
    if (x2apic)
        return (u32)rdmsr(0x800 + (reg >> 4));
    return *(volatile u32 *)(APIC_PAGE + reg);
}

static inline void apic_write(u32 reg, u32 value)
{
    if (x2apic)
        wrmsr(0x800 + (reg >> 4), value);
    else
        *(volatile u32 *)(APIC_PAGE + reg) = value;
}

static inline void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

/* An interrupt command; `destination` is an APIC id or a logical destination. */
static inline void apic_send(u32 destination, u32 command)
{
    if (x2apic) {
        wrmsr(0x830, (u64)destination << 32 | command);
        return;
    }
    apic_write(APIC_ICR2, destination << 24);
    apic_write(APIC_ICR, command);
    while (apic_read(APIC_ICR) & ICR_BUSY)
        pause();
}

static inline bool apic_bit(u32 bank, unsigned vector)
{
    return apic_read(bank + (vector >> 5) * 0x10) >> (vector & 31) & 1;
}

u32 apic_own_id(void);
void apic_enable(void); /* on this CPU: software enable, spurious vector, TPR 0 */

#endif

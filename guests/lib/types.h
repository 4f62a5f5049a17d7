/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Basic types of the guest library: fixed widths, and a machine word (`ulong`). */
#ifndef GUEST_TYPES_H
#define GUEST_TYPES_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef unsigned long ulong;
typedef __SIZE_TYPE__ size_t;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE 4096ul
#define PAGE_SHIFT 12
#define PAGE_ALIGNED __attribute__((aligned(4096)))
#define NOINLINE __attribute__((noinline))
#define NORETURN __attribute__((noreturn))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))

/* The environment a guest is built for: one of these is 1. */
#if defined(ENV_64)
#define ENV_NAME "64"
#define BITS 64
#define PAGING_LEVELS 4
#elif defined(ENV_PV64)
#define ENV_NAME "pv64"
#define BITS 64
#define PAGING_LEVELS 4
#elif defined(ENV_PV32)
#define ENV_NAME "pv32"
#define BITS 32
#define PAGING_LEVELS 3
#elif defined(ENV_PAE)
#define ENV_NAME "pae"
#define BITS 32
#define PAGING_LEVELS 3
#elif defined(ENV_PSE)
#define ENV_NAME "pse"
#define BITS 32
#define PAGING_LEVELS 2
#elif defined(ENV_FLAT)
#define ENV_NAME "flat"
#define BITS 32
#define PAGING_LEVELS 0
#else
#error "build with -DENV_64, -DENV_PAE, -DENV_PSE, -DENV_FLAT, -DENV_PV64 or -DENV_PV32"
#endif

#endif

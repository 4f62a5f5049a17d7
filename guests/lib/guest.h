/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a guest's C code sees of the library. */
#ifndef GUEST_H
#define GUEST_H

#include "layout.h"
#include "types.h"
#include "x86.h"

/* ---- start (start.c) ---- */

struct memory_map_entry {
    u64 addr, size;
    u32 type, reserved;
};

/* struct hvm_start_info: public/arch-x86/hvm/start_info.h, version 1. */
struct start_info {
    u32 magic, version, flags, nr_modules;
    u64 modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    u32 memmap_entries, reserved;
};
#define START_MAGIC 0x336ec578u

struct module {
    u64 paddr, size, cmdline_paddr, reserved;
};

extern const struct start_info *start_info;
extern u32 start_info_paddr;
extern u32 entry_flags, entry_cr0, entry_cr4, entry_cs; /* registers as they were on entry */
extern const char *cmdline;

/* The guest's own entry, called on the boot CPU with traps and printing set up. */
void guest_main(void);

bool option(const char *name, char *value, size_t size); /* `name=value` or `name` in cmdline */
u64 option_number(const char *name, u64 fallback);
void NORETURN power_off(int failed);
void NORETURN panic(const char *format, ...) PRINTF(1, 2);

/* ---- strings and printing (string.c, print.c) ---- */
void *memset(void *to, int value, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
u64 parse_number(const char *s, u64 fallback);

void print(const char *format, ...) PRINTF(1, 2);
void put_text(const char *text, size_t n);
struct text_buffer {
    char *at, *end;
};
void format_text(struct text_buffer *to, const char *format, __builtin_va_list args);
extern void (*print_sink)(const char *text, size_t n); /* where text goes; default port 0xe9 */

/* ---- memory (paging.c) ---- */
#define PTE_P 0x001ull
#define PTE_W 0x002ull
#define PTE_U 0x004ull
#define PTE_A 0x020ull
#define PTE_D 0x040ull
#define PTE_PS 0x080ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)

#if PAGING_LEVELS >= 3
typedef u64 pte_t;
#else
typedef u32 pte_t;
#endif
#define PTE_ADDRESS ((pte_t)0x000ffffffffff000ull)

extern u8 image_start[], image_end[], user_start[], user_end[];
void *alloc_page(void);           /* a zeroed page of the heap; panics when there is none */
void *alloc_pages(unsigned count);
pte_t *window_pte(ulong va);      /* the small-page entry of an address in the window */
void map_page(ulong va, ulong pa, u64 flags); /* one small page in the window, and invlpg */
pte_t *large_entry(ulong va);     /* the large-page entry that maps va one to one */
void reload_cr3(void);

/* ---- traps (trap_record.c, trap.c) ---- */
struct regs {
#if BITS == 64
    ulong r15, r14, r13, r12, r11, r10, r9, r8, bp, di, si, dx, cx, bx, ax;
#else
    ulong di, si, bp, pusha_sp, bx, dx, cx, ax, es, ds;
#endif
    ulong vector, error, ip, cs, flags, sp, ss; /* 32 bits: sp and ss only from ring 3 */
};

struct trap {
    u32 count; /* traps since trap_clear */
    u32 vector, error, cs, ss;
    ulong ip, sp, flags, cr2, dr6, ax, cx, dx, si, di;
};
extern volatile struct trap trap; /* the last trap caught */

struct guard {
    ulong slots[8];
};
int __attribute__((returns_twice)) guard_set(struct guard *);
void NORETURN guard_jump(struct guard *);
void NORETURN enter_user(ulong ip, ulong sp, ulong cs, ulong flags, ulong a0, ulong a1);

typedef void (*vector_fn)(struct regs *);
void set_vector(unsigned vector, vector_fn fn); /* NULL: back to the default */
void trap_clear(void);
bool trap_handled(struct regs *);  /* by the vector's handler */
bool trap_fixed_up(struct regs *); /* it was in MAY_TRAP */
void trap_record(const struct regs *, ulong cr2); /* all of `trap` but dr6 */
bool guarded(void (*fn)(void *), void *argument); /* false: a trap ended fn (see `trap`) */

void traps_init(void);
void cpu_tables_init(unsigned cpu); /* IDT, TSS of the CPU we run on */
void set_gate(unsigned vector, void *stub, unsigned dpl, bool present, unsigned ist);
void restore_gate(unsigned vector);
void set_idt_limit(u16 limit);
void set_descriptor(u16 selector, u64 low);
void set_io_permission(u16 port, bool allowed); /* of the boot CPU's TSS */
extern u8 vector_stubs[], gdt[];

/* Runs position-independent code of the section .user in ring 3 until it executes
 * `int $VEC_USER_RETURN`, and returns its AX.  A trap there lands in `trap`; the result is then
 * USER_TRAPPED. */
#define VEC_USER_RETURN 0x80
#define USER_TRAPPED ((ulong)0x7ea99ed)
ulong run_user(const void *code, ulong a0, ulong a1);
ulong run_user_at(const void *code, ulong a0, ulong a1, ulong cs, ulong flags);
ulong user_address(const void *code); /* where a label of .user lies for ring 3 */
void prepare_user(void);              /* the set-up alone, without entering ring 3 */
void NORETURN user_return(ulong result); /* for own handlers: leave ring 3 for run_user's caller */

/* ---- CPUs (smp.c) ---- */
unsigned cpu_index(void);
void set_kernel_stack(ulong sp);
void ap_main(void);
extern volatile u32 cpus_online;
extern u32 ap_ticket;
extern u8 cpu_stacks[];
extern u8 ap_trampoline[], ap_trampoline_end[], ap_start32[];
/* Starts the CPU with this APIC id by INIT and start-up IPI; false: it didn't come. */
bool start_cpu(u32 apic_id);
void on_cpu(unsigned cpu, void (*fn)(void *), void *argument); /* starts fn there */
bool wait_cpu(unsigned cpu, u64 tsc_ticks);                    /* waits until it has ended */
extern u32 cpu_apic_id[MAX_CPUS];

static inline u32 atomic_add(volatile u32 *p, u32 v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}

#endif

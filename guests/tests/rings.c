/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ring 3: how it is entered and left, and what it may not do (Intel SDM volume 3, chapters 5
 * and 6; volume 2 for SYSCALL, SYSENTER and their returns).
 */
#include "test.h"

#if BITS == 64
#define A_REG "rax"
#define D_REG "rdx"
#define DI_REG "rdi"
#define SP_REG "rsp"
#else
#define A_REG "eax"
#define D_REG "edx"
#define DI_REG "edi"
#define SP_REG "esp"
#endif

/* Ring-3 code: position-independent, in the section .user.  RAX and RDX hold two arguments. */
#define USER(name, code)                                                                          \
    asm(".pushsection .user, \"ax\"\n.globl " #name "\n" #name ":\n" code                         \
        "\nint $0x80\n.popsection");                                                              \
    extern const u8 name[]

USER(user_nothing, "");
USER(user_cs, "mov %cs, %eax");
USER(user_cli, "cli");
USER(user_sti, "sti");
USER(user_hlt, "hlt");
USER(user_read_cr0, "mov %cr0, %" A_REG);
USER(user_write_cr3, "mov %" A_REG ", %cr3");
USER(user_clts, "clts");
USER(user_wrmsr, "xor %ecx, %ecx; wrmsr");
USER(user_rdmsr, "mov $0x10, %ecx; rdmsr");
USER(user_invlpg, "invlpg (%" A_REG ")");
USER(user_lgdt, "lgdt (%" A_REG ")");
USER(user_lidt, "lidt (%" A_REG ")");
USER(user_ltr, "ltr %ax");
USER(user_lmsw, "lmsw %ax");
USER(user_wbinvd, "wbinvd");
USER(user_invd, "invd");
USER(user_read_dr, "mov %dr7, %" A_REG);
#if BITS == 64
USER(user_swapgs, "swapgs");
USER(user_sysret, "sysretl");
#endif
USER(user_in, "mov %eax, %edx; in %dx, %al");
USER(user_out, "mov %eax, %edx; out %al, %dx");
USER(user_insb, "push %" A_REG "; pop %" D_REG "; lea -64(%" SP_REG "), %" DI_REG "; insb");
USER(user_popf, "push %" A_REG "; popf; pushf; pop %" A_REG);
USER(user_read, "mov (%" A_REG "), %eax");
USER(user_write, "mov %eax, (%" A_REG ")");
USER(user_int_spare, "int $0x50");
USER(user_int3, "int3");
USER(user_ud2, "ud2");
USER(user_rdtsc, "rdtsc");
USER(user_cpuid, "mov %eax, %esi; cpuid; mov %ebx, %eax");
USER(user_load_kernel_data, "mov %eax, %ds");
USER(user_jump, "jmp *%" A_REG);

#define USER_SELECTOR (BITS == 64 ? SEL_UCS64 : SEL_UCS32)

TEST(ring_3_is_entered_and_left)
{
    CHECK_EQUAL(run_user(user_nothing, 0x1234, 0), 0x1234);
    CHECK_EQUAL(run_user(user_cs, 0, 0), USER_SELECTOR);
    CHECK_EQUAL(read_flags() & FLAG_IF, 0);
}

#if BITS == 64
asm(".pushsection .user, \"ax\"\n.code32\nuser_compat: mov %cs, %eax\n.byte 0x40\nint $0x80\n"
    ".code64\n.popsection");
extern const u8 user_compat[];

TEST(compatibility_mode)
{
    /* Byte 0x40 is `inc %eax` in 32-bit code, a prefix in 64-bit code. */
    CHECK_EQUAL((u32)run_user_at(user_compat, 0, 0, SEL_UCS32, 0), SEL_UCS32 + 1);
}

asm(".pushsection .user, \"ax\"\n.code32\nuser_compat_syscall: mov $0x77, %eax\nsyscall\n"
    "int $0x80\n.code64\n.popsection");
extern const u8 user_compat_syscall[];
#endif

static const struct {
    const char *name;
    const u8 *code;
} privileged[] = {
    { "cli", user_cli },       { "sti", user_sti },       { "hlt", user_hlt },
    { "mov cr0", user_read_cr0 }, { "mov cr3", user_write_cr3 }, { "clts", user_clts },
    { "wrmsr", user_wrmsr },   { "rdmsr", user_rdmsr },   { "invlpg", user_invlpg },
    { "lgdt", user_lgdt },     { "lidt", user_lidt },     { "ltr", user_ltr },
    { "lmsw", user_lmsw },     { "wbinvd", user_wbinvd }, { "invd", user_invd },
    { "mov dr7", user_read_dr },
#if BITS == 64
    { "swapgs", user_swapgs }, { "sysret", user_sysret },
#endif
};

TEST(privileged_instructions_fault)
{
    for (unsigned i = 0; i < ARRAY_SIZE(privileged); i++) {
        trap_clear();
        if (run_user(privileged[i].code, 0, 0) != USER_TRAPPED)
            FAIL("%s ran", privileged[i].name);
        if (trap.vector != VEC_GP || trap.error)
            FAIL("%s gave trap %u error %x", privileged[i].name, trap.vector, trap.error);
        if (trap.cs != USER_SELECTOR)
            FAIL("%s: cs %x", privileged[i].name, trap.cs);
#if PAGING_LEVELS
        if (trap.ip - user_address(privileged[i].code) > 5)
            FAIL("%s: ip %lx", privileged[i].name, trap.ip);
#endif
    }
}

TEST(iopl_3_allows_cli_and_ports)
{
    ulong cs = USER_SELECTOR;

    CHECK(run_user_at(user_cli, 0, 0, cs, FLAG_IOPL) != USER_TRAPPED);
    CHECK(run_user_at(user_in, 0x80, 0, cs, FLAG_IOPL) != USER_TRAPPED);
    CHECK(run_user_at(user_hlt, 0, 0, cs, FLAG_IOPL) == USER_TRAPPED);
}

TEST(ports_fault_without_permission)
{
    CHECK(run_user(user_in, 0x80, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    CHECK(run_user(user_out, 0x80, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_GP, 0);
    trap_clear();
    CHECK(run_user(user_insb, 0x80, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_GP, 0);
}

/* A TSS whose I/O map lies beyond its limit (as set up) denies all; within it, bits decide. */
TEST(io_bitmap)
{
    u16 tr;
    u64 descriptor;
    volatile u16 *map;

    asm volatile("str %0" : "=r"(tr));
    descriptor = *(u64 *)(gdt + tr);
    map = (volatile u16 *)(ulong)(((descriptor >> 16 & 0xffffff) | (descriptor >> 56) << 24) + 102);
    CHECK_EQUAL(*map, 104);
    set_io_permission(0x80, true);
    CHECK(run_user(user_in, 0x80, 0) != USER_TRAPPED);
    CHECK(run_user(user_in, 0x81, 0) == USER_TRAPPED);
    CHECK(run_user(user_in, 0x7f, 0) == USER_TRAPPED);
    *map = 0xffff;
    CHECK(run_user(user_in, 0x80, 0) == USER_TRAPPED);
    *map = 104;
    set_io_permission(0x80, false);
    CHECK(run_user(user_in, 0x80, 0) == USER_TRAPPED);
}

TEST(popf_leaves_if_and_iopl)
{
    ulong flags = run_user(user_popf, FLAG_IF | FLAG_IOPL | FLAG_CF, 0);

    CHECK(!(flags & FLAG_IF));
    CHECK(!(flags & FLAG_IOPL));
    CHECK(flags & FLAG_CF);
}

#if PAGING_LEVELS
static u32 secret;

TEST(supervisor_pages_are_closed)
{
    CHECK(run_user(user_read, (ulong)&secret, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_PF, PF_P | PF_U);
    CHECK_EQUAL(trap.cr2, (ulong)&secret);
    trap_clear();
    CHECK(run_user(user_write, (ulong)&secret, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_PF, PF_P | PF_W | PF_U);
    trap_clear();
    CHECK(run_user(user_jump, (ulong)user_nothing, 0) == USER_TRAPPED);
    CHECK_EQUAL(trap.vector, VEC_PF);
    CHECK_EQUAL(trap.error & ~PF_I, PF_P | PF_U);
}

TEST(user_page_faults)
{
    map_page(WINDOW_BASE, 0, 0);
    CHECK(run_user(user_read, WINDOW_BASE, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_PF, PF_U);
    trap_clear();
    CHECK(run_user(user_write, WINDOW_BASE, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_PF, PF_U | PF_W);
    trap_clear();
    map_page(WINDOW_BASE, (ulong)alloc_page(), PTE_P | PTE_U);
    CHECK(run_user(user_read, WINDOW_BASE, 0) != USER_TRAPPED);
    CHECK(run_user(user_write, WINDOW_BASE, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_PF, PF_P | PF_U | PF_W);
}

TEST(supervisor_without_wp_writes_read_only_pages)
{
    ulong cr0 = read_cr0();

    map_page(WINDOW_BASE, (ulong)alloc_page(), PTE_P | PTE_U);
    asm volatile(MAY_TRAP("movb %%al, (%0)") ::"r"((ulong)WINDOW_BASE) : "memory");
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
    trap_clear();
    write_cr0(cr0 & ~CR0_WP);
    asm volatile(MAY_TRAP("movb %%al, (%0)") ::"r"((ulong)WINDOW_BASE) : "memory");
    write_cr0(cr0);
    CHECK_NO_TRAP();
    /* and the right comes back with WP */
    asm volatile(MAY_TRAP("movb %%al, (%0)") ::"r"((ulong)WINDOW_BASE) : "memory");
    CHECK_TRAP(VEC_PF, PF_P | PF_W);
}

static bool has(u32 leaf_7_ebx_bit)
{
    return cpuid(0, 0).a >= 7 && cpuid(7, 0).b >> leaf_7_ebx_bit & 1;
}

static void call_at(void *address)
{
    ((void (*)(void))address)();
}

TEST(smep)
{
    u8 *page = alloc_page();
    ulong cr4 = read_cr4();
    bool completed;

    if (!has(7))
        SKIP("no SMEP");
    page[0] = 0xc3;
    map_page(WINDOW_BASE, (ulong)page, PTE_P | PTE_U);
    CHECK(guarded(call_at, (void *)(ulong)WINDOW_BASE));
    write_cr4(cr4 | CR4_SMEP);
    completed = guarded(call_at, (void *)(ulong)WINDOW_BASE);
    write_cr4(cr4);
    CHECK(!completed);
    CHECK_TRAP(VEC_PF, PF_P | PF_I);
}

TEST(smap)
{
    ulong cr4 = read_cr4();

    if (!has(20))
        SKIP("no SMAP");
    map_page(WINDOW_BASE, (ulong)alloc_page(), PTE_P | PTE_W | PTE_U);
    write_cr4(cr4 | CR4_SMAP);
    asm volatile(MAY_TRAP("movb (%0), %%al") ::"r"((ulong)WINDOW_BASE) : "eax");
    asm volatile("stac");
    barrier();
    if (trap.count != 1 || trap.vector != VEC_PF || trap.error != PF_P) {
        write_cr4(cr4);
        FAIL("%u traps, vector %u error %x", trap.count, trap.vector, trap.error);
    }
    trap_clear();
    asm volatile(MAY_TRAP("movb %%al, (%0)") ::"r"((ulong)WINDOW_BASE) : "memory");
    asm volatile("clac");
    write_cr4(cr4);
    CHECK_NO_TRAP();
}
#endif

TEST(software_interrupts_and_gate_privilege)
{
    CHECK(run_user(user_int_spare, 0, 0) == USER_TRAPPED);
    CHECK_EQUAL(trap.vector, VEC_GP);
#if BITS == 32
    CHECK_EQUAL(trap.error, 0x50 * 8 + 2);
#endif
    trap_clear();
    set_gate(0x50, vector_stubs + 16 * 0x50, 3, true, 0);
    CHECK(run_user(user_int_spare, 0, 0) == USER_TRAPPED);
    restore_gate(0x50);
    CHECK_TRAP(0x50, 0);
}

TEST(int3_needs_privilege_too)
{
    CHECK(run_user(user_int3, 0, 0) == USER_TRAPPED);
    CHECK_EQUAL(trap.vector, VEC_GP);
    trap_clear();
    set_gate(VEC_BP, vector_stubs + 16 * VEC_BP, 3, true, 0);
    CHECK(run_user(user_int3, 0, 0) == USER_TRAPPED);
    restore_gate(VEC_BP);
    CHECK_TRAP(VEC_BP, 0);
}

/* Faults need no privilege of the gate. */
TEST(faults_from_ring_3)
{
    CHECK(run_user(user_ud2, 0, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_UD, 0);
    CHECK_EQUAL(trap.cs, USER_SELECTOR);
    CHECK_EQUAL(trap.ss, SEL_UDS);
}

TEST(kernel_data_selector_is_closed)
{
    CHECK(run_user(user_load_kernel_data, SEL_KDS, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_GP, SEL_KDS);
}

TEST(rdtsc_with_tsd)
{
    ulong cr4 = read_cr4(), result;

    CHECK(run_user(user_rdtsc, 0, 0) != USER_TRAPPED);
    write_cr4(cr4 | CR4_TSD);
    result = run_user(user_rdtsc, 0, 0);
    (void)rdtsc(); /* ring 0 may */
    write_cr4(cr4);
    CHECK(result == USER_TRAPPED);
    CHECK_TRAP(VEC_GP, 0);
}

TEST(cpuid_works_in_ring_3)
{
    CHECK_EQUAL((u32)run_user(user_cpuid, 0, 0), cpuid(0, 0).b);
}

#if BITS == 64
/* ---- SYSCALL and SYSRET ---- */

static struct {
    ulong rax, rcx, r11, cs, ss, rsp, flags;
} syscall_seen;
static ulong syscall_kernel_rsp;

/* What LSTAR points to: notes what it finds, then ends the ring-3 run, or returns by SYSRET. */
extern u8 syscall_entry[], syscall_entry_sysret[], syscall_entry_compat[];
asm(".globl syscall_entry, syscall_entry_sysret\n"
    "syscall_entry:\n"
    "mov %rsp, syscall_seen + 40\n"
    "mov syscall_kernel_rsp, %rsp\n"
    "mov %rax, syscall_seen\n"
    "mov %rcx, syscall_seen + 8\n"
    "mov %r11, syscall_seen + 16\n"
    "mov %cs, %eax\n mov %rax, syscall_seen + 24\n"
    "mov %ss, %eax\n mov %rax, syscall_seen + 32\n"
    "pushf\n pop syscall_seen + 48\n"
    "mov $1, %edi\n"
    "call user_return\n"
    "syscall_entry_sysret:\n"
    "lea 1(%rax), %rax\n"
    "sysretq\n"
    "syscall_entry_compat:\n"
    "lea 1(%rax), %rax\n"
    "sysretl\n");

USER(user_syscall, "syscall");
USER(user_syscall_twice, "syscall; syscall; mov %cs, %edx; shl $8, %edx; or %edx, %eax");

static u64 star, lstar, sfmask, efer;

static void syscall_setup(void *entry, u64 mask)
{
    star = rdmsr(MSR_STAR);
    lstar = rdmsr(MSR_LSTAR);
    sfmask = rdmsr(MSR_SFMASK);
    efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer | EFER_SCE);
    wrmsr(MSR_STAR, (u64)SEL_UCS32 << 48 | (u64)SEL_KCS << 32);
    wrmsr(MSR_LSTAR, (ulong)entry);
    wrmsr(MSR_SFMASK, mask);
    syscall_kernel_rsp = (stack_pointer() - 2048) & ~15ul;
}

static void syscall_restore(void)
{
    wrmsr(MSR_STAR, star);
    wrmsr(MSR_LSTAR, lstar);
    wrmsr(MSR_SFMASK, sfmask);
    wrmsr(MSR_EFER, efer);
}

TEST(syscall_enters_ring_0)
{
    ulong result;

    syscall_setup(syscall_entry, FLAG_CF | FLAG_OF);
    result = run_user_at(user_syscall, 0x4242, 0, SEL_UCS64, FLAG_CF | FLAG_OF);
    syscall_restore();
    CHECK_EQUAL(result, 1);
    CHECK_EQUAL(syscall_seen.rax, 0x4242);
    CHECK_EQUAL(syscall_seen.rcx, user_address(user_syscall) + 2);
    CHECK_EQUAL(syscall_seen.r11 & (FLAG_CF | FLAG_OF), FLAG_CF | FLAG_OF);
    CHECK_EQUAL(syscall_seen.cs, SEL_KCS);
    CHECK_EQUAL(syscall_seen.ss, SEL_KDS);
    CHECK_EQUAL(syscall_seen.rsp, USER_STACK_TOP - 64);
    CHECK_EQUAL(syscall_seen.flags & (FLAG_CF | FLAG_OF), 0);
}

TEST(sysret_returns_to_ring_3)
{
    ulong result;

    syscall_setup(syscall_entry_sysret, 0);
    result = run_user(user_syscall_twice, 5, 0);
    syscall_restore();
    CHECK_NO_TRAP();
    CHECK_EQUAL(result, 7 | (ulong)SEL_UCS64 << 8);
}

TEST(syscall_without_sce_is_invalid)
{
    ulong result;

    syscall_setup(syscall_entry, 0);
    wrmsr(MSR_EFER, efer & ~(u64)EFER_SCE);
    result = run_user(user_syscall, 0, 0);
    syscall_restore();
    CHECK(result == USER_TRAPPED);
    CHECK_TRAP(VEC_UD, 0);
}

/* AMD defines SYSCALL in compatibility mode (to CSTAR); Intel raises #UD. */
TEST(syscall_from_compatibility_mode)
{
    ulong result;
    u64 cstar = rdmsr(MSR_CSTAR);
    bool amd = cpuid(0, 0).b == 0x68747541;

    syscall_setup(syscall_entry, 0);
    wrmsr(MSR_CSTAR, (ulong)syscall_entry_compat);
    result = run_user_at(user_compat_syscall, 0, 0, SEL_UCS32, 0);
    wrmsr(MSR_CSTAR, cstar);
    syscall_restore();
    if (amd) {
        CHECK_NO_TRAP();
        CHECK_EQUAL((u32)result, 0x78);
    } else {
        CHECK_TRAP(VEC_UD, 0);
    }
}

/* ---- segment bases ---- */

TEST(swapgs)
{
    u64 gs = rdmsr(MSR_GS_BASE), kernel_gs = rdmsr(MSR_KERNEL_GS_BASE), a, b;

    wrmsr(MSR_GS_BASE, 0x1111);
    wrmsr(MSR_KERNEL_GS_BASE, 0x2222);
    asm volatile("swapgs" ::: "memory");
    a = rdmsr(MSR_GS_BASE);
    b = rdmsr(MSR_KERNEL_GS_BASE);
    wrmsr(MSR_GS_BASE, gs);
    wrmsr(MSR_KERNEL_GS_BASE, kernel_gs);
    CHECK_EQUAL(a, 0x2222);
    CHECK_EQUAL(b, 0x1111);
}

USER(user_gs_byte, "movzbl %gs:(%rax), %eax");
USER(user_fs_byte, "movzbl %fs:(%rax), %eax");

TEST(segment_bases_in_ring_3)
{
    u64 gs = rdmsr(MSR_GS_BASE), fs = rdmsr(MSR_FS_BASE);
    u8 *page = alloc_page();
    ulong a, b;

    page[0x21] = 0x99;
    page[0x31] = 0x77;
    map_page(WINDOW_BASE, (ulong)page, PTE_P | PTE_U);
    wrmsr(MSR_GS_BASE, WINDOW_BASE + 0x20);
    wrmsr(MSR_FS_BASE, WINDOW_BASE + 0x30);
    a = run_user(user_gs_byte, 1, 0);
    b = run_user(user_fs_byte, 1, 0);
    wrmsr(MSR_GS_BASE, gs);
    wrmsr(MSR_FS_BASE, fs);
    CHECK_EQUAL(a, 0x99);
    CHECK_EQUAL(b, 0x77);
}
#endif

/* ---- SYSENTER and SYSEXIT ---- */

static struct {
    ulong ax, cs, ss, sp, flags;
} sysenter_seen;

extern u8 sysenter_entry[], sysenter_entry_exit[];
#if BITS == 64
#define SEEN(i) "sysenter_seen + 8 * " #i
asm("sysenter_entry:\n"
    "mov %rax, " SEEN(0) "\n mov %cs, %eax\n mov %rax, " SEEN(1) "\n mov %ss, %eax\n"
    "mov %rax, " SEEN(2) "\n mov %rsp, " SEEN(3) "\n pushf\n pop " SEEN(4) "\n"
    "mov $2, %edi\n call user_return\n"
    "sysenter_entry_exit:\n lea 1(%rax), %rax\n .byte 0x48, 0x0f, 0x35\n");
#else
#define SEEN(i) "sysenter_seen + 4 * " #i
asm("sysenter_entry:\n"
    "mov %eax, " SEEN(0) "\n mov %cs, %eax\n mov %eax, " SEEN(1) "\n mov %ss, %eax\n"
    "mov %eax, " SEEN(2) "\n mov %esp, " SEEN(3) "\n pushf\n pop " SEEN(4) "\n"
    "push $2\n call user_return\n"
    "sysenter_entry_exit:\n lea 1(%eax), %eax\n .byte 0x0f, 0x35\n");
#endif

USER(user_sysenter, "sysenter");
/* SYSEXIT goes to (E/R)DX with the stack in (E/R)CX. */
#if BITS == 64
USER(user_sysenter_exit, "mov %rsp, %rcx; lea 1f(%rip), %rdx; sysenter; ud2; 1: mov %cs, %edx; "
                         "shl $8, %edx; or %edx, %eax");
#else
USER(user_sysenter_exit, "mov %esp, %ecx; call 2f; 2: pop %edx; add $(1f - 2b), %edx; mov %esp, %ecx;"
                         " sysenter; ud2; 1: mov %cs, %edx; shl $8, %edx; or %edx, %eax");
#endif

static bool sysenter_works(void)
{
    return cpuid(1, 0).d >> 11 & 1;
}

/* SYSENTER's selectors: CS, CS+8; SYSEXIT's: CS+16, CS+24 (32 bits), CS+32, CS+40 (64 bits).
 * The table of the library doesn't have this order, so that spare slots complete it. */
static void sysenter_setup(void *entry)
{
    wrmsr(MSR_SYSENTER_CS, SEL_KCS);
    wrmsr(MSR_SYSENTER_ESP, (stack_pointer() - 2048) & ~15ul);
    wrmsr(MSR_SYSENTER_EIP, (ulong)entry);
}

TEST(sysenter_enters_ring_0)
{
    ulong result;

    if (!sysenter_works())
        SKIP("no SYSENTER");
    sysenter_setup(sysenter_entry);
    result = run_user_at(user_sysenter, 0x3131, 0, USER_SELECTOR, 0);
    wrmsr(MSR_SYSENTER_CS, 0);
    if (BITS == 64 && cpuid(0, 0).b == 0x68747541) {
        CHECK_TRAP(VEC_UD, 0); /* AMD: not in long mode */
        return;
    }
    CHECK_EQUAL(result, 2);
    CHECK_EQUAL(sysenter_seen.ax, 0x3131);
    CHECK_EQUAL(sysenter_seen.cs, SEL_KCS);
    CHECK_EQUAL(sysenter_seen.ss, SEL_KDS);
    CHECK_EQUAL(sysenter_seen.flags & FLAG_IF, 0);
}

TEST(sysenter_without_selector)
{
    if (!sysenter_works() || (BITS == 64 && cpuid(0, 0).b == 0x68747541))
        SKIP("no SYSENTER");
    wrmsr(MSR_SYSENTER_CS, 0);
    CHECK(run_user(user_sysenter, 0, 0) == USER_TRAPPED);
    CHECK_TRAP(VEC_GP, 0);
}

TEST(sysexit_returns_to_ring_3)
{
    ulong result;

    if (!sysenter_works() || (BITS == 64 && cpuid(0, 0).b == 0x68747541))
        SKIP("no SYSENTER");
    sysenter_setup(sysenter_entry_exit);
    result = run_user(user_sysenter_exit, 7, 0);
    wrmsr(MSR_SYSENTER_CS, 0);
    CHECK_NO_TRAP();
    /* SEL_KCS + 16 is SEL_UCS32, SEL_KCS + 32 is SEL_UCS64: the table's order serves both. */
    CHECK_EQUAL(result, 8 | (ulong)USER_SELECTOR << 8);
}

/* ---- the way back ---- */

/* The stack that the TSS names is used, and the frame there is complete. */
static volatile ulong stack_in_handler;

static void see_stack(struct regs *r)
{
    stack_in_handler = (ulong)r;
    trap.ip = r->ip;
    trap.sp = r->sp;
    trap.ss = (u16)r->ss;
    user_return(0x55);
}

TEST(stack_comes_from_the_tss)
{
    ulong here = stack_pointer();

    set_vector(VEC_UD, see_stack);
    CHECK_EQUAL(run_user(user_ud2, 0, 0), 0x55);
    set_vector(VEC_UD, NULL);
    CHECK(stack_in_handler < here && stack_in_handler > here - 4096);
    CHECK_EQUAL(trap.ss, SEL_UDS);
#if PAGING_LEVELS
    CHECK_EQUAL(trap.sp, USER_STACK_TOP - 64);
#endif
}

/* A handler may return to ring 3 with changed registers. */
static void skip_ud2(struct regs *r)
{
    r->ip += 2;
    r->ax = 0x77;
}

TEST(iret_resumes_ring_3)
{
    set_vector(VEC_UD, skip_ud2);
    CHECK_EQUAL(run_user(user_ud2, 0, 0), 0x77);
    set_vector(VEC_UD, NULL);
}

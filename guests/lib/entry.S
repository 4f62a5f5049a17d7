/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PVH entry point (docs/misc/pvh.pandoc): 32-bit protected mode, paging off, flat segments,
 * %ebx = physical address of hvm_start_info.  From here to the guest's own mode, then to C.
 */
#include "layout.h"

/* XEN_ELFNOTE_PHYS32_ENTRY (public/elfnote.h, type 18) tells the loader where to enter. */
        .section .note.Xen, "a", @note
        .align 4
        .long 4, 4, 18
        .asciz "Xen"
        .long _start

        .section .text.start, "ax"
        .code32
        .globl _start
_start:
        cld
        mov %ebx, start_info_paddr
        mov $boot_stack_top, %esp
        pushf
        pop entry_flags
        mov %cr0, %eax
        mov %eax, entry_cr0
        mov %cr4, %eax
        mov %eax, entry_cr4
        mov %cs, entry_cs
        lgdt gdt_pointer
        call enter_mode_bsp
        ud2

/* Shared by the boot CPU and the others: %esp is set, paging is off, the GDT is loaded.
 * Turns on the paging mode of the environment and returns there, in its code segment. */
enter_mode_bsp:
        push $cmain
enter_mode:
        mov $SEL_KDS, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        xor %eax, %eax
        mov %eax, %fs
        mov %eax, %gs
#if defined(ENV_64) || defined(ENV_PAE)
        mov $0x80000001, %eax
        cpuid
        mov %edx, %esi                  /* remember NX */
        mov %cr4, %eax
        or $0x620, %eax                 /* PAE, OSFXSR, OSXMMEXCPT */
        mov %eax, %cr4
        mov $page_root, %eax
        mov %eax, %cr3
        mov $0xc0000080, %ecx
        rdmsr
#ifdef ENV_64
        or $0x101, %eax                 /* LME, SCE */
#endif
        test $(1 << 20), %esi
        jz 1f
        or $0x800, %eax                 /* NXE */
1:      wrmsr
        mov $0x80010033, %eax           /* PG, WP, NE, ET, MP, PE */
        mov %eax, %cr0
#elif defined(ENV_PSE)
        mov %cr4, %eax
        or $0x610, %eax                 /* PSE, OSFXSR, OSXMMEXCPT */
        mov %eax, %cr4
        mov $page_root, %eax
        mov %eax, %cr3
        mov $0x80010033, %eax
        mov %eax, %cr0
#else
        mov %cr4, %eax
        or $0x600, %eax
        mov %eax, %cr4
        mov $0x00000033, %eax
        mov %eax, %cr0
#endif
        ljmp $SEL_KCS, $1f
#ifdef ENV_64
        .code64
1:      mov (%rsp), %eax                /* the 32-bit target pushed above */
        add $4, %rsp
        and $-16, %rsp
        xor %ebp, %ebp
        call *%rax
        ud2
#else
1:      pop %eax
        and $-16, %esp
        xor %ebp, %ebp
        call *%eax
        ud2
#endif

/* Code that a start-up IPI enters, copied to AP_TRAMPOLINE: real mode, CS = page, IP = 0. */
        .section .rodata.trampoline, "a"
        .code16
        .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
        cli
        cld
        mov %cs, %ax
        mov %ax, %ds
        lgdtl ap_gdt_pointer - ap_trampoline
        mov %cr0, %eax
        and $0x1fffffff, %eax           /* CD and NW are set after INIT: clear them */
        or $1, %eax
        mov %eax, %cr0
        ljmpl $SEL_KCS32, $ap_start32
        .align 8
ap_gdt_pointer:
        .word GDT_BYTES - 1
        .long gdt
ap_trampoline_end:

        .section .text.start, "ax"
        .code32
        .globl ap_start32
ap_start32:
        mov $SEL_KDS, %eax
        mov %eax, %ds
        mov %eax, %ss
        mov $1, %eax
        lock xadd %eax, ap_ticket       /* the stacks are handed out in the order of arrival */
        inc %eax
        shl $14, %eax
        lea cpu_stacks(%eax), %esp
        add $STACK_SIZE, %esp
        push $ap_main
        jmp enter_mode

        .data
        .globl start_info_paddr, gdt, gdt_pointer, ap_ticket, page_root
        .globl entry_flags, entry_cr0, entry_cr4, entry_cs
start_info_paddr:
        .long 0
entry_flags:                            /* registers as they were on entry */
        .long 0
entry_cr0:
        .long 0
entry_cr4:
        .long 0
entry_cs:
        .long 0
ap_ticket:
        .long 0
        .align 8
gdt_pointer:
        .word GDT_BYTES - 1
        .long gdt
        .long 0
        .align 16
gdt:    .quad 0
#ifdef ENV_64
        .quad 0x00af9b000000ffff        /* SEL_KCS: 64-bit */
#else
        .quad 0x00cf9b000000ffff        /* SEL_KCS: 32-bit */
#endif
        .quad 0x00cf93000000ffff        /* SEL_KDS */
        .quad 0x00cffb000000ffff        /* SEL_UCS32 */
        .quad 0x00cff3000000ffff        /* SEL_UDS */
        .quad 0x00affb000000ffff        /* SEL_UCS64 */
        .quad 0x00cf13000000ffff        /* SEL_NOT_PRESENT: data, P clear */
        .quad 0x00cf9b000000ffff        /* SEL_KCS32 */
        .fill (GDT_BYTES - 0x40), 1, 0

#if !defined(ENV_FLAT)
        .align 4096
#if defined(ENV_64)
page_root:
        .long page_l3 + 0x07, 0
        .fill 511, 8, 0
        .globl page_l3
page_l3:
        .long page_l2 + 0x07, 0, page_l2 + 0x1007, 0, page_l2 + 0x2007, 0, page_l2 + 0x3007, 0
        .fill 508, 8, 0
#elif defined(ENV_PAE)
page_root:
        .long page_l2 + 0x01, 0, page_l2 + 0x1001, 0, page_l2 + 0x2001, 0, page_l2 + 0x3001, 0
        .fill 508, 8, 0
#endif
#if defined(ENV_64) || defined(ENV_PAE)
        .globl page_l2
page_l2:
        .set address, 0
        .rept 2048
        .quad address + 0x83
        .set address, address + 0x200000
        .endr
#else
page_root:
        .set address, 0
        .rept 1024
        .long address + 0x83
        .set address, address + 0x400000
        .endr
#endif
#endif

        .bss
        .align STACK_SIZE
        .globl cpu_stacks
cpu_stacks:                             /* stack i: [i * STACK_SIZE, (i + 1) * STACK_SIZE) */
        .fill STACK_SIZE, 1, 0
boot_stack_top:
        .fill STACK_SIZE * (MAX_CPUS - 1), 1, 0

        .section .note.GNU-stack, "", @progbits

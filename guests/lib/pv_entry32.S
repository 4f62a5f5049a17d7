/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PV entry point of 32-bit guests: ring 1, PAE paging on, %esi = address of the start info
 * page.  Then the kernel's exception handlers, the event callback, and the way back by hypercall.
 */
#include "layout.h"

        .macro NOTE type:req, kind:req, value:vararg
        .long 4, 2f - 1f, \type
        .asciz "Xen"
1:      .\kind \value
2:      .align 4
        .endm

        .section .note.Xen, "a", @note
        .align 4
        NOTE 5, asciz, "xen-3.0"        /* XEN_ELFNOTE_XEN_VERSION */
        NOTE 6, asciz, "xenograft"      /* GUEST_OS */
        NOTE 8, asciz, "generic"        /* LOADER */
        NOTE 9, asciz, "yes"            /* PAE_MODE */
        NOTE 3, long, 0                 /* VIRT_BASE */
        NOTE 1, long, _start            /* ENTRY */
        NOTE 2, long, hypercall_page    /* HYPERCALL_PAGE */

        .section .text.start, "ax"
        .globl _start
_start:
        cld
        lea boot_stack_top, %esp
        mov %esi, pv_start_info
        xor %ebp, %ebp
        call cmain
        ud2

/* Exception frames: [error code], eip, cs, eflags (and esp, ss from outside of ring 1). */
        .text
        .globl vector_stubs
        .align 32
vector_stubs:
        .set vector, 0
        .rept 256
        .align 32
        .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
        .else
        push $0
        .endif
        push $vector
        jmp common
        .set vector, vector + 1
        .endr

        .globl event_callback, failsafe_callback
event_callback:
        push $0
        push $0x100
        jmp common

/* Segments couldn't be loaded at an IRET: nothing here loads any. */
failsafe_callback:
        ud2

common:
        push %ds
        push %es
        pusha
        cld
        mov %esp, %ebx
        and $-16, %esp
        sub $12, %esp
        push %ebx
        call handle_vector
        mov %ebx, %esp
        popa
        pop %es
        pop %ds
        add $8, %esp
        push %eax
        mov $23, %eax                   /* HYPERVISOR_iret */
        int $0x82
        ud2

        .globl guard_set, guard_jump
guard_set:
        mov 4(%esp), %ecx
        mov %ebx, (%ecx)
        mov %ebp, 4(%ecx)
        mov %esi, 8(%ecx)
        mov %edi, 12(%ecx)
        mov %esp, 16(%ecx)
        mov (%esp), %eax
        mov %eax, 20(%ecx)
        xor %eax, %eax
        ret
guard_jump:
        mov 4(%esp), %ecx
        mov (%ecx), %ebx
        mov 4(%ecx), %ebp
        mov 8(%ecx), %esi
        mov 12(%ecx), %edi
        mov 16(%ecx), %esp
        mov 20(%ecx), %eax
        mov %eax, (%esp)
        mov $1, %eax
        ret

        .data
        .globl pv_start_info
        .align 4
pv_start_info:
        .long 0

        .bss
        .align 4096
        .fill 8 * STACK_SIZE, 1, 0
boot_stack_top:

        .section .note.GNU-stack, "", @progbits

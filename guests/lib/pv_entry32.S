/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PV entry point of 32-bit guests: ring 1, PAE paging on, %esi = address of the start info
 * page.  Then the kernel's exception handlers, the event callback, and the way back by hypercall.
 */
#include "layout.h"
#include "pv_note.h"
#include "frame32.h"

        PV_NOTES long
        NOTE 9, asciz, "yes"            /* PAE_MODE */

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
        SAVE_REGISTERS
        CALL_HANDLE_VECTOR
        add $8, %esp
        push %eax
        mov $23, %eax                   /* HYPERVISOR_iret */
        int $0x82
        ud2

        .globl guard_set, guard_jump
guard_set:
        GUARD_SAVE
guard_jump:
        GUARD_RESTORE

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

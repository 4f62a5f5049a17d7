/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PV entry point: 64-bit mode, paging on, %rsi = address of the start info page.  Then the
 * kernel's exception handlers, the event callback, and the way back by hypercall.
 */
#include "layout.h"
#include "pv_note.h"
#include "frame64.h"

        PV_NOTES quad

        .section .text.start, "ax"
        .globl _start
_start:
        cld
        pushf
        pop pv_entry_flags
        mov %rsp, pv_entry_stack
        mov %cs, pv_entry_cs
        mov %ss, pv_entry_ss
        lea boot_stack_top, %rsp
        mov %rsi, pv_start_info
        xor %ebp, %ebp
        call cmain
        ud2

/* Exception frames: rcx, r11, [error code], rip, cs, rflags, rsp, ss. */
        .text
        .globl vector_stubs
        .align 32
vector_stubs:
        .set vector, 0
        .rept 256
        .align 32
        pop %rcx
        pop %r11
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
        pop %rcx
        pop %r11
        push $0
        push $0x100
        jmp common

/* Segments couldn't be loaded at an IRET: nothing here loads any. */
failsafe_callback:
        ud2

common:
        CALL_HANDLE_VECTOR
        add $16, %rsp
        push $0                         /* no flags: all registers as they are */
        push %rcx
        push %r11
        push %rax
        mov $23, %eax                   /* HYPERVISOR_iret */
        syscall
        ud2

        .globl guard_set, guard_jump
guard_set:
        GUARD_SAVE
guard_jump:
        GUARD_RESTORE

        .globl pv_iret_to
pv_iret_to:
        mov %rsp, %rax
        push %rsi
        push %rax
        pushf
        push %rdi
        lea 1f(%rip), %rax
        push %rax
        push $0
        push $0
        push $0
        push $0
        mov $23, %eax
        syscall
        ud2
1:      mov %cs, %eax
        ret

        .data
        .globl pv_start_info, pv_entry_flags, pv_entry_stack, pv_entry_cs, pv_entry_ss
        .align 8
pv_start_info:
        .quad 0
pv_entry_flags:
        .quad 0
pv_entry_stack:
        .quad 0
pv_entry_cs:
        .word 0
pv_entry_ss:
        .word 0

        .bss
        .align 4096
        .fill 8 * STACK_SIZE, 1, 0
boot_stack_top:

        .section .note.GNU-stack, "", @progbits

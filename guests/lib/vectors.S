/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 256 interrupt entry points, the common path to `handle_vector` in C, and guard_set/guard_jump. */
#include "layout.h"
#ifdef ENV_64
#include "frame64.h"
#else
#include "frame32.h"
#endif

        .text
        .globl vector_stubs
        .align 16
vector_stubs:
        .set vector, 0
        .rept 256
        .align 16
        .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
        .else
        push $0
        .endif
#ifdef ENV_64
        push $vector
        jmp common64
#else
        push $vector
        jmp common32
#endif
        .set vector, vector + 1
        .endr

#ifdef ENV_64
common64:
        CALL_HANDLE_VECTOR
        add $16, %rsp
        iretq

/* int guard_set(struct guard *): 0 at first, 1 when guard_jump comes back here. */
        .globl guard_set, guard_jump
guard_set:
        GUARD_SAVE
guard_jump:
        mov $SEL_KDS, %eax
        mov %eax, %ss
        mov %eax, %ds
        mov %eax, %es
        GUARD_RESTORE

/* void enter_user(ulong ip, ulong sp, ulong cs, ulong flags, ulong a0, ulong a1):
 * to ring 3, with a0 in RAX and a1 in RDX; comes back through guard_jump alone. */
        .globl enter_user
enter_user:
        push $SEL_UDS
        push %rsi
        push %rcx
        push %rdx
        push %rdi
        mov $SEL_UDS, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %r8, %rax
        mov %r9, %rdx
        iretq
#else
common32:
        SAVE_REGISTERS
        mov $SEL_KDS, %eax
        mov %eax, %ds
        mov %eax, %es
        CALL_HANDLE_VECTOR
        add $8, %esp
        iret

        .globl guard_set, guard_jump
guard_set:
        GUARD_SAVE
guard_jump:
        mov $SEL_KDS, %eax
        mov %eax, %ss
        mov %eax, %ds
        mov %eax, %es
        GUARD_RESTORE

        .globl enter_user
enter_user:
        mov %esp, %ecx
        push $SEL_UDS
        push 8(%ecx)
        push 16(%ecx)
        push 12(%ecx)
        push 4(%ecx)
        mov $SEL_UDS, %eax
        mov %eax, %ds
        mov %eax, %es
        mov 20(%ecx), %eax
        mov 24(%ecx), %edx
        iret
#endif
        .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 256 interrupt entry points, the common path to `handle_vector` in C, and guard_set/guard_jump. */
#include "layout.h"
#ifdef ENV_64
#include "frame64.h"
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
        push %ds
        push %es
        pusha
        cld
        mov $SEL_KDS, %eax
        mov %eax, %ds
        mov %eax, %es
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
        iret

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
        mov $SEL_KDS, %eax
        mov %eax, %ss
        mov %eax, %ds
        mov %eax, %es
        mov (%ecx), %ebx
        mov 4(%ecx), %ebp
        mov 8(%ecx), %esi
        mov 12(%ecx), %edi
        mov 16(%ecx), %esp
        mov 20(%ecx), %eax
        mov %eax, (%esp)
        mov $1, %eax
        ret

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

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Assembly that 32-bit kernels share, in ring 0 and in ring 1. */

/* Calls handle_vector(struct regs *); the vector and the error code are on the stack. */
        .macro SAVE_REGISTERS
        push %ds
        push %es
        pusha
        cld
        .endm
        .macro CALL_HANDLE_VECTOR       /* after SAVE_REGISTERS */
        mov %esp, %ebx
        and $-16, %esp
        sub $12, %esp
        push %ebx
        call handle_vector
        mov %ebx, %esp
        popa
        pop %es
        pop %ds
        .endm

/* The bodies of guard_set and guard_jump: what C expects to be kept, in a struct guard. */
        .macro GUARD_SAVE
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
        .endm
        .macro GUARD_RESTORE
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
        .endm

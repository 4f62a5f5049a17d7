/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Assembly that 64-bit kernels share, in ring 0 and in ring 3. */

/* Calls handle_vector(struct regs *); the vector and the error code are on the stack. */
        .macro CALL_HANDLE_VECTOR
        push %rax
        push %rbx
        push %rcx
        push %rdx
        push %rsi
        push %rdi
        push %rbp
        push %r8
        push %r9
        push %r10
        push %r11
        push %r12
        push %r13
        push %r14
        push %r15
        cld
        mov %rsp, %rdi
        mov %rsp, %rbx
        and $-16, %rsp
        call handle_vector
        mov %rbx, %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %r11
        pop %r10
        pop %r9
        pop %r8
        pop %rbp
        pop %rdi
        pop %rsi
        pop %rdx
        pop %rcx
        pop %rbx
        pop %rax
        .endm

/* The bodies of guard_set and guard_jump: what C expects to be kept, in a struct guard. */
        .macro GUARD_SAVE
        mov %rbx, (%rdi)
        mov %rbp, 8(%rdi)
        mov %r12, 16(%rdi)
        mov %r13, 24(%rdi)
        mov %r14, 32(%rdi)
        mov %r15, 40(%rdi)
        mov %rsp, 48(%rdi)
        mov (%rsp), %rax
        mov %rax, 56(%rdi)
        xor %eax, %eax
        ret
        .endm
        .macro GUARD_RESTORE
        mov (%rdi), %rbx
        mov 8(%rdi), %rbp
        mov 16(%rdi), %r12
        mov 24(%rdi), %r13
        mov 32(%rdi), %r14
        mov 40(%rdi), %r15
        mov 48(%rdi), %rsp
        mov 56(%rdi), %rax
        mov %rax, (%rsp)
        mov $1, %eax
        ret
        .endm

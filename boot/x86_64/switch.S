/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Coroutine switch, System V calling convention; firmware and host form.
 *
 * A stack that is not running looks like this, lowest address first; its handle points at r15:
 *
 *     r15 r14 r13 r12 rbx rbp  return address
 *
 * A fresh one is made to look as if it had once called arch_switch from stack_begin, with entry in
 * rbx and arg in r12. rbp is 0 there, and the frame is marked outermost, so that unwinders stop.
 */
    .text
    .globl arch_switch
    .type arch_switch, @function
    .balign 16
arch_switch:
    .cfi_startproc
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
    .cfi_endproc
    .size arch_switch, . - arch_switch

/* void *arch_stack_init(void *stack_top, void (*entry)(void *), void *arg) */
    .globl arch_stack_init
    .type arch_stack_init, @function
    .balign 16
arch_stack_init:
    xor %ecx, %ecx
    mov %rcx, -8(%rdi)
    mov %rcx, -16(%rdi)
    lea stack_begin(%rip), %rax
    mov %rax, -24(%rdi)
    mov %rcx, -32(%rdi) /* rbp */
    mov %rsi, -40(%rdi) /* rbx: entry */
    mov %rdx, -48(%rdi) /* r12: arg */
    mov %rcx, -56(%rdi)
    mov %rcx, -64(%rdi)
    mov %rcx, -72(%rdi)
    lea -72(%rdi), %rax
    ret
    .size arch_stack_init, . - arch_stack_init

    .type stack_begin, @function
    .balign 16
stack_begin:
    .cfi_startproc
    .cfi_undefined rip
    mov %r12, %rdi
    call *%rbx
    ud2
    .cfi_endproc
    .size stack_begin, . - stack_begin

    .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Coroutine switch, procedure call standard for the Arm 64-bit architecture (AAPCS64).
 *
 * A stack that is not running looks like this, lowest address first; its handle points at x29:
 *
 *     x29 x30 x19 ... x28 d8 ... d15
 *
 * A fresh one is made to look as if it had once called arch_switch from stack_begin, with entry in
 * x19 and arg in x20. x29 is 0 there, and the frame is marked outermost, so that unwinders stop.
 */
    .text
    .globl arch_switch
    .type arch_switch, @function
    .balign 16
arch_switch:
    .cfi_startproc
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
    .cfi_endproc
    .size arch_switch, . - arch_switch

/* void *arch_stack_init(void *stack_top, void (*entry)(void *), void *arg) */
    .globl arch_stack_init
    .type arch_stack_init, @function
    .balign 16
arch_stack_init:
    sub x0, x0, #160
    adr x3, stack_begin
    stp xzr, x3, [x0]
    stp x1, x2, [x0, #16]
    stp xzr, xzr, [x0, #32]
    stp xzr, xzr, [x0, #48]
    stp xzr, xzr, [x0, #64]
    stp xzr, xzr, [x0, #80]
    stp xzr, xzr, [x0, #96]
    stp xzr, xzr, [x0, #112]
    stp xzr, xzr, [x0, #128]
    stp xzr, xzr, [x0, #144]
    ret
    .size arch_stack_init, . - arch_stack_init

    .type stack_begin, @function
    .balign 16
stack_begin:
    .cfi_startproc
    .cfi_undefined x30
    mov x0, x20
    blr x19
    brk #0
    .cfi_endproc
    .size stack_begin, . - stack_begin

    .section .note.GNU-stack, "", @progbits

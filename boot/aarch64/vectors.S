/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Vectors, 0x80 bytes apart: four groups (from SP_EL0, from SP_EL1, from below in 64 and 32 bits)
 * of synchronous, IRQ, FIQ, SError. Interrupts are masked for ever (clock.c), so whatever comes in
 * here is a report of arch_exception, which does not return. The stack is that of exceptions, from
 * its top: also for an exception inside the report.
 *
 * The frame is struct trap_frame of trap.c.
 */
#define FRAME 304

    .text
    .balign 2048
    .globl vectors
vectors:
    .set i, 0
    .rept 16
    .balign 0x80
    msr tpidr_el1, x0
    ldr x0, =trap_stack_top - FRAME
    mov sp, x0
    stp x1, x2, [sp, #8]
    mov x1, #i
    b exception_common
    .set i, i + 1
    .endr

    .balign 0x80
exception_common:
    mrs x0, tpidr_el1
    str x0, [sp]
    stp x3, x4, [sp, #24]
    stp x5, x6, [sp, #40]
    stp x7, x8, [sp, #56]
    stp x9, x10, [sp, #72]
    stp x11, x12, [sp, #88]
    stp x13, x14, [sp, #104]
    stp x15, x16, [sp, #120]
    stp x17, x18, [sp, #136]
    stp x19, x20, [sp, #152]
    stp x21, x22, [sp, #168]
    stp x23, x24, [sp, #184]
    stp x25, x26, [sp, #200]
    stp x27, x28, [sp, #216]
    stp x29, x30, [sp, #232]
    mrs x2, sp_el0
    mrs x3, elr_el1
    mrs x4, spsr_el1
    mrs x5, esr_el1
    mrs x6, far_el1
    stp x2, x3, [sp, #248]
    stp x4, x5, [sp, #264]
    stp x6, x1, [sp, #280]
    mov x0, sp
    mov x29, xzr
    bl arch_exception
    brk #0
    .ltorg

    .section .note.GNU-stack, "", @progbits

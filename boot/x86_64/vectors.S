/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Vectors. Exceptions (0 to 31) save everything and go to arch_exception, which does not return;
 * each runs on a stack of its own (trap.c). Their stubs are 16 bytes apart.
 *
 * Interrupts happen only inside the `hlt` of board_idle, on the stack of the loop. They tell the
 * local APIC that they were heard, and clear IF in the frame they return to: one interrupt ends one
 * sleep, and a level-triggered line that its driver has not yet served cannot storm.
 */
    .text
    .balign 16
    .globl exception_stubs
exception_stubs:
    .set i, 0
    .rept 32
    .balign 16
    .if ((0x60227d00 >> i) & 1) == 0 /* the others push an error code by themselves */
    push $0
    .endif
    push $i
    jmp exception_common
    .set i, i + 1
    .endr

    .balign 16
exception_common:
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
    and $-16, %rsp
    call arch_exception
    ud2

/* The frame at a handler's entry: rip, cs, rflags, rsp, ss. One register is pushed above it. */
    .macro eoi_xapic
    mov lapic_registers, %rax
    movl $0, 0xb0(%rax)
    .endm
    .macro eoi_x2apic
    push %rcx
    push %rdx
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    pop %rdx
    pop %rcx
    .endm
    .macro interrupt name, eoi
    .balign 16
    .globl \name
\name:
    push %rax
    \eoi
    andl $~0x200, 24(%rsp)
    pop %rax
    iretq
    .endm

    interrupt irq_wake_xapic, eoi_xapic
    interrupt irq_wake_x2apic, eoi_x2apic

    .balign 16
    .globl irq_timer_xapic
irq_timer_xapic:
    movb $0, lapic_timer_armed
    jmp irq_wake_xapic
    .balign 16
    .globl irq_timer_x2apic
irq_timer_x2apic:
    movb $0, lapic_timer_armed
    jmp irq_wake_x2apic

/* Spurious: the APIC wants no answer. */
    .balign 16
    .globl irq_spurious
irq_spurious:
    andl $~0x200, 16(%rsp)
    iretq

    .section .note.GNU-stack, "", @progbits

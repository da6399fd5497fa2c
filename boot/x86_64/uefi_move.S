/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From UEFI to the image's own place (boot/uefi.h). Runs from the handoff, below 1 GiB, in 64-bit
 * mode on the firmware's page tables and stack, all of which the image may be about to overwrite:
 * so paging goes off first, which 32-bit code has to do, and from then on there is no stack. That
 * also undoes whatever the firmware chose (five-level tables, SMEP, CET). What follows is the state
 * that a PVH loader leaves, with the handoff's start info in ebx.
 *
 *     rdi  handoff     rsi  image, fresh     rdx  its bytes
 */
#define CR0_PG   0x80000000
#define CR4_KEEP 0x1020 /* LA57 PAE: what must not change as long as there is paging */
#define EFER_LME 0x100

    .section .rodata.uefi_target, "a"
    .balign 8
    .globl uefi_target
uefi_target:
    .quad __image_start, __image_end
    .quad 0x40000000 /* what the first page tables map */

    .section .text.uefi_move, "ax"
    .code64
    .globl uefi_move, uefi_move_end
uefi_move:
    cli
    cld
    mov %cr4, %rax
    and $CR4_KEEP, %eax
    mov %rax, %cr4
    mov %edi, %ebx
    mov %edx, %ebp
    lea flat(%rip), %rax
    mov %rax, flat_pointer + 2(%rip)
    lgdt flat_pointer(%rip)
    lea 1f(%rip), %rax
    push $8
    push %rax
    lretq
    .code32
1:  mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %cr0, %eax
    and $~CR0_PG, %eax
    mov %eax, %cr0
    xor %eax, %eax
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    and $~EFER_LME, %eax
    wrmsr
    mov %ebp, %ecx
    mov $__image_start, %edi
    rep movsb
    mov $pvh_start, %eax
    jmp *%eax

    .balign 8
flat:
    .quad 0
    .quad 0x00cf9b000000ffff /* 0x08: code, 32 bits */
    .quad 0x00cf93000000ffff /* 0x10: data */
flat_pointer:
    .word . - flat - 1
    .quad 0
uefi_move_end:

    .section .note.GNU-stack, "", @progbits

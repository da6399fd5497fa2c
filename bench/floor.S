/* SPDX-License-Identifier: BSD-2-Clause */
/* The floor of every boot time: a PVH image that writes one byte to the serial port and halts. */
    .section .note, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long start
    .text
    .code32
    .globl start
start:
    movw $0x3f8, %dx
    movb $'!', %al
    outb %al, %dx
    cli
1:  hlt
    jmp 1b
    .section .note.GNU-stack, "", @progbits

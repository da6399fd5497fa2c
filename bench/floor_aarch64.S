/* SPDX-License-Identifier: BSD-2-Clause */
/* The floor on Arm: an Image that writes one byte to the serial port of QEMU's virt and halts. */
    .text
    b start
    .long 0
    .quad 0, 0x1000, 0xa, 0, 0, 0
    .ascii "ARM\x64"
    .long 0
start:
    mov x0, #0x9000000
    mov w1, #'!'
    str w1, [x0]
1:  wfi
    b 1b
    .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From UEFI to the image (boot/uefi.h), which runs wherever it is: it is entered in the handoff,
 * as a loader of Linux's Image would do it, with x1 = the handoff.
 *
 *     x0  handoff     x1  image, fresh     x2  its bytes
 *
 * Firmware left the MMU and the caches on, identity mapped. Everything from the handoff to the end
 * of the image was written through the caches, and is fetched and read without them next: it is
 * cleaned down to memory, this code included. Whether this is EL1 or EL2 is the firmware's choice.
 */
#define SCTLR_CACHES_AND_MMU 0x1005 /* I C M */

    .section .rodata.uefi_target, "a"
    .balign 8
    .globl uefi_target
uefi_target:
    .quad 0, 0
    .quad 1 << 47 /* what the linear map has room for */

    .section .text.uefi_move, "ax"
    .balign 4
    .globl uefi_move, uefi_move_end
uefi_move:
    msr daifset, #15
    mrs x4, ctr_el0
    ubfx x4, x4, #16, #4 /* log2 of the words in the smallest line */
    mov x5, #4
    lsl x5, x5, x4
    add x6, x1, x2
    mov x4, x0
1:  dc civac, x4
    add x4, x4, x5
    cmp x4, x6
    b.lo 1b
    dsb sy
    ic iallu
    dsb sy
    isb

    mov x6, #SCTLR_CACHES_AND_MMU
    mrs x4, CurrentEL
    cmp x4, #2 << 2
    b.eq 2f
    mrs x4, sctlr_el1
    bic x4, x4, x6
    msr sctlr_el1, x4
    b 3f
2:  mrs x4, sctlr_el2
    bic x4, x4, x6
    msr sctlr_el2, x4
3:  isb
    mov x3, x1
    mov x1, x0
    mov x0, xzr
    br x3
uefi_move_end:

    .section .note.GNU-stack, "", @progbits

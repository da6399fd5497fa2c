/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the loader to C, by the boot protocol of Linux's Image: MMU off, x0 = physical address of
 * the device tree, EL2 or EL1, anywhere in RAM at a multiple of 4 KiB. x1 = physical address of the
 * UEFI program's records, or 0. What was loaded is clean in memory down to the point of coherency.
 *
 * EL2 is left at once: nothing here needs it. Then the tables are made that stay for good, without
 * the linear map, which mmu.c adds:
 *
 *     boot_tables + 0x0000  root     [256] ---> level 2
 *     boot_tables + 0x1000  level 2  [0] -----> level 1
 *     boot_tables + 0x2000  level 1  [0][1] --> two tables of pages
 *     boot_tables + 0x3000  pages    the image: RX, R, RW; the last one is mmu.c's window
 *
 * The lower half has no tables at all, so the first fetch with the MMU on faults, at a physical
 * address, into the vector at first_vectors + 0x200, whose address is virtual: that is the jump.
 *
 * Code runs on SP_EL0; SP_EL1 is the stack of exceptions, so that an overflowed stack can report
 * itself.
 *
 * Tables are written with the caches off, so lines that hold older contents of that memory are
 * invalidated before (they must not be written back over them) and after (nor be read).
 */
#include "boot/pe.inc"

#define SCTLR_OFF 0x30d00800 /* what is reserved and 1 */
#define SCTLR_ON  0x30d8180d /* and WXN I SA C M */
#define MAIR      0x00ff     /* 0: normal, write-back; 1: device, nGnRnE */
#define TCR       0xb5100090 /* 48 bits, 4 KiB granules, write-back, inner shareable, EPD0 */

/* AF, inner shareable, UXN, valid page; without bit 54 (PXN) executable, with bit 7 read only. */
#define PAGE_RX 0x0040000000000783
#define PAGE_R  0x0060000000000783
#define PAGE_RW 0x0060000000000703

    .section .head, "ax"
    .globl image_header
image_header:
    add x13, x18, #0x16 /* "MZ": no effect, and what UEFI looks for */
    b image_start
    .quad 0            /* from the loader's base */
    .quad __image_size
    .quad 0xa          /* little endian, 4 KiB pages, anywhere in RAM */
    .quad 0, 0, 0
    .ascii "ARM\x64"
    .long 0x40         /* offset of the PE header */
    pe_header PE_MACHINE_AARCH64

    .section .head.text, "ax"

    .balign 2048
first_vectors:
    .globl image_start
    .type image_start, @function
image_start:
    msr daifset, #15
    mov x19, x0
    mov x20, x1
    mrs x2, CurrentEL
    cmp x2, #2 << 2
    b.ne 1f
    bl leave_el2
1:  msr spsel, #1
    adrp x21, __image_start
    adrp x22, boot_tables
    adrp x23, early_tables
    bl invalidate

    mov x2, x22
2:  stp xzr, xzr, [x2], #16
    cmp x2, x23
    b.lo 2b
    add x2, x22, #0x1000
    orr x2, x2, #3
    str x2, [x22, #256 * 8]
    add x2, x2, #0x1000
    str x2, [x22, #0x1000]
    add x2, x2, #0x1000
    str x2, [x22, #0x2000]
    add x2, x2, #0x1000
    str x2, [x22, #0x2008]

    ldr x8, =PAGE_RX
    ldr x9, =PAGE_R
    ldr x10, =PAGE_RW
    adrp x4, __text_end
    adrp x5, __data_start
    adrp x6, __image_end
    add x3, x22, #0x3000
    mov x2, x21
3:  cmp x2, x5
    csel x7, x9, x10, lo
    cmp x2, x4
    csel x7, x8, x7, lo
    orr x7, x7, x2
    str x7, [x3], #8
    add x2, x2, #0x1000
    cmp x2, x6
    b.lo 3b
    bl invalidate

    mov x2, #MAIR
    msr mair_el1, x2
    ldr x2, =TCR
    mrs x3, id_aa64mmfr0_el1
    and x3, x3, #15 /* how wide physical addresses are; more than 48 bits needs other tables */
    mov x4, #5
    cmp x3, x4
    csel x3, x3, x4, lo
    bfi x2, x3, #32, #3
    msr tcr_el1, x2
    msr ttbr1_el1, x22
    msr ttbr0_el1, xzr
    ldr x2, =first_vectors
    msr vbar_el1, x2
    tlbi vmalle1
    ic iallu
    dsb nsh
    isb
    ldr x2, =SCTLR_ON
    msr sctlr_el1, x2
    isb
    b .

    .org first_vectors + 0x200
    ldr x2, =vectors
    msr vbar_el1, x2
    mov x2, #3 << 20 /* no trap of floating point */
    msr cpacr_el1, x2
    isb
    ldr x2, =trap_stack_top
    mov sp, x2
    msr spsel, #0
    ldr x2, =boot_stack_top
    mov sp, x2
    ldr x2, =__bss_start /* both ends are multiples of 64 */
    ldr x3, =__bss_end
    b 5f
4:  stp xzr, xzr, [x2]
    stp xzr, xzr, [x2, #16]
    stp xzr, xzr, [x2, #32]
    stp xzr, xzr, [x2, #48]
    add x2, x2, #64
5:  cmp x2, x3
    b.lo 4b
    mov x0, x19
    mov x1, x20
    mov x2, x21
    mov x29, xzr
    bl arm_main
    brk #0
    .size image_start, . - image_start

/* Drops [x22, x23) from the data caches. */
    .type invalidate, @function
invalidate:
    mrs x2, ctr_el0
    ubfx x2, x2, #16, #4 /* log2 of the words in the smallest line */
    mov x3, #4
    lsl x3, x3, x2
    mov x2, x22
    dsb sy
1:  dc ivac, x2
    add x2, x2, x3
    cmp x2, x23
    b.lo 1b
    dsb sy
    ret
    .size invalidate, . - invalidate

/* Goes on at EL1, with nothing of EL1 trapped or shifted. Arm ARM D1; GICv3 specification 12.4. */
    .type leave_el2, @function
leave_el2:
    mov x2, #1 << 31 /* HCR_EL2.RW: EL1 is AArch64 */
    msr hcr_el2, x2
    isb
    mov x2, #3 /* EL1 has the counter and the timer */
    msr cnthctl_el2, x2
    msr cntvoff_el2, xzr
    mov x2, #0x33ff
    msr cptr_el2, x2
    msr hstr_el2, xzr
    msr mdcr_el2, xzr
    msr vttbr_el2, xzr
    mrs x2, midr_el1
    msr vpidr_el2, x2
    mrs x2, mpidr_el1
    msr vmpidr_el2, x2
    mrs x2, id_aa64pfr0_el1
    tst x2, #0xf << 24
    b.eq 1f
    mrs x2, s3_4_c12_c9_5 /* ICC_SRE_EL2: EL1 may use system registers */
    mov x3, #9
    orr x2, x2, x3
    msr s3_4_c12_c9_5, x2
    isb
    msr s3_4_c12_c11_0, xzr /* ICH_HCR_EL2 */
1:  mrs x2, id_aa64mmfr0_el1
    ubfx x2, x2, #56, #4
    cbz x2, 2f
    msr s3_4_c1_c1_4, xzr /* HFGRTR_EL2, HFGWTR_EL2, HFGITR_EL2 */
    msr s3_4_c1_c1_5, xzr
    msr s3_4_c1_c1_6, xzr
2:  ldr x2, =SCTLR_OFF
    msr sctlr_el1, x2
    mov x2, #0x3c5 /* EL1 on SP_EL1, all interrupts masked */
    msr spsr_el2, x2
    msr elr_el2, x30
    eret
    .size leave_el2, . - leave_el2
    .ltorg

/* NORETURN void stack_jump(void *stack_top, void (*fn)(const void *), const void *arg) */
    .section .text.stack_jump, "ax"
    .globl stack_jump
    .type stack_jump, @function
stack_jump:
    mov sp, x0
    mov x0, x2
    mov x29, xzr
    blr x1
    brk #0
    .size stack_jump, . - stack_jump

    .section .note.GNU-stack, "", @progbits

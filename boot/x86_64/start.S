/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From reset to C, by the PVH boot protocol: 32-bit protected mode, flat segments, paging and
 * interrupts off, ebx = physical address of struct hvm_start_info. The UEFI program comes this way,
 * too (uefi_move.S).
 *
 * The first page tables map the first GiB twice, at 0 and at the linear base, with 2 MiB pages;
 * vm_init() replaces them. They and the first stack borrow the stacks of the exception handlers
 * (see linker.ld), which are not needed before the vectors are loaded, well after that.
 *
 *     boot_tables + 0x0000  PML4  [0] and [256] -> PDPT
 *     boot_tables + 0x1000  PDPT  [0] -> PD
 *     boot_tables + 0x2000  PD    512 large pages
 *
 * Everything here counts: reset to C takes about 5,500 instructions and the clearing of .bss.
 */
#include "boot/pe.inc"

#define CR0_BITS  0x80010033 /* PG WP NE ET MP PE */
#define CR4_BITS  0x00000620 /* PAE OSFXSR OSXMMEXCPT */
#define EFER_BITS 0x00000900 /* LME NXE */

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_start

    .section .head, "ax"
    .ascii "MZ"
    .zero 0x3a
    .long 0x40
    pe_header PE_MACHINE_X86_64

    .section .head.text, "ax"
    .code32
    .globl pvh_start
    .type pvh_start, @function
pvh_start:
    cli
    cld
    mov $boot_tables, %edi
    xor %eax, %eax
    mov $0x800, %ecx
    rep stosl
    mov $boot_tables + 0x1003, %eax
    mov %eax, boot_tables
    mov %eax, boot_tables + 256 * 8
    movl $boot_tables + 0x2003, boot_tables + 0x1000
    mov $0x83, %eax
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    cmp $0x40000083, %eax
    jne 1b

    mov $CR4_BITS, %eax
    mov %eax, %cr4
    mov $boot_tables, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $EFER_BITS, %eax
    wrmsr
    mov $CR0_BITS, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $start64

    .code64
start64:
    mov $16, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $boot_stack_top, %esp
    fninit
    xorps %xmm0, %xmm0
    mov $__bss_start, %eax /* both ends are multiples of 64 */
    mov $__bss_end, %ecx
    jmp 3f
2:  movaps %xmm0, (%rax)
    movaps %xmm0, 16(%rax)
    movaps %xmm0, 32(%rax)
    movaps %xmm0, 48(%rax)
    add $64, %rax
3:  cmp %rcx, %rax
    jb 2b
    mov %ebx, %edi
    xor %ebp, %ebp
    call pvh_main
    ud2
    .size pvh_start, . - pvh_start

/* NORETURN void stack_jump(void *stack_top, void (*fn)(const void *), const void *arg) */
    .section .text.stack_jump, "ax"
    .globl stack_jump
    .type stack_jump, @function
stack_jump:
    mov %rdi, %rsp
    xor %ebp, %ebp
    mov %rdx, %rdi
    call *%rsi
    ud2
    .size stack_jump, . - stack_jump

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* 0x08: code, 64 bits */
    .quad 0x00cf93000000ffff /* 0x10: data */
    .quad 0, 0               /* 0x18: task state, filled in by trap_init */
gdt_end:
    .globl gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .section .note.GNU-stack, "", @progbits

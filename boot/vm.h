/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_VM_H
#define BOOT_VM_H
/*
 * The page tables, as the files of boot/ see them; drivers use mmio_map and board_guard_page. Both
 * architectures have four levels (0: pages of 4 KiB, 3: the root) of 512 entries; how an entry
 * looks is in boot/ARCH/pte.h. Addresses and lengths of mappings are multiples of a page.
 */
#include "kernel/compiler.h"

enum vm_flags {
    VM_WRITE = 1,
    VM_EXEC = 2,
    VM_UNCACHED = 4,
};
#define VM_ROOT_LEVEL 3u

extern uint64_t vm_root;          /* physical address of the root table; 0: no tables of ours yet */
extern unsigned vm_largest_level; /* of a single mapping */

/* boot/ARCH/mmu.c: the final tables; all RAM must be known. */
void vm_init(void);
/* boot/ARCH/mmu.c: a page for a table before there is an allocator; panics without. 0: there is one
 * now. */
uint64_t vm_early_table(void);

uint64_t vm_table_alloc(void);                                       /* cleared; 0: no memory */
bool vm_map(uint64_t va, uint64_t pa, uint64_t len, unsigned flags); /* false: no table memory */
void vm_map_or_panic(uint64_t va, uint64_t pa, uint64_t end, unsigned flags);
/* All RAM but the image's frames [image, image_end), so that no writable alias of the code exists. */
void vm_map_ram(uint64_t image, uint64_t image_end);
/* The entry that maps va; 0 with *level = 4 when nothing does. [irq] */
uint64_t vm_lookup(uint64_t va, unsigned *level);
bool vm_readable(uint64_t va); /* [irq] */
void vm_guard(uint64_t va, bool guard);
/* What lies at an address that faulted, for people. [irq] */
const char *vm_describe(uint64_t va);

/* linker.ld: the image in virtual addresses. */
extern char __image_start[], __text_end[], __rodata_start[], __rodata_end[], __data_start[];
extern char __image_end[];
#endif

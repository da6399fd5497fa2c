/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H
/*
 * Between an architecture's first instructions and the board: who runs when, and the services that
 * boot/ gives to board/ before there is an allocator. Addresses and lengths are physical bytes.
 * Everything runs on the boot core with interrupts off; nothing here yields.
 *
 *   boot/ARCH   entry, reads the loader's records, memory_add and memory_reserve
 *               or board_survey, when there are no such records
 *   boot/ARCH   final page tables, exception vectors
 *   board_start(boot_info)           console, ACPI or FDT, interrupt controller, clock
 *   strongroom_main(cmdline)         on a 64 KiB stack in the linear map
 *
 * Memory. memory_add is told all RAM once, memory_reserve what of it is taken. Until the page
 * allocator calls board_memory(), memory_early_pages cuts pages off; it never gives them back.
 */
#include "kernel/compiler.h"

struct phys_range {
    uint64_t base, end;
};
#define BOOT_MODULES 4
struct boot_info {
    const char *cmdline; /* in the linear map, "" when there is none */
    uint64_t rsdp;       /* 0: no ACPI */
    uint64_t fdt;        /* flattened device tree, 0: none */
    unsigned module_count;
    struct phys_range module[BOOT_MODULES];
};

/* board/NAME, where the loader gives nothing but a device tree (aarch64): reads it and calls
 * memory_add and memory_reserve (the tree itself included), then sets info->cmdline and the
 * modules. RAM that is known already (memory_ram: from UEFI) stays as it is, so does a command line
 * that is not NULL. Runs on the first page tables, which map the image only: phys_window and
 * mmio_map work for small things (the tree, a console), allocators do not. */
void board_survey(struct boot_info *info);
/* board/NAME: goes on with what is machine-specific, ends in strongroom_main. */
NORETURN void board_start(const struct boot_info *info);
/* board/main.c. */
NORETURN void strongroom_main(const char *cmdline);
/* boot/enter.c: what boot/ARCH fills and hands to the board. All RAM known: boot_map_memory makes
 * the final page tables and the stack on which boot_enter_main calls strongroom_main. */
extern struct boot_info boot_info;
void boot_map_memory(void);
NORETURN void boot_enter_main(const char *cmdline);
/* boot/ARCH/start.S */
NORETURN void stack_jump(void *stack_top, void (*fn)(const void *), const void *arg);

/* boot/memory.c */
void memory_add(uint64_t base, uint64_t len);
void memory_reserve(uint64_t base, uint64_t len);
const struct phys_range *memory_ram(unsigned *count); /* whole pages, as added */
uint64_t memory_top(void);                            /* end of the highest RAM */
/* `count` contiguous pages, not cleared; from the lowest memory above 1 MiB. Panics without. */
uint64_t memory_early_pages(unsigned count);
bool memory_handed_over(void);

/* The linear map of physical memory. */
void *phys_to_linear(uint64_t phys);
/* Makes sure that [phys, phys + len) can be read, RAM or not; NULL when the range is absurd. */
const void *phys_window(uint64_t phys, uint64_t len);

/* boot/ksyms.c: "name+0x12" for an address of code; false when no name is known. [irq] */
bool ksym_name(uintptr_t addr, char *buf, size_t size);
#endif

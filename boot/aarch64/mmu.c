/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The final page tables (boot/vm.c has the layout): those of start.S, which map the image, plus the
 * linear map and devices.
 *
 * Tables lie in two places: in the image (the first ones, and `early_tables`, good for what is
 * needed before RAM is mapped: the device tree, a console, and the RAM that holds more tables), and
 * in the linear map. vm_init takes as many pages as mapping all RAM can need, maps these first, and
 * then the rest; guard pages use up what that left over.
 *
 *     0xffff000000000000  linear map
 *     0xffff800000000000  the image, 4 MiB at most
 *     0xffff8000003ff000  a window of one page onto a table, for mmu_replace
 *
 * The window is there because an entry that maps the table which holds it, or the running stack,
 * has to be changed through another address, and without touching memory in between.
 */
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/pte.h"
#include "boot/vm.h"
#include "boot/aarch64/cpu.h"
#include "kernel/log.h"
#include "kernel/page.h"

#define WINDOW_INDEX      1023u /* of the two tables of pages */
#define TABLES_PER_RANGE  4u    /* what a range of RAM can need at its two ends */
#define TABLES_AT_MOST(n) (4u + (n)*TABLES_PER_RANGE)

static uint64_t image_phys;
static char *next_early = early_tables;
static uint64_t tables, tables_end; /* physical; mapped */

static uint64_t image_len(void)
{
    return (uint64_t)(__image_end - __image_start);
}

static uint64_t phys_of(const void *p)
{
    uint64_t va = (uintptr_t)p, image = (uintptr_t)__image_start;
    return va >= image ? va - image + image_phys : va - ARCH_LINEAR_BASE;
}

void *pte_memory(uint64_t phys)
{
    if (phys - image_phys < image_len())
        return __image_start + (phys - image_phys);
    return phys_to_linear(phys);
}

void mmu_replace(uint64_t *e, uint64_t va, uint64_t v)
{
    uint64_t *pages = (uint64_t *)(void *)(boot_tables + 3 * PAGE_SIZE);
    uint64_t window = (uintptr_t)__image_start + WINDOW_INDEX * PAGE_SIZE;
    uint64_t phys = phys_of(e), offset = phys & (PAGE_SIZE - 1);
    pages[WINDOW_INDEX] = pte_leaf(phys - offset, VM_WRITE, 0);
    pte_sync();
    __asm__ volatile("str xzr, [%0]\n\t"
                     "dsb ishst\n\t"
                     "tlbi vaae1is, %1\n\t"
                     "dsb ish\n\t"
                     "isb\n\t"
                     "str %2, [%0]\n\t"
                     "dsb ishst\n\t"
                     "isb"
                     :
                     : "r"(window + offset), "r"(va >> 12 & ((1ull << 44) - 1)), "r"(v)
                     : "memory");
    pages[WINDOW_INDEX] = 0;
    tlb_drop(window);
}

uint64_t vm_early_table(void)
{
    if (tables < tables_end) {
        tables += PAGE_SIZE;
        return tables - PAGE_SIZE;
    }
    if (tables) /* all RAM is mapped by now */
        return memory_handed_over() ? 0 : memory_early_pages(1);
    if (next_early == early_tables_end)
        panic("no memory for the first page tables");
    next_early += PAGE_SIZE;
    return phys_of(next_early - PAGE_SIZE);
}

void mmu_begin(uint64_t phys)
{
    image_phys = phys;
    vm_largest_level = 2;
    vm_root = phys_of(boot_tables);
    vm_guard((uintptr_t)trap_guard, true);
    vm_guard((uintptr_t)boot_guard, true);
}

void vm_init(void)
{
    unsigned count;
    memory_ram(&count);
    unsigned n = TABLES_AT_MOST(count);
    uint64_t first = memory_early_pages(n), end = first + n * PAGE_SIZE;
    vm_map_or_panic(first + ARCH_LINEAR_BASE, first, end, VM_WRITE);
    tables = first;
    tables_end = end;
    vm_map_ram(image_phys, image_phys + image_len());
}

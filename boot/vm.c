/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page tables: one address space, four levels, built once and then changed only by guard pages and
 * device mappings.
 *
 *     the image           where it is linked, 4 KiB pages: RX, R, RW
 *     ARCH_LINEAR_BASE    + p: all RAM, RW, never executable, in the largest pages that fit; not
 *                         the image's own frames, so that no writable alias of the code exists
 *                         + p: device memory, uncached, as it is asked for
 *     everything else     nothing, so a null or stray pointer faults
 *
 * Tables are reached through the linear map. Their memory is early pages at first, the page
 * allocator's later. A large page is split where something smaller must differ; nothing is ever
 * merged back. How an entry looks, and what it takes to change one that is in use, is the
 * architecture's (pte.h).
 */
#include "boot/vm.h"
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/pte.h"
#include "kernel/board.h"
#include "kernel/log.h"
#include "kernel/page.h"
#include "kernel/pci.h"

#define PHYS_MAX   (1ull << 47) /* what the upper half has room for */
#define ENTRIES    512u
#define NULL_PAGES 0x10000u

uint64_t vm_root;
unsigned vm_largest_level = 1;

static uint64_t level_size(unsigned level)
{
    return 1ull << (12 + 9 * level);
}

static uint64_t *table_of(uint64_t entry)
{
    return pte_memory(entry & PTE_ADDR);
}

uint64_t vm_table_alloc(void)
{
    uint64_t phys = vm_early_table();
    if (!phys) {
        const void *p = page_alloc(PAGE_SIZE);
        if (!p)
            return 0;
        phys = (uintptr_t)p - ARCH_LINEAR_BASE;
    }
    uint64_t *t = pte_memory(phys);
    for (unsigned i = 0; i < ENTRIES; i += 4)
        t[i] = t[i + 1] = t[i + 2] = t[i + 3] = 0;
    return phys;
}

/* Makes the entry at `level` a table, keeping what it maps. */
static bool entry_split(uint64_t *e, uint64_t va, unsigned level)
{
    uint64_t old = *e, table = vm_table_alloc();
    if (!table)
        return false;
    if (pte_present(old)) {
        uint64_t *t = table_of(table), child = pte_child(old, level);
        for (unsigned i = 0; i < ENTRIES; i++)
            t[i] = child + i * level_size(level - 1);
    }
    pte_set(e, va, pte_table(table));
    pte_sync();
    return true;
}

/* The entry for va at `level`, with tables made and large pages split on the way. NULL: no room. */
static uint64_t *entry_make(uint64_t va, unsigned level)
{
    uint64_t *t = table_of(vm_root);
    for (unsigned l = VM_ROOT_LEVEL;; l--) {
        uint64_t *e = &t[va >> (12 + 9 * l) & (ENTRIES - 1)];
        if (l == level)
            return e;
        if (!pte_is_table(*e) && !entry_split(e, va, l))
            return NULL;
        t = table_of(*e);
    }
}

static unsigned best_level(uint64_t va, uint64_t pa, uint64_t len)
{
    unsigned level = vm_largest_level;
    while (level && (!is_aligned(va | pa, level_size(level)) || len < level_size(level)))
        level--;
    return level;
}

bool vm_map(uint64_t va, uint64_t pa, uint64_t len, unsigned flags)
{
    while (len) {
        unsigned level = best_level(va, pa, len);
        uint64_t *e = entry_make(va, level);
        while (e && level && pte_is_table(*e))
            e = entry_make(va, --level); /* there is a table already: fill that */
        if (!e)
            return false;
        uint64_t size = level_size(level), leaf = pte_leaf(0, flags, level);
        do {
            if (level && pte_is_table(*e))
                break;
            pte_set(e++, va, pa | leaf);
            va += size;
            pa += size;
            len -= size;
        } while (len >= size && !is_aligned((uintptr_t)e, PAGE_SIZE));
    }
    pte_sync();
    return true;
}

uint64_t vm_lookup(uint64_t va, unsigned *level)
{
    *level = VM_ROOT_LEVEL + 1;
    if (!vm_root)
        return 0;
    const uint64_t *t = table_of(vm_root);
    for (unsigned l = VM_ROOT_LEVEL;; l--) {
        uint64_t e = t[va >> (12 + 9 * l) & (ENTRIES - 1)];
        *level = l;
        if (!l || !pte_is_table(e))
            return e;
        t = table_of(e);
    }
}

bool vm_readable(uint64_t va)
{
    unsigned level;
    return arch_address_ok(va) && pte_present(vm_lookup(va, &level));
}

void vm_guard(uint64_t va, bool guard)
{
    uint64_t *e = entry_make(va, 0);
    if (!e) {
        log_line("memory", "no page for a table: a guard page is missing");
        return;
    }
    pte_set(e, va, guard ? (*e & ~PTE_PRESENT) | PTE_GUARD : (*e & ~PTE_GUARD) | PTE_PRESENT);
    pte_sync();
}

void board_guard_page(void *page, bool guard)
{
    vm_guard((uintptr_t)page, guard);
}

const char *vm_describe(uint64_t va)
{
    const char *p = (const char *)(uintptr_t)va;
    if (va < NULL_PAGES)
        return "null page";
    if (!arch_address_ok(va))
        return "not an address";
    unsigned level;
    uint64_t entry = vm_lookup(va, &level);
    if (!pte_present(entry))
        return !level && entry & PTE_GUARD ? "guard page (stack overflow?)" : "unmapped";
    if (p >= __image_start && p < __text_end)
        return "code, read only";
    if (p >= __rodata_start && p < __rodata_end)
        return "constants, read only";
    if (p >= __data_start && p < __image_end)
        return "data, not executable";
    return "memory, not executable";
}

void vm_map_or_panic(uint64_t va, uint64_t pa, uint64_t end, unsigned flags)
{
    if (end > pa && !vm_map(va, pa, end - pa, flags))
        panic("no memory for page tables");
}

void vm_map_ram(uint64_t image, uint64_t image_end)
{
    unsigned count;
    const struct phys_range *ram = memory_ram(&count);
    for (unsigned i = 0; i < count; i++) {
        uint64_t base = ram[i].base, end = MIN(ram[i].end, PHYS_MAX);
        if (base < image_end && end > image) {
            vm_map_or_panic(base + ARCH_LINEAR_BASE, base, MIN(end, image), VM_WRITE);
            base = MAX(base, image_end);
        }
        vm_map_or_panic(base + ARCH_LINEAR_BASE, base, end, VM_WRITE);
    }
}

/* A BAR or a table that claims our own memory is wrong: it would get the image's frames writable,
 * and RAM uncached. */
static bool hits_ram(uint64_t base, uint64_t end)
{
    unsigned count;
    const struct phys_range *ram = memory_ram(&count);
    for (unsigned i = 0; i < count; i++)
        if (base < ram[i].end && end > ram[i].base)
            return true;
    return false;
}

static volatile void *map_device(uint64_t phys, uint64_t len, unsigned flags)
{
    uint64_t base = align_down(phys, PAGE_SIZE);
    if (!len || phys >= PHYS_MAX || len > PHYS_MAX - PAGE_SIZE - phys)
        return NULL;
    uint64_t end = align_up(phys + len, PAGE_SIZE);
    if (hits_ram(base, end) || !vm_map(base + ARCH_LINEAR_BASE, base, end - base, flags))
        return NULL;
    return phys_to_linear(phys);
}

volatile void *mmio_map(uint64_t phys, size_t len)
{
    return map_device(phys, len, VM_WRITE | VM_UNCACHED);
}

volatile void *mmio_map_memory(uint64_t phys, size_t len)
{
    return map_device(phys, len, VM_WRITE);
}

/* Firmware tables: RAM or ROM, read only where they are not mapped yet. */
const void *phys_window(uint64_t phys, uint64_t len)
{
    if (phys >= PHYS_MAX || len > PHYS_MAX - PAGE_SIZE - phys)
        return NULL;
    for (uint64_t p = align_down(phys, PAGE_SIZE); p < phys + len; p += PAGE_SIZE) {
        uint64_t va = p + ARCH_LINEAR_BASE;
        if (!vm_readable(va) && !vm_map(va, p, PAGE_SIZE, 0))
            return NULL;
    }
    return phys_to_linear(phys);
}

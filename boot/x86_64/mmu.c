/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page tables: one address space, four levels, built once and then changed only by guard pages and
 * device mappings.
 *
 *     0x0000000000100000  the image, at its physical address, 4 KiB pages: RX, R, RW
 *     everything else below 2^47: nothing, so a null or stray pointer faults
 *     0xffff800000000000  + p: all RAM, RW, never executable, in the largest pages that fit; not
 *                         the image's own frames, so that no writable alias of the code exists
 *                         + p: device memory, uncached, as it is asked for
 *
 * Tables are reached through the linear map (the first tables have one too, see start.S). Their
 * memory is early pages at first, the page allocator's later. A large page is split where something
 * smaller must differ; nothing is ever merged back.
 */
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/x86_64/cpu.h"
#include "kernel/board.h"
#include "kernel/log.h"
#include "kernel/page.h"
#include "kernel/pci.h"

#define PTE_P      VM_PRESENT
#define PTE_W      0x002ull
#define PTE_PWT    0x008ull
#define PTE_PCD    0x010ull
#define PTE_LARGE  0x080ull
#define PTE_NX     (1ull << 63)
#define PTE_ADDR   0x000ffffffffff000ull
#define PHYS_MAX   (1ull << 47) /* what the upper half has room for */
#define ENTRIES    512u
#define LEVEL_PML4 3u

static uint64_t root; /* physical address of the PML4 */
static unsigned largest_level = 1;

static uint64_t level_size(unsigned level)
{
    return 1ull << (12 + 9 * level);
}

static uint64_t *table_of(uint64_t entry)
{
    return phys_to_linear(entry & PTE_ADDR);
}

static uint64_t table_alloc(void)
{
    uint64_t *t;
    if (memory_handed_over())
        t = page_alloc(PAGE_SIZE);
    else
        t = phys_to_linear(memory_early_pages(1));
    if (!t)
        return 0;
    for (unsigned i = 0; i < ENTRIES; i += 4)
        t[i] = t[i + 1] = t[i + 2] = t[i + 3] = 0;
    return (uintptr_t)t - ARCH_LINEAR_BASE;
}

/* Makes the entry at `level` a table, keeping what it maps. */
static bool entry_split(uint64_t *e, unsigned level)
{
    uint64_t old = *e, table = table_alloc();
    if (!table)
        return false;
    if (old & PTE_P) {
        uint64_t *t = table_of(table);
        uint64_t keep = level > 1 ? old : old & ~PTE_LARGE;
        for (unsigned i = 0; i < ENTRIES; i++)
            t[i] = keep + i * level_size(level - 1);
    }
    *e = table | PTE_P | PTE_W;
    return true;
}

/* The entry for va at `level`, with tables made and large pages split on the way. NULL: no room. */
static uint64_t *entry_make(uint64_t va, unsigned level)
{
    uint64_t *t = table_of(root);
    for (unsigned l = LEVEL_PML4;; l--) {
        uint64_t *e = &t[va >> (12 + 9 * l) & (ENTRIES - 1)];
        if (l == level)
            return e;
        if ((!(*e & PTE_P) || (*e & PTE_LARGE)) && !entry_split(e, l))
            return NULL;
        t = table_of(*e);
    }
}

static uint64_t entry_flags(unsigned flags)
{
    return PTE_P | (flags & VM_WRITE ? PTE_W : 0) | (flags & VM_EXEC ? 0 : PTE_NX) |
           (flags & VM_UNCACHED ? PTE_PCD | PTE_PWT : 0);
}

static unsigned best_level(uint64_t va, uint64_t pa, uint64_t len)
{
    unsigned level = largest_level;
    while (level && (!is_aligned(va | pa, level_size(level)) || len < level_size(level)))
        level--;
    return level;
}

bool vm_map(uint64_t va, uint64_t pa, uint64_t len, unsigned flags)
{
    uint64_t bits = entry_flags(flags);
    while (len) {
        unsigned level = best_level(va, pa, len);
        uint64_t *e = entry_make(va, level);
        while (e && level && (*e & PTE_P) && !(*e & PTE_LARGE))
            e = entry_make(va, --level); /* there is a table already: fill that */
        if (!e)
            return false;
        uint64_t size = level_size(level);
        do {
            if (level && (*e & PTE_P) && !(*e & PTE_LARGE))
                break;
            uint64_t old = *e;
            *e++ = pa | bits | (level ? PTE_LARGE : 0);
            if (old & PTE_P)
                invlpg(va);
            va += size;
            pa += size;
            len -= size;
        } while (len >= size && !is_aligned((uintptr_t)e, PAGE_SIZE));
    }
    return true;
}

uint64_t vm_lookup(uint64_t va, unsigned *level)
{
    *level = LEVEL_PML4 + 1;
    if (!root)
        return 0;
    const uint64_t *t = table_of(root);
    for (unsigned l = LEVEL_PML4;; l--) {
        uint64_t e = t[va >> (12 + 9 * l) & (ENTRIES - 1)];
        *level = l;
        if (!l || !(e & PTE_P) || (e & PTE_LARGE))
            return e;
        t = table_of(e);
    }
}

void vm_guard(uint64_t va, bool guard)
{
    uint64_t *e = entry_make(va, 0);
    if (!e) {
        log_line("memory", "no page for a table: a guard page is missing");
        return;
    }
    if (guard)
        *e = (*e & ~(uint64_t)PTE_P) | VM_GUARD;
    else
        *e = (*e & ~(uint64_t)VM_GUARD) | PTE_P;
    invlpg(va);
}

void board_guard_page(void *page, bool guard)
{
    vm_guard((uintptr_t)page, guard);
}

static void map_or_panic(uint64_t va, uint64_t pa, uint64_t end, unsigned flags)
{
    if (end > pa && !vm_map(va, pa, end - pa, flags))
        panic("no memory for page tables");
}

static void map_image_part(const char *start, const char *end, unsigned flags)
{
    uint64_t a = (uintptr_t)start;
    map_or_panic(a, a, align_up((uintptr_t)end, PAGE_SIZE), flags);
}

/* All RAM but the image's frames. */
static void map_ram(uint64_t base, uint64_t end)
{
    uint64_t image = (uintptr_t)__image_start, image_end = (uintptr_t)__image_end;
    if (base < image_end && end > image) {
        map_or_panic(base + ARCH_LINEAR_BASE, base, MIN(end, image), VM_WRITE);
        base = MAX(base, image_end);
    }
    map_or_panic(base + ARCH_LINEAR_BASE, base, end, VM_WRITE);
}

void vm_init(void)
{
    if (cpuid(0x80000001, 0).d & 1u << 26)
        largest_level = 2;
    root = table_alloc();
    map_image_part(__image_start, __text_end, VM_EXEC);
    map_image_part(__rodata_start, __rodata_end, 0);
    map_image_part(__data_start, __image_end, VM_WRITE);
    vm_guard((uintptr_t)trap_guard, true);
    vm_guard((uintptr_t)boot_guard, true);

    unsigned count;
    const struct phys_range *ram = memory_ram(&count);
    for (unsigned i = 0; i < count; i++)
        map_ram(ram[i].base, ram[i].end);
    write_cr3(root);
    if (cpuid(0, 0).a >= 7) {
        uint32_t b = cpuid(7, 0).b;
        uint64_t cr4 = read_cr4();
        write_cr4(cr4 | (b & 1u << 7 ? 1u << 20 : 0) | (b & 1u << 20 ? 1u << 21 : 0));
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
        unsigned level;
        uint64_t va = p + ARCH_LINEAR_BASE;
        if (!(vm_lookup(va, &level) & PTE_P) && !vm_map(va, p, PAGE_SIZE, 0))
            return NULL;
    }
    return phys_to_linear(phys);
}

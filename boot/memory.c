/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RAM before there is an allocator: two short lists.
 *
 * ram[] is what the loader called RAM, rounded inwards to whole pages: what the linear map covers.
 * usable[] is the same minus what is taken (the image, the loader's records, modules, tables);
 * memory_reserve subtracts, so order does not matter as long as all RAM was added first.
 * When a list is full, RAM is left out rather than a reservation forgotten.
 */
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/pte.h"
#include "kernel/board.h"
#include "kernel/log.h"
#include "kernel/page.h"

#define MAX_RANGES 64       /* UEFI firmware cuts RAM into a few dozen pieces */
#define LOW_HOLE   0xa0000u /* video memory and ROMs: some loaders call this RAM */
#define ONE_MIB    0x100000u

struct range_list {
    unsigned count;
    struct phys_range r[MAX_RANGES];
};
static struct range_list ram, usable;
static uint64_t ram_bytes;
static bool handed_over;

static void range_add(struct range_list *l, uint64_t base, uint64_t end)
{
    base = align_up(base, PAGE_SIZE);
    end = align_down(end, PAGE_SIZE);
    if (base < end && l->count < MAX_RANGES)
        l->r[l->count++] = (struct phys_range){base, end};
}

static void range_subtract(struct range_list *l, uint64_t base, uint64_t end)
{
    for (unsigned i = 0; i < l->count; i++) {
        struct phys_range *r = &l->r[i], old = *r;
        if (end <= old.base || base >= old.end)
            continue;
        r->base = r->end = 0; /* empty; what is left of it comes back below */
        if (base > old.base)
            *r = (struct phys_range){old.base, base};
        if (end < old.end) {
            if (r->base == r->end)
                *r = (struct phys_range){end, old.end};
            else
                range_add(l, end, old.end);
        }
    }
}

void memory_add(uint64_t base, uint64_t len)
{
    if (!len || len > UINT64_MAX - base)
        return;
    uint64_t end = base + len;
    if (base < LOW_HOLE && end > LOW_HOLE) {
        memory_add(base, LOW_HOLE - base);
        if (end > ONE_MIB)
            memory_add(ONE_MIB, end - ONE_MIB);
        return;
    }
    ram_bytes += len;
    range_add(&ram, base, end);
    range_add(&usable, base, end);
}

void memory_reserve(uint64_t base, uint64_t len)
{
    uint64_t end = len > UINT64_MAX - PAGE_SIZE - base ? UINT64_MAX - PAGE_SIZE : base + len;
    range_subtract(&usable, align_down(base, PAGE_SIZE), align_up(end, PAGE_SIZE));
}

const struct phys_range *memory_ram(unsigned *count)
{
    *count = ram.count;
    return ram.r;
}

uint64_t memory_top(void)
{
    uint64_t top = 0;
    for (unsigned i = 0; i < ram.count; i++)
        top = MAX(top, ram.r[i].end);
    return top;
}

uint64_t memory_early_pages(unsigned count)
{
    struct phys_range *best = NULL;
    uint64_t len = (uint64_t)count * PAGE_SIZE;
    for (unsigned i = 0; i < usable.count; i++) {
        struct phys_range *r = &usable.r[i];
        if (r->base >= ONE_MIB && r->base + len <= MIN(r->end, FIRST_TABLES_END) &&
            (!best || r->base < best->base))
            best = r;
    }
    if (!best || handed_over)
        panic("no memory for %u early pages", count);
    best->base += len;
    return best->base - len;
}

bool memory_handed_over(void)
{
    return handed_over;
}

void *phys_to_linear(uint64_t phys)
{
    return (void *)(uintptr_t)(phys + ARCH_LINEAR_BASE);
}

/* Rounded up to MiB: loaders leave the ROM hole and a few pages of tables out. */
uint64_t board_ram_bytes(void)
{
    return align_up(ram_bytes, ONE_MIB);
}

unsigned board_memory(struct mem_range *ranges, unsigned max)
{
    unsigned n = 0;
    for (unsigned i = 0; i < usable.count && n < max; i++) {
        const struct phys_range *r = &usable.r[i];
        if (r->base < r->end)
            ranges[n++] = (struct mem_range){phys_to_linear(r->base), r->end - r->base};
    }
    handed_over = true;
    return n;
}

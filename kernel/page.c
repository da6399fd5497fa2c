/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages: one bitmap per range of memory, a set bit is a page in use, first fit.
 *
 * The bitmap of a range lies at its own beginning and marks itself. `hint` is a word below which no
 * page of the range is free. A search looks at words, not at bits: the full ones are stepped over
 * by 64 pages, runs are measured with a count of trailing zeros. So the large runs that pools take
 * at start cost about an instruction per page.
 */
#include "kernel/board.h"
#include "kernel/log.h"
#include "kernel/page.h"
#include "kernel/poison.h"

#include <string.h>

#define MAX_RANGES 32
#define WORD_BITS  64u

struct range {
    char *base;
    size_t pages;
    uint64_t *map; /* bits past `pages` are set */
    size_t words, hint;
};

static struct range ranges[MAX_RANGES];
static unsigned nranges;
static size_t free_pages, total_pages;

static size_t pages_of(size_t bytes)
{
    return bytes / PAGE_SIZE + (bytes % PAGE_SIZE != 0);
}

/* Bits [bit, bit + n) to `used`. They must all be the other way: a page freed twice is found here.
 * */
static void mark(struct range *r, size_t bit, size_t n, bool used)
{
    while (n) {
        size_t off = bit % WORD_BITS, here = MIN(n, WORD_BITS - off);
        uint64_t mask = (here == WORD_BITS ? ~0ull : (1ull << here) - 1) << off;
        uint64_t *w = &r->map[bit / WORD_BITS];
        ASSERT((*w & mask) == (used ? 0 : mask));
        *w ^= mask;
        bit += here;
        n -= here;
    }
}

static void add_range(struct mem_range m)
{
    size_t pages = m.len / PAGE_SIZE, words = (pages + WORD_BITS - 1) / WORD_BITS;
    size_t own = pages_of(words * sizeof(uint64_t));
    if (nranges == MAX_RANGES || pages <= own)
        return;
    struct range *r = &ranges[nranges++];
    *r = (struct range){.base = m.base, .pages = pages, .map = m.base, .words = words};
    memset(r->map, 0, words * sizeof(uint64_t));
    if (pages % WORD_BITS)
        r->map[words - 1] = ~0ull << (pages % WORD_BITS);
    mark(r, 0, own, true);
    total_pages += pages;
    free_pages += pages - own;
}

void page_init(void)
{
    struct mem_range m[MAX_RANGES];
    unsigned n = board_memory(m, MAX_RANGES);
    ASSERT(nranges == 0);
    for (unsigned i = 0; i < n; i++)
        add_range(m[i]);
    if (!nranges)
        panic("no memory");
}

/* First bit of [bit, end) that is set (free: clear); `end` when there is none. */
static size_t next_bit(const struct range *r, size_t bit, size_t end, bool set)
{
    uint64_t flip = set ? 0 : ~0ull;
    for (size_t w = bit / WORD_BITS; w * WORD_BITS < end; w++) {
        uint64_t v = r->map[w] ^ flip;
        if (w == bit / WORD_BITS)
            v &= ~0ull << (bit % WORD_BITS);
        if (v)
            return MIN(w * WORD_BITS + (unsigned)__builtin_ctzll(v), end);
    }
    return end;
}

static void *take(struct range *r, size_t n)
{
    size_t first = next_bit(r, r->hint * WORD_BITS, r->pages, false), bit = first;
    r->hint = first / WORD_BITS;
    while (n <= r->pages - bit) {
        size_t end = next_bit(r, bit, bit + n, true);
        if (end == bit + n) {
            mark(r, bit, n, true);
            return r->base + bit * PAGE_SIZE;
        }
        bit = next_bit(r, end, r->pages, false);
    }
    return NULL;
}

void *page_alloc(size_t bytes)
{
    size_t n = pages_of(bytes);
    ASSERT(n);
    for (unsigned i = 0; i < nranges; i++) {
        void *p = take(&ranges[i], n);
        if (p) {
            free_pages -= n;
            unpoison(p, n * PAGE_SIZE);
            return p;
        }
    }
    return NULL;
}

void *page_alloc_zeroed(size_t bytes)
{
    void *p = page_alloc(bytes);
    return p ? memset(p, 0, pages_of(bytes) * PAGE_SIZE) : NULL;
}

void page_free(void *p, size_t bytes)
{
    size_t n = pages_of(bytes);
    for (unsigned i = 0; i < nranges; i++) {
        struct range *r = &ranges[i];
        size_t off = (uintptr_t)p - (uintptr_t)r->base;
        if (!range_ok(off, n * PAGE_SIZE, r->pages * PAGE_SIZE))
            continue;
        ASSERT(is_aligned(off, PAGE_SIZE));
        mark(r, off / PAGE_SIZE, n, false);
        r->hint = MIN(r->hint, off / PAGE_SIZE / WORD_BITS);
        free_pages += n;
        poison(p, n * PAGE_SIZE);
        return;
    }
    panic("page_free: %p is not ours", p);
}

size_t page_free_bytes(void)
{
    return free_pages * PAGE_SIZE;
}

size_t page_total_bytes(void)
{
    return total_pages * PAGE_SIZE;
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/sim/util.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCK (4u << 20)

struct heap_block {
    struct heap_block *next;
    size_t size;
    _Alignas(16) char bytes[];
};

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "sim: no memory\n");
        abort();
    }
    return p;
}

static void add_block(struct heap *h, size_t n)
{
    size_t size = MAX(n, (size_t)BLOCK);
    struct heap_block *b = must(malloc(sizeof(*b) + size));
    *b = (struct heap_block){.next = h->blocks, .size = size};
    h->blocks = b;
    h->used = 0;
}

void *heap_alloc(struct heap *h, size_t n)
{
    n = align_up(n, 16);
    if (!h->blocks || n > h->blocks->size - h->used)
        add_block(h, n);
    void *p = h->blocks->bytes + h->used;
    h->used += n;
    return p;
}

void *heap_zalloc(struct heap *h, size_t n)
{
    return memset(heap_alloc(h, n), 0, n);
}

char *heap_printf(struct heap *h, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *s = heap_alloc(h, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return s;
}

/* One block is kept: most cases need no more. */
void heap_reset(struct heap *h)
{
    while (h->blocks && h->blocks->next) {
        struct heap_block *b = h->blocks;
        h->blocks = b->next;
        free(b);
    }
    h->used = 0;
}

void heap_free(struct heap *h)
{
    heap_reset(h);
    free(h->blocks);
    *h = (struct heap){0};
}

void *grow(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return array;
    *capacity = MAX(2 * *capacity, (size_t)64);
    return must(realloc(array, *capacity * size));
}

uint64_t hash_bytes(const void *p, size_t n)
{
    const uint8_t *at = p;
    uint64_t h = n * 0x9e3779b97f4a7c15ull, h2 = 0x632be59bd9b4e019ull, a, b;
    for (; n >= 16; n -= 16, at += 16) {
        memcpy(&a, at, 8);
        memcpy(&b, at + 8, 8);
        h = (h ^ a) * 0xff51afd7ed558ccdull;
        h2 = (h2 ^ b) * 0xc4ceb9fe1a85ec53ull;
        h ^= h >> 29;
        h2 ^= h2 >> 31;
    }
    for (; n; n--)
        h = (h ^ *at++) * 0x100000001b3ull;
    return mix64(h ^ mix64(h2));
}

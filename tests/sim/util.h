/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_UTIL_H
#define TESTS_SIM_UTIL_H
/*
 * Small things: random numbers that a seed determines, memory that is given back all at once, hashes,
 * bytes of the network's order. No state of their own.
 */
#include "kernel/compiler.h"

#include <string.h>

/* ---- random numbers (splitmix64) ---- */

struct rng {
    uint64_t state;
};
static inline uint64_t mix64(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}
static inline uint64_t rng_next(struct rng *r)
{
    return mix64(r->state += 0x9e3779b97f4a7c15ull);
}
/* 0 .. n - 1; n > 0 */
static inline unsigned rng_below(struct rng *r, unsigned n)
{
    return (unsigned)((rng_next(r) >> 32) * n >> 32);
}
/* True once in n times. */
static inline bool rng_one_in(struct rng *r, unsigned n)
{
    return !rng_below(r, n);
}
static inline struct rng rng_seeded(uint64_t seed, uint64_t what)
{
    return (struct rng){mix64(seed * 0x9e3779b97f4a7c15ull + what)};
}

/* ---- memory ---- */

/* heap_reset takes back everything at once. Never NULL: a simulator without memory ends. */
struct heap_block;
struct heap {
    struct heap_block *blocks; /* the one in use, and those behind it that are full */
    size_t used;
};
void *heap_alloc(struct heap *h, size_t n); /* 16-byte aligned, not zeroed */
void *heap_zalloc(struct heap *h, size_t n);
char *heap_printf(struct heap *h, const char *fmt, ...) PRINTF_LIKE(2, 3);
void heap_reset(struct heap *h);
void heap_free(struct heap *h); /* and the memory goes back to the system */

/* Arrays that grow: GROW(array, count, capacity) makes room for one more. */
void *grow(void *array, size_t count, size_t *capacity, size_t size);
#define GROW(array, count, capacity) \
    ((array) = grow((array), (count), &(capacity), sizeof(*(array))))

/* ---- hashes ---- */

uint64_t hash_bytes(const void *p, size_t n);
static inline uint64_t hash_two(uint64_t a, uint64_t b)
{
    return mix64(a * 0x9e3779b97f4a7c15ull ^ mix64(b + 0x632be59bd9b4e019ull));
}

/* ---- big-endian fields ---- */

static inline uint64_t get_be(const void *at, unsigned bytes)
{
    const uint8_t *p = at;
    uint64_t v = 0;
    while (bytes--)
        v = v << 8 | *p++;
    return v;
}
static inline void put_be(void *at, unsigned bytes, uint64_t v)
{
    uint8_t *p = at;
    while (bytes--) {
        p[bytes] = (uint8_t)v;
        v >>= 8;
    }
}
#endif

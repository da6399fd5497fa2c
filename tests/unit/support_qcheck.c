/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_qcheck.h"

#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OFFSET     0x00fffffffffffe00ull
#define COPIED     (1ull << 63)
#define COMPRESSED (1ull << 62)

/* ---- fields ---- */

struct image_header image_header(const uint8_t *f)
{
    bool v3 = get_be(f + 4, 4) == 3;
    uint64_t incompatible = v3 ? get_be(f + 72, 8) : 0;
    struct image_header h = {
        .version = (unsigned)get_be(f + 4, 4),
        .cluster_bits = (unsigned)get_be(f + 20, 4),
        .refcount_order = v3 ? (unsigned)get_be(f + 96, 4) : 4,
        .snapshots = (unsigned)get_be(f + 60, 4),
        .extended = incompatible & 16,
        .external = incompatible & 4,
        .raw = v3 && (get_be(f + 88, 8) & 2),
        .size = get_be(f + 24, 8),
        .l1 = get_be(f + 40, 8),
        .l1_entries = get_be(f + 36, 4),
        .reftable = get_be(f + 48, 8),
        .snapshots_at = get_be(f + 64, 8),
    };
    h.reftable_bytes = get_be(f + 56, 4) << h.cluster_bits;
    return h;
}

static uint64_t per_table(const struct image_header *h)
{
    return (1ull << h->cluster_bits) / (h->extended ? 16 : 8);
}

uint64_t image_entry(const uint8_t *f, uint64_t guest)
{
    struct image_header h = image_header(f);
    uint64_t n = guest >> h.cluster_bits, width = h.extended ? 16 : 8;
    uint64_t table = get_be(f + h.l1 + n / per_table(&h) * 8, 8) & OFFSET;
    return table ? table + n % per_table(&h) * width : 0;
}

static uint64_t block_of(const uint8_t *f, const struct image_header *h, uint64_t cluster,
                         uint64_t *index)
{
    unsigned bits = h->cluster_bits + 3 - h->refcount_order;
    uint64_t i = cluster >> bits;
    *index = cluster & ((1ull << bits) - 1);
    return i < h->reftable_bytes / 8 ? get_be(f + h->reftable + i * 8, 8) : 0;
}

uint64_t image_refcount(const uint8_t *f, uint64_t cluster)
{
    struct image_header h = image_header(f);
    unsigned width = 1u << h.refcount_order;
    uint64_t i, block = block_of(f, &h, cluster, &i);
    if (!block)
        return 0;
    if (width >= 8)
        return get_be(f + block + i * width / 8, width / 8);
    return f[block + i * width / 8] >> (i * width % 8) & ((1u << width) - 1);
}

void image_set_refcount(uint8_t *f, uint64_t cluster, uint64_t value)
{
    struct image_header h = image_header(f);
    unsigned width = 1u << h.refcount_order;
    uint64_t i, block = block_of(f, &h, cluster, &i);
    assert_true(block || !value);
    if (!block)
        return;
    assert_true(width == 64 || value >> width == 0);
    uint8_t *at = f + block + i * width / 8;
    unsigned shift = (unsigned)(i * width % 8);
    if (width >= 8)
        put_be(at, width / 8, value);
    else
        *at = (uint8_t)((*at & ~(((1u << width) - 1) << shift)) | value << shift);
}

/* ---- counting ---- */

struct walk {
    const uint8_t *f;
    struct image_header h;
    uint64_t size, n; /* bytes; clusters, all that refcounts speak of */
    uint64_t *count;
    uint8_t *meta;
    struct image_check *c;
};

static PRINTF_LIKE(3, 4) void found(struct walk *w, unsigned *what, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!*what && (what == &w->c->errors || !w->c->first[0]))
        vsnprintf(w->c->first, sizeof(w->c->first), fmt, ap);
    va_end(ap);
    ++*what;
}

/* One reference to each cluster of [off, off + len). */
static bool refer(struct walk *w, uint64_t off, uint64_t len, bool meta, const char *what)
{
    unsigned bits = w->h.cluster_bits;
    if (off >= w->size || (len && off + len - 1 >= w->n << bits)) {
        found(w, &w->c->errors, "%s at 0x%llx: outside of the file", what, (unsigned long long)off);
        return false;
    }
    for (uint64_t k = off >> bits; len && k <= (off + len - 1) >> bits; k++) {
        if ((w->count[k] && meta) || w->meta[k])
            found(w, &w->c->errors, "%s at 0x%llx: overlaps", what, (unsigned long long)k << bits);
        w->count[k]++;
        w->meta[k] |= meta;
    }
    return true;
}

static bool aligned(struct walk *w, uint64_t off, const char *what)
{
    if (!(off & ((1ull << w->h.cluster_bits) - 1)))
        return true;
    found(w, &w->c->errors, "%s at 0x%llx: not aligned", what, (unsigned long long)off);
    return false;
}

static void walk_compressed(struct walk *w, uint64_t entry)
{
    unsigned shift = 62 - (w->h.cluster_bits - 8);
    uint64_t host = entry & ((1ull << shift) - 1);
    uint64_t sectors = ((entry & (COMPRESSED - 1)) >> shift) + 1;
    if (w->h.external)
        found(w, &w->c->errors, "compressed cluster with a data file");
    refer(w, host, sectors * 512 - host % 512, false, "compressed cluster");
}

static void walk_entry(struct walk *w, const uint8_t *at, uint64_t guest)
{
    uint64_t entry = get_be(at, 8), host = entry & OFFSET;
    uint64_t bitmap = w->h.extended ? get_be(at + 8, 8) : 0;
    bool zero_flag = w->h.version == 3 && !w->h.extended;
    if (entry & COMPRESSED) {
        walk_compressed(w, entry);
        return;
    }
    if (entry & (0x3f000000000001feull | !zero_flag))
        found(w, &w->c->errors, "L2 entry 0x%llx: reserved bits", (unsigned long long)entry);
    if (bitmap & bitmap >> 32 & 0xffffffff)
        found(w, &w->c->errors, "subclusters both data and zero: 0x%llx",
              (unsigned long long)bitmap);
    if ((bitmap & 0xffffffff) && !host && !w->h.external)
        found(w, &w->c->errors, "subclusters without a cluster");
    if (w->h.raw && host && host != guest)
        found(w, &w->c->errors, "data file is not raw at 0x%llx", (unsigned long long)guest);
    if (host && !w->h.external && aligned(w, host, "data cluster"))
        refer(w, host, 1ull << w->h.cluster_bits, false, "data cluster");
}

/* An L2 table may be named by several L1 tables. */
static void walk_l1(struct walk *w, uint64_t l1, uint64_t entries, bool again)
{
    uint64_t cluster = 1ull << w->h.cluster_bits, width = w->h.extended ? 16 : 8;
    if (!refer(w, l1, entries * 8, true, "L1 table"))
        return;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t entry = get_be(w->f + l1 + i * 8, 8), table = entry & OFFSET;
        if (entry & 0x7f000000000001ffull)
            found(w, &w->c->errors, "L1 entry 0x%llx: reserved bits", (unsigned long long)entry);
        if (!table || !aligned(w, table, "L2 table"))
            continue;
        bool shared = again && table < w->size && w->meta[table / cluster] == 2;
        if (shared)
            w->count[table / cluster]++;
        else if (!refer(w, table, cluster, true, "L2 table"))
            continue;
        w->meta[table / cluster] = 2;
        for (uint64_t k = 0; k < per_table(&w->h); k++)
            walk_entry(w, w->f + table + k * width, (i * per_table(&w->h) + k) * cluster);
    }
}

static uint64_t snapshot_bytes(const uint8_t *at)
{
    uint64_t len = 40 + get_be(at + 36, 4) + get_be(at + 12, 2) + get_be(at + 14, 2);
    return (len + 7) / 8 * 8;
}

static void walk_snapshots(struct walk *w)
{
    const uint8_t *at = w->f + w->h.snapshots_at;
    uint64_t len = 0;
    for (unsigned k = 0; k < w->h.snapshots; k++) {
        walk_l1(w, get_be(at + len, 8), get_be(at + len + 8, 4), true);
        len += snapshot_bytes(at + len);
    }
    if (len)
        refer(w, w->h.snapshots_at, len, true, "snapshot table");
}

static void walk_refcounts(struct walk *w)
{
    uint64_t cluster = 1ull << w->h.cluster_bits;
    refer(w, w->h.reftable, w->h.reftable_bytes, true, "refcount table");
    for (uint64_t i = 0; i < w->h.reftable_bytes / 8; i++) {
        uint64_t block = get_be(w->f + w->h.reftable + i * 8, 8);
        if (block && aligned(w, block, "refcount block"))
            refer(w, block, cluster, true, "refcount block");
    }
}

/* Clusters that any refcount block counts, or that the file has. */
static uint64_t clusters_of(const uint8_t *f, const struct image_header *h, uint64_t size)
{
    unsigned bits = h->cluster_bits + 3 - h->refcount_order;
    uint64_t n = (size + (1ull << h->cluster_bits) - 1) >> h->cluster_bits;
    for (uint64_t i = 0; i < h->reftable_bytes / 8; i++)
        if (get_be(f + h->reftable + i * 8, 8))
            n = MAX(n, (i + 1) << bits);
    return n;
}

static void walk_all(struct walk *w, const uint8_t *f, uint64_t size, struct image_check *c)
{
    *c = (struct image_check){0};
    *w = (struct walk){.f = f, .h = image_header(f), .size = size, .c = c};
    w->n = clusters_of(f, &w->h, size);
    w->count = calloc(w->n, sizeof(*w->count));
    w->meta = calloc(w->n, 1);
    refer(w, 0, 1, true, "header");
    walk_refcounts(w);
    walk_l1(w, w->h.l1, w->h.l1_entries, false);
    walk_snapshots(w);
}

static void walk_free(struct walk *w)
{
    free(w->count);
    free(w->meta);
}

/* ---- against what is there ---- */

static void compare_refcounts(struct walk *w)
{
    for (uint64_t k = 0; k < w->n; k++) {
        uint64_t is = image_refcount(w->f, k), should = w->count[k];
        w->c->used += should != 0;
        if (is != should)
            found(w, is < should ? &w->c->errors : &w->c->leaks,
                  "cluster %llu of %llu: refcount %llu, referred to %llu times",
                  (unsigned long long)k, (unsigned long long)w->n, (unsigned long long)is,
                  (unsigned long long)should);
    }
}

/* An entry of the active disk at `at`; what it should be. */
static uint64_t with_copied(const struct walk *w, const uint8_t *at)
{
    uint64_t entry = get_be(at, 8), host = entry & OFFSET;
    if (entry & COMPRESSED)
        return entry & ~COPIED;
    if (!host || w->h.external)
        return entry;
    return (entry & ~COPIED) | (w->count[host >> w->h.cluster_bits] == 1 ? COPIED : 0);
}

/* fix: where to write, or NULL. */
static void compare_copied(struct walk *w, uint8_t *fix)
{
    uint64_t width = w->h.extended ? 16 : 8;
    for (uint64_t i = 0; i < w->h.l1_entries; i++) {
        const uint8_t *l1 = w->f + w->h.l1 + i * 8;
        uint64_t entry = get_be(l1, 8), table = entry & OFFSET;
        if (!table)
            continue;
        uint64_t should =
            (entry & ~COPIED) | (w->count[table >> w->h.cluster_bits] == 1 ? COPIED : 0);
        if (should != entry)
            found(w, &w->c->errors, "L1 entry 0x%llx: COPIED is wrong", (unsigned long long)entry);
        if (fix)
            put_be(fix + (l1 - w->f), 8, should);
        for (uint64_t k = 0; k < per_table(&w->h); k++) {
            const uint8_t *at = w->f + table + k * width;
            if (with_copied(w, at) == get_be(at, 8))
                continue;
            found(w, &w->c->errors, "L2 entry 0x%llx: COPIED is wrong",
                  (unsigned long long)get_be(at, 8));
            if (fix)
                put_be(fix + (at - w->f), 8, with_copied(w, at));
        }
    }
}

struct image_check image_check(const uint8_t *f, uint64_t size)
{
    struct image_check c;
    struct walk w;
    walk_all(&w, f, size, &c);
    if (!c.errors)
        compare_copied(&w, NULL);
    compare_refcounts(&w);
    uint64_t incompatible = w.h.version == 3 ? get_be(f + 72, 8) : 0;
    c.dirty = incompatible & 1;
    c.corrupt = incompatible & 2;
    walk_free(&w);
    return c;
}

void image_recount(uint8_t *f, uint64_t size)
{
    struct image_check c;
    struct walk w;
    walk_all(&w, f, size, &c);
    assert_int_equal(c.errors, 0);
    for (uint64_t k = 0; k < w.n; k++)
        image_set_refcount(f, k, w.count[k]);
    compare_copied(&w, f);
    walk_free(&w);
}

/* ---- snapshots ---- */

static uint64_t find_free(const uint8_t *f, uint64_t size, uint64_t room, uint64_t want)
{
    struct image_check c;
    struct walk w;
    uint64_t index, run = 0, k;
    walk_all(&w, f, size, &c);
    for (k = 0; k < w.n && run < want; k++)
        run = !w.count[k] && block_of(f, &w.h, k, &index) ? run + 1 : 0;
    walk_free(&w);
    assert_true(run == want && k << w.h.cluster_bits <= room);
    return (k - want) << w.h.cluster_bits;
}

uint64_t image_snapshot(uint8_t *f, uint64_t size, uint64_t room)
{
    struct image_header h = image_header(f);
    uint64_t cluster = 1ull << h.cluster_bits, l1_bytes = h.l1_entries * 8;
    uint64_t l1_clusters = (l1_bytes + cluster - 1) / cluster;
    uint64_t l1 = find_free(f, size, room, l1_clusters + 1), table = l1 + l1_clusters * cluster;
    uint8_t *at = f + table;
    assert_int_equal(h.snapshots, 0);
    memset(f + l1, 0, (l1_clusters + 1) * cluster);
    memcpy(f + l1, f + h.l1, l1_bytes);
    put_be(at, 8, l1);
    put_be(at + 8, 4, h.l1_entries);
    put_be(at + 12, 2, 1);
    put_be(at + 14, 2, 4);
    put_be(at + 36, 4, 16);
    put_be(at + 48, 8, h.size);
    memcpy(at + 56, "1snap", 5);
    put_be(f + 60, 4, 1);
    put_be(f + 64, 8, table);
    size = MAX(size, table + cluster);
    image_recount(f, size);
    return size;
}

uint8_t *image_of_snapshot(const uint8_t *f, uint64_t size)
{
    struct image_header h = image_header(f);
    uint8_t *copy = malloc(size);
    memcpy(copy, f, size);
    put_be(copy + 40, 8, get_be(f + h.snapshots_at, 8));
    return copy;
}

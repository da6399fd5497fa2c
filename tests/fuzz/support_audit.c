/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/fuzz/support_audit.h"

#include <string.h>

#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

#define OFFSET_MASK   0x00fffffffffffe00ull
#define COPIED        (1ull << 63)
#define COMPRESSED    (1ull << 62)
#define L1_MOST       4096u
#define SNAPSHOT_MOST 64u

uint64_t audit_be(const uint8_t *at, unsigned bytes)
{
    uint64_t v = 0;
    while (bytes--)
        v = v << 8 | *at++;
    return v;
}

/* 0 outside of the file: entries there name nothing. */
static uint64_t get(const struct audit *a, uint64_t off, unsigned bytes)
{
    return off < a->len && a->len - off >= bytes ? audit_be(a->file + off, bytes) : 0;
}

static uint64_t cluster_size(const struct audit *a)
{
    return 1ull << a->bits;
}

/* ---- counting ---- */

static void count(struct audit *a, uint64_t off, uint64_t len, enum role role, bool snapshot)
{
    if (!len)
        return;
    if (off >= a->len || len > a->len - off)
        a->bad++;
    uint64_t first = off >> a->bits, last = (off + len - 1) >> a->bits;
    for (uint64_t c = first; c <= last && c < a->clusters; c++) {
        a->spot[c].refs++;
        a->spot[c].roles |= role;
        a->spot[c].snapshot |= snapshot;
    }
}

/* A cluster that an entry names. False: it names none. */
static bool count_entry(struct audit *a, uint64_t entry, enum role role, bool snapshot)
{
    uint64_t off = entry & OFFSET_MASK;
    if (off & (cluster_size(a) - 1)) {
        a->bad++;
        count(a, off & ~(cluster_size(a) - 1), 2 * cluster_size(a), role, snapshot);
        return false;
    }
    if (off)
        count(a, off, cluster_size(a), role, snapshot);
    return off;
}

static unsigned l2_width(const struct audit *a)
{
    return a->extended ? 16 : 8;
}

static uint64_t l2_entries(const struct audit *a)
{
    return cluster_size(a) / l2_width(a);
}

static void packed_range(const struct audit *a, uint64_t entry, uint64_t *off, uint64_t *len)
{
    unsigned shift = 62 - (a->bits - 8);
    uint64_t sectors = (entry & (COMPRESSED - 1)) >> shift;
    *off = entry & ((1ull << shift) - 1);
    *len = (sectors + 1) * 512 - *off % 512;
}

static void count_data(struct audit *a, uint64_t entry, bool snapshot)
{
    uint64_t off, len;
    if (entry & COMPRESSED) {
        packed_range(a, entry, &off, &len);
        uint64_t end = off < a->len && a->len - off < len ? a->len - off : len;
        count(a, off, end, ROLE_PACKED, snapshot);
    } else if (!a->external) {
        count_entry(a, entry, ROLE_DATA, snapshot);
    }
}

/* `guest`: what its first entry maps. */
static void count_l2(struct audit *a, uint64_t table, uint64_t guest, bool snapshot)
{
    for (uint64_t i = 0; i < l2_entries(a); i++) {
        uint64_t entry = get(a, table + i * l2_width(a), 8);
        count_data(a, entry, snapshot);
        a->misplaced |= a->external && entry > 1 && (entry & OFFSET_MASK) >> a->bits != guest + i;
    }
}

static void count_l1(struct audit *a, uint64_t off, uint64_t n, bool snapshot)
{
    if (n > L1_MOST) {
        a->usable = false;
        return;
    }
    count(a, off, n * 8, ROLE_L1, snapshot);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t entry = get(a, off + i * 8, 8);
        if (count_entry(a, entry, ROLE_L2, snapshot))
            count_l2(a, entry & OFFSET_MASK, i * l2_entries(a), snapshot);
    }
}

static void count_snapshots(struct audit *a)
{
    uint64_t n = get(a, 60, 4), start = get(a, 64, 8), at = start;
    if (n > SNAPSHOT_MOST)
        a->usable = false;
    for (uint64_t i = 0; i < n && at < a->len && a->usable; i++) {
        count_l1(a, get(a, at, 8), get(a, at + 8, 4), true);
        uint64_t len = 40 + get(a, at + 36, 4) + get(a, at + 12, 2) + get(a, at + 14, 2);
        at += (len + 7) & ~7ull;
    }
    count(a, start, at - start, ROLE_SNAPSHOTS, true);
}

/* Directory, tables and bits of the bitmaps extension, where the header says that it is valid. */
static void count_bitmaps(struct audit *a, uint64_t ext)
{
    uint64_t at = get(a, ext + 16, 8), end = at + get(a, ext + 8, 8);
    if (!(get(a, 88, 8) & 1) || end - at > 4096)
        return;
    count(a, at, end - at, ROLE_BITMAPS, false);
    while (at < end) {
        uint64_t table = get(a, at, 8), n = get(a, at + 8, 4);
        for (uint64_t i = 0; i < n && i < 1024; i++)
            count_entry(a, get(a, table + i * 8, 8), ROLE_BITMAPS, false);
        count(a, table, n * 8, ROLE_BITMAPS, false);
        at += (24 + get(a, at + 18, 2) + get(a, at + 20, 4) + 7) & ~7ull;
    }
}

static void count_extensions(struct audit *a)
{
    uint64_t at = a->version == 3 ? get(a, 100, 4) : 72;
    for (unsigned i = 0; i < 100 && at < cluster_size(a) && get(a, at, 4); i++) {
        if (get(a, at, 4) == 0x23852875)
            count_bitmaps(a, at + 8);
        at += 8 + ((get(a, at + 4, 4) + 7) & ~7ull);
    }
}

/* ---- refcounts ---- */

static uint64_t block_entries(const struct audit *a)
{
    return cluster_size(a) * 8 >> a->order;
}

static uint64_t block_of(const struct audit *a, uint64_t cluster)
{
    uint64_t i = cluster / block_entries(a);
    if (i >= get(a, 56, 4) << (a->bits - 3))
        return 0;
    return get(a, get(a, 48, 8) + i * 8, 8) & ~0x1ffull;
}

static uint64_t stored(const struct audit *a, uint64_t cluster)
{
    uint64_t block = block_of(a, cluster), i = cluster % block_entries(a);
    unsigned bits = 1u << a->order;
    if (!block)
        return 0;
    if (bits >= 8)
        return get(a, block + i * (bits / 8), bits / 8);
    return get(a, block + i * bits / 8, 1) >> (i * bits % 8) & ((1u << bits) - 1);
}

static void count_refcounts(struct audit *a)
{
    uint64_t table = get(a, 48, 8), n = get(a, 56, 4) << (a->bits - 3);
    count(a, table, n * 8, ROLE_REFTABLE, false);
    for (uint64_t i = 0; i < n && i < AUDIT_CLUSTERS; i++) {
        uint64_t entry = get(a, table + i * 8, 8);
        if (entry & (cluster_size(a) - 1) || entry >> 56)
            a->bad++;
        else
            count_entry(a, entry, ROLE_REFBLOCK, false);
    }
}

/* ---- flags: after counting ---- */

static void check_flag(struct audit *a, uint64_t entry)
{
    uint64_t c = (entry & OFFSET_MASK) >> a->bits;
    if (!c || c >= a->clusters)
        return;
    if ((entry & COPIED) ? a->spot[c].stored != 1
                         : a->spot[c].stored == 1 && a->spot[c].refs == 1) {
        a->errors++;
        a->spot[c].lied |= entry & COPIED;
    }
}

static void check_flags(struct audit *a)
{
    uint64_t l1 = get(a, 40, 8), n = get(a, 36, 4);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t entry = get(a, l1 + i * 8, 8), table = entry & OFFSET_MASK;
        check_flag(a, entry);
        for (uint64_t k = 0; k < l2_entries(a) && table && !a->external; k++) {
            uint64_t e = get(a, table + k * l2_width(a), 8);
            if (!(e & COMPRESSED))
                check_flag(a, e);
        }
    }
}

/* ---- trust ---- */

static bool sound(const struct spot *s)
{
    return s->stored && s->refs <= s->stored && !s->lied && !(s->roles & (s->roles - 1u));
}

/* A block is as good as the one that counts it. */
static void judge(struct audit *a)
{
    for (uint64_t c = 0; c < a->clusters; c++)
        a->spot[c].trusted = sound(&a->spot[c]);
    for (bool again = true; again;) {
        again = false;
        for (uint64_t c = 0; c < a->clusters; c++) {
            uint64_t block = block_of(a, c) >> a->bits;
            bool good =
                block && block < a->clusters && a->spot[block].trusted && a->spot[block].refs == 1;
            again |= a->spot[c].trusted && !good;
            a->spot[c].trusted &= good;
        }
    }
}

static void sum_up(struct audit *a)
{
    for (uint64_t c = 0; c < a->clusters; c++) {
        struct spot *s = &a->spot[c];
        s->stored = stored(a, c);
        a->errors += s->refs > s->stored || (s->roles & (s->roles - 1u));
        a->leaks += s->stored > s->refs;
        a->dangling += s->refs && !s->stored;
    }
}

static bool read_header(struct audit *a)
{
    a->version = (unsigned)get(a, 4, 4);
    a->bits = (unsigned)get(a, 20, 4);
    a->disk = get(a, 24, 8);
    if (get(a, 0, 4) != 0x514649fb || (a->version != 2 && a->version != 3))
        return false;
    if (a->bits < 9 || a->bits > 21 || get(a, 32, 4))
        return false;
    uint64_t features = a->version == 3 ? get(a, 72, 8) : 0;
    a->external = features & 4;
    a->extended = features & 16;
    a->order = a->version == 3 ? (unsigned)get(a, 96, 4) : 4;
    a->clusters = (a->len + cluster_size(a) - 1) >> a->bits;
    return a->order <= 6 && !(a->extended && a->bits < 14);
}

void audit(struct audit *a, const uint8_t *file, uint64_t len)
{
    memset(a, 0, offsetof(struct audit, spot));
    a->file = file;
    a->len = len;
    if (len > AUDIT_FILE_MAX || !read_header(a))
        return;
    memset(a->spot, 0, a->clusters * sizeof(a->spot[0]));
    a->usable = true;
    count(a, 0, cluster_size(a), ROLE_HEADER, false);
    count_refcounts(a);
    count_l1(a, get(a, 40, 8), get(a, 36, 4), false);
    count_snapshots(a);
    count_extensions(a);
    if (!a->usable)
        return;
    sum_up(a);
    check_flags(a);
    judge(a);
}

static bool trusted_range(const struct audit *a, uint64_t off, uint64_t len)
{
    for (uint64_t c = off >> a->bits; len && c <= (off + len - 1) >> a->bits; c++)
        if (c >= a->clusters || !a->spot[c].trusted)
            return false;
    return true;
}

bool audit_trusts(const struct audit *a, uint64_t guest)
{
    uint64_t i = guest / l2_entries(a), off, len;
    if (!a->usable || a->misplaced || i >= get(a, 36, 4) || !trusted_range(a, 0, 1) ||
        !trusted_range(a, get(a, 40, 8), get(a, 36, 4) * 8) ||
        !trusted_range(a, get(a, 48, 8), get(a, 56, 4) << a->bits))
        return false;
    uint64_t table = get(a, get(a, 40, 8) + i * 8, 8) & OFFSET_MASK;
    if (!table)
        return true;
    if (table & (cluster_size(a) - 1) || !trusted_range(a, table, 1))
        return false;
    uint64_t entry = get(a, table + guest % l2_entries(a) * l2_width(a), 8);
    if (entry & COMPRESSED) {
        packed_range(a, entry, &off, &len);
        return trusted_range(a, off, off < a->len && a->len - off < len ? a->len - off : len);
    }
    off = entry & OFFSET_MASK;
    return !off || a->external || (!(off & (cluster_size(a) - 1)) && trusted_range(a, off, 1));
}

#pragma clang attribute pop

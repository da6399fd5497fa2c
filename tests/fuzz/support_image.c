/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The order in which an image comes to be is that of a real one: clusters are written, a snapshot is
 * taken (its L1 table is a copy, what it leads to is shared), more clusters are written (an L2 table
 * that is shared is copied first), and so on. Refcounts and COPIED flags come last, from the audit's
 * count; the tests of interoperability see to it that QEMU agrees.
 */
#include "tests/fuzz/support_image.h"
#include "tests/fuzz/support_audit.h"
#include "formats/compress.h"
#include "kernel/log.h"

#include <stdlib.h>
#include <string.h>

#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

#define COPIED     (1ull << 63)
#define COMPRESSED (1ull << 62)

static void put(struct image *i, uint64_t off, unsigned bytes, uint64_t v)
{
    for (unsigned k = bytes; k--; v >>= 8)
        i->file[off + k] = (uint8_t)v;
}

static uint64_t get(const struct image *i, uint64_t off, unsigned bytes)
{
    return audit_be(i->file + off, bytes);
}

static uint32_t rnd(struct image *i)
{
    i->random ^= i->random << 13;
    i->random ^= i->random >> 17;
    i->random ^= i->random << 5;
    return i->random;
}

static uint64_t cluster_size(const struct image *i)
{
    return 1ull << i->bits;
}

static unsigned l2_width(const struct image *i)
{
    return i->extended ? 16 : 8;
}

static uint64_t l2_entries(const struct image *i)
{
    return cluster_size(i) / l2_width(i);
}

static void note(struct image *i, enum part_kind kind, uint64_t off, unsigned width, uint64_t count)
{
    if (i->parts < PARTS_MAX)
        i->part[i->parts++] = (struct part){kind, width, off, count};
}

/* ---- clusters ---- */

static uint64_t allocate(struct image *i, uint64_t count)
{
    if (rnd(i) % 8 == 0)
        i->end += rnd(i) % 3 * cluster_size(i);
    uint64_t at = i->end;
    i->end += count * cluster_size(i);
    ASSERT(i->end <= IMAGE_ROOM);
    return at;
}

static uint64_t table(struct image *i, enum part_kind kind, unsigned width, uint64_t clusters)
{
    uint64_t at = allocate(i, clusters);
    note(i, kind, at, width, clusters * cluster_size(i) / width);
    return at;
}

static bool is_shared(const struct image *i, uint64_t index)
{
    uint64_t entry = get(i, i->l1 + index * 8, 8);
    for (unsigned k = 0; k < i->nsnapshots; k++)
        if (get(i, i->snapshot_l1[k] + index * 8, 8) == entry)
            return true;
    return false;
}

/* Where the entry of a guest cluster is, in a table that may be changed. */
static uint64_t entry_of(struct image *i, uint64_t guest)
{
    uint64_t index = guest / l2_entries(i), old = get(i, i->l1 + index * 8, 8), now = old;
    if (!old || is_shared(i, index)) {
        now = table(i, PART_L2, 8, 1);
        if (old)
            memcpy(i->file + now, i->file + old, cluster_size(i));
        put(i, i->l1 + index * 8, 8, now);
    }
    return now + guest % l2_entries(i) * l2_width(i);
}

static void set_model(struct image *i, uint64_t off, const uint8_t *from, uint64_t len)
{
    len = off < i->disk ? MIN(len, i->disk - off) : 0;
    if (from && len)
        memcpy(i->model + off, from, len);
    else
        memset(i->model + off, 0, len);
}

/* Noise, one byte, or one byte with specks. */
static void fill(struct image *i, uint8_t *p, size_t len)
{
    static uint8_t noise[2 * 65536];
    uint32_t how = rnd(i) % 3, v = rnd(i), n = 1;
    for (size_t k = 0; k < sizeof(noise) && !noise[0]; k++)
        noise[sizeof(noise) - 1 - k] = (uint8_t)((n = n * 1664525 + 1013904223) >> 24 | 1);
    if (how == 1)
        memcpy(p, noise + v % 65536, len);
    else
        memset(p, (int)v, len);
    for (size_t k = 0; k < len && how == 2; k += 100)
        p[k] = (uint8_t)rnd(i);
}

static uint8_t *host_data(struct image *i, uint64_t guest, uint64_t *host)
{
    *host = i->external ? guest * cluster_size(i) : allocate(i, 1);
    if (!i->external)
        note(i, PART_DATA, *host, 8, cluster_size(i) / 8);
    return (i->external ? i->data : i->file) + *host;
}

static void put_data(struct image *i, uint64_t guest)
{
    uint64_t entry = entry_of(i, guest), host;
    uint8_t *p = host_data(i, guest, &host);
    fill(i, p, cluster_size(i));
    put(i, entry, 8, host | (i->external ? COPIED : 0));
    if (i->extended)
        put(i, entry + 8, 8, 0xffffffff);
    set_model(i, guest * cluster_size(i), p, cluster_size(i));
}

static void put_subclusters(struct image *i, uint64_t guest)
{
    uint64_t entry = entry_of(i, guest), host, sub = cluster_size(i) / 32, map = 0;
    uint8_t *p = host_data(i, guest, &host), bees[2048];
    memset(bees, i->backing ? 'b' : 0, sizeof(bees));
    fill(i, p, cluster_size(i));
    for (unsigned k = 0; k < 32; k++) {
        uint64_t at = guest * cluster_size(i) + k * sub;
        unsigned how = rnd(i) % 3;
        map |= how == 0 ? 1ull << k : how == 1 ? 1ull << (k + 32) : 0;
        set_model(i, at, how == 0 ? p + k * sub : how == 1 ? NULL : bees, sub);
    }
    put(i, entry, 8, host | (i->external ? COPIED : 0));
    put(i, entry + 8, 8, map);
}

static void put_zero(struct image *i, uint64_t guest)
{
    uint64_t entry = entry_of(i, guest);
    uint64_t host = rnd(i) % 2 && !i->external ? allocate(i, 1) : 0;
    put(i, entry, 8, host | !i->extended);
    if (i->extended)
        put(i, entry + 8, 8, 0xffffffffull << 32);
    set_model(i, guest * cluster_size(i), NULL, cluster_size(i));
}

/* Behind the last one, as long as refcounts can count it. */
static uint64_t packed_place(struct image *i, size_t len)
{
    unsigned most = i->order < 2 ? 1 : i->order == 2 ? 3 : 40;
    if (i->pack && i->packed < most && (i->end == align_up(i->pack, cluster_size(i)))) {
        uint64_t at = i->pack, end = align_up(at + len, cluster_size(i));
        i->packed = end > i->end ? 2 : i->packed + 1;
        i->end = end;
        i->pack = at + len;
        return at;
    }
    uint64_t at = allocate(i, 1);
    i->pack = at + len;
    i->packed = 1;
    return at;
}

/* A few contents per size, compressed once: that takes longer than all the rest. */
struct packed {
    uint8_t *plain, *packed;
    size_t len;
};
static const struct packed *packed_content(struct image *i)
{
    static struct packed all[17][2][4];
    struct packed *p = &all[i->bits][i->zstd][rnd(i) % 4];
    if (p->plain)
        return p;
    uint32_t random = i->random;
    size_t size = cluster_size(i);
    enum compression method = i->zstd ? COMPRESSION_ZSTD : COMPRESSION_ZLIB;
    void *state = aligned_alloc(64, align_up(compressor_size(method, size), 64));
    p->plain = malloc(size);
    p->packed = malloc(size);
    i->random = (uint32_t)(p - all[0][0]) * 2654435761u + 1;
    int n;
    do {
        fill(i, p->plain, size);
        n = compress_all(state, method, p->plain, size, p->packed, size - 1);
    } while (n < 0);
    p->len = (size_t)n;
    i->random = random;
    free(state);
    return p;
}

static void put_packed(struct image *i, uint64_t guest)
{
    const struct packed *p = packed_content(i);
    uint64_t entry = entry_of(i, guest);
    uint64_t at = packed_place(i, p->len), sectors = (at % 512 + p->len - 1) / 512;
    memcpy(i->file + at, p->packed, p->len);
    note(i, PART_PACKED, at, 1, p->len);
    put(i, entry, 8, at | sectors << (62 - (i->bits - 8)) | COMPRESSED);
    if (i->extended)
        put(i, entry + 8, 8, 0);
    set_model(i, guest * cluster_size(i), p->plain, cluster_size(i));
}

static void put_any(struct image *i, uint64_t guest)
{
    unsigned how = rnd(i) % 8;
    if (how < 3)
        put_data(i, guest);
    else if (how == 3 && i->version == 3)
        put_zero(i, guest);
    else if (how == 4 && i->extended)
        put_subclusters(i, guest);
    else if (how < 6 && !i->external)
        put_packed(i, guest);
}

/* ---- snapshots, bitmaps ---- */

static void take_snapshot(struct image *i)
{
    uint64_t n = get(i, 36, 4), at = table(i, PART_SNAPSHOT_L1, 8, 1);
    memcpy(i->file + at, i->file + i->l1, n * 8);
    i->snapshot_l1[i->nsnapshots++] = at;
}

static void put_snapshot_table(struct image *i)
{
    uint64_t at = allocate(i, 1);
    put(i, 60, 4, i->nsnapshots);
    put(i, 64, 8, at);
    for (unsigned k = 0; k < i->nsnapshots; k++, at += 64) {
        note(i, PART_SNAPSHOT, at, 2, 20);
        put(i, at, 8, i->snapshot_l1[k]);
        put(i, at + 8, 4, get(i, 36, 4));
        put(i, at + 12, 2, 1);
        put(i, at + 14, 2, 2);
        put(i, at + 36, 4, 16);
        put(i, at + 48, 8, i->disk);
        put(i, at + 56, 1, '1' + k);
        put(i, at + 57, 2, 's' << 8 | ('a' + k));
    }
}

static uint64_t put_bitmap(struct image *i)
{
    uint64_t dir = table(i, PART_BITMAPS, 4, 1), tab = table(i, PART_BITMAPS, 8, 1);
    put(i, dir, 8, tab);
    put(i, dir + 8, 4, 1);
    put(i, dir + 16, 1, 1);  /* dirty tracking */
    put(i, dir + 17, 1, 16); /* granularity: 64 KiB */
    put(i, dir + 18, 2, 1);
    put(i, dir + 24, 1, 'm');
    put(i, tab, 8, table(i, PART_BITMAPS, 8, 1));
    return dir;
}

/* ---- header ---- */

static uint64_t extension(struct image *i, uint64_t at, uint32_t type, uint32_t len)
{
    put(i, at, 4, type);
    put(i, at + 4, 4, len);
    return at + 8;
}

static void put_extensions(struct image *i, unsigned how)
{
    uint64_t start = i->version == 3 ? 112 : 72, at = start;
    if (i->backing) {
        at = extension(i, at, 0xe2792aca, 3);
        memcpy(i->file + at, "raw", 3);
        at += 8;
    }
    if (how & 1) {
        at = extension(i, at, 0x12345678, 5);
        memcpy(i->file + at, "other", 5);
        at += 8;
    }
    if (i->version == 3 && (how & 2)) {
        at = extension(i, at, 0x6803f857, 48);
        memcpy(i->file + at + 2, "dirty bit", 9);
        at += 48;
    }
    if (i->bitmaps) {
        uint64_t dir = put_bitmap(i);
        at = extension(i, at, 0x23852875, 24);
        put(i, at, 4, 1);
        put(i, at + 8, 8, 32);
        put(i, at + 16, 8, dir);
        put(i, 88, 8, 1);
        at += 24;
    }
    at = extension(i, at, 0, 0);
    note(i, PART_EXTENSIONS, start, 4, (at - start) / 4);
    if (i->backing) {
        memcpy(i->file + at, "bees", 4);
        put(i, 8, 8, at);
        put(i, 16, 4, 4);
    }
}

static void put_header(struct image *i)
{
    put(i, 0, 4, 0x514649fb);
    put(i, 4, 4, i->version);
    put(i, 20, 4, i->bits);
    put(i, 24, 8, i->disk);
    put(i, 36, 4, (i->guests + l2_entries(i) - 1) / l2_entries(i));
    put(i, 40, 8, i->l1);
    put(i, 48, 8, i->reftable);
    put(i, 56, 4, 1);
    if (i->version == 3) {
        put(i, 72, 8,
            (i->dirty ? 1u : 0) | (i->external ? 4u : 0) | (i->zstd ? 8u : 0) |
                (i->extended ? 16u : 0));
        put(i, 80, 8, i->lazy);
        put(i, 96, 4, i->order);
        put(i, 100, 4, 112);
        put(i, 104, 1, i->zstd);
    }
    note(i, PART_HEADER, 0, 4, i->version == 3 ? 27 : 18);
}

/* ---- refcounts and flags ---- */

static void put_refcount(struct image *i, uint64_t block, uint64_t n, uint64_t v)
{
    unsigned bits = 1u << i->order;
    if (bits >= 8)
        put(i, block + n * (bits / 8), bits / 8, v);
    else
        i->file[block + n * bits / 8] |= (uint8_t)(v << (n * bits % 8));
}

static void put_refcounts(struct image *i, struct audit *a)
{
    uint64_t per = cluster_size(i) * 8 >> i->order, blocks = 0;
    while (blocks * per < i->end >> i->bits)
        put(i, i->reftable + blocks++ * 8, 8,
            table(i, PART_REFBLOCK, MAX(1u, (1u << i->order) / 8), 1));
    i->len = i->end;
    audit(a, i->file, i->len);
    ASSERT(a->usable);
    for (uint64_t c = 0; c < i->end >> i->bits; c++)
        put_refcount(i, get(i, i->reftable + c / per * 8, 8), c % per, a->spot[c].refs);
}

static void set_copied(struct image *i, const struct audit *a, uint64_t at)
{
    uint64_t entry = get(i, at, 8), c = (entry & 0x00fffffffffffe00ull) >> i->bits;
    if (c && !(entry & COMPRESSED) && a->spot[c].refs == 1)
        put(i, at, 8, entry | COPIED);
}

static void put_flags(struct image *i, const struct audit *a)
{
    for (uint64_t k = 0; k < get(i, 36, 4); k++) {
        uint64_t at = i->l1 + k * 8, l2 = get(i, at, 8);
        if (!l2)
            continue;
        set_copied(i, a, at);
        for (uint64_t n = 0; n < l2_entries(i) && !i->external; n++)
            set_copied(i, a, l2 + n * l2_width(i));
    }
}

/* ---- all of it ---- */

static void choose(struct image *i, const uint8_t *r)
{
    static const uint8_t bits[] = {9, 9, 9, 10, 9, 12, 14, 16}, extended_bits[] = {14, 14, 15, 16};
    i->version = r[0] & 1 ? 2 : 3;
    bool v3 = i->version == 3;
    i->extended = v3 && (r[0] & 0x0e) == 2;
    i->external = v3 && (r[0] & 0x30) == 0x10;
    i->zstd = v3 && (r[0] & 0xc0) == 0x40;
    i->bits = i->extended ? extended_bits[r[1] % 4] : bits[r[1] % 8];
    i->order = v3 ? r[2] % 8 : 4;
    i->order = i->order == 7 ? 4 : i->order;
    i->backing = r[2] & 16;
    i->lazy = v3 && (r[2] & 32);
    i->dirty = i->lazy && (r[2] & 64);
    i->bitmaps = v3 && (r[2] & 0x88) == 0x88 && !i->external;
    i->guests = 1 + r[3] % MIN(GUEST_MAX, 2 + (400u << 10 >> i->bits));
    i->disk = (i->guests << i->bits) - r[4] * 37 % cluster_size(i);
    i->random = r[5] * 2654435761u + 12345;
}

void image_make(struct image *i, const uint8_t *r)
{
    static struct audit count;
    choose(i, r);
    unsigned snapshots = i->external || i->order < 2 ? 0 : r[6] % (SNAPSHOTS + 1);
    memset(i->model, i->backing ? 'b' : 0, i->disk);
    i->end = cluster_size(i);
    i->reftable = table(i, PART_REFTABLE, 8, 1);
    i->l1 = table(i, PART_L1, 8, 1);
    put_header(i);
    for (unsigned k = 0; k <= snapshots; k++) {
        for (uint64_t g = 0; g < i->guests; g++)
            if (rnd(i) % 16 < 1u + r[7] % 16)
                put_any(i, g);
        if (k < snapshots)
            take_snapshot(i);
    }
    if (snapshots)
        put_snapshot_table(i);
    put_extensions(i, r[6] >> 2);
    put_refcounts(i, &count);
    put_flags(i, &count);
}

/* ---- damage ---- */

static const struct part *pick(const struct image *i, enum part_kind kind, unsigned n)
{
    unsigned have = 0;
    for (unsigned k = 0; k < i->parts; k++)
        have += i->part[k].kind == kind;
    for (unsigned k = 0, m = have ? n % have : 0; k < i->parts && have; k++)
        if (i->part[k].kind == kind && !m--)
            return &i->part[k];
    return &i->part[n % i->parts];
}

static uint64_t damaged_value(const struct image *i, const struct part *p, uint64_t old,
                              const uint8_t *r)
{
    uint64_t v = audit_be(r + 4, 4), flags = old & 0xff000000000001ffull;
    const struct part *to = pick(i, (enum part_kind)(r[4] % PART_KINDS), r[5]);
    switch (r[1] % 12) {
    case 0:
        return r[7];
    case 1:
        return old ^ 1ull << v % (8 * p->width);
    case 2:
        return flags | (uint64_t)r[7] << i->bits;
    case 3:
        return flags | (to->off & ~(cluster_size(i) - 1));
    case 4:
        return COPIED | (to->off & ~(cluster_size(i) - 1));
    case 5:
        return get(i, to->off + r[7] % to->count * to->width, to->width);
    case 6:
        return 0;
    case 7:
        return UINT64_MAX;
    case 8:
        return old + cluster_size(i);
    case 9:
        return old - cluster_size(i);
    case 10:
        return flags | (i->len + ((uint64_t)r[7] % 4 << i->bits));
    default:
        return v << 32 | v;
    }
}

/* Where entries are: tables are often nearly empty. */
static uint64_t damaged_index(const struct image *i, const struct part *p, const uint8_t *r)
{
    uint64_t n = audit_be(r + 2, 2) % p->count;
    for (uint64_t k = 0; k < p->count && r[1] < 192; k++, n = (n + 1) % p->count)
        if (get(i, p->off + n * p->width, p->width))
            break;
    return n;
}

void image_damage(struct image *i, const uint8_t *r)
{
    const struct part *p = pick(i, (enum part_kind)(r[0] % 16 % PART_KINDS), r[2]);
    i->damaged = true;
    if (r[0] % 16 == 15) {
        i->len = audit_be(r + 4, 4) % (i->len + 1);
        memset(i->file + i->len, 0, i->end - i->len);
        return;
    }
    uint64_t at = p->off + damaged_index(i, p, r) * p->width;
    if (at + p->width <= i->len)
        put(i, at, p->width, damaged_value(i, p, get(i, at, p->width), r));
}

#pragma clang attribute pop

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A reader of qcow2's references, straight from the specification: it shares nothing with
 * formats/qcow2, works in memory, and is the simulator's first oracle (the driver's own check and
 * qemu-img are the others).
 *
 * Every reference to a host cluster is counted: header, refcount table and blocks, L1 and L2 tables of
 * the image and of its snapshots, data, compressed data (each cluster they touch). Then
 *
 *     refcount < references      corruption: the cluster would be given out again
 *     refcount > references      leak
 *     refcount == 1, no COPIED, or COPIED and refcount != 1     corruption
 *     unaligned, or behind the end; subclusters that are both zero and allocated    corruption
 */
#include "tests/sim/stamp.h"
#include "tests/sim/subject.h"

#include <stdarg.h>
#include <stdio.h>

#define OFFSET 0x00fffffffffffe00ull
#define COPIED (1ull << 63)

struct reader {
    const uint8_t *file;
    uint64_t size; /* of the file */
    uint64_t cluster, nclusters;
    unsigned bits, order; /* log2 of cluster size; log2 of the refcounts' width */
    bool external, extended, v3;
    uint32_t *refs; /* [nclusters] that were found */
    struct findings *f;
    struct heap heap;
};

static void corrupt(struct reader *r, const char *fmt, ...)
{
    va_list ap;
    if (r->f->corruptions++)
        return;
    va_start(ap, fmt);
    vsnprintf(r->f->text, sizeof(r->f->text), fmt, ap);
    va_end(ap);
}

/* ---- references ---- */

/* The last cluster of a file may be there in part only. */
static bool reference(struct reader *r, uint64_t off, uint64_t len, const char *what)
{
    if (off / r->cluster >= r->nclusters || (off + len - 1) / r->cluster >= r->nclusters) {
        corrupt(r, "%s at %#llx, behind the end of the file", what, (unsigned long long)off);
        return false;
    }
    for (uint64_t i = off / r->cluster; i <= (off + len - 1) / r->cluster; i++)
        r->refs[i]++;
    return true;
}

/* A table of whole clusters. */
static bool table(struct reader *r, uint64_t off, uint64_t bytes, const char *what)
{
    if (off % r->cluster || !off) {
        corrupt(r, "%s at %#llx", what, (unsigned long long)off);
        return false;
    }
    return !bytes || reference(r, off, bytes, what);
}

static uint64_t refcount(const struct reader *r, uint64_t i)
{
    uint64_t per_block = r->cluster * 8 >> r->order, at = i / per_block * 8;
    uint64_t table = get_be(r->file + 48, 8);
    if (at >= get_be(r->file + 56, 4) * r->cluster || table + at + 8 > r->size)
        return 0;
    uint64_t block = get_be(r->file + table + at, 8) & OFFSET, in = i % per_block;
    if (!block || block + r->cluster > align_up(r->size, r->cluster))
        return 0;
    if (r->order < 3) {
        unsigned width = 1u << r->order, per_byte = 8 / width;
        return r->file[block + in / per_byte] >> in % per_byte * width & ((1u << width) - 1);
    }
    return get_be(r->file + block + (in << (r->order - 3)), 1u << (r->order - 3));
}

static void check_copied(struct reader *r, uint64_t entry, const char *what)
{
    uint64_t off = entry & OFFSET, count = refcount(r, off / r->cluster);
    if (!r->f->dirty && !!(entry & COPIED) != (count == 1))
        corrupt(r, "%s %#llx: refcount %llu, COPIED %d", what, (unsigned long long)off,
                (unsigned long long)count, !!(entry & COPIED));
}

/* ---- tables ---- */

static void compressed(struct reader *r, uint64_t entry)
{
    unsigned shift = 62 - (r->bits - 8);
    uint64_t off = entry & ((1ull << shift) - 1);
    uint64_t sectors = (entry >> shift & ((1ull << (r->bits - 8)) - 1)) + 1;
    reference(r, off, sectors * 512 - off % 512, "compressed cluster");
    if (r->external || entry & COPIED)
        corrupt(r, "compressed cluster with a flag, or in a data file");
}

static void check_subclusters(struct reader *r, uint64_t entry, uint64_t map)
{
    if (map & map >> 32 & 0xffffffff)
        corrupt(r, "subclusters both zero and allocated");
    if ((map & 0xffffffff) && !(entry & OFFSET) && !(r->external && entry & COPIED))
        corrupt(r, "allocated subclusters without a cluster");
    if (entry & 1)
        corrupt(r, "zero flag with extended L2 entries");
}

static void l2_entry(struct reader *r, const uint8_t *at, bool active)
{
    uint64_t entry = get_be(at, 8);
    if (entry >> 62 & 1) {
        compressed(r, entry);
        return;
    }
    if (r->extended)
        check_subclusters(r, entry, get_be(at + 8, 8));
    if ((entry & 0x3f000000000001feull) || (!r->v3 && entry & 1))
        corrupt(r, "L2 entry %#llx with reserved bits", (unsigned long long)entry);
    if (r->external || !(entry & OFFSET))
        return;
    if (table(r, entry & OFFSET, 1, "data") && active)
        check_copied(r, entry, "data");
}

static void l1_table(struct reader *r, uint64_t off, uint64_t entries, bool active)
{
    if (!entries || !table(r, off, entries * 8, "L1 table"))
        return;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t entry = get_be(r->file + off + i * 8, 8), l2 = entry & OFFSET;
        if (!l2 || !table(r, l2, r->cluster, "L2 table"))
            continue;
        if (active)
            check_copied(r, entry, "L2 table");
        unsigned width = r->extended ? 16 : 8;
        for (uint64_t at = 0; at < r->cluster; at += width)
            l2_entry(r, r->file + l2 + at, active);
    }
}

static void snapshots(struct reader *r, uint64_t off, unsigned count)
{
    uint64_t at = off;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *s = r->file + at;
        l1_table(r, get_be(s, 8), get_be(s + 8, 4), false);
        at += 40 + get_be(s + 36, 4) + get_be(s + 12, 2) + get_be(s + 14, 2);
        at = align_up(at, 8);
    }
    if (count)
        table(r, off, at - off, "snapshot table");
}

static void refcounts(struct reader *r)
{
    uint64_t off = get_be(r->file + 48, 8), clusters = get_be(r->file + 56, 4);
    if (!table(r, off, clusters * r->cluster, "refcount table"))
        return;
    for (uint64_t i = 0; i < clusters * r->cluster; i += 8) {
        uint64_t block = get_be(r->file + off + i, 8);
        if (block)
            table(r, block, r->cluster, "refcount block");
    }
}

static void compare(struct reader *r)
{
    for (uint64_t i = 0; i < r->nclusters; i++) {
        uint64_t count = refcount(r, i);
        if (count < r->refs[i] && !r->f->dirty)
            corrupt(r, "cluster %#llx: refcount %llu, references %u",
                    (unsigned long long)(i * r->cluster), (unsigned long long)count, r->refs[i]);
        r->f->leaks += count > r->refs[i];
    }
}

void qcow2_check(struct findings *f)
{
    static struct heap heap;
    const struct medium *m = &media[MEDIUM_FILE];
    struct reader r = {.file = m->data, .size = m->size, .f = f};
    uint64_t incompatible = 0;
    heap_reset(&heap);
    *f = (struct findings){0};
    if (m->size < 72 || get_be(r.file, 4) != 0x514649fb) {
        corrupt(&r, "no header");
        return;
    }
    r.bits = (unsigned)get_be(r.file + 20, 4);
    r.cluster = 1ull << r.bits;
    r.v3 = get_be(r.file + 4, 4) == 3;
    r.order = r.v3 ? (unsigned)get_be(r.file + 96, 4) : 4;
    if (r.v3)
        incompatible = get_be(r.file + 72, 8);
    f->dirty = incompatible & 1;
    if (incompatible & 2)
        corrupt(&r, "the corrupt bit is set");
    r.external = incompatible & 4;
    r.extended = incompatible & 16;
    r.nclusters = (m->size + r.cluster - 1) / r.cluster;
    r.refs = heap_zalloc(&heap, r.nclusters * sizeof(*r.refs));
    reference(&r, 0, r.cluster, "header");
    refcounts(&r);
    l1_table(&r, get_be(r.file + 40, 8), get_be(r.file + 36, 4), true);
    snapshots(&r, get_be(r.file + 64, 8), (unsigned)get_be(r.file + 60, 4));
    compare(&r);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Refcounts: the table in memory, parts of blocks in a small cache.
 *
 *     table[cluster >> block_bits] --> block: one cluster | slice | slice | ... |
 *                                                            2^slice_bits entries of 2^order bits
 *
 * When may a slice be written? At any time. An entry is raised before anything names its cluster, and
 * a commit writes raised entries before the names (commit.c); it is lowered only after the names are
 * gone from the medium (alloc.c). So what lies in memory is never too low for what lies in the file,
 * and whatever of it arrives after a power cut, the worst is a leak. Only two writes of one slice may
 * not be under way at once, because the older might arrive last: `writing`.
 *
 * New blocks count themselves: a block for a range without one is the cluster that the allocator was
 * about to take. It has to be stable before the table names it, else a power cut would leave refcounts
 * made of what lay there. A table that is too short is replaced by one half as long again, behind
 * everything that the old one covers, together with the blocks for the new place; the header names it
 * when all that is stable, and the old one is freed when the header is. When that fails, nobody knows
 * which of the two the header names: both say the same of what the old one covers, and until it is
 * known (co_refs_switch, tried again) nothing is allocated, and no entry is committed.
 *
 *     | covered by the old table .......... | new table | block | block |  free ...  |
 *
 * What lies: a refcount of 0 for a cluster that is known to hold metadata (header, tables, blocks)
 * means that the refcounts cannot be trusted. That is looked for once per slice, when it is loaded,
 * before anything of it is given away.
 */
#include "formats/qcow2/writer.h"

#include <string.h>

#define REF_SLICE     4096u
#define REF_SLICES    64u
#define REFTABLE_BITS 0x1ffull /* reserved */

static struct refcounts *refs_of(const struct qcow2 *s)
{
    return &s->w->refs;
}

/* ---- entries ---- */

uint64_t ref_max(const struct qcow2 *s)
{
    unsigned bits = 1u << refs_of(s)->order;
    return bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
}

uint64_t ref_get(const struct qcow2 *s, const struct ref_slice *r, uint64_t cluster)
{
    size_t i = (size_t)(cluster - r->first);
    const uint8_t *d = r->data;
    switch (refs_of(s)->order) {
    case 4:
        return be16_get(((const be16 *)d)[i]);
    case 3:
        return d[i];
    case 5:
        return be32_get(((const be32 *)d)[i]);
    case 6:
        return be64_get(((const be64 *)d)[i]);
    default: {
        unsigned order = refs_of(s)->order, per = 3 - order;
        unsigned shift = (unsigned)(i & ((1u << per) - 1)) << order;
        return d[i >> per] >> shift & ref_max(s);
    }
    }
}

void ref_set(struct qcow2 *s, struct ref_slice *r, uint64_t cluster, uint64_t v)
{
    size_t i = (size_t)(cluster - r->first);
    uint8_t *d = r->data;
    r->dirty = true;
    switch (refs_of(s)->order) {
    case 4:
        be16_set((be16 *)d + i, (uint16_t)v);
        break;
    case 3:
        d[i] = (uint8_t)v;
        break;
    case 5:
        be32_set((be32 *)d + i, (uint32_t)v);
        break;
    case 6:
        be64_set((be64 *)d + i, v);
        break;
    default: {
        unsigned order = refs_of(s)->order, per = 3 - order;
        unsigned shift = (unsigned)(i & ((1u << per) - 1)) << order;
        d[i >> per] = (uint8_t)((d[i >> per] & ~(ref_max(s) << shift)) | v << shift);
    }
    }
}

/* ---- what must not be free ---- */

struct audit {
    struct qcow2 *s;
    const struct ref_slice *slice; /* NULL: nothing is counted */
    uint64_t first, end;           /* clusters */
};

static int audit_range(const struct audit *a, uint64_t off, uint64_t len, const char *what)
{
    struct qcow2 *s = a->s;
    if (!len)
        return 0;
    uint64_t c = MAX(off >> s->cluster_bits, a->first);
    uint64_t end = MIN((off + len - 1) >> s->cluster_bits, a->end - 1);
    for (; c <= end && a->end > a->first; c++)
        if (!a->slice || !ref_get(s, a->slice, c))
            return qcow2_corruption(s, c << s->cluster_bits, "%s is not counted", what);
    return 0;
}

static int audit_entries(const struct audit *a, const be64 *table, uint64_t n, uint64_t mask,
                         const char *what)
{
    uint64_t cluster = a->s->cluster_mask + 1;
    uint64_t from = a->first << a->s->cluster_bits, len = (a->end - a->first) * cluster;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t off = be64_get(table[i]) & mask;
        if (unlikely(off && off - from < len) && audit_range(a, off, 1, what))
            return SR_EIO;
    }
    return 0;
}

static int audit_inactive(const struct audit *a)
{
    struct qcow2 *s = a->s;
    for (uint64_t c = a->first; s->w->inactive && c < a->end; c++)
        if (inactive_has(s, c) && audit_range(a, c << s->cluster_bits, 1, "Snapshot's L2 table"))
            return SR_EIO;
    return 0;
}

static int audit(struct qcow2 *s, const struct ref_slice *slice, uint64_t first, uint64_t count)
{
    const struct refcounts *R = refs_of(s);
    struct audit a = {s, slice, first, first + count};
    uint64_t cluster = s->cluster_mask + 1;
    int r = audit_range(&a, 0, 1, "Header");
    if (!r)
        r = audit_range(&a, s->w->l1_offset, s->l1_entries * 8, "L1 table");
    if (!r)
        r = audit_range(&a, R->table_offset, align_up(R->entries * 8, cluster), "Refcount table");
    if (!r)
        r = audit_range(&a, s->w->snapshots_offset, s->w->snapshots_bytes, "Snapshot table");
    for (uint32_t i = 0; !r && i < s->w->nb_snapshots; i++)
        r = audit_range(&a, s->w->snapshot_l1[i].offset, s->w->snapshot_l1[i].bytes,
                        "Snapshot's L1 table");
    if (!r)
        r = audit_entries(&a, R->table, R->entries, ~REFTABLE_BITS, "Refcount block");
    if (!r)
        r = audit_entries(&a, s->l1, s->l1_entries, QCOW2_OFFSET_MASK, "L2 table");
    return r ? r : audit_inactive(&a);
}

/* ---- slices ---- */

/* Where a slice lies; 0: there is no block. */
static int slice_host(struct qcow2 *s, uint64_t first, uint64_t *host)
{
    struct refcounts *R = refs_of(s);
    uint64_t i = first >> R->block_bits;
    *host = 0;
    if (i >= R->entries || !be64_get(R->table[i]))
        return 0;
    uint64_t block = be64_get(R->table[i]);
    if ((block & REFTABLE_BITS) || (block & s->cluster_mask) || !block ||
        !range_ok(block, s->cluster_mask + 1, s->node->file->node->size))
        return qcow2_corruption(s, block, "Refcount block offset is not valid");
    uint64_t in = first & ((1ull << R->block_bits) - 1);
    *host = block + (in >> R->slice_bits) * R->slice_size;
    return 0;
}

static int co_slice_write(struct qcow2 *s, struct ref_slice *r)
{
    uint64_t host;
    int e = s->corrupt ? SR_EIO : slice_host(s, r->first, &host);
    if (e)
        return e;
    r->writing = true;
    r->dirty = false;
    e = co_blk_pwrite(s->node->file, host, r->data, refs_of(s)->slice_size, 0);
    r->writing = false;
    r->dirty |= e != 0;
    co_queue_wake_all(&refs_of(s)->written);
    return e;
}

static void co_wait_written(struct qcow2 *s, const struct ref_slice *r)
{
    while (r->writing)
        co_queue_wait(&refs_of(s)->written);
}

static struct ref_slice *victim(struct refcounts *R)
{
    for (;;) {
        struct ref_slice *r = &R->slices[R->hand];
        R->hand = R->hand + 1 < R->count ? R->hand + 1 : 0;
        if (!r->valid || !r->used)
            return r;
        r->used = false;
    }
}

static int co_evict(struct qcow2 *s, struct ref_slice *r)
{
    int e = 0;
    co_wait_written(s, r);
    if (r->valid && r->dirty)
        e = co_slice_write(s, r);
    if (!e)
        r->valid = false;
    return e;
}

static struct ref_slice *find(struct refcounts *R, uint64_t first)
{
    struct ref_slice *r = &R->slices[R->last];
    if (likely(r->valid && r->first == first))
        return r;
    for (unsigned i = 0; i < R->count; i++)
        if (R->slices[i].valid && R->slices[i].first == first) {
            R->last = i;
            return &R->slices[i];
        }
    return NULL;
}

bool ref_cached(const struct qcow2 *s, uint64_t cluster)
{
    return find(refs_of(s), align_down(cluster, 1ull << refs_of(s)->slice_bits));
}

static int co_load(struct qcow2 *s, uint64_t first, uint64_t host, struct ref_slice **out)
{
    struct refcounts *R = refs_of(s);
    struct ref_slice *r = victim(R);
    int e = verify_block(s, host & ~s->cluster_mask);
    if (!e)
        e = co_evict(s, r);
    if (e)
        return e;
    e = co_blk_pread(s->node->file, host, r->data, R->slice_size);
    if (e)
        return e;
    r->first = first;
    e = audit(s, r, first, 1ull << R->slice_bits);
    if (e)
        return e;
    r->valid = true;
    *out = r;
    return 0;
}

int co_ref_slice(struct qcow2 *s, uint64_t cluster, struct ref_slice **out)
{
    struct refcounts *R = refs_of(s);
    uint64_t host, first = align_down(cluster, 1ull << R->slice_bits);
    *out = find(R, first);
    if (unlikely(!*out)) {
        int e = slice_host(s, first, &host);
        if (e || !host)
            return e;
        e = co_load(s, first, host, out);
        if (e)
            return e;
    }
    (*out)->used = true;
    return 0;
}

static int co_write_some(struct spread *p)
{
    struct refcounts *R = refs_of(p->s);
    int e = 0;
    while (p->next < R->count && !e && !p->join.error) {
        struct ref_slice *r = &R->slices[p->next++];
        co_wait_written(p->s, r);
        if (r->valid && r->dirty)
            e = co_slice_write(p->s, r);
    }
    return e;
}

int co_refs_write(struct qcow2 *s)
{
    const struct refcounts *R = refs_of(s);
    unsigned dirty = 0;
    for (unsigned i = 0; i < R->count; i++)
        dirty += R->slices[i].valid && (R->slices[i].dirty || R->slices[i].writing);
    return dirty ? co_spread(s, co_write_some, dirty) : 0;
}

/* ---- new blocks ---- */

/* A block at cluster `at`, whose entries for `count` clusters from `first` on are 1: in the file. */
static int co_write_block(struct qcow2 *s, uint64_t at, uint64_t first, uint64_t count)
{
    struct refcounts *R = refs_of(s);
    struct child *file = s->node->file;
    uint64_t host = at << s->cluster_bits, mask = (1ull << R->block_bits) - 1;
    struct ref_slice *r = victim(R);
    int e = co_evict(s, r);
    if (!e)
        e = co_blk_pwrite_zeroes(file, host, s->cluster_mask + 1, 0);
    while (!e && count) {
        uint64_t n = MIN(count, (1ull << R->slice_bits) - (first & ((1ull << R->slice_bits) - 1)));
        r->first = align_down(first, 1ull << R->slice_bits);
        memset(r->data, 0, R->slice_size);
        for (uint64_t i = 0; i < n; i++)
            ref_set(s, r, first + i, 1);
        r->dirty = false;
        e = co_blk_pwrite(file, host + ((first & mask) >> R->slice_bits) * R->slice_size, r->data,
                          R->slice_size, 0);
        first += n;
        count -= n;
    }
    return e;
}

static int co_grow_table(struct qcow2 *s, uint64_t cluster);

int co_ref_new_block(struct qcow2 *s, uint64_t cluster)
{
    struct refcounts *R = refs_of(s);
    uint64_t i = cluster >> R->block_bits;
    if (i >= R->entries)
        return co_grow_table(s, cluster);
    int e = audit(s, NULL, i << R->block_bits, 1ull << R->block_bits);
    if (!e)
        e = co_write_block(s, cluster, cluster, 1);
    if (!e && !MUTANT(REFBLOCK_NO_FLUSH))
        e = co_blk_flush(s->node->file);
    if (e || s->corrupt)
        return e ? e : SR_EIO;
    be64_set(&R->table[i], cluster << s->cluster_bits);
    verify_note(s, cluster << s->cluster_bits);
    e = co_blk_pwrite(s->node->file, R->table_offset + i * 8, &R->table[i], 8, 0);
    if (e)
        be64_set(&R->table[i], 0);
    return e;
}

/* ---- a longer table ---- */

struct growth {
    uint64_t at, clusters; /* of the new table */
    uint64_t blocks;       /* they follow */
    uint64_t entries;      /* of the new table */
    be64 *table;
};

static int plan_growth(struct qcow2 *s, uint64_t cluster, struct growth *g)
{
    struct refcounts *R = refs_of(s);
    uint64_t per_cluster = (s->cluster_mask + 1) / 8, per_block = 1ull << R->block_bits;
    uint64_t need = (cluster >> R->block_bits) + 2;
    g->at = R->entries << R->block_bits;
    do {
        g->entries = align_up(MAX(need, R->entries + R->entries / 2), per_cluster);
        g->clusters = g->entries / per_cluster;
        g->blocks = 1;
        while (g->blocks << R->block_bits < g->clusters + g->blocks)
            g->blocks++;
        need = R->entries + g->blocks + 1;
    } while (need > g->entries);
    if (g->entries * 8 > QCOW2_MAX_REFTABLE_BYTES || g->at > (1ull << 56) / per_block)
        return SR_ENOSPC;
    return co_grow(s, g->at + g->clusters + g->blocks);
}

static int co_write_growth(struct qcow2 *s, struct growth *g)
{
    struct refcounts *R = refs_of(s);
    struct child *file = s->node->file;
    uint64_t used = g->clusters + g->blocks, first = g->at, per_block = 1ull << R->block_bits;
    int e = 0;
    memcpy(g->table, R->table, (size_t)R->entries * 8);
    for (uint64_t b = 0; b < g->blocks && !e; b++) {
        uint64_t at = g->at + g->clusters + b, n = MIN(used, per_block);
        e = co_write_block(s, at, first, n);
        be64_set(&g->table[R->entries + b], at << s->cluster_bits);
        verify_note(s, at << s->cluster_bits);
        first += n;
        used -= n;
    }
    for (uint64_t i = 0; i < g->entries * 8 && !e; i += s->cluster_mask + 1)
        e = co_blk_pwrite(file, (g->at << s->cluster_bits) + i, (char *)g->table + i,
                          (size_t)s->cluster_mask + 1, 0);
    if (!e && !MUTANT(REFTABLE_NO_FLUSH))
        e = co_blk_flush(file);
    return e;
}

int co_refs_switch(struct qcow2 *s)
{
    struct refcounts *R = refs_of(s);
    if (likely(!R->old_clusters))
        return 0;
    int e = co_header_switch_refcounts(s, R->table_offset, R->entries * 8 >> s->cluster_bits);
    if (e)
        return e;
    uint64_t clusters = R->old_clusters;
    R->old_clusters = 0;
    return co_ref_drop(s, R->old_first, clusters, false);
}

int co_refs_settle(struct qcow2 *s)
{
    if (likely(!refs_of(s)->old_clusters))
        return 0;
    co_mutex_lock(&s->w->alloc);
    int e = co_refs_switch(s);
    co_mutex_unlock(&s->w->alloc);
    return e;
}

static void take_table(struct qcow2 *s, const struct growth *g)
{
    struct refcounts *R = refs_of(s);
    R->old_first = R->table_offset >> s->cluster_bits;
    R->old_clusters = R->entries * 8 >> s->cluster_bits;
    page_free(R->table, (size_t)R->entries * 8);
    R->table = g->table;
    R->entries = g->entries;
    R->table_offset = g->at << s->cluster_bits;
}

static int co_grow_table(struct qcow2 *s, uint64_t cluster)
{
    struct growth g;
    int e = plan_growth(s, cluster, &g);
    if (e)
        return e;
    g.table = fault(FAULT_ALLOC) ? NULL : page_alloc_zeroed((size_t)g.entries * 8);
    if (!g.table)
        return SR_ENOMEM;
    e = audit(s, NULL, g.at, g.clusters + g.blocks);
    if (!e)
        e = co_write_growth(s, &g);
    if (e) {
        page_free(g.table, (size_t)g.entries * 8);
        return e;
    }
    take_table(s, &g);
    return co_refs_switch(s);
}

/* ---- open, close ---- */

static int take_slices(struct refcounts *R, unsigned count)
{
    R->mem_size = count * (R->slice_size + sizeof(struct ref_slice));
    R->mem = fault(FAULT_ALLOC) ? NULL : page_alloc(R->mem_size);
    if (!R->mem)
        return SR_ENOMEM;
    R->count = count;
    R->slices = (void *)((char *)R->mem + count * R->slice_size);
    memset(R->slices, 0, count * sizeof(*R->slices));
    for (unsigned i = 0; i < count; i++)
        R->slices[i].data = (uint8_t *)R->mem + i * R->slice_size;
    return 0;
}

int co_refcounts_open(struct qcow2 *s, const struct qcow2_image *img, struct error *err)
{
    struct refcounts *R = refs_of(s);
    R->order = img->refcount_order;
    R->slice_size = MIN((size_t)s->cluster_mask + 1, REF_SLICE);
    R->block_bits = s->cluster_bits + 3 - R->order;
    R->slice_bits = log2_floor(R->slice_size) + 3 - R->order;
    R->table_offset = img->reftable_offset;
    R->entries = img->reftable_bytes / 8;
    co_queue_init(&R->written);
    unsigned count = (unsigned)MIN(MAX(page_free_bytes() / 256 / R->slice_size, 4u), REF_SLICES);
    if (take_slices(R, count))
        return error_set(err, SR_ENOMEM, "Could not allocate the refcount cache");
    R->table = fault(FAULT_ALLOC) ? NULL : page_alloc((size_t)img->reftable_bytes);
    if (!R->table)
        return error_set(err, SR_ENOMEM, "Could not allocate the refcount table");
    int r = co_blk_pread(s->node->file, R->table_offset, R->table, (size_t)img->reftable_bytes);
    if (r)
        return error_set(err, r, "Could not read refcount table: %s", sr_strerror(r));
    return 0;
}

void refcounts_close(struct qcow2 *s)
{
    struct refcounts *R = refs_of(s);
    if (R->table)
        page_free(R->table, (size_t)R->entries * 8);
    if (R->mem)
        page_free(R->mem, R->mem_size);
}

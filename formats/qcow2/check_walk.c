/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who refers to which cluster. One walk over everything that can, in the order of QEMU's check so that
 * the same things are found:
 *
 *     header | active L1 -> L2 -> data | each snapshot's L1 -> L2 -> data | snapshot table
 *            | refcount table | bitmap directory -> bitmap tables -> bitmap data | refcount blocks
 *
 * Counted are the clusters of the window only; so the walk is made once for each window, and what does
 * not depend on a window is judged in the first. Tables are read in pieces and nothing is kept of
 * them: the memory is the same for each image.
 *
 * Work is bounded although the tables may say anything. Nothing is followed deeper than the format
 * goes (so there are no cycles), L1 tables are not larger in sum than the file, and no L1 table leads
 * to more L2 tables than the file has clusters: intact tables, which do not overlap, never are. What
 * lies outside of the file is not read.
 *
 * A reference that cannot be followed (outside of the file, misaligned) may have led to clusters that
 * nobody else knows of: `lost` remembers that what looks leaked has to stay.
 */
#include "formats/qcow2/check.h"

typedef unsigned long long ull;

/* ---- counting ---- */

static void count_one(struct check *c, uint64_t cluster)
{
    uint64_t n = refs_get(c->window, c->order, cluster - c->lo);
    if (likely(n < ref_max(c))) {
        refs_set(c->window, c->order, cluster - c->lo, n + 1);
        return;
    }
    check_say(c, "cluster %llu has more references than a refcount can say", (ull)cluster);
    c->res.corruptions++;
    c->overflow = true;
}

static inline void count_clusters(struct check *c, uint64_t off, uint64_t len, enum check_kind kind)
{
    uint64_t from = off >> c->bits, to = ((off + len - 1) >> c->bits) + 1;
    c->low = MIN(c->low, from);
    c->high = MAX(c->high, to);
    to = MIN(to, c->hi);
    for (uint64_t k = MAX(from, c->lo); k < to; k++) {
        count_one(c, k);
        c->kinds[(k - c->lo) / 4] |= (uint8_t)(kind << (k - c->lo) % 4 * 2);
    }
}

static __attribute__((noinline)) void outside(struct check *c, uint64_t off, uint64_t len,
                                              const char *what)
{
    check_wrong(c, "%s outside of the file: offset 0x%llx size 0x%llx", what, (ull)off, (ull)len);
    c->outside = MIN(c->outside, MAX(off >> c->bits, c->clusters));
    c->low = MIN(c->low, c->clusters); /* the last window's */
    c->high = UINT64_MAX;
    c->lost = true;
}

/* The last cluster of the file may be there in part. */
static inline bool in_file(const struct check *c, uint64_t off, uint64_t len)
{
    return range_ok(off, len, c->size + c->cluster - 1);
}

static inline void count_as(struct check *c, uint64_t off, uint64_t len, enum check_kind kind,
                            const char *what)
{
    if (unlikely(!len))
        return;
    if (unlikely(!in_file(c, off, len)))
        outside(c, off, len, what);
    else
        count_clusters(c, off, len, kind);
}
static inline void count(struct check *c, uint64_t off, uint64_t len, const char *what)
{
    count_as(c, off, len, CHECK_OTHER, what);
}

static inline bool misaligned(const struct check *c, uint64_t off)
{
    return off & (c->cluster - 1);
}

/* ---- L2 entries ---- */

bool check_has_cluster(const struct check *c, uint64_t entry)
{
    if (entry & QCOW2_L2_COMPRESSED)
        return false;
    /* "offset 0 ... if bit 63 is set" with a data file */
    return (entry & QCOW2_OFFSET_MASK) ||
           (c->external && (entry & QCOW2_COPIED) && (c->extended || !(entry & QCOW2_L2_ZERO)));
}

static void see_compressed(struct walk *w, uint64_t entry, uint64_t bitmap)
{
    struct check *c = w->c;
    unsigned shift = 62 - (c->bits - 8);
    uint64_t host = entry & ((1ull << shift) - 1);
    uint64_t sectors = (entry & (QCOW2_L2_COMPRESSED - 1)) >> shift;
    if (entry & QCOW2_COPIED)
        check_wrong(c, "compressed cluster with the copied flag: 0x%llx", (ull)entry);
    if (c->external || bitmap) {
        check_wrong(c, "compressed cluster with %s: 0x%llx",
                    c->external ? "a data file" : "a subcluster bitmap", (ull)entry);
        c->lost |= !c->external;
        return;
    }
    if (w->active && c->first) {
        c->res.allocated_clusters++;
        c->res.compressed_clusters++;
        c->res.fragmented_clusters++; /* each of them, as QEMU counts */
    }
    count(c, host, (sectors + 1) * QCOW2_SECTOR - host % QCOW2_SECTOR, "compressed cluster");
}

/* A cluster that was only reserved: nothing is lost with it. True: the entry does not count, because it
 * is, or will be, one of zeroes. With reserved bits it is hardly an entry at all: better leave it. */
static bool drop_reserved(struct walk *w, be64 *at, uint64_t entry, uint64_t bitmap)
{
    struct check *c = w->c;
    bool data = c->extended ? (uint32_t)bitmap : !(entry & QCOW2_L2_ZERO);
    check_wrong(c, "%s cluster at 0x%llx is not aligned", data ? "data" : "reserved",
                (ull)(entry & QCOW2_OFFSET_MASK));
    data |= !!(entry & QCOW2_L2_RESERVED);
    c->lost |= data;
    if (data || !c->fix_entries || !check_may_write(c, w->table))
        return false;
    if (c->fix && c->first) {
        be64_set(at, c->extended ? 0 : QCOW2_L2_ZERO);
        w->changed = true;
        c->res.corruptions--;
        c->res.corruptions_fixed++;
    }
    return true;
}

static void see_data(struct walk *w, be64 *at, uint64_t entry, uint64_t bitmap)
{
    struct check *c = w->c;
    uint64_t host = entry & QCOW2_OFFSET_MASK;
    if (bitmap >> 32 & bitmap)
        check_wrong(c, "subclusters both allocated and zero, cluster at 0x%llx", (ull)host);
    if (unlikely(misaligned(c, host)) && drop_reserved(w, at, entry, bitmap))
        return;
    if (w->active && c->first) {
        c->res.allocated_clusters++;
        c->res.fragmented_clusters += w->next && host != w->next;
        w->next = host + c->cluster;
    }
    if (!c->external)
        count(c, host, c->cluster, "data cluster");
}

static int co_see_l2(struct walk *w, be64 *at)
{
    struct check *c = w->c;
    uint64_t entry = be64_get(*at), bitmap = c->extended ? be64_get(at[1]) : 0;
    if (!(entry | bitmap))
        return 0;
    if (entry & QCOW2_L2_COMPRESSED) {
        see_compressed(w, entry, bitmap);
        return 0;
    }
    if (entry & QCOW2_L2_RESERVED)
        check_wrong(c, "reserved bits in L2 entry 0x%llx", (ull)entry);
    if (check_has_cluster(c, entry))
        see_data(w, at, entry, bitmap);
    else if ((uint32_t)bitmap)
        check_wrong(c, "subclusters without a cluster: 0x%llx", (ull)bitmap);
    return 0;
}

/* Without an offset there is no table, whatever else the entry says (QEMU takes the header for one). */
static int co_see_l1(struct walk *w, be64 *at)
{
    struct check *c = w->c;
    uint64_t entry = be64_get(*at), table = entry & QCOW2_OFFSET_MASK;
    if (entry & QCOW2_L1_RESERVED)
        check_wrong(c, "reserved bits in L1 entry 0x%llx", (ull)entry);
    enum check_kind kind = misaligned(c, table) ? CHECK_OTHER : CHECK_L2;
    if (table)
        count_as(c, table, c->cluster, kind, "L2 table");
    if (!table || misaligned(c, table)) {
        check_wrong(c, "L1 entry 0x%llx leads to no L2 table", (ull)entry);
        c->lost = true;
    }
    return 0;
}

/* ---- walking ---- */

static int co_walk_l2(struct walk *w, uint64_t table)
{
    struct check *c = w->c;
    unsigned step = c->extended ? 2 : 1;
    size_t chunk = MIN(c->cluster, CHECK_CHUNK), n = chunk / 8;
    w->table = table;
    w->next = 0;
    for (uint64_t at = 0; at < c->cluster && at < c->size - table; at += chunk) {
        be64 *e = (be64 *)c->l2;
        size_t from = n, to = 0;
        int r = co_check_read(c, table + at, e, chunk);
        for (size_t i = 0; i < n && !r; i += step) {
            r = w->co_see_l2(w, e + i);
            if (unlikely(w->changed)) {
                from = MIN(from, i);
                to = i + step;
                w->changed = false;
            }
        }
        if (to && !r)
            r = co_check_write(c, table + at + 8 * from, e + from, 8 * (to - from));
        if (r)
            return r;
    }
    return 0;
}

static uint16_t window_of(const struct check *c, uint64_t cluster)
{
    return (uint16_t)MIN(cluster / c->step, UINT16_MAX);
}

/* The first walk of a pass notes the reach of each table; later ones come by tables that do not reach
 * their window. */
static int co_walk_reach(struct walk *w, uint64_t table)
{
    struct check *c = w->c;
    uint64_t i = c->nth_table++;
    if (i >= c->nreach)
        return co_walk_l2(w, table);
    struct check_reach *reach = &c->reach[i];
    uint16_t here = window_of(c, c->lo);
    if (!w->note_reach)
        return here >= reach->from && here <= reach->to ? co_walk_l2(w, table) : 0;
    c->low = UINT64_MAX;
    c->high = 0;
    int r = co_walk_l2(w, table);
    reach->from = window_of(c, c->low);
    reach->to = window_of(c, c->high ? c->high - 1 : 0);
    return r;
}

/* False: more tables than there can be. */
static bool may_follow(struct walk *w)
{
    struct check *c = w->c;
    if (++w->tables <= c->clusters)
        return true;
    if (w->tables == c->clusters + 1)
        check_wrong(c, "the L1 table at 0x%llx has more L2 tables than the file has clusters",
                    (ull)w->l1);
    c->lost = true;
    return false;
}

static int co_walk_entry(struct walk *w, uint64_t where, be64 *e)
{
    struct check *c = w->c;
    int r = w->co_see_l1(w, e);
    if (w->changed && !r)
        r = co_check_write(c, where, e, sizeof(*e));
    w->changed = false;
    uint64_t table = be64_get(*e) & QCOW2_OFFSET_MASK;
    if (!r && table && table < c->size && may_follow(w))
        r = co_walk_reach(w, table);
    return r;
}

int co_walk(struct walk *w)
{
    struct check *c = w->c;
    uint64_t bytes = 8ull * w->entries;
    for (uint64_t at = 0; at < bytes; at += CHECK_CHUNK) {
        size_t len = (size_t)MIN(bytes - at, CHECK_CHUNK);
        be64 *e = (be64 *)c->l1;
        int r = co_check_read(c, w->l1 + at, e, len);
        for (size_t i = 0; i < len / 8 && !r; i++)
            if (be64_get(e[i]))
                r = co_walk_entry(w, w->l1 + at + 8 * i, e + i);
        if (r)
            return r;
    }
    return 0;
}

/* False: tables are larger in sum than the file. */
static bool count_tables(struct check *c, uint64_t bytes)
{
    c->table_clusters += (bytes + c->cluster - 1) >> c->bits;
    if (c->table_clusters <= c->clusters)
        return true;
    check_wrong(c, "tables are larger than the file");
    c->lost = true;
    return false;
}

static int co_count_l1(struct check *c, uint64_t off, uint32_t entries, bool active)
{
    struct walk w = {.c = c,
                     .l1 = off,
                     .entries = entries,
                     .active = active,
                     .note_reach = c->first,
                     .co_see_l1 = co_see_l1,
                     .co_see_l2 = co_see_l2};
    uint64_t bytes = 8ull * entries;
    bool follow = count_tables(c, bytes);
    count(c, off, bytes, "L1 table");
    if (active)
        c->strange_l1 = !follow || !in_file(c, off, bytes);
    return follow ? co_walk(&w) : 0;
}

/* ---- snapshots ---- */

/* Version 3 requires the two fields that came with it. */
static void judge_extra(struct check *c, uint32_t i, uint32_t extra)
{
    if (c->img->version < 3 || extra >= QCOW2_SNAPSHOT_EXTRA_V3)
        return;
    check_wrong(c, "snapshot table entry %u is incomplete", i);
    c->short_snapshots += c->first && !c->renew;
}

static int co_count_snapshot(struct check *c, uint32_t i, const struct qcow2_snapshot *h)
{
    uint64_t l1 = be64_get(h->l1_table_offset);
    uint32_t entries = be32_get(h->l1_size);
    judge_extra(c, i, be32_get(h->extra_data_size));
    if (misaligned(c, l1) || entries > QCOW2_MAX_L1_BYTES / 8) {
        check_wrong(c, "the L1 table of snapshot table entry %u is %s", i,
                    misaligned(c, l1) ? "not aligned" : "too large");
        c->lost = true;
        return 0;
    }
    return co_count_l1(c, l1, entries, false);
}

int co_next_snapshot(struct check *c, uint32_t i, uint64_t *off, struct qcow2_snapshot *h)
{
    uint64_t start = c->img->snapshots_offset, at = align_up(*off, 8);
    int r = co_check_read(c, at, h, sizeof(*h));
    if (r)
        return r;
    if (be32_get(h->extra_data_size) > QCOW2_MAX_SNAPSHOT_EXTRA)
        return error_set(c->err, SR_EINVAL, "Too much extra metadata in snapshot table entry %u",
                         i);
    *off = at + sizeof(*h) + be32_get(h->extra_data_size) + be16_get(h->id_str_size) +
           be16_get(h->name_size);
    if (*off - start > QCOW2_MAX_SNAPSHOTS_BYTES)
        return error_set(c->err, SR_EINVAL, "Snapshot table is too big");
    return 0;
}

int co_measure_snapshots(struct check *c)
{
    const struct qcow2_image *img = c->img;
    uint64_t off = img->snapshots_offset;
    for (uint32_t i = 0; i < img->nb_snapshots; i++) {
        struct qcow2_snapshot h;
        int r = co_next_snapshot(c, i, &off, &h);
        if (r)
            return r;
    }
    c->img->snapshots_bytes = off - img->snapshots_offset;
    return 0;
}

static int co_count_snapshots(struct check *c)
{
    const struct qcow2_image *img = c->img;
    uint64_t off = img->snapshots_offset;
    if (c->external && img->nb_snapshots)
        check_wrong(c, "%u snapshots in an image with a data file", img->nb_snapshots);
    for (uint32_t i = 0; i < img->nb_snapshots; i++) {
        struct qcow2_snapshot h;
        int r = co_next_snapshot(c, i, &off, &h);
        if (!r)
            r = co_count_snapshot(c, i, &h);
        if (r)
            return r;
    }
    if (!c->renew || !c->short_snapshots)
        count(c, img->snapshots_offset, c->img->snapshots_bytes, "snapshot table");
    return 0;
}

/* ---- bitmaps ---- */

static void see_bitmap_entry(struct check *c, uint64_t entry)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK;
    if ((entry & QCOW2_BITMAP_RESERVED) || misaligned(c, host) ||
        (host && (entry & QCOW2_BITMAP_ONES))) {
        check_wrong(c, "bitmap table entry 0x%llx", (ull)entry);
        c->lost = true;
    } else if (host) {
        count(c, host, c->cluster, "bitmap data");
    }
}

static int co_count_bitmap(struct check *c, const struct qcow2_bitmap *b)
{
    uint64_t table = be64_get(b->bitmap_table_offset),
             bytes = 8ull * be32_get(b->bitmap_table_size);
    count(c, table, bytes, "bitmap table");
    if (!count_tables(c, bytes))
        return 0;
    for (uint64_t at = 0; at < bytes; at += CHECK_CHUNK) {
        size_t len = (size_t)MIN(bytes - at, CHECK_CHUNK);
        int r = co_check_read(c, table + at, c->l2, len);
        if (r)
            return r;
        for (size_t i = 0; i < len / 8; i++)
            see_bitmap_entry(c, be64_get(((const be64 *)c->l2)[i]));
    }
    return 0;
}

/* What the bits mean is nothing to us, only where they are. */
static int co_count_bitmaps(struct check *c)
{
    const struct qcow2_image *img = c->img;
    uint64_t off = img->bitmaps_offset, end = off + img->bitmaps_bytes;
    uint32_t n = 0;
    count(c, off, img->bitmaps_bytes, "bitmap directory");
    for (; n < img->nb_bitmaps && range_ok(off, sizeof(struct qcow2_bitmap), end); n++) {
        struct qcow2_bitmap b;
        int r = co_check_read(c, off, &b, sizeof(b));
        if (r)
            return r;
        uint64_t len =
            align_up(sizeof(b) + (uint64_t)be32_get(b.extra_data_size) + be16_get(b.name_size), 8);
        if (!range_ok(off, len, end) || misaligned(c, be64_get(b.bitmap_table_offset)))
            break;
        r = co_count_bitmap(c, &b);
        if (r)
            return r;
        off += len;
    }
    if (n < img->nb_bitmaps || off != end) {
        check_wrong(c, "bitmap directory entry %u", n);
        c->lost = true;
    }
    return 0;
}

/* ---- refcounts ---- */

static void count_block(struct check *c, uint64_t i, uint64_t entry)
{
    uint64_t off = entry & ~(uint64_t)QCOW2_REFTABLE_RESERVED, k = off >> c->bits;
    if (!entry)
        return;
    if ((entry & QCOW2_REFTABLE_RESERVED) || misaligned(c, off)) {
        check_wrong(c, "refcount table entry %llu: 0x%llx", (ull)i, (ull)entry);
        c->rebuild = true;
    } else if (k >= c->clusters) {
        check_wrong(c, "refcount block %llu is outside of the file", (ull)i);
        c->rebuild = true;
    } else if (k >= c->lo && k < c->hi) {
        bool shared = refs_get(c->window, c->order, k - c->lo);
        count_clusters(c, off, c->cluster, CHECK_OTHER);
        c->rebuild |= shared;
        if (refs_get(c->window, c->order, k - c->lo) == 1)
            return;
        check_say(c, "refcount block %llu, at 0x%llx, is something else, too", (ull)i, (ull)off);
        c->res.corruptions++;
    }
}

static int co_count_blocks(struct check *c)
{
    const struct qcow2_image *img = c->img;
    for (uint64_t at = 0; at < img->reftable_bytes; at += CHECK_CHUNK) {
        size_t len = (size_t)MIN(img->reftable_bytes - at, CHECK_CHUNK);
        const be64 *e = (const be64 *)c->block;
        int r = co_check_read(c, img->reftable_offset + at, c->block, len);
        if (r)
            return r;
        for (size_t i = 0; i < len / 8; i++)
            count_block(c, at / 8 + i, be64_get(e[i]));
    }
    return 0;
}

int co_count_all(struct check *c)
{
    const struct qcow2_image *img = c->img;
    memset(c->window, 0, c->window_size);
    memset(c->kinds, 0, c->kinds_size);
    c->table_clusters = c->nth_table = 0;
    count(c, 0, c->cluster, "header");
    int r = co_count_l1(c, img->l1_offset, img->l1_size, true);
    if (!r)
        r = co_count_snapshots(c);
    if (!r && img->nb_bitmaps)
        r = co_count_bitmaps(c);
    if (r)
        return r;
    if (c->renew) {
        const struct layout *l = &c->area;
        count(c, l->at << c->bits, (l->table + l->blocks + l->snapshots) << c->bits, "new tables");
        return 0;
    }
    if (c->bad_reftable || !in_file(c, img->reftable_offset, img->reftable_bytes)) {
        check_wrong(c, "the refcount table is outside of the file, too large, or not aligned");
        c->rebuild = true;
    } else {
        count(c, img->reftable_offset, img->reftable_bytes, "refcount table");
    }
    return co_count_blocks(c);
}

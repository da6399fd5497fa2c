/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Looking before writing. What the tables say is believed for reading; before entries of a slice are
 * followed for writing, or changed, it is looked through once:
 *
 *   - its table is named by one L1 entry only, and lies on no other metadata;
 *   - its entries are such as can be, and what they name lies on no metadata: a guest could write there;
 *   - a table or cluster that is ours alone (COPIED) is counted once: else a snapshot would be written,
 *     too;
 *   - what is named is counted at all: else it would be given away.
 *
 * To find out fast whether a cluster is an L2 table or a refcount block, both are noted in a hash of
 * bits; a hit is looked up in the tables. Slices that were looked through are remembered, so a small
 * cache does not make it be done again.
 *
 * Refcounts of a slice whose clusters lie all over a large file would cost as many reads: after
 * REF_LOADS of them, what is not in the cache is believed. Clusters in slices that nobody writes are
 * not looked at; what is known to be metadata is (refcount.c).
 */
#include "formats/qcow2/writer.h"

#define REF_LOADS    16u
#define VERIFIED_MAX (8u << 20) /* slices that are remembered */

static uint64_t hash(const struct writer *w, uint64_t cluster)
{
    return cluster * 0x9e3779b97f4a7c15ull >> w->meta_shift;
}

void verify_note(struct qcow2 *s, uint64_t host)
{
    uint64_t h = hash(s->w, host >> s->cluster_bits);
    s->w->meta[h / 64] |= 1ull << h % 64;
}

static bool noted(const struct qcow2 *s, uint64_t host)
{
    uint64_t h = hash(s->w, host >> s->cluster_bits);
    return s->w->meta[h / 64] >> h % 64 & 1;
}

/* ---- where metadata lie ---- */

static unsigned times_in(const be64 *table, uint64_t n, uint64_t mask, uint64_t host)
{
    unsigned found = 0;
    for (uint64_t i = 0; i < n; i++)
        found += (be64_get(table[i]) & mask) == host;
    return found;
}

static bool within(const struct qcow2 *s, uint64_t host, uint64_t off, uint64_t len)
{
    return host - (off & ~s->cluster_mask) < align_up(len, s->cluster_mask + 1);
}

static bool in_snapshot_l1(const struct qcow2 *s, uint64_t host)
{
    const struct writer *w = s->w;
    for (uint32_t i = 0; i < w->nb_snapshots; i++)
        if (within(s, host, w->snapshot_l1[i].offset, w->snapshot_l1[i].bytes))
            return true;
    return false;
}

/* `host`: of a whole cluster. */
static bool in_fixed_metadata(const struct qcow2 *s, uint64_t host)
{
    const struct writer *w = s->w;
    return !host || within(s, host, w->l1_offset, s->l1_entries * 8) ||
           within(s, host, w->refs.table_offset, w->refs.entries * 8) ||
           within(s, host, w->snapshots_offset, w->snapshots_bytes) || in_snapshot_l1(s, host);
}

static bool is_refblock(const struct qcow2 *s, uint64_t host)
{
    return times_in(s->w->refs.table, s->w->refs.entries, ~0x1ffull, host);
}

static bool is_metadata(const struct qcow2 *s, uint64_t host)
{
    if (in_fixed_metadata(s, host) || inactive_has(s, host >> s->cluster_bits))
        return true;
    return noted(s, host) &&
           (times_in(s->l1, s->l1_entries, QCOW2_OFFSET_MASK, host) || is_refblock(s, host));
}

/* ---- a slice ---- */

static int check_table(struct qcow2 *s, uint64_t key)
{
    uint64_t i = (key << s->slice_shift) >> s->l2_shift;
    uint64_t table = be64_get(s->l1[i]) & QCOW2_OFFSET_MASK;
    if (in_fixed_metadata(s, table) || is_refblock(s, table))
        return qcow2_corruption(s, table, "L2 table overlaps other metadata");
    if (inactive_has(s, table >> s->cluster_bits))
        return qcow2_corruption(s, table, "L2 table is a snapshot's, too");
    if (times_in(s->l1, s->l1_entries, QCOW2_OFFSET_MASK, table) > 1)
        return qcow2_corruption(s, table, "L2 table is named twice");
    return 0;
}

int verify_block(struct qcow2 *s, uint64_t host)
{
    const struct refcounts *R = &s->w->refs;
    if (in_fixed_metadata(s, host) || inactive_has(s, host >> s->cluster_bits) ||
        times_in(s->l1, s->l1_entries, QCOW2_OFFSET_MASK, host))
        return qcow2_corruption(s, host, "Refcount block overlaps other metadata");
    if (times_in(R->table, R->entries, ~0x1ffull, host) > 1)
        return qcow2_corruption(s, host, "Refcount block is named twice");
    return 0;
}

static int check_entry(struct qcow2 *s, const be64 *at, uint64_t off)
{
    uint64_t entry = be64_get(*at), host = entry & QCOW2_OFFSET_MASK;
    uint64_t bitmap = s->extended ? be64_get(at[1]) : 0;
    if ((entry & QCOW2_L2_COMPRESSED) && s->external)
        return qcow2_corruption(s, off, "Compressed cluster with an external data file");
    if (entry & QCOW2_L2_COMPRESSED)
        return 0;
    /* A data file that is too short is not this image's fault: its requests fail. */
    if ((entry & QCOW2_L2_RESERVED) || (host & s->cluster_mask) ||
        (!s->external && host >= s->data->node->size))
        return qcow2_corruption(s, host, "L2 entry 0x%llx for guest offset 0x%llx",
                                (unsigned long long)entry, (unsigned long long)off);
    if ((entry & QCOW2_L2_ZERO) && (s->extended || s->version < 3))
        return qcow2_corruption(s, host, "Zero flag where there is none");
    if (bitmap & bitmap >> 32 & QCOW2_ALL_DATA)
        return qcow2_corruption(s, host, "Subcluster both allocated and zero");
    if ((bitmap & QCOW2_ALL_DATA) && !host && !(s->external && (entry & QCOW2_COPIED)))
        return qcow2_corruption(s, host, "Subclusters without a cluster");
    if (s->external && (host || (entry & QCOW2_COPIED)) && host != (off & ~s->cluster_mask))
        return qcow2_corruption(s, host, "Not at its guest offset in the data file");
    return 0;
}

static int check_entries(struct qcow2 *s, const struct l2_slice *slice)
{
    int r = 0;
    for (uint64_t i = 0; i <= s->index_mask && !r; i++)
        r = check_entry(s, &slice->entries[i << s->extended],
                        (slice->key << s->slice_shift) + (i << s->cluster_bits));
    return r;
}

/* Clusters that an entry names: the first, and how many. */
static uint64_t named(const struct qcow2 *s, uint64_t entry, uint64_t *first)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK;
    if (!(entry & QCOW2_L2_COMPRESSED)) {
        *first = host >> s->cluster_bits;
        return host != 0;
    }
    uint64_t sectors = (entry & (QCOW2_L2_COMPRESSED - 1)) >> s->csize_shift;
    host = entry & ((1ull << s->csize_shift) - 1);
    uint64_t last = align_down(host, QCOW2_SECTOR) + (sectors + 1) * QCOW2_SECTOR - 1;
    *first = host >> s->cluster_bits;
    return (last >> s->cluster_bits) - *first + 1;
}

static int check_places(struct qcow2 *s, const struct l2_slice *slice)
{
    for (uint64_t i = 0; i <= s->index_mask; i++) {
        uint64_t c, n = named(s, be64_get(slice->entries[i << s->extended]), &c);
        for (; n; n--, c++)
            if (is_metadata(s, c << s->cluster_bits))
                return qcow2_corruption(s, c << s->cluster_bits, "Data cluster overlaps metadata");
    }
    return 0;
}

static int co_check_ref(struct qcow2 *s, uint64_t cluster, bool copied, unsigned *loads)
{
    struct ref_slice *slice;
    if (!ref_cached(s, cluster) && (*loads)++ >= REF_LOADS)
        return 0;
    int r = co_ref_slice(s, cluster, &slice);
    if (r)
        return r;
    uint64_t v = slice ? ref_get(s, slice, cluster) : 0;
    if (!v)
        return qcow2_corruption(s, cluster << s->cluster_bits, "Cluster in use is not counted");
    if (copied && v != 1)
        return qcow2_corruption(s, cluster << s->cluster_bits,
                                "Cluster is shared, but its entry says that it is not");
    return 0;
}

/* With alloc held, because refcounts are loaded. The slice may go meanwhile; then it is looked at when
 * it comes again. */
static int co_check_refs(struct qcow2 *s, uint64_t key)
{
    uint64_t table = be64_get(s->l1[(key << s->slice_shift) >> s->l2_shift]) & QCOW2_OFFSET_MASK;
    unsigned loads = 0;
    int r = co_check_ref(s, table >> s->cluster_bits, true, &loads);
    for (uint64_t i = 0; !s->external && i <= s->index_mask && !r; i++) {
        const struct l2_slice *slice = l2_lookup(&s->l2, key);
        if (!slice)
            return SR_EAGAIN;
        uint64_t entry = be64_get(slice->entries[i << s->extended]), c;
        uint64_t n = named(s, entry, &c);
        bool copied = (entry & QCOW2_COPIED) && !(entry & QCOW2_L2_COMPRESSED);
        for (; n && !r; n--, c++)
            r = co_check_ref(s, c, copied, &loads);
    }
    return r;
}

bool verified(const struct qcow2 *s, uint64_t key)
{
    const struct writer *w = s->w;
    return key < w->nverified && (w->verified[key / 64] >> key % 64 & 1);
}

int co_verify(struct qcow2 *s, struct l2_slice *slice)
{
    struct writer *w = s->w;
    uint64_t key = slice->key;
    int r = check_table(s, key);
    if (!r)
        r = check_entries(s, slice);
    if (!r && !s->external)
        r = check_places(s, slice);
    if (!r) {
        co_mutex_lock(&w->alloc);
        r = co_check_refs(s, key);
        co_mutex_unlock(&w->alloc);
    }
    if (!r && key < w->nverified)
        w->verified[key / 64] |= 1ull << key % 64;
    return r == SR_EAGAIN ? 0 : r;
}

/* ---- open, close ---- */

static void note_all(struct qcow2 *s, const be64 *table, uint64_t n, uint64_t mask)
{
    for (uint64_t i = 0; i < n; i++)
        if (be64_get(table[i]) & mask)
            verify_note(s, be64_get(table[i]) & mask);
}

static bool overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
    return alen && blen && (a < b ? b - a < alen : a - b < blen);
}

/* [off, off + len), of whole clusters, lies on what is written while the image is open. */
static bool on_own_tables(const struct qcow2 *s, uint64_t off, uint64_t len)
{
    const struct writer *w = s->w;
    return overlap(off, len, 0, 1) || overlap(off, len, w->l1_offset, s->l1_entries * 8) ||
           overlap(off, len, w->refs.table_offset, w->refs.entries * 8);
}

/* The header's own tables: L1 and refcounts were compared when it was parsed. */
static bool snapshots_overlap(const struct qcow2 *s)
{
    const struct writer *w = s->w;
    bool found = on_own_tables(s, w->snapshots_offset, w->snapshots_bytes);
    for (uint32_t i = 0; i < w->nb_snapshots; i++)
        found |= on_own_tables(s, w->snapshot_l1[i].offset, w->snapshot_l1[i].bytes);
    return found;
}

int verify_open(struct qcow2 *s, struct error *err)
{
    struct writer *w = s->w;
    if (snapshots_overlap(s))
        return error_set(err, SR_EACCES,
                         "qcow2: Snapshots overlap other metadata; image cannot be opened "
                         "read/write");
    uint64_t bits = MAX((s->l1_entries + w->refs.entries) * 8, 4096u);
    uint64_t slices = s->l1_entries << (s->l2_shift - s->slice_shift);
    unsigned log = log2_floor(bits);
    w->nverified = align_up(MIN(slices, VERIFIED_MAX), 64);
    w->meta_shift = 64 - log;
    w->meta_bytes = (size_t)(1ull << log) / 8;
    w->meta = fault(FAULT_ALLOC) ? NULL : page_alloc_zeroed(w->meta_bytes + w->nverified / 8);
    if (!w->meta)
        return SR_ENOMEM;
    w->verified = w->meta + w->meta_bytes / 8;
    note_all(s, s->l1, s->l1_entries, QCOW2_OFFSET_MASK);
    note_all(s, w->refs.table, w->refs.entries, ~0x1ffull);
    return 0;
}

void verify_close(struct qcow2 *s)
{
    if (s->w->meta)
        page_free(s->w->meta, s->w->meta_bytes + s->w->nverified / 8);
}

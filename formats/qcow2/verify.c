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
 * To find out fast whether a cluster is an L2 table or a refcount block, both are noted in a Bloom
 * filter; those that were noted before, in a second one:
 *
 *     cluster --- mixed with salt ---> |  word  |   4 bits of it   |
 *
 *     table, block:  all four set already?  then they are set in `twice`, else in `meta`
 *
 * What a filter says it may know is looked up in the tables: data clusters that `meta` knows, and
 * tables and blocks that `twice` knows. There are 16 bits or more for each table of the image, so that
 * is less than one entry of a hundred, whatever the image says: it was made by somebody who could not
 * know the salt. Snapshots' L1 tables are kept in order, and are found by halving. So to look through
 * a slice of n entries takes about n / 100 looks at the tables at most, and none in a new image.
 * Slices that were looked through are remembered, so a small cache does not make it be done again.
 *
 * Refcounts of a slice whose clusters lie all over a large file would cost as many reads: after
 * REF_LOADS of them, what is not in the cache is believed. Clusters in slices that nobody writes are
 * not looked at; what is known to be metadata is (refcount.c).
 */
#include "formats/qcow2/writer.h"

#define REF_LOADS    16u
#define VERIFIED_MAX (8u << 20) /* slices that are remembered */

uint64_t verify_scanned;

/* ---- the filters ---- */

static uint64_t *word_of(uint64_t *filter, const struct writer *w, uint64_t host, uint64_t *bits)
{
    uint64_t h = (host ^ w->meta_salt) * 0x9e3779b97f4a7c15ull;
    h = (h ^ h >> 32) * 0x9e3779b97f4a7c15ull;
    *bits =
        1ull << (h & 63) | 1ull << (h >> 6 & 63) | 1ull << (h >> 12 & 63) | 1ull << (h >> 18 & 63);
    return &filter[h >> w->meta_shift];
}

static bool knows(uint64_t *filter, const struct qcow2 *s, uint64_t host)
{
    uint64_t bits, word = *word_of(filter, s->w, host, &bits);
    return (word & bits) == bits;
}

void verify_note(struct qcow2 *s, uint64_t host)
{
    struct writer *w = s->w;
    uint64_t bits;
    *word_of(knows(w->meta, s, host) ? w->twice : w->meta, w, host, &bits) |= bits;
}

/* ---- where metadata lie ---- */

static unsigned times_in(const be64 *table, uint64_t n, uint64_t mask, uint64_t host)
{
    unsigned found = 0;
    verify_scanned += n;
    for (uint64_t i = 0; i < n; i++)
        found += (be64_get(table[i]) & mask) == host;
    return found;
}

static bool within(const struct qcow2 *s, uint64_t host, uint64_t off, uint64_t len)
{
    return host - (off & ~s->cluster_mask) < align_up(len, s->cluster_mask + 1);
}

/* They are in order, and do not overlap. */
static bool in_snapshot_l1(const struct qcow2 *s, uint64_t host)
{
    const struct qcow2_l1 *at = s->w->snapshot_l1;
    uint32_t n = s->w->nb_snapshots;
    while (n > 1) {
        uint32_t half = n / 2;
        verify_scanned++;
        if (at[half].offset <= host)
            at += half, n -= half;
        else
            n = half;
    }
    return n && within(s, host, at->offset, at->bytes);
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
    return knows(s->w->meta, s, host) &&
           (times_in(s->l1, s->l1_entries, QCOW2_OFFSET_MASK, host) || is_refblock(s, host));
}

/* ---- a slice ---- */

static int check_table(struct qcow2 *s, uint64_t key)
{
    uint64_t i = (key << s->slice_shift) >> s->l2_shift;
    uint64_t table = be64_get(s->l1[i]) & QCOW2_OFFSET_MASK;
    bool twice = knows(s->w->twice, s, table);
    if (in_fixed_metadata(s, table) || (twice && is_refblock(s, table)))
        return qcow2_corruption(s, table, "L2 table overlaps other metadata");
    if (inactive_has(s, table >> s->cluster_bits))
        return qcow2_corruption(s, table, "L2 table is a snapshot's, too");
    if (twice && times_in(s->l1, s->l1_entries, QCOW2_OFFSET_MASK, table) > 1)
        return qcow2_corruption(s, table, "L2 table is named twice");
    return 0;
}

int verify_block(struct qcow2 *s, uint64_t host)
{
    const struct refcounts *R = &s->w->refs;
    bool twice = knows(s->w->twice, s, host);
    if (in_fixed_metadata(s, host) || inactive_has(s, host >> s->cluster_bits) ||
        (twice && times_in(s->l1, s->l1_entries, QCOW2_OFFSET_MASK, host)))
        return qcow2_corruption(s, host, "Refcount block overlaps other metadata");
    if (twice && times_in(R->table, R->entries, ~0x1ffull, host) > 1)
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
    return r;
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

static void swap_l1(struct qcow2_l1 *a, struct qcow2_l1 *b)
{
    struct qcow2_l1 t = *a;
    *a = *b;
    *b = t;
}

/* A heap: the largest is the first. */
static void sift(struct qcow2_l1 *a, uint32_t i, uint32_t n)
{
    for (uint32_t k; (k = 2 * i + 1) < n; i = k) {
        k += k + 1 < n && a[k + 1].offset > a[k].offset;
        if (a[i].offset >= a[k].offset)
            return;
        swap_l1(&a[i], &a[k]);
    }
}

static void sort_l1(struct qcow2_l1 *a, uint32_t n)
{
    for (uint32_t i = n / 2; i--;)
        sift(a, i, n);
    while (n-- > 1) {
        swap_l1(&a[0], &a[n]);
        sift(a, 0, n);
    }
}

/* Those that overlap or touch become one: where they are is all that is asked. */
static uint32_t merge_l1(struct qcow2_l1 *a, uint32_t n, uint64_t cluster)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct qcow2_l1 *last = kept ? &a[kept - 1] : NULL;
        uint64_t behind = last ? a[i].offset - last->offset : 0;
        if (!a[i].bytes)
            continue;
        if (last && behind <= align_up(last->bytes, cluster))
            last->bytes = MAX(last->bytes, behind + a[i].bytes);
        else
            a[kept++] = a[i];
    }
    return kept;
}

int verify_open(struct qcow2 *s, struct error *err)
{
    struct writer *w = s->w;
    if (snapshots_overlap(s))
        return error_set(err, SR_EACCES,
                         "qcow2: Snapshots overlap other metadata; image cannot be opened "
                         "read/write");
    sort_l1(w->snapshot_l1, w->nb_snapshots);
    w->nb_snapshots = merge_l1(w->snapshot_l1, w->nb_snapshots, s->cluster_mask + 1);
    uint64_t tables = MAX(s->l1_entries + w->refs.entries, 512u);
    uint64_t slices = s->l1_entries << (s->l2_shift - s->slice_shift);
    unsigned log = log2_floor(2 * tables - 1) - 2; /* of words, four tables each */
    w->nverified = align_up(MIN(slices, VERIFIED_MAX), 64);
    w->meta_shift = 64 - log;
    w->meta_bytes = sizeof(uint64_t) << log;
    w->meta = fault(FAULT_ALLOC) ? NULL : page_alloc_zeroed(2 * w->meta_bytes + w->nverified / 8);
    if (!w->meta)
        return SR_ENOMEM;
    w->twice = w->meta + w->meta_bytes / 8;
    w->verified = w->twice + w->meta_bytes / 8;
    board_entropy(&w->meta_salt, sizeof(w->meta_salt));
    note_all(s, s->l1, s->l1_entries, QCOW2_OFFSET_MASK);
    note_all(s, w->refs.table, w->refs.entries, ~0x1ffull);
    return 0;
}

void verify_close(struct qcow2 *s)
{
    if (s->w->meta)
        page_free(s->w->meta, 2 * s->w->meta_bytes + s->w->nverified / 8);
}

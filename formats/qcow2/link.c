/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Entries change: the way to a slice that may be changed, and changes that need no new cluster
 * (zeroes, discard).
 *
 * An L2 table that is absent, or that a snapshot shares, is made first: written to a new cluster as it
 * has to be (zeroes, or a copy), and only then named by the L1 table in memory. The sector of the L1
 * table goes out with the next commit, after the flush that makes the table stable.
 *
 * Who changes entries waits for writes to new clusters that are under way in the same range
 * (struct alloc_op): they have decided what their entries will be.
 */
#include "formats/qcow2/writer.h"

/* ---- tables ---- */

static int co_copy_table(struct qcow2 *s, uint64_t from, uint64_t to)
{
    struct child *file = s->node->file;
    uint64_t size = s->cluster_mask + 1;
    size_t step = s->w->copy_size;
    struct copy c;
    int r = 0;
    co_copy_get(s, &c);
    for (uint64_t at = 0; at < size && !r; at += step) {
        r = co_blk_pread(file, from + at, c.data, step);
        if (!r)
            r = co_blk_pwrite(file, to + at, c.data, step, 0);
    }
    copy_put(s, &c);
    return r;
}

/* Also where zeroes are already: the table needs its blocks below now, when there may be none left, and
 * not when its entries are committed. */
static int co_fill_table(struct qcow2 *s, uint64_t old, uint64_t host)
{
    if (MUTANT(TABLE_UNWRITTEN))
        return 0;
    if (old)
        return co_copy_table(s, old, host);
    return co_blk_pwrite_zeroes(s->node->file, host, s->cluster_mask + 1, 0);
}

/* With tables held. */
static int co_make_table(struct qcow2 *s, uint64_t off)
{
    struct writer *w = s->w;
    uint64_t slice, i = off >> s->l2_shift, old = be64_get(s->l1[i]);
    struct found f;
    if (old & QCOW2_COPIED)
        return 0;
    int r = qcow2_slice_host(s, align_down(off, 1ull << s->l2_shift), &slice);
    if (!r)
        r = co_alloc(s, UINT64_MAX, 1, false, &f);
    if (r)
        return r;
    old &= QCOW2_OFFSET_MASK;
    r = co_fill_table(s, old, f.host);
    while (!r && (w->committing || !free_room(s, 1)))
        if (w->committing)
            co_wait_link(s);
        else
            r = co_free_frees(s);
    if (r) {
        co_unalloc(s, f.host, 1);
        return r;
    }
    if (old)
        free_later(s, (struct freed){.first = old >> s->cluster_bits, .count = 1, .shared = true});
    verify_note(s, f.host);
    l1_set(s, i, f.host | QCOW2_COPIED);
    w->changes++;
    return 0;
}

/* ---- slices ---- */

int co_slice(struct qcow2 *s, uint64_t off, struct l2_slice **out)
{
    uint64_t host, key = off >> s->slice_shift;
    int r = 0;
    while (!r) {
        if (unlikely(!(be64_get(s->l1[off >> s->l2_shift]) & QCOW2_COPIED))) {
            co_mutex_lock(&s->w->tables);
            r = co_make_table(s, off);
            co_mutex_unlock(&s->w->tables);
            continue;
        }
        *out = l2_lookup(&s->l2, key);
        if (likely(*out && (*out)->writable))
            return 0;
        if (*out) {
            r = verified(s, key) ? 0 : co_verify(s, *out);
            if (!r && (*out = l2_lookup(&s->l2, key)))
                __atomic_store_n(&(*out)->writable, true, __ATOMIC_RELAXED);
            r = r == SR_EAGAIN ? 0 : r;
            continue;
        }
        r = qcow2_slice_host(s, off, &host);
        if (!r && !host)
            r = qcow2_corruption(s, off, "L1 entry without a table");
        if (!r)
            r = co_l2_load(s, key, host);
    }
    return r;
}

int co_free_frees(struct qcow2 *s)
{
    int r = co_qcow2_commit(s);
    if (!r)
        co_reclaim_wait(s);
    return r ? r : s->w->reclaim_error;
}

/* How many runs of clusters one change may free: one for each entry. */
int co_slice_for_write(struct qcow2 *s, uint64_t off, uint64_t entries, struct l2_slice **out)
{
    struct writer *w = s->w;
    for (;;) {
        int r = s->corrupt ? SR_EIO : co_slice(s, off, out);
        if (r)
            return r;
        if (unlikely(w->committing && !MUTANT(COMMIT_OPEN)))
            co_wait_link(s);
        else if (unlikely(!free_room(s, entries)))
            r = co_free_frees(s);
        else if (unlikely(!l2_may_dirty(&s->l2, *out)))
            r = co_qcow2_commit(s);
        else
            return 0;
        if (r)
            return r;
    }
}

struct alloc_op *alloc_overlap(struct qcow2 *s, uint64_t start, uint64_t end)
{
    list_for_each (op, &s->w->allocs, struct alloc_op, link)
        if (op->start < end && start < op->end)
            return MUTANT(COW_NO_WAIT) ? NULL : op;
    return NULL;
}

/* What an entry names loses a reference. */
void entry_free(struct qcow2 *s, uint64_t entry, bool discard)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK, len = 1;
    struct freed f = {.discard = discard};
    if (s->external)
        return;
    if (entry & QCOW2_L2_COMPRESSED) {
        uint64_t sectors = (entry & (QCOW2_L2_COMPRESSED - 1)) >> s->csize_shift;
        host = entry & ((1ull << s->csize_shift) - 1);
        len = (sectors + 1) * QCOW2_SECTOR - host % QCOW2_SECTOR;
    } else if (host) {
        f.shared = !(entry & QCOW2_COPIED);
    } else {
        return;
    }
    f.first = host >> s->cluster_bits;
    f.count = (uint32_t)(last_cluster(s, host, len) - f.first + 1);
    free_later(s, f);
}

/* ---- zeroes and discard ---- */

enum clear { CLEAR_ZERO, CLEAR_ZERO_UNMAP, CLEAR_DISCARD };

/* The entry of a whole cluster that is to read as zeroes. */
static uint64_t cleared(const struct qcow2 *s, uint64_t entry, enum clear how)
{
    bool none = !(entry & (QCOW2_OFFSET_MASK | QCOW2_L2_COMPRESSED | QCOW2_L2_ZERO));
    if (!s->extended && none && !s->node->backing && !(entry & QCOW2_COPIED))
        return entry;
    uint64_t zero = s->version >= 3 && !s->extended ? QCOW2_L2_ZERO : 0;
    bool keep = (how == CLEAR_ZERO || s->external) && !(entry & QCOW2_L2_COMPRESSED);
    return keep ? entry | zero : zero;
}

/* Whole clusters [i, i + n) of a slice. */
static bool clear_clusters(struct qcow2 *s, struct l2_slice *slice, uint64_t i, uint64_t n,
                           enum clear how)
{
    bool changed = false, discard = how != CLEAR_ZERO && s->node->discard_unmap;
    for (uint64_t end = i + n; i < end; i++) {
        be64 *at = &slice->entries[i << s->extended];
        uint64_t old = be64_get(*at), new = cleared(s, old, how);
        uint64_t bitmap = s->extended ? be64_get(at[1]) : 0;
        uint64_t all = s->extended ? QCOW2_ALL_ZERO : 0;
        if (s->extended && !old && !bitmap && !s->node->backing)
            all = 0;
        if (new == old && bitmap == all)
            continue;
        if (!(new &QCOW2_OFFSET_MASK))
            entry_free(s, old, discard);
        entry_set(at, new);
        if (s->extended)
            be64_set(&at[1], all);
        changed = true;
    }
    return changed;
}

/* Subclusters [first, first + n) of one cluster. */
static int clear_subclusters(struct qcow2 *s, struct l2_slice *slice, uint64_t i, unsigned first,
                             unsigned n, bool *changed)
{
    be64 *at = &slice->entries[i * 2];
    uint64_t entry = be64_get(*at), bitmap = be64_get(at[1]), old = bitmap;
    uint64_t bits = ((1ull << n) - 1) << first;
    if (entry & QCOW2_L2_COMPRESSED)
        return SR_ENOTSUP;
    bitmap = (bitmap & ~bits) | bits << 32;
    if (!entry && !old && !s->node->backing)
        return 0;
    if (bitmap != old) {
        be64_set(&at[1], bitmap);
        *changed = true;
    }
    return 0;
}

/* What one change can do of [off, off + len): within a slice, and for subclusters within a cluster. */
static int clear_some(struct qcow2 *s, struct l2_slice *slice, uint64_t off, uint64_t len,
                      enum clear how, uint64_t *done)
{
    uint64_t i = off >> s->cluster_bits & s->index_mask, in = off & s->cluster_mask;
    uint64_t n = MIN(MIN(len >> s->cluster_bits, s->index_mask + 1 - i), QCOW2_CHANGE_MOST);
    bool changed = false;
    int r = 0;
    if (!in && n) {
        changed = clear_clusters(s, slice, i, n, how);
        *done = n << s->cluster_bits;
    } else {
        unsigned shift = s->cluster_bits - QCOW2_SUBCLUSTER_BITS;
        *done = MIN(len, s->cluster_mask + 1 - in);
        r = clear_subclusters(s, slice, i, (unsigned)(in >> shift), (unsigned)(*done >> shift),
                              &changed);
    }
    if (changed) {
        l2_set_dirty(&s->l2, slice);
        s->w->changes++;
    }
    return r;
}

/* Nothing to do as far as this: no table, and nothing shows through. */
static bool clear_nothing(const struct qcow2 *s, uint64_t off, uint64_t len, uint64_t *done)
{
    if (be64_get(s->l1[off >> s->l2_shift]) || s->node->backing)
        return false;
    *done = MIN(len, (1ull << s->l2_shift) - (off & ((1ull << s->l2_shift) - 1)));
    return true;
}

/* Version 2 has no zero flag: clusters read as zeroes when there is nothing, and nothing below. */
static bool v2_cannot(const struct qcow2 *s, enum clear how)
{
    return s->version < 3 && (s->node->backing || how == CLEAR_ZERO);
}

/* Who has to be waited for at `off`; what lies behind it shortens *len, so that nobody waits for more
 * than he needs at once. */
static struct alloc_op *in_the_way(struct qcow2 *s, uint64_t off, uint64_t *len)
{
    uint64_t room = (1ull << s->slice_shift) - (off & ((1ull << s->slice_shift) - 1));
    uint64_t first = align_down(off, s->cluster_mask + 1);
    *len = MIN(*len, room);
    for (struct alloc_op *op; (op = alloc_overlap(s, first, off + *len)); *len = op->start - off)
        if (op->start <= first)
            return op;
    return NULL;
}

static int co_clear_one(struct qcow2 *s, uint64_t off, uint64_t len, enum clear how, uint64_t *done)
{
    struct l2_slice *slice;
    struct alloc_op *op;
    if (clear_nothing(s, off, len, done))
        return 0;
    if (v2_cannot(s, how))
        return SR_ENOTSUP;
    int r = co_slice_for_write(s, off, QCOW2_CHANGE_MOST, &slice);
    if (r)
        return r;
    op = in_the_way(s, off, &len);
    *done = 0;
    if (op)
        co_queue_wait(&op->waiting);
    else
        r = clear_some(s, slice, off, len, how, done);
    return r;
}

/* Space in a data file goes back at once: it reads as zeroes then, and so will the entries say. */
static void co_return_data(struct qcow2 *s, uint64_t off, uint64_t len)
{
    uint64_t size = s->data->node->size;
    if (off < size)
        (void)co_blk_pwrite_zeroes(s->data, off, MIN(len, size - off),
                                   BLK_MAY_UNMAP | BLK_NO_FALLBACK);
}

static int co_clear(struct qcow2 *s, uint64_t off, uint64_t len, enum clear how)
{
    int r = co_prepare(s);
    if (!r && s->external && how != CLEAR_ZERO && s->node->discard_unmap)
        co_return_data(s, off, len);
    while (len && !r) {
        uint64_t done = 0;
        r = co_clear_one(s, off, len, how, &done);
        off += done;
        len -= done;
        if (MUTANT(FREE_AT_ONCE))
            co_reclaim_wait(s);
    }
    return r;
}

int co_qcow2_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct qcow2 *s = n->state;
    int r;
    if (s->raw) { /* its data file has to read the same */
        r = co_prepare(s);
        if (!r)
            r = co_blk_pwrite_zeroes(s->data, off, len, flags & BLK_MAY_UNMAP);
    } else {
        r = co_clear(s, off, len, flags & BLK_MAY_UNMAP ? CLEAR_ZERO_UNMAP : CLEAR_ZERO);
    }
    return r ? r : co_qcow2_promise(s, flags);
}

int co_qcow2_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    struct qcow2 *s = n->state;
    if (s->raw) {
        int r = co_prepare(s);
        return r ? r : co_blk_pdiscard(s->data, off, len);
    }
    return co_clear(s, off, len, CLEAR_DISCARD);
}

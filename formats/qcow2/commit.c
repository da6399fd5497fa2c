/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commits: changed entries go to the file, after everything that they need.
 *
 *     a write to a new cluster           refcount + 1     data, written        entry, in memory
 *                                             |                |                     |
 *     a commit     A   refcounts are written  |                |                     |
 *                      the file is flushed  <-+----------------+                     |
 *                  B   L2 slices and sectors of the L1 table are written  <----------+
 *     a flush      =   a commit, then the file is flushed
 *
 * New L2 tables and refcount blocks are written when they are made, before anything refers to them.
 * So whatever a power cut takes of B, each entry that arrived refers to a cluster that is counted and
 * holds what was written into it; and a sector of a table is old or new as a whole.
 *
 * Linking is shut from the beginning of A to the end of B: an entry that changed in between might be
 * written without its refcount, or its data, being stable. Who has written its data waits that long
 * (co_wait_link) before its entry changes; reads, writes in place, and the writing of data go on.
 * Nothing of this depends on how many changes there are: they share what a commit costs.
 *
 * With lazy refcounts A writes the dirty bit instead, once. They are made anew at the next opening, or
 * written when the image is closed.
 *
 * When. For a flush; for a write that has to be stable (FUA) or must survive us (restart-safe: it is
 * not flushed then, the layer below has it); when too many slices are dirty; when space is needed
 * that is still named. Who needs one while it runs waits for its end, and if that did not cover him
 * for the next, which serves all who came meanwhile.
 */
#include "formats/qcow2/writer.h"

#define STACKS_LEFT 8u /* ordinary starts that must still find a stack */
#define SPREAD      7u /* more coroutines that do the same work */

void co_wait_link(struct qcow2 *s)
{
    while (s->w->committing && !MUTANT(COMMIT_OPEN))
        co_queue_wait(&s->w->commit_wait);
}

/* ---- side by side ---- */

static void co_spread_one(void *arg)
{
    struct spread *p = arg;
    co_join_done(&p->join, p->co_work(p));
}

int co_spread(struct qcow2 *s, int (*co_work)(struct spread *p), unsigned jobs)
{
    struct spread p = {.s = s, .co_work = co_work};
    struct co_start more[SPREAD];
    co_join_init(&p.join);
    for (unsigned i = 0; i < SPREAD && i + 1 < jobs && co_stacks_free() >= STACKS_LEFT; i++) {
        co_join_add(&p.join);
        co_start_child(&more[i], co_spread_one, &p);
    }
    co_join_add(&p.join);
    co_spread_one(&p);
    return co_join_wait(&p.join);
}

/* ---- L1 ---- */

#define L1_SECTOR 512u

void l1_set(struct qcow2 *s, uint64_t index, uint64_t entry)
{
    uint64_t sector = index * 8 / L1_SECTOR;
    entry_set(&s->l1[index], entry);
    s->w->l1_dirty[sector / 64] |= 1ull << sector % 64;
}

bool entry_written(const struct qcow2 *s, const struct l2_slice *slice, uint64_t off)
{
    uint64_t sector = (off >> s->l2_shift) * 8 / L1_SECTOR;
    return !slice->dirty && !(s->w->l1_dirty[sector / 64] & 1ull << sector % 64);
}

static int co_write_l1_sector(struct qcow2 *s, uint64_t sector)
{
    uint64_t at = sector * L1_SECTOR, len = MIN(s->l1_entries * 8 - at, L1_SECTOR);
    if (s->corrupt) /* since this commit began */
        return SR_EIO;
    return co_blk_pwrite(s->node->file, s->w->l1_offset + at, (char *)s->l1 + at, (size_t)len, 0);
}

static int co_write_l1(struct qcow2 *s)
{
    uint64_t *map = s->w->l1_dirty;
    for (uint64_t i = 0; i < (s->w->l1_sectors + 63) / 64; i++)
        while (map[i]) {
            unsigned bit = (unsigned)__builtin_ctzll(map[i]);
            int r = co_write_l1_sector(s, i * 64 + bit);
            if (r)
                return r;
            map[i] &= ~(1ull << bit);
        }
    return 0;
}

/* ---- L2 ---- */

static int co_write_slice(struct qcow2 *s, struct l2_slice *slice)
{
    uint64_t off = slice->key << s->slice_shift, in = off & ((1ull << s->l2_shift) - 1);
    uint64_t table = be64_get(s->l1[off >> s->l2_shift]) & QCOW2_OFFSET_MASK;
    uint64_t host = table + (in >> s->slice_shift) * s->l2.slice_size;
    if (s->corrupt)
        return SR_EIO;
    return co_blk_pwrite(s->node->file, host, slice->entries, s->l2.slice_size, 0);
}

static int co_write_slices(struct spread *p)
{
    struct l2_cache *c = &p->s->l2;
    struct l2_slice *slice;
    int r = 0;
    while (!r && !p->join.error && (slice = list_first(&c->dirty, struct l2_slice, link))) {
        list_remove(&slice->link);
        r = co_write_slice(p->s, slice);
        if (r) {
            list_append(&c->dirty, &slice->link);
            continue;
        }
        slice->dirty = false;
        c->ndirty--;
    }
    return r;
}

/* ---- in order ---- */

static int co_flush_below(struct qcow2 *s)
{
    int r = co_blk_flush(s->node->file);
    if (!r && s->external)
        r = co_blk_flush(s->data);
    return r;
}

static int co_write_refs(struct qcow2 *s)
{
    int r = co_refs_settle(s);
    if (r)
        return r;
    if (!s->w->lazy)
        return co_refs_write(s);
    return s->w->dirty_bit || MUTANT(DIRTY_BIT_LATE) ? 0 : co_set_dirty(s, true);
}

static int co_write_entries(struct qcow2 *s)
{
    int r = co_spread(s, co_write_slices, s->l2.ndirty);
    return r ? r : co_write_l1(s);
}

static int co_steps(struct qcow2 *s)
{
    int r = s->corrupt ? SR_EIO : 0;
    if (!r && !MUTANT(COMMIT_REFS_LATE))
        r = co_write_refs(s);
    if (!r && !MUTANT(COMMIT_NO_FLUSH))
        r = co_flush_below(s);
    if (!r)
        r = s->corrupt ? SR_EIO : co_write_entries(s); /* it may have been seen meanwhile */
    if (!r && MUTANT(COMMIT_REFS_LATE))
        r = co_write_refs(s);
    if (!r && MUTANT(DIRTY_BIT_LATE) && s->w->lazy && !s->w->dirty_bit)
        r = co_set_dirty(s, true);
    return r;
}

static int co_run(struct qcow2 *s)
{
    struct writer *w = s->w;
    w->gathering = true;
    co_reschedule(); /* who is ready to link shares it */
    w->gathering = false;
    w->committing = true;
    uint64_t covers = w->changes;
    int r = co_steps(s);
    if (!r) {
        w->committed = covers;
        frees_committed(s);
    }
    w->committing = false;
    co_queue_wake_all(&w->commit_wait);
    reclaim_start(s);
    return r;
}

int co_qcow2_commit(struct qcow2 *s)
{
    struct writer *w = s->w;
    uint64_t need = w->changes;
    int r = 0;
    while (w->committed < need && !r)
        if (w->committing || w->gathering)
            co_queue_wait(&w->commit_wait);
        else
            r = co_run(s);
    return r;
}

int co_commit_stable(struct qcow2 *s)
{
    struct writer *w = s->w;
    int r = MUTANT(FLUSH_NO_COMMIT) ? 0 : co_qcow2_commit(s);
    uint64_t written = w->committed;
    if (!r && !MUTANT(FLUSH_NOT_BELOW))
        r = co_flush_below(s);
    if (!r)
        w->stable = MAX(w->stable, written);
    return r;
}

int co_qcow2_flush(struct node *n)
{
    return co_commit_stable(n->state);
}

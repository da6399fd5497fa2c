/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The writing half of a node: made at open, ended in order at close.
 *
 * Closing. The node was flushed: entries are written and stable, except what writes of other nodes'
 * failures left. What is pending is freed, until nothing is; then the refcounts are written, for
 * lowered ones are not in a hurry, and flushed; with lazy refcounts the dirty bit goes last. A file
 * that was grown ahead is cut behind its last used cluster. If any of this fails the image may have
 * leaks, or keeps its dirty bit; it is never worse than that.
 */
#include "formats/qcow2/writer.h"

#include <string.h>

/* ---- open ---- */

static int take_l1_map(struct qcow2 *s)
{
    struct writer *w = s->w;
    w->l1_sectors = (s->l1_entries * 8 + 511) / 512;
    w->l1_dirty = sr_calloc(w->l1_sectors / 64 + 1, sizeof(*w->l1_dirty));
    return w->l1_dirty ? 0 : SR_ENOMEM;
}

static void set_up(struct qcow2 *s, struct qcow2_image *img)
{
    struct writer *w = s->w;
    w->lazy = s->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    w->dirty_bit = s->incompatible & QCOW2_INCOMPAT_DIRTY;
    w->autoclear = img->autoclear;
    w->l1_offset = img->l1_offset;
    w->snapshots_offset = img->snapshots_offset;
    w->snapshots_bytes = img->snapshots_bytes;
    w->snapshot_l1 = img->snapshot_l1;
    w->nb_snapshots = img->nb_snapshots;
    img->snapshot_l1 = NULL;
    w->pending = w->lists[0];
    w->ready = w->lists[1];
    co_mutex_init(&w->alloc);
    co_mutex_init(&w->tables);
    co_mutex_init(&w->features);
    w->below = BLK_SETTLED & (s->data->node->write_flags | s->node->file->node->write_flags);
    co_queue_init(&w->commit_wait);
    co_queue_init(&w->reclaim_wait);
    co_queue_init(&w->mark_wait);
    list_init(&w->allocs);
    for (unsigned i = 0; i < QCOW2_TRAILS; i++)
        w->trails[i].guest = UINT64_MAX;
}

int co_writer_open(struct qcow2 *s, struct qcow2_image *img, struct error *err)
{
    s->w = sr_calloc(1, sizeof(*s->w));
    if (!s->w)
        return SR_ENOMEM;
    set_up(s, img);
    int r = take_l1_map(s);
    if (!r)
        r = copy_open(s);
    if (!r)
        r = co_refcounts_open(s, img, err);
    if (!r)
        r = co_inactive_open(s, err);
    if (!r)
        r = verify_open(s, err);
    return r;
}

/* ---- close ---- */

static int co_free_all(struct qcow2 *s)
{
    struct writer *w = s->w;
    int r = 0;
    while (!r && (w->npending || w->nready || w->reclaiming))
        r = co_free_frees(s);
    return r;
}

static int co_write_refcounts(struct qcow2 *s)
{
    struct writer *w = s->w;
    bool clear = w->dirty_bit;
    int r = 0;
    if (clear && MUTANT(DIRTY_BIT_EARLY))
        r = co_set_dirty(s, clear = false);
    if (!r)
        r = co_refs_settle(s);
    if (!r)
        r = co_refs_write(s);
    if (!r)
        r = co_blk_flush(s->node->file);
    if (!r && clear)
        r = co_set_dirty(s, false);
    if (!r && clear)
        r = co_blk_flush(s->node->file);
    return r;
}

/* One more than the last cluster below `end` that is used. */
static int co_last_used(struct qcow2 *s, uint64_t *end)
{
    struct ref_slice *slice;
    int r = 0;
    for (; *end; --*end) {
        r = co_ref_slice(s, *end - 1, &slice);
        if (r || (slice && ref_get(s, slice, *end - 1)))
            break;
        if (!slice) /* no block: on with the one before */
            *end = align_down(*end - 1, 1ull << s->w->refs.block_bits) + 1;
    }
    return r;
}

static int co_cut_file(struct qcow2 *s)
{
    struct child *file = s->node->file;
    uint64_t end = file->node->size >> s->cluster_bits;
    if (!s->w->grown)
        return 0;
    int r = co_last_used(s, &end);
    return r || !end ? r : co_blk_truncate(file, file_round(s, end << s->cluster_bits));
}

static int co_end(struct qcow2 *s)
{
    int r = co_commit_stable(s);
    if (!r)
        r = co_free_all(s);
    if (!r)
        r = s->corrupt ? SR_EIO : co_write_refcounts(s);
    return r ? r : co_cut_file(s);
}

void co_writer_close(struct qcow2 *s)
{
    struct writer *w = s->w;
    int r = 0;
    if (!s->corrupt && w->prepared)
        r = co_end(s);
    while (w->reclaiming)
        co_queue_wait(&w->reclaim_wait);
    while (w->marking)
        co_queue_wait(&w->mark_wait);
    if (!r && !s->corrupt)
        return;
    log_line("qcow2", "node %s: not closed cleanly: %s", s->node->name,
             sr_strerror(r ? r : SR_EIO));
    system_unclean();
}

void writer_free(struct qcow2 *s)
{
    if (!s->w)
        return;
    verify_close(s);
    inactive_close(s);
    refcounts_close(s);
    copy_close(s);
    sr_free(s->w->l1_dirty);
    sr_free(s->w->snapshot_l1);
    sr_free(s->w);
}

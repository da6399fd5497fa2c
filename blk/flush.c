/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flushing.
 *
 * Each completed change counts in write_gen (per loop; their sum only grows). A flush that succeeds
 * covers the sum as it was when the driver was called: what completes later is not covered, although
 * the medium may have it. A flush is skipped when the sum was covered already, and one that comes
 * while another runs waits for it and then looks again: so however many come at once, at most one
 * runs and one more follows. After a failure nothing is covered, and each waiter tries for itself.
 *
 * `cache.no-flush` makes the flush of a protocol node (a disk, a file) do nothing; formats above
 * still write their metadata.
 */
#include "blk/io.h"

static uint64_t written(const struct node *n)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < loop_count(); i++)
        sum += __atomic_load_n(&n->stats[i].write_gen, __ATOMIC_RELAXED);
    return sum;
}

static int co_flush_children(struct node *n)
{
    int r = 0;
    list_for_each (c, &n->children, struct child, sibling) {
        if (!c->writable)
            continue;
        int e = co_blk_flush(c);
        r = r ? r : e;
    }
    return r;
}

static int co_driver_flush(struct node *n)
{
    if (n->cache_no_flush && n->drv->protocol)
        return 0;
    TRACE(blk_flush, n, 0);
    int r = n->drv->co_flush ? n->drv->co_flush(n) : co_flush_children(n);
    struct blk_stats *s = &n->stats[loop_id()];
    if (r)
        s->failed_flush++;
    else
        s->flush_ops++;
    return r;
}

int co_node_flush(struct node *n)
{
    uint64_t need = written(n);
    while (n->flushed_gen < need && n->flushing)
        co_queue_wait(&n->flush_wait);
    if (n->flushed_gen >= need)
        return 0;
    n->flushing = true;
    uint64_t covers = written(n);
    int r = co_driver_flush(n);
    if (!r)
        n->flushed_gen = covers;
    n->flushing = false;
    co_queue_wake_all(&n->flush_wait);
    return r;
}

int co_blk_flush(struct child *c)
{
    struct node *n = c->node;
    if (unlikely(co_headroom_short()))
        return co_far((struct far){.op = FAR_FLUSH, .child = c});
    unsigned from = co_go_home(n);
    int r = co_node_flush(n);
    co_go_back(n, from);
    return r;
}

void node_dirty(struct node *n)
{
    node_wrote(n);
}

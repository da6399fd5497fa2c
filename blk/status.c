/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block status: what a range is, without reading it.
 *
 *     co_blk_status        one layer:  RAW answers are followed down their child until somebody
 *                                      decides
 *     co_blk_status_above  one reader: and further down the backing chain of whoever did not
 *
 *     raw (offset 1 MiB)  --RAW-->  qcow2 overlay  --not allocated-->  qcow2 base  --DATA, RECURSE-->  file
 *
 * Both walk in a loop, so the depth of a graph costs no stack, and each step may only shorten the
 * answer. Where a backing is shorter than its overlay the rest reads as zeroes. RECURSE asks the node
 * that holds the bytes, once, whether it knows them to be zero.
 *
 * A driver is asked for whole blocks of its request_alignment, and its answer is cut back.
 */
#include "blk/io.h"

/* Where a walk stands. */
struct place {
    struct child *edge;
    uint64_t off, len; /* len only shrinks */
};

static void default_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    st->len = len;
    st->map = off;
    if (n->drv->filter && n->file) {
        st->flags = BLK_RAW | BLK_OFFSET_VALID;
        st->map_child = n->file;
    } else {
        st->flags = BLK_DATA | BLK_ALLOCATED | (n->drv->protocol ? BLK_OFFSET_VALID : 0);
    }
}

/* The driver's own answer, cut to [p->off, p->off + p->len). */
static int co_driver_status(const struct place *p, struct blk_status *st)
{
    struct node *n = p->edge->node;
    uint64_t start = align_down(p->off, n->limits.request_alignment);
    uint64_t end = align_up(p->off + p->len, n->limits.request_alignment);
    int r = 0;
    *st = (struct blk_status){0};
    if (n->drv->co_block_status)
        r = n->drv->co_block_status(n, start, end - start, st);
    else
        default_status(n, start, end - start, st);
    if (r)
        return r;
    ASSERT(st->len > p->off - start);
    st->len -= p->off - start;
    st->map += p->off - start;
    if (st->len > p->len)
        st->len = p->len;
    return 0;
}

/* Follows RAW to the node that decides; *p ends there, *st is its answer. */
static int co_resolve(struct place *p, struct blk_status *st)
{
    for (;;) {
        if (!range_ok(p->off, p->len, node_size(p->edge->node)))
            return SR_EIO;
        int r = co_driver_status(p, st);
        if (r)
            return r;
        p->len = st->len;
        if (!(st->flags & BLK_RAW))
            break;
        p->edge = st->map_child;
        p->off = st->map;
    }
    if (st->flags & (BLK_DATA | BLK_ZERO))
        st->flags |= BLK_ALLOCATED;
    else if (!(st->flags & BLK_ALLOCATED) && !p->edge->node->backing)
        st->flags |= BLK_ZERO;
    return 0;
}

/* Data whose node may know that it is zero: ask there. Failure to know is not an error. */
static void co_recurse(struct place *p, struct blk_status *st)
{
    const unsigned ask = BLK_DATA | BLK_OFFSET_VALID | BLK_RECURSE;
    struct blk_status below;
    if ((st->flags & (ask | BLK_ZERO)) != ask || !st->map_child)
        return;
    struct place q = {.edge = st->map_child, .off = st->map, .len = p->len};
    if (co_resolve(&q, &below))
        return;
    st->flags |= below.flags & BLK_ZERO;
    p->len = q.len;
}

static int co_walk(struct child *c, uint64_t off, uint64_t len, struct blk_status *st, bool chain)
{
    struct place p = {.edge = c, .off = off, .len = len};
    int r;
    while (!(r = co_resolve(&p, st)) && chain && !(st->flags & (BLK_ALLOCATED | BLK_ZERO))) {
        p.edge = p.edge->node->backing;
        uint64_t size = node_size(p.edge->node);
        if (p.off >= size) {
            st->flags = BLK_ZERO;
            break;
        }
        p.len = MIN(p.len, size - p.off);
    }
    if (!r)
        co_recurse(&p, st);
    st->len = p.len;
    if (off + p.len == node_size(c->node))
        st->flags |= BLK_EOF;
    return r;
}

static int co_status(struct far f)
{
    struct child *c = f.child;
    bool chain = f.op == FAR_ABOVE;
    *f.st = (struct blk_status){0};
    if (!range_ok(f.off, f.len, node_size(c->node)))
        return SR_EIO;
    if (!f.len) {
        f.st->flags = f.off == node_size(c->node) ? BLK_EOF : 0;
        return 0;
    }
    if (co_headroom_short())
        return co_far(f);
    int r = co_walk(c, f.off, f.len, f.st, chain);
    if (chain)
        f.st->flags &= BLK_DATA | BLK_ZERO | BLK_ALLOCATED | BLK_EOF;
    return r;
}

int co_blk_status(struct child *c, uint64_t off, uint64_t len, struct blk_status *st)
{
    return co_status((struct far){.op = FAR_STATUS, .child = c, .off = off, .len = len, .st = st});
}

int co_blk_status_above(struct child *c, uint64_t off, uint64_t len, struct blk_status *st)
{
    return co_status((struct far){.op = FAR_ABOVE, .child = c, .off = off, .len = len, .st = st});
}

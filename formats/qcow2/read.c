/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads.
 *
 * Most are one extent: its slice is in the cache, and the request goes on to the file, or to the
 * backing node, as it is, with the caller's list of segments, from whatever loop it came on.
 *
 * Others are cut at the ends of extents, on the home loop:
 *
 *     guest   [ data A | zero | data B         | unallocated | compressed ]
 *               |        |      |                |             |
 *               child    here   child            child         the requester itself
 *
 * Zeroes are filled in at once. Every other part but the last is a child coroutine, when there is
 * a place for it in the pool and stacks are not scarce; else the requester reads it itself, so
 * nothing here ever waits for memory. The first error wins, and no new part is started after it.
 */
#include "formats/qcow2/qcow2.h"

struct part {
    void *pool_link; /* the pool's while it is free */
    struct co_start start;
    struct node *node;
    struct co_join *join;
    struct extent extent;
    uint64_t off;
    struct iov v;
};

static struct pool qcow2_part_pool =
    POOL("qcow2-part", POOL_RANK_METADATA, sizeof(struct part), .min = 8, .max = 1024, .weight = 1);
REGISTER(pool, qcow2_part_pool);

#define STACKS_LEFT 8u /* ordinary starts that must still find a stack; fewer: no more children */

/* ---- one extent ---- */

static inline int co_read_backing(struct node *n, uint64_t off, struct iov v)
{
    struct child *b = n->backing;
    uint64_t have = b && off < b->node->size ? b->node->size - off : 0;
    if (likely(have >= v.len))
        return co_blk_preadv(b, off, v, 0);
    iov_fill(v, (size_t)have, 0, v.len - (size_t)have);
    return have ? co_blk_preadv(b, off, iov_slice(v, 0, (size_t)have), 0) : 0;
}

static int co_read_extent(struct node *n, const struct extent *e, uint64_t off, struct iov v)
{
    struct qcow2 *s = n->state;
    switch (e->type) {
    case EXTENT_DATA:
        return co_blk_preadv(s->data, e->host, v, 0);
    case EXTENT_UNALLOCATED:
        return co_read_backing(n, off, v);
    case EXTENT_COMPRESSED:
        return co_cluster_read(s, e, off & s->cluster_mask, v);
    case EXTENT_ZERO:
        break;
    }
    iov_fill(v, 0, 0, v.len);
    return 0;
}

/* ---- several ---- */

static void co_read_part(void *arg)
{
    struct part *p = arg;
    struct co_join *join = p->join;
    int r = co_read_extent(p->node, &p->extent, p->off, p->v);
    pool_put(&qcow2_part_pool, NULL, p);
    co_join_done(join, r);
}

/* False: the caller has to read it. */
static bool start_part(struct node *n, struct co_join *join, const struct extent *e, uint64_t off,
                       struct iov v)
{
    if (e->type == EXTENT_ZERO || (e->type == EXTENT_UNALLOCATED && !n->backing) ||
        co_stacks_free() < STACKS_LEFT)
        return false;
    struct part *p = pool_try_get(&qcow2_part_pool, NULL);
    if (!p)
        return false;
    p->node = n;
    p->join = join;
    p->extent = *e;
    p->off = off;
    p->v = v;
    co_join_add(join);
    co_start_child(&p->start, co_read_part, p);
    return true;
}

static int co_read_parts(struct node *n, uint64_t off, struct iov v)
{
    struct co_join join;
    struct extent e;
    int r = 0;
    co_join_init(&join);
    while (v.len && !r && !join.error) {
        r = co_qcow2_map(n->state, off, v.len, false, &e);
        if (r)
            break;
        size_t len = (size_t)MIN(e.len, v.len);
        struct iov part = iov_slice(v, 0, len);
        if (len == v.len || !start_part(n, &join, &e, off, part))
            r = co_read_extent(n, &e, off, part);
        off += len;
        v = iov_slice(v, len, v.len - len);
    }
    int child = co_join_wait(&join);
    return r ? r : child;
}

int co_qcow2_read_home(struct node *n, uint64_t off, struct iov v)
{
    struct qcow2 *s = n->state;
    unsigned e = qcow2_io_begin(s);
    int r = co_read_parts(n, off, v);
    qcow2_io_end(s, e);
    return r;
}

static __attribute__((noinline)) int co_go_home_and_read(struct node *n, uint64_t off, struct iov v)
{
    unsigned from = loop_id();
    co_hop(n->home_loop);
    int r = co_qcow2_read_home(n, off, v);
    co_hop(from);
    return r;
}

/* What one look at the mapping can answer; SR_EAGAIN: not this. A subcluster's entry has two words,
 * which only the home loop sees change together. */
static inline int co_read_at_once(struct node *n, uint64_t off, struct iov v)
{
    struct qcow2 *s = n->state;
    struct extent e;
    uint64_t host;
    if (unlikely(s->extended && loop_id() != n->home_loop))
        return SR_EAGAIN;
    int r = qcow2_map(s, off, v.len, &e, &host);
    if (unlikely(r == SR_EIO && loop_id() == n->home_loop))
        return r;
    if (unlikely(r || e.len < v.len || e.type == EXTENT_COMPRESSED))
        return SR_EAGAIN;
    if (likely(e.type == EXTENT_DATA))
        return co_blk_preadv(s->data, e.host, v, 0);
    if (e.type == EXTENT_UNALLOCATED)
        return co_read_backing(n, off, v);
    iov_fill(v, 0, 0, v.len);
    return 0;
}

int co_qcow2_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct qcow2 *s = n->state;
    (void)flags;
    unsigned e = qcow2_io_begin(s);
    int r = co_read_at_once(n, off, v);
    qcow2_io_end(s, e);
    return likely(r != SR_EAGAIN) ? r : co_go_home_and_read(n, off, v);
}

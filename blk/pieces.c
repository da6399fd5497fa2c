/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests that do not fit the driver: cut into pieces that do.
 *
 *       off                                      off + len
 *        v                                           v
 *     ---[=====|===========|===========|===========|=]------   | blocks of request_alignment
 *     [ head   ] [ direct ...             direct ] [  tail ]
 *
 * A piece goes *direct* when its offset is aligned and memory and segments suit the driver: at most
 * max_transfer bytes, max_sg segments. What does not is *bounced*: whole blocks around it are read
 * into, or merged in and written from, a buffer that suits everybody (contiguous, page-aligned). A
 * short request is bounced as a whole, a long one only by its odd head and tail. Pieces run one
 * after the other.
 *
 * Bounce buffers. One of the shared pool (64 KiB) when there is one now, else the node's *reserve*:
 * one block or page, which it got when it was opened. Only the reserve is waited for, and its holder
 * waits only for nodes further down the graph, which have reserves of their own: so the deepest
 * request can always finish. Nodes without limits have none and never come here.
 *
 * A read-modify-write runs inside a serialising tracked write (track.c): the block does not change
 * between its read and its write.
 *
 * All on the node's home loop.
 */
#include "blk/io.h"

#include <string.h>

#define BOUNCE_SIZE (64u << 10)

struct bounce_buf {
    void *link; /* the pool's while it is free */
    void *data;
};

static void bounce_made(struct pool *p, void *obj, void *payload)
{
    (void)p;
    ((struct bounce_buf *)obj)->data = payload;
}

struct pool blk_bounce_pool =
    POOL("blk-bounce", POOL_RANK_BOUNCE, sizeof(struct bounce_buf), .payload = BOUNCE_SIZE,
         .payload_align = PAGE_SIZE, .made = bounce_made, .min = 1, .max = 32, .weight = 1);
REGISTER(pool, blk_bounce_pool);

struct reserve {
    void *data;
    size_t size;
    bool taken;
    struct co_queue waiting;
};

struct bounce {
    char *data;
    size_t size;             /* a multiple of the node's request_alignment */
    struct bounce_buf *from; /* NULL: the node's reserve */
};

/* ---- bounce buffers ---- */

static bool limited(const struct blk_limits *l)
{
    return l->request_alignment > 1 || l->mem_align > 1 || l->max_sg;
}

int reserve_open(struct node *n)
{
    if (!limited(&n->limits))
        return 0;
    struct reserve *r = sr_calloc(1, sizeof(*r));
    if (!r)
        return SR_ENOMEM;
    r->size = MAX(n->limits.request_alignment, PAGE_SIZE);
    r->data = page_alloc(r->size);
    if (!r->data) {
        sr_free(r);
        return SR_ENOMEM;
    }
    co_queue_init(&r->waiting);
    n->reserve = r;
    return 0;
}

void reserve_close(struct node *n)
{
    struct reserve *r = n->reserve;
    if (!r)
        return;
    ASSERT(!r->taken);
    page_free(r->data, r->size);
    sr_free(r);
    n->reserve = NULL;
}

static void co_bounce_get(struct node *n, struct bounce *b)
{
    struct reserve *r = n->reserve;
    b->from = pool_try_get(&blk_bounce_pool, NULL);
    if (likely(b->from)) {
        b->data = b->from->data;
        b->size = BOUNCE_SIZE;
    } else {
        while (r->taken)
            co_queue_wait(&r->waiting);
        r->taken = true;
        b->data = r->data;
        b->size = r->size;
    }
    /* both are powers of two or multiples of the alignment, so their minimum is one too */
    b->size = MIN(b->size, n->limits.max_transfer);
}

static void bounce_put(struct node *n, struct bounce *b)
{
    if (likely(b->from)) {
        pool_put(&blk_bounce_pool, NULL, b->from);
        return;
    }
    n->reserve->taken = false;
    co_queue_wake_one(&n->reserve->waiting);
}

/* ---- cutting ---- */

size_t direct_prefix(const struct node *n, struct iov v)
{
    const struct blk_limits *l = &n->limits;
    size_t sum = 0, max = MIN(v.len, l->max_transfer), len;
    unsigned left = l->max_sg;
    void *p;
    while (sum < max && iov_next(&v, &p, &len)) {
        if ((uintptr_t)p & (l->mem_align - 1))
            break;
        sum += len;
        if (--left == 0 || (len & (l->mem_align - 1)))
            break;
    }
    return align_down(MIN(sum, max), l->request_alignment);
}

/* The blocks [start, end) that a bounced piece covers, and the end of its bytes in them. */
struct blocks {
    uint64_t start, end, stop;
};
static struct blocks blocks_around(const struct node *n, uint64_t off, uint64_t len, size_t room)
{
    uint64_t align = n->limits.request_alignment;
    struct blocks b = {.start = align_down(off, align), .end = align_up(off + len, align)};
    if (b.end - b.start > room) /* a long one: its odd head, or what the buffer holds */
        b.end = b.start + (b.start < off ? align : room);
    b.stop = MIN(b.end, off + len);
    return b;
}

static int co_driver_read(struct node *n, uint64_t off, void *buf, size_t len)
{
    struct seg seg;
    return n->drv->co_preadv(n, off, iov_one(&seg, buf, len), 0);
}

/* ---- reading ---- */

static int co_read_bounced(struct node *n, uint64_t off, struct iov v, size_t *done)
{
    struct bounce b;
    co_bounce_get(n, &b);
    struct blocks at = blocks_around(n, off, v.len, b.size);
    int r = co_driver_read(n, at.start, b.data, at.end - at.start);
    *done = at.stop - off;
    if (!r)
        iov_copy_in(v, 0, b.data + (off - at.start), *done);
    bounce_put(n, &b);
    return r;
}

int co_read_pieces(struct node *n, uint64_t off, struct iov v)
{
    int r = 0;
    while (v.len && !r) {
        size_t done = 0;
        if (is_aligned(off, n->limits.request_alignment))
            done = direct_prefix(n, v);
        if (done)
            r = n->drv->co_preadv(n, off, iov_slice(v, 0, done), 0);
        else
            r = co_read_bounced(n, off, v, &done);
        off += done;
        v = iov_slice(v, done, v.len - done);
    }
    return r;
}

/* ---- writing ---- */

/* Reads the blocks at both ends that the bytes [off, at->stop) cover only in part. */
static int co_read_edges(struct node *n, const struct blocks *at, uint64_t off, char *buf)
{
    uint64_t align = n->limits.request_alignment, last = at->end - align;
    int r = 0;
    if (at->start < off)
        r = co_driver_read(n, at->start, buf, align);
    if (!r && at->stop < at->end && (last > at->start || at->start == off))
        r = co_driver_read(n, last, buf + (last - at->start), align);
    return r;
}

static int co_write_bounced(struct node *n, uint64_t off, struct iov v, unsigned flags,
                            size_t *done)
{
    struct bounce b;
    struct seg seg;
    co_bounce_get(n, &b);
    struct blocks at = blocks_around(n, off, v.len, b.size);
    *done = at.stop - off;
    int r = co_read_edges(n, &at, off, b.data);
    if (!r) {
        iov_copy_out(b.data + (off - at.start), v, 0, *done);
        r = n->drv->co_pwritev(n, at.start, iov_one(&seg, b.data, at.end - at.start), flags);
    }
    bounce_put(n, &b);
    return r;
}

int co_write_pieces(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    int r = 0;
    while (v.len && !r) {
        size_t done = 0;
        if (is_aligned(off, n->limits.request_alignment))
            done = direct_prefix(n, v);
        if (done)
            r = n->drv->co_pwritev(n, off, iov_slice(v, 0, done), flags);
        else
            r = co_write_bounced(n, off, v, flags, &done);
        off += done;
        v = iov_slice(v, done, v.len - done);
    }
    return r;
}

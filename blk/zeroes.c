/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Write-zeroes and discard: requests without data.
 *
 *     ---[==|=======+===============+=======|==]---    | request_alignment  + write_zeroes_alignment
 *         ^     ^          ^            ^     ^
 *     read-     zeroes     the driver's zeroes read-modify-write
 *     modify-   from a     own way      from
 *     write     buffer                  a buffer
 *
 * When the driver has no way of its own, or says SR_ENOTSUP, zeroes from a buffer are written all
 * along; NO_FALLBACK turns each use of a buffer into SR_ENOTSUP, and is refused before anything is
 * changed where that can be seen. The buffer is one page, named by every segment of a fixed list.
 *
 * Discard is advice: the odd ends are left alone, a driver without it does nothing, and so does a
 * node with discard=ignore.
 */
#include "blk/io.h"

#define ZERO_SEGS 64u /* 256 KiB */

static struct seg zero_segs[ZERO_SEGS];

int zeroes_init(void)
{
    if (zero_segs[0].base)
        return 0;
    void *page = page_alloc_zeroed(PAGE_SIZE);
    if (!page)
        return SR_ENOMEM;
    for (unsigned i = 0; i < ZERO_SEGS; i++)
        zero_segs[i] = (struct seg){.base = page, .len = PAGE_SIZE};
    return 0;
}

static int co_zero_by_buffer(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int r = 0;
    if (flags & BLK_NO_FALLBACK)
        return SR_ENOTSUP;
    flags &= n->write_flags & (BLK_FUA | BLK_SETTLED);
    while (len && !r) {
        size_t m = MIN(len, ZERO_SEGS * PAGE_SIZE);
        r = co_write_pieces(n, off, (struct iov){.seg = zero_segs, .len = m}, flags);
        off += m;
        len -= m;
    }
    return r;
}

/* ---- cutting ---- */

/* The middle [start, end) of [off, off + len) that is aligned to `align`; empty: start == end. */
struct middle {
    uint64_t start, end;
};
static struct middle middle_of(uint64_t off, uint64_t len, uint64_t align)
{
    uint64_t end = off + len, start = off;
    if (off % align)
        start = off + (align - off % align);
    end -= end % align;
    return start < end ? (struct middle){start, end} : (struct middle){off, off};
}

static uint64_t or_request(const struct node *n, uint64_t align)
{
    return align ? align : n->limits.request_alignment;
}

/* max, cut to whole multiples of align */
static uint64_t step_of(uint64_t max, uint64_t align)
{
    return max ? max - max % align : UINT64_MAX;
}

/* ---- zeroes ---- */

/* Aligned: by the driver; SR_ENOTSUP when it cannot, with *off where it stopped. */
static int co_zero_by_driver(struct node *n, uint64_t *off, uint64_t end, unsigned flags)
{
    const struct blk_limits *l = &n->limits;
    uint64_t step = step_of(l->max_write_zeroes, or_request(n, l->write_zeroes_alignment));
    int r = 0;
    if (!n->drv->co_pwrite_zeroes || !step || (flags & BLK_NO_FALLBACK & ~n->zero_flags))
        return SR_ENOTSUP;
    while (*off < end && !r) {
        uint64_t m = MIN(end - *off, step);
        r = n->drv->co_pwrite_zeroes(n, *off, m, flags & n->zero_flags);
        if (!r)
            *off += m;
    }
    return r;
}

static int co_zero_parts(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t end = off + len;
    struct middle mid = middle_of(off, len, or_request(n, n->limits.write_zeroes_alignment));
    if ((flags & BLK_NO_FALLBACK) && (mid.start != off || mid.end != end))
        return SR_ENOTSUP;
    int r = co_zero_by_buffer(n, off, mid.start - off, flags & ~BLK_NO_FALLBACK);
    off = mid.start;
    if (!r)
        r = co_zero_by_driver(n, &off, mid.end, flags);
    if (r == SR_ENOTSUP || (!r && off < end))
        r = co_zero_by_buffer(n, off, end - off, flags);
    return r;
}

int co_zero_pieces(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int r = co_zero_parts(n, off, len, flags);
    node_wrote(n);
    if (!r && (flags & BLK_FUA) && !(n->write_flags & n->zero_flags & BLK_FUA))
        r = co_node_flush(n);
    return r;
}

static int co_zero_tracked(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct tracked t;
    if (!n->tracking)
        return co_zero_pieces(n, off, len, flags);
    bool odd = !is_aligned(off | len, n->limits.request_alignment);
    co_track_begin(n, &t, off, len, odd || (flags & BLK_SERIALISING));
    int r = co_zero_pieces(n, off, len, flags);
    track_end(n, &t);
    return r;
}

int co_blk_pwrite_zeroes(struct child *c, uint64_t off, uint64_t len, unsigned flags)
{
    struct node *n = c->node;
    if (!c->writable || !range_ok(off, len, node_size(n))) {
        n->stats[loop_id()].invalid_wr++;
        return c->writable ? SR_EIO : SR_EPERM;
    }
    if (!len)
        return 0;
    if (co_headroom_short())
        return co_far(
            (struct far){.op = FAR_ZEROES, .child = c, .off = off, .len = len, .flags = flags});
    TRACE(blk_write, n, off);
    flags |= c->write_flags;
    if (!n->discard_unmap)
        flags &= ~BLK_MAY_UNMAP;
    unsigned from = co_go_home(n);
    int r = co_zero_tracked(n, off, len, flags);
    co_go_back(n, from);
    struct blk_stats *s = &n->stats[loop_id()];
    if (r) {
        s->failed_wr += r != SR_ENOTSUP;
        return r;
    }
    s->zero_ops++;
    s->zero_bytes += len;
    s->wr_highest = MAX(s->wr_highest, off + len);
    return 0;
}

/* ---- discard ---- */

static int co_discard_pieces(struct node *n, uint64_t off, uint64_t end, uint64_t align)
{
    uint64_t step = step_of(n->limits.max_discard, align);
    int r = step ? 0 : SR_ENOTSUP;
    while (off < end && !r) {
        uint64_t m = MIN(end - off, step);
        r = n->drv->co_pdiscard(n, off, m);
        off += m;
    }
    node_wrote(n);
    return r == SR_ENOTSUP ? 0 : r;
}

static int co_discard_home(struct node *n, uint64_t off, uint64_t len)
{
    uint64_t align = or_request(n, n->limits.discard_alignment);
    struct middle mid = middle_of(off, len, align);
    struct tracked t;
    if (mid.start == mid.end)
        return 0;
    if (!n->tracking)
        return co_discard_pieces(n, mid.start, mid.end, align);
    co_track_begin(n, &t, mid.start, mid.end - mid.start, false);
    int r = co_discard_pieces(n, mid.start, mid.end, align);
    track_end(n, &t);
    return r;
}

int co_blk_pdiscard(struct child *c, uint64_t off, uint64_t len)
{
    struct node *n = c->node;
    if (!c->writable)
        return SR_EPERM;
    if (!range_ok(off, len, node_size(n)))
        return SR_EIO;
    if (!n->discard_unmap || !n->drv->co_pdiscard)
        return 0;
    if (co_headroom_short())
        return co_far((struct far){.op = FAR_DISCARD, .child = c, .off = off, .len = len});
    unsigned from = co_go_home(n);
    int r = co_discard_home(n, off, len);
    co_go_back(n, from);
    struct blk_stats *s = &n->stats[loop_id()];
    if (r) {
        s->failed_unmap++;
        return r;
    }
    s->unmap_ops++;
    s->unmap_bytes += len;
    return 0;
}

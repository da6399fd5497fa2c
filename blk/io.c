/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dispatch of reads and writes.
 *
 *     co_blk_preadv / co_blk_pwritev      through an edge
 *         |
 *         |-- straight: in range, aligned, within the driver's limits
 *         |       -> the driver, on whatever loop this is
 *         |
 *         `-- else, on the node's home loop:
 *                 detect-zeroes -> zeroes.c     tracked writes -> track.c
 *                 pieces, bounce, read-modify-write -> pieces.c     FUA without help -> flush.c
 *
 * The straight path is what performance is counted on: one test of the range, one of offset and
 * length together, one segment's address, the stack, and the call. Whatever it cannot decide with
 * these goes the other way, which may be slow and has to be right.
 *
 * A write on a node with a request_alignment above 1 is tracked also when it is aligned (its block
 * may be the object of somebody else's read-modify-write). That does not take it off the straight
 * path, unless this is not the home loop; and it waits only when somebody serialises.
 *
 * Accounting: once per request and layer, at its end; refused requests are "invalid", not "failed".
 */
#include "blk/io.h"

/* ---- what fits ---- */

static inline bool aligned_to(const struct node *n, uint64_t off, uint64_t len)
{
    return !((off | len) & (n->limits.request_alignment - 1));
}

/* Can the driver take it as it is? */
static inline bool straight(const struct node *n, uint64_t off, struct iov *v)
{
    const struct blk_limits *l = &n->limits;
    if (unlikely(!range_ok(off, v->len, node_size(n)) || !aligned_to(n, off, v->len)))
        return false;
    if (unlikely(v->len - 1 >= l->max_transfer)) /* also no length at all */
        return false;
    uintptr_t first = (uintptr_t)v->seg->base + v->skip;
    if (likely(v->len <= v->seg->len - v->skip))
        return !(first & (l->mem_align - 1));
    if (l->mem_align == 1 && !l->max_sg)
        return true;
    return direct_prefix(n, *v) == v->len;
}

/* ---- little stack left ---- */

static void far_run(void *arg)
{
    struct far *f = arg;
    switch (f->op) {
    case FAR_READ:
        f->result = co_blk_preadv(f->child, f->off, f->v, f->flags);
        break;
    case FAR_WRITE:
        f->result = co_blk_pwritev(f->child, f->off, f->v, f->flags);
        break;
    case FAR_ZEROES:
        f->result = co_blk_pwrite_zeroes(f->child, f->off, f->len, f->flags);
        break;
    case FAR_DISCARD:
        f->result = co_blk_pdiscard(f->child, f->off, f->len);
        break;
    case FAR_FLUSH:
        f->result = co_blk_flush(f->child);
        break;
    case FAR_TRUNCATE:
        f->result = co_blk_truncate(f->child, f->len);
        break;
    case FAR_STATUS:
        f->result = co_blk_status(f->child, f->off, f->len, f->st);
        break;
    case FAR_ABOVE:
        f->result = co_blk_status_above(f->child, f->off, f->len, f->st);
        break;
    }
}

int co_far(struct far f)
{
    co_call(far_run, &f);
    return f.result;
}

/* ---- reading ---- */

static inline int read_done(struct node *n, size_t len, int r)
{
    struct blk_stats *s = &n->stats[loop_id()];
    if (unlikely(r)) {
        s->failed_rd++;
        TRACE(blk_done, n, r);
        return r;
    }
    s->rd_ops++;
    s->rd_bytes += len;
    return 0;
}

/* Apart, so that the straight path needs no frame to speak of. */
static __attribute__((noinline)) int co_read_checked(struct child *c, uint64_t off, struct iov v,
                                                     unsigned flags)
{
    struct node *n = c->node;
    if (!range_ok(off, v.len, node_size(n))) {
        n->stats[loop_id()].invalid_rd++;
        return SR_EIO;
    }
    if (!v.len)
        return 0;
    if (co_headroom_short())
        return co_far((struct far){.op = FAR_READ, .child = c, .off = off, .v = v, .flags = flags});
    if (flags & BLK_PREFETCH)
        return n->drv->co_prefetch ? n->drv->co_prefetch(n, off, v.len) : 0;
    TRACE(blk_read, n, off);
    unsigned from = co_go_home(n);
    int r = co_read_pieces(n, off, v);
    co_go_back(n, from);
    return read_done(n, v.len, r);
}

int co_blk_preadv(struct child *c, uint64_t off, struct iov v, unsigned flags)
{
    struct node *n = c->node;
    if (unlikely(flags || !straight(n, off, &v) || co_headroom_short()))
        return co_read_checked(c, off, v, flags);
    TRACE(blk_read, n, off);
    return read_done(n, v.len, n->drv->co_preadv(n, off, v, 0));
}

/* ---- writing ---- */

static inline int write_done(struct node *n, uint64_t off, size_t len, int r)
{
    struct blk_stats *s = &n->stats[loop_id()];
    if (unlikely(r)) {
        s->failed_wr++;
        TRACE(blk_done, n, r);
        return r;
    }
    s->wr_ops++;
    s->wr_bytes += len;
    if (off + len > s->wr_highest)
        s->wr_highest = off + len;
    return 0;
}

/* The flags of a write of zeroes in place of a write of data that happens to be zero. */
static unsigned detected(const struct node *n, unsigned flags)
{
    bool unmap = n->detect_zeroes == DETECT_ZEROES_UNMAP && n->discard_unmap;
    return (flags & (BLK_FUA | BLK_SETTLED)) | (unmap ? BLK_MAY_UNMAP : 0);
}

static int co_write_untracked(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    int r;
    if (n->detect_zeroes && n->drv->co_pwrite_zeroes && iov_is_zero(v))
        return co_zero_pieces(n, off, v.len, detected(n, flags));
    if (straight(n, off, &v) || (flags & BLK_COMPRESSED)) /* a cluster is compressed as a whole */
        r = n->drv->co_pwritev(n, off, v, flags & n->write_flags);
    else
        r = co_write_pieces(n, off, v, flags & n->write_flags);
    node_wrote(n);
    if (!r && (flags & BLK_FUA & ~n->write_flags))
        r = co_node_flush(n);
    return r;
}

static int co_write_home(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct tracked t;
    ASSERT(n->tracking || !(flags & BLK_SERIALISING));
    if (!n->tracking)
        return co_write_untracked(n, off, v, flags);
    bool serialising = (flags & BLK_SERIALISING) || !aligned_to(n, off, v.len);
    co_track_begin(n, &t, off, v.len, serialising);
    int r = co_write_untracked(n, off, v, flags);
    track_end(n, &t);
    return r;
}

static __attribute__((noinline)) int co_write_checked(struct child *c, uint64_t off, struct iov v,
                                                      unsigned flags)
{
    struct node *n = c->node;
    if (unlikely(!c->writable || !range_ok(off, v.len, node_size(n)))) {
        n->stats[loop_id()].invalid_wr++;
        return c->writable ? SR_EIO : SR_EPERM;
    }
    if (unlikely(!v.len))
        return 0;
    if (unlikely(flags & BLK_COMPRESSED & ~n->write_flags))
        return SR_ENOTSUP;
    if (unlikely(co_headroom_short()))
        return co_far(
            (struct far){.op = FAR_WRITE, .child = c, .off = off, .v = v, .flags = flags});
    TRACE(blk_write, n, off);
    unsigned from = co_go_home(n);
    int r = co_write_home(n, off, v, flags);
    co_go_back(n, from);
    return write_done(n, off, v.len, r);
}

/* Fits the driver, is here, and asks for nothing that the driver does not do by itself? */
static inline bool plain_write(const struct child *c, uint64_t off, struct iov *v, unsigned flags)
{
    const struct node *n = c->node;
    return c->writable && !n->detect_zeroes && !(flags & ~n->write_flags) && straight(n, off, v) &&
           (!n->tracking || loop_id() == n->home_loop);
}

int co_blk_pwritev(struct child *c, uint64_t off, struct iov v, unsigned flags)
{
    struct node *n = c->node;
    struct tracked t;
    flags |= c->write_flags;
    if (unlikely(!plain_write(c, off, &v, flags) || co_headroom_short()))
        return co_write_checked(c, off, v, flags);
    TRACE(blk_write, n, off);
    if (n->tracking)
        co_track_begin(n, &t, off, v.len, flags & BLK_SERIALISING);
    int r = n->drv->co_pwritev(n, off, v, flags);
    if (n->tracking)
        track_end(n, &t);
    node_wrote(n);
    return write_done(n, off, v.len, r);
}

/* ---- flat helpers ---- */

int co_blk_pread(struct child *c, uint64_t off, void *buf, size_t len)
{
    struct seg seg;
    return co_blk_preadv(c, off, iov_one(&seg, buf, len), 0);
}

int co_blk_pwrite(struct child *c, uint64_t off, const void *buf, size_t len, unsigned flags)
{
    struct seg seg;
    void *p = (void *)(uintptr_t)buf; /* an iov does not say which way the bytes go */
    return co_blk_pwritev(c, off, iov_one(&seg, p, len), flags);
}

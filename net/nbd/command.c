/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What requests do, other than reads and block status. Each function here is the body of one
 * request's coroutine, inside the gate only while the graph works.
 *
 * FLUSH covers every write that was replied to on any connection, since all of them write through
 * the same node: so MULTI_CONN is promised. A write of several pieces with FUA is flushed once, after
 * them all. FUA on commands that write nothing is ignored, as the
 * specification allows.
 */
#include "net/nbd/nbd.h"

static unsigned fua(const struct nbd_request *r)
{
    return r->flags & NBD_CMD_FLAG_FUA ? BLK_FUA : 0;
}

static int co_zeroes(struct nbd_request *r, struct child *root)
{
    unsigned flags = fua(r);
    if (!(r->flags & NBD_CMD_FLAG_NO_HOLE))
        flags |= BLK_MAY_UNMAP;
    if (r->flags & NBD_CMD_FLAG_FAST_ZERO)
        flags |= BLK_NO_FALLBACK;
    return co_blk_pwrite_zeroes(root, r->offset, r->len, flags);
}

static int co_trim(struct nbd_request *r, struct child *root)
{
    int rc = co_blk_pdiscard(root, r->offset, r->len);
    return !rc && fua(r) ? co_blk_flush(root) : rc;
}

/* A hint: of a very long range only the beginning is read, lest one request read a whole disk. */
static int co_cache(struct nbd_request *r, struct child *root)
{
    struct iov v = {.seg = NULL, .skip = 0, .len = (size_t)MIN(r->len, NBD_MAX_PAYLOAD)};
    return v.len ? co_blk_preadv(root, r->offset, v, BLK_PREFETCH) : 0;
}

static int co_run(struct nbd_request *r, struct child *root)
{
    switch (r->type) {
    case NBD_CMD_FLUSH:
        return co_blk_flush(root);
    case NBD_CMD_TRIM:
        return r->len ? co_trim(r, root) : 0;
    case NBD_CMD_CACHE:
        return co_cache(r, root);
    case NBD_CMD_WRITE_ZEROES:
        return r->len ? co_zeroes(r, root) : 0;
    default:
        return SR_EINVAL;
    }
}

void co_nbd_command(void *request)
{
    struct nbd_request *r = request;
    struct nbd_conn *c = r->conn;
    if (r->type == NBD_CMD_BLOCK_STATUS) {
        co_nbd_status(r);
    } else {
        struct child *root = co_nbd_gate(r);
        r->error = co_run(r, root);
        nbd_gate_leave(r);
        co_nbd_reply(r);
    }
    nbd_stack_end(c);
}

void co_nbd_write_done(struct nbd_request *r)
{
    if (--r->pending)
        return;
    if (unlikely(r->flush) && !r->error) {
        r->error = co_blk_flush(co_nbd_gate(r));
        nbd_gate_leave(r);
    }
    co_nbd_reply(r);
}

void co_nbd_write_piece(void *piece)
{
    struct nbd_piece *p = piece;
    struct nbd_request *r = p->req;
    struct nbd_conn *c = r->conn;
    struct iov v = {.seg = p->loan.seg, .skip = 0, .len = p->loan.len};
    struct child *root = co_nbd_gate(r);
    unsigned flags = fua(r);
    if (unlikely(flags) && v.len < r->len) {
        flags = 0;
        r->flush = true;
    }
    int rc = co_blk_pwritev(root, p->offset, v, flags);
    nbd_gate_leave(r);
    stream_release(&p->loan);
    pool_put(&nbd_piece_pool, &c->pieces, p);
    if (unlikely(rc) && !r->error)
        r->error = rc;
    co_nbd_write_done(r);
    nbd_stack_end(c);
}

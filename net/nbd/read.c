/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads.
 *
 * Short (the buffer that the reader got holds it all): disk into buffer, header in front, one
 * piece to the stream. Most reads are this.
 *
 * Long: pieces of what buffer there is. NBD_MAX_LONG at a time and connection at most, since each
 * keeps its stack while the client takes its time: one on a stack of the connection's, more while
 * there are spare stacks (nbd.h). While one piece leaves, the next is read into another
 * buffer if one is to be had at once, else into the same after the client took it: so a long read
 * never waits for a buffer that could be held up behind itself.
 *
 *   chunks      structured and extended replies: each piece a chunk, others' replies in between;
 *               a failed piece is an ERROR_OFFSET chunk, and the last
 *   one chunk   the same with DF: one header, then all pieces in one turn; after a failure zeroes
 *               to the chunk's end ("MUST use padding bytes"), then the error chunk
 *   simple      one header, then all pieces in one turn; after a failure there is no way to say so:
 *               "the server MUST immediately initiate a hard disconnect"
 *
 * Of a one-turn read the first piece is read before the turn is taken, so an early failure is a
 * plain error, and nobody is held up by a disk that has not answered.
 *
 * Sparse: reads of NBD_SPARSE_MIN and more with chunks ask for the block status first and send
 * holes as holes. Smaller ones would pay more for the question than the zeroes cost.
 */
#include "net/nbd/nbd.h"

#define NBD_SPARSE_MIN (64u << 10)

static int co_read_piece(struct nbd_request *r, uint64_t off, size_t n)
{
    struct seg seg;
    struct child *root = co_nbd_gate(r);
    int rc = co_blk_preadv(root, off, iov_one(&seg, r->buf->data, n), 0);
    nbd_gate_leave(r);
    return rc;
}

/* ---- Lending a piece, and what comes after ---------------------------------------------------- */

static void lent_back(struct stream_hold *h)
{
    struct nbd_request *r = container_of(h, struct nbd_request, own_hold);
    r->lent = false;
    if (r->lent_waiter)
        co_wake(r->lent_waiter);
}

static void co_wait_lent(struct nbd_request *r)
{
    r->lent_waiter = co_self();
    while (r->lent)
        co_yield ();
    r->lent_waiter = NULL;
}

static struct buf *try_buf(struct nbd_conn *c, uint64_t want)
{
    static const size_t sizes[] = {BUF_MAX, 32u << 10, 4u << 10};
    struct buf *b = NULL;
    for (unsigned i = 0; !b && i < ARRAY_LEN(sizes); i++)
        if (i == ARRAY_LEN(sizes) - 1 || want > sizes[i + 1])
            b = buf_try_get(&c->bufs, sizes[i]);
    return b;
}

/* Sends [start, data + n) of r->buf, and leaves in r->buf a buffer that may be filled: for `left`
 * more bytes. The caller has the turn. */
static int co_send_piece(struct nbd_request *r, uint8_t *start, size_t n, uint64_t left)
{
    struct buf *b = r->buf, *next = left ? try_buf(r->conn, left) : NULL;
    struct seg seg;
    struct iov v = iov_one(&seg, start, (size_t)(b->data + n - start));
    if (next || !left) {
        r->buf = next;
        return co_stream_send(r->conn->stream, v, &b->hold);
    }
    r->lent = true;
    r->own_hold.release = lent_back;
    return co_stream_send(r->conn->stream, v, &r->own_hold);
}

/* ---- Chunks ----------------------------------------------------------------------------------- */

static int co_send_hole(struct nbd_request *r, uint64_t off, uint64_t n, bool done)
{
    uint8_t *p = r->head + sizeof(r->head) - sizeof(struct nbd_chunk_hole);
    struct nbd_chunk_hole *h = (struct nbd_chunk_hole *)p;
    be64_set(&h->offset, off);
    be32_set(&h->len, (uint32_t)n);
    p = nbd_chunk_before(r, p, NBD_REPLY_TYPE_OFFSET_HOLE, sizeof(*h), done);
    co_nbd_turn(r);
    int rc = co_stream_write(r->conn->stream, p, (size_t)(r->head + sizeof(r->head) - p));
    co_nbd_turn_end(r->conn);
    return rc;
}

static int co_send_data(struct nbd_request *r, uint64_t off, size_t n, uint64_t left)
{
    uint8_t *p = r->buf->data - sizeof(be64);
    be64_set((be64 *)p, off);
    p = nbd_chunk_before(r, p, NBD_REPLY_TYPE_OFFSET_DATA, n + sizeof(be64), !left);
    co_nbd_turn(r);
    int rc = co_send_piece(r, p, n, left);
    co_nbd_turn_end(r->conn);
    co_wait_lent(r);
    return rc;
}

static int co_status_here(struct nbd_request *r, uint64_t off, uint64_t n, struct blk_status *st)
{
    struct child *root = co_nbd_gate(r);
    int rc = co_blk_status_above(root, off, n, st);
    nbd_gate_leave(r);
    return rc;
}

/* How much of [off, off + n) is one hole. */
static uint64_t co_hole_here(struct nbd_request *r, uint64_t off, uint64_t *n)
{
    struct blk_status st;
    if (r->len < NBD_SPARSE_MIN || co_status_here(r, off, *n, &st))
        return 0;
    if (!(st.flags & BLK_ZERO)) {
        *n = MIN(*n, st.len);
        return 0;
    }
    return MIN(*n, st.len);
}

/* Returns SR_ECANCELED when the stream failed, else what the disk said at *off. */
static int co_chunks(struct nbd_request *r, uint64_t *off)
{
    uint64_t end = r->offset + r->len, data_to = *off;
    while (*off < end) {
        uint64_t n = end - *off, hole = 0;
        if (*off >= data_to) {
            hole = co_hole_here(r, *off, &n);
            data_to = *off + (hole ? hole : n);
        }
        n = hole ? hole : MIN(MIN(data_to, end) - *off, r->buf->size);
        int rc = hole ? 0 : co_read_piece(r, *off, (size_t)n);
        if (rc)
            return rc;
        uint64_t left = end - *off - n;
        rc = hole ? co_send_hole(r, *off, n, !left) : co_send_data(r, *off, (size_t)n, left);
        if (rc)
            return SR_ECANCELED;
        *off += n;
    }
    return 0;
}

static void co_read_chunks(struct nbd_request *r)
{
    uint64_t off = r->offset;
    r->error = co_chunks(r, &off);
    if (r->error && r->error != SR_ECANCELED) {
        nbd_error_chunk(r, off);
        co_nbd_turn(r);
        (void)co_stream_write(r->conn->stream, r->head, r->head_len);
        co_nbd_turn_end(r->conn);
    }
    nbd_request_end(r);
}

/* ---- One turn --------------------------------------------------------------------------------- */

static uint8_t *whole_header(struct nbd_request *r)
{
    uint8_t *p = r->buf->data;
    if (r->conn->mode == NBD_SIMPLE)
        return nbd_simple_before(r, p, 0);
    p -= sizeof(be64);
    be64_set((be64 *)p, r->offset);
    return nbd_chunk_before(r, p, NBD_REPLY_TYPE_OFFSET_DATA, r->len + sizeof(be64), false);
}

/* The pieces after the first, which is in r->buf. Returns false when the stream is done for. */
static bool co_rest_of_turn(struct nbd_request *r, uint64_t *failed_at)
{
    uint8_t *start = whole_header(r);
    uint64_t off = r->offset, left = r->len;
    for (;;) {
        size_t n = (size_t)MIN(left, r->buf->size);
        left -= n;
        if (co_send_piece(r, start, n, left))
            return false;
        co_wait_lent(r);
        if (!left)
            return true;
        off += n;
        n = (size_t)MIN(left, r->buf->size);
        int rc = r->error ? 0 : co_read_piece(r, off, n);
        if (rc) {
            r->error = rc;
            *failed_at = off;
            if (r->conn->mode == NBD_SIMPLE) {
                stream_abort(r->conn->stream);
                return false;
            }
        }
        if (r->error)
            memset(r->buf->data, 0, n);
        start = r->buf->data;
    }
}

static void co_read_one_turn(struct nbd_request *r)
{
    uint64_t failed_at = 0;
    r->error = co_read_piece(r, r->offset, r->buf->size);
    if (r->error) {
        co_nbd_reply(r);
        return;
    }
    co_nbd_turn(r);
    bool alive = co_rest_of_turn(r, &failed_at);
    if (alive && r->conn->mode != NBD_SIMPLE) {
        if (r->error)
            nbd_error_chunk(r, failed_at);
        else
            r->head_len = (unsigned)(r->head + sizeof(r->head) -
                                     nbd_chunk_before(r, r->head + sizeof(r->head),
                                                      NBD_REPLY_TYPE_NONE, 0, true));
        uint8_t *p = r->error ? r->head : r->head + sizeof(r->head) - r->head_len;
        (void)co_stream_write(r->conn->stream, p, r->head_len);
    }
    co_wait_lent(r);
    co_nbd_turn_end(r->conn);
    nbd_request_end(r);
}

/* ---- Starts ----------------------------------------------------------------------------------- */

static bool long_may_start(const struct nbd_conn *c)
{
    if (!c->longs)
        return nbd_stack_may_take(c);
    return c->longs < NBD_MAX_LONG && nbd_spare_stacks;
}

/* The first is one of the connection's stacks, the others are spare ones; which is which does not
 * matter, so whatever long read ends, the last spare one is given back. */
static void long_take(struct nbd_conn *c)
{
    if (c->longs++)
        nbd_spare_stacks--;
    else
        c->stacks++;
}

static void long_give(struct nbd_conn *c)
{
    if (--c->longs)
        nbd_spare_stacks++;
    else
        c->stacks--;
}

static bool chunked(const struct nbd_request *r)
{
    return r->conn->mode != NBD_SIMPLE && !(r->flags & NBD_CMD_FLAG_DF);
}

static void co_read_long(void *request)
{
    struct nbd_request *r = request;
    struct nbd_conn *c = r->conn;
    if (chunked(r))
        co_read_chunks(r);
    else
        co_read_one_turn(r);
    c->stacks++; /* ours: for nbd_stack_end */
    long_give(c);
    nbd_stack_end(c);
}

void nbd_long_next(struct nbd_conn *c)
{
    struct qlink *l;
    while (long_may_start(c) && (l = queue_pop(&c->long_waiting))) {
        struct nbd_request *r = container_of(l, struct nbd_request, link);
        long_take(c);
        co_start(&r->start, co_read_long, r);
    }
}

void nbd_long_start(struct nbd_request *r)
{
    queue_push(&r->conn->long_waiting, &r->link);
    nbd_long_next(r->conn);
}

/* A read of a range with holes becomes a long one: true, and our stack is a long read's. The place
 * is taken before the question, which yields: others ask meanwhile. */
static bool co_becomes_long(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    struct blk_status st;
    if (likely(r->len < NBD_SPARSE_MIN) || !chunked(r) || !long_may_start(c))
        return false;
    long_take(c);
    c->stacks--;
    if (!co_status_here(r, r->offset, r->len, &st) && (st.flags & BLK_ZERO || st.len < r->len))
        return true;
    c->stacks++;
    long_give(c);
    if (unlikely(!queue_empty(&c->long_waiting)))
        nbd_long_next(c);
    return false;
}

void co_nbd_read(void *request)
{
    struct nbd_request *r = request;
    struct nbd_conn *c = r->conn;
    if (unlikely(co_becomes_long(r))) {
        co_read_long(r);
        return;
    }
    r->error = co_read_piece(r, r->offset, (size_t)r->len);
    if (likely(!r->error))
        co_nbd_reply_data(r, (size_t)r->len);
    else
        co_nbd_reply(r);
    nbd_stack_end(c);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The reader: one coroutine per connection that takes requests off the stream, checks them, and
 * starts them. It stops taking any when NBD_MAX_INFLIGHT are under way, when pools have none left
 * for this client, or when the export's gate is closed; then the client's window fills, and it
 * waits.
 *
 *     header -> object -> checks -+- bad -> payload skipped -> error reply
 *                                 +- WRITE: payload lent in place, piece by piece, to the disk
 *                                 +- READ: a buffer first, then a coroutine
 *                                 +- others: a coroutine
 *
 * Order of acquisition: request, buffer or piece, stack (pool ranks). All waiting for the client is
 * done here, where only the reader's stack is held. Stacks above the connection's own are waited for
 * here, too (nbd.h).
 *
 * Spec: "Request message", "Request types", "Error values", "Size constraints". A hard disconnect
 * (any return but 0) follows a bad magic, and a payload above 32 MiB.
 */
#include "net/nbd/nbd.h"

struct pool nbd_request_pool = POOL("nbd-request", POOL_RANK_REQUEST, sizeof(struct nbd_request),
                                    .min = 288, .max = 12800, .weight = 1);
struct pool nbd_piece_pool = POOL("nbd-piece", POOL_RANK_BUFFER, sizeof(struct nbd_piece),
                                  .min = 48, .max = 2048, .weight = 1);
REGISTER(pool, nbd_request_pool);
REGISTER(pool, nbd_piece_pool);

/* ---- Waiting ---------------------------------------------------------------------------------- */

static void co_wait_inflight(struct nbd_conn *c, unsigned below)
{
    while (c->inflight >= below) {
        c->wait_below = below;
        c->waiting = co_self();
        co_yield ();
        c->waiting = NULL;
    }
}

void co_nbd_idle(struct nbd_conn *c)
{
    co_wait_inflight(c, 1);
}

/* One of the connection's requests that run has ended, or nobody was promised what is free. */
static void co_wait_stack(struct nbd_conn *c)
{
    c->for_stack = co_self();
    while (!nbd_stack_may_take(c))
        co_yield ();
    c->for_stack = NULL;
}

static inline void co_take_stack(struct nbd_conn *c)
{
    if (unlikely(!nbd_stack_may_take(c)))
        co_wait_stack(c);
    c->stacks++;
}

static inline void co_start_request(struct nbd_request *r, co_fn *fn)
{
    co_take_stack(r->conn);
    co_start_now(&r->start, fn, r);
}

/* A drain is under way: let it have the reader's stack only. */
static inline void co_wait_gate(struct nbd_conn *c)
{
    struct origin *o = &c->exp->e->origin;
    if (unlikely(o->gate[loop_id()].closed)) {
        co_origin_enter(o);
        origin_leave(o);
    }
}

/* ---- Checks ----------------------------------------------------------------------------------- */

/* "SHOULD return EINVAL if it receives a request with a flag not documented as applicable". */
static void set_allowed_flags(struct nbd_conn *c)
{
    uint16_t payload = c->mode == NBD_EXTENDED ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
    for (unsigned i = 0; i < ARRAY_LEN(c->allowed); i++)
        c->allowed[i] = NBD_CMD_FLAG_FUA;
    c->allowed[NBD_CMD_READ] |= c->mode == NBD_SIMPLE ? 0 : NBD_CMD_FLAG_DF;
    c->allowed[NBD_CMD_WRITE] |= payload;
    c->allowed[NBD_CMD_WRITE_ZEROES] |= NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    c->allowed[NBD_CMD_BLOCK_STATUS] |= NBD_CMD_FLAG_REQ_ONE | payload;
}

static bool writes(unsigned type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_WRITE_ZEROES || type == NBD_CMD_TRIM;
}

/* "WRITE past end ENOSPC; read or trim past end EINVAL". */
static int check_range(const struct nbd_request *r)
{
    const struct nbd_conn *c = r->conn;
    if (unlikely(!range_ok(r->offset, r->len, nbd_export_size(c->exp))))
        return r->type == NBD_CMD_WRITE || r->type == NBD_CMD_WRITE_ZEROES ? SR_ENOSPC : SR_EINVAL;
    return 0;
}

static int check(const struct nbd_request *r)
{
    const struct nbd_conn *c = r->conn;
    const struct export *e = c->exp->e;
    unsigned type = r->type;
    if (unlikely(type >= NBD_CMDS || r->flags & ~c->allowed[type]))
        return SR_EINVAL;
    if (unlikely(e->shutting_down))
        return SR_ESHUTDOWN;
    if (unlikely(!e->writable) && writes(type))
        return SR_EPERM;
    if (type == NBD_CMD_READ && unlikely(r->len > NBD_MAX_PAYLOAD))
        return c->mode == NBD_SIMPLE ? SR_EINVAL : SR_EOVERFLOW;
    if (type == NBD_CMD_FLUSH)
        return r->offset | r->len ? SR_EINVAL : 0;
    if (type == NBD_CMD_BLOCK_STATUS && unlikely(!c->status || !r->len))
        return SR_EINVAL;
    return check_range(r);
}

/* ---- Payloads --------------------------------------------------------------------------------- */

/* The next part of a payload of `left` bytes for `offset`. Parts but the first begin where blocks
 * of 4 KiB do, and half of the stream's window keeps coming while the other is written. */
static size_t piece_len(const struct nbd_conn *c, uint64_t offset, uint64_t left)
{
    size_t max = MIN(c->stream->max_wait, (size_t)BUF_MAX);
    if (left <= max)
        return (size_t)left;
    return MAX(max / 2 & ~(size_t)4095, (size_t)4096) - (size_t)(offset & 4095);
}

static int co_lend_piece(struct nbd_request *r, uint64_t offset, size_t n, size_t *lent)
{
    struct nbd_conn *c = r->conn;
    struct nbd_piece *p = co_pool_get(&nbd_piece_pool, &c->pieces);
    stream_borrow(c->stream, n, &p->loan);
    co_take_stack(c);
    p->req = r;
    p->offset = offset;
    *lent = p->loan.len;
    r->pending++;
    co_start_now(&p->start, co_nbd_write_piece, p);
    return 0;
}

/* The stream had fewer than asked for: what is there, to the end of a sector if there is more to
 * come. A sector that two pieces write would cost two read-modify-writes, and a power cut, or another
 * write, could come between them. (More than a sector is there: STREAM_WAIT_SURE.) */
#define PIECE_ALIGN 512u
static size_t piece_there(struct stream *s, uint64_t offset, size_t n)
{
    size_t there = s->ops->available(s);
    return likely(there >= n) ? n : there - (size_t)((offset + there) & (PIECE_ALIGN - 1));
}

/* What the stream gives of a write goes to the disk at once; after the first error the rest is
 * skipped. Returns what the stream says. */
static int co_receive_write(struct nbd_request *r)
{
    struct stream *s = r->conn->stream;
    uint64_t offset = r->offset, left = r->len;
    int rc = 0;
    r->pending = 1;
    r->flush = false;
    while (left && !rc) {
        size_t n = piece_len(r->conn, offset, left);
        if (unlikely(r->error)) {
            rc = co_stream_skip(s, left, STREAM_FOREVER);
            break;
        }
        if (s->ops->available(s) < n)
            rc = co_stream_wait(s, n, STREAM_FOREVER);
        if (!rc)
            rc = co_lend_piece(r, offset, piece_there(s, offset, n), &n);
        offset += n;
        left -= n;
    }
    if (rc && !r->error)
        r->error = SR_EIO;
    co_nbd_write_done(r);
    return rc;
}

/* BLOCK_STATUS with a list of contexts: 8 + 4n bytes. There is one context, so what is acceptable
 * names just it; "duplicate or unknown ids: consume the payload, EINVAL". */
static int co_receive_status(struct nbd_request *r)
{
    struct {
        be64 len;
        be32 id;
    } list;
    struct stream *s = r->conn->stream;
    if (r->len != sizeof(list)) {
        r->error = SR_EINVAL;
        return co_stream_skip(s, r->len, STREAM_FOREVER);
    }
    int rc = co_stream_read(s, &list, sizeof(list), STREAM_FOREVER);
    if (rc)
        return rc;
    r->len = be64_get(list.len);
    r->error = be32_get(list.id) == NBD_CONTEXT_ALLOCATION ? check(r) : SR_EINVAL;
    return 0;
}

static bool has_payload(const struct nbd_request *r)
{
    return r->conn->mode == NBD_EXTENDED ? r->flags & NBD_CMD_FLAG_PAYLOAD_LEN
                                         : r->type == NBD_CMD_WRITE;
}

/* ---- Starting --------------------------------------------------------------------------------- */

static void co_start_read(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    r->buf = co_buf_get_upto(&c->bufs, (size_t)r->len);
    if (likely(r->len <= r->buf->size))
        co_start_request(r, co_nbd_read);
    else
        nbd_long_start(r);
}

static int co_dispatch(struct nbd_request *r)
{
    co_wait_gate(r->conn);
    TRACE(nbd_request, r->type, r->offset);
    if (r->type == NBD_CMD_READ && r->len)
        co_start_read(r);
    else if (r->type == NBD_CMD_READ)
        co_nbd_reply(r); /* of nothing: unspecified, "SHOULD NOT disconnect" */
    else {
        if (r->type == NBD_CMD_BLOCK_STATUS)
            r->buf = co_buf_get_upto(&r->conn->bufs, NBD_STATUS_BUF);
        co_start_request(r, co_nbd_command);
    }
    return 0;
}

/* A request with payload. Only WRITE has one that we know what to do with, and BLOCK_STATUS. */
static int co_take_payload(struct nbd_request *r)
{
    int rc;
    if (r->len > NBD_MAX_PAYLOAD) {
        log_limited("nbd", "%s: payload of %llu bytes: disconnected", r->conn->stream->peer,
                    (unsigned long long)r->len);
        nbd_request_end(r);
        return SR_EINVAL;
    }
    if (r->type == NBD_CMD_BLOCK_STATUS && r->conn->status) {
        rc = co_receive_status(r);
    } else {
        r->error = check(r);
        if (!r->error && r->type == NBD_CMD_WRITE) {
            co_wait_gate(r->conn);
            TRACE(nbd_request, r->type, r->offset);
            return co_receive_write(r);
        }
        rc = co_stream_skip(r->conn->stream, r->len, STREAM_FOREVER);
        if (!r->error)
            r->error = SR_EINVAL;
    }
    if (rc) {
        nbd_request_end(r);
        return rc;
    }
    if (!r->error)
        return co_dispatch(r);
    co_nbd_reply(r);
    return 0;
}

static int co_take_request(struct nbd_request *r)
{
    if (has_payload(r))
        return co_take_payload(r);
    r->error = check(r);
    /* Extended: "MUST use the flag"; without it there is no payload to write. */
    if (r->type == NBD_CMD_WRITE && !r->error)
        r->error = SR_EINVAL;
    if (likely(!r->error))
        return co_dispatch(r);
    co_nbd_reply(r);
    return 0;
}

/* ---- Headers ---------------------------------------------------------------------------------- */

static struct nbd_request *co_new_request(struct nbd_conn *c, const struct nbd_request_head *h)
{
    struct nbd_request *r = pool_try_get(&nbd_request_pool, &c->requests);
    if (unlikely(!r))
        r = co_pool_get(&nbd_request_pool, &c->requests);
    c->inflight++;
    r->conn = c;
    r->type = be16_get(h->type);
    r->flags = be16_get(h->flags);
    memcpy(r->cookie, h->cookie, sizeof(r->cookie));
    r->offset = be64_get(h->offset);
    r->error = 0;
    r->buf = NULL;
    r->hold = NULL;
    r->turn = NULL;
    r->lent = false;
    r->lent_waiter = NULL;
    return r;
}

/* 0: go on; 1: DISC; negative: hard disconnect. */
static int co_receive(struct nbd_conn *c)
{
    struct nbd_extended_request h; /* its beginning is a compact one's */
    struct stream *s = c->stream;
    bool ext = c->mode == NBD_EXTENDED;
    size_t size = ext ? sizeof(h) : sizeof(struct nbd_compact_request);
    if (unlikely(c->inflight >= NBD_MAX_INFLIGHT))
        co_wait_inflight(c, NBD_MAX_INFLIGHT);
    if (s->ops->available(s) < size) {
        int rc = co_stream_wait(s, size, STREAM_FOREVER);
        if (rc)
            return rc;
    }
    s->ops->copy(s, &h, size, true);
    if (unlikely(be32_get(h.head.magic) !=
                 (ext ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC))) {
        log_limited("nbd", "%s: bad request magic %08x: disconnected", s->peer,
                    (unsigned)be32_get(h.head.magic));
        return SR_EINVAL;
    }
    if (be16_get(h.head.type) == NBD_CMD_DISC)
        return 1;
    struct nbd_request *r = co_new_request(c, &h.head);
    r->len = ext ? be64_get(h.len) : be32_get(((struct nbd_compact_request *)&h)->len);
    return co_take_request(r);
}

int co_nbd_transmission(struct nbd_conn *c)
{
    int rc;
    set_allowed_flags(c);
    do
        rc = co_receive(c);
    while (!rc);
    if (rc < 0)
        return rc;
    co_nbd_idle(c); /* "MUST handle all outstanding requests" */
    return 0;
}

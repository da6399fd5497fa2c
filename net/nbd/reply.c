/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Replies, and whose turn it is to send.
 *
 * A stream takes one list of bytes at a time and may make its caller wait for room, so one request
 * at a time has the turn (conn->sending). Who finds the turn taken leaves its object, complete with
 * header and buffer, in conn->replies, and its coroutine ends: a client that does not read holds up
 * one coroutine, not 128. Whoever gives the turn back first sends what has gathered. A reply in
 * parts (read.c) queues for the turn itself, and so keeps its place.
 *
 * A header is written into the head-room in front of its payload, so both leave as one piece of
 * memory; replies without payload are built in the request and copied by the stream.
 *
 * Spec: "Simple reply message", "Structured reply chunk message", "Extended reply chunk message",
 * "Error values". A successful reply without data is simple in structured mode: shorter, and
 * allowed for every request but READ.
 */
#include "net/nbd/nbd.h"

/* ---- Headers ---------------------------------------------------------------------------------- */

uint8_t *nbd_simple_before(const struct nbd_request *r, uint8_t *p, uint32_t error)
{
    struct nbd_simple_reply *h = (struct nbd_simple_reply *)p - 1;
    be32_set(&h->magic, NBD_SIMPLE_REPLY_MAGIC);
    be32_set(&h->error, error);
    memcpy(h->cookie, r->cookie, sizeof(h->cookie));
    return (uint8_t *)h;
}

uint8_t *nbd_chunk_before(const struct nbd_request *r, uint8_t *p, enum nbd_reply_type type,
                          uint64_t len, bool done)
{
    uint16_t flags = done ? NBD_REPLY_FLAG_DONE : 0;
    if (r->conn->mode == NBD_STRUCTURED) {
        struct nbd_structured_reply *h = (struct nbd_structured_reply *)p - 1;
        be32_set(&h->magic, NBD_STRUCTURED_REPLY_MAGIC);
        be16_set(&h->flags, flags);
        be16_set(&h->type, type);
        memcpy(h->cookie, r->cookie, sizeof(h->cookie));
        be32_set(&h->len, (uint32_t)len);
        return (uint8_t *)h;
    }
    struct nbd_extended_reply *h = (struct nbd_extended_reply *)p - 1;
    be32_set(&h->magic, NBD_EXTENDED_REPLY_MAGIC);
    be16_set(&h->flags, flags);
    be16_set(&h->type, type);
    memcpy(h->cookie, r->cookie, sizeof(h->cookie));
    be64_set(&h->offset, r->offset);
    be64_set(&h->len, len);
    return (uint8_t *)h;
}

static unsigned header_len(const struct nbd_request *r)
{
    return r->conn->mode == NBD_STRUCTURED ? sizeof(struct nbd_structured_reply)
                                           : sizeof(struct nbd_extended_reply);
}

/* "The server SHOULD NOT return NBD_ENOTSUP except ... FAST_ZERO", nor EOVERFLOW but for READ. */
static uint32_t wire_error(const struct nbd_request *r)
{
    uint32_t e = r->error ? sr_to_nbd(r->error) : 0;
    if (e == NBD_ENOTSUP && !(r->flags & NBD_CMD_FLAG_FAST_ZERO))
        return NBD_EINVAL;
    if (e == NBD_EOVERFLOW && r->type != NBD_CMD_READ)
        return NBD_EINVAL;
    return e;
}

void nbd_error_chunk(struct nbd_request *r, uint64_t at)
{
    const char *text = sr_strerror(r->error);
    bool offset = at != UINT64_MAX;
    size_t room = sizeof(r->head) - header_len(r) - sizeof(struct nbd_chunk_error) - sizeof(be64);
    size_t n = MIN(strlen(text), room);
    uint8_t *p = r->head + header_len(r);
    struct nbd_chunk_error *e = (struct nbd_chunk_error *)p;
    be32_set(&e->error, wire_error(r));
    be16_set(&e->message_len, (uint16_t)n);
    memcpy(e + 1, text, n);
    size_t len = sizeof(*e) + n;
    if (offset) {
        be64_set((be64 *)(p + len), at);
        len += sizeof(be64);
    }
    nbd_chunk_before(r, p, offset ? NBD_REPLY_TYPE_ERROR_OFFSET : NBD_REPLY_TYPE_ERROR, len, true);
    r->head_len = header_len(r) + (unsigned)len;
}

/* ---- Turns ------------------------------------------------------------------------------------ */

void nbd_request_end(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    if (unlikely(r->buf))
        buf_put(r->buf);
    pool_put(&nbd_request_pool, &c->requests, r);
    c->inflight--;
    if (unlikely(c->waiting) && c->inflight < c->wait_below)
        co_wake(c->waiting);
}

/* A stream that fails says so to the reader as well; here it only has to let go of everything. */
static void co_send(struct nbd_request *r)
{
    struct stream *s = r->conn->stream;
    if (r->hold) {
        struct iov v = {.seg = &r->seg, .skip = 0, .len = r->seg.len};
        (void)co_stream_send(s, v, r->hold);
    } else {
        (void)co_stream_write(s, r->head, r->head_len);
    }
    nbd_request_end(r);
}

void co_nbd_turn_end(struct nbd_conn *c)
{
    struct qlink *l;
    while ((l = queue_pop(&c->replies))) {
        struct nbd_request *r = container_of(l, struct nbd_request, link);
        if (r->turn) { /* it sends by itself; the turn stays taken */
            r->granted = true;
            co_wake(r->turn);
            return;
        }
        co_send(r);
    }
    c->sending = false;
}

void co_nbd_turn(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    if (!c->sending) {
        c->sending = true;
        return;
    }
    r->granted = false;
    r->turn = co_self();
    queue_push(&c->replies, &r->link);
    while (!r->granted)
        co_yield ();
    r->turn = NULL;
}

static void co_submit(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    if (unlikely(r->error))
        TRACE(nbd_reply, r->type, r->error);
    if (c->sending) {
        queue_push(&c->replies, &r->link);
        return;
    }
    c->sending = true;
    co_send(r);
    if (likely(queue_empty(&c->replies)))
        c->sending = false;
    else
        co_nbd_turn_end(c);
}

/* ---- Whole replies ---------------------------------------------------------------------------- */

void co_nbd_reply(struct nbd_request *r)
{
    enum nbd_mode mode = r->conn->mode;
    if (unlikely(r->buf)) {
        buf_put(r->buf);
        r->buf = NULL;
    }
    r->hold = NULL;
    if (mode == NBD_SIMPLE || (mode == NBD_STRUCTURED && !r->error && r->type != NBD_CMD_READ)) {
        r->head_len = sizeof(struct nbd_simple_reply);
        nbd_simple_before(r, r->head + r->head_len, wire_error(r));
    } else if (r->error) {
        nbd_error_chunk(r, UINT64_MAX);
    } else {
        r->head_len = header_len(r);
        nbd_chunk_before(r, r->head + r->head_len, NBD_REPLY_TYPE_NONE, 0, true);
    }
    co_submit(r);
}

/* Lends the bytes from `start` to the end of `len` bytes of data; the buffer goes with them. */
static void co_submit_buf(struct nbd_request *r, uint8_t *start, size_t len)
{
    r->seg = (struct seg){.base = start, .len = (size_t)(r->buf->data + len - start)};
    r->hold = &r->buf->hold;
    r->buf = NULL;
    co_submit(r);
}

void co_nbd_reply_chunk(struct nbd_request *r, enum nbd_reply_type type, size_t len)
{
    co_submit_buf(r, nbd_chunk_before(r, r->buf->data, type, len, true), len);
}

void co_nbd_reply_data(struct nbd_request *r, size_t len)
{
    uint8_t *p = r->buf->data;
    if (r->conn->mode == NBD_SIMPLE) {
        p = nbd_simple_before(r, p, 0);
    } else {
        p -= sizeof(be64);
        be64_set((be64 *)p, r->offset);
        p = nbd_chunk_before(r, p, NBD_REPLY_TYPE_OFFSET_DATA, len + sizeof(be64), true);
    }
    co_submit_buf(r, p, len);
}

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef NET_NBD_H
#define NET_NBD_H
/*
 * The NBD server, between its own files. It sees byte streams (kernel/stream.h) and the root edge
 * of an export (blk/blk.h), and knows neither TCP nor formats.
 *
 *   server.c        --nbd-server, listening, connections from accept to end
 *   export.c        export type "nbd": names, and what is told about an export
 *   handshake.c     option haggling; options.c: the options with contents of their own
 *   transmission.c  the reader: requests off the stream, checked, started
 *   command.c       what a request does; read.c: reads; status.c: block status
 *   reply.c         replies, and whose turn it is to send
 *
 * Context: everything on loop 0. Offsets and lengths are bytes. Errors are SR_E* until reply.c
 * turns them into the protocol's numbers. Nothing is allocated: pools.
 *
 * Who holds what. A connection has one coroutine of its own, the reader. Each request has an object
 * (struct nbd_request) from its header to its reply, and a coroutine only while the disk works for
 * it. What waits for a slow client is objects and buffers, bounded by the connection's credits, and
 * at most three kinds of coroutine: the reader, one that sends, NBD_MAX_LONG that read in pieces.
 *
 * Stacks. NBD_OWN_STACKS are each connection's own: the reader's and those of two of its requests.
 * A connection is admitted while the sum of these leaves room for what is everybody's:
 *
 *     | own * connections | spare, for further long reads | NBD_STACK_RESERVE |
 *
 * Stacks that wait for a client are own ones or spare ones, so they never are all. More requests
 * than its own may run take stacks that nobody was promised, which the disk gives back; when there
 * is none, the reader waits until a request of its own connection has ended, and a long read waits
 * in the connection's line. So no start of ours stands behind another client's.
 */
#include "blk/blk.h"
#include "kernel/kernel.h"
#include "net/nbd/nbd_spec.h"

#define NBD_MAX_INFLIGHT       128
#define NBD_CONTEXT_ALLOCATION 1u /* our id of "base:allocation", the one metadata context */
#define NBD_MAX_LONG           4
#define NBD_STATUS_BUF         4096 /* bytes of extents in one reply */
/* Of each connection's own, whatever the others do. */
#define NBD_OWN_REQUESTS       4
#define NBD_OWN_PIECES         1
#define NBD_OWN_BUFFERS        4
#define NBD_OWN_STACKS         3u
/* Ordinary stacks that connections leave to everybody else. */
#define NBD_STACK_RESERVE      8u

enum nbd_mode { NBD_SIMPLE, NBD_STRUCTURED, NBD_EXTENDED }; /* replies; EXTENDED: requests too */

/* State of an export of type "nbd" (struct export.state). */
struct nbd_export {
    struct list link;  /* server's; by age */
    struct list conns; /* struct nbd_conn.export_link */
    struct export *e;
    uint64_t serial;          /* never used again */
    char *name, *description; /* description: NULL when there is none */
    size_t name_len;
};

struct nbd_conn {
    struct list link, export_link;
    struct stream *stream;
    struct nbd_export *exp; /* from a successful GO or EXPORT_NAME on */
    struct co_start start;
    struct credit requests, pieces;
    struct buf_credit bufs;

    /* Fixed by the handshake. */
    enum nbd_mode mode;
    bool no_zeroes, fixed;
    bool let_in;         /* the handshake is over */
    bool evicted;        /* its place went to another: does not count any more */
    uint64_t since;      /* when it came */
    bool status;         /* "base:allocation" is selected for exp */
    uint64_t status_for; /* ... during the handshake: serial of an export */

    /* Transmission. */
    uint16_t allowed[NBD_CMDS]; /* command flags */
    unsigned inflight;
    unsigned longs;            /* reads in pieces; all but the first are on spare stacks */
    unsigned stacks;           /* of requests and pieces, without the spare ones */
    struct queue long_waiting; /* struct nbd_request.link */
    struct co *for_stack;      /* the reader, for one of `stacks` to end */
    struct co *waiting;        /* the reader, for inflight to fall below `wait_below` */
    unsigned wait_below;
    bool sending; /* somebody has the turn to send */
    struct queue replies;
};

struct nbd_request {
    struct qlink link; /* of replies or long_waiting */
    struct co_start start;
    struct nbd_conn *conn;
    uint16_t type, flags;
    uint8_t cookie[8];
    uint64_t offset, len;
    int error;        /* the first one */
    unsigned pending; /* write: pieces under way, and the reader */
    bool flush;       /* write: FUA, and several pieces: one flush after them all */

    /* Reply. Either `head_len` bytes of head (copied by the stream), or `seg`, lent with `hold`. */
    struct buf *buf;
    struct stream_hold *hold;
    struct seg seg;
    struct co *turn; /* waits in `replies` for its turn to send by itself */
    bool granted;
    struct stream_hold own_hold; /* long read: wakes `lent_waiter` */
    bool lent;
    struct co *lent_waiter;
    unsigned head_len;
    uint8_t head[128];
};

/* A part of a write's payload, as it lies in the stream, on its way to the disk. */
struct nbd_piece {
    struct co_start start;
    struct nbd_request *req;
    uint64_t offset;
    struct stream_loan loan;
};

extern struct pool nbd_request_pool, nbd_piece_pool;

/* server.c */
void nbd_accepted(void *ctx, struct stream *s); /* a new client; ctx is not used */
bool nbd_server_running(void);
bool nbd_server_multi_conn(void);
uint64_t nbd_handshake_ns(void); /* time for the handshake; 0: no limit */
/* Stacks that requests beyond their connection's own must leave, and what is left for long reads. */
extern unsigned nbd_stacks_promised, nbd_spare_stacks;
/* Another request of this connection may have a stack now. */
static inline bool nbd_stack_may_take(const struct nbd_conn *c)
{
    return likely(c->stacks < NBD_OWN_STACKS - 1) || co_stacks_free() > nbd_stacks_promised;
}

/* export.c */
extern struct list nbd_exports;
/* Exact name; the empty one also names the only export. NULL: none such. */
struct nbd_export *nbd_export_lookup(const char *name, size_t len);
struct nbd_export *nbd_export_by_serial(uint64_t serial);
/* Rounded down to whole blocks. */
static inline uint64_t nbd_export_size(const struct nbd_export *x)
{
    const struct node *n = x->e->origin.root->node;
    return align_down(n->size, n->limits.request_alignment);
}
uint32_t nbd_export_alignment(const struct nbd_export *x);
uint16_t nbd_export_flags(const struct nbd_export *x, const struct nbd_conn *c);
void nbd_export_attach(struct nbd_export *x, struct nbd_conn *c);

/* handshake.c: 0 when transmission begins; anything else: close the connection. */
int co_nbd_handshake(struct nbd_conn *c);

/* transmission.c: 0 when the client said DISC. All requests have ended when it returns, unless the
 * stream failed: then the caller aborts the stream and calls co_nbd_idle. */
int co_nbd_transmission(struct nbd_conn *c);
void co_nbd_idle(struct nbd_conn *c); /* wait until no request is in flight */

/* command.c, read.c, status.c: coroutines of one request or piece; they end it. */
void co_nbd_command(void *request);
void co_nbd_read(void *request);
void nbd_long_start(struct nbd_request *r); /* a read in pieces: now, or when its turn has come */
void nbd_long_next(struct nbd_conn *c);     /* a stack ended: start of those who wait what may */
void co_nbd_write_piece(void *piece);
void co_nbd_status(struct nbd_request *r);     /* r->buf is there */
void co_nbd_write_done(struct nbd_request *r); /* one of `pending` ended */

/* The end of a request's or a piece's coroutine: the last thing that it does. */
static inline void nbd_stack_end(struct nbd_conn *c)
{
    c->stacks--;
    if (unlikely(c->for_stack))
        co_wake(c->for_stack);
    if (unlikely(!queue_empty(&c->long_waiting)))
        nbd_long_next(c);
}

/* Around every request into the graph. Never held while waiting for the client. */
static inline struct child *co_nbd_gate(struct nbd_request *r)
{
    struct origin *o = &r->conn->exp->e->origin;
    if (!origin_try_enter(o))
        co_origin_enter(o);
    return o->root;
}
static inline void nbd_gate_leave(struct nbd_request *r)
{
    origin_leave(&r->conn->exp->e->origin);
}

/* reply.c. These end the request: the object is gone when they return. */
void co_nbd_reply(struct nbd_request *r); /* success or r->error, no data */
void co_nbd_reply_chunk(struct nbd_request *r, enum nbd_reply_type type, size_t len); /* r->buf: len
                                                         bytes of payload, and it is the last */
void co_nbd_reply_data(struct nbd_request *r, size_t len); /* r->buf: the whole read */
void nbd_request_end(struct nbd_request *r);               /* without a reply */
/* For replies in parts: take the turn, send any number of parts, give it back. */
void co_nbd_turn(struct nbd_request *r);
void co_nbd_turn_end(struct nbd_conn *c);
/* Writes a chunk header (structured or extended) in front of `p`, returns its start. */
uint8_t *nbd_chunk_before(const struct nbd_request *r, uint8_t *p, enum nbd_reply_type type,
                          uint64_t len, bool done);
uint8_t *nbd_simple_before(const struct nbd_request *r, uint8_t *p, uint32_t error);
/* The error chunk into r->head. `at`: offset at fault, or UINT64_MAX. */
void nbd_error_chunk(struct nbd_request *r, uint64_t at);
#endif

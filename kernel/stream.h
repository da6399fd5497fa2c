/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_STREAM_H
#define KERNEL_STREAM_H
/*
 * Byte streams that lend: TCP (lwIP), virtio-console ports, UART, TLS, POSIX sockets (host). NBD,
 * QMP, HTTP and iSCSI see only this.
 *
 * Receiving. Arrived memory stays where it is and is borrowed: co_stream_wait waits until at least
 * n bytes are there (for n > STREAM_WAIT_SURE it may be content with less when memory is short; who
 * asks for that much looks at loan->len, or at available()); stream_borrow hands out the next bytes
 * as an iov over a caller's loan; they stay valid until stream_release (which opens the peer's
 * window again). Loans may be released in any order. One reader coroutine per stream; it may wait
 * while others hold loans, but not while it is itself the one to give them back.
 *
 * Sending. co_stream_send queues the whole list in one piece (sends of several coroutines never
 * interleave within one call) and returns when it is queued, not when it is sent. Lent memory stays
 * untouched by its owner until hold->release(hold) is called, exactly once, also when the stream
 * fails. co_stream_write copies and is for small headers. Output is gathered and leaves at the end
 * of the loop turn at the latest; nobody flushes.
 *
 * Errors: SR_EOF (the peer closed, no byte left), SR_EIO (reset), SR_ETIMEDOUT (deadline passed),
 * SR_ECANCELED (stream_abort by us). After any error but SR_ETIMEDOUT the stream only fails; it
 * must still be closed. All on the stream's loop (0 for everything above TCP).
 */
#include "kernel/co.h"
#include "kernel/iov.h"

struct stream;

/* The most bytes that a wait gathers in any case, however little memory there is. */
#define STREAM_WAIT_SURE 4096u

/* Released exactly once, on the stream's loop, from a poller or inside the sending call. */
struct stream_hold {
    struct qlink link;
    uint64_t end; /* stream position after the last lent byte: the stream's */
    void (*release)(struct stream_hold *h);
};

#define STREAM_LOAN_SEGS \
    272 /* enough for 256 KiB from 1 KiB packets; a loan that needs more is cut short */
struct stream_loan {
    struct stream *stream;
    void *opaque[2]; /* the stream's: first and last packet */
    size_t len;
    unsigned nseg;
    struct seg seg[STREAM_LOAN_SEGS];
};

struct stream_ops {
    const char *name;
    /* Wait until >= n bytes can be borrowed (n <= max_wait; above STREAM_WAIT_SURE it may be fewer,
     * but at least that many) or the deadline passes. Returns 0 or an error; SR_EOF when the end
     * comes first. */
    int (*co_wait)(struct stream *s, size_t n, uint64_t deadline_ns);
    size_t (*available)(struct stream *s);
    /* Borrow and consume up to n of the available bytes; sets loan->len, seg, nseg. n is what was
     * waited for, or no more than available(). */
    void (*borrow)(struct stream *s, size_t n, struct stream_loan *loan);
    void (*release)(struct stream_loan *loan);
    /* Copy n available bytes out; consume: take them off the stream (and give the window back). */
    void (*copy)(struct stream *s, void *dst, size_t n, bool consume);
    int (*co_send)(struct stream *s, struct iov v, struct stream_hold *hold);
    int (*co_write)(struct stream *s, const void *p, size_t n);
    void (*abort)(struct stream *s); /* fail everything now, wake waiters; no graceful close */
    void (*co_close)(
        struct stream *s); /* flush what is queued (bounded time), close, free the stream */
};
struct stream {
    const struct stream_ops *ops;
    size_t max_wait; /* most bytes co_wait can be asked for (receive window): at least 64 KiB on TCP
                        and sockets */
    char peer[64];   /* for messages: "127.0.0.1:4711", "qmp" */
};

#define STREAM_FOREVER UINT64_MAX
static inline int co_stream_wait(struct stream *s, size_t n, uint64_t deadline_ns)
{
    return s->ops->co_wait(s, n, deadline_ns);
}
static inline void stream_borrow(struct stream *s, size_t n, struct stream_loan *loan)
{
    s->ops->borrow(s, n, loan);
}
static inline void stream_release(struct stream_loan *loan)
{
    loan->stream->ops->release(loan);
}
static inline int co_stream_send(struct stream *s, struct iov v, struct stream_hold *hold)
{
    return s->ops->co_send(s, v, hold);
}
static inline int co_stream_write(struct stream *s, const void *p, size_t n)
{
    return s->ops->co_write(s, p, n);
}
/* Reads exactly n bytes into dst (any n): waits in pieces. */
int co_stream_read(struct stream *s, void *dst, size_t n, uint64_t deadline_ns);
/* Takes n bytes off the stream and forgets them. */
int co_stream_skip(struct stream *s, uint64_t n, uint64_t deadline_ns);
static inline void stream_abort(struct stream *s)
{
    s->ops->abort(s);
}
static inline void co_stream_close(struct stream *s)
{
    s->ops->co_close(s);
}

/* Listening: a provider (lwIP on firmware, sockets on the host) opens addresses; each accepted
 * stream is handed to `accepted` on loop 0, which owns it from then on (it may close it at once:
 * refuse). */
struct listen_address {
    enum { ADDR_INET, ADDR_UNIX, ADDR_FD } type;
    const char *host, *port, *path; /* strings as given */
    int fd;
    bool ipv4_off, ipv6_off;
};
struct listener;
struct error;
/* The provider that is linked in: net/lwip_fw.c on firmware, board/host/socket.c on the host. Returns
 * NULL and fills err. May yield. */
struct listener *co_listen(const struct listen_address *a, unsigned backlog,
                           void (*accepted)(void *ctx, struct stream *s), void *ctx,
                           struct error *err);
void listener_close(
    struct listener *l); /* no accepted() call after it returns; accepted streams live on */
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The byte stream of one opening of a console port.
 *
 * Received bytes are copied into `ring`, so that a message of many small buffers can be waited for
 * (max_wait) whatever pieces the host sent it in:
 *
 *      start           taken                     end        positions count bytes since the opening;
 *        | lent, not    | can be read or borrowed  |        byte i lies at ring[i % RING]
 *        | yet released |                          |
 *
 * Loans come back in any order; the room of all of them is free when the last one is back. What finds
 * no room stays in the queue's buffers, and then in the host: that is the flow control.
 *
 * Sent bytes are copied into the pieces of the transmit queue, so lent memory is released before
 * co_send returns. These ports carry commands; bulk data has other ways.
 */
#include "virtio/console.h"

#include "kernel/board.h"
#include "kernel/fault.h"
#include "kernel/page.h"

#define RING     16384u /* a power of two */
#define CLOSE_NS (1000ull * 1000000)

struct console_stream {
    struct stream base;
    struct console_port *port; /* NULL: hung up */
    uint64_t start, taken, end;
    unsigned loans;
    uint8_t *ring;
    struct co *reader;
    struct co_mutex send;
    bool aborted, closed;
    struct timer deadline;
};

static struct console_stream *of(struct stream *s)
{
    return container_of(s, struct console_stream, base);
}

struct stream *console_stream_base(struct console_stream *s)
{
    return &s->base;
}

static void wake_reader(struct console_stream *s)
{
    if (s->reader)
        co_wake(s->reader);
}

/* ---- Receiving ------------------------------------------------------------------------------- */

/* n bytes at position pos, as one or two pieces. */
static unsigned pieces_at(const struct console_stream *s, uint64_t pos, size_t n, struct seg seg[2])
{
    size_t at = pos % RING, first = MIN(n, RING - at);
    seg[0] = (struct seg){s->ring + at, first};
    if (first == n)
        return 1;
    seg[1] = (struct seg){s->ring, n - first};
    return 2;
}

size_t console_stream_put(struct console_stream *s, const uint8_t *p, size_t n)
{
    struct seg seg[2];
    n = MIN(n, RING - (size_t)(s->end - s->start));
    if (!n)
        return 0;
    unsigned count = pieces_at(s, s->end, n, seg);
    memcpy(seg[0].base, p, seg[0].len);
    if (count == 2)
        memcpy(seg[1].base, p + seg[0].len, seg[1].len);
    s->end += n;
    wake_reader(s);
    return n;
}

static size_t available(struct stream *base)
{
    const struct console_stream *s = of(base);
    return (size_t)(s->end - s->taken);
}

static void too_late(struct timer *t)
{
    wake_reader(container_of(t, struct console_stream, deadline));
}

static int co_wait(struct stream *base, size_t n, uint64_t deadline_ns)
{
    struct console_stream *s = of(base);
    ASSERT(n <= base->max_wait && !s->reader);
    int rc = 0;
    s->reader = co_self();
    if (deadline_ns != STREAM_FOREVER)
        timer_set(&s->deadline, deadline_ns);
    for (;;) {
        if (s->aborted)
            rc = SR_ECANCELED;
        else if (available(base) >= n)
            rc = 0;
        else if (!s->port)
            rc = SR_EOF;
        else if (deadline_ns != STREAM_FOREVER && board_clock_ns() >= deadline_ns)
            rc = SR_ETIMEDOUT;
        else {
            co_yield ();
            continue;
        }
        break;
    }
    timer_cancel(&s->deadline);
    s->reader = NULL;
    return rc;
}

static void take(struct console_stream *s, size_t n)
{
    s->taken += n;
    if (s->loans)
        return;
    s->start = s->taken;
    if (s->port)
        console_port_pull(s->port);
}

static void borrow(struct stream *base, size_t n, struct stream_loan *loan)
{
    struct console_stream *s = of(base);
    n = MIN(n, available(base));
    loan->stream = base;
    loan->len = n;
    loan->nseg = n ? pieces_at(s, s->taken, n, loan->seg) : 0;
    s->loans++;
    s->taken += n;
}

static void release(struct stream_loan *loan)
{
    struct console_stream *s = of(loan->stream);
    ASSERT(s->loans);
    s->loans--;
    take(s, 0);
}

static void copy(struct stream *base, void *dst, size_t n, bool consume)
{
    struct console_stream *s = of(base);
    struct seg seg[2];
    ASSERT(n <= available(base));
    if (!n)
        return;
    unsigned count = pieces_at(s, s->taken, n, seg);
    memcpy(dst, seg[0].base, seg[0].len);
    if (count == 2)
        memcpy((uint8_t *)dst + seg[0].len, seg[1].base, seg[1].len);
    if (consume)
        take(s, n);
}

/* ---- Sending --------------------------------------------------------------------------------- */

static int failure(const struct console_stream *s)
{
    if (s->aborted)
        return SR_ECANCELED;
    return s->port ? 0 : SR_EIO;
}

/* Waits for a free piece. */
static int co_room(struct console_stream *s, struct virtq_chain *c, uint8_t **room)
{
    int rc;
    while (!(rc = failure(s)) && !(*room = console_tx_room(s->port, c))) {
        console_tx_want(s->port, true);
        co_queue_wait(&s->port->tx_wait);
    }
    return rc;
}

static int co_put(struct console_stream *s, const uint8_t *p, size_t n)
{
    while (n) {
        struct virtq_chain c;
        uint8_t *room;
        int rc = co_room(s, &c, &room);
        if (rc)
            return rc;
        size_t piece = MIN(n, CONSOLE_PIECE);
        memcpy(room, p, piece);
        console_tx_send(s->port, &c, piece);
        p += piece;
        n -= piece;
    }
    return failure(s);
}

static int co_write(struct stream *base, const void *p, size_t n)
{
    struct console_stream *s = of(base);
    co_mutex_lock(&s->send);
    int rc = co_put(s, p, n);
    co_mutex_unlock(&s->send);
    return rc;
}

static int co_send(struct stream *base, struct iov v, struct stream_hold *hold)
{
    struct console_stream *s = of(base);
    void *p;
    size_t n;
    int rc = 0;
    co_mutex_lock(&s->send);
    while (!rc && iov_next(&v, &p, &n))
        rc = co_put(s, p, n);
    co_mutex_unlock(&s->send);
    if (hold)
        hold->release(hold);
    return rc;
}

/* ---- The end --------------------------------------------------------------------------------- */

static void do_abort(struct stream *base)
{
    struct console_stream *s = of(base);
    s->aborted = true;
    wake_reader(s);
    if (s->port)
        co_queue_wake_all(&s->port->tx_wait);
}

void console_stream_hangup(struct console_stream *s)
{
    struct console_port *p = s->port;
    s->port = NULL;
    p->stream = NULL;
    p->port.stream = NULL;
    wake_reader(s);
    co_queue_wake_all(&p->tx_wait);
}

/* What was sent is in the transmit queue, and the device takes it from there: give it time to. */
static void co_close(struct stream *base)
{
    struct console_stream *s = of(base);
    uint64_t end = board_clock_ns() + CLOSE_NS;
    while (s->port && !s->aborted && !virtq_idle(s->port->tx) && board_clock_ns() < end) {
        co_sleep_ns(CLOSE_NS / 1000);
        struct virtq_chain c;
        if (s->port)
            (void)console_tx_room(s->port, &c); /* takes back what was sent */
    }
    if (s->port)
        console_stream_hangup(s);
    ASSERT(!s->loans && !s->reader);
    timer_cancel(&s->deadline);
    page_free(s->ring, RING);
    sr_free(s);
}

static const struct stream_ops ops = {
    .name = "virtio-console",
    .co_wait = co_wait,
    .available = available,
    .borrow = borrow,
    .release = release,
    .copy = copy,
    .co_send = co_send,
    .co_write = co_write,
    .abort = do_abort,
    .co_close = co_close,
};

struct console_stream *console_stream_open(struct console_port *p)
{
    struct console_stream *s = sr_calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->ring = page_alloc(RING);
    if (!s->ring) {
        sr_free(s);
        return NULL;
    }
    s->base.ops = &ops;
    s->base.max_wait = RING;
    memcpy(s->base.peer, p->port.name, sizeof(s->base.peer));
    s->port = p;
    co_mutex_init(&s->send);
    timer_init(&s->deadline, too_late);
    return s;
}

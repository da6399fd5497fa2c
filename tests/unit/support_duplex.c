/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_duplex.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/board.h"
#include "kernel/error.h"
#include "kernel/list.h"
#include "kernel/log.h"
#include "kernel/loop.h"

#define LINGER_NS (2ull * 1000000000)

struct segment { /* received */
    struct segment *next;
    unsigned refs;
    size_t len;
    uint8_t *data;
};
struct piece { /* to send */
    struct qlink link;
    const uint8_t *base;
    size_t len;
    struct stream_hold *hold;
    uint8_t copy[]; /* of co_write */
};
struct end {
    struct stream stream;
    struct list link;
    struct end *peer; /* NULL: it is gone */
    struct duplex_options o;
    int error;
    bool eof, stalled;
    /* Receiving. */
    struct segment *first, **last;
    size_t consumed; /* of the first */
    size_t available, lent, need;
    struct co *reader;
    /* Sending. */
    struct queue out;
    size_t queued;
    struct co_mutex sender;
    struct co_queue room;
};

unsigned duplex_ends;
static struct list ends = LIST_INIT(ends);

static struct end *of(struct stream *s)
{
    return container_of(s, struct end, stream);
}

static void wake_reader(struct end *e)
{
    if (e->reader && (e->available >= e->need || e->eof || e->error))
        co_wake(e->reader);
}

/* ---- delivery, at the end of the turn ---- */

static void piece_end(struct end *e, struct piece *p)
{
    struct stream_hold *h = p->hold;
    queue_pop(&e->out);
    free(p);
    if (h)
        h->release(h);
}

static void append(struct end *to, const uint8_t *p, size_t n)
{
    struct segment *s = malloc(sizeof(*s));
    *s = (struct segment){.refs = 1, .len = n, .data = malloc(n)};
    memcpy(s->data, p, n);
    *to->last = s;
    to->last = &s->next;
    to->available += n;
}

static void deliver(struct end *e)
{
    struct end *to = e->peer;
    while (!queue_empty(&e->out)) {
        struct piece *p = container_of(e->out.first, struct piece, link);
        bool gone = e->error || !to || to->error;
        if (e->stalled && !gone)
            break;
        size_t room = gone ? p->len : to->o.window - MIN(to->o.window, to->available + to->lent);
        size_t n = MIN(MIN(p->len, room), gone ? p->len : e->o.segment);
        if (!n && p->len)
            break;
        if (!gone && n)
            append(to, p->base, n);
        p->base += n;
        p->len -= n;
        e->queued -= n;
        if (!p->len)
            piece_end(e, p);
    }
    co_queue_wake_all(&e->room);
    if (to)
        wake_reader(to);
}

static void deliver_all(struct turn_hook *h)
{
    (void)h;
    list_for_each (e, &ends, struct end, link)
        deliver(e);
}

/* ---- receiving ---- */

struct deadline {
    struct timer timer;
    struct co *co;
    bool passed;
};

static void deadline_passed(struct timer *t)
{
    struct deadline *d = container_of(t, struct deadline, timer);
    d->passed = true;
    co_wake(d->co);
}

static int co_duplex_wait(struct stream *s, size_t n, uint64_t deadline_ns)
{
    struct end *e = of(s);
    struct deadline d = {.co = co_self()};
    ASSERT(n && n <= s->max_wait && !e->reader);
    timer_init(&d.timer, deadline_passed);
    if (deadline_ns != STREAM_FOREVER)
        timer_set(&d.timer, deadline_ns);
    e->reader = d.co;
    e->need = n;
    while (e->available < n && !e->eof && !e->error && !d.passed)
        co_yield ();
    e->reader = NULL;
    timer_cancel(&d.timer);
    if (e->available >= n && e->error != SR_ECANCELED)
        return 0;
    return e->error ? e->error : e->eof ? SR_EOF : SR_ETIMEDOUT;
}

static size_t duplex_available(struct stream *s)
{
    return of(s)->available;
}

static void segment_put(struct segment *s)
{
    if (--s->refs)
        return;
    free(s->data);
    free(s);
}

static void pop_segment(struct end *e)
{
    struct segment *s = e->first;
    e->first = s->next;
    if (!e->first)
        e->last = &e->first;
    e->consumed = 0;
    segment_put(s);
}

/* The segments of a loan are kept behind its segs: the last ones of the array. */
static void duplex_borrow(struct stream *s, size_t n, struct stream_loan *loan)
{
    struct end *e = of(s);
    ASSERT(n && n <= e->available);
    struct segment **held = calloc(STREAM_LOAN_SEGS, sizeof(*held));
    *loan = (struct stream_loan){.stream = s, .opaque = {held}};
    while (loan->len < n && loan->nseg < STREAM_LOAN_SEGS) {
        struct segment *seg = e->first;
        size_t m = MIN(n - loan->len, seg->len - e->consumed);
        held[loan->nseg] = seg;
        seg->refs++;
        loan->seg[loan->nseg++] = (struct seg){seg->data + e->consumed, m};
        loan->len += m;
        e->consumed += m;
        if (e->consumed == seg->len)
            pop_segment(e);
    }
    e->available -= loan->len;
    e->lent += loan->len;
}

static void duplex_release(struct stream_loan *loan)
{
    struct segment **held = loan->opaque[0];
    of(loan->stream)->lent -= loan->len;
    for (unsigned i = 0; i < loan->nseg; i++)
        segment_put(held[i]);
    free(held);
    memset(loan, 0xee, sizeof(*loan));
}

static void duplex_copy(struct stream *s, void *dst, size_t n, bool consume)
{
    struct end *e = of(s);
    uint8_t *to = dst;
    ASSERT(consume && n <= e->available);
    e->available -= n;
    while (n) {
        size_t m = MIN(n, e->first->len - e->consumed);
        memcpy(to, e->first->data + e->consumed, m);
        to += m;
        n -= m;
        e->consumed += m;
        if (e->consumed == e->first->len)
            pop_segment(e);
    }
}

/* ---- sending ---- */

static void push(struct end *e, const void *p, size_t n, struct stream_hold *hold, bool copy)
{
    struct piece *piece = malloc(sizeof(*piece) + (copy ? n : 0));
    *piece = (struct piece){.base = p, .len = n, .hold = hold};
    if (copy)
        piece->base = memcpy(piece->copy, p, n);
    queue_push(&e->out, &piece->link);
    e->queued += n;
}

static int co_enter(struct end *e)
{
    co_mutex_lock(&e->sender);
    while (e->queued >= e->o.queue && !e->error && e->peer)
        co_queue_wait(&e->room);
    return e->error ? e->error : e->peer ? 0 : SR_EIO;
}

static int co_duplex_send(struct stream *s, struct iov v, struct stream_hold *hold)
{
    struct end *e = of(s);
    void *p;
    size_t n;
    int rc = co_enter(e);
    while (!rc && iov_next(&v, &p, &n))
        push(e, p, n, v.len ? NULL : hold, false);
    co_mutex_unlock(&e->sender);
    if (rc)
        hold->release(hold);
    return rc;
}

static int co_duplex_write(struct stream *s, const void *p, size_t n)
{
    struct end *e = of(s);
    int rc = co_enter(e);
    if (!rc && n)
        push(e, p, n, NULL, true);
    co_mutex_unlock(&e->sender);
    return rc;
}

/* ---- ends ---- */

static void duplex_abort(struct stream *s)
{
    struct end *e = of(s);
    e->error = SR_ECANCELED;
    wake_reader(e);
    co_queue_wake_all(&e->room);
    if (e->peer && !e->peer->error) {
        e->peer->error = SR_EIO;
        wake_reader(e->peer);
    }
}

static void end_free(struct end *e)
{
    ASSERT(!e->lent && !e->reader);
    while (e->first)
        pop_segment(e);
    if (e->peer) {
        e->peer->eof = true;
        e->peer->peer = NULL;
        wake_reader(e->peer);
        co_queue_wake_all(&e->peer->room);
    }
    list_remove(&e->link);
    duplex_ends--;
    free(e);
}

static void co_duplex_close(struct stream *s)
{
    struct end *e = of(s);
    uint64_t end = board_clock_ns() + LINGER_NS;
    while (!queue_empty(&e->out)) {
        if (board_clock_ns() > end)
            e->error = SR_ECANCELED;
        co_sleep_ns(100000);
    }
    end_free(e);
}

static const struct stream_ops duplex_ops = {
    .name = "duplex",
    .co_wait = co_duplex_wait,
    .available = duplex_available,
    .borrow = duplex_borrow,
    .release = duplex_release,
    .copy = duplex_copy,
    .co_send = co_duplex_send,
    .co_write = co_duplex_write,
    .abort = duplex_abort,
    .co_close = co_duplex_close,
};

static struct end *end_new(const struct duplex_options *o)
{
    struct end *e = calloc(1, sizeof(*e));
    e->o = o ? *o : (struct duplex_options){0};
    e->o.window = e->o.window ? e->o.window : 64u << 10;
    e->o.segment = e->o.segment ? e->o.segment : 1460;
    e->o.queue = e->o.queue ? e->o.queue : 64u << 10;
    e->stream.ops = &duplex_ops;
    e->stream.max_wait = e->o.window;
    strcpy(e->stream.peer, "pipe");
    e->last = &e->first;
    queue_init(&e->out);
    co_mutex_init(&e->sender);
    co_queue_init(&e->room);
    list_append(&ends, &e->link);
    duplex_ends++;
    return e;
}

void duplex_open(struct stream *out[2], const struct duplex_options *o)
{
    static struct turn_hook hook = {.run = deliver_all};
    static bool hooked;
    if (!hooked)
        turn_hook_add(&hook);
    hooked = true;
    struct end *a = end_new(o), *b = end_new(o);
    a->peer = b;
    b->peer = a;
    out[0] = &a->stream;
    out[1] = &b->stream;
}

void duplex_stall(struct stream *s, bool on)
{
    of(s)->stalled = on;
}

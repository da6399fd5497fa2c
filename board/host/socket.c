/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Byte streams over POSIX sockets (inet and unix), by io_uring.
 *
 * Receiving. Each socket has CHUNKS chunks of memory. One recv at a time is under way, into the
 * chunk that is being filled; loans point into chunks and count references on them; a chunk without
 * any goes back to the free ones.
 *
 *     order:  | chunk: loaned, consumed | chunk: available | chunk: being filled -> |
 *                                       ^ consume          ^           recv at `filled`
 *
 * The next recv is posted at the end of the turn. By then the reader has usually taken everything,
 * and if nothing is lent the same bytes are used again: they stay in the cache.
 *
 * Sending. Pieces queue in a ring of iovecs, each with the hold to release behind it; one sendmsg at
 * a time takes as many as there are, so the replies of one turn leave in one system call. Copied
 * bytes (co_write) live in an arena, a ring of bytes that is used and freed in the same order.
 *
 * Ends. An error or abort makes the stream fail at once, but memory that the kernel may still read
 * is given back only when its operation has completed: shutdown(2) brings that about. A socket is
 * freed when it was closed and has no operation under way.
 */
#include "board/host/socket.h"
#include "board/host/uring.h"
#include "kernel/kernel.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK      (64u << 10)
#define CHUNKS     8u
#define CHUNK_REST 4096u /* a chunk with less room than this is full */
#define PIECES     512u  /* power of two */
#define ARENA      (32u << 10)
#define LINGER_NS  (5ull * 1000000000) /* co_close: for what is queued */

struct chunk {
    uint32_t filled, refs; /* refs: loans, and one while it is in `order` */
};

struct socket {
    struct stream stream;
    int fd;
    int error; /* SR_*: the stream only fails */
    bool eof;
    struct list dirty_link; /* in dirty, when there is something to post */

    /* Receiving. */
    uint8_t *memory; /* CHUNKS * CHUNK */
    struct chunk chunk[CHUNKS];
    uint8_t order[CHUNKS], free[CHUNKS];
    unsigned norder, nfree;
    uint32_t consume; /* offset in the first of `order` */
    size_t available; /* bytes between consume and the last one's `filled` */
    bool recv_busy, poll_first;
    struct uring_op recv_op;
    size_t need; /* of the reader */
    struct co *reader;

    /* Sending. Pieces [head, head + count) modulo PIECES; the kernel has the first `sent`. */
    unsigned head, count, sent;
    struct uring_op send_op;
    struct msghdr msg;
    struct iovec iov[PIECES];
    struct stream_hold *hold[PIECES]; /* NULL: a piece of a list, or of the arena */
    bool copied[PIECES];
    uint32_t arena_head, arena_used;
    uint8_t arena[ARENA];
    struct co_mutex sender;
    struct co *room, *closer; /* who waits for pieces to leave; for everything to end */
};

static struct list dirty = LIST_INIT(dirty);
static bool recv_flags_unknown; /* a kernel without IORING_RECVSEND_POLL_FIRST */

static struct socket *of(struct stream *s)
{
    return container_of(s, struct socket, stream);
}

static void mark(struct socket *k)
{
    if (list_empty(&k->dirty_link))
        list_append(&dirty, &k->dirty_link);
}

static void wake(struct co *co)
{
    if (co)
        co_wake(co);
}

static void socket_free(struct socket *k)
{
    list_remove(&k->dirty_link);
    close(k->fd);
    munmap(k->memory, CHUNKS * CHUNK);
    free(k);
}

/* An operation ended: perhaps the one that kept the socket from being freed. */
static void settle(struct socket *k)
{
    if (!k->recv_busy && !k->sent && !k->count)
        wake(k->closer);
}

static void fail(struct socket *k, int error)
{
    if (k->error)
        return;
    k->error = error;
    shutdown(k->fd, SHUT_RDWR);
    mark(k); /* drops what is queued */
    wake(k->reader);
    wake(k->room);
}

/* ---- Receiving -------------------------------------------------------------------------------- */

static void chunk_put(struct socket *k, unsigned i)
{
    if (--k->chunk[i].refs == 0) {
        k->free[k->nfree++] = (uint8_t)i;
        if (!k->recv_busy)
            mark(k);
    }
}

/* The chunk to receive into, or -1: all are lent or unread. */
static int chunk_to_fill(struct socket *k)
{
    if (k->norder) {
        unsigned i = k->order[k->norder - 1];
        struct chunk *c = &k->chunk[i];
        if (!k->available && k->norder == 1 && c->refs == 1)
            k->consume = c->filled = 0;
        if (CHUNK - c->filled >= CHUNK_REST)
            return (int)i;
    }
    if (!k->nfree)
        return -1;
    unsigned i = k->free[--k->nfree];
    k->chunk[i] = (struct chunk){.refs = 1};
    k->order[k->norder++] = (uint8_t)i;
    return (int)i;
}

static void pop_consumed(struct socket *k)
{
    while (k->norder > 1 && k->consume == k->chunk[k->order[0]].filled) {
        unsigned i = k->order[0];
        memmove(k->order, k->order + 1, --k->norder);
        k->consume = 0;
        chunk_put(k, i);
    }
}

static void post_recv(struct socket *k)
{
    int i = chunk_to_fill(k);
    if (i < 0)
        return;
    pop_consumed(k); /* a full one may have become the last but one */
    struct chunk *c = &k->chunk[i];
    struct io_uring_sqe *sqe = uring_sqe(&k->recv_op);
    io_uring_prep_recv(sqe, k->fd, k->memory + (size_t)i * CHUNK + c->filled, CHUNK - c->filled, 0);
    if (k->poll_first && !recv_flags_unknown)
        sqe->ioprio = IORING_RECVSEND_POLL_FIRST;
    k->recv_busy = true;
}

static void received(struct uring_op *op, int res, uint32_t flags)
{
    struct socket *k = container_of(op, struct socket, recv_op);
    k->recv_busy = false;
    if (res > 0) {
        k->chunk[k->order[k->norder - 1]].filled += (uint32_t)res;
        k->available += (size_t)res;
        k->poll_first = !(flags & IORING_CQE_F_SOCK_NONEMPTY);
        mark(k);
    } else if (res == -EINVAL && k->poll_first && !recv_flags_unknown) {
        recv_flags_unknown = true;
        mark(k);
    } else if (res == -EINTR || res == -EAGAIN) {
        mark(k);
    } else if (res == 0) {
        k->eof = true;
        wake(k->reader);
    } else {
        fail(k, SR_EIO);
    }
    if (k->reader && k->available >= k->need)
        co_wake(k->reader);
    settle(k);
}

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

static int co_socket_wait(struct stream *s, size_t n, uint64_t deadline_ns)
{
    struct socket *k = of(s);
    struct deadline d = {.co = co_self()};
    ASSERT(n <= s->max_wait);
    timer_init(&d.timer, deadline_passed);
    k->need = n;
    k->reader = d.co;
    if (!k->recv_busy)
        mark(k);
    if (deadline_ns != STREAM_FOREVER && !k->error && k->available < n)
        timer_set(&d.timer, deadline_ns);
    while (!k->error && k->available < n && !k->eof && !d.passed)
        co_yield ();
    k->reader = NULL;
    timer_cancel(&d.timer);
    if (k->error)
        return k->error;
    return k->available >= n ? 0 : k->eof ? SR_EOF : SR_ETIMEDOUT;
}

static size_t socket_available(struct stream *s)
{
    return of(s)->available;
}

static void socket_borrow(struct stream *s, size_t n, struct stream_loan *loan)
{
    struct socket *k = of(s);
    ASSERT(n <= k->available);
    loan->stream = s;
    loan->len = 0;
    loan->nseg = 0;
    while (n) {
        pop_consumed(k);
        unsigned i = k->order[0];
        size_t m = MIN(n, (size_t)(k->chunk[i].filled - k->consume));
        loan->seg[loan->nseg++] = (struct seg){k->memory + (size_t)i * CHUNK + k->consume, m};
        k->chunk[i].refs++;
        k->consume += (uint32_t)m;
        k->available -= m;
        loan->len += m;
        n -= m;
    }
}

static void socket_release(struct stream_loan *loan)
{
    struct socket *k = of(loan->stream);
    for (unsigned i = 0; i < loan->nseg; i++)
        chunk_put(k, (unsigned)((size_t)((uint8_t *)loan->seg[i].base - k->memory) / CHUNK));
}

static void socket_copy(struct stream *s, void *dst, size_t n, bool consume)
{
    struct socket *k = of(s);
    uint32_t at = k->consume;
    char *to = dst;
    ASSERT(n <= k->available);
    if (consume)
        k->available -= n;
    for (unsigned j = 0; n; j++, at = 0) {
        unsigned i = k->order[j];
        size_t m = MIN(n, (size_t)(k->chunk[i].filled - at));
        memcpy(to, k->memory + (size_t)i * CHUNK + at, m);
        to += m;
        n -= m;
        at += (uint32_t)m;
        if (consume && m) { /* chunks before this one are consumed to their end */
            for (; j; j--) {
                k->consume = k->chunk[k->order[0]].filled;
                pop_consumed(k);
            }
            k->consume = at;
        }
    }
}

/* ---- Sending ---------------------------------------------------------------------------------- */

static unsigned slot(const struct socket *k, unsigned i)
{
    return (k->head + i) & (PIECES - 1);
}

/* The first piece left, wholly. */
static void piece_done(struct socket *k, size_t arena_bytes)
{
    unsigned i = slot(k, 0);
    struct stream_hold *h = k->hold[i];
    if (k->copied[i]) {
        k->arena_head = (uint32_t)(k->arena_head + arena_bytes) % ARENA;
        k->arena_used -= (uint32_t)arena_bytes;
    }
    k->head = slot(k, 1);
    k->count--;
    if (h)
        h->release(h);
}

static void drop_all(struct socket *k)
{
    while (k->count)
        piece_done(k, k->iov[slot(k, 0)].iov_len);
    wake(k->room);
}

static void advance(struct socket *k, size_t n)
{
    while (k->count && n >= k->iov[slot(k, 0)].iov_len) {
        size_t len = k->iov[slot(k, 0)].iov_len;
        n -= len;
        piece_done(k, len);
    }
    if (n) {
        struct iovec *v = &k->iov[slot(k, 0)];
        v->iov_base = (char *)v->iov_base + n;
        v->iov_len -= n;
        if (k->copied[slot(k, 0)]) {
            k->arena_head = (uint32_t)(k->arena_head + n) % ARENA;
            k->arena_used -= (uint32_t)n;
        }
    }
}

static void post_send(struct socket *k)
{
    unsigned n = MIN(k->count, PIECES - k->head); /* up to where the ring begins anew */
    k->msg = (struct msghdr){.msg_iov = &k->iov[k->head], .msg_iovlen = n};
    io_uring_prep_sendmsg(uring_sqe(&k->send_op), k->fd, &k->msg, MSG_NOSIGNAL);
    k->sent = n;
}

static void sent(struct uring_op *op, int res, uint32_t flags)
{
    struct socket *k = container_of(op, struct socket, send_op);
    (void)flags;
    k->sent = 0;
    if (res >= 0)
        advance(k, (size_t)res);
    else if (res != -EINTR && res != -EAGAIN)
        fail(k, SR_EIO);
    if (k->error)
        drop_all(k);
    else if (k->count)
        mark(k);
    wake(k->room);
    settle(k);
}

static int co_wait_room(struct socket *k)
{
    k->room = co_self();
    co_yield ();
    k->room = NULL;
    return k->error;
}

static int co_push(struct socket *k, void *base, size_t len, struct stream_hold *hold, bool copied)
{
    while (k->count == PIECES)
        if (co_wait_room(k))
            return k->error;
    unsigned i = slot(k, k->count++);
    k->iov[i] = (struct iovec){base, len};
    k->hold[i] = hold;
    k->copied[i] = copied;
    mark(k);
    return 0;
}

/* The hold always goes into the queue, if need be with a piece of no bytes: what was queued before
 * it may be in the kernel's hands. */
static int co_send_list(struct socket *k, struct iov v, struct stream_hold *hold)
{
    void *p;
    size_t n;
    while (!k->error && iov_next(&v, &p, &n))
        if (co_push(k, p, n, v.len ? NULL : hold, false) == 0 && !v.len)
            return 0;
    while (k->error && k->count == PIECES)
        co_wait_room(k);
    (void)co_push(k, k->arena, 0, hold, false);
    return k->error;
}

static int co_socket_send(struct stream *s, struct iov v, struct stream_hold *hold)
{
    struct socket *k = of(s);
    if (k->error && !k->count) {
        hold->release(hold);
        return k->error;
    }
    co_mutex_lock(&k->sender);
    int rc = co_send_list(k, v, hold);
    co_mutex_unlock(&k->sender);
    return rc;
}

/* Copies as much as fits in one run of the arena; joins it to the piece before when it can. */
static int co_copy_piece(struct socket *k, const char **p, size_t *n)
{
    uint32_t tail = (k->arena_head + k->arena_used) % ARENA;
    size_t m = MIN(*n, (size_t)MIN(ARENA - tail, ARENA - k->arena_used));
    if (!m)
        return co_wait_room(k);
    unsigned last = slot(k, k->count - 1);
    memcpy(k->arena + tail, *p, m);
    k->arena_used += (uint32_t)m;
    *p += m;
    *n -= m;
    if (k->count > k->sent && k->copied[last] &&
        (uint8_t *)k->iov[last].iov_base + k->iov[last].iov_len == k->arena + tail) {
        k->iov[last].iov_len += m;
        return 0;
    }
    return co_push(k, k->arena + tail, m, NULL, true);
}

static int co_socket_write(struct stream *s, const void *p, size_t n)
{
    struct socket *k = of(s);
    const char *from = p;
    co_mutex_lock(&k->sender);
    while (n && !k->error)
        (void)co_copy_piece(k, &from, &n);
    co_mutex_unlock(&k->sender);
    return k->error;
}

/* ---- End of turn, and of the stream ----------------------------------------------------------- */

static void post_all(struct turn_hook *h)
{
    (void)h;
    while (!list_empty(&dirty)) {
        struct socket *k = list_entry(dirty.next, struct socket, dirty_link);
        list_remove(&k->dirty_link);
        if (k->error && !k->sent) {
            drop_all(k);
            settle(k);
        } else if (!k->error) {
            if (!k->recv_busy && !k->eof)
                post_recv(k);
            if (!k->sent && k->count)
                post_send(k);
        }
    }
}

static void socket_abort(struct stream *s)
{
    fail(of(s), SR_ECANCELED);
}

static void co_drain(struct socket *k)
{
    struct deadline d = {.co = co_self()};
    timer_init(&d.timer, deadline_passed);
    timer_set(&d.timer, board_clock_ns() + LINGER_NS);
    k->room = d.co;
    while (k->count && !k->error && !d.passed)
        co_yield ();
    k->room = NULL;
    timer_cancel(&d.timer);
}

static void co_socket_close(struct stream *s)
{
    struct socket *k = of(s);
    if (!k->error && k->count)
        co_drain(k);
    fail(k, SR_ECANCELED);
    k->closer = co_self();
    while (k->recv_busy || k->sent || k->count)
        co_yield ();
    socket_free(k);
}

static const struct stream_ops socket_ops = {
    .name = "socket",
    .co_wait = co_socket_wait,
    .available = socket_available,
    .borrow = socket_borrow,
    .release = socket_release,
    .copy = socket_copy,
    .co_send = co_socket_send,
    .co_write = co_socket_write,
    .abort = socket_abort,
    .co_close = co_socket_close,
};

struct stream *socket_stream(int fd, const char *peer)
{
    static struct turn_hook hook = {.run = post_all};
    static bool hooked;
    struct socket *k = calloc(1, sizeof(*k));
    if (!k)
        return NULL;
    k->memory =
        mmap(NULL, CHUNKS * CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (k->memory == MAP_FAILED) {
        free(k);
        return NULL;
    }
    if (!hooked)
        turn_hook_add(&hook);
    hooked = true;
    k->fd = fd;
    k->stream.ops = &socket_ops;
    k->stream.max_wait = CHUNK * CHUNKS / 2;
    strncpy(k->stream.peer, peer, sizeof(k->stream.peer) - 1);
    for (unsigned i = 0; i < CHUNKS; i++)
        k->free[k->nfree++] = (uint8_t)(CHUNKS - 1 - i);
    k->recv_op.done = received;
    k->send_op.done = sent;
    k->poll_first = true;
    co_mutex_init(&k->sender);
    list_init(&k->dirty_link);
    return &k->stream;
}

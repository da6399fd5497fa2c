/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP streams: a connection's life, and sending. Receiving is in lwip_tcp_rx.c.
 *
 * Life. lwIP frees a pcb whenever it likes and says so by the err callback; from then on t->pcb is
 * NULL. The stream lives until co_close has returned. In the other direction a pcb outlives its
 * stream: after co_close only lwIP cares for the rest of the closing (callback_arg is NULL then).
 *
 *     accept -> open -> [eof] [error] -> co_close: FIN, everything acknowledged -> detached
 *                    \-> aborting: RST at the end of the turn -> err callback -> error
 *
 * An abort is always deferred to the end of the turn: within lwIP's callbacks it must not happen.
 *
 * Sending copies nothing. Lent memory is referenced by lwIP until it is acknowledged; its hold
 * waits in t->holds, in the order of stream positions. What is small is copied into a chunk, behind
 * what was copied before: lwIP joins adjacent memory, so a hundred replies of 16 bytes are one
 * piece. Chunks are lent to the connection like everything else.
 *
 * Nothing leaves from here: the stream is marked dirty, and the end of the turn sends for all of
 * them. tcp_output runs from lwIP's input as well, for what the window kept back.
 *
 * The three rules of super-segments: pcb->mss is raised in the accept callback and never again (P2);
 * lwIP never sees an MSS option later (P1, lwip_hooks.c); a segment that is longer than the window
 * with nothing in flight is split, else it would wait for lwIP's persist timer, each time (P3).
 *
 * Dead peers. Keep-alive after a minute of silence, every 10 seconds, 6 times: also while data is
 * unacknowledged, because any sign of life counts and nothing else. A peer that answers but keeps its
 * window shut may do so for ever; it holds its own credits only.
 */
#include "net/lwip_net.h"

#include <stdio.h>
#include <string.h>

#include "lwip/priv/tcp_priv.h"

#define WIRE_MIN      88 /* less is no MSS but an attack */
#define COPY_MAX      1024
#define CLOSE_NS      5000000000ull /* for what is queued to be acknowledged */
#define LINGER_NS     1000000000ull /* for the peer to close too */
#define POLL_TICKS    5
#define KEEP_IDLE_MS  60000
#define KEEP_INTVL_MS 10000
#define KEEP_COUNT    6

static struct pool stream_pool = POOL("tcp-stream", POOL_RANK_CONNECTION, sizeof(struct tcp_stream),
                                      .min = TCP_STREAMS_MAX, .max = TCP_STREAMS_MAX);
REGISTER(pool, stream_pool);

u8_t net_ext_wire;
struct list net_streams = LIST_INIT(net_streams);
unsigned net_stream_count;
static struct list dirty = LIST_INIT(dirty);

static inline struct tcp_stream *of(struct stream *s)
{
    return container_of(s, struct tcp_stream, s);
}

void tcp_stream_dirty(struct tcp_stream *t)
{
    if (list_empty(&t->dirty))
        list_append(&dirty, &t->dirty);
}

static void wake(struct co *co)
{
    if (co)
        co_wake(co);
}

static void wake_all(struct tcp_stream *t)
{
    tcp_rx_wake(t);
    wake(t->sender);
    wake(t->closer);
}

/* ---- Memory that was lent to the peer ---- */

static void release_acked(struct tcp_stream *t)
{
    struct stream_hold *h;
    while ((h = (struct stream_hold *)t->holds.first) && h->end <= t->acked) {
        queue_pop(&t->holds);
        net_tx_release(h, t->tx_seq);
    }
}

static void chunk_released(struct stream_hold *h)
{
    struct net_chunk *c = container_of(h, struct net_chunk, tx);
    struct tcp_stream *t = c->owner;
    pool_put(&net_chunk_pool, &t->tx_chunks, c);
    wake(t->closer);
}

/* The chunk takes no more. */
static void retire_chunk(struct tcp_stream *t)
{
    struct net_chunk *c = t->chunk;
    if (!c)
        return;
    t->chunk = NULL;
    c->tx.end = t->written;
    queue_push(&t->holds, &c->tx.link);
}

/* ---- Shares of lwIP's pbufs ----
 *
 * Each piece that is lent takes a pbuf of lwIP's one table until it is acknowledged. Every stream may
 * have QUEUE_SURE of them; above that it may take another only while it holds fewer than are free,
 * as with pools. So a row of peers that read nothing leaves room for the others, and who waits
 * has something in flight whose acknowledgement wakes it.
 */
#define QUEUE_SURE   8u
#define QUEUE_SHARED (MEMP_NUM_PBUF - QUEUE_SURE * TCP_STREAMS_MAX)

static unsigned queued_over; /* of all streams, above QUEUE_SURE each */

static unsigned over(const struct tcp_stream *t)
{
    return t->queued > QUEUE_SURE ? t->queued - QUEUE_SURE : 0;
}

static void account(struct tcp_stream *t)
{
    queued_over -= over(t);
    t->queued = t->pcb ? t->pcb->snd_queuelen : 0;
    queued_over += over(t);
}

static bool may_queue(const struct tcp_stream *t)
{
    return t->queued < QUEUE_SURE || over(t) + queued_over < QUEUE_SHARED;
}

/* ---- What lwIP tells ---- */

static void detach(struct tcp_stream *t)
{
    struct tcp_pcb *pcb = t->pcb;
    t->pcb = NULL;
    account(t);
    tcp_arg(pcb, NULL);
    tcp_recv(pcb, NULL);
    tcp_sent(pcb, NULL);
    tcp_err(pcb, NULL);
    tcp_poll(pcb, NULL, 0);
    tcp_set_flags(pcb, TF_RXCLOSED); /* lwIP's time-outs of closing apply from now on */
}

/* Both sides have said everything: lwIP may forget the pcb at any time without a word. */
void tcp_stream_settle(struct tcp_stream *t)
{
    if (!t->closing || !t->pcb)
        return;
    if (t->eof && t->acked == t->written && t->pcb->state != ESTABLISHED &&
        t->pcb->state != CLOSE_WAIT)
        detach(t);
    wake(t->closer);
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
    struct tcp_stream *t = arg;
    (void)pcb;
    t->acked += len;
    account(t);
    release_acked(t);
    wake(t->sender);
    tcp_stream_dirty(t);
    tcp_stream_settle(t);
    return ERR_OK;
}

static err_t on_poll(void *arg, struct tcp_pcb *pcb)
{
    struct tcp_stream *t = arg;
    (void)pcb;
    wake(t->sender); /* lwIP's pools may have been empty */
    tcp_stream_dirty(t);
    return ERR_OK;
}

/* The pcb is gone, and with it every reference to what we lent (but for frames in the ring). */
static void on_err(void *arg, err_t err)
{
    struct tcp_stream *t = arg;
    t->pcb = NULL;
    account(t);
    if (!t->error)
        t->error = err == ERR_CLSD ? SR_EOF : SR_EIO;
    retire_chunk(t);
    t->acked = t->written;
    release_acked(t);
    wake_all(t);
}

/* ---- End of turn ---- */

/* P3. */
static void unstick(struct tcp_stream *t)
{
    struct tcp_pcb *pcb = t->pcb;
    const struct tcp_seg *first = pcb->unsent;
    if (likely(!first || pcb->unacked || first->len <= pcb->snd_wnd || pcb->snd_wnd < t->wire))
        return;
    u32_t fits = MIN(pcb->snd_wnd, 0xffffu);
    tcp_split_unsent_seg(pcb, (u16_t)(fits - fits % t->wire));
}

static void flush(struct tcp_stream *t)
{
    struct tcp_pcb *pcb = t->pcb;
    if (!pcb)
        return;
    if (unlikely(t->aborting)) {
        tcp_abort(pcb); /* calls on_err */
        return;
    }
    tcp_rx_announce(t);
    unstick(t);
    tcp_output(pcb);
}

void tcp_streams_flush(void)
{
    while (!list_empty(&dirty)) {
        struct tcp_stream *t = list_entry(dirty.next, struct tcp_stream, dirty);
        list_remove(&t->dirty);
        flush(t);
    }
}

/* ---- Sending ---- */

static void co_take_turn(struct tcp_stream *t)
{
    t->senders++;
    co_mutex_lock(&t->send_turn);
}

static void give_turn(struct tcp_stream *t)
{
    co_mutex_unlock(&t->send_turn);
    t->senders--;
    wake(t->closer);
}

static int send_state(const struct tcp_stream *t)
{
    return t->error ? t->error : !t->pcb || t->closing ? SR_ECANCELED : 0;
}

/* Puts up to n bytes on lwIP's queue, waiting for room for some; *done says how many. */
static int co_queue_some(struct tcp_stream *t, const void *p, size_t n, bool more, size_t *done)
{
    for (;;) {
        int rc = send_state(t);
        if (unlikely(rc))
            return rc;
        size_t m = MIN(MIN(n, (size_t)t->pcb->snd_buf), (size_t)UINT16_MAX);
        u8_t flags = more || m < n ? TCP_WRITE_FLAG_MORE : 0;
        if (likely(m && may_queue(t) && tcp_write(t->pcb, p, (u16_t)m, flags) == ERR_OK)) {
            account(t);
            t->written += m;
            *done = m;
            tcp_stream_dirty(t);
            return 0;
        }
        tcp_stream_dirty(t);
        t->sender = co_self();
        co_yield ();
        t->sender = NULL;
    }
}

static int co_queue_all(struct tcp_stream *t, const void *p, size_t n, bool more)
{
    for (size_t m; n; n -= m, p = (const char *)p + m) {
        int rc = co_queue_some(t, p, n, more, &m);
        if (rc)
            return rc;
    }
    return 0;
}

static int co_copy_out(struct tcp_stream *t, const char *p, size_t n, bool more)
{
    while (n) {
        int rc = send_state(t);
        if (unlikely(rc))
            return rc;
        if (!t->chunk) {
            struct net_chunk *c = co_pool_get(&net_chunk_pool, &t->tx_chunks);
            *c = (struct net_chunk){.tx = {.release = chunk_released}, .owner = t};
            t->chunk = c;
            continue;
        }
        struct net_chunk *c = t->chunk;
        size_t m = MIN(n, (size_t)(NET_CHUNK - c->used));
        memcpy(c->data + c->used, p, m);
        c->used = (u16_t)(c->used + m);
        rc = co_queue_all(t, c->data + c->used - m, m, more || m < n);
        if (rc)
            return rc;
        if (c->used == NET_CHUNK)
            retire_chunk(t);
        p += m;
        n -= m;
    }
    return 0;
}

static int tcp_co_write(struct stream *s, const void *p, size_t n)
{
    struct tcp_stream *t = of(s);
    co_take_turn(t);
    int rc = co_copy_out(t, p, n, false);
    give_turn(t);
    return rc;
}

static int co_send_pieces(struct tcp_stream *t, struct iov v, bool copy)
{
    void *p;
    size_t n;
    while (iov_next(&v, &p, &n)) {
        int rc = copy ? co_copy_out(t, p, n, v.len) : co_queue_all(t, p, n, v.len);
        if (rc)
            return rc;
    }
    return 0;
}

static int tcp_co_send(struct stream *s, struct iov v, struct stream_hold *hold)
{
    struct tcp_stream *t = of(s);
    bool copy = v.len <= COPY_MAX;
    co_take_turn(t);
    int rc = co_send_pieces(t, v, copy);
    if (copy) {
        hold->release(hold);
    } else if (t->pcb) {
        hold->end = t->written;
        queue_push(&t->holds, &hold->link);
        release_acked(t); /* nothing was queued, and nobody else will look */
    } else {
        net_tx_release(hold, t->tx_seq);
    }
    give_turn(t);
    return rc;
}

/* ---- The end ---- */

static void tcp_stream_abort(struct stream *s)
{
    struct tcp_stream *t = of(s);
    if (!t->error)
        t->error = SR_ECANCELED;
    t->aborting = true;
    tcp_stream_dirty(t);
    wake_all(t);
}

/* Sleeps until woken or the deadline; false: it has passed. */
static bool co_closer_wait(struct tcp_stream *t, uint64_t deadline_ns)
{
    if (loop_now() >= deadline_ns)
        return false;
    timer_set(&t->rx_timer, deadline_ns);
    co_yield ();
    timer_cancel(&t->rx_timer);
    return true;
}

static void close_timer(struct timer *timer)
{
    wake(container_of(timer, struct tcp_stream, rx_timer)->closer);
}

/* FIN behind what is queued. What the peer still sends is thrown away. */
static void co_shut(struct tcp_stream *t)
{
    uint64_t start = loop_now();
    tcp_rx_discard(t);
    if (t->pcb && !t->error)
        tcp_shutdown(t->pcb, 0, 1);
    while (t->pcb && !t->error && t->acked < t->written)
        if (!co_closer_wait(t, start + CLOSE_NS))
            tcp_stream_abort(&t->s);
    while (t->pcb && !t->error && !t->eof && co_closer_wait(t, start + LINGER_NS))
        ;
    if (t->pcb && !t->error) {
        struct tcp_pcb *pcb = t->pcb;
        detach(t);
        tcp_close(pcb);
    }
}

static void last_released(struct stream_hold *h)
{
    struct tcp_stream *t = container_of(h, struct tcp_stream, last);
    t->last_released = true;
    wake(t->closer);
}

/* A hold that the peer has acknowledged, or that an abort has freed, may still wait for the card; and
 * its owner takes a closed stream for one that has let go of everything. */
static void co_let_go(struct tcp_stream *t)
{
    while (t->pcb || t->loaned || t->holds.first || t->senders)
        co_yield ();
    t->last.release = last_released;
    net_tx_release_last(&t->last);
    while (!t->last_released || t->tx_chunks.held)
        co_yield ();
}

static void tcp_co_close(struct stream *s)
{
    struct tcp_stream *t = of(s);
    t->closer = co_self();
    timer_cancel(&t->rx_timer);
    timer_init(&t->rx_timer, close_timer);
    t->closing = true;
    wake(t->sender); /* who waits for room is sent away */
    retire_chunk(t);
    co_shut(t);
    if (t->pcb)
        tcp_stream_abort(s);
    release_acked(t);
    co_let_go(t);
    list_remove(&t->dirty);
    list_remove(&t->link);
    credit_close(&t->rx_chunks);
    credit_close(&t->tx_chunks);
    net_stream_count--;
    tcp_rx_close(t);
    pool_put(&stream_pool, NULL, t);
    net_timers_changed();
}

/* ---- The beginning ---- */

static const struct stream_ops tcp_stream_ops = {
    .name = "tcp",
    .co_wait = tcp_rx_co_wait,
    .available = tcp_rx_available,
    .borrow = tcp_rx_borrow,
    .release = tcp_rx_release,
    .copy = tcp_rx_copy,
    .co_send = tcp_co_send,
    .co_write = tcp_co_write,
    .abort = tcp_stream_abort,
    .co_close = tcp_co_close,
};

/* Step 1 of the recipe: the largest multiple of the wire's MSS that a frame can carry (P7, P11).
 * lwIP makes no segment longer than half of the largest window it has seen, but for a peer whose first
 * window is 0, where the limit would appear later, and assert: so it has seen something. */
static void raise_mss(struct tcp_pcb *pcb, u16_t wire)
{
    unsigned ip_len = IP_IS_V6_VAL(pcb->remote_ip) ? 40 : 20;
    pcb->mss = (u16_t)(wire * ((65535u - 14 - ip_len - 20) / wire));
    pcb->snd_wnd_max = MAX(pcb->snd_wnd_max, 2u * wire);
    tcp_ext_arg_set(pcb, net_ext_wire, (void *)(uintptr_t)wire);
}

static void set_up_pcb(struct tcp_pcb *pcb, struct tcp_stream *t)
{
    tcp_nagle_disable(pcb);
    ip_set_option(pcb, SOF_KEEPALIVE);
    pcb->keep_idle = KEEP_IDLE_MS;
    pcb->keep_intvl = KEEP_INTVL_MS;
    pcb->keep_cnt = KEEP_COUNT;
    tcp_arg(pcb, t);
    tcp_recv(pcb, tcp_rx_recv);
    tcp_sent(pcb, on_sent);
    tcp_err(pcb, on_err);
    tcp_poll(pcb, on_poll, POLL_TICKS);
}

static bool open_credits(struct tcp_stream *t)
{
    if (credit_open(&t->rx_chunks, &net_chunk_pool, NET_CHUNKS_RECV))
        return false;
    if (!credit_open(&t->tx_chunks, &net_chunk_pool, NET_CHUNKS_SEND))
        return true;
    credit_close(&t->rx_chunks);
    return false;
}

struct tcp_stream *tcp_stream_new(struct tcp_pcb *pcb)
{
    u16_t wire = pcb->mss;
    struct tcp_stream *t = wire < WIRE_MIN ? NULL : pool_try_get(&stream_pool, NULL);
    if (!t)
        return NULL;
    *t = (struct tcp_stream){.s = {.ops = &tcp_stream_ops}, .pcb = pcb, .wire = wire};
    if (!open_credits(t)) {
        pool_put(&stream_pool, NULL, t);
        return NULL;
    }
    list_init(&t->dirty);
    list_append(&net_streams, &t->link);
    net_stream_count++;
    queue_init(&t->holds);
    co_mutex_init(&t->send_turn);
    raise_mss(pcb, wire);
    set_up_pcb(pcb, t);
    tcp_rx_open(t);
    snprintf(t->s.peer, sizeof(t->s.peer), IP_IS_V6_VAL(pcb->remote_ip) ? "[%s]:%u" : "%s:%u",
             ipaddr_ntoa(&pcb->remote_ip), pcb->remote_port);
    return t;
}

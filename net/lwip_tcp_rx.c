/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP streams, receiving.
 *
 * Arrived pbufs hang by `next`; the stream's position is rx_off bytes into the first. A loan takes
 * a run of them off the queue; where it ends within a pbuf, that one is shared (a reference more) and
 * stays the queue's first:
 *
 *        loan A            loan B        queue
 *     | p0 |  p1 |         p2        | p3 | p4 |       p1, p2 have two references
 *                 ^ A ends   ^ B ends = rx_off
 *
 * Loans come back in any order. A walk over a loan goes from its first pbuf to its last by `next`; so
 * `next` of a pbuf is cut only when its last reference goes.
 *
 * Memory. Three rules bound it.
 *
 * 1. The window. A connection's promise is what its peer may send, what is here unread, and what is
 *    lent: rcv_wnd + available + loaned. It grows and shrinks when bytes are consumed (a loan comes
 *    back) or waited for, towards half of what the others leave of the memory for receiving; never
 *    below PROMISE_MIN, never above TCP_WND. A wait for more than the promise is content with that.
 * 2. Copies. Payload stays in the card's buffers while the connection holds fewer of them than are
 *    free (as with pools: a lone one may take half, the next half of the rest), ring_reserve always
 *    excepted. Beyond that what arrives is copied into chunks, which it fills, and the buffer goes
 *    back at once. So the card can always receive another large frame, and other connections always
 *    get through, however slow a disk holds on to its loans, even if each packet carries one byte.
 * 3. The gate. When there are no chunks either, the segment is dropped before it is acknowledged
 *    (and the peer sends it again). Each connection owns NET_CHUNKS_RECV chunks, so STREAM_WAIT_SURE
 *    bytes always find room; and once it copies, or half of the ring is out, or a segment was dropped,
 *    readers that wait for more than that go on with what they have. So a crowd of half-received large writes
 *    cannot block itself, nor one that is larger than the ring.
 */
#include "net/lwip_net.h"

#include <string.h>

#include "lwip/priv/tcp_priv.h"

#define PROMISE_MIN 16384u
#define ANNOUNCE \
    MIN(2u * t->wire, 4096u) /* an update of the window for less is not worth a packet */
#define RX_BUF_LEN 1400u     /* what a receive buffer holds, for rule 1 */
static_assert(PROMISE_MIN >= STREAM_WAIT_SURE + 2 * 4096,
              "a sure wait fits, whatever the position");

struct pool net_chunk_pool = POOL("net-chunk", POOL_RANK_CONNECTION, sizeof(struct net_chunk),
                                  .min = 64, .max = 1024, .weight = 2);
REGISTER(pool, net_chunk_pool);

static size_t memory, promised;

static inline struct tcp_stream *of(struct stream *s)
{
    return container_of(s, struct tcp_stream, s);
}

/* ---- Has the reader what it waits for? ---- */

/* Also asked when nothing arrives any more: half a ring may be less than a large frame. */
static bool half_a_ring_out(void)
{
    for (unsigned i = 0; i < net_port_count; i++)
        if (netport_rx_free(net_ports[i]) < net_ports[i]->rx_total / 2)
            return true;
    return false;
}

static bool enough(const struct tcp_stream *t)
{
    if (t->available >= t->need)
        return true;
    if (t->available < STREAM_WAIT_SURE)
        return false;
    return t->squeezed || half_a_ring_out() || t->available + ANNOUNCE >= t->promise;
}

void tcp_rx_wake(struct tcp_stream *t)
{
    if (t->reader && (t->eof || t->error || enough(t)))
        co_wake(t->reader);
}

/* ---- The window ---- */

/* Half of everything is left to what comes in unluckily small pieces. */
static size_t rx_memory(void)
{
    size_t bytes = net_chunk_pool.total / 2 * (size_t)NET_CHUNK;
    for (unsigned i = 0; i < net_port_count; i++)
        bytes += net_ports[i]->rx_total / 2 * (size_t)RX_BUF_LEN;
    return bytes;
}

static size_t fair_promise(const struct tcp_stream *t)
{
    size_t others = promised - t->promise;
    return MAX(memory > others ? (memory - others) / 2 : 0, (size_t)PROMISE_MIN);
}

static void set_promise(struct tcp_stream *t, size_t n)
{
    promised += n - t->promise;
    t->promise = n;
}

static void open_window(struct tcp_stream *t)
{
    struct tcp_pcb *pcb = t->pcb;
    if (!pcb)
        return;
    size_t fair = MIN(fair_promise(t), (size_t)TCP_WND_MAX(pcb));
    if (t->promise >= fair)
        return;
    pcb->rcv_wnd += (tcpwnd_size_t)(fair - t->promise);
    set_promise(t, fair);
    tcp_stream_dirty(t);
}

/* n bytes are with nobody any more. */
static void consumed(struct tcp_stream *t, size_t n)
{
    set_promise(t, t->promise - n);
    open_window(t);
    tcp_rx_wake(t); /* the promise may be less than it waits for now */
}

static void timer_fired(struct timer *timer)
{
    struct tcp_stream *t = container_of(timer, struct tcp_stream, rx_timer);
    if (t->reader)
        co_wake(t->reader);
}

/* In the accept callback. What the handshake announced must stay. */
void tcp_rx_open(struct tcp_stream *t)
{
    struct tcp_pcb *pcb = t->pcb;
    memory = rx_memory();
    pcb->rcv_wnd = MIN(pcb->rcv_wnd, 65535u);
    pcb->rcv_ann_wnd = pcb->rcv_wnd;
    pcb->rcv_ann_right_edge = pcb->rcv_nxt + pcb->rcv_wnd;
    set_promise(t, pcb->rcv_wnd);
    t->s.max_wait = MIN(TCP_WND_MAX(pcb) - 2 * (size_t)ANNOUNCE, (size_t)(320u << 10));
    timer_init(&t->rx_timer, timer_fired);
}

void tcp_rx_close(struct tcp_stream *t)
{
    set_promise(t, 0);
}

/* So that the SYN-ACK does not promise more than there may be. */
static err_t on_passive_open(u8_t id, struct tcp_pcb_listen *listener, struct tcp_pcb *pcb)
{
    (void)id, (void)listener;
    pcb->rcv_wnd = pcb->rcv_ann_wnd = PROMISE_MIN;
    return ERR_OK;
}

void tcp_rx_listen(struct tcp_pcb *listener)
{
    static const struct tcp_ext_arg_callbacks callbacks = {.passive_open = on_passive_open};
    tcp_ext_arg_set_callbacks(listener, net_ext_wire, &callbacks);
}

/* Before output. lwIP would announce in steps of a super-segment only; a reader that waits for
 * most of the window would wait for ever. */
void tcp_rx_announce(struct tcp_stream *t)
{
    struct tcp_pcb *pcb = t->pcb;
    s32_t more = (s32_t)(pcb->rcv_nxt + pcb->rcv_wnd - pcb->rcv_ann_right_edge);
    if (more > 0)
        pcb->rcv_ann_wnd = pcb->rcv_wnd;
    if (t->ack_due || more >= (s32_t)ANNOUNCE)
        tcp_ack_now(pcb);
    t->ack_due = false;
}

/* ---- Arrival ---- */

static void chunk_free(struct pbuf *p)
{
    struct net_chunk *c = container_of((struct pbuf_custom *)p, struct net_chunk, rx);
    pool_put(&net_chunk_pool, &c->owner->rx_chunks, c);
}

static bool is_chunk(const struct pbuf *p)
{
    return (p->flags & PBUF_FLAG_IS_CUSTOM) &&
           ((const struct pbuf_custom *)p)->custom_free_function == chunk_free;
}

static size_t chunk_room(const struct tcp_stream *t)
{
    const struct pbuf *p = t->rx_head ? t->rx_tail : NULL;
    return p && is_chunk(p) ? NET_CHUNK - ((const struct net_chunk *)p)->used : 0;
}

static void append(struct tcp_stream *t, struct pbuf *p)
{
    if (t->rx_head)
        t->rx_tail->next = p;
    else
        t->rx_head = p;
    t->rx_tail = p;
    p->next = NULL;
}

static bool add_chunk(struct tcp_stream *t)
{
    struct net_chunk *c = pool_try_get(&net_chunk_pool, &t->rx_chunks);
    if (!c)
        return false;
    c->owner = t;
    c->used = 0;
    c->rx.custom_free_function = chunk_free;
    append(t, pbuf_alloced_custom(PBUF_RAW, 0, PBUF_REF, &c->rx, c->data, NET_CHUNK));
    return true;
}

/* A ring that does not hold three large frames keeps an eighth. */
static inline unsigned ring_reserve(const struct netport *port)
{
    return port->rx_total < 3 * RX_LARGE_FRAME ? port->rx_total / 8 : RX_LARGE_FRAME;
}

static inline bool ring_low(const struct tcp_stream *t, const struct netport *port)
{
    return t->ring_held + ring_reserve(port) >= netport_rx_free(port);
}

/* The card needs the buffer back: copies its bytes, as far as there are chunks. True: all of them.
 * Chunks fill; a loan of the last one does not mind. */
static bool copied(struct tcp_stream *t, struct pbuf *p)
{
    const struct netport *port = netport_of(p);
    if (!port)
        return false;
    if (likely(!ring_low(t, port))) {
        netport_charge(p, &t->ring_held);
        return false;
    }
    t->squeezed = true;
    while (p->len) {
        size_t m = MIN((size_t)p->len, chunk_room(t));
        if (!m) {
            if (!add_chunk(t)) {
                netport_charge(p, &t->ring_held);
                return false;
            }
            continue;
        }
        struct net_chunk *c = (struct net_chunk *)t->rx_tail;
        memcpy(c->data + c->used, p->payload, m);
        c->used = (u16_t)(c->used + m);
        t->rx_tail->len = c->used;
        p->payload = (char *)p->payload + m;
        p->len = (u16_t)(p->len - m);
    }
    return true;
}

static void take(struct tcp_stream *t, struct pbuf *p)
{
    for (struct pbuf *next; p; p = next) {
        next = p->next;
        p->next = NULL;
        t->available += p->len;
        if (!p->len || copied(t, p))
            pbuf_free(p);
        else
            append(t, p);
    }
}

static void drop(struct tcp_stream *t, struct pbuf *p)
{
    size_t n = 0;
    for (const struct pbuf *q = p; q; q = q->next)
        n += q->len;
    pbuf_free(p);
    consumed(t, n);
}

/* Rule 3: whoever waits for more than is sure goes on with that. */
static void relax_readers(void)
{
    list_for_each (t, &net_streams, struct tcp_stream, link)
        if (t->reader && t->need > STREAM_WAIT_SURE) {
            t->need = STREAM_WAIT_SURE;
            tcp_rx_wake(t);
        }
}

err_t tcp_rx_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
    struct tcp_stream *t = arg;
    (void)err;
    if (!p) {
        t->eof = true;
        tcp_rx_wake(t);
        tcp_stream_settle(t);
        return ERR_OK;
    }
    /* The acknowledgement leaves at the end of the turn, on a reply if there is one (P5 too). */
    if ((pcb->flags & TF_ACK_NOW) || p->tot_len > t->wire)
        t->ack_due = true;
    tcp_clear_flags(pcb, TF_ACK_NOW);
    tcp_stream_dirty(t);
    if (unlikely(t->closing || t->error)) {
        drop(t, p);
        return ERR_OK;
    }
    const struct netport *port = netport_of(p);
    take(t, p);
    tcp_rx_wake(t);
    if (unlikely(port && netport_rx_free(port) < port->rx_total / 2))
        relax_readers();
    return ERR_OK;
}

bool tcp_rx_admit(struct tcp_stream *t, const struct netport *port, size_t len)
{
    if (likely(!ring_low(t, port)))
        return true;
    const struct pool *p = &net_chunk_pool;
    const struct credit *c = &t->rx_chunks;
    size_t spare = p->free - p->reserved, base = MAX(c->held, c->guaranteed);
    size_t chunks = base - c->held + (spare > base ? (spare - base) / 2 : 0);
    if (likely(len <= chunk_room(t) + chunks * NET_CHUNK))
        return true;
    relax_readers();
    return false;
}

/* ---- Reading ---- */

static int wait_result(const struct tcp_stream *t, uint64_t deadline_ns)
{
    if (enough(t))
        return 0;
    if (t->error || t->eof)
        return t->error ? t->error : SR_EOF;
    return loop_now() >= deadline_ns ? SR_ETIMEDOUT : SR_EAGAIN;
}

int tcp_rx_co_wait(struct stream *s, size_t n, uint64_t deadline_ns)
{
    struct tcp_stream *t = of(s);
    int rc;
    ASSERT(n <= s->max_wait && !t->reader);
    t->need = n;
    if ((rc = wait_result(t, deadline_ns)) != SR_EAGAIN)
        return rc;
    if (deadline_ns != STREAM_FOREVER)
        timer_set(&t->rx_timer, deadline_ns);
    t->reader = co_self();
    open_window(t);
    do
        co_yield ();
    while ((rc = wait_result(t, deadline_ns)) == SR_EAGAIN);
    t->reader = NULL;
    timer_cancel(&t->rx_timer);
    return rc;
}

size_t tcp_rx_available(struct stream *s)
{
    return of(s)->available;
}

/* One reference less; the last one leaves the row. */
static void put(struct pbuf *p)
{
    if (p->ref == 1)
        p->next = NULL;
    pbuf_free(p);
}

/* m bytes of the first pbuf are consumed; true: all of them are, and it is off the queue. */
static bool advance(struct tcp_stream *t, size_t m)
{
    struct pbuf *p = t->rx_head;
    t->rx_off += m;
    t->available -= m;
    if (t->rx_off < p->len)
        return false;
    t->rx_head = p->next;
    t->rx_off = 0;
    t->squeezed &= t->rx_head != NULL;
    return true;
}

void tcp_rx_borrow(struct stream *s, size_t n, struct stream_loan *loan)
{
    struct tcp_stream *t = of(s);
    n = MIN(n, t->available);
    *loan = (struct stream_loan){.stream = s, .opaque = {t->rx_head, NULL}};
    while (n && loan->nseg < STREAM_LOAN_SEGS) {
        struct pbuf *p = t->rx_head;
        size_t m = MIN(n, p->len - t->rx_off);
        loan->seg[loan->nseg++] = (struct seg){.base = (char *)p->payload + t->rx_off, .len = m};
        loan->len += m;
        loan->opaque[1] = p;
        n -= m;
        if (!advance(t, m))
            pbuf_ref(p);
    }
    t->loaned += loan->len;
}

void tcp_rx_release(struct stream_loan *loan)
{
    struct tcp_stream *t = of(loan->stream);
    struct pbuf *p = loan->opaque[0], *last = loan->opaque[1];
    if (!last)
        return;
    for (struct pbuf *next; p != last; p = next) {
        next = p->next;
        put(p);
    }
    put(last);
    t->loaned -= loan->len;
    consumed(t, loan->len);
    if (unlikely(t->closer))
        co_wake(t->closer);
}

void tcp_rx_copy(struct stream *s, void *dst, size_t n, bool consume)
{
    struct tcp_stream *t = of(s);
    ASSERT(n <= t->available);
    size_t off = t->rx_off, left = n;
    char *to = dst;
    for (struct pbuf *p = t->rx_head, *next; left; p = next, off = 0) {
        size_t m = MIN(left, p->len - off);
        memcpy(to, (char *)p->payload + off, m);
        to += m;
        left -= m;
        next = p->next;
        if (consume && advance(t, m))
            put(p);
    }
    if (consume)
        consumed(t, n);
}

void tcp_rx_discard(struct tcp_stream *t)
{
    size_t n = t->available;
    while (t->available) {
        struct pbuf *p = t->rx_head;
        advance(t, p->len - t->rx_off);
        put(p);
    }
    consumed(t, n);
}

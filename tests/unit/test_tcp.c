/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP streams against TCP streams: one lwIP, two cards, a wire between them that may lose frames.
 * The server's card takes what the case says of TSO and checksums; contents are verified to the byte.
 *
 * The order of interfaces matters: lwIP routes to a subnet by its newest interface, and clients bind to
 * theirs, so the client's card comes first.
 */
#include "tests/unit/support.h"

#include <string.h>

#include "kernel/kernel.h"
#include "net/lwip_net.h"
#include "tests/unit/support_wire.h"

#include "lwip/priv/tcp_priv.h"

#define ALL (NIC_CSUM | NIC_GUEST_CSUM | NIC_TSO4 | NIC_TSO6 | NIC_GUEST_TSO)

static struct wire_card client_card, server_card;
static struct net_listener *listener;
static struct stream *accepted;
static struct co *accept_waiter;

static void on_accepted(void *ctx, struct stream *s)
{
    (void)ctx;
    accepted = s;
    if (accept_waiter)
        co_wake(accept_waiter);
}

/* ---- A client ---- */

static struct tcp_stream *connected;

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
    (void)arg, (void)err;
    connected = tcp_stream_new(pcb);
    assert_non_null(connected);
    pcb->cwnd = MAX(pcb->cwnd, 2u * pcb->mss); /* P2: the callback comes after it was computed */
    return ERR_OK;
}

static struct stream *co_dial(bool v6)
{
    static u16_t port = 20000;
    ip_addr_t ip;
    ipaddr_aton(v6 ? "fd00::1" : "10.0.0.1", &ip);
    struct tcp_pcb *pcb = tcp_new_ip_type(v6 ? IPADDR_TYPE_V6 : IPADDR_TYPE_V4);
    tcp_bind_netif(pcb, &net_ports[0]->netif);
    ip_addr_t own;
    ipaddr_aton(v6 ? "fd00::2" : "10.0.0.2", &own);
    assert_int_equal(tcp_bind(pcb, &own, ++port), ERR_OK);
    connected = NULL;
    accepted = NULL;
    accept_waiter = co_self();
    assert_int_equal(tcp_connect(pcb, &ip, 10809, on_connected), ERR_OK);
    net_timers_changed();
    while (!connected || !accepted)
        co_sleep_ns(1000000);
    accept_waiter = NULL;
    return &connected->s;
}

static void start_net(unsigned features)
{
    static bool up;
    struct error err = {0};
    if (!up) {
        wire_card_init(&client_card, 0, ALL, 512);
        wire_card_init(&server_card, 1, ALL, 512);
        wire_join(&client_card, &server_card);
        assert_int_equal(net_attach(&client_card.nic,
                                    &(struct net_config){.ip = "10.0.0.2/24", .ip6 = "fd00::2/64"},
                                    &err),
                         0);
        assert_int_equal(net_attach(&server_card.nic,
                                    &(struct net_config){.ip = "10.0.0.1/24", .ip6 = "fd00::1/64"},
                                    &err),
                         0);
        struct listen_address a = {.type = ADDR_INET, .host = "", .port = "10809"};
        listener = net_listen(&a, 16, on_accepted, NULL, &err);
        assert_non_null(listener);
        up = true;
    }
    server_card.nic.features = features;
    server_card.loss = client_card.loss = 0;
    server_card.ring_limit = client_card.ring_limit = WIRE_RING;
    server_card.longest = server_card.full = server_card.lost = 0;
}

/* ---- Sources and sinks ---- */

static uint8_t byte_at(uint64_t pos)
{
    return (uint8_t)((pos * 2654435761u) >> 13);
}

/* Lent memory is scribbled over as soon as it comes back: what leaves afterwards would show. */
struct piece {
    struct stream_hold hold;
    struct source *owner;
    size_t len;
    bool out;
    uint8_t *data;
};
struct source {
    struct stream *s;
    uint64_t total, pos;
    size_t max;
    struct piece piece[16];
    unsigned lent, released;
    struct co *co;
    struct co_start start;
    bool done;
    int error;
};

static void piece_back(struct stream_hold *h)
{
    struct piece *p = container_of(h, struct piece, hold);
    assert_true(p->out);
    p->out = false;
    memset(p->data, 0x55, p->len);
    p->owner->released++;
    if (p->owner->co)
        co_wake(p->owner->co);
}

static struct piece *co_free_piece(struct source *src)
{
    for (;;) {
        for (unsigned i = 0; i < ARRAY_LEN(src->piece); i++)
            if (!src->piece[i].out)
                return &src->piece[i];
        co_yield ();
    }
}

static void co_source(void *arg)
{
    struct source *src = arg;
    src->co = co_self();
    while (src->pos < src->total && !src->error) {
        size_t any = 1 + wire_random() % src->max, n = MIN(any, src->total - src->pos);
        if (wire_random() % 4 == 0) {
            uint8_t small[16];
            n = MIN(n, sizeof(small));
            for (size_t i = 0; i < n; i++)
                small[i] = byte_at(src->pos + i);
            src->error = co_stream_write(src->s, small, n);
        } else {
            struct piece *p = co_free_piece(src);
            p->data = p->data ? p->data : test_malloc(src->max);
            *p = (struct piece){.hold = {.release = piece_back},
                                .owner = src,
                                .len = n,
                                .out = true,
                                .data = p->data};
            for (size_t i = 0; i < n; i++)
                p->data[i] = byte_at(src->pos + i);
            struct seg seg[2] = {{p->data, n / 2 + 1}, {p->data + n / 2 + 1, n - n / 2 - 1}};
            src->lent++;
            struct iov v = {.seg = seg, .skip = 0, .len = n};
            src->error = co_stream_send(src->s, v, &p->hold);
        }
        src->pos += n;
    }
    while (src->released < src->lent)
        co_yield ();
    src->co = NULL;
    src->done = true;
}

static void source_start(struct source *src, struct stream *s, uint64_t total, size_t max)
{
    *src = (struct source){.s = s, .total = total, .max = max};
    co_start(&src->start, co_source, src);
}

static void source_free(struct source *src)
{
    for (unsigned i = 0; i < ARRAY_LEN(src->piece); i++)
        if (src->piece[i].data)
            test_free(src->piece[i].data);
}

static void check_loan(const struct stream_loan *l, uint64_t pos)
{
    size_t sum = 0;
    for (unsigned i = 0; i < l->nseg; i++) {
        const uint8_t *b = l->seg[i].base;
        for (size_t k = 0; k < l->seg[i].len; k++)
            if (b[k] != byte_at(pos + sum + k))
                fail_msg("byte %llu differs", (unsigned long long)(pos + sum + k));
        sum += l->seg[i].len;
    }
    assert_int_equal(sum, l->len);
}

/* Reads `total` bytes in pieces of up to `max`, each as two loans that come back in either order. */
static void co_sink(struct stream *s, uint64_t total, size_t max)
{
    static struct stream_loan loan[2];
    for (uint64_t pos = 0; pos < total;) {
        size_t any = 1 + wire_random() % max, want = (size_t)MIN(any, total - pos);
        assert_int_equal(co_stream_wait(s, want, loop_now() + 30000000000ull), 0);
        want = MIN(want, s->ops->available(s));
        stream_borrow(s, want / 2 + 1, &loan[0]);
        stream_borrow(s, want - loan[0].len, &loan[1]);
        if (wire_random() % 3 == 0)
            co_reschedule();
        check_loan(&loan[0], pos);
        check_loan(&loan[1], pos + loan[0].len);
        pos += loan[0].len + loan[1].len;
        unsigned first = wire_random() % 2;
        stream_release(&loan[first]);
        stream_release(&loan[!first]);
    }
}

static void co_hang_up(struct stream *a, struct stream *b)
{
    uint8_t byte;
    co_stream_close(a);
    assert_int_equal(co_stream_read(b, &byte, 1, loop_now() + 5000000000ull), SR_EOF);
    co_stream_close(b);
    assert_int_equal(net_stream_count, 0);
}

/* ---- Cases ---- */

struct transfer {
    unsigned features, loss, ring;
    bool v6;
    uint64_t total;
    size_t max;
};

static void co_transfer(void *arg)
{
    const struct transfer *x = arg;
    static struct source up, down;
    start_net(x->features);
    struct stream *c = co_dial(x->v6), *s = accepted;
    server_card.loss = client_card.loss = x->loss;
    if (x->ring)
        server_card.ring_limit = x->ring;
    source_start(&down, s, x->total, x->max);
    co_sink(c, x->total, x->max);
    while (!down.done)
        co_sleep_ns(1000000);
    source_start(&up, c, x->total / 2, x->max);
    co_sink(s, x->total / 2, x->max);
    while (!up.done)
        co_sleep_ns(1000000);
    assert_int_equal(down.error | up.error, 0);
    source_free(&up);
    source_free(&down);
    server_card.loss = client_card.loss = 0;
    co_hang_up(c, s);
    assert_int_equal(server_card.bad_sums + client_card.bad_sums, 0);
}

static void run(struct transfer x)
{
    test_co_run(co_transfer, &x);
}

static void test_plain(void **state)
{
    (void)state;
    run((struct transfer){.features = ALL, .total = 8 << 20, .max = 200000});
    assert_true(server_card.longest > 60000); /* super-segments did leave */
}

static void test_no_tso(void **state)
{
    (void)state;
    run((struct transfer){.features = NIC_CSUM, .total = 4 << 20, .max = 100000});
    assert_true(server_card.longest <= 1514);
}

static void test_no_offloads(void **state)
{
    (void)state;
    run((struct transfer){.features = 0, .total = 4 << 20, .max = 100000});
    assert_true(server_card.longest <= 1514);
}

static void test_full_ring(void **state)
{
    (void)state;
    run((struct transfer){.features = 0, .total = 2 << 20, .max = 100000, .ring = 3});
    assert_true(server_card.full > 100);
    run((struct transfer){.features = ALL, .total = 2 << 20, .max = 100000, .ring = 1});
}

/* Many small pieces: more of them in a segment than the card takes. */
static void test_many_pieces(void **state)
{
    (void)state;
    run((struct transfer){.features = ALL, .total = 2 << 20, .max = 2400});
    run((struct transfer){.features = NIC_CSUM, .total = 1 << 20, .max = 2400});
}

static void test_v6(void **state)
{
    (void)state;
    run((struct transfer){.features = ALL, .v6 = true, .total = 4 << 20, .max = 200000});
    run((struct transfer){.features = 0, .v6 = true, .total = 1 << 20, .max = 100000});
}

static void test_loss(void **state)
{
    (void)state;
    run((struct transfer){.features = ALL, .loss = 100, .total = 2 << 20, .max = 60000});
    assert_true(server_card.lost + client_card.lost > 0);
    run((struct transfer){.features = NIC_CSUM, .loss = 100, .total = 1 << 20, .max = 60000});
}

static void co_big_waits(void *arg)
{
    (void)arg;
    static struct source src;
    static struct stream_loan loan;
    start_net(ALL);
    struct stream *c = co_dial(false), *s = accepted;
    assert_true(s->max_wait >= 256u << 10);
    source_start(&src, c, 3 * (256 << 10) + 28, 200000);
    uint8_t head[28];
    assert_int_equal(co_stream_read(s, head, sizeof(head), STREAM_FOREVER), 0);
    uint64_t pos = sizeof(head);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(co_stream_wait(s, 256 << 10, loop_now() + 10000000000ull), 0);
        stream_borrow(s, 256 << 10, &loan);
        assert_int_equal(loan.len, 256 << 10);
        check_loan(&loan, pos);
        pos += loan.len;
        stream_release(&loan);
    }
    while (!src.done)
        co_sleep_ns(1000000);
    source_free(&src);
    co_hang_up(s, c);
}

static void test_big_waits(void **state)
{
    (void)state;
    test_co_run(co_big_waits, NULL);
}

/* Somebody holds loans for ever: another connection goes on, and the card keeps half of its
 * buffers. */
static void co_slow_disk(void *arg)
{
    (void)arg;
    static struct source a, b;
    static struct stream_loan held[24];
    start_net(ALL);
    struct stream *c1 = co_dial(false), *s1 = accepted;
    struct stream *c2 = co_dial(false), *s2 = accepted;
    source_start(&a, c1, 1 << 20, 100);
    unsigned n = 0;
    uint64_t pos[24], at = 0;
    while (n < 24 && !co_stream_wait(s1, 4096, loop_now() + 300000000)) {
        pos[n] = at;
        stream_borrow(s1, 4096, &held[n]);
        at += held[n++].len;
    }
    assert_true(net_ports[1]->rx_held <= server_card.nic.rx_buffers / 2);
    source_start(&b, c2, 1 << 20, 60000);
    co_sink(s2, 1 << 20, 40000);
    while (n--) {
        check_loan(&held[n], pos[n]);
        stream_release(&held[n]);
    }
    stream_abort(s1);
    while (!a.done || !b.done)
        co_sleep_ns(1000000);
    assert_true(a.error < 0);
    source_free(&a);
    source_free(&b);
    co_stream_close(s1);
    co_stream_close(c1);
    co_hang_up(c2, s2);
    assert_int_equal(net_ports[1]->rx_held, 0);
    assert_int_equal(net_ports[0]->rx_held, 0);
}

static void test_slow_disk(void **state)
{
    (void)state;
    test_co_run(co_slow_disk, NULL);
}

/* Acknowledged memory that a frame in the card's ring still refers to comes back later. */
static struct piece parked;
static struct source parked_owner;
static bool closed;

static void co_release_after_ring(void *arg)
{
    (void)arg;
    start_net(ALL);
    struct stream *c = co_dial(false), *s = accepted;
    struct tcp_stream *t = container_of(s, struct tcp_stream, s);
    parked = (struct piece){.hold = {.release = piece_back},
                            .owner = &parked_owner,
                            .len = 5000,
                            .out = true,
                            .data = test_malloc(5000)};
    struct seg seg;
    server_card.hold = true;
    assert_int_equal(co_stream_send(s, iov_one(&seg, parked.data, 5000), &parked.hold), 0);
    co_sleep_ns(1000000);
    assert_true(server_card.in_ring > 0);
    /* the peer lies: it acknowledges what it cannot have seen */
    t->acked += 5000;
    struct tcp_pcb *pcb = t->pcb;
    assert_non_null(pcb->unacked);
    pcb->sent(t, pcb, 0);
    co_sleep_ns(1000000);
    assert_true(parked.out);
    server_card.hold = false;
    co_sleep_ns(2000000);
    assert_false(parked.out);
    t->acked -= 5000;
    test_free(parked.data);
    assert_int_equal(co_stream_wait(c, 5000, loop_now() + 5000000000ull), 0);
    co_stream_close(s);
    co_stream_close(c);
}

static void test_release_after_ring(void **state)
{
    (void)state;
    test_co_run(co_release_after_ring, NULL);
}

/* A closed stream has let go of everything, also of what the card is slow to read. */
static void co_close_and_look(void *arg)
{
    struct stream *s = arg;
    co_stream_close(s);
    assert_false(parked.out);
    closed = true;
}

static void co_close_waits(void *arg)
{
    (void)arg;
    start_net(ALL);
    struct stream *c = co_dial(false), *s = accepted;
    static struct co_start start;
    struct seg seg;
    parked = (struct piece){.hold = {.release = piece_back},
                            .owner = &parked_owner,
                            .len = 5000,
                            .out = true,
                            .data = test_malloc(5000)};
    closed = false;
    server_card.hold = true;
    assert_int_equal(co_stream_send(s, iov_one(&seg, parked.data, 5000), &parked.hold), 0);
    co_sleep_ns(1000000);
    stream_abort(s);
    co_start(&start, co_close_and_look, s);
    co_sleep_ns(5000000);
    assert_true(parked.out && !closed);
    server_card.hold = false;
    co_sleep_ns(5000000);
    assert_true(closed);
    test_free(parked.data);
    co_stream_close(c);
    assert_int_equal(net_stream_count, 0);
}

static void test_close_waits(void **state)
{
    (void)state;
    test_co_run(co_close_waits, NULL);
}

static void co_ends(void *arg)
{
    (void)arg;
    static struct source src;
    uint8_t byte;
    start_net(ALL);
    /* abort by us: the peer hears a reset, what was lent comes back */
    struct stream *c = co_dial(false), *s = accepted;
    source_start(&src, s, 1 << 20, 100000);
    co_sleep_ns(5000000);
    stream_abort(s);
    while (!src.done)
        co_sleep_ns(1000000);
    assert_int_equal(src.error, SR_ECANCELED);
    assert_int_equal(co_stream_wait(s, 1, STREAM_FOREVER), SR_ECANCELED);
    co_stream_close(s);
    int rc;
    while (!(rc = co_stream_read(c, &byte, 1, loop_now() + 5000000000ull)))
        ;
    assert_int_equal(rc, SR_EIO);
    co_stream_close(c);
    source_free(&src);
    /* a deadline passes, the stream lives */
    c = co_dial(false), s = accepted;
    assert_int_equal(co_stream_wait(s, 1, loop_now() + 20000000), SR_ETIMEDOUT);
    assert_int_equal(co_stream_write(c, "x", 1), 0);
    assert_int_equal(co_stream_read(s, &byte, 1, loop_now() + 5000000000ull), 0);
    /* data before the end is delivered */
    assert_int_equal(co_stream_write(s, "last", 4), 0);
    co_stream_close(s);
    char word[4];
    assert_int_equal(co_stream_read(c, word, 4, loop_now() + 5000000000ull), 0);
    assert_memory_equal(word, "last", 4);
    assert_int_equal(co_stream_wait(c, 1, loop_now() + 5000000000ull), SR_EOF);
    co_stream_close(c);
    assert_int_equal(net_stream_count, 0);
}

/* The FIN is on the last segment that we cut, and only there. */
static void co_cut_end(void *arg)
{
    static uint8_t data[60000], got[60000];
    static struct source owner;
    static struct piece p;
    (void)arg;
    start_net(NIC_CSUM);
    struct stream *c = co_dial(false), *s = accepted;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = byte_at(i);
    p = (struct piece){.hold = {.release = piece_back}, .owner = &owner, .out = true, .data = data};
    struct seg seg;
    assert_int_equal(co_stream_send(s, iov_one(&seg, data, sizeof(data)), &p.hold), 0);
    co_stream_close(s);
    assert_false(p.out);
    assert_int_equal(co_stream_read(c, got, sizeof(got), loop_now() + 5000000000ull), 0);
    assert_memory_equal(got, data, sizeof(got));
    assert_int_equal(co_stream_wait(c, 1, loop_now() + 5000000000ull), SR_EOF);
    co_stream_close(c);
}

static void test_cut_end(void **state)
{
    (void)state;
    test_co_run(co_cut_end, NULL);
}

static void test_ends(void **state)
{
    (void)state;
    test_co_run(co_ends, NULL);
}

static void test_net_sum(void **state)
{
    (void)state;
    uint8_t data[300];
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(wire_random() | (i % 7 ? 0 : 0xff));
    for (unsigned n = 0; n < 260; n++) {
        uint32_t slow = 0;
        for (unsigned i = 0; i < n; i++)
            slow += i & 1 ? (uint32_t)data[3 + i] << 8 : data[3 + i];
        while (slow >> 16)
            slow = (slow & 0xffff) + (slow >> 16);
        assert_int_equal(net_fold(net_sum(data + 3, n)), slow);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net_sum),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_no_tso),
        cmocka_unit_test(test_no_offloads),
        cmocka_unit_test(test_full_ring),
        cmocka_unit_test(test_many_pieces),
        cmocka_unit_test(test_v6),
        cmocka_unit_test(test_loss),
        cmocka_unit_test(test_big_waits),
        cmocka_unit_test(test_slow_disk),
        cmocka_unit_test(test_release_after_ring),
        cmocka_unit_test(test_close_waits),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_cut_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP against a peer that breaks rules. Each case of lwip_hooks.c, the three rules of
 * super-segments, windows of all kinds. That the machine lives is checked by a connection afterwards.
 */
#include "tests/unit/support.h"

#include <string.h>

#include "kernel/kernel.h"
#include "net/lwip_net.h"
#include "tests/unit/support_peer.h"

static const uint8_t syn_options[] = {2, 4, 0x05, 0xb4, 1, 3, 3, 7}; /* MSS 1460, scale 7 */
static struct peer peer;
static struct stream *accepted;

static void on_accepted(void *ctx, struct stream *s)
{
    (void)ctx;
    accepted = s;
}

static void start(void)
{
    static bool up;
    if (!up) {
        struct error err = {0};
        struct listen_address a = {.type = ADDR_INET, .host = "0.0.0.0", .port = "10809"};
        peer_start(&peer, NIC_CSUM | NIC_TSO4 | NIC_GUEST_CSUM | NIC_GUEST_TSO, 128);
        assert_non_null(net_listen(&a, 8, on_accepted, NULL, &err));
        up = true;
    }
    accepted = NULL;
    peer.auto_ack = true;
    peer.on_bytes = NULL;
    peer.window = 65535;
}

static void co_pause(unsigned ms)
{
    co_sleep_ns(ms * 1000000ull);
}

static struct stream *co_meet_with(size_t options)
{
    start();
    peer_syn(&peer, syn_options, options);
    for (unsigned i = 0; i < 1000 && !peer.syn_acks; i++)
        co_pause(1);
    assert_int_equal(peer.syn_acks, 1);
    peer_establish(&peer);
    assert_non_null(accepted);
    return accepted;
}

static struct stream *co_meet(void)
{
    return co_meet_with(sizeof(syn_options));
}

/* Without window scaling. */
static struct stream *co_meet_narrow(void)
{
    return co_meet_with(4);
}

static void co_part(struct stream *s)
{
    stream_abort(s);
    co_stream_close(s);
    assert_int_equal(net_ports[0]->rx_held, 0);
}

/* The machine still serves. */
static void co_alive(void)
{
    char word[5];
    struct stream *s = co_meet();
    peer_data(&peer, "hello", 5);
    assert_int_equal(co_stream_read(s, word, 5, loop_now() + 1000000000), 0);
    assert_memory_equal(word, "hello", 5);
    assert_int_equal(co_stream_write(s, "world", 5), 0);
    co_pause(2);
    assert_int_equal(peer.bytes, 5);
    co_part(s);
}

/* ---- MSS ---- */

static uint8_t block[200000];
static unsigned returned;

static void hold_back(struct stream_hold *h)
{
    (void)h;
    returned++;
}
static struct stream_hold holds[8];

static void co_give(struct stream *s, unsigned i, size_t len)
{
    struct seg seg;
    holds[i] = (struct stream_hold){.release = hold_back};
    assert_int_equal(co_stream_send(s, iov_one(&seg, block, len), &holds[i]), 0);
}

/* P1: stock lwIP asserts in the tcp_write that follows. */
static void co_mss_later(void *arg)
{
    static const uint8_t options[][8] = {
        {2, 4, 0, 100, 1, 1, 1, 1}, {1, 2, 4, 0, 100, 1, 1, 1}, {8, 4, 0, 0, 2, 4, 2, 24}};
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(options); i++) {
        struct stream *s = co_meet();
        peer.auto_ack = false;
        peer.window = 100; /* scaled: 12800, so that something stays on the queue */
        peer_establish(&peer);
        co_give(s, 0, 150000);
        peer_send(&peer, peer.seq, peer.ack, ACK, options[i], 8, NULL, 0);
        co_give(s, 1, 20000);
        struct tcp_pcb *pcb = container_of(s, struct tcp_stream, s)->pcb;
        assert_int_equal(pcb->mss, 44 * 1460);
        co_part(s);
    }
    co_alive();
}

static void co_mss_tiny(void *arg)
{
    static const uint8_t tiny[] = {2, 4, 0, 1};
    (void)arg;
    start();
    peer_syn(&peer, tiny, sizeof(tiny));
    for (unsigned i = 0; i < 1000 && !peer.syn_acks; i++)
        co_pause(1);
    peer_establish(&peer);
    co_pause(2);
    assert_null(accepted);
    assert_int_equal(peer.resets, 1);
    co_alive();
}

/* ---- Sequence numbers ---- */

static void co_beyond_window(void *arg)
{
    (void)arg;
    struct stream *s = co_meet_narrow();
    struct tcp_pcb *pcb = container_of(s, struct tcp_stream, s)->pcb;
    uint32_t edge = pcb->rcv_nxt + pcb->rcv_wnd;
    size_t room = edge - peer.seq;
    peer_send(&peer, edge - 1, peer.ack, ACK, NULL, 0, block, 40000);
    peer_data(&peer, block, room - 1);
    assert_true(pcb->rcv_wnd <= 1);
    assert_int_equal(s->ops->available(s), room - 1);
    co_part(s);
    co_alive();
}

/* A FIN out of order, then one segment that covers it and fills the window. */
static void co_fin_joined(void *arg)
{
    (void)arg;
    struct stream *s = co_meet_narrow();
    struct tcp_pcb *pcb = container_of(s, struct tcp_stream, s)->pcb;
    uint32_t edge = pcb->rcv_nxt + pcb->rcv_wnd;
    size_t room = edge - peer.seq;
    peer_send(&peer, peer.seq + 500, peer.ack, ACK | FIN, NULL, 0, block, 10);
    peer_data(&peer, block, room);
    assert_int_equal(pcb->rcv_wnd, 0);
    assert_int_equal(s->ops->available(s), room);
    co_part(s);
    co_alive();
}

static void co_syn_again(void *arg)
{
    (void)arg;
    char word[5];
    start();
    peer_syn(&peer, syn_options, sizeof(syn_options));
    for (unsigned i = 0; i < 1000 && !peer.syn_acks; i++)
        co_pause(1);
    /* half open, then open: a SYN with payload would shift the stream by one */
    peer_send(&peer, peer.seq, peer.ack, SYN | ACK, NULL, 0, block, 1000);
    assert_null(accepted);
    peer_establish(&peer);
    struct stream *s = accepted;
    assert_non_null(s);
    for (unsigned flags = SYN; flags <= (SYN | ACK); flags += ACK) {
        peer_send(&peer, peer.seq, peer.ack, flags, syn_options, sizeof(syn_options), block, 1000);
        peer_send(&peer, peer.seq - 1, peer.ack, flags, syn_options, sizeof(syn_options), block, 0);
    }
    peer_data(&peer, "hello", 5);
    assert_int_equal(co_stream_read(s, word, 5, loop_now() + 1000000000), 0);
    assert_memory_equal(word, "hello", 5);
    co_part(s);
    co_alive();
}

static void co_reordered(void *arg)
{
    static uint8_t got[12000];
    (void)arg;
    struct stream *s = co_meet();
    for (size_t i = 0; i < sizeof(got); i++)
        block[i] = (uint8_t)(i * 7 + i / 251);
    for (unsigned i = 0; i < 12; i++) {
        unsigned k = (i * 7 + 3) % 12; /* each once, overlapping its neighbour */
        peer_send(&peer, peer.seq + k * 1000, peer.ack, ACK, NULL, 0, block + k * 1000,
                  k < 11 ? 1300 : 1000);
    }
    assert_int_equal(co_stream_read(s, got, sizeof(got), loop_now() + 1000000000), 0);
    assert_memory_equal(got, block, sizeof(got));
    peer.seq += sizeof(got);
    co_part(s);
}

/* ---- Windows ---- */

/* A window counts when it comes with something new, or is larger (RFC 9293, 3.10.7.4). */
static void set_window(uint16_t window)
{
    peer_data(&peer, "x", 1);
    peer.window = window;
    peer_send(&peer, peer.seq, peer.ack, ACK, NULL, 0, NULL, 0);
}

/* P3: the window shrinks below a segment on the queue, nothing is in flight. lwIP's persist timer
 * would take 1.5 s (300 ms with our ticks) for each window. */
static void co_shrunk_window(void *arg)
{
    (void)arg;
    struct stream *s = co_meet();
    peer.window = 2000; /* 256000 */
    peer_establish(&peer);
    co_give(s, 0, 60000);
    for (unsigned i = 0; i < 2000 && peer.bytes < 60000; i++)
        co_pause(1);
    set_window(0);
    co_give(s, 1, 64000);
    co_pause(2);
    assert_int_equal(peer.bytes, 60000);
    uint64_t start_ns = board_clock_ns();
    set_window(63); /* 8064 */
    for (unsigned i = 0; i < 5000 && peer.bytes < 124000; i++)
        co_pause(1);
    assert_int_equal(peer.bytes, 124000);
    assert_true(board_clock_ns() - start_ns < 250000000);
    assert_true(returned >= 2);
    co_part(s);
}

/* A first window of 0 sets no limit to segments; the next one may not set it for those that wait. */
static void co_first_window(void *arg)
{
    (void)arg;
    start();
    peer.window = 0;
    peer_syn(&peer, syn_options, 4);
    for (unsigned i = 0; i < 1000 && !peer.syn_acks; i++)
        co_pause(1);
    peer_establish(&peer);
    struct stream *s = accepted;
    assert_non_null(s);
    co_give(s, 0, 60000);
    set_window(1000);
    co_give(s, 1, 60000);
    set_window(30000);
    for (unsigned i = 0; i < 5000 && peer.bytes < 120000; i++)
        co_pause(1);
    assert_int_equal(peer.bytes, 120000);
    co_part(s);
    co_alive();
}

/* Zero, and open again; and a reader that takes little by little. */
static void co_zero_window(void *arg)
{
    (void)arg;
    struct stream *s = co_meet();
    set_window(0);
    co_give(s, 0, 100000);
    co_pause(700);
    assert_true(peer.bytes <= 3); /* probes */
    for (unsigned i = 0; i < 20000 && peer.bytes < 100000; i++) {
        set_window(i & 1 ? 20 : 0);
        tcp_rx_discard(container_of(s, struct tcp_stream, s));
        co_pause(1);
    }
    assert_int_equal(peer.bytes, 100000);
    co_part(s);
}

/* Our window: a promise kept, closed while loans are out, open again after, and announced. */
static void assert_promise(const struct tcp_stream *t)
{
    assert_int_equal(t->pcb->rcv_wnd + t->available + t->loaned, t->promise);
    assert_true(t->promise >= 16384 && t->promise <= TCP_WND);
}

static void co_our_window(void *arg)
{
    static struct stream_loan loan;
    (void)arg;
    struct stream *s = co_meet();
    struct tcp_stream *t = container_of(s, struct tcp_stream, s);
    for (unsigned i = 0; i < 12; i++) {
        peer_data(&peer, block, 1000);
        assert_promise(t);
    }
    co_pause(100); /* so that everything is acknowledged, with the window as it is now */
    uint32_t frames = peer.frames, wnd = t->pcb->rcv_wnd;
    stream_borrow(s, 12000, &loan);
    assert_int_equal(loan.len, 12000);
    assert_promise(t);
    co_pause(100);
    assert_int_equal(t->pcb->rcv_wnd, wnd);
    assert_int_equal(peer.frames, frames);
    stream_release(&loan);
    co_pause(2);
    assert_promise(t);
    assert_true(t->pcb->rcv_wnd > 65536); /* a lone connection gets much */
    assert_int_equal(peer.their_ack, peer.seq);
    assert_int_equal(peer.their_window, t->pcb->rcv_wnd >> TCP_RCV_SCALE);
    co_part(s);
}

/* A wait for more than there is memory for is content with that. */
static void co_wait_much(void *arg)
{
    bool *done = arg;
    assert_int_equal(co_stream_wait(accepted, 300000, loop_now() + 5000000000ull), 0);
    *done = true;
}

static void co_scarce(void *arg)
{
    static struct co_start start;
    bool done = false;
    (void)arg;
    struct stream *s = co_meet();
    struct tcp_stream *t = container_of(s, struct tcp_stream, s);
    assert_true(s->max_wait >= 300000);
    co_start(&start, co_wait_much, &done);
    co_pause(2);
    assert_true(t->promise < 150000);
    for (unsigned i = 0; !done && i < 100; i++) {
        if (t->pcb->rcv_wnd)
            peer_data(&peer, block, MIN(t->pcb->rcv_wnd, 1990)); /* one full buffer */
        co_pause(1);
    }
    assert_true(done);
    assert_true(s->ops->available(s) > 50000);
    co_part(s);
}

/* One byte a packet: the ring does not run dry, and every byte is there. */
static void co_crumbs(void *arg)
{
    (void)arg;
    struct stream *s = co_meet();
    struct tcp_stream *t = container_of(s, struct tcp_stream, s);
    for (unsigned i = 0; i < 5000; i++) {
        uint8_t b = (uint8_t)(i * 3);
        peer_data(&peer, &b, 1);
    }
    assert_int_equal(t->available, 5000);
    assert_true(peer.card.nic.rx_buffers - net_ports[0]->rx_held >= 16);
    uint8_t got[5000];
    assert_int_equal(co_stream_read(s, got, sizeof(got), loop_now() + 1000000000), 0);
    for (unsigned i = 0; i < sizeof(got); i++)
        assert_int_equal(got[i], (uint8_t)(i * 3));
    co_part(s);
}

/* More connections than memory, each in the middle of a large piece: all readers get on. */
static void co_crowd_reader(void *arg)
{
    static struct stream_loan loan;
    struct stream *s = arg;
    int rc = co_stream_wait(s, 60000, loop_now() + 2000000000);
    assert_int_equal(rc, 0);
    assert_true(s->ops->available(s) >= STREAM_WAIT_SURE);
    stream_borrow(s, 60000, &loan);
    stream_release(&loan);
    co_part(s);
}

static void co_crowd(void *arg)
{
    enum { N = 8 };
    static struct co_start starts[N];
    struct {
        uint16_t port;
        uint32_t seq, ack;
    } who[N];
    (void)arg;
    for (unsigned i = 0; i < N; i++) {
        struct stream *s = co_meet();
        who[i].port = peer.port, who[i].seq = peer.seq, who[i].ack = peer.ack;
        co_start(&starts[i], co_crowd_reader, s);
    }
    co_pause(1);
    for (unsigned round = 0; net_stream_count && round < 1000; round++) {
        for (unsigned i = 0; i < N; i++) {
            peer.port = who[i].port;
            peer_send(&peer, who[i].seq, who[i].ack, ACK, NULL, 0, block, 1000);
            if (peer.their_ack - who[i].seq == 1000)
                who[i].seq += 1000;
        }
        co_pause(1);
        for (unsigned i = 0; i < N; i++) { /* what was acknowledged since */
            struct tcp_stream *t = NULL;
            list_for_each (it, &net_streams, struct tcp_stream, link)
                if (it->pcb && it->pcb->remote_port == who[i].port)
                    t = it;
            if (t)
                who[i].seq = t->pcb->rcv_nxt;
        }
    }
    assert_int_equal(net_stream_count, 0);
    co_alive();
}

/* Acknowledgements of one batch: one that a later one replaces is not seen, duplicates all are. */
static void acks(const uint32_t *offsets, unsigned n, uint32_t base)
{
    peer.card.in_batch = true;
    for (unsigned i = 0; i < n; i++)
        peer_send(&peer, peer.seq, base + offsets[i], ACK, NULL, 0, NULL, 0);
    peer.card.in_batch = false;
    peer.card.nic.rx_batch_end(&peer.card.nic);
}

static void co_ack_rows(void *arg)
{
    static const uint32_t row[] = {1460, 2920, 5840}, twice[] = {5840, 5840};
    (void)arg;
    struct stream *s = co_meet();
    const struct tcp_stream *t = container_of(s, struct tcp_stream, s);
    uint32_t base = peer.ack;
    peer.auto_ack = false;
    unsigned free_before = 0, free_after = 0;
    co_give(s, 0, 20000);
    co_pause(2);
    for (const struct nic_rx_buf *b = peer.card.free; b; b = b->next)
        free_before++;
    acks(row, 3, base);
    assert_int_equal(t->pcb->lastack, base + 5840);
    assert_int_equal(t->pcb->dupacks, 0);
    acks(twice, 2, base);
    assert_int_equal(t->pcb->dupacks, 2);
    for (const struct nic_rx_buf *b = peer.card.free; b; b = b->next)
        free_after++;
    assert_int_equal(free_before, free_after); /* those that were dropped went back */
    peer.auto_ack = true;
    peer_send(&peer, peer.seq, base + 20000, ACK, NULL, 0, NULL, 0);
    peer.ack = base + 20000;
    co_part(s);
}

/* ---- */

#define CASE(name)                        \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        test_co_run(co_##name, NULL);     \
    }
CASE(mss_later)
CASE(mss_tiny)
CASE(beyond_window)
CASE(fin_joined)
CASE(syn_again)
CASE(reordered)
CASE(shrunk_window)
CASE(zero_window)
CASE(scarce)
CASE(first_window)
CASE(our_window)
CASE(crumbs)
CASE(crowd)
CASE(ack_rows)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mss_later),     cmocka_unit_test(test_mss_tiny),
        cmocka_unit_test(test_beyond_window), cmocka_unit_test(test_fin_joined),
        cmocka_unit_test(test_syn_again),     cmocka_unit_test(test_reordered),
        cmocka_unit_test(test_shrunk_window), cmocka_unit_test(test_zero_window),
        cmocka_unit_test(test_our_window),    cmocka_unit_test(test_crumbs),
        cmocka_unit_test(test_crowd),         cmocka_unit_test(test_scarce),
        cmocka_unit_test(test_first_window),  cmocka_unit_test(test_ack_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a wire can say. An input is a program, a byte per step and its arguments:
 *
 *     0  any frame                                  4  a connection, properly opened
 *     1  a segment of the connection: where it      5  the peer's window
 *        begins (near what we expect, or near the   6  lwIP's TCP timer runs, some times
 *        edge of our window), flags, options,       7  the user of the newest stream reads, lends,
 *        length                                        sends, aborts, closes
 *     2  in-order payload                           8  turns of the loop
 *     3  an acknowledgement, true or not            9  the card stops reading, and starts again
 *
 * Whatever it says: nothing asserts, and in the end every stream can be closed, every receive buffer
 * is back with the card, and everything lent with its owner.
 */
#include <stdlib.h>
#include <string.h>

#include "kernel/kernel.h"
#include "net/lwip_net.h"
#include "tests/unit/support_peer.h"

#include "lwip/priv/tcp_priv.h"
#include "tests/fuzz/support_boot.h"

#define STREAMS 12u
#define LOANS   8u
#define HOLDS   16u

static struct input {
    const uint8_t *p;
    size_t n;
} in;
static struct peer peer;
static struct stream *streams[STREAMS];
static unsigned nstreams, closing;
static struct stream_loan loans[LOANS];
static bool lent[LOANS];
static struct user_send {
    struct stream_hold hold;
    struct co_start start;
    struct stream *s;
    size_t len;
    bool out, running;
    uint8_t *data;
} sends[HOLDS];
static struct close {
    struct co_start start;
    struct stream *s;
    bool running;
} closes[STREAMS];

static uint8_t byte(void)
{
    if (!in.n)
        return 0;
    in.n--;
    return *in.p++;
}

static unsigned word(void)
{
    unsigned v = byte();
    return v | (unsigned)byte() << 8;
}

static void turns(unsigned n)
{
    while (n-- && loop_turn())
        ;
}

static void on_accepted(void *ctx, struct stream *s)
{
    (void)ctx;
    if (nstreams < STREAMS)
        streams[nstreams++] = s;
    else
        abort();
}

/* ---- The peer ---- */

static struct tcp_pcb *pcb_of_peer(void)
{
    for (struct tcp_pcb *c = tcp_active_pcbs; c; c = c->next)
        if (c->remote_port == peer.port)
            return c;
    return NULL;
}

static void any_frame(void)
{
    uint8_t f[2048];
    size_t n = word() % sizeof(f), given = MIN(n, in.n);
    memset(f, 0, sizeof(f));
    memcpy(f, in.p, given);
    in.p += given;
    in.n -= given;
    if (n)
        wire_deliver(&peer.card, f, n, byte() & 3);
}

static void any_segment(void)
{
    static uint8_t data[65000];
    uint8_t opt[40];
    struct tcp_pcb *c = pcb_of_peer();
    unsigned how = byte();
    uint32_t base = !c ? peer.seq : how & 1 ? c->rcv_nxt + c->rcv_wnd : c->rcv_nxt;
    uint32_t ack = how & 2 ? peer.ack + (uint32_t)(int16_t)word() : peer.ack;
    int32_t off = (int16_t)word();
    unsigned flags = byte(), nopt = how & 4 ? (byte() % 11) * 4 : 0;
    size_t len = how & 8 ? word() % sizeof(data) : byte();
    for (unsigned i = 0; i < nopt; i++)
        opt[i] = byte();
    peer_send(&peer, base + (uint32_t)off, ack, flags, opt, nopt, data, len);
}

static void in_order(void)
{
    static const uint8_t data[60000];
    struct tcp_pcb *c = pcb_of_peer();
    size_t len = word() % sizeof(data);
    if (c && len)
        peer_send(&peer, c->rcv_nxt, peer.ack, ACK, NULL, 0, data, len);
}

static void acknowledge(void)
{
    struct tcp_pcb *c = pcb_of_peer();
    if (!c)
        return;
    uint32_t ack = c->lastack + (c->snd_nxt - c->lastack) / 255 * byte();
    peer_send(&peer, c->rcv_nxt, ack, ACK, NULL, 0, NULL, 0);
}

static void open_connection(void)
{
    uint8_t opt[] = {2, 4, 0x05, 0xb4, 1, 3, 3, 7};
    if (nstreams + closing >= STREAMS)
        return;
    unsigned how = byte();
    if (how & 1)
        opt[2] = byte(), opt[3] = byte();
    peer.auto_ack = how & 2;
    peer_syn(&peer, opt, how & 4 ? 4 : sizeof(opt));
    turns(6);
    if (peer.syn_acks && nstreams + closing < STREAMS)
        peer_establish(&peer);
}

/* ---- The user ---- */

static void hold_back(struct stream_hold *h)
{
    struct user_send *u = container_of(h, struct user_send, hold);
    if (!u->out)
        abort();
    u->out = false;
    free(u->data); /* who still reads it is caught */
    u->data = NULL;
}

static void co_send(void *arg)
{
    struct user_send *u = arg;
    struct seg seg;
    if (u->len & 1) {
        co_stream_write(u->s, u->data, u->len % 3000);
        hold_back(&u->hold);
    } else {
        co_stream_send(u->s, iov_one(&seg, u->data, u->len), &u->hold);
    }
    u->running = false;
}

static void user_send(struct stream *s)
{
    size_t len = 1 + word() * 3u;
    for (unsigned i = 0; i < HOLDS; i++) {
        struct user_send *u = &sends[i];
        if (u->out || u->running)
            continue;
        *u = (struct user_send){.hold = {.release = hold_back},
                                .s = s,
                                .len = len,
                                .out = true,
                                .running = true,
                                .data = calloc(1, len)};
        co_start_now(&u->start, co_send, u);
        return;
    }
}

static void user_borrow(struct stream *s)
{
    size_t n = s->ops->available(s), want = 1 + word();
    for (unsigned i = 0; n && i < LOANS; i++)
        if (!lent[i]) {
            stream_borrow(s, MIN(n, want), &loans[i]);
            lent[i] = true;
            return;
        }
}

static void user_release(unsigned i)
{
    if (lent[i])
        stream_release(&loans[i]);
    lent[i] = false;
}

static void co_close(void *arg)
{
    struct close *c = arg;
    co_stream_close(c->s);
    c->running = false;
    closing--;
}

static void user_close(void)
{
    struct stream *s = streams[--nstreams];
    for (unsigned i = 0; i < LOANS; i++)
        if (lent[i] && loans[i].stream == s)
            user_release(i);
    for (unsigned i = 0; i < STREAMS; i++)
        if (!closes[i].running) {
            closes[i].running = true;
            closes[i].s = s;
            closing++;
            co_start_now(&closes[i].start, co_close, &closes[i]);
            return;
        }
    abort();
}

static void user(void)
{
    if (!nstreams)
        return;
    struct stream *s = streams[nstreams - 1];
    uint8_t sink[256];
    switch (byte() % 7) {
    case 0:
        user_borrow(s);
        break;
    case 1:
        user_release(byte() % LOANS);
        break;
    case 2:
        s->ops->copy(s, sink, MIN(s->ops->available(s), sizeof(sink)), true);
        break;
    case 3:
    case 4:
        user_send(s);
        break;
    case 5:
        stream_abort(s);
        break;
    case 6:
        user_close();
        break;
    }
}

/* ---- */

static void step(void)
{
    switch (byte() % 10) {
    case 0:
        any_frame();
        break;
    case 1:
        any_segment();
        break;
    case 2:
        in_order();
        break;
    case 3:
        acknowledge();
        break;
    case 4:
        open_connection();
        break;
    case 5:
        peer.window = (uint16_t)word();
        break;
    case 6:
        for (unsigned i = byte() % 40; i--; tcp_tmr())
            net_before_timers();
        break;
    case 7:
        user();
        break;
    case 8:
        turns(1 + byte() % 4);
        break;
    case 9:
        peer.card.hold = !peer.card.hold;
        break;
    }
}

static void need(bool ok)
{
    if (!ok)
        abort();
}

static void finish(void)
{
    peer.card.hold = false;
    while (nstreams) {
        stream_abort(streams[nstreams - 1]);
        user_close();
    }
    turns(1000);
    while (tcp_active_pcbs)
        tcp_abort(tcp_active_pcbs);
    turns(1000);
    need(!closing && !net_stream_count);
    need(net_ports[0]->rx_held == 0);
    need(net_chunk_pool.free == net_chunk_pool.total);
    for (unsigned i = 0; i < HOLDS; i++)
        need(!sends[i].out && !sends[i].running);
}

static void start(void)
{
    struct error err = {0};
    struct listen_address a = {.type = ADDR_INET, .host = "0.0.0.0", .port = "10809"};
    fuzz_boot(64);
    peer_start(&peer, NIC_CSUM | NIC_GUEST_CSUM | NIC_GUEST_TSO, 128);
    need(net_listen(&a, 8, on_accepted, NULL, &err));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool up;
    if (!up)
        start();
    up = true;
    in = (struct input){data, size};
    peer.window = 65535;
    for (unsigned i = 0; in.n && i < 400; i++)
        step();
    finish();
    return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_peer.h"

#include <string.h>

#include "net/net.h"

static const uint8_t mac_peer[6] = {2, 0, 0, 0, 9, 2};
static const uint8_t ip_us[4] = {10, 0, 9, 1}, ip_peer[4] = {10, 0, 9, 2};

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void ether(const struct peer *p, uint8_t *f, unsigned type)
{
    memcpy(f, p->card.nic.mac, 6);
    memcpy(f + 6, mac_peer, 6);
    put16(f + 12, type);
}

static void answer_arp(struct peer *p, const uint8_t *f)
{
    uint8_t r[42];
    if (f[21] != 1 || memcmp(f + 38, ip_peer, 4))
        return;
    ether(p, r, 0x0806);
    memcpy(r + 14, f + 14, 7);
    r[21] = 2;
    memcpy(r + 22, mac_peer, 6);
    memcpy(r + 28, ip_peer, 4);
    memcpy(r + 32, f + 22, 10);
    wire_deliver(&p->card, r, sizeof(r), 0);
}

static void took(struct peer *p, const uint8_t *data, size_t len, bool fin)
{
    if (p->on_bytes)
        p->on_bytes(p, data, len, p->bytes);
    p->bytes += len;
    p->ack += (uint32_t)len + fin;
    if (p->auto_ack)
        peer_send(p, p->seq, p->ack, ACK, NULL, 0, NULL, 0);
}

static void on_frame(struct wire_card *c, const uint8_t *f, size_t len, unsigned gso)
{
    struct peer *p = container_of(c, struct peer, card);
    (void)gso;
    if (len >= 42 && f[12] == 8 && f[13] == 6)
        answer_arp(p, f);
    if (len < 54 || f[12] != 8 || f[13] || f[23] != 6 || (f[36] << 8 | f[37]) != p->port)
        return;
    const uint8_t *tcp = f + 34;
    size_t hdr = 34u + (tcp[12] >> 4) * 4u, n = len - hdr;
    unsigned flags = tcp[13];
    p->frames++;
    p->their_seq = get32(tcp + 4);
    p->their_ack = get32(tcp + 8);
    p->their_window = (uint32_t)tcp[14] << 8 | tcp[15];
    p->longest = MAX(p->longest, n);
    p->resets += !!(flags & RST);
    p->fins += !!(flags & FIN);
    if (flags & SYN) {
        p->syn_acks++;
        p->ack = p->their_seq + 1;
        return;
    }
    uint32_t skip = p->ack - p->their_seq; /* of a retransmission that we have in part */
    if ((n || (flags & FIN)) && skip <= n && !(flags & RST) && (skip < n || (flags & FIN)))
        took(p, f + hdr + skip, n - skip, flags & FIN);
    else if (n && p->auto_ack)
        peer_send(p, p->seq, p->ack, ACK, NULL, 0, NULL, 0);
}

void peer_start(struct peer *p, unsigned features, unsigned rx_buffers)
{
    struct error err = {0};
    *p = (struct peer){.window = 65535, .port = 30000, .auto_ack = true};
    wire_card_init(&p->card, 0, features, rx_buffers);
    p->card.on_frame = on_frame;
    struct net_config c = {.ip = "10.0.9.1/24", .ip6 = "off"};
    if (net_attach(&p->card.nic, &c, &err))
        panic("peer: %s", err.msg);
}

void peer_send(struct peer *p, uint32_t seq, uint32_t ack, unsigned flags, const void *opt,
               size_t opt_len, const void *data, size_t len)
{
    static uint8_t f[66000];
    memset(f, 0, 54);
    ether(p, f, 0x0800);
    f[14] = 0x45;
    put16(f + 16, (unsigned)(40 + opt_len + len));
    f[22] = 64;
    f[23] = 6;
    memcpy(f + 26, ip_peer, 4);
    memcpy(f + 30, ip_us, 4);
    uint32_t s = 0;
    for (unsigned i = 14; i < 34; i += 2)
        s += (uint32_t)f[i] << 8 | f[i + 1];
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    put16(f + 24, (uint16_t)~s);
    uint8_t *tcp = f + 34;
    put16(tcp, p->port);
    put16(tcp + 2, 10809);
    put32(tcp + 4, seq);
    put32(tcp + 8, ack);
    tcp[12] = (uint8_t)((5 + opt_len / 4) << 4);
    tcp[13] = (uint8_t)flags;
    put16(tcp + 14, p->window);
    if (opt_len)
        memcpy(tcp + 20, opt, opt_len);
    if (len)
        memcpy(tcp + 20 + opt_len, data, len);
    wire_deliver(&p->card, f, 54 + opt_len + len, NIC_RX_CSUM_VALID);
}

void peer_data(struct peer *p, const void *data, size_t len)
{
    uint32_t seq = p->seq;
    p->seq += (uint32_t)len;
    peer_send(p, seq, p->ack, ACK | PSH, NULL, 0, data, len);
}

void peer_syn(struct peer *p, const void *opt, size_t opt_len)
{
    p->port++;
    p->seq = 1000;
    p->bytes = 0;
    p->frames = p->resets = p->syn_acks = p->fins = 0;
    p->longest = 0;
    peer_send(p, p->seq++, 0, SYN, opt, opt_len, NULL, 0);
}

void peer_establish(struct peer *p)
{
    peer_send(p, p->seq, p->ack, ACK, NULL, 0, NULL, 0);
}

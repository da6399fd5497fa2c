/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_wire.h"

#include <stdlib.h>
#include <string.h>

struct wire_tx {
    void (*done)(void *cookie);
    void *cookie;
    struct nic_tx_meta meta;
    size_t len;
    uint8_t *frame;  /* as it was when it was queued */
    struct iov live; /* as the device reads it, later */
    struct seg segs[64];
};

uint64_t wire_seed = 1;

uint32_t wire_random(void)
{
    wire_seed = wire_seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(wire_seed >> 33);
}

/* ---- Checksums, the slow way ---- */

static uint32_t sum16(const uint8_t *p, size_t n)
{
    uint32_t s = 0;
    for (size_t i = 0; i < n; i++)
        s += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    return s;
}

static uint16_t fold(uint32_t s)
{
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint16_t)s;
}

static bool is_v6(const uint8_t *f)
{
    return f[12] == 0x86;
}

static size_t ip_len(const uint8_t *f)
{
    return is_v6(f) ? 40 : (size_t)(f[14] & 15) * 4;
}

static uint32_t pseudo(const uint8_t *f, size_t tcp_len)
{
    uint32_t s = is_v6(f) ? sum16(f + 14 + 8, 32) : sum16(f + 14 + 12, 8);
    return s + 6 + (uint32_t)tcp_len;
}

uint16_t wire_tcp_sum(const uint8_t *f, size_t len)
{
    size_t at = 14 + ip_len(f);
    return (uint16_t)~fold(fold(pseudo(f, len - at)) + fold(sum16(f + at, len - at)));
}

static bool is_tcp(const uint8_t *f, size_t len)
{
    return len >= 54 && ((f[12] == 8 && f[13] == 0 && f[23] == 6) ||
                         (f[12] == 0x86 && f[13] == 0xdd && len >= 74 && f[20] == 6));
}

/* ---- Receiving ---- */

static void rx_return(struct nic *n, struct nic_rx_buf *chain)
{
    struct wire_card *c = n->priv;
    for (struct nic_rx_buf *next; chain; chain = next) {
        next = chain->next;
        memset(chain->data, 0xee, WIRE_BUF);
        chain->next = c->free;
        c->free = chain;
    }
}

bool wire_deliver(struct wire_card *c, const uint8_t *frame, size_t len, unsigned flags)
{
    struct nic_rx_buf *head = NULL, **at = &head;
    while (len) {
        struct nic_rx_buf *b = c->free;
        if (!b) {
            *at = NULL;
            rx_return(&c->nic, head);
            return false;
        }
        c->free = b->next;
        b->len = (uint16_t)MIN(len, WIRE_BUF);
        memcpy(b->data, frame, b->len);
        frame += b->len;
        len -= b->len;
        *at = b;
        at = &b->next;
    }
    *at = NULL;
    c->nic.rx(&c->nic, head, flags);
    if (!c->in_batch)
        c->nic.rx_batch_end(&c->nic);
    return true;
}

/* ---- The wire ---- */

/* The card verifies every other frame, if it may. */
static unsigned vouched(const struct wire_card *c)
{
    static unsigned n;
    return c->nic.features & NIC_GUEST_CSUM && ++n % 2 ? NIC_RX_CSUM_VALID : 0;
}

static void on_wire(struct wire_card *c, const uint8_t *f, size_t len, unsigned gso, bool summed)
{
    c->sent++;
    if (c->loss && wire_random() % 10000 < c->loss) {
        c->lost++;
        return;
    }
    if (summed && is_tcp(f, len) && wire_tcp_sum(f, len))
        c->bad_sums++;
    if (c->on_frame)
        c->on_frame(c, f, len, gso);
    else if (c->peer)
        wire_deliver(c->peer, f, len, !summed ? NIC_RX_CSUM_PARTIAL : vouched(c->peer));
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

/* What a card with TSO puts on the wire. */
static void cut(struct wire_card *c, const struct wire_tx *t)
{
    static uint8_t out[16384];
    size_t hdr = t->meta.hdr_len, ip = 14 + ip_len(t->frame), tcp = hdr - ip;
    for (size_t off = hdr; off < t->len; off += t->meta.gso_size) {
        size_t n = MIN((size_t)t->meta.gso_size, t->len - off);
        memcpy(out, t->frame, hdr);
        memcpy(out + hdr, t->frame + off, n);
        if (is_v6(out)) {
            put16(out + 18, (unsigned)(tcp + n));
        } else {
            put16(out + 16, (unsigned)(ip - 14 + tcp + n));
            put16(out + 24, 0);
            put16(out + 24, (uint16_t)~fold(sum16(out + 14, ip - 14)));
        }
        put32(out + ip + 4, get32(out + ip + 4) + (uint32_t)(off - hdr));
        if (off + n < t->len)
            out[ip + 13] &= (uint8_t)~9;
        put16(out + ip + 16, 0);
        put16(out + ip + 16, wire_tcp_sum(out, hdr + n));
        on_wire(c, out, hdr + n, 0, true);
    }
}

static void send(struct wire_card *c, struct wire_tx *t)
{
    const struct nic_tx_meta *m = &t->meta;
    bool keep = c->peer && (c->peer->nic.features & NIC_GUEST_TSO) && !c->loss;
    if (m->csum && (!keep || !m->gso)) {
        /* the field holds the pseudo-header's sum: it must be the right one */
        uint8_t *f = t->frame + m->csum_start;
        if (fold(pseudo(t->frame, t->len - m->csum_start)) !=
            ((unsigned)f[m->csum_offset] << 8 | f[m->csum_offset + 1]))
            c->bad_sums++;
        put16(f + m->csum_offset, (uint16_t)~fold(fold(sum16(f, t->len - m->csum_start))));
    }
    if (m->gso && !keep)
        cut(c, t);
    else
        on_wire(c, t->frame, t->len, m->gso ? m->gso_size : 0, !(m->gso && keep));
}

static bool poll(struct poller *p)
{
    struct wire_card *c = container_of(p, struct wire_card, poller);
    struct wire_tx *batch[WIRE_RING];
    unsigned n = c->in_ring;
    if (!n || c->hold)
        return false;
    memcpy(batch, c->ring, sizeof(batch));
    c->in_ring = 0;
    for (unsigned i = 0; i < n; i++) {
        struct wire_tx *t = batch[i];
        iov_copy_out(t->frame, t->live, 0, t->len); /* the device reads now, not earlier */
        t->done(t->cookie);
    }
    if (c->peer)
        c->peer->in_batch = true;
    for (unsigned i = 0; i < n; i++) {
        send(c, batch[i]);
        free(batch[i]->frame);
        free(batch[i]);
    }
    if (c->peer) {
        c->peer->in_batch = false;
        c->peer->nic.rx_batch_end(&c->peer->nic);
    }
    if (c->wants_space) {
        c->wants_space = false;
        c->nic.tx_space(&c->nic);
    }
    return true;
}

static int transmit(struct nic *n, struct iov frame, const struct nic_tx_meta *m,
                    void (*done)(void *cookie), void *cookie)
{
    struct wire_card *c = n->priv;
    if (iov_count(frame) > n->max_tx_segs)
        return SR_EINVAL;
    if (c->in_ring >= c->ring_limit) {
        c->full++;
        c->wants_space = true;
        return SR_EAGAIN;
    }
    ASSERT(!m->gso || (n->features & (m->gso == 4 ? NIC_TSO4 : NIC_TSO6)));
    ASSERT(!m->csum || (n->features & NIC_CSUM));
    ASSERT(m->gso || frame.len <= n->mtu + 14u);
    struct wire_tx *t = calloc(1, sizeof(*t));
    *t = (struct wire_tx){.done = done, .cookie = cookie, .meta = *m, .len = frame.len};
    memcpy(t->segs, frame.seg, iov_count(frame) * sizeof(struct seg));
    t->live = (struct iov){.seg = t->segs, .skip = frame.skip, .len = frame.len};
    t->frame = malloc(frame.len);
    c->longest = MAX(c->longest, frame.len);
    c->ring[c->in_ring++] = t;
    return 0;
}

static void kick(struct nic *n)
{
    (void)n;
}

/* ---- Making ---- */

void wire_card_init(struct wire_card *c, unsigned index, unsigned features, unsigned rx_buffers)
{
    static const struct nic_ops ops = {.transmit = transmit, .rx_return = rx_return, .kick = kick};
    *c = (struct wire_card){.ring_limit = WIRE_RING};
    c->nic = (struct nic){.ops = &ops,
                          .features = features,
                          .index = index,
                          .mac = {2, 0, 0, 0, 0, (uint8_t)index},
                          .mtu = 1500,
                          .max_tx_segs = 31,
                          .rx_buffers = rx_buffers,
                          .link_up = true,
                          .priv = c};
    list_init(&c->nic.link);
    c->bufs = calloc(rx_buffers, sizeof(*c->bufs));
    c->memory = malloc((size_t)rx_buffers * WIRE_BUF);
    for (unsigned i = 0; i < rx_buffers; i++) {
        c->bufs[i] = (struct nic_rx_buf){
            .data = c->memory + (size_t)i * WIRE_BUF, .nic = &c->nic, .id = (uint16_t)i};
        c->bufs[i].next = c->free;
        c->free = &c->bufs[i];
    }
    c->poller.poll = poll;
    poller_add(&c->poller);
}

void wire_join(struct wire_card *a, struct wire_card *b)
{
    a->peer = b;
    b->peer = a;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-net (virtio 1.2, 5.1): one pair of queues, as a struct nic.
 *
 * Receiving. All buffers are made at start and are on the ring, or in the network room's hands:
 *
 *     nic_rx_buf[i] -> memory[i]:  | header | frame ...          first buffer of a frame
 *                                  | ... frame                   the others (MRG_RXBUF)
 *
 * The header says how many buffers the frame took; a frame whose buffers have not all come yet is
 * kept in `part` until they have. Buffers that come back go straight to the ring; the device hears
 * of them once, at the end of the turn. What cannot be a frame is dropped and counted; a header that
 * says an impossible number of buffers breaks the device, because from there on nobody knows where
 * frames begin.
 *
 * Sending. The header lies in head[slot], the frame stays where it is. Nobody waits for a frame to
 * be sent, so completions are collected at each turn, without interrupts; only when the ring was
 * full is an interrupt wanted (quiet = false), and tx_space is called then.
 *
 * Large frames (TSO, both ways) need checksums; received ones also need mergeable buffers, because
 * we have no buffers of 64 KiB: `choose` drops what would not work.
 *
 * The header of a legacy device is shorter, unless buffers are mergeable (5.1.6.1).
 *
 * When the device breaks the link goes down; frames given to it are dropped.
 *
 * Missing on purpose: more queue pairs, the control queue, VLAN and UDP offloads, RSS.
 */
#include "kernel/nic.h"

#include "kernel/board.h"
#include "kernel/fault.h"
#include "kernel/page.h"
#include "virtio/net_spec.h"
#include "virtio/virtio.h"

#define TX_PIECES   32u /* header included */
#define TX_RING     256u
#define FRAME_MAX   65549u /* 65535 of IP and the Ethernet header */
#define HEADERS_MAX 128u   /* Ethernet, IP, TCP with options: contiguous in the first buffer */
#define ETH_HEADER  14u
#define MTU_DEFAULT 1500u
#define MTU_MIN     68u

struct sent {
    void (*done)(void *cookie);
    void *cookie;
};
struct part { /* a frame of which more buffers must come */
    struct nic_rx_buf *head, *tail;
    unsigned missing, total, flags;
    bool bad;
};
struct net {
    struct nic nic;
    struct virtio_device *dev;
    struct virtq *rx, *tx;
    uint8_t *memory; /* of the receive buffers */
    size_t buf_size, hdr_size;
    struct nic_rx_buf *bufs;
    struct part part;
    struct virtio_net_hdr *head; /* one per slot of tx */
    struct sent *sent;
    uint64_t dropped;
};

static struct net *net_of(struct nic *n)
{
    return container_of(n, struct net, nic);
}

#define BIT(f)    (1ull << VIRTIO_NET_F_##f)
#define HAS(n, f) virtio_has((n)->dev, VIRTIO_NET_F_##f)

/* ---- Receiving ------------------------------------------------------------------------------- */

/* There is always room: the ring has at least as many slots as there are buffers. */
static void post(struct net *n, struct nic_rx_buf *b)
{
    struct virtq_chain c;
    b->next = NULL;
    if (!virtq_begin(n->rx, &c, 1))
        return;
    virtq_in(&c, n->memory + b->id * n->buf_size, n->buf_size);
    virtq_push(n->rx, &c, b);
}

static void rx_return(struct nic *nic, struct nic_rx_buf *chain)
{
    struct net *n = net_of(nic);
    while (chain && !n->dev->broken) {
        struct nic_rx_buf *next = chain->next;
        post(n, chain);
        chain = next;
    }
}

/* The first buffer of a frame. False: the device makes no sense. */
static bool begin_frame(struct net *n, struct nic_rx_buf *b, uint32_t len)
{
    struct part *p = &n->part;
    const struct virtio_net_hdr *h =
        (const struct virtio_net_hdr *)(const void *)(n->memory + b->id * n->buf_size);
    unsigned count = HAS(n, MRG_RXBUF) ? le16_get(h->num_buffers) : 1;
    if (len < n->hdr_size || !count || count > n->rx->size) {
        virtio_fail(n->dev, "frame of %u bytes in %u buffers", len, count);
        return false;
    }
    *p = (struct part){.missing = count};
    if (HAS(n, GUEST_CSUM))
        p->flags = (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM ? NIC_RX_CSUM_PARTIAL : 0) |
                   (h->flags & VIRTIO_NET_HDR_F_DATA_VALID ? NIC_RX_CSUM_VALID : 0);
    b->data = n->memory + b->id * n->buf_size + n->hdr_size;
    b->len = (uint16_t)(len - n->hdr_size);
    p->bad = b->len < (count > 1 ? HEADERS_MAX : ETH_HEADER);
    return true;
}

static void add_buffer(struct net *n, struct nic_rx_buf *b)
{
    struct part *p = &n->part;
    b->next = NULL;
    if (p->head)
        p->tail->next = b;
    else
        p->head = b;
    p->tail = b;
    p->total += b->len;
    p->bad |= !b->len || p->total > FRAME_MAX;
    p->missing--;
}

static void deliver(struct net *n)
{
    struct part p = n->part;
    n->part.head = NULL;
    if (likely(!p.bad && n->nic.rx)) {
        n->nic.rx(&n->nic, p.head, p.flags);
        return;
    }
    n->dropped++;
    rx_return(&n->nic, p.head);
}

/* True when the buffer completed a frame. */
static bool take_buffer(struct net *n, struct nic_rx_buf *b, uint32_t len)
{
    if (!n->part.missing) {
        if (!begin_frame(n, b, len))
            return false;
    } else {
        b->data = n->memory + b->id * n->buf_size;
        b->len = (uint16_t)len;
    }
    add_buffer(n, b);
    return !n->part.missing;
}

static bool rx_poll(struct poller *poller)
{
    struct virtq *q = virtq_of_poller(poller);
    struct net *n = q->dev->priv;
    struct nic_rx_buf *b;
    unsigned count = 0, frames = 0;
    uint16_t id;
    uint32_t len;
    while (count < q->size && (b = virtq_pop(q, &id, &len))) {
        count++;
        if (take_buffer(n, b, len)) {
            frames++;
            deliver(n);
        }
    }
    if (frames && n->nic.rx_batch_end)
        n->nic.rx_batch_end(&n->nic);
    return count > 0;
}

/* ---- Sending --------------------------------------------------------------------------------- */

static unsigned reclaim(struct net *n)
{
    struct sent *s;
    unsigned count = 0;
    uint16_t id;
    uint32_t len;
    while (count < n->tx->size && (s = virtq_pop(n->tx, &id, &len))) {
        s->done(s->cookie);
        count++;
    }
    return count;
}

static bool tx_poll(struct poller *poller)
{
    struct virtq *q = virtq_of_poller(poller);
    struct net *n = q->dev->priv;
    if (!reclaim(n))
        return false;
    if (!q->quiet) {
        q->quiet = true;
        if (n->nic.tx_space)
            n->nic.tx_space(&n->nic);
    }
    return true;
}

static void fill_header(struct virtio_net_hdr *h, const struct nic_tx_meta *m)
{
    static const uint8_t gso_type[] = {
        [4] = VIRTIO_NET_HDR_GSO_TCPV4, [6] = VIRTIO_NET_HDR_GSO_TCPV6};
    *h = (struct virtio_net_hdr){0};
    if (m->csum) {
        h->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        le16_set(&h->csum_start, m->csum_start);
        le16_set(&h->csum_offset, m->csum_offset);
    }
    if (m->gso) {
        ASSERT(m->gso < sizeof(gso_type));
        h->gso_type = gso_type[m->gso];
        le16_set(&h->gso_size, m->gso_size);
        le16_set(&h->hdr_len, m->hdr_len);
    }
}

static int transmit(struct nic *nic, struct iov frame, const struct nic_tx_meta *m,
                    void (*done)(void *cookie), void *cookie)
{
    struct net *n = net_of(nic);
    struct virtq_chain c;
    if (unlikely(n->dev->broken)) {
        done(cookie);
        return 0;
    }
    unsigned pieces = iov_count(frame);
    if (pieces > nic->max_tx_segs)
        return SR_EINVAL;
    if (!virtq_begin(n->tx, &c, pieces + 1) &&
        (!reclaim(n) || !virtq_begin(n->tx, &c, pieces + 1))) {
        n->tx->quiet = false;
        return SR_EAGAIN;
    }
    struct virtio_net_hdr *h = &n->head[c.id];
    fill_header(h, m);
    virtq_out(&c, h, n->hdr_size);
    const struct seg *s = frame.seg;
    for (size_t left = frame.len, skip = frame.skip; left; s++, skip = 0) {
        size_t len = MIN(s->len - skip, left);
        virtq_out(&c, (char *)s->base + skip, len);
        left -= len;
    }
    n->sent[c.id] = (struct sent){done, cookie};
    virtq_push(n->tx, &c, &n->sent[c.id]);
    return 0;
}

static void kick(struct nic *nic)
{
    virtq_kick(net_of(nic)->tx);
}

static const struct nic_ops ops = {.transmit = transmit, .rx_return = rx_return, .kick = kick};

/* ---- Configuration --------------------------------------------------------------------------- */

#define CFG(field) offsetof(struct virtio_net_config, field)

static void load_config(struct virtio_device *d, void *out)
{
    struct nic *nic = out;
    for (unsigned i = 0; i < sizeof(nic->mac); i++)
        nic->mac[i] = virtio_cfg8(d, CFG(mac) + i);
    nic->mtu = virtio_has(d, VIRTIO_NET_F_MTU) ? virtio_cfg16(d, CFG(mtu)) : MTU_DEFAULT;
    nic->link_up = !virtio_has(d, VIRTIO_NET_F_STATUS) ||
                   (virtio_cfg16(d, CFG(status)) & VIRTIO_NET_S_LINK_UP);
}

static void set_link(struct net *n, bool up)
{
    if (n->nic.link_up == up)
        return;
    n->nic.link_up = up;
    if (n->nic.link_change)
        n->nic.link_change(&n->nic);
}

static void config_changed(struct virtio_device *d)
{
    struct net *n = d->priv;
    struct nic now;
    if (!virtio_cfg_load(d, load_config, &now))
        set_link(n, now.link_up);
}

static void lost(struct virtio_device *d)
{
    struct net *n = d->priv;
    struct sent *s;
    uint16_t id;
    if (!n || !n->tx)
        return;
    while ((s = virtq_detach(n->tx, &id)))
        s->done(s->cookie);
    set_link(n, false);
}

static uint64_t choose(uint64_t f)
{
    if (!(f & BIT(CSUM)))
        f &= ~(BIT(HOST_TSO4) | BIT(HOST_TSO6));
    if (!(f & BIT(GUEST_CSUM)) || !(f & BIT(MRG_RXBUF)))
        f &= ~(BIT(GUEST_TSO4) | BIT(GUEST_TSO6));
    return f;
}

static void set_features(struct net *n)
{
    static const struct {
        unsigned bit, nic;
    } map[] = {{VIRTIO_NET_F_CSUM, NIC_CSUM},
               {VIRTIO_NET_F_GUEST_CSUM, NIC_GUEST_CSUM},
               {VIRTIO_NET_F_HOST_TSO4, NIC_TSO4},
               {VIRTIO_NET_F_HOST_TSO6, NIC_TSO6},
               {VIRTIO_NET_F_GUEST_TSO4, NIC_GUEST_TSO},
               {VIRTIO_NET_F_GUEST_TSO6, NIC_GUEST_TSO}};
    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (virtio_has(n->dev, map[i].bit))
            n->nic.features |= map[i].nic;
}

/* ---- Probe ----------------------------------------------------------------------------------- */

static void rx_size(struct net *n, unsigned *count)
{
    uint64_t ram = board_ram_bytes();
    *count = ram < 24u << 20 ? 64 : ram < 48u << 20 ? 128 : 256;
    n->buf_size = ram >= 48u << 20 && HAS(n, MRG_RXBUF) ? 4096 : 2048;
    size_t most = n->buf_size - n->hdr_size - ETH_HEADER;
    if (n->nic.mtu > most && !HAS(n, MRG_RXBUF))
        n->nic.mtu = (uint16_t)most;
}

static int make_rx(struct net *n)
{
    unsigned count;
    rx_size(n, &count);
    int rc = virtio_queue(n->dev, VIRTIO_NET_QUEUE_RX, count, 1, 0, &n->rx);
    if (rc)
        return rc;
    n->nic.rx_buffers = n->rx->size;
    n->memory = page_alloc(n->rx->size * n->buf_size);
    n->bufs = sr_calloc(n->rx->size, sizeof(*n->bufs));
    return n->memory && n->bufs ? 0 : SR_ENOMEM;
}

static int make_tx(struct net *n)
{
    int rc =
        virtio_queue(n->dev, VIRTIO_NET_QUEUE_TX, MIN(TX_RING, n->rx->size), TX_PIECES, 0, &n->tx);
    if (rc)
        return rc;
    n->tx->quiet = true;
    n->nic.max_tx_segs = MIN(TX_PIECES, n->tx->indirect ? TX_PIECES : n->tx->size) - 1;
    n->head = page_alloc(n->tx->size * sizeof(*n->head));
    n->sent = sr_calloc(n->tx->size, sizeof(*n->sent));
    return n->head && n->sent ? 0 : SR_ENOMEM;
}

static void post_all(struct net *n)
{
    for (unsigned i = 0; i < n->rx->size; i++) {
        n->bufs[i].id = (uint16_t)i;
        n->bufs[i].nic = &n->nic;
        post(n, &n->bufs[i]);
    }
}

static int check(struct net *n)
{
    if (n->dev->legacy && !HAS(n, MRG_RXBUF)) {
        if (!virtio_has(n->dev, VIRTIO_F_ANY_LAYOUT)) { /* wants the header in a piece of its own */
            log_line("virtio-net", "%s: a legacy device without ANY_LAYOUT", n->dev->name);
            return SR_ENOTSUP;
        }
        n->hdr_size = VIRTIO_NET_LEGACY_HDR;
    }
    if (n->nic.mtu < MTU_MIN) {
        log_line("virtio-net", "%s: MTU of %u makes no sense", n->dev->name, n->nic.mtu);
        return SR_EINVAL;
    }
    if (!HAS(n, MAC)) { /* a local one, not a group's */
        board_entropy(n->nic.mac, sizeof(n->nic.mac));
        n->nic.mac[0] = (uint8_t)((n->nic.mac[0] & 0xfc) | 2);
    }
    return 0;
}

static int co_probe(struct virtio_device *d)
{
    struct net *n = sr_calloc(1, sizeof(*n));
    if (!n)
        return SR_ENOMEM;
    d->priv = n;
    n->dev = d;
    n->nic.ops = &ops;
    n->hdr_size = sizeof(struct virtio_net_hdr);
    int rc = virtio_cfg_load(d, load_config, &n->nic);
    if (!rc)
        rc = check(n);
    if (!rc)
        rc = make_rx(n);
    if (!rc)
        rc = make_tx(n);
    if (rc)
        return rc;
    set_features(n);
    virtio_ready(d);
    post_all(n);
    virtq_start(n->rx, rx_poll);
    virtq_start(n->tx, tx_poll);
    nic_register(&n->nic);
    return 0;
}

static void forget(struct virtio_device *d)
{
    struct net *n = d->priv;
    if (!n)
        return;
    if (n->nic.link.next)
        list_remove(&n->nic.link);
    if (n->memory)
        page_free(n->memory, n->rx->size * n->buf_size);
    if (n->head)
        page_free(n->head, n->tx->size * sizeof(*n->head));
    sr_free(n->bufs);
    sr_free(n->sent);
    sr_free(n);
}

const struct virtio_driver virtio_net_driver = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .features = BIT(CSUM) | BIT(GUEST_CSUM) | BIT(MTU) | BIT(MAC) | BIT(GUEST_TSO4) |
                BIT(GUEST_TSO6) | BIT(HOST_TSO4) | BIT(HOST_TSO6) | BIT(MRG_RXBUF) | BIT(STATUS),
    .choose = choose,
    .co_probe = co_probe,
    .config_changed = config_changed,
    .lost = lost,
    .forget = forget,
};
REGISTER(virtio_driver, virtio_net_driver);

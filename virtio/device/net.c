/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two network cards and the wire between them, for the loopback arrangement (virtio 1.2, 5.1).
 *
 * A frame that one driver sends is copied onto the wire, where it may be lost, or be late; when its
 * time has come it is put into the other driver's receive buffers, over as many as it takes
 * (MRG_RXBUF), as soon as there are enough. Chance is a generator with a seed, so a test can be
 * repeated. Frames keep their offload header: what left with a partial checksum or as a large
 * segment arrives so, as between guests of one host; a card whose driver did not want that does
 * not get it (the frame is lost, and counted).
 */
#include "kernel/board.h"
#include "kernel/error.h"
#include "kernel/fault.h"
#include "virtio/device/models.h"

#define FRAME_LIMIT 65562u
#define RX          VIRTIO_NET_QUEUE_RX
#define TX          VIRTIO_NET_QUEUE_TX
#define MAX_BUFFERS 64u

struct frame {
    struct qlink link;
    uint64_t due_ns;
    size_t len;
    struct virtio_net_hdr h;
    uint8_t data[];
};

static struct vnet *vnet_of(struct vdev *v)
{
    return container_of(v, struct vnet, v);
}

struct virtio_net_config *vnet_config(struct vnet *n)
{
    return (struct virtio_net_config *)(void *)n->v.config;
}

static bool has(const struct vnet *n, unsigned bit)
{
    return n->v.features >> bit & 1;
}

static size_t hdr_size(const struct vnet *n)
{
    bool whole = !n->v.legacy || has(n, VIRTIO_NET_F_MRG_RXBUF);
    return whole ? sizeof(struct virtio_net_hdr) : VIRTIO_NET_LEGACY_HDR;
}

/* ---- The wire -------------------------------------------------------------------------------- */

static uint32_t chance(struct vwire *w) /* xorshift32 */
{
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 17;
    w->seed ^= w->seed << 5;
    return w->seed;
}

/* By due time; frames of one time keep their order. */
static void insert(struct vnet *to, struct frame *f)
{
    struct qlink **at = &to->arriving.first;
    while (*at && container_of(*at, struct frame, link)->due_ns <= f->due_ns)
        at = &(*at)->next;
    f->link.next = *at;
    *at = &f->link;
    if (!f->link.next)
        to->arriving.tail = &f->link.next;
}

static bool wanted(const struct vnet *to, const struct virtio_net_hdr *h)
{
    if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM && !has(to, VIRTIO_NET_F_GUEST_CSUM))
        return false;
    if (h->gso_type == VIRTIO_NET_HDR_GSO_TCPV4)
        return has(to, VIRTIO_NET_F_GUEST_TSO4);
    return h->gso_type == VIRTIO_NET_HDR_GSO_NONE || has(to, VIRTIO_NET_F_GUEST_TSO6);
}

static void deliver(struct vnet *n);

static struct frame *new_frame(const struct virtio_net_hdr *h, size_t len, uint64_t due_ns)
{
    struct frame *f = sr_malloc(sizeof(*f) + len);
    if (!f)
        return NULL;
    f->due_ns = due_ns;
    f->len = len;
    f->h = *h;
    return f;
}

int vnet_inject(struct vnet *to, const struct virtio_net_hdr *h, const void *frame, size_t len)
{
    struct frame *f = new_frame(h, len, 0);
    if (!f)
        return SR_ENOMEM;
    memcpy(f->data, frame, len);
    insert(to, f);
    deliver(to);
    return 0;
}

static void send(struct vnet *from, const struct virtio_net_hdr *h, struct iov data)
{
    struct vwire *w = from->wire;
    uint64_t due = board_clock_ns() + w->delay_ns;
    w->frames++;
    if (chance(w) % 1000 < w->loss || !wanted(from->peer, h)) {
        w->lost++;
        return;
    }
    if (chance(w) % 1000 < w->reorder) {
        w->reordered++;
        due += w->jitter_ns ? chance(w) % w->jitter_ns : 0;
    }
    struct frame *f = new_frame(h, data.len, due);
    if (!f) {
        w->lost++;
        return;
    }
    iov_copy_out(f->data, data, 0, data.len);
    insert(from->peer, f);
}

/* ---- Into the receive buffers ---------------------------------------------------------------- */

/* Buffers for one frame, taken off the ring; the ring is left as it was when there are not enough. */
static struct vchain rx_chain[MAX_BUFFERS];

static size_t room_of(const struct vnet *n, const struct vchain *c)
{
    return n->rx_pieces ? MIN(n->rx_pieces, c->in_len) : c->in_len;
}

static unsigned take_buffers(struct vnet *n, size_t need)
{
    struct vring *r = &n->v.ring[RX];
    uint16_t before = r->avail_idx;
    unsigned count = 0;
    size_t room = 0;
    while (room < need && count < MAX_BUFFERS && vdev_next(&n->v, RX, &rx_chain[count]))
        room += room_of(n, &rx_chain[count++]);
    if (room >= need && (count == 1 || has(n, VIRTIO_NET_F_MRG_RXBUF)))
        return count;
    if (room >= need || count == MAX_BUFFERS)
        return UINT32_MAX; /* will never fit */
    r->avail_idx = before;
    return 0;
}

static void fill(struct vnet *n, struct frame *f, unsigned count)
{
    struct seg seg[2] = {{&f->h, hdr_size(n)}, {f->data, f->len}};
    struct iov all = {.seg = seg, .len = hdr_size(n) + f->len};
    le16_set(&f->h.num_buffers, (uint16_t)count);
    for (unsigned i = 0; i < count; i++) {
        size_t len = MIN(room_of(n, &rx_chain[i]), all.len);
        iov_copy(vchain_in(&rx_chain[i]), iov_slice(all, 0, len));
        all = iov_slice(all, len, all.len - len);
        vring_push(&n->v.ring[RX], rx_chain[i].id, (uint32_t)len);
    }
}

static void deliver(struct vnet *n)
{
    uint64_t now = board_clock_ns();
    while (!queue_empty(&n->arriving) && n->v.open[RX] && n->v.status & VIRTIO_STATUS_DRIVER_OK) {
        struct frame *f = container_of(n->arriving.first, struct frame, link);
        if (f->due_ns > now) {
            timer_set(&n->due, f->due_ns);
            break;
        }
        unsigned count = take_buffers(n, hdr_size(n) + f->len);
        if (!count)
            break; /* more buffers come with a notification */
        if (count != UINT32_MAX)
            fill(n, f, count);
        queue_pop(&n->arriving);
        sr_free(f);
    }
    vdev_interrupt(&n->v, RX);
}

static void due(struct timer *t)
{
    deliver(container_of(t, struct vnet, due));
}

/* ---- The device ------------------------------------------------------------------------------ */

static void transmit_all(struct vnet *n)
{
    struct vchain c;
    size_t hdr = hdr_size(n);
    while (vdev_next(&n->v, TX, &c)) {
        struct virtio_net_hdr h = {0};
        struct iov out = vchain_out(&c);
        if (out.len > hdr && out.len <= hdr + FRAME_LIMIT) {
            iov_copy_out(&h, out, 0, hdr);
            send(n, &h, iov_slice(out, hdr, out.len - hdr));
        }
        vring_push(&n->v.ring[TX], c.id, 0);
    }
    vdev_interrupt(&n->v, TX);
    deliver(n->peer);
}

static void work(struct vdev *v, unsigned queue)
{
    if (queue == TX)
        transmit_all(vnet_of(v));
    else
        deliver(vnet_of(v));
}

static void reset(struct vdev *v)
{
    struct vnet *n = vnet_of(v);
    struct qlink *l;
    while ((l = queue_pop(&n->arriving)))
        sr_free(container_of(l, struct frame, link));
    timer_cancel(&n->due);
}

static const struct vdev_ops ops = {.work = work, .reset = reset};

static void init(struct vnet *n, struct vnet *peer, struct vwire *w, uint8_t last)
{
    static const uint8_t bits[] = {
        VIRTIO_F_VERSION_1,     VIRTIO_F_INDIRECT_DESC,  VIRTIO_F_EVENT_IDX,
        VIRTIO_NET_F_CSUM,      VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MTU,
        VIRTIO_NET_F_MAC,       VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
        VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,  VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_STATUS};
    *n = (struct vnet){.peer = peer, .wire = w};
    n->v = (struct vdev){.ops = &ops, .id = VIRTIO_ID_NET, .nqueues = 2, .queue_max = 256};
    for (unsigned i = 0; i < ARRAY_LEN(bits); i++)
        n->v.offered |= 1ull << bits[i];
    queue_init(&n->arriving);
    timer_init(&n->due, due);
    struct virtio_net_config *c = vnet_config(n);
    memcpy(c->mac, (const uint8_t[]){0x52, 0x54, 0, 0, 0, last}, sizeof(c->mac));
    le16_set(&c->status, VIRTIO_NET_S_LINK_UP);
    le16_set(&c->mtu, 1500);
}

void vnet_pair_init(struct vnet *a, struct vnet *b, struct vwire *w)
{
    if (!w->seed)
        w->seed = 1;
    init(a, b, w, 1);
    init(b, a, w, 2);
}

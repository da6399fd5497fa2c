/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two virtio-net drivers and a wire between their devices: frames of all sizes over one and many
 * buffers, offload headers, a full ring, a wire that loses and reorders, and devices that lie.
 */
#include "tests/unit/support.h"

#include "kernel/kernel.h"
#include "kernel/nic.h"
#include "virtio/device/models.h"
#include <stdlib.h>
#include <string.h>

static struct vnet card[2];
static struct vwire wire;
static struct nic *nic[2];

/* What arrived at nic[1], flattened. */
static uint8_t got[65600];
static size_t got_len;
static unsigned got_frames, got_flags, got_bufs, batches, spaces, links, sent;
static bool keep; /* do not give buffers back */
static struct nic_rx_buf *kept[512];
static unsigned nkept;

static void rx(struct nic *n, struct nic_rx_buf *chain, unsigned flags)
{
    got_len = got_bufs = 0;
    for (struct nic_rx_buf *b = chain; b; b = b->next) {
        assert_ptr_equal(b->nic, n);
        memcpy(got + got_len, b->data, b->len);
        got_len += b->len;
        got_bufs++;
    }
    got_frames++;
    got_flags = flags;
    if (keep)
        kept[nkept++] = chain;
    else
        n->ops->rx_return(n, chain);
}

static void batch_end(struct nic *n)
{
    (void)n;
    batches++;
}

static void tx_space(struct nic *n)
{
    (void)n;
    spaces++;
}

static void link_change(struct nic *n)
{
    (void)n;
    links++;
}

static void done(void *cookie)
{
    (void)cookie;
    sent++;
}

static struct nic *nic_of(struct vnet *v)
{
    struct nic *found = NULL;
    for (unsigned i = 0; i < 1000 && !found; i++) {
        struct nic *n = nic_find(i);
        if (n && !memcmp(n->mac, vnet_config(v)->mac, 6))
            found = n;
    }
    assert_non_null(found);
    return found;
}

static void co_attach(void)
{
    got_frames = batches = spaces = links = sent = nkept = 0;
    keep = false;
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(co_vdev_attach(&card[i].v, i ? "loop net1" : "loop net0"), 0);
        nic[i] = nic_of(&card[i]);
        nic[i]->rx = rx;
        nic[i]->rx_batch_end = batch_end;
        nic[i]->tx_space = tx_space;
        nic[i]->link_change = link_change;
    }
}

/* Each test runs with each of these. */
static enum { SPLIT, PACKED, LEGACY, KINDS } kind;

static void prepare(void)
{
    wire = (struct vwire){0};
    vnet_pair_init(&card[0], &card[1], &wire);
    for (unsigned i = 0; i < 2; i++) {
        struct vdev *v = &card[i].v;
        v->legacy = kind == LEGACY;
        if (kind == PACKED)
            v->offered |= 1ull << VIRTIO_F_RING_PACKED;
        if (kind == LEGACY)
            v->offered = (v->offered & UINT32_MAX) | 1ull << VIRTIO_F_ANY_LAYOUT;
    }
}

static void co_detach(void)
{
    co_vdev_detach(&card[0].v);
    co_vdev_detach(&card[1].v);
}

static void co_until(const unsigned *what, unsigned count)
{
    while (*what < count)
        co_sleep_ns(10000);
}

static uint8_t frame[65562];

static int transmit(size_t len, unsigned pieces, const struct nic_tx_meta *m)
{
    struct seg seg[40];
    size_t at = 0;
    for (unsigned i = 0; i < pieces; i++) {
        seg[i] = (struct seg){frame + at, i + 1 < pieces ? len / pieces : len - at};
        at += seg[i].len;
    }
    struct iov v = {.seg = seg, .len = len};
    return nic[0]->ops->transmit(nic[0], v, m, done, NULL);
}

static void fill(size_t len)
{
    for (size_t i = 0; i < len; i++)
        frame[i] = (uint8_t)rand();
}

/* ---- Frames ---------------------------------------------------------------------------------- */

static void co_frames(void *arg)
{
    static const size_t len[] = {14, 60, 1514, 2036, 2037, 4084, 4085, 9000, 65000, 65549};
    struct nic_tx_meta plain = {0};
    (void)arg;
    prepare();
    co_attach();
    assert_int_equal(nic[0]->features,
                     NIC_CSUM | NIC_GUEST_CSUM | NIC_TSO4 | NIC_TSO6 | NIC_GUEST_TSO);
    assert_int_equal(nic[0]->mtu, 1500);
    for (unsigned i = 0; i < ARRAY_LEN(len); i++) {
        fill(len[i]);
        assert_int_equal(transmit(len[i], 1 + i % 3, &plain), 0);
        co_until(&got_frames, i + 1);
        assert_int_equal(got_len, len[i]);
        assert_memory_equal(got, frame, len[i]);
        assert_int_equal(got_flags, 0);
        assert_int_equal(got_bufs, (len[i] + 12 + 4095) / 4096);
    }
    co_until(&sent, ARRAY_LEN(len));
    assert_true(batches > 0);
    assert_int_equal(transmit(1000, nic[0]->max_tx_segs, &plain), 0);
    assert_int_equal(transmit(1000, nic[0]->max_tx_segs + 1, &plain), SR_EINVAL);
    co_until(&sent, ARRAY_LEN(len) + 1);
    co_detach();
}

static void co_meta(void *arg)
{
    (void)arg;
    prepare();
    co_attach();
    struct nic_tx_meta m = {.csum = true, .csum_start = 34, .csum_offset = 16};
    assert_int_equal(transmit(200, 2, &m), 0);
    co_until(&got_frames, 1);
    assert_int_equal(got_flags, NIC_RX_CSUM_PARTIAL);
    m.gso = 6;
    m.gso_size = 1440;
    m.hdr_len = 74;
    assert_int_equal(transmit(30000, 20, &m), 0);
    co_until(&got_frames, 2);
    assert_int_equal(got_len, 30000);
    struct virtio_net_hdr h = {.flags = VIRTIO_NET_HDR_F_DATA_VALID};
    vnet_inject(&card[1], &h, frame, 100);
    co_until(&got_frames, 3);
    assert_int_equal(got_flags, NIC_RX_CSUM_VALID);
    co_detach();
}

/* Without mergeable buffers there is no large frame to receive, whatever the device offers. */
static void co_plain(void *arg)
{
    (void)arg;
    prepare();
    for (unsigned i = 0; i < 2; i++) {
        card[i].v.offered &= ~(1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_CSUM |
                               1ull << VIRTIO_F_INDIRECT_DESC);
        le16_set(&vnet_config(&card[i])->mtu, 9000);
    }
    co_attach();
    assert_int_equal(nic[1]->features, NIC_GUEST_CSUM);
    assert_int_equal(nic[1]->mtu, kind == LEGACY ? 2024 : 2022); /* what a buffer holds */
    assert_int_equal(card[0].v.ring[0].packed, kind == PACKED);
    struct nic_tx_meta m = {0};
    for (unsigned i = 0; i < 500; i++) {
        fill(1514);
        assert_int_equal(transmit(1514, 3, &m), 0);
        co_until(&got_frames, i + 1);
        assert_memory_equal(got, frame, 1514);
    }
    co_detach();
}

/* ---- Full rings ------------------------------------------------------------------------------ */

static void co_full(void *arg)
{
    struct nic_tx_meta m = {0};
    unsigned n = 0;
    (void)arg;
    prepare();
    co_attach();
    keep = true;
    while (transmit(60, 1, &m) == 0)
        n++;
    assert_int_equal(n, 256);
    assert_int_equal(transmit(60, 1, &m), SR_EAGAIN);
    co_until(&spaces, 1);
    assert_int_equal(transmit(60, 1, &m), 0);
    co_until(&sent, 257);
    assert_int_equal(got_frames, 256); /* the last one waits: no buffer is left */
    co_sleep_ns(1000000);
    assert_int_equal(got_frames, 256);
    nic[1]->ops->rx_return(nic[1], kept[0]);
    co_until(&got_frames, 257);
    for (unsigned i = 1; i < nkept; i++)
        nic[1]->ops->rx_return(nic[1], kept[i]);
    keep = false;
    assert_int_equal(transmit(60000, 1, &m), 0);
    co_until(&got_frames, 258);
    assert_int_equal(got_len, 60000);
    co_detach();
}

/* ---- The wire -------------------------------------------------------------------------------- */

static void co_wire(void *arg)
{
    struct nic_tx_meta m = {0};
    (void)arg;
    prepare();
    wire.loss = 100;
    wire.reorder = 200;
    wire.delay_ns = 100000;
    wire.jitter_ns = 1000000;
    co_attach();
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(transmit(100, 1, &m), 0);
        co_reschedule();
    }
    co_until(&sent, 1000);
    co_until(&got_frames, 1000 - (unsigned)wire.lost);
    co_sleep_ns(5000000); /* and none is there twice */
    assert_in_range(wire.lost, 50, 150);
    assert_in_range(wire.reordered, 100, 300);
    assert_int_equal(got_frames, 1000 - wire.lost);
    co_detach();
}

static void co_link(void *arg)
{
    (void)arg;
    prepare();
    co_attach();
    assert_true(nic[0]->link_up);
    le16_set(&vnet_config(&card[0])->status, 0);
    vdev_config_changed(&card[0].v);
    co_until(&links, 1);
    assert_false(nic[0]->link_up);
    assert_true(nic[1]->link_up);
    co_detach();
}

/* ---- Devices that lie ------------------------------------------------------------------------ */

/* One receive buffer with this length and number of buffers. */
static void inject_raw(size_t len, unsigned buffers, bool header_only)
{
    struct vchain c;
    struct virtio_net_hdr h = {0};
    le16_set(&h.num_buffers, (uint16_t)buffers);
    assert_true(vdev_next(&card[1].v, 0, &c));
    if (!header_only)
        iov_copy_in(vchain_in(&c), 0, &h, sizeof(h));
    vring_push(&card[1].v.ring[0], c.id, (uint32_t)len);
}

static void co_lies(void *arg)
{
    static const struct {
        size_t len;
        unsigned buffers;
        bool breaks;
    } t[] = {{11, 1, true},  {100, 0, true}, {100, 257, true}, {100, 65535, true},
             {12, 1, false}, {25, 1, false}, {0, 1, true}};
    struct nic_tx_meta m = {0};
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        prepare();
        co_attach();
        co_sleep_ns(1000000);
        inject_raw(t[i].len, t[i].buffers, false);
        co_sleep_ns(1000000);
        assert_int_equal(got_frames, 0);
        assert_int_equal(card[1].v.dev.broken, t[i].breaks);
        if (t[i].breaks) {
            while (!card[1].v.dev.stopped)
                co_sleep_ns(1000000);
            assert_false(nic[1]->link_up);
            unsigned before = sent; /* frames go nowhere, but their memory comes back */
            struct seg seg;
            assert_int_equal(
                nic[1]->ops->transmit(nic[1], iov_one(&seg, frame, 60), &m, done, NULL), 0);
            assert_int_equal(sent, before + 1);
        } else {
            assert_int_equal(transmit(60, 1, &m), 0);
            co_until(&got_frames, 1);
        }
        co_detach();
    }
}

/* What was in flight comes back when the device has stopped. */
static void co_lost(void *arg)
{
    struct nic_tx_meta m = {0};
    (void)arg;
    prepare();
    co_attach();
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(transmit(60, 1, &m), 0);
    virtio_fail(&card[0].v.dev, "test");
    assert_int_equal(sent, 0);
    co_until(&links, 1);
    assert_int_equal(sent, 3);
    co_detach();
}

/* Frames in parts: headers torn apart, empty parts, too much in all, parts that come late. */
static void co_parts(void *arg)
{
    struct virtio_net_hdr h = {0};
    struct nic_tx_meta m = {0};
    (void)arg;
    prepare();
    co_attach();
    co_sleep_ns(1000000);
    card[1].rx_pieces = 100; /* 88 bytes of headers in the first: dropped */
    vnet_inject(&card[1], &h, frame, 1000);
    card[1].rx_pieces = 0;
    co_sleep_ns(1000000);
    assert_int_equal(got_frames, 0);
    inject_raw(200, 3, false); /* two more to come */
    co_sleep_ns(1000000);
    assert_int_equal(got_frames, 0);
    inject_raw(50, 0, true);
    inject_raw(60, 0, true);
    co_until(&got_frames, 1);
    assert_int_equal(got_len, 188 + 110);
    inject_raw(200, 2, false);
    inject_raw(0, 0, true); /* an empty part */
    for (unsigned i = 0; i < 17; i++)
        inject_raw(4096, 17, i > 0); /* 69620 bytes */
    co_sleep_ns(1000000);
    assert_int_equal(got_frames, 1);
    assert_int_equal(transmit(60, 1, &m), 0);
    co_until(&got_frames, 2);
    assert_false(card[1].v.dev.broken);
    co_detach();
}

static void co_bad_config(void *arg)
{
    (void)arg;
    prepare();
    le16_set(&vnet_config(&card[0])->mtu, 67);
    assert_int_not_equal(co_vdev_attach(&card[0].v, "loop bad"), 0);
    prepare();
    card[0].v.nqueues = 1;
    assert_int_not_equal(co_vdev_attach(&card[0].v, "loop bad"), 0);
    prepare();
    card[0].v.legacy = true;
    card[0].v.offered &= ~(1ull << VIRTIO_F_ANY_LAYOUT | 1ull << VIRTIO_NET_F_MRG_RXBUF);
    assert_int_equal(co_vdev_attach(&card[0].v, "loop old"), SR_ENOTSUP);
    for (uint64_t nth = 1;; nth++) {
        prepare();
        fault_arm(FAULT_ALLOC, nth, false);
        int rc = co_vdev_attach(&card[0].v, "loop poor");
        bool fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0, false);
        assert_int_equal(rc, fired ? SR_ENOMEM : 0);
        if (!rc) {
            co_vdev_detach(&card[0].v);
            break;
        }
    }
}

#define TEST(name)                           \
    static void test_##name(void **state)    \
    {                                        \
        (void)state;                         \
        for (kind = 0; kind < KINDS; kind++) \
            test_co_run(co_##name, NULL);    \
    }
TEST(frames)
TEST(meta)
TEST(plain)
TEST(full)
TEST(wire)
TEST(link)
TEST(lies)
TEST(lost)
TEST(parts)
TEST(bad_config)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames), cmocka_unit_test(test_meta),
        cmocka_unit_test(test_plain),  cmocka_unit_test(test_full),
        cmocka_unit_test(test_wire),   cmocka_unit_test(test_link),
        cmocka_unit_test(test_lies),   cmocka_unit_test(test_lost),
        cmocka_unit_test(test_parts),  cmocka_unit_test(test_bad_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtqueue, driver's side against device's side, split and packed: wrap of all counters, chains
 * with and without indirect tables, a full ring, notifications and interrupts that are wanted or not,
 * and a device that puts each kind of nonsense into the ring.
 */
#include "tests/unit/support.h"

#include "kernel/kernel.h"
#include "virtio/device/loopback.h"

#define RING_ID 0x7777u

static struct {
    unsigned size, pieces;
    struct virtq *q;
    unsigned lost;
} ring;

static int co_ring_probe(struct virtio_device *d)
{
    int rc = virtio_queue(d, 0, ring.size, ring.pieces, 0, &ring.q);
    if (!rc)
        virtio_ready(d);
    return rc;
}

static void ring_lost(struct virtio_device *d)
{
    (void)d;
    ring.lost++;
}

static void ring_forget(struct virtio_device *d)
{
    (void)d;
}

static const struct virtio_driver ring_driver = {.name = "ring",
                                                 .id = RING_ID,
                                                 .co_probe = co_ring_probe,
                                                 .lost = ring_lost,
                                                 .forget = ring_forget};
REGISTER(virtio_driver, ring_driver);

/* The test is the device: it works on the ring by hand. */
static void ring_work(struct vdev *v, unsigned queue)
{
    (void)v, (void)queue;
}
static const struct vdev_ops ring_ops = {.work = ring_work};
static struct vdev dev;

#define EVENTS   (1ull << VIRTIO_F_EVENT_IDX)
#define INDIRECT (1ull << VIRTIO_F_INDIRECT_DESC)
#define PACKED   (1ull << VIRTIO_F_RING_PACKED)

static struct vring *co_make(unsigned size, unsigned pieces, uint64_t features)
{
    ring.size = size;
    ring.pieces = pieces;
    ring.lost = 0;
    dev = (struct vdev){.ops = &ring_ops, .id = RING_ID, .nqueues = 1, .queue_max = 256};
    dev.offered = 1ull << VIRTIO_F_VERSION_1 | features;
    assert_int_equal(co_vdev_attach(&dev, "loop ring"), 0);
    assert_int_equal(ring.q->indirect, !!(features & INDIRECT) && pieces > 1);
    return &dev.ring[0];
}

/* ---- Wrap -------------------------------------------------------------------------------------- */

struct item {
    uint8_t head[16], data[64], status;
    bool busy;
    unsigned serial;
};
static struct item items[64];
static struct vchain held[64];

static unsigned rnd(unsigned n)
{
    static uint32_t x = 12345;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return x % n;
}

static bool push_item(struct virtq *q, unsigned serial)
{
    struct virtq_chain c;
    if (!virtq_begin(q, &c, 3))
        return false;
    struct item *it = &items[c.id];
    assert_false(it->busy);
    *it = (struct item){.busy = true, .serial = serial, .status = 0xff};
    memset(it->head, (int)serial, sizeof(it->head));
    size_t len = 1 + serial % sizeof(it->data);
    virtq_out(&c, it->head, sizeof(it->head));
    virtq_in(&c, it->data, len);
    virtq_in(&c, &it->status, 1);
    virtq_push(q, &c, it);
    return true;
}

/* The device: copies the head's byte over all it may write. */
static void answer(struct vring *r, const struct vchain *c)
{
    assert_int_equal(c->nout, 1);
    assert_int_equal(c->nin, 2);
    uint8_t byte;
    iov_copy_out(&byte, vchain_out(c), 15, 1);
    iov_fill(vchain_in(c), 0, byte, c->in_len);
    vring_push(r, c->id, (uint32_t)c->in_len);
}

static void check_item(const struct item *it, uint32_t len)
{
    assert_int_equal(len, 2 + it->serial % sizeof(it->data));
    assert_int_equal(it->status, (uint8_t)it->serial);
    for (unsigned i = 0; i + 1 < len; i++)
        assert_int_equal(it->data[i], (uint8_t)it->serial);
    assert_true(len > sizeof(it->data) || it->data[len - 1] == 0);
}

static void wrap(unsigned size, uint64_t features)
{
    struct vring *r = co_make(size, 3, features);
    struct virtq *q = ring.q;
    unsigned pushed = 0, popped = 0, nheld = 0, most = 0;
    while (popped < 70000) {
        while (rnd(3) && push_item(q, pushed))
            pushed++;
        while (rnd(3) && vring_pop(r, &held[nheld]) == 1)
            nheld++;
        most = MAX(most, nheld);
        while (nheld && rnd(3)) {
            unsigned i = rnd(nheld);
            answer(r, &held[i]);
            held[i] = held[--nheld];
        }
        struct item *it;
        uint16_t id;
        uint32_t len;
        while ((it = virtq_pop(q, &id, &len))) {
            assert_ptr_equal(it, &items[id]);
            check_item(it, len);
            it->busy = false;
            popped++;
        }
        assert_int_equal(virtq_idle(q), pushed == popped);
        if (q->indirect)
            assert_int_equal(q->size - q->num_free, pushed - popped);
    }
    assert_true(most >= (q->indirect ? size : size / 3));
    assert_false(dev.dev.broken);
    memset(items, 0, sizeof(items));
    co_vdev_detach(&dev);
    assert_int_equal(ring.lost, 1);
}

static void co_wrap(void *arg)
{
    (void)arg;
    wrap(8, INDIRECT | EVENTS);
    wrap(8, INDIRECT);
    wrap(8, EVENTS);
    wrap(32, 0);
    wrap(4, 0); /* a chain and one descriptor */
    wrap(8, PACKED | INDIRECT | EVENTS);
    wrap(8, PACKED | INDIRECT);
    wrap(8, PACKED | EVENTS);
    wrap(32, PACKED);
    wrap(4, PACKED);
}

static void test_wrap(void **state)
{
    (void)state;
    test_co_run(co_wrap, NULL);
}

/* ---- Full -------------------------------------------------------------------------------------- */

static void full(uint64_t layout)
{
    uint16_t id;
    uint32_t len;
    struct vring *r = co_make(8, 3, layout | INDIRECT);
    for (unsigned i = 0; i < 8; i++)
        assert_true(push_item(ring.q, i));
    assert_false(virtq_has_room(ring.q, 3));
    assert_false(push_item(ring.q, 8));
    assert_int_equal(vring_pop(r, &held[0]), 1);
    answer(r, &held[0]);
    assert_non_null(virtq_pop(ring.q, &id, &len));
    items[id].busy = false;
    assert_true(push_item(ring.q, 9));
    assert_false(push_item(ring.q, 10));
    co_vdev_detach(&dev);

    memset(items, 0, sizeof(items));
    co_make(8, 3, layout); /* chains of 3 in 8: two fit */
    assert_true(push_item(ring.q, 0));
    assert_true(push_item(ring.q, 1));
    assert_false(push_item(ring.q, 2));
    assert_true(virtq_has_room(ring.q, 2));
    unsigned n = 0;
    while (virtq_detach(ring.q, &id))
        n++;
    assert_int_equal(n, 2);
    assert_int_equal(ring.q->num_free, 8);
    co_vdev_detach(&dev);
    memset(items, 0, sizeof(items));
}

static void co_full(void *arg)
{
    (void)arg;
    full(0);
    full(PACKED);
}

static void test_full(void **state)
{
    (void)state;
    test_co_run(co_full, NULL);
}

/* ---- Notifications and interrupts -------------------------------------------------------------- */

/* A fresh ring of which so many chains have gone through. */
static struct vring *co_make_used(uint64_t features, unsigned chains)
{
    struct vring *r = co_make(8, 3, INDIRECT | features);
    struct vchain c;
    uint16_t id;
    uint32_t len;
    while (chains--) {
        push_item(ring.q, 0);
        assert_int_equal(vring_pop(r, &c), 1);
        answer(r, &c);
        assert_non_null(virtq_pop(ring.q, &id, &len));
        items[id].busy = false;
    }
    virtq_kick(ring.q);
    (void)vring_interrupt(r);
    dev.notifications = 0;
    return r;
}

static void notifications(uint64_t features, unsigned before)
{
    struct vring *r = co_make_used(features, before);
    struct vchain c;
    vring_notify_me(r, true);
    push_item(ring.q, 0);
    push_item(ring.q, 1);
    assert_int_equal(dev.notifications, 0); /* at the end of the turn, */
    co_reschedule();
    assert_int_equal(dev.notifications, 1); /* once */
    vring_notify_me(r, false);
    push_item(ring.q, 2);
    co_reschedule();
    assert_int_equal(dev.notifications, 1); /* the device is still busy with the others */
    while (vring_pop(r, &c) == 1)
        answer(r, &c);
    vring_notify_me(r, true);
    push_item(ring.q, 3);
    virtq_kick(ring.q);
    assert_int_equal(dev.notifications, 2);
    co_reschedule();
    assert_int_equal(dev.notifications, 2); /* not again */
    memset(items, 0, sizeof(items));
    co_vdev_detach(&dev);
}

static void interrupts(uint64_t features, unsigned before)
{
    struct vring *r = co_make_used(features, before);
    struct vchain c;
    uint16_t id;
    uint32_t len;
    for (unsigned i = 0; i < 4; i++)
        push_item(ring.q, i);
    vring_pop(r, &c);
    answer(r, &c);
    assert_false(vring_interrupt(r)); /* nobody asked */
    assert_non_null(virtq_pop(ring.q, &id, &len));
    virtq_arm(ring.q);
    assert_false(vring_interrupt(r));
    vring_pop(r, &c);
    answer(r, &c);
    assert_true(vring_interrupt(r));
    assert_non_null(virtq_pop(ring.q, &id, &len));
    virtq_disarm(ring.q);
    vring_pop(r, &c);
    answer(r, &c);
    assert_false(vring_interrupt(r));
    memset(items, 0, sizeof(items));
    co_vdev_detach(&dev);
}

static void co_events(void *arg)
{
    (void)arg;
    static const uint64_t kinds[] = {EVENTS, 0, PACKED | EVENTS, PACKED};
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++)
        for (unsigned before = 0; before < 40; before++) { /* over laps of a packed ring */
            notifications(kinds[k], before);
            interrupts(kinds[k], before);
        }
}

static void test_events(void **state)
{
    (void)state;
    test_co_run(co_events, NULL);
}

/* ---- A device that lies ------------------------------------------------------------------------ */

enum lie { BAD_ID, NOT_IN_FLIGHT, TWICE, TOO_LONG, JUMP, BACKWARDS };

/* What a device of a packed ring can write where the next completion is looked for, beside ids. */
static void tell_packed(struct vring *r, enum lie lie, struct vring_id id)
{
    if (lie == JUMP) { /* the wrap bits of the next lap: not a completion */
        r->used_idx = (uint16_t)(r->used_idx + r->size);
        vring_push(r, id, 1);
        assert_null(virtq_pop(ring.q, &id.id, &(uint32_t){0}));
        assert_false(dev.dev.broken);
        r->used_idx = (uint16_t)(r->used_idx - r->size - id.count);
        vring_push(r, (struct vring_id){UINT16_MAX, 1}, 1);
    } else { /* all bits set, in each descriptor */
        memset(r->ring, 0xff, r->size * sizeof(*r->ring));
    }
}

static void tell(struct vring *r, enum lie lie)
{
    struct vchain c;
    assert_int_equal(vring_pop(r, &c), 1);
    switch (lie) {
    case BAD_ID:
        vring_push(r, (struct vring_id){8, c.id.count}, 1);
        break;
    case NOT_IN_FLIGHT:
        vring_push(r, (struct vring_id){7, c.id.count}, 1);
        break;
    case TWICE:
        vring_push(r, c.id, 1);
        vring_push(r, c.id, 1);
        break;
    case TOO_LONG:
        vring_push(r, c.id, (uint32_t)c.in_len + 1);
        break;
    case JUMP:
    case BACKWARDS:
        if (r->packed)
            tell_packed(r, lie, c.id);
        else
            vring_store(&r->used->idx, lie == JUMP ? 3 : UINT16_MAX);
    }
}

static void co_lie(enum lie lie, uint64_t features)
{
    uint16_t id;
    uint32_t len;
    struct vring *r = co_make(8, 3, features);
    push_item(ring.q, 0);
    push_item(ring.q, 1);
    co_reschedule();
    tell(r, lie);
    unsigned right = 0;
    while (virtq_pop(ring.q, &id, &len))
        right++;
    assert_int_equal(right, lie == TWICE ? 1 : 0);
    assert_true(dev.dev.broken);
    while (!dev.dev.stopped)
        co_sleep_ns(1000);
    assert_int_equal(ring.lost, 1);
    assert_int_equal(dev.status, 0);
    assert_null(virtq_pop(ring.q, &id, &len)); /* for good */
    virtio_fail(&dev.dev, "again");
    co_sleep_ns(1000000);
    assert_int_equal(ring.lost, 1);
    unsigned left = 0;
    while (virtq_detach(ring.q, &id))
        left++;
    assert_int_equal(left, 2 - right);
    memset(items, 0, sizeof(items));
    co_vdev_detach(&dev);
}

/* 2.8.5: without WRITE the length says nothing, and is no reason to break. */
static void co_no_write_flag(void)
{
    uint16_t id;
    uint32_t len;
    struct vchain c;
    struct vring *r = co_make(8, 3, PACKED | INDIRECT);
    push_item(ring.q, 0);
    assert_int_equal(vring_pop(r, &c), 1);
    vring_packed_store(&r->ring[0], vring_packed_word(UINT32_MAX, c.id.id, VRING_PACKED_BITS));
    assert_non_null(virtq_pop(ring.q, &id, &len));
    assert_int_equal(len, 0);
    assert_false(dev.dev.broken);
    memset(items, 0, sizeof(items));
    co_vdev_detach(&dev);
}

static void co_lies(void *arg)
{
    static const uint64_t kinds[] = {INDIRECT | EVENTS, 0, PACKED | INDIRECT | EVENTS, PACKED};
    (void)arg;
    for (enum lie l = BAD_ID; l <= BACKWARDS; l++)
        for (unsigned k = 0; k < ARRAY_LEN(kinds); k++)
            co_lie(l, kinds[k]);
    co_no_write_flag();
}

static void test_lies(void **state)
{
    (void)state;
    test_co_run(co_lies, NULL);
}

/* A device that does not confirm its reset loses its bus before anything is given back. */
static void co_no_reset(void *arg)
{
    (void)arg;
    co_make(8, 3, INDIRECT);
    dev.no_reset = true;
    virtio_fail(&dev.dev, "test");
    while (!dev.dev.stopped) {
        assert_int_equal(ring.lost, dev.cut);
        co_sleep_ns(1000000);
    }
    assert_true(dev.cut);
    assert_int_equal(ring.lost, 1);
    dev.no_reset = false;
    co_vdev_detach(&dev);
}

static void test_no_reset(void **state)
{
    (void)state;
    test_co_run(co_no_reset, NULL);
}

/* ---- The legacy layout ------------------------------------------------------------------------- */

static void co_legacy(void *arg)
{
    (void)arg;
    for (unsigned size = 4; size <= 256; size *= 4) {
        ring.size = size;
        ring.pieces = 3;
        dev = (struct vdev){.ops = &ring_ops, .id = RING_ID, .nqueues = 1, .queue_max = 256};
        dev.legacy = true;
        dev.offered = INDIRECT | 1ull << VIRTIO_F_ANY_LAYOUT | 1ull << 24 | PACKED;
        assert_int_equal(co_vdev_attach(&dev, "loop legacy"), 0);
        assert_int_equal(dev.features, INDIRECT | 1ull << VIRTIO_F_ANY_LAYOUT);
        assert_int_equal(dev.status & VIRTIO_STATUS_FEATURES_OK, 0);
        const struct virtq *q = ring.q;
        uint64_t used =
            align_up(q->desc_addr + VRING_DESC_BYTES(size) + VRING_AVAIL_BYTES(size), PAGE_SIZE);
        assert_int_equal(q->desc_addr % PAGE_SIZE, 0);
        assert_int_equal(q->driver_addr, q->desc_addr + VRING_DESC_BYTES(size));
        assert_int_equal(q->device_addr, used);
        co_vdev_detach(&dev);
    }
}

static void test_legacy(void **state)
{
    (void)state;
    test_co_run(co_legacy, NULL);
}

/* ---- Negotiation ------------------------------------------------------------------------------- */

static void co_refused(void *arg)
{
    (void)arg;
    ring.size = 8;
    ring.pieces = 3;
    dev = (struct vdev){.ops = &ring_ops, .id = RING_ID, .nqueues = 1, .queue_max = 8};
    assert_int_equal(co_vdev_attach(&dev, "loop legacy"), SR_ENOTSUP);
    dev.offered = 1ull << VIRTIO_F_VERSION_1;
    dev.no_features_ok = true;
    assert_int_equal(co_vdev_attach(&dev, "loop picky"), SR_ENOTSUP);
    dev.no_features_ok = false;
    dev.nqueues = 0;
    assert_int_equal(co_vdev_attach(&dev, "loop bare"), SR_EINVAL);
    dev.nqueues = 1;
    dev.id = 0x7778;
    assert_int_equal(co_vdev_attach(&dev, "loop unknown"), SR_ENODEV);
    dev.id = RING_ID;
    dev.offered |= 1ull << 50; /* not understood: not chosen */
    assert_int_equal(co_vdev_attach(&dev, "loop good"), 0);
    assert_int_equal(dev.features, 1ull << VIRTIO_F_VERSION_1);
    co_vdev_detach(&dev);
}

static void test_refused(void **state)
{
    (void)state;
    test_co_run(co_refused, NULL);
}

/* ---- The device's side against a hostile driver ------------------------------------------------ */

static struct vring_desc desc[8] __attribute__((aligned(16)));
static uint8_t avail_memory[VRING_AVAIL_BYTES(8)] __attribute__((aligned(16)));
static uint8_t used_memory[VRING_USED_BYTES(8)] __attribute__((aligned(16)));
static struct vring_desc table[4] __attribute__((aligned(16)));
static uint8_t outside[16];

static void set(struct vring_desc *d, const void *p, uint32_t len, unsigned flags, unsigned next)
{
    le64_set(&d->addr, (uintptr_t)p);
    le32_set(&d->len, len);
    le16_set(&d->flags, (uint16_t)flags);
    le16_set(&d->next, (uint16_t)next);
}

/* One window over desc; everything else is outside of it. */
static int pop_with(unsigned head, unsigned ahead)
{
    struct vwindow w[] = {{(uintptr_t)desc, sizeof(desc), (uint8_t *)desc},
                          {(uintptr_t)avail_memory, sizeof(avail_memory), avail_memory},
                          {(uintptr_t)used_memory, sizeof(used_memory), used_memory},
                          {(uintptr_t)table, sizeof(table), (uint8_t *)table}};
    struct vmemory m = {w, ARRAY_LEN(w)};
    struct vring r;
    static struct vchain c;
    assert_int_equal(vring_open(&r, &m, 8, (uintptr_t)desc, (uintptr_t)avail_memory,
                                (uintptr_t)used_memory, INDIRECT),
                     0);
    le16_set(&r.avail->ring[0], (uint16_t)head);
    le16_set(&r.avail->idx, (uint16_t)ahead);
    int rc = vring_pop(&r, &c);
    assert_int_equal(r.broken, rc < 0);
    if (rc < 0)
        assert_int_equal(vring_pop(&r, &c), SR_EIO);
    return rc;
}

static void test_device_side(void **state)
{
    (void)state;
    const unsigned W = VRING_DESC_WRITE, N = VRING_DESC_NEXT, I = VRING_DESC_INDIRECT;
    set(&desc[0], desc, 16, 0, 0);
    assert_int_equal(pop_with(0, 1), 1);
    assert_int_equal(pop_with(0, 0), 0);
    assert_int_equal(pop_with(8, 1), SR_EIO); /* head out of range */
    assert_int_equal(pop_with(0, 9), SR_EIO); /* more than the ring holds */
    set(&desc[0], desc, 0, 0, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* nothing */
    set(&desc[0], outside, 16, 0, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* outside the windows */
    set(&desc[0], desc, sizeof(desc) + 1, 0, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* over the end of one */
    set(&desc[0], desc, 16, N, 8);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* link out of range */
    set(&desc[0], desc, 16, N, 1);
    set(&desc[1], desc, 16, N, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* a circle */
    set(&desc[0], desc, 16, N | W, 1);
    set(&desc[1], desc, 16, 0, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* to read behind to write */
    set(&desc[0], table, sizeof(table), I, 0);
    for (unsigned i = 0; i < 4; i++)
        set(&table[i], desc, 16, i < 3 ? N : 0, i + 1);
    assert_int_equal(pop_with(0, 1), 1);
    set(&desc[0], table, sizeof(table) - 1, I, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* not whole descriptors */
    set(&desc[0], table, sizeof(table), I | N, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* a table and a link */
    set(&desc[0], table, sizeof(table), I, 0);
    set(&table[3], table, sizeof(table), I, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* a table in a table */
    set(&table[3], desc, 16, N, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* a circle in a table */
    set(&desc[0], outside, 16, I, 0);
    assert_int_equal(pop_with(0, 1), SR_EIO); /* a table outside */
}

static struct vring_packed_desc packed[8] __attribute__((aligned(16)));
static struct vring_event driver_event, device_event __attribute__((aligned(4)));

static void set_packed(struct vring_packed_desc *d, const void *p, uint32_t len, unsigned flags)
{
    le64_set(&d->addr, (uintptr_t)p);
    le32_set(&d->len, len);
    le16_set(&d->id, 0x4321);
    le16_set(&d->flags, (uint16_t)flags);
}

/* As pop_with, at position `at` of the ring, `behind` descriptors of it not given back. */
static int packed_pop_with(unsigned at, unsigned behind)
{
    struct vwindow w[] = {{(uintptr_t)packed, sizeof(packed), (uint8_t *)packed},
                          {(uintptr_t)&driver_event, 4, (uint8_t *)&driver_event},
                          {(uintptr_t)&device_event, 4, (uint8_t *)&device_event},
                          {(uintptr_t)table, sizeof(table), (uint8_t *)table}};
    struct vmemory m = {w, ARRAY_LEN(w)};
    struct vring r;
    static struct vchain c;
    assert_int_equal(vring_open(&r, &m, 8, (uintptr_t)packed, (uintptr_t)&driver_event,
                                (uintptr_t)&device_event, INDIRECT | PACKED),
                     0);
    r.avail_idx = (uint16_t)at;
    r.used_idx = (uint16_t)(at - behind);
    int rc = vring_pop(&r, &c);
    assert_int_equal(r.broken, rc < 0);
    if (rc > 0)
        assert_int_equal(c.id.id, 0x4321);
    return rc;
}

static void test_packed_device_side(void **state)
{
    (void)state;
    const unsigned W = VRING_DESC_WRITE, N = VRING_DESC_NEXT, I = VRING_DESC_INDIRECT;
    const unsigned A = VRING_PACKED_AVAIL, U = VRING_PACKED_USED;
    set_packed(&packed[0], packed, 16, A);
    assert_int_equal(packed_pop_with(0, 0), 1);
    assert_int_equal(packed_pop_with(0, 7), 1);
    assert_int_equal(packed_pop_with(0, 8), SR_EIO); /* available before it was given back */
    assert_int_equal(packed_pop_with(8, 0), 0);      /* of the lap before */
    set_packed(&packed[0], packed, 16, U);
    assert_int_equal(packed_pop_with(0, 0), 0);
    assert_int_equal(packed_pop_with(8, 0), 1);
    set_packed(&packed[0], packed, 16, A | U); /* used */
    assert_int_equal(packed_pop_with(0, 0), 0);
    assert_int_equal(packed_pop_with(8, 0), 0);
    set_packed(&packed[0], packed, 0, A);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* nothing */
    set_packed(&packed[0], outside, 16, A);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* outside the windows */
    set_packed(&packed[0], packed, sizeof(packed) + 1, A);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* over the end of one */
    for (unsigned i = 0; i < 8; i++)
        set_packed(&packed[i], packed, 16, A | N);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* a list without an end */
    set_packed(&packed[7], packed, 16, A);
    assert_int_equal(packed_pop_with(0, 0), 1);
    assert_int_equal(packed_pop_with(0, 1), SR_EIO); /* longer than what may be ours */
    set_packed(&packed[7], packed, 16, A | N);
    set_packed(&packed[0], packed, 16, U);
    assert_int_equal(packed_pop_with(7, 0), 1); /* over the end of the ring */
    set_packed(&packed[0], packed, 16, A | N | W);
    set_packed(&packed[1], packed, 16, A);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* to read behind to write */
    set_packed(&packed[0], table, sizeof(table), A | I);
    for (unsigned i = 0; i < 4; i++) /* flags of a table but WRITE mean nothing */
        set_packed((struct vring_packed_desc *)(void *)&table[i], packed, 16, N | I | A);
    assert_int_equal(packed_pop_with(0, 7), 1);
    assert_int_equal(packed_pop_with(0, 8), SR_EIO);
    set_packed(&packed[0], table, sizeof(table) - 1, A | I);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* not whole descriptors */
    set_packed(&packed[0], table, sizeof(table), A | I | N);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* a table in a list */
    set_packed(&packed[0], packed, 16, A | N);
    set_packed(&packed[1], table, sizeof(table), A | I);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* and at its end */
    set_packed(&packed[0], outside, 16, A | I);
    assert_int_equal(packed_pop_with(0, 0), SR_EIO); /* a table outside */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrap),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_no_reset),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_device_side),
        cmocka_unit_test(test_legacy),
        cmocka_unit_test(test_packed_device_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

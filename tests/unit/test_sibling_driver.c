/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Our virtio-blk driver and our block device, face to face: a transport that says vhost-user to the
 * relay, as the QEMU of a sibling would, and the block layer on both ends.
 *
 *     node "up" -- driver -- transport -- bridge -- relay -- vhost -- vdisk -- node "m"
 */
#include "tests/unit/support_sibling.h"

#include "virtio/virtio.h"
#include <stdlib.h>
#include <string.h>

#define SIZE (4u << 20)
#define SEGS 40

static struct guest *const g = &guest[0];
static struct memdisk *disk;
static struct test_root root;
static uint8_t *mirror;

/* ---- The transport ---------------------------------------------------------------------------- */

static struct fake {
    struct virtio_device dev;
    uint8_t status;
    uint64_t features, taken; /* taken away from what is offered */
    uint8_t config[64];
    struct virtq *queue;
} fake;

static uint8_t get_status(struct virtio_device *d)
{
    (void)d;
    return fake.status;
}

static void co_begin(void)
{
    struct vhost_user_vring_addr a = {0};
    struct {
        struct vhost_user_memory head;
        struct vhost_user_region all;
    } m = {0};
    static const uint64_t zero = 0, call = 1 << 16;
    le64 index = {{0}};
    co_guest_u64(g, VHOST_USER_SET_FEATURES, fake.features);
    le32_set(&m.head.count, 1);
    le64_set(&m.all.guest_addr, ALL_BASE);
    le64_set(&m.all.size, ALL_BYTES);
    le64_set(&m.all.user_addr, ALL_BASE);
    co_guest_send(g, VHOST_USER_SET_MEM_TABLE, 0, &m, sizeof(m), &zero, 1);
    co_guest_state(g, VHOST_USER_SET_VRING_NUM, 0, fake.queue->size);
    co_guest_state(g, VHOST_USER_SET_VRING_BASE, 0, 0);
    le64_set(&a.desc, fake.queue->desc_addr);
    le64_set(&a.avail, fake.queue->driver_addr);
    le64_set(&a.used, fake.queue->device_addr);
    co_guest_send(g, VHOST_USER_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0);
    co_guest_send(g, VHOST_USER_SET_VRING_CALL, 0, &index, 8, &call, 1);
    co_guest_send(g, VHOST_USER_SET_VRING_KICK, 0, &index, 8, &zero, 1);
}

static void set_status(struct virtio_device *d, uint8_t status)
{
    (void)d;
    if (fake.status & VIRTIO_STATUS_DRIVER_OK && !status)
        (void)co_guest_stop(g, 0);
    if (~fake.status & status & VIRTIO_STATUS_DRIVER_OK)
        co_begin();
    fake.status = status;
}

static uint64_t get_features(struct virtio_device *d)
{
    (void)d;
    return co_guest_ask_u64(g, VHOST_USER_GET_FEATURES) & ~fake.taken &
           ~(1ull << VHOST_USER_F_PROTOCOL_FEATURES);
}

static void set_features(struct virtio_device *d, uint64_t features)
{
    (void)d;
    fake.features = features;
}

static uint32_t cfg_read(struct virtio_device *d, unsigned off, unsigned width)
{
    uint32_t value = 0;
    (void)d;
    if (range_ok(off, width, sizeof(fake.config)))
        memcpy(&value, fake.config + off, width);
    return value;
}

static void cfg_write(struct virtio_device *d, unsigned off, unsigned width, uint32_t value)
{
    (void)d, (void)off, (void)width, (void)value;
}

static uint32_t zero(struct virtio_device *d)
{
    (void)d;
    return 0;
}

static unsigned queue_max(struct virtio_device *d, unsigned index)
{
    (void)d;
    return index ? 0 : 128;
}

static int queue_enable(struct virtio_device *d, struct virtq *q)
{
    (void)d;
    fake.queue = q;
    return 0;
}

static void notify(struct virtio_device *d, struct virtq *q)
{
    (void)d, (void)q; /* the device's poller looks at each turn */
}

static const struct virtio_transport transport = {
    .get_status = get_status,
    .set_status = set_status,
    .get_features = get_features,
    .set_features = set_features,
    .cfg_read = cfg_read,
    .cfg_write = cfg_write,
    .cfg_generation = zero,
    .queue_max = queue_max,
    .queue_enable = queue_enable,
    .notify = notify,
    .interrupts = zero,
};

static void co_attach(const char *more, uint64_t taken)
{
    uint8_t ask[12 + 64] = {[4] = 64};
    disk = memdisk_of(
        test_open("mem,node-name=m,size=4M,request-alignment=512,discards=on,discard=unmap"));
    co_bridge_open(1);
    co_guest_export(0, "m", more);
    co_guest_connect(g, false);
    assert_int_equal(co_guest_ask(g, VHOST_USER_GET_CONFIG, ask, sizeof(ask)), sizeof(ask));
    fake = (struct fake){.taken = taken,
                         .dev = {.ops = &transport, .id = VIRTIO_ID_BLOCK, .name = "fake"}};
    memcpy(fake.config, g->reply + 12, 64);
    assert_int_equal(co_virtio_probe(&fake.dev), 0);
    root = test_root_open(test_open("virtio-blk,node-name=up,serial=e0,discard=unmap"));
    mirror = calloc(1, SIZE);
}

static void co_detach(void)
{
    struct node *n = disk->node;
    test_root_close(&root);
    co_virtio_remove(&fake.dev);
    co_guest_unexport(0);
    co_bridge_close();
    n->monitor_owned = false;
    co_node_unref(n);
    free(mirror);
}

/* ---- Data ------------------------------------------------------------------------------------- */

static struct iov pieces(struct seg *seg, uint8_t *buf, size_t len)
{
    size_t at = 0;
    unsigned n = 0;
    while (at < len) {
        size_t piece = n == SEGS - 1 ? len - at : MIN(len - at, 1 + test_random() % 9000);
        seg[n++] = (struct seg){buf + at, piece};
        at += piece;
    }
    return (struct iov){.seg = seg, .len = len};
}

static void co_one(uint8_t *buf)
{
    struct seg seg[SEGS];
    uint64_t off = test_random() % SIZE;
    size_t len = 1 + test_random() % (200u << 10);
    len = (size_t)MIN(len, SIZE - off);
    if (test_random() & 1) {
        memset(buf, (int)test_random(), len);
        memcpy(mirror + off, buf, len);
        assert_int_equal(co_blk_pwritev(root.c, off, pieces(seg, buf, len), 0), 0);
    } else {
        assert_int_equal(co_blk_preadv(root.c, off, pieces(seg, buf, len), 0), 0);
        assert_memory_equal(buf, mirror + off, len);
    }
}

static void co_data(void *arg)
{
    static const uint64_t without[] = {
        0, 1ull << VIRTIO_F_INDIRECT_DESC, 1ull << VIRTIO_F_EVENT_IDX,
        1ull << VIRTIO_F_INDIRECT_DESC | 1ull << VIRTIO_F_EVENT_IDX | 1ull << VIRTIO_BLK_F_FLUSH};
    uint8_t *buf = malloc(200u << 10);
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(without); i++) {
        co_attach("", without[i]);
        for (unsigned n = 0; n < 200; n++)
            co_one(buf);
        assert_memory_equal(disk->data, mirror, SIZE);
        co_detach();
    }
    free(buf);
}

static void co_types(void *arg)
{
    (void)arg;
    co_attach(",logical-block-size=4096", 0);
    assert_int_equal(root.n->limits.request_alignment, 4096);
    memset(disk->data, 7, SIZE);
    assert_int_equal(co_blk_pwrite_zeroes(root.c, 4096, 65536, BLK_MAY_UNMAP), 0);
    for (unsigned i = 0; i < 65536; i++)
        assert_int_equal(disk->data[4096 + i], 0);
    assert_int_equal(disk->data[4095] + disk->data[4096 + 65536], 14);
    assert_int_equal(co_blk_pdiscard(root.c, 1 << 20, 1 << 20), 0);
    assert_true(disk->count[MEM_DISCARD] > 0);
    assert_int_equal(co_blk_flush(root.c), 0);
    assert_int_equal(disk->count[MEM_FLUSH], 1);
    co_detach();
}

/* ---- Many in flight --------------------------------------------------------------------------- */

#define MANY   30u /* the rest of the stacks are for the device */
#define ROUNDS 8u
static struct many {
    struct co_start start;
    uint8_t buf[4096];
    int rc;
} many[MANY];
static unsigned ended;

static void co_many_one(void *arg)
{
    struct many *m = arg;
    unsigned i = (unsigned)(m - many);
    for (unsigned round = 0; round < ROUNDS && !m->rc; round++) {
        uint64_t off = 4096ull * (i + MANY * round);
        memset(m->buf, (int)(i + round), sizeof(m->buf));
        m->rc = co_blk_pwrite(root.c, off, m->buf, sizeof(m->buf), 0);
        memset(m->buf, 0xff, sizeof(m->buf));
        if (!m->rc)
            m->rc = co_blk_pread(root.c, off, m->buf, sizeof(m->buf));
        if (m->buf[0] != i + round || m->buf[4095] != i + round)
            m->rc = SR_EIO;
    }
    ended++;
}

/* The disk answers in any order. */
static void co_many(void *arg)
{
    (void)arg;
    co_attach("", 0);
    disk->jitter = 7;
    ended = 0;
    for (unsigned i = 0; i < MANY; i++)
        co_start(&many[i].start, co_many_one, &many[i]);
    while (ended < MANY)
        co_reschedule();
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(many[i].rc, 0);
    assert_true(disk->most_inflight > 4);
    assert_true(g->interrupts < 2 * MANY * ROUNDS); /* some were for several */
    co_detach();
}

#define RUN(name)                     \
    static void test_##name(void **s) \
    {                                 \
        (void)s;                      \
        test_co_run(co_##name, NULL); \
    }
RUN(data)
RUN(types)
RUN(many)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_many),
    };
    guest_is_us(0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-blk against a disk in memory, through the block layer: data, every request type, limits of
 * the device, a full ring, errors, resize, and devices that fail.
 */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

#include "virtio/device/models.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (4u << 20)

static struct vblk disk;
static uint8_t *data, *mirror;
static struct test_root root;

static void prepare(void)
{
    data = calloc(1, SIZE);
    mirror = calloc(1, SIZE);
    assert_int_equal(vblk_init(&disk, data, SIZE, "s0"), 0);
}

static void co_open(const char *more)
{
    char text[128];
    assert_int_equal(co_vdev_attach(&disk.v, "loop blk"), 0);
    snprintf(text, sizeof(text), "virtio-blk,node-name=n,serial=s0%s", more);
    root = test_root_open(test_open(text));
}

static void co_shut(void)
{
    test_root_close(&root);
    co_vdev_detach(&disk.v);
    vblk_free(&disk);
    free(data);
    free(mirror);
}

static void offer(unsigned bit, bool on)
{
    if (on)
        disk.v.offered |= 1ull << bit;
    else
        disk.v.offered &= ~(1ull << bit);
}

/* ---- Data ------------------------------------------------------------------------------------ */

#define SEGS 40
/* Random pieces at odd addresses over one buffer. */
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
    uint8_t *b = buf + test_random() % 64;
    if (test_random() & 1) {
        memset(b, (int)test_random(), len);
        memcpy(mirror + off, b, len);
        assert_int_equal(co_blk_pwritev(root.c, off, pieces(seg, b, len), 0), 0);
    } else {
        assert_int_equal(co_blk_preadv(root.c, off, pieces(seg, b, len), 0), 0);
        assert_memory_equal(b, mirror + off, len);
    }
}

static void co_random(unsigned count)
{
    uint8_t *buf = malloc((200u << 10) + 64);
    for (unsigned i = 0; i < count; i++)
        co_one(buf);
    assert_memory_equal(data, mirror, SIZE);
    free(buf);
}

static void co_data(void *arg)
{
    (void)arg;
    for (unsigned features = 0; features < 16; features++) {
        prepare();
        offer(VIRTIO_F_RING_PACKED, features & 4);
        disk.v.legacy = features & 8;
        offer(VIRTIO_F_VERSION_1, !disk.v.legacy);
        offer(VIRTIO_F_INDIRECT_DESC, features & 1);
        offer(VIRTIO_F_EVENT_IDX, features & 2);
        co_open("");
        assert_int_equal(root.n->limits.max_sg, 126);
        assert_int_equal(disk.v.ring[0].packed, (features & 12) == 4);
        co_random(150);
        co_shut();
    }
}

static void co_limits(void *arg)
{
    static const struct {
        uint32_t seg_max, size_max, blk_size;
        uint16_t ring;
    } t[] = {{1, 0, 512, 256},   {3, 0, 512, 256},   {3, 1536, 512, 256}, {254, 512, 512, 256},
             {126, 0, 4096, 64}, {2, 8192, 4096, 4}, {126, 0, 512, 4}};
    (void)arg;
    for (unsigned k = 0; k < 4 * ARRAY_LEN(t); k++) {
        unsigned i = k / 2;
        prepare();
        offer(VIRTIO_F_RING_PACKED, k % 2);
        struct virtio_blk_config *c = vblk_config(&disk);
        le32_set(&c->seg_max, t[i / 2].seg_max);
        le32_set(&c->blk_size, t[i / 2].blk_size);
        le32_set(&c->size_max, t[i / 2].size_max);
        offer(VIRTIO_BLK_F_SIZE_MAX, t[i / 2].size_max);
        offer(VIRTIO_F_INDIRECT_DESC, i % 2);
        disk.v.queue_max = t[i / 2].ring;
        co_open("");
        assert_int_equal(root.n->limits.request_alignment, t[i / 2].blk_size);
        co_random(100);
        assert_true(disk.max_segs <= t[i / 2].seg_max);
        assert_true(!t[i / 2].size_max || disk.max_seg_len <= t[i / 2].size_max);
        co_shut();
    }
}

/* ---- Other requests -------------------------------------------------------------------------- */

static void co_types(void *arg)
{
    (void)arg;
    prepare();
    memset(data, 7, SIZE);
    struct virtio_blk_config *c = vblk_config(&disk);
    le32_set(&c->max_discard_sectors, 100);
    le32_set(&c->max_write_zeroes_sectors, 50);
    le32_set(&c->discard_sector_alignment, 8);
    co_open(",discard=unmap");
    assert_int_equal(disk.requests[VIRTIO_BLK_T_GET_ID], 1);
    assert_int_equal(co_blk_pwrite_zeroes(root.c, 0, 100 << 10, 0), 0);
    assert_int_equal(disk.requests[VIRTIO_BLK_T_WRITE_ZEROES], 4); /* of 25 KiB */
    assert_int_equal(disk.last_flags, 0);
    assert_int_equal(co_blk_pwrite_zeroes(root.c, 100 << 10, 512, BLK_MAY_UNMAP), 0);
    assert_int_equal(disk.last_flags, VIRTIO_BLK_RANGE_UNMAP);
    for (unsigned i = 0; i < (100 << 10) + 512; i++)
        assert_int_equal(data[i], 0);
    assert_int_equal(data[(100 << 10) + 512], 7);
    assert_int_equal(root.n->limits.discard_alignment, 4096);
    assert_int_equal(co_blk_pdiscard(root.c, 1 << 20, 256 << 10), 0);
    assert_true(disk.requests[VIRTIO_BLK_T_DISCARD] >= 6); /* of at most 50 KiB */
    for (unsigned i = 0; i < 256 << 10; i++)
        assert_int_equal(data[(1 << 20) + i], 0xdd);
    assert_int_equal(data[(1 << 20) + (256 << 10)], 7);
    assert_int_equal(co_blk_flush(root.c), 0);
    assert_int_equal(disk.requests[VIRTIO_BLK_T_FLUSH], 1);
    co_shut();

    prepare(); /* a device that can do none of it */
    offer(VIRTIO_BLK_F_FLUSH, false);
    offer(VIRTIO_BLK_F_DISCARD, false);
    offer(VIRTIO_BLK_F_WRITE_ZEROES, false);
    memset(data, 7, SIZE);
    co_open(",discard=unmap");
    assert_int_equal(co_blk_pwrite_zeroes(root.c, 512, 8192, 0), 0);
    for (unsigned i = 0; i < 8192; i++)
        assert_int_equal(data[512 + i], 0);
    assert_int_equal(co_blk_pwrite_zeroes(root.c, 0, 512, BLK_NO_FALLBACK), SR_ENOTSUP);
    assert_int_equal(co_blk_pdiscard(root.c, 0, 8192), 0);
    assert_int_equal(co_blk_flush(root.c), 0);
    assert_int_equal(disk.requests[VIRTIO_BLK_T_FLUSH], 0);
    assert_int_equal(disk.requests[VIRTIO_BLK_T_WRITE_ZEROES], 0);
    co_shut();
}

static void co_read_only(void *arg)
{
    (void)arg;
    prepare();
    offer(VIRTIO_BLK_F_RO, true);
    co_open("");
    uint8_t b[512] = {0};
    assert_true(root.n->read_only);
    assert_int_equal(co_blk_pread(root.c, 0, b, 512), 0);
    co_shut();
}

/* ---- Many in flight -------------------------------------------------------------------------- */

#define MANY 300u
static struct many {
    struct co_start start;
    uint8_t *buf;
    int rc;
} many[MANY];
static unsigned ended, order[MANY];
static struct co *waiter;

static void co_writer(void *arg)
{
    struct many *m = arg;
    unsigned i = (unsigned)(m - many);
    struct seg seg;
    m->rc = root.n->drv->co_pwritev(root.n, i * 4096ull, iov_one(&seg, m->buf, 4096), 0);
    order[ended++] = i;
    if (ended == MANY)
        co_wake(waiter);
}

static void start_many(void)
{
    ended = 0;
    waiter = co_self();
    for (unsigned i = 0; i < MANY; i++) {
        many[i].buf = malloc(4096);
        memset(many[i].buf, (int)(i + 1), 4096);
        co_start_child(&many[i].start, co_writer, &many[i]);
    }
}

static void co_end_many(void)
{
    while (ended < MANY)
        co_yield ();
    for (unsigned i = 0; i < MANY; i++)
        free(many[i].buf);
}

static void co_full(void *arg)
{
    (void)arg;
    for (unsigned kind = 0; kind < 4; kind++) {
        bool back = kind & 1;
        prepare();
        offer(VIRTIO_F_RING_PACKED, kind & 2);
        co_open("");
        disk.hold = true;
        disk.backwards = back;
        start_many();
        for (unsigned i = 0; i < 100; i++)
            co_reschedule();
        assert_int_equal(disk.nheld, 128); /* the ring; the others wait in line */
        assert_int_equal(ended, 0);
        vblk_release(&disk);
        co_end_many();
        for (unsigned i = 0; i < MANY; i++) {
            assert_int_equal(many[i].rc, 0);
            assert_int_equal(data[i * 4096], (uint8_t)(i + 1));
            assert_true(back || order[i] == i); /* nobody overtakes */
        }
        assert_int_equal(back ? order[0] : 127, 127);
        co_shut();
    }
}

static void co_flusher(void *arg)
{
    (void)arg;
    assert_int_equal(root.n->drv->co_flush(root.n), 0);
    order[ended++] = 100;
    co_wake(waiter);
}

/* Without indirect tables a small request would still fit where a larger one waits. */
static void overtake(bool packed)
{
    static struct co_start flusher;
    prepare();
    offer(VIRTIO_F_RING_PACKED, packed);
    offer(VIRTIO_F_INDIRECT_DESC, false);
    disk.v.queue_max = 8;
    co_open("");
    disk.hold = true;
    ended = 0;
    waiter = co_self();
    for (unsigned i = 0; i < 3; i++) { /* 3 descriptors each: the third does not fit */
        many[i].buf = calloc(1, 4096);
        co_start_child(&many[i].start, co_writer, &many[i]);
    }
    co_start_child(&flusher, co_flusher, NULL); /* 2, and 2 are free */
    for (unsigned i = 0; i < 10; i++)
        co_reschedule();
    assert_int_equal(disk.nheld, 2);
    vblk_release(&disk);
    while (ended < 4)
        co_yield ();
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(order[i], i);
        free(many[i].buf);
    }
    assert_int_equal(order[3], 100);
    co_shut();
}

static void co_overtake(void *arg)
{
    (void)arg;
    overtake(false);
    overtake(true);
}

/* ---- Errors ---------------------------------------------------------------------------------- */

static void co_errors(void *arg)
{
    static const struct {
        int status, rc;
    } t[] = {{VIRTIO_BLK_S_IOERR, SR_EIO},
             {VIRTIO_BLK_S_UNSUPP, SR_ENOTSUP},
             {77, SR_EIO},
             {0xff, SR_EIO}};
    uint8_t b[512] = {0};
    (void)arg;
    prepare();
    co_open("");
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        disk.fail_status = t[i].status;
        disk.fail_left = 1;
        assert_int_equal(co_blk_pread(root.c, 0, b, 512), t[i].rc);
        assert_int_equal(co_blk_pread(root.c, 0, b, 512), 0);
    }
    disk.no_status = true;
    assert_int_equal(co_blk_pread(root.c, 0, b, 512), SR_EIO);
    co_shut();
}

static void co_resize(void *arg)
{
    (void)arg;
    prepare();
    co_open("");
    uint8_t *bigger = calloc(2, SIZE), b[512] = {0};
    assert_int_equal(co_blk_pread(root.c, SIZE, b, 512), SR_EIO);
    vblk_resize(&disk, bigger, 2 * SIZE);
    while (root.n->size != 2 * SIZE)
        co_sleep_ns(1000000);
    assert_int_equal(co_blk_pread(root.c, SIZE, b, 512), 0);
    vblk_resize(&disk, bigger, SIZE);
    while (root.n->size != SIZE)
        co_sleep_ns(1000000);
    co_shut();
    free(bigger);
}

/* Resets, and is told: all in flight and in line fail, as does all that comes. */
static void co_needs_reset(void *arg)
{
    uint8_t b[512] = {0};
    (void)arg;
    for (unsigned stubborn = 0; stubborn < 2; stubborn++) {
        prepare();
        co_open("");
        disk.hold = true;
        start_many();
        while (disk.nheld < 128)
            co_reschedule();
        disk.v.no_reset = stubborn;
        disk.v.status |= VIRTIO_STATUS_NEEDS_RESET;
        vdev_config_changed(&disk.v);
        co_end_many();
        assert_int_equal(disk.v.cut, stubborn);
        for (unsigned i = 0; i < MANY; i++)
            assert_int_equal(many[i].rc, SR_EIO);
        assert_int_equal(co_blk_pread(root.c, 0, b, 512), SR_EIO);
        assert_int_equal(co_blk_pwrite(root.c, 0, b, 512, 0), SR_EIO);
        assert_int_equal(co_blk_flush(root.c), SR_EIO);
        disk.v.no_reset = false;
        co_shut();
    }
}

/* ---- Devices that are refused ---------------------------------------------------------------- */

static void co_refuse(void)
{
    assert_int_not_equal(co_vdev_attach(&disk.v, "loop bad"), 0);
    assert_int_equal(disk.v.status, 0);
    assert_true(list_empty(disk_list()));
    vblk_free(&disk);
    free(data);
    free(mirror);
}

static void co_bad_config(void *arg)
{
    (void)arg;
    static const uint32_t block[] = {0, 1, 256, 513, 131072};
    for (unsigned i = 0; i < ARRAY_LEN(block); i++) {
        prepare();
        le32_set(&vblk_config(&disk)->blk_size, block[i]);
        co_refuse();
    }
    prepare();
    le64_set(&vblk_config(&disk)->capacity, 1ull << 60);
    co_refuse();
    prepare();
    le32_set(&vblk_config(&disk)->seg_max, 0);
    co_refuse();
    prepare();
    offer(VIRTIO_BLK_F_SIZE_MAX, true);
    le32_set(&vblk_config(&disk)->size_max, 511);
    co_refuse();
    prepare();
    offer(VIRTIO_BLK_F_MQ, true);
    co_refuse(); /* no queue at all */
    prepare();
    disk.v.cfg_changing = true;
    co_refuse();
    prepare();
    offer(VIRTIO_F_INDIRECT_DESC, false);
    disk.v.queue_max = 2;
    co_refuse();
    prepare();
    disk.hold = true; /* never answers */
    co_refuse();
}

/* The nth allocation fails, for each n until the device comes up. */
static void co_allocations(void *arg)
{
    (void)arg;
    int rc;
    uint64_t nth = 1;
    do {
        prepare();
        size_t pages = page_free_bytes();
        fault_arm(FAULT_ALLOC, nth++, false);
        rc = co_vdev_attach(&disk.v, "loop poor");
        bool fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0, false);
        assert_int_equal(rc, fired ? SR_ENOMEM : 0);
        if (!rc)
            co_vdev_detach(&disk.v);
        assert_int_equal(page_free_bytes(), pages);
        vblk_free(&disk);
        free(data);
        free(mirror);
    } while (rc);
    assert_true(nth > 3);
}

#define TEST(name)                        \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        test_co_run(co_##name, NULL);     \
    }
TEST(data)
TEST(limits)
TEST(types)
TEST(read_only)
TEST(full)
TEST(overtake)
TEST(errors)
TEST(resize)
TEST(needs_reset)
TEST(bad_config)
TEST(allocations)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_types),       cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_full),        cmocka_unit_test(test_overtake),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_resize),
        cmocka_unit_test(test_needs_reset), cmocka_unit_test(test_bad_config),
        cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks for siblings: the relay, vhost-user, and the block device, with guests made by hand.
 */
#include "tests/unit/support_sibling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODE  "mem,node-name=m,size=4M,request-alignment=512,max-size=8M"
#define FLUSH (1ull << VIRTIO_BLK_F_FLUSH)
#define WCE   (1ull << VIRTIO_BLK_F_CONFIG_WCE)
#define EVENT (1ull << VIRTIO_F_EVENT_IDX)

static struct memdisk *disk;
static struct guest *const g = &guest[0];
static struct ring *const r = &guest[0].ring[0];

static void co_setup(const char *more)
{
    disk = memdisk_of(test_open(NODE));
    co_bridge_open(1);
    co_guest_export(0, "m", more);
}

static void co_teardown(void)
{
    struct node *n = disk->node;
    if (export_find("e0"))
        co_guest_unexport(0);
    co_bridge_close();
    n->monitor_owned = false;
    co_node_unref(n);
}

/* ---- The device ------------------------------------------------------------------------------- */

static struct virtio_blk_config co_config(void)
{
    struct {
        struct vhost_user_config head;
        uint8_t data[sizeof(struct virtio_blk_config)];
    } c = {0};
    struct virtio_blk_config cfg;
    le32_set(&c.head.size, 57); /* what QEMU asks for */
    size_t n = co_guest_ask(g, VHOST_USER_GET_CONFIG, &c, sizeof(c.head) + 57);
    assert_int_equal(n, sizeof(c.head) + 57);
    memset(&cfg, 0, sizeof(cfg));
    memcpy(&cfg, g->reply + sizeof(c.head), 57);
    return cfg;
}

static void co_configuration(void *arg)
{
    (void)arg;
    co_setup(",num-queues=2,logical-block-size=4096");
    co_guest_connect(g, false);
    uint64_t f = co_guest_ask_u64(g, VHOST_USER_GET_FEATURES);
    assert_true(f >> VIRTIO_BLK_F_MQ & f >> VIRTIO_BLK_F_DISCARD & 1);
    assert_false(f >> VIRTIO_BLK_F_RO & 1);
    assert_int_equal(co_guest_ask_u64(g, VHOST_USER_GET_QUEUE_NUM), 2);
    struct virtio_blk_config c = co_config();
    assert_int_equal(le64_get(c.capacity), (4 << 20) / 512);
    assert_int_equal(le32_get(c.seg_max), 126);
    assert_int_equal(le32_get(c.blk_size), 4096);
    assert_int_equal(le16_get(c.num_queues), 2);
    assert_int_equal(c.writeback, 1);
    assert_int_equal(le32_get(c.discard_sector_alignment), 8);
    co_teardown();
}

static void co_requests(void *arg)
{
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH | EVENT, 1);
    for (unsigned i = 0; i < 8; i++)
        co_guest_well(g, r, i);
    char id[20];
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_GET_ID, 0, id, sizeof(id)), 0);
    assert_string_equal(id, "e0");
    assert_int_equal(disk->count[MEM_FLUSH], 0);
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(disk->count[MEM_FLUSH], 1);
    assert_int_equal(co_guest_do(g, r, 77, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
    uint8_t b[512];
    uint64_t end = (4 << 20) / 512;
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_IN, end - 1, b, 512), 0);
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_IN, end, b, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_OUT, UINT64_MAX / 512, b, 512),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_IN, 0, b, 100), VIRTIO_BLK_S_IOERR);
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_IN, 0, b, 0), VIRTIO_BLK_S_IOERR);
    co_teardown();
}

/* Payload goes down as it lies in the guest's memory. */
static void co_no_copy(void *arg)
{
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH, 1);
    uint8_t b[4096] = {1};
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_OUT, 0, b, sizeof(b)), 0);
    assert_int_equal(disk->last_segs, 2);
    assert_ptr_equal(disk->last_base, g->mem + 512);
    co_teardown();
}

static unsigned co_range(uint32_t type, uint64_t sector, uint32_t n, uint32_t flags, unsigned times)
{
    struct virtio_blk_range x[40];
    for (unsigned i = 0; i < times; i++) {
        le64_set(&x[i].sector, sector + i * 100ull);
        le32_set(&x[i].num_sectors, n);
        le32_set(&x[i].flags, flags);
    }
    return co_guest_do(g, r, type, 0, x, times * sizeof(x[0]));
}

static void co_ranges(void *arg)
{
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH, 1);
    memset(disk->data, 7, 4 << 20);
    assert_int_equal(co_range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0, 3), 0);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(disk->data[512 * i], i >= 8 && (i - 8) % 100 < 8 && i < 217 ? 0 : 7);
    assert_int_equal(co_range(VIRTIO_BLK_T_DISCARD, 0, 8, 0, 32), 0);
    assert_int_equal(co_range(VIRTIO_BLK_T_DISCARD, 0, 8, 0, 33), VIRTIO_BLK_S_IOERR);
    assert_int_equal(co_range(VIRTIO_BLK_T_DISCARD, 0, 8, 0, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(co_range(VIRTIO_BLK_T_DISCARD, 0, 8, 1, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(co_range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 1, 1), 0);
    assert_int_equal(co_range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(co_range(VIRTIO_BLK_T_DISCARD, 8191, 2, 0, 1), VIRTIO_BLK_S_IOERR);
    assert_int_equal(co_range(VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0, 1), VIRTIO_BLK_S_IOERR);
    uint8_t odd[17] = {0};
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_DISCARD, 0, odd, sizeof(odd)),
                     VIRTIO_BLK_S_IOERR);
    co_teardown();
}

/* 5.2.5: who cannot flush, or wants no cache, gets each write stable. */
static void co_set_mode(uint8_t mode)
{
    uint8_t m[13] = {[0] = offsetof(struct virtio_blk_config, writeback), [4] = 1, [12] = mode};
    co_guest_send(g, VHOST_USER_SET_CONFIG, 0, m, sizeof(m), NULL, 0);
}

static void co_cache_mode(void *arg)
{
    static const struct {
        uint64_t features;
        int mode; /* -1: not set */
        bool through;
    } t[] = {{0, -1, true},     {FLUSH, -1, false},     {FLUSH | WCE, -1, false},
             {FLUSH, 0, false}, {FLUSH | WCE, 0, true}, {FLUSH | WCE, 1, false},
             {WCE, -1, true}};
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        uint8_t b[512] = {0};
        co_setup("");
        co_guest_boot(g, t[i].features, 1);
        if (t[i].mode >= 0)
            co_set_mode((uint8_t)t[i].mode);
        co_turns(50);
        assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_OUT, 0, b, 512), 0);
        assert_int_equal(disk->count[MEM_FLUSH], t[i].through);
        assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), 0);
        co_teardown();
    }
}

static void co_read_only(void *arg)
{
    uint8_t b[512];
    (void)arg;
    disk = memdisk_of(test_open(NODE ",read-only=on"));
    co_bridge_open(1);
    co_guest_export(0, "m", ",writable=off");
    co_guest_boot(g, FLUSH, 1);
    assert_true(co_guest_ask_u64(g, VHOST_USER_GET_FEATURES) >> VIRTIO_BLK_F_RO & 1);
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_IN, 0, b, 512), 0);
    assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_OUT, 0, b, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(co_range(VIRTIO_BLK_T_DISCARD, 0, 8, 0, 1), VIRTIO_BLK_S_IOERR);
    co_teardown();
}

/* ---- Order, interrupts, rest ------------------------------------------------------------------ */

static void co_order(void *arg)
{
    uint32_t id;
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH, 1);
    co_turns(20);
    memdisk_hold(disk, MEM_READ);
    guest_submit(g, r, 0, guest_req(g, 0, VIRTIO_BLK_T_IN, 0), 512, false);
    for (unsigned i = 1; i < 4; i++)
        guest_submit(g, r, i, guest_req(g, i, VIRTIO_BLK_T_FLUSH, 0), 0, true);
    co_turns(50);
    assert_int_equal(guest_req(g, 5, 0, 0).status[0], 0xee);
    assert_int_equal(g->mem[32768 + 16], 0); /* done, and not yet published */
    assert_false(guest_used(r, &id));
    unsigned interrupts = g->interrupts;
    memdisk_release(disk);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(co_guest_used(r), 4 * i);
    assert_int_equal(g->interrupts, interrupts + 1); /* one for all */
    le64 index = {{0}};
    uint64_t call = (1 + g->at.number) << 16;
    co_guest_send(g, VHOST_USER_SET_VRING_CALL, 0, &index, sizeof(index), &call, 1);
    co_turns(20);
    assert_int_equal(g->interrupts, interrupts + 2); /* nobody looks at the old one */
    co_teardown();
}

static void co_event_index(void *arg)
{
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH | EVENT, 1);
    le16_set(&r->avail->ring[GUEST_RING], 2); /* used_event: at the third */
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(co_guest_do(g, r, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), 0);
        co_turns(5);
        assert_int_equal(g->interrupts, i >= 2);
    }
    co_teardown();
}

/* GET_VRING_BASE is answered when nothing is on its way any more. */
static void co_stop(void *arg)
{
    struct vhost_user_vring_state s = {0};
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH, 1);
    co_turns(20);
    memdisk_hold(disk, MEM_READ);
    guest_submit(g, r, 0, guest_req(g, 0, VIRTIO_BLK_T_IN, 0), 512, false);
    co_turns(20);
    co_guest_send(g, VHOST_USER_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0);
    co_turns(200);
    assert_false(g->replied);
    guest_submit(g, r, 1, guest_req(g, 1, VIRTIO_BLK_T_FLUSH, 0), 0, true);
    co_turns(20);
    memdisk_release(disk);
    co_turns(200);
    assert_true(g->replied);
    memcpy(&s, g->reply + sizeof(struct vhost_user_header), sizeof(s));
    assert_int_equal(le32_get(s.num), 1);
    assert_int_equal(co_guest_used(r), 0);
    uint32_t id;
    assert_false(guest_used(r, &id)); /* the second was not taken ... */
    co_guest_start(g, 0, 1);
    assert_int_equal(co_guest_used(r), 4); /* ... until now */
    co_teardown();
}

/* The bridge did not wait, answered in our place, and the driver starts anew. */
static void co_new_start_early(void *arg)
{
    struct vhost_user_vring_state s = {0};
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH, 1);
    co_turns(20);
    memdisk_hold(disk, MEM_READ);
    guest_submit(g, r, 0, guest_req(g, 0, VIRTIO_BLK_T_IN, 0), 512, false);
    co_turns(20);
    co_guest_send(g, VHOST_USER_GET_VRING_BASE, 0, &s, sizeof(s), NULL, 0);
    co_turns(20);
    co_guest_start(g, 0, 0); /* at what was not used */
    co_turns(50);
    memdisk_release(disk);
    assert_int_equal(co_guest_used(r), 0); /* the first time */
    co_turns(50);
    assert_int_equal(disk->count[MEM_READ], 2); /* and once more, for the new start */
    assert_false(g->replied);
    co_teardown();
}

/* ---- Lives ------------------------------------------------------------------------------------ */

/* The relay is lost with requests on their way: they leave no trace; whoever comes next begins at the
 * used index. */
static void co_replay(void *arg)
{
    uint32_t id;
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH, 1);
    co_guest_well(g, r, 3);
    uint16_t used = vring_load(&r->used->idx);
    memdisk_hold(disk, MEM_READ);
    guest_submit(g, r, 0, guest_req(g, 0, VIRTIO_BLK_T_IN, 0), 512, false);
    co_turns(20);
    co_bridge_say(BRIDGE_END, BRIDGE_ITSELF, NULL, 0, NULL, 0, 0);
    co_turns(200);
    assert_int_equal(bridge_hellos, 2);
    memdisk_release(disk);
    co_turns(50);
    assert_false(guest_used(r, &id));
    assert_int_equal(g->mem[16], 0xee);
    co_guest_connect(g, true);
    co_guest_u64(g, VHOST_USER_SET_PROTOCOL_FEATURES, 1 << VHOST_USER_PROTOCOL_F_REPLY_ACK);
    co_guest_u64(g, VHOST_USER_SET_FEATURES,
                 1ull << VIRTIO_F_VERSION_1 | 1ull << VHOST_USER_F_PROTOCOL_FEATURES | FLUSH);
    co_guest_memory(g);
    co_guest_start(g, 0, used);
    co_turns(100);
    assert_false(guest_used(r, &id));
    unsigned interrupts = g->interrupts;
    co_bridge_say(BRIDGE_REPLAYED, 0, NULL, 0, NULL, 0, 0);
    assert_int_equal(co_guest_used(r), 0);
    co_turns(5);
    assert_true(g->interrupts > interrupts);
    co_guest_well(g, r, 9);
    co_teardown();
}

static void co_reboots(void *arg)
{
    (void)arg;
    co_setup(",num-queues=2");
    for (unsigned i = 0; i < 20; i++) {
        co_guest_boot(g, FLUSH, 2);
        co_guest_well(g, r, i);
        co_guest_well(g, &g->ring[1], i + 1);
        if (i % 2) {
            assert_int_equal(co_guest_stop(g, 0), r->next);
            assert_int_equal(co_guest_stop(g, 1), g->ring[1].next);
        }
        co_guest_disconnect(g);
    }
    co_teardown();
}

static void co_resize(void *arg)
{
    (void)arg;
    co_setup("");
    co_guest_boot(g, FLUSH, 1);
    co_turns(20);
    node_resized(disk->node, 5 << 20);
    for (unsigned i = 0; !g->changes; i++) {
        assert_true(i < GUEST_WAIT);
        co_reschedule();
    }
    assert_int_equal(le64_get(co_config().capacity), (5 << 20) / 512);
    node_resized(disk->node, 4 << 20);
    co_teardown();
}

/* The export goes while requests are on their way, and comes back. */
static void co_unexport(void *arg)
{
    (void)arg;
    co_setup("");
    for (unsigned i = 0; i < 3; i++) {
        co_guest_boot(g, FLUSH, 1);
        co_guest_well(g, r, i);
        disk->jitter = 100;
        guest_submit(g, r, 0, guest_req(g, 0, VIRTIO_BLK_T_IN, 0), 512, false);
        while (!disk->inflight)
            co_reschedule();
        co_guest_unexport(0);
        assert_false(g->on);
        assert_int_equal(co_guest_used(r), 0);
        co_guest_export(0, "m", "");
    }
    co_teardown();
}

static void co_wrong_options(void *arg)
{
    static const char *const t[][2] = {
        {"sibling=g0", "sibling 'g0' has an export already"},
        {"sibling=", "Invalid name of a sibling"},
        {"sibling=g1,logical-block-size=1000",
         "Parameter 'logical-block-size' expects a power of 2 from 512 to 65536"},
        {"sibling=g1,num-queues=65", "Parameter 'num-queues' expects 1 to 64"},
        {"num-queues=1", "Parameter 'sibling' is missing"},
    };
    (void)arg;
    co_setup("");
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        struct error err = {0};
        char text[160];
        snprintf(text, sizeof(text), "vhost-user-blk,id=x,node-name=m,%s", t[i][0]);
        struct value *def = schema_parse_keyval(text, "type", &err);
        assert_true(co_export_add(def, true, &err) < 0);
        assert_string_equal(err.msg, t[i][1]);
        value_free(def);
    }
    co_teardown();
}

#define RUN(name)                     \
    static void test_##name(void **s) \
    {                                 \
        (void)s;                      \
        test_co_run(co_##name, NULL); \
    }
RUN(configuration)
RUN(requests)
RUN(no_copy)
RUN(ranges)
RUN(cache_mode)
RUN(read_only)
RUN(order)
RUN(event_index)
RUN(stop)
RUN(new_start_early)
RUN(replay)
RUN(reboots)
RUN(resize)
RUN(unexport)
RUN(wrong_options)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configuration), cmocka_unit_test(test_requests),
        cmocka_unit_test(test_no_copy),       cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_cache_mode),    cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_order),         cmocka_unit_test(test_event_index),
        cmocka_unit_test(test_stop),          cmocka_unit_test(test_new_start_early),
        cmocka_unit_test(test_replay),        cmocka_unit_test(test_reboots),
        cmocka_unit_test(test_resize),        cmocka_unit_test(test_unexport),
        cmocka_unit_test(test_wrong_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

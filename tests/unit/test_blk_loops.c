/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The block layer on two loops: gates closed and opened across, drain that waits for requests of the
 * other loop, straight requests where they were born, tracked ones on the home loop, a node that
 * grows meanwhile. Meant for TSan.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_loops.h"
#include "tests/unit/memdisk.h"

#include <string.h>

#define CLIENTS 6
#define DRAINS  200u

struct client {
    struct co_start start;
    unsigned loop, id;
    struct origin *disk, *null;
    bool stop, done; /* atomic */
    unsigned turns;  /* atomic */
};

static bool get(bool *b)
{
    return __atomic_load_n(b, __ATOMIC_ACQUIRE);
}
static void set(bool *b)
{
    __atomic_store_n(b, true, __ATOMIC_RELEASE);
}

/* Own bytes in shared blocks of the disk, then a straight read of the other node. */
static void co_turn(struct client *c)
{
    uint8_t buf[512];
    struct seg seg;
    memset(buf, (int)c->turns, sizeof(buf));
    co_origin_enter(c->disk);
    assert_int_equal(loop_id(), c->loop);
    assert_int_equal(co_blk_pwrite(c->disk->root, 100 * c->id + 30, buf, 100, 0), 0);
    assert_int_equal(co_blk_pwrite(c->disk->root, 4096 + 512 * c->id, buf, 512, BLK_FUA), 0);
    assert_int_equal(co_blk_pwrite(c->disk->root, 4096 + 512 * c->id, buf, 512, 0), 0);
    assert_int_equal(loop_id(), c->loop);
    origin_leave(c->disk);
    co_origin_enter(c->null);
    assert_int_equal(co_blk_preadv(c->null->root, 0, iov_one(&seg, buf, 512), 0), 0);
    origin_leave(c->null);
    __atomic_store_n(&c->turns, c->turns + 1, __ATOMIC_RELEASE);
}

static void co_client(void *arg)
{
    struct client *c = arg;
    co_hop(c->loop);
    while (!get(&c->stop)) {
        co_turn(c);
        co_reschedule();
    }
    co_hop(0);
    set(&c->done);
}

static void co_body(void *arg)
{
    static struct client clients[CLIENTS];
    struct test_root disk =
        test_root_open(test_open("mem,node-name=disk,request-alignment=512,jitter=1,max-size=2M"));
    struct test_root null = test_root_open(test_open("null-co,node-name=null"));
    struct memdisk *m = memdisk_of(disk.n);
    (void)arg;
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i] =
            (struct client){.loop = i % 2, .id = i, .disk = disk.origin, .null = null.origin};
        co_start(&clients[i].start, co_client, &clients[i]);
    }
    for (unsigned i = 0; i < DRAINS; i++) {
        co_drain_begin(disk.n);
        assert_int_equal(m->inflight, 0);
        assert_true(list_empty(&disk.n->writes));
        uint64_t writes = m->count[MEM_WRITE];
        co_sleep_ns(20000);
        assert_int_equal(m->count[MEM_WRITE], writes);
        drain_end(disk.n);
        assert_int_equal(co_blk_truncate(disk.c, (1u << 20) + 512 * i), 0);
        co_sleep_ns(i % 10 ? 0 : 1000000);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        set(&clients[i].stop);
    for (unsigned i = 0; i < CLIENTS; i++)
        while (!get(&clients[i].done))
            co_sleep_ns(100000);
    for (unsigned i = 0; i < CLIENTS; i++) {
        assert_true(clients[i].turns > 1);
        uint8_t last = (uint8_t)(clients[i].turns - 1);
        for (unsigned k = 0; k < 100; k++)
            assert_int_equal(m->data[100 * i + 30 + k], last);
    }
    assert_true(null.n->stats[0].rd_ops && null.n->stats[1].rd_ops);
    test_root_close(&disk);
    test_root_close(&null);
    loop_stop();
}

static void test_two_loops(void **state)
{
    struct co_start s;
    (void)state;
    co_start(&s, co_body, NULL);
    loop_run();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_loops),
    };
    return cmocka_run_group_tests(tests, two_loops_start, two_loops_stop);
}

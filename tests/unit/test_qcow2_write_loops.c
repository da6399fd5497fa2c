/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One qcow2 image, written on two loops. The disk has three parts:
 *
 *     mapped   every worker, on either loop, writes and reads bytes of its own in clusters that are
 *              there: in place
 *     new      the same in clusters that are not: allocated at home, next to each other's bytes
 *     moving   loop 0 writes whole clusters, plain and compressed, zeroes and discards them; all read.
 *              A sector says where it belongs, so who reads must find that, or zeroes, whatever became
 *              of the cluster meanwhile
 *
 * while loop 0 flushes all the time, and the L2 cache is far too small. Meant for TSan; content and
 * tables are checked in any build.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_loops.h"
#include "tests/unit/support_qcow2.h"
#include "tests/unit/support_qwrite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORKERS 8u
#define ROUNDS  2000u
#define PIECE   704u /* of one worker, then one of the next */
#define PART    (200u << 10)
#define SIZE    (3u * PART)
#define ROOM    (8u << 20)

/* ---- a file without any state that loops could quarrel over ---- */

static uint64_t words[ROOM / 8];

/* Words are written and read as a whole, by nobody in particular. */
static void copy(uint64_t off, struct iov v, bool write)
{
    void *p;
    size_t len;
    while (iov_next(&v, &p, &len)) {
        uint64_t *mine = p;
        for (size_t k = 0; k < len / 8; k++, off += 8)
            if (write)
                __atomic_store_n(&words[off / 8], mine[k], __ATOMIC_RELAXED);
            else
                mine[k] = __atomic_load_n(&words[off / 8], __ATOMIC_RELAXED);
    }
}

static void co_dawdle(uint64_t off)
{
    if ((off >> 9) % 3 == 0)
        co_reschedule();
}

static int co_flat_open(struct node *n, const void *opts, struct error *err)
{
    (void)opts, (void)err;
    n->limits.request_alignment = 8;
    return 0;
}

static int co_flat_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)n, (void)flags;
    co_dawdle(off);
    copy(off, v, false);
    co_dawdle(off >> 4);
    return 0;
}

static int co_flat_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)n, (void)flags;
    co_dawdle(off >> 3);
    copy(off, v, true);
    co_dawdle(off);
    return 0;
}

static int co_flat_truncate(struct node *n, uint64_t size)
{
    for (uint64_t k = MIN(n->size, size) / 8; k < ROOM / 8; k++)
        __atomic_store_n(&words[k], 0, __ATOMIC_RELAXED);
    return size > ROOM ? SR_ENOSPC : 0;
}

static int co_flat_flush(struct node *n)
{
    (void)n;
    co_reschedule();
    return 0;
}

static const struct blk_driver test_flat = {.name = "flatw",
                                            .protocol = true,
                                            .co_open = co_flat_open,
                                            .co_preadv = co_flat_preadv,
                                            .co_pwritev = co_flat_pwritev,
                                            .co_truncate = co_flat_truncate,
                                            .co_flush = co_flat_flush};
REGISTER(blk_driver, test_flat);

/* ---- workers ---- */

static uint64_t model[SIZE / 8];
static uint32_t cluster;

struct worker {
    struct co_start start;
    unsigned number, loop;
    uint32_t random;
    struct origin *origin;
    struct co_join *join;
};

static uint32_t next(struct worker *w)
{
    w->random = w->random * 1664525 + 1013904223;
    return w->random >> 8;
}

/* A piece of its own in one of the first two parts, or some of it. */
static uint64_t own_piece(struct worker *w, size_t *len)
{
    uint64_t pieces = 2 * PART / PIECE / WORKERS, at = next(w) % pieces * WORKERS + w->number;
    uint64_t in = next(w) % (PIECE / 8) * 8;
    *len = 8 + next(w) % ((PIECE - in) / 8) * 8;
    return at * PIECE + in;
}

static void co_write_own(struct worker *w)
{
    size_t len;
    uint64_t off = own_piece(w, &len);
    for (size_t k = 0; k < len / 8; k++)
        model[off / 8 + k] = (uint64_t)next(w) << 32 | off;
    unsigned flags = next(w) % 50 == 0 ? BLK_FUA : next(w) % 20 == 0 ? BLK_SETTLED : 0;
    assert_int_equal(co_blk_pwrite(w->origin->root, off, &model[off / 8], len, flags), 0);
}

static void co_read_own(struct worker *w)
{
    uint64_t buf[PIECE / 8];
    size_t len;
    uint64_t off = own_piece(w, &len);
    assert_int_equal(co_blk_pread(w->origin->root, off, buf, len), 0);
    assert_memory_equal(buf, &model[off / 8], len);
}

static uint64_t a_cluster(struct worker *w)
{
    return 2 * PART + next(w) % (PART / cluster) * cluster;
}

static void co_read_moving(struct worker *w)
{
    uint64_t buf[2048 / 8], off = a_cluster(w) + next(w) % (cluster / 512) * 512;
    size_t len = (size_t)MIN(sizeof(buf), SIZE - off);
    assert_int_equal(co_blk_pread(w->origin->root, off, buf, len), 0);
    for (size_t k = 0; k < len / 8; k++)
        if (buf[k] && buf[k] >> 9 != (off + 8 * k) >> 9)
            fail_msg("offset 0x%llx has bytes of 0x%llx", (unsigned long long)(off + 8 * k),
                     (unsigned long long)buf[k]);
}

static void co_write_moving(struct worker *w, unsigned flags)
{
    uint64_t off = a_cluster(w), *buf = malloc(cluster);
    for (size_t k = 0; k < cluster / 8; k++)
        buf[k] = (off + 8 * k) >> 9 << 9 | (next(w) & 1);
    int r = co_blk_pwrite(w->origin->root, off, buf, cluster, flags);
    assert_int_equal(r, 0);
    free(buf);
}

static void co_move(struct worker *w)
{
    struct child *c = w->origin->root;
    int r = 0;
    switch (next(w) % 6) {
    case 0:
        r = co_blk_pdiscard(c, a_cluster(w), cluster);
        break;
    case 1:
        r = co_blk_pwrite_zeroes(c, a_cluster(w), cluster, next(w) & BLK_MAY_UNMAP);
        break;
    case 2:
        co_write_moving(w, BLK_COMPRESSED);
        break;
    case 3:
        r = co_blk_flush(c);
        break;
    default:
        co_write_moving(w, 0);
    }
    assert_int_equal(r, 0);
}

static void co_round(struct worker *w)
{
    unsigned what = next(w) % 8;
    if (what < 3)
        co_write_own(w);
    else if (what < 5)
        co_read_own(w);
    else if (what < 7 || w->loop)
        co_read_moving(w);
    else
        co_move(w);
}

static void co_worker(void *arg)
{
    struct worker *w = arg;
    co_hop(w->loop);
    for (unsigned i = 0; i < ROUNDS; i++) {
        co_origin_enter(w->origin);
        co_round(w);
        assert_int_equal(loop_id(), w->loop);
        origin_leave(w->origin);
        if (i % 16 == 0)
            co_reschedule();
    }
    co_hop(0);
    co_join_done(w->join, 0);
}

static void co_workers(struct origin *o)
{
    struct worker w[WORKERS];
    struct co_join join;
    co_join_init(&join);
    for (unsigned i = 0; i < WORKERS; i++) {
        w[i] = (struct worker){
            .number = i, .loop = i % 2, .random = i * 7777, .origin = o, .join = &join};
        co_join_add(&join);
        co_start(&w[i].start, co_worker, &w[i]);
    }
    assert_int_equal(co_join_wait(&join), 0);
}

/* ---- an image ---- */

static void check(void)
{
    uint8_t *file = (uint8_t *)words;
    struct image_check c = image_check(file, ROOM);
    if (c.errors || c.leaks)
        fail_msg("%u errors, %u leaks: %s", c.errors, c.leaks, c.first);
}

/* The first part is there, the second is not. */
static void co_fill(struct child *c)
{
    memset(model, 0, sizeof(model));
    for (uint64_t off = 0; off < PART; off += 8)
        model[off / 8] = off;
    for (uint64_t off = 0; off < PART; off += PART / 4)
        assert_int_equal(co_blk_pwrite(c, off, &model[off / 8], PART / 4, 0), 0);
}

static void co_image(const char *create)
{
    char text[200];
    struct error err = {0};
    struct node *file = test_open("driver=flatw,node-name=m");
    struct test_root m = test_root_open(file);
    snprintf(text, sizeof(text), "size=%u,%s", SIZE, create);
    if (co_image_create(m.c, text, &err))
        fail_msg("%s: %s", text, err.msg);
    test_root_done(&m);
    cluster = 1u << image_header((uint8_t *)words).cluster_bits;
    struct test_root t =
        test_root_open(test_open("driver=qcow2,node-name=q,file=m,discard=unmap,l2-cache-size=1,"
                                 "l2-cache-entry-size=512"));
    co_fill(t.c);
    co_workers(t.origin);
    test_root_close(&t);
    check();
    t = test_root_open(test_open("driver=qcow2,node-name=q,file=m,read-only=on"));
    uint8_t *content = malloc(2 * PART);
    assert_int_equal(co_blk_pread(t.c, 0, content, 2 * PART), 0);
    assert_memory_equal(content, model, 2 * PART);
    free(content);
    test_root_close(&t);
    co_node_drop(file);
}

static void co_body(void *arg)
{
    (void)arg;
    co_image("cluster-size=512");
    co_image("cluster-size=4096,lazy-refcounts=on");
    co_image("cluster-size=16k,extended-l2=on");
    loop_stop();
}

static void test_two_loops(void **state)
{
    static struct co_start start;
    (void)state;
    co_start(&start, co_body, NULL);
    alarm(300);
    loop_run();
    alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_loops),
    };
    return cmocka_run_group_tests(tests, two_loops_start, two_loops_stop);
}

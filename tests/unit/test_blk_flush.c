/* SPDX-License-Identifier: BSD-2-Clause */
/* Flushing: skipped, coalesced, never covering what completed after it was issued. */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

struct flusher {
    struct co_start start;
    struct child *c;
    int result;
    bool done;
};

static void co_flusher(void *arg)
{
    struct flusher *f = arg;
    f->result = co_blk_flush(f->c);
    f->done = true;
}

static void turns(void)
{
    for (unsigned i = 0; i < 20; i++)
        co_reschedule();
}

static void start_flush(struct flusher *f, struct child *c)
{
    *f = (struct flusher){.c = c};
    co_start(&f->start, co_flusher, f);
    turns();
}

static void co_skip(void *arg)
{
    uint8_t b[16] = {0};
    struct test_root t = test_root_open(test_open("raw,node-name=r,file.driver=mem,"
                                                  "file.write-zeroes=on,file.discards=on,"
                                                  "discard=unmap"));
    struct memdisk *m = memdisk_of(t.n->file->node);
    (void)arg;
    assert_int_equal(co_blk_flush(t.c), 0);
    assert_int_equal(m->count[MEM_FLUSH], 0);
    for (unsigned i = 0; i < 4; i++) {
        if (i == 0)
            assert_int_equal(co_blk_pwrite(t.c, 0, b, 16, 0), 0);
        if (i == 1)
            assert_int_equal(co_blk_pwrite_zeroes(t.c, 0, 16, 0), 0);
        if (i == 2)
            assert_int_equal(co_blk_pdiscard(t.c, 0, 16), 0);
        if (i == 3)
            node_dirty(t.n), node_dirty(t.n->file->node);
        assert_int_equal(co_blk_flush(t.c), 0);
        assert_int_equal(m->count[MEM_FLUSH], i + 1);
        assert_int_equal(co_blk_flush(t.c), 0);
        assert_int_equal(m->count[MEM_FLUSH], i + 1);
    }
    /* a write that failed may have changed something */
    fault_arm(FAULT_WRITE, 1, false);
    assert_int_equal(co_blk_pwrite(t.c, 0, b, 16, 0), SR_EIO);
    fault_arm(FAULT_WRITE, 0, false);
    assert_int_equal(co_blk_flush(t.c), 0);
    assert_int_equal(m->count[MEM_FLUSH], 5);
    test_root_close(&t);
}

static void test_skip(void **state)
{
    (void)state;
    test_co_run(co_skip, NULL);
}

static void co_coalesce(void *arg)
{
    static struct flusher first, more[10];
    uint8_t b[16] = {0};
    struct test_root t = test_root_open(test_open("mem,node-name=m"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    assert_int_equal(co_blk_pwrite(t.c, 0, b, 16, 0), 0);
    memdisk_hold(m, MEM_FLUSH);
    start_flush(&first, t.c);
    assert_int_equal(m->nparked, 1);
    /* completes after the flush was issued: must have one of its own */
    assert_int_equal(co_blk_pwrite(t.c, 0, b, 16, 0), 0);
    for (unsigned i = 0; i < ARRAY_LEN(more); i++)
        start_flush(&more[i], t.c);
    assert_int_equal(m->count[MEM_FLUSH], 1);
    memdisk_release(m);
    turns();
    assert_true(first.done);
    for (unsigned i = 0; i < ARRAY_LEN(more); i++)
        assert_true(more[i].done && !more[i].result);
    assert_int_equal(m->count[MEM_FLUSH], 2);
    test_root_close(&t);
}

static void test_coalesce(void **state)
{
    (void)state;
    test_co_run(co_coalesce, NULL);
}

/* A flush that waits for another, but whose writes that one covers, needs no second. */
static void co_covered(void *arg)
{
    static struct flusher a, b;
    uint8_t buf[16] = {0};
    struct test_root t = test_root_open(test_open("mem,node-name=m"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    assert_int_equal(co_blk_pwrite(t.c, 0, buf, 16, 0), 0);
    memdisk_hold(m, MEM_FLUSH);
    start_flush(&a, t.c);
    start_flush(&b, t.c);
    assert_false(b.done);
    memdisk_release(m);
    turns();
    assert_true(a.done && b.done);
    assert_int_equal(m->count[MEM_FLUSH], 1);
    test_root_close(&t);
}

static void test_covered(void **state)
{
    (void)state;
    test_co_run(co_covered, NULL);
}

static void co_failure(void *arg)
{
    static struct flusher a, b;
    uint8_t buf[16] = {0};
    struct test_root t = test_root_open(test_open("mem,node-name=m"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    assert_int_equal(co_blk_pwrite(t.c, 0, buf, 16, 0), 0);
    memdisk_hold(m, MEM_FLUSH);
    start_flush(&a, t.c);
    start_flush(&b, t.c);
    fault_arm(FAULT_FLUSH, 1, false);
    memdisk_release(m);
    turns();
    fault_arm(FAULT_FLUSH, 0, false);
    assert_true(a.done && b.done);
    assert_int_equal(a.result, SR_EIO);
    assert_int_equal(b.result, 0); /* tried for itself */
    assert_int_equal(m->count[MEM_FLUSH], 2);
    assert_int_equal(t.n->stats[0].failed_flush, 1);
    assert_int_equal(t.n->stats[0].flush_ops, 1);
    test_root_close(&t);
}

static void test_failure(void **state)
{
    (void)state;
    test_co_run(co_failure, NULL);
}

static void co_no_flush(void *arg)
{
    uint8_t buf[16] = {0};
    struct test_root t =
        test_root_open(test_open("raw,node-name=r,cache.no-flush=on,file.driver=mem"));
    (void)arg;
    assert_true(t.n->file->node->cache_no_flush); /* inherited */
    assert_int_equal(co_blk_pwrite(t.c, 0, buf, 16, BLK_FUA), 0);
    assert_int_equal(co_blk_flush(t.c), 0);
    assert_int_equal(memdisk_of(t.n->file->node)->count[MEM_FLUSH], 0);
    test_root_close(&t);
}

static void test_no_flush(void **state)
{
    (void)state;
    test_co_run(co_no_flush, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_skip),     cmocka_unit_test(test_coalesce),
        cmocka_unit_test(test_covered),  cmocka_unit_test(test_failure),
        cmocka_unit_test(test_no_flush),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/* raw: what part of its file it is, and that everything passes through. */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

#include <string.h>

static void co_range(void *arg)
{
    static const char *const wrong[][2] = {
        {"raw,node-name=y,file=x,offset=2097152",
         "Offset (2097152) cannot be greater than size of the containing file (1048576)"},
        {"raw,node-name=y,file=x,offset=524288,size=1048576",
         "The sum of offset (524288) and size (1048576) has to be smaller or equal to the  actual "
         "size of the containing file (1048576)"},
        {"raw,node-name=y,file=x,offset=512,size=18446744073709551104",
         "The sum of offset (512) and size (18446744073709551104) has to be smaller or equal to "
         "the  actual size of the containing file (1048576)"},
        {"raw,node-name=y,file=x,offset=512,size=1000", "Specified size is not multiple of 512"},
    };
    (void)arg;
    struct node *x = test_open("mem,node-name=x,request-alignment=512,max-sg=7");
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_string_equal(test_open_error(wrong[i][0]), wrong[i][1]);
        assert_int_equal(x->refs, 1);
    }
    struct test_root t = test_root_open(test_open("raw,node-name=y,file=x,offset=1048576"));
    assert_int_equal(t.n->size, 0);
    test_root_close(&t);
    t = test_root_open(test_open("raw,node-name=y,file=x,offset=1024,size=4096"));
    assert_int_equal(t.n->size, 4096);
    assert_int_equal(t.n->limits.request_alignment, 512);
    assert_int_equal(t.n->limits.max_sg, 7);
    test_root_close(&t);
    t = test_root_open(test_open("raw,node-name=y,file=x,offset=256"));
    assert_int_equal(t.n->limits.request_alignment, 1);
    assert_int_equal(t.n->limits.max_sg, 0);
    test_root_close(&t);
    x->monitor_owned = false;
    co_node_unref(x);
}

static void test_range(void **state)
{
    (void)state;
    test_co_run(co_range, NULL);
}

static void co_through(void *arg)
{
    uint8_t b[4096];
    struct test_root t = test_root_open(
        test_open("raw,node-name=y,offset=8192,discard=unmap,file.driver=mem,file.fua=on,"
                  "file.write-zeroes=on,file.discards=on"));
    struct memdisk *m = memdisk_of(t.n->file->node);
    (void)arg;
    memset(b, 5, sizeof(b));
    assert_int_equal(co_blk_pwrite(t.c, 100, b, sizeof(b), BLK_FUA), 0);
    assert_int_equal(m->last_off, 8292);
    assert_int_equal(m->flags_seen, BLK_FUA);
    assert_int_equal(m->count[MEM_FLUSH], 0);
    assert_int_equal(m->data[8291], 0);
    assert_memory_equal(m->data + 8292, b, sizeof(b));
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 100, 50, BLK_MAY_UNMAP | BLK_NO_FALLBACK), 0);
    assert_int_equal(m->last_off, 8292);
    assert_int_equal(m->flags_seen, BLK_FUA | BLK_MAY_UNMAP | BLK_NO_FALLBACK);
    assert_int_equal(co_blk_pdiscard(t.c, 0, 4096), 0);
    assert_int_equal(m->last_off, 8192);
    struct iov v = {.len = 4096}; /* a prefetch names no memory */
    assert_int_equal(co_blk_preadv(t.c, 0, v, BLK_PREFETCH), 0);
    assert_int_equal(co_blk_preadv(t.c, t.n->size - 4095, v, BLK_PREFETCH), SR_EIO);
    assert_int_equal(m->count[MEM_READ], 0);
    assert_int_equal(co_blk_flush(t.c), 0);
    assert_int_equal(m->count[MEM_FLUSH], 1);
    test_root_close(&t);
}

static void test_through(void **state)
{
    (void)state;
    test_co_run(co_through, NULL);
}

static void co_null(void *arg)
{
    uint8_t b[4096];
    (void)arg;
    struct test_root t = test_root_open(test_open("null-co,node-name=n"));
    assert_int_equal(t.n->size, 1u << 30);
    memset(b, 5, sizeof(b));
    assert_int_equal(co_blk_pread(t.c, 0, b, sizeof(b)), 0);
    assert_int_equal(b[77], 5); /* left as it was */
    test_root_close(&t);
    t = test_root_open(
        test_open("null-co,node-name=n,size=8192,read-zeroes=on,latency-ns=2000000"));
    uint64_t start = board_clock_ns();
    assert_int_equal(co_blk_pread(t.c, 4096, b, sizeof(b)), 0);
    assert_true(board_clock_ns() - start >= 2000000);
    assert_int_equal(b[77], 0);
    assert_int_equal(co_blk_pread(t.c, 4097, b, sizeof(b)), SR_EIO);
    struct blk_status st;
    assert_int_equal(co_blk_status_above(t.c, 0, 8192, &st), 0);
    assert_int_equal(st.flags, BLK_ZERO | BLK_ALLOCATED | BLK_EOF);
    test_root_close(&t);
}

static void test_null(void **state)
{
    (void)state;
    test_co_run(co_null, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_through),
        cmocka_unit_test(test_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

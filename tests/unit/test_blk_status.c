/* SPDX-License-Identifier: BSD-2-Clause */
/* Block status: one layer, chains, pass-through, and agreement with what a reader gets. */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

#include <stdlib.h>
#include <string.h>

static void expect(struct child *c, uint64_t off, uint64_t len, unsigned flags, uint64_t got)
{
    struct blk_status st;
    assert_int_equal(co_blk_status_above(c, off, len, &st), 0);
    assert_int_equal(st.flags, flags);
    assert_int_equal(st.len, got);
}

static void co_layer(void *arg)
{
    struct blk_status st;
    struct test_root t = test_root_open(test_open("raw,node-name=r,offset=100,file.driver=mem,"
                                                  "file.size=4196,file.write-zeroes=on"));
    struct node *mem = t.n->file->node;
    (void)arg;
    assert_int_equal(co_blk_status(t.c, 10, 1000, &st), 0);
    assert_int_equal(st.flags, BLK_DATA | BLK_OFFSET_VALID | BLK_ALLOCATED);
    assert_int_equal(st.len, 1000);
    assert_int_equal(st.map, 110); /* in the node that decided */
    assert_int_equal(co_blk_pwrite_zeroes(t.n->file, 512, 1024, 0), 0);
    assert_int_equal(co_blk_status(t.c, 0, 4096, &st), 0);
    assert_int_equal(st.len, 412);
    assert_int_equal(co_blk_status(t.c, 412, 4096 - 412, &st), 0);
    assert_int_equal(st.flags, BLK_ZERO | BLK_ALLOCATED);
    assert_int_equal(st.len, 1024);
    assert_int_equal(co_blk_status(t.c, 4000, 96, &st), 0);
    assert_true(st.flags & BLK_EOF);
    assert_int_equal(co_blk_status(t.c, 4096, 0, &st), 0);
    assert_int_equal(st.flags, BLK_EOF);
    assert_int_equal(co_blk_status(t.c, 4000, 97, &st), SR_EIO);
    /* the node below shrank: not a status that one could give */
    mem->size = 1000;
    assert_int_equal(co_blk_status(t.c, 0, 4096, &st), SR_EIO);
    mem->size = 4196;
    fault_arm(FAULT_READ, 1, false);
    assert_int_equal(co_blk_status(t.c, 0, 4096, &st), SR_EIO);
    fault_arm(FAULT_READ, 0, false);
    test_root_close(&t);
}

static void test_layer(void **state)
{
    (void)state;
    test_co_run(co_layer, NULL);
}

static void co_chain(void *arg)
{
    const unsigned data = BLK_DATA | BLK_ALLOCATED, zero = BLK_ZERO | BLK_ALLOCATED;
    uint8_t b[512];
    struct blk_status st;
    struct test_root t = test_root_open(test_open(
        "mem,node-name=top,size=8192,write-zeroes=on,backing.driver=raw,backing.offset=512,"
        "backing.file.driver=mem,backing.file.node-name=mid,backing.file.size=6656,"
        "backing.file.read-only=off,backing.file.write-zeroes=on,backing.file.backing.driver=mem,"
        "backing.file.backing.size=4096"));
    struct test_root mid = test_root_open(node_find("mid"));
    (void)arg;
    memset(b, 1, sizeof(b));
    /* bottom: data up to 4096 = 3584 of top; mid ends at 6144 of top; behind both: zeroes */
    assert_int_equal(co_blk_pwrite(t.c, 512, b, 512, 0), 0);
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 1024, 512, 0), 0);
    assert_int_equal(co_blk_pwrite(mid.c, 512 + 4096, b, 512, 0), 0);
    expect(t.c, 0, 8192, data, 512);
    expect(t.c, 512, 7680, data, 512);
    expect(t.c, 1024, 7168, zero, 512);
    expect(t.c, 1536, 6656, data, 3584 - 1536);
    expect(t.c, 3584, 4608, BLK_ZERO, 512);
    expect(t.c, 4096, 4096, data, 512);
    expect(t.c, 4608, 3584, BLK_ZERO, 6144 - 4608);
    expect(t.c, 6144, 2048, BLK_ZERO | BLK_EOF, 2048);
    assert_int_equal(co_blk_status(t.c, 0, 8192, &st), 0); /* one layer: its backing decides */
    assert_int_equal(st.flags, 0);
    mid.n->refs++; /* test_root_close gives the name's, which an inline child has not */
    test_root_close(&mid);
    test_root_close(&t);
}

static void test_chain(void **state)
{
    (void)state;
    test_co_run(co_chain, NULL);
}

/* Three layers, written at random: what is said to be zero reads as zero. */
static void co_agree(void *arg)
{
    enum { SIZE = 64 * 512 };
    uint8_t *b = malloc(SIZE);
    (void)arg;
    test_random_seed(3);
    test_open("mem,node-name=base,size=20480,write-zeroes=on");
    test_open("mem,node-name=mid,size=28672,write-zeroes=on,backing=base");
    struct test_root t[3] = {
        test_root_open(test_open("mem,node-name=top,size=32768,write-zeroes=on,backing=mid,"
                                 "request-alignment=512")),
        test_root_open(node_find("mid")), test_root_open(node_find("base"))};
    memset(b, 9, SIZE);
    for (unsigned i = 0; i < 60; i++) {
        struct test_root *r = &t[test_random() % 3];
        uint64_t off = test_random() % r->n->size, len = 1 + test_random() % 1500;
        len = MIN(len, r->n->size - off);
        if (test_random() % 2)
            assert_int_equal(co_blk_pwrite(r->c, off, b, len, 0), 0);
        else
            assert_int_equal(co_blk_pwrite_zeroes(r->c, off, len, 0), 0);
    }
    assert_int_equal(co_blk_pread(t[0].c, 0, b, SIZE), 0);
    unsigned zeroes = 0;
    for (uint64_t off = 0; off < SIZE;) {
        struct blk_status st;
        assert_int_equal(co_blk_status_above(t[0].c, off, SIZE - off, &st), 0);
        assert_true(st.len > 0 && st.len <= SIZE - off);
        for (uint64_t i = 0; (st.flags & BLK_ZERO) && i < st.len; i++)
            assert_int_equal(b[off + i], 0);
        zeroes += !!(st.flags & BLK_ZERO);
        off += st.len;
    }
    assert_true(zeroes > 3);
    for (unsigned i = 0; i < 3; i++)
        test_root_close(&t[i]);
    assert_true(list_empty(node_list()));
    free(b);
}

static void test_agree(void **state)
{
    (void)state;
    test_co_run(co_agree, NULL);
}

/* ---- a format that found its file by a name in its header ---- */

struct wrap_options {
    const char *name;
};
static const struct field wrap_fields[] = {
    FIELD_REQ(struct wrap_options, name, "name", &type_str, "Test"),
    {0},
};
static const struct type wrap_type =
    TYPE_STRUCT_OF("BlockdevOptionsWrap", struct wrap_options, wrap_fields);

static int co_wrap_open(struct node *n, const void *opts, struct error *err)
{
    const struct wrap_options *o = opts;
    struct child *c;
    int r = co_child_open_volume(n, "file", o->name, "raw", false, &c, err);
    if (!r)
        n->size = c->node->size;
    return r;
}

static int co_wrap_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    return co_blk_preadv(n->file, off, v, flags);
}

static int co_wrap_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    *st = (struct blk_status){.flags = BLK_DATA | BLK_OFFSET_VALID | BLK_RECURSE,
                              .len = len,
                              .map = off,
                              .map_child = n->file};
    return 0;
}

static const struct blk_driver blk_wrap = {.name = "wrap",
                                           .options = &wrap_type,
                                           .co_open = co_wrap_open,
                                           .co_preadv = co_wrap_preadv,
                                           .co_block_status = co_wrap_status};
REGISTER(blk_driver, blk_wrap);

static void co_recurse(void *arg)
{
    (void)arg;
    struct test_root m = test_root_open(test_open("mem,node-name=m,size=4096,write-zeroes=on"));
    assert_string_equal(test_open_error("wrap,node-name=w,name=node:x"),
                        "Cannot find device='x' nor node-name='x'");
    assert_string_equal(test_open_error("wrap,node-name=w,name=nosuch:x"),
                        "Could not open 'nosuch:x': Unknown kind of name");
    assert_int_equal(m.n->refs, 2);
    struct test_root w = test_root_open(test_open("wrap,node-name=w,name=node:m"));
    assert_ptr_equal(w.n->file->node->file->node, m.n); /* through raw */
    assert_int_equal(co_blk_pwrite_zeroes(m.c, 1024, 512, 0), 0);
    expect(w.c, 0, 4096, BLK_DATA | BLK_ALLOCATED, 1024);
    expect(w.c, 1024, 3072, BLK_DATA | BLK_ZERO | BLK_ALLOCATED, 512);
    fault_arm(FAULT_READ, 1, false); /* the node below does not know: not an error */
    expect(w.c, 1024, 3072, BLK_DATA | BLK_ALLOCATED | BLK_EOF, 3072);
    fault_arm(FAULT_READ, 0, false);
    test_root_close(&w);
    test_root_close(&m);
}

static void test_recurse(void **state)
{
    (void)state;
    test_co_run(co_recurse, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_agree),
        cmocka_unit_test(test_recurse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

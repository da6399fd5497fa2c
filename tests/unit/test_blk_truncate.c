/* SPDX-License-Identifier: BSD-2-Clause */
/* Truncation: sizes, zeroes, who follows, who refuses, and that the next flush is not skipped. */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* [off, off + len) is known to be zero, and is. */
static void co_expect_zero(struct child *c, uint64_t off, size_t len)
{
    struct blk_status st;
    uint8_t *b = malloc(len);
    assert_int_equal(co_blk_status_above(c, off, len, &st), 0);
    assert_true(st.flags & BLK_ZERO);
    assert_int_equal(st.len, len);
    memset(b, 7, len);
    assert_int_equal(co_blk_pread(c, off, b, len), 0);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(b[i], 0);
    free(b);
}

static void co_write(struct child *c, uint64_t off, size_t len)
{
    uint8_t *b = malloc(len);
    memset(b, 0xee, len);
    assert_int_equal(co_blk_pwrite(c, off, b, len, 0), 0);
    free(b);
}

static void co_sizes(void *arg)
{
    uint8_t b[8192];
    struct test_root t =
        test_root_open(test_open("mem,node-name=m,size=4096,max-size=64k,request-alignment=512"));
    (void)arg;
    co_write(t.c, 0, 4096);
    assert_int_equal(co_blk_truncate(t.c, 8192), 0);
    assert_int_equal(t.n->size, 8192);
    co_expect_zero(t.c, 4096, 4096);
    co_write(t.c, 4096, 4096);
    assert_int_equal(co_blk_pread(t.c, 0, b, 8193), SR_EIO);
    assert_int_equal(co_blk_truncate(t.c, 1024), 0);
    assert_int_equal(t.n->size, 1024);
    assert_int_equal(co_blk_pread(t.c, 512, b, 1024), SR_EIO);
    assert_int_equal(co_blk_truncate(t.c, 65536), 0);
    co_expect_zero(t.c, 1024, 65536 - 1024);
    assert_int_equal(co_blk_pread(t.c, 0, b, 1024), 0);
    assert_int_equal(b[1023], 0xee);
    assert_int_equal(co_blk_truncate(t.c, 65537), SR_ENOSPC);
    assert_int_equal(co_blk_truncate(t.c, BLK_MAX_REQUEST + 1), SR_ENOSPC);
    assert_int_equal(t.n->size, 65536);
    fault_arm(FAULT_WRITE, 1, false);
    assert_int_equal(co_blk_truncate(t.c, 512), SR_EIO);
    fault_arm(FAULT_WRITE, 0, false);
    assert_int_equal(t.n->size, 65536);
    t.c->writable = false;
    assert_int_equal(co_blk_truncate(t.c, 512), SR_EPERM);
    t.c->writable = true;
    test_root_close(&t);
}

static void test_sizes(void **state)
{
    (void)state;
    test_co_run(co_sizes, NULL);
}

/* What cannot change keeps its size and only says whether it is large enough. */
static void co_fixed(void *arg)
{
    static const char *const nodes[] = {
        "mem,node-name=n,size=4096",
        "null-co,node-name=n,size=4096",
        "raw,node-name=n,offset=512,size=4096,file.driver=mem,file.size=8192,file.max-size=64k",
    };
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(nodes); i++) {
        struct test_root t = test_root_open(test_open(nodes[i]));
        assert_int_equal(co_blk_truncate(t.c, 4097), SR_ENOSPC);
        assert_int_equal(co_blk_truncate(t.c, 4096), 0);
        assert_int_equal(co_blk_truncate(t.c, 512), 0);
        assert_int_equal(t.n->size, 4096);
        if (t.n->file)
            assert_int_equal(t.n->file->node->size, 8192);
        test_root_close(&t);
    }
}

static void test_fixed(void **state)
{
    (void)state;
    test_co_run(co_fixed, NULL);
}

static unsigned told;
static uint64_t told_size;
static void resized(struct origin *o)
{
    told++;
    told_size = o->root->node->size;
}

static void co_raw(void *arg)
{
    struct test_root t = test_root_open(
        test_open("raw,node-name=r,offset=1024,file.driver=mem,file.size=8192,file.max-size=64k,"
                  "file.request-alignment=512"));
    struct memdisk *m = memdisk_of(t.n->file->node);
    (void)arg;
    t.origin->resized = resized;
    assert_int_equal(co_blk_truncate(t.c, 16384), 0);
    assert_int_equal(t.n->size, 16384);
    assert_int_equal(m->node->size, 16384 + 1024);
    assert_int_equal(told, 1);
    assert_int_equal(told_size, 16384);
    assert_int_equal(co_blk_flush(t.c), 0);
    assert_int_equal(m->count[MEM_FLUSH], 1);
    assert_int_equal(co_blk_flush(t.c), 0);
    assert_int_equal(m->count[MEM_FLUSH], 1);
    assert_int_equal(co_blk_truncate(t.c, 16384), 0); /* nobody is told of nothing */
    assert_int_equal(told, 1);
    assert_int_equal(co_blk_truncate(t.c, 1000), SR_EINVAL);
    assert_int_equal(co_blk_truncate(t.c, 64 << 10), SR_ENOSPC);
    assert_int_equal(t.n->size, 16384);
    assert_int_equal(co_blk_truncate(t.c, 0), 0);
    assert_int_equal(m->node->size, 1024);
    /* a failure may have changed something */
    assert_int_equal(co_blk_flush(t.c), 0);
    fault_arm(FAULT_WRITE, 1, false);
    assert_int_equal(co_blk_truncate(t.c, 512), SR_EIO);
    fault_arm(FAULT_WRITE, 0, false);
    m->count[MEM_FLUSH] = 0;
    assert_int_equal(co_blk_flush(t.c), 0);
    assert_int_equal(m->count[MEM_FLUSH], 1);
    test_root_close(&t);
}

static void test_raw(void **state)
{
    (void)state;
    test_co_run(co_raw, NULL);
}

/* A request elsewhere is in flight all the while. */
struct writer {
    struct co_start start;
    struct child *c;
    int result;
    bool done;
};
static void co_writer(void *arg)
{
    struct writer *w = arg;
    co_write(w->c, 0, 512);
    w->done = true;
}

static void co_busy(void *arg)
{
    static struct writer w;
    struct test_root t = test_root_open(test_open(
        "raw,node-name=r,file.driver=mem,file.size=4096,file.max-size=64k,file.jitter=3"));
    struct memdisk *m = memdisk_of(t.n->file->node);
    (void)arg;
    memdisk_hold(m, MEM_WRITE);
    w = (struct writer){.c = t.c};
    co_start(&w.start, co_writer, &w);
    while (!m->nparked)
        co_reschedule();
    assert_int_equal(co_blk_truncate(t.c, 8192), 0);
    co_expect_zero(t.c, 4096, 4096);
    assert_int_equal(co_blk_truncate(t.c, 2048), 0);
    assert_false(w.done);
    memdisk_release(m);
    while (!w.done)
        co_reschedule();
    assert_int_equal(m->data[511], 0xee);
    test_root_close(&t);
}

static void test_busy(void **state)
{
    (void)state;
    test_co_run(co_busy, NULL);
}

/* ---- a file of the host ---- */

static char path[64];

static void co_file(void *arg)
{
    char text[128];
    struct stat st;
    struct blk_status bs;
    (void)arg;
    snprintf(text, sizeof(text), "file,node-name=f,filename=%s", path);
    struct test_root t = test_root_open(test_open(text));
    assert_int_equal(co_blk_truncate(t.c, 100000), 0);
    assert_int_equal(co_blk_status(t.c, 0, 100000, &bs), 0);
    assert_int_equal(bs.flags & (BLK_ZERO | BLK_DATA), BLK_ZERO);
    co_expect_zero(t.c, 0, 100000);
    co_write(t.c, 0, 100000);
    assert_int_equal(co_blk_status(t.c, 0, 100000, &bs), 0);
    assert_true(bs.flags & BLK_DATA); /* and remembered as such */
    assert_int_equal(co_blk_truncate(t.c, 8192 + 10), 0);
    assert_int_equal(co_blk_truncate(t.c, 200000), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 200000);
    co_expect_zero(t.c, 12288, 200000 - 12288);
    uint8_t b[16];
    assert_int_equal(co_blk_pread(t.c, 8192, b, 16), 0);
    assert_int_equal(b[9], 0xee);
    assert_int_equal(b[10], 0);
    assert_int_equal(co_blk_flush(t.c), 0);
    assert_int_equal(co_blk_truncate(t.c, 1ull << 60), SR_ENOSPC);
    assert_int_equal(t.n->size, 200000);
    fault_arm(FAULT_WRITE, 1, false);
    assert_int_equal(co_blk_truncate(t.c, 1), SR_EIO);
    fault_arm(FAULT_WRITE, 0, false);
    test_root_close(&t);
}

static void test_file(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/test_blk_truncate.%d", (int)getpid());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    test_co_run(co_file, NULL);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_fixed), cmocka_unit_test(test_raw),
        cmocka_unit_test(test_busy),  cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

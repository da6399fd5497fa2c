/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Making a qcow2 image: on files that grow and on disks that held something, the order in which it
 * becomes durable, each failing request, each failing allocation. What is in the tables, stock tools
 * judge: tests/interop/test_create.py.
 */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct blk_driver *driver(const char *name)
{
    registry_for_each (blk_driver, d)
        if (!strcmp((*d)->name, name))
            return *d;
    fail_msg("no driver %s", name);
    return NULL;
}

/* Options by QMP's names, as text. */
static int co_create(struct child *file, const char *fmt, const char *options, struct error *err)
{
    struct error mine = {0};
    const struct type *t = driver(fmt)->create_options;
    struct arena arena;
    struct value *v = schema_parse_keyval(options, NULL, &mine);
    assert_non_null(v);
    arena_init(&arena);
    void *opts = arena_alloc(&arena, t->size);
    if (schema_decode(t, v, SCHEMA_TEXT, opts, &arena, &mine))
        fail_msg("%s: %s", options, mine.msg);
    int r = driver(fmt)->co_create(file, opts, err);
    arena_free(&arena);
    value_free(v);
    return r;
}

static void dirty(struct memdisk *m)
{
    memset(m->data, 0xee, m->node->size);
    memset(m->sector, SECTOR_DATA, m->node->size / MEM_SECTOR);
}

/* All of the image reads as zeroes, also behind its first cluster. */
static void co_expect_empty(const char *text, uint64_t size)
{
    uint8_t *b = malloc(65536);
    struct test_root t = test_root_open(test_open(text));
    assert_int_equal(t.n->size, size);
    for (uint64_t at = 0; at < size; at += 65536) {
        size_t n = (size_t)MIN(size - at, 65536u);
        memset(b, 7, n);
        assert_int_equal(co_blk_pread(t.c, at, b, n), 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(b[i], 0);
    }
    test_root_close(&t);
    free(b);
}

/* ---- files and disks ---- */

static const char *const shapes[] = {
    "size=1000448",
    "size=0",
    "size=1000448,version=v2,cluster-size=512",
    "size=1000448,preallocation=metadata,cluster-size=4096",
    "size=1000448,preallocation=falloc,cluster-size=1024,refcount-bits=1",
    "size=1000448,preallocation=full,refcount-bits=64,cluster-size=512",
    "size=1000448,preallocation=metadata,extended-l2=on,cluster-size=16384,compression-type=zstd",
};
static const char *const files[] = {
    "mem,node-name=m,size=0,max-size=4M,write-zeroes=on",
    "mem,node-name=m,size=1000,max-size=4M,request-alignment=4096",
    "mem,node-name=m,size=4M,request-alignment=4096,mem-align=512,max-transfer=64k",
    "mem,node-name=m,size=4M,write-zeroes=on,write-zeroes-alignment=4096",
};

static uint64_t size_of(const char *shape)
{
    return strtoull(shape + strlen("size="), NULL, 10);
}

static void co_shapes(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(shapes) * ARRAY_LEN(files); i++) {
        const char *shape = shapes[i / ARRAY_LEN(files)];
        struct error err = {0};
        struct test_root t = test_root_open(test_open(files[i % ARRAY_LEN(files)]));
        dirty(memdisk_of(t.n));
        if (co_create(t.c, "qcow2", shape, &err))
            fail_msg("%s: %s", shape, err.msg);
        co_expect_empty("qcow2,node-name=q,file=m,read-only=on", size_of(shape));
        test_root_close(&t);
    }
}

static void test_shapes(void **state)
{
    (void)state;
    test_co_run(co_shapes, NULL);
}

/* Nothing but what belongs to the image is written to a disk, and no more is needed. */
static void co_limits(void *arg)
{
    struct error err = {0};
    (void)arg;
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=256k"));
    struct memdisk *m = memdisk_of(t.n);
    assert_int_equal(co_create(t.c, "qcow2", "size=1G", &err), 0);
    assert_int_equal(co_create(t.c, "qcow2", "size=1G,preallocation=metadata", &err), SR_ENOSPC);
    assert_string_equal(err.msg, "Could not resize image: No space left on device");
    assert_int_equal(m->data[0], 0);
    test_root_close(&t);
    t = test_root_open(test_open("mem,node-name=m,size=512k"));
    m = memdisk_of(t.n);
    dirty(m);
    assert_int_equal(co_create(t.c, "qcow2", "size=1G", &err), 0);
    assert_int_equal(m->data[(256 << 10) - 1], 0);
    assert_int_equal(m->data[256 << 10], 0xee);
    test_root_close(&t);
}

static void test_limits(void **state)
{
    (void)state;
    test_co_run(co_limits, NULL);
}

/* ---- order ---- */

struct maker {
    struct co_start start;
    struct child *c;
    bool done;
};
static void co_maker(void *arg)
{
    struct maker *mk = arg;
    assert_int_equal(co_create(mk->c, "qcow2", "size=8M,preallocation=metadata", NULL), 0);
    mk->done = true;
}

/* Lets requests of the kind that is held go on, until the next one of the other kind. */
static void co_hold_other(struct memdisk *m, const struct maker *mk, enum mem_op op)
{
    memdisk_release(m);
    memdisk_hold(m, op);
    do
        co_reschedule();
    while (!mk->done && !m->nparked);
}

/* At each flush: what the disk held. */
static void co_order(void *arg)
{
    static struct maker mk;
    static uint8_t seen[4][1 << 20], final[1 << 20];
    unsigned flushes = 0;
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=16M"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    dirty(m);
    mk = (struct maker){.c = t.c};
    memdisk_hold(m, MEM_FLUSH);
    co_start(&mk.start, co_maker, &mk);
    co_hold_other(m, &mk, MEM_FLUSH);
    while (!mk.done) {
        assert_true(flushes < ARRAY_LEN(seen));
        memcpy(seen[flushes++], m->data, sizeof(final));
        co_hold_other(m, &mk, MEM_WRITE);
        co_hold_other(m, &mk, MEM_FLUSH);
    }
    memdisk_release(m);
    memcpy(final, m->data, sizeof(final));
    assert_int_equal(flushes, 3);
    /* old content gone first */
    for (unsigned i = 0; i < 512; i++)
        assert_int_equal(seen[0][i], 0);
    assert_int_equal(seen[0][512], 0xee);
    /* then everything else, and the magic in the last step */
    for (unsigned i = 0; i < 512; i++)
        assert_int_equal(seen[1][i], 0);
    assert_memory_equal(seen[1] + 512, final + 512, sizeof(final) - 512);
    assert_memory_equal(seen[2], final, sizeof(final));
    assert_memory_equal(final, "QFI\xfb", 4);
    test_root_close(&t);
}

static void test_order(void **state)
{
    (void)state;
    test_co_run(co_order, NULL);
}

/* ---- failures ---- */

/* The nth request of a kind fails: an error is told, and what is there is no image; or it is one. */
static void co_nth(enum fault_kind kind, const char *file, const char *options, unsigned least)
{
    unsigned nth = 0, failed = 0;
    bool fired = true;
    while (fired) {
        struct error err = {0};
        struct test_root t = test_root_open(test_open(file));
        struct memdisk *m = memdisk_of(t.n);
        dirty(m);
        fault_arm(kind, ++nth, false);
        int r = co_create(t.c, "qcow2", options, &err);
        fired = fault_fired(kind);
        fault_arm(kind, 0, false);
        failed += r != 0;
        assert_int_equal(!r, !fired);
        assert_int_equal(err.set, fired);
        if (!r)
            assert_memory_equal(m->data, "QFI\xfb", 4);
        else if (kind != FAULT_FLUSH && kind != FAULT_WRITE)
            assert_memory_not_equal(m->data, "QFI\xfb", 4);
        test_root_close(&t);
    }
    assert_true(failed >= least);
}

static void co_failures(void *arg)
{
    const char *grows = "mem,node-name=m,size=512,max-size=4M,write-zeroes=on";
    const char *disk = "mem,node-name=m,size=4M,request-alignment=4096";
    (void)arg;
    co_nth(FAULT_WRITE, grows, "size=1M,preallocation=falloc", 8);
    co_nth(FAULT_WRITE, disk, "size=1M,preallocation=full", 8);
    co_nth(FAULT_READ, disk, "size=1M", 2);
    co_nth(FAULT_FLUSH, grows, "size=1M", 3);
}

static void test_failures(void **state)
{
    (void)state;
    test_co_run(co_failures, NULL);
}

/* Memory: nothing was changed, nothing is left behind. */
static void co_nomem(void *arg)
{
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=4M"));
    struct test_root d = test_root_open(test_open("mem,node-name=d,size=1M"));
    const struct type *type = driver("qcow2")->create_options;
    struct error err = {0};
    struct arena arena;
    (void)arg;
    struct value *v = schema_parse_keyval("size=1M,data-file=d", NULL, &err);
    arena_init(&arena);
    void *opts = arena_alloc(&arena, type->size);
    assert_int_equal(schema_decode(type, v, SCHEMA_TEXT, opts, &arena, &err), 0);
    int r = SR_ENOMEM;
    for (unsigned nth = 1; r; nth++) {
        assert_int_equal(r, SR_ENOMEM);
        err = (struct error){0};
        fault_arm(FAULT_ALLOC, nth, false);
        r = driver("qcow2")->co_create(t.c, opts, &err);
        bool fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0, false);
        assert_int_equal(!r, !fired);
        assert_int_equal(memdisk_of(t.n)->data[0], r ? 0 : 'Q');
        assert_int_equal(d.n->refs, 2);
    }
    arena_free(&arena);
    value_free(v);
    test_root_close(&t);
    test_root_close(&d);
}

static void test_nomem(void **state)
{
    (void)state;
    test_co_run(co_nomem, NULL);
}

/* ---- data files ---- */

static void co_expect_error(struct child *file, const char *options, const char *sentence)
{
    struct error err = {0};
    assert_true(co_create(file, "qcow2", options, &err) < 0);
    assert_string_equal(err.msg, sentence);
    assert_int_equal(memdisk_of(file->node)->count[MEM_WRITE], 0);
    assert_int_equal(memdisk_of(file->node)->count[MEM_TRUNCATE], 0);
}

/* A raw image keeps what it holds when it gets a header; a short one grows. */
static void co_data_file(void *arg)
{
    struct error err = {0};
    uint8_t b[512];
    (void)arg;
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=0,max-size=4M"));
    struct test_root d = test_root_open(test_open("mem,node-name=d,size=100k,max-size=4M"));
    dirty(memdisk_of(d.n));
    co_expect_error(t.c, "size=1M,data-file=nosuch",
                    "Cannot find device='nosuch' nor node-name='nosuch'");
    co_expect_error(t.c, "size=1M,data-file=m", "The data file must not be the image itself");
    co_expect_error(t.c, "size=1M,data-file.driver=nosuch",
                    "Parameter 'driver' does not accept value 'nosuch'");
    assert_int_equal(co_create(t.c, "qcow2", "size=1M,data-file=d,data-file-raw=on", &err), 0);
    assert_int_equal(d.n->size, 1 << 20);
    assert_int_equal(d.n->refs, 2);
    struct test_root q =
        test_root_open(test_open("qcow2,node-name=q,file=m,data-file=d,read-only=on"));
    assert_int_equal(q.n->size, 1 << 20);
    assert_int_equal(co_blk_pread(q.c, 102400 - 256, b, 512), 0);
    assert_int_equal(b[255], 0xee);
    assert_int_equal(b[256], 0);
    test_root_close(&q);
    d.n->read_only = true;
    err = (struct error){0};
    assert_int_equal(co_create(t.c, "qcow2", "size=1M,data-file=d", &err), SR_EPERM);
    assert_string_equal(err.msg, "Block node is read-only");
    d.n->read_only = false;
    test_root_close(&d);
    test_root_close(&t);
}

static void test_data_file(void **state)
{
    (void)state;
    test_co_run(co_data_file, NULL);
}

/* Refused before anything is changed, in QEMU's words. */
static void co_refused(void *arg)
{
    static const char *const wrong[][2] = {
        {"size=1000", "Image size must be a multiple of 512 bytes"},
        {"size=1M,cluster-size=3000", "Cluster size must be a power of two between 512 and 2048k"},
        {"size=1M,backing-file=b", "Backing file specified without backing format"},
        {"size=1M,backing-file=b,backing-fmt=nosuch",
         "Parameter 'backing-fmt' does not accept value 'nosuch'"},
        {"size=1M,data-file-raw=on", "data-file-raw requires data-file"},
        {"size=1M,version=v2,lazy-refcounts=on",
         "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or "
         "greater)"},
        {"size=1M,refcount-bits=-16",
         "Refcount width must be a power of two and may not exceed 64 bits"},
        {"size=9223372036854775296",
         "The image size is too large for file format 'qcow2' (try using a larger cluster size)"},
        {"size=18446744073709551104,cluster-size=2M,preallocation=full",
         "The image size is too large for file format 'qcow2' (try using a larger cluster size)"},
        {"size=2305843009213693952,cluster-size=2M,preallocation=metadata",
         "The image size is too large for file format 'qcow2' (try using a larger cluster size)"},
    };
    (void)arg;
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=4096,max-size=1M"));
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
        co_expect_error(t.c, wrong[i][0], wrong[i][1]);
    test_root_close(&t);
}

static void test_refused(void **state)
{
    (void)state;
    test_co_run(co_refused, NULL);
}

/* ---- raw ---- */

static void co_raw(void *arg)
{
    struct error err = {0};
    (void)arg;
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=4096,max-size=1M"));
    dirty(memdisk_of(t.n));
    assert_int_equal(co_create(t.c, "raw", "size=8k", &err), 0);
    co_expect_empty("raw,node-name=r,file=m", 8192);
    assert_int_equal(co_create(t.c, "raw", "size=2M", &err), SR_ENOSPC);
    assert_string_equal(err.msg, "Could not resize file: No space left on device");
    test_root_close(&t);
    t = test_root_open(test_open("mem,node-name=m,size=4096"));
    assert_int_equal(co_create(t.c, "raw", "size=512", &err), 0);
    assert_int_equal(t.n->size, 4096);
    test_root_close(&t);
}

static void test_raw(void **state)
{
    (void)state;
    test_co_run(co_raw, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),  cmocka_unit_test(test_limits),
        cmocka_unit_test(test_order),   cmocka_unit_test(test_failures),
        cmocka_unit_test(test_nomem),   cmocka_unit_test(test_data_file),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_raw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

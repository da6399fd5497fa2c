/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing qcow2: random requests of every kind from several coroutines against a model, in images of
 * every geometry on disks of many limits. Afterwards the tables are right and a reader sees the model;
 * a snapshot in between keeps what it held; a full disk fails who needs space, and nobody else.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "tests/unit/support_qwrite.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS 5

/* ---- every geometry ---- */

#define GROWS   "size=0,max-size=32M"
static const struct qcase cases[] = {
    {"cluster-size=512", 300000 / 512 * 512, GROWS ",jitter=2", "", .requests = 150},
    {"cluster-size=512,refcount-bits=1", 200192, GROWS ",jitter=1", "", .requests = 100},
    {"cluster-size=512,refcount-bits=2", 200192, GROWS ",discards=on", "", .requests = 100},
    {"cluster-size=512,refcount-bits=64", 3000320, GROWS, "", .requests = 250},
    {"cluster-size=1024,refcount-bits=4,compression-type=zstd", 500224, GROWS ",jitter=2", "",
     .requests = 100},
    {"cluster-size=4096,refcount-bits=8", 1000448, "size=4M,request-alignment=512,jitter=1", "",
     .requests = 120},
    {"cluster-size=4096,refcount-bits=32", 1000448,
     "size=4M,write-zeroes=on,discards=on,fua=on,jitter=2",
     ",l2-cache-size=1,l2-cache-entry-size=512", .requests = 120},
    {"cluster-size=4096", 1000448,
     "size=8M,request-alignment=4096,mem-align=512,max-sg=2,max-transfer=16k,jitter=1", "",
     .requests = 100},
    {"cluster-size=2048", 700416,
     "size=0,max-size=8M,request-alignment=4096,write-zeroes=on,write-zeroes-alignment=4096,"
     "max-write-zeroes=16k,discards=on,discard-alignment=4096,max-discard=8k",
     "", .requests = 100},
    {"cluster-size=512,version=v2", 300032, GROWS ",write-zeroes=on,discards=on,jitter=1", "",
     .requests = 150},
    {"cluster-size=64k,version=v2", 5000192, "size=16M,max-sg=1,jitter=2", "", .requests = 80},
    {"cluster-size=64k", 5000192, GROWS ",write-zeroes=on,discards=on,jitter=2", "",
     .requests = 100},
    {"cluster-size=64k,lazy-refcounts=on", 5000192, GROWS ",jitter=2",
     ",l2-cache-size=1,l2-cache-entry-size=512", .requests = 100},
    {"cluster-size=512,lazy-refcounts=on,refcount-bits=64", 3000320, GROWS ",jitter=1", "",
     .requests = 100},
    {"cluster-size=64k,compression-type=zstd", 3000320, GROWS ",jitter=1", "", .requests = 60},
    {"cluster-size=16k,extended-l2=on", 1000448, GROWS ",jitter=2", "", .requests = 150},
    {"cluster-size=64k,extended-l2=on,compression-type=zstd", 4000256,
     "size=16M,request-alignment=512,write-zeroes=on,discards=on,jitter=1",
     ",l2-cache-size=1,l2-cache-entry-size=512", .requests = 120},
    {"cluster-size=2M", 12000256, "size=0,max-size=64M,jitter=1", "", .requests = 40},
    {"cluster-size=2M,extended-l2=on", 12000256, "size=0,max-size=64M,write-zeroes=on", "",
     .requests = 40},
    {"cluster-size=64k,preallocation=metadata", 3000320, GROWS ",jitter=1", "", .requests = 80},
    {"cluster-size=4096,preallocation=full", 1000448, "size=4M,jitter=1", "", .requests = 80},
    {"cluster-size=16k,extended-l2=on,preallocation=falloc", 1000448, GROWS ",jitter=1", "",
     .requests = 80},
    /* a disk that ends within a cluster */
    {"cluster-size=4096", 1000448, "size=4000100,jitter=1", "", .requests = 60},
    {"cluster-size=64k", 1000448, "size=0,max-size=3000100", "", .requests = 60},
    /* a backing disk: as long, longer, shorter */
    {"cluster-size=512", 200192, GROWS ",jitter=2", "", .backing = 200192, .requests = 100},
    {"cluster-size=4096", 500224, GROWS ",write-zeroes=on,discards=on,jitter=1", "",
     .backing = 900001, .requests = 100},
    {"cluster-size=64k,version=v2", 3000320, GROWS ",jitter=1", "", .backing = 1234567,
     .requests = 80},
    {"cluster-size=512,version=v2", 200192, GROWS ",discards=on", "", .backing = 100001,
     .requests = 100},
    {"cluster-size=64k,extended-l2=on", 3000320, GROWS ",jitter=1", "", .backing = 2000001,
     .requests = 100},
    /* a data file */
    {"cluster-size=4096", 1000448, GROWS ",jitter=2", "", .data_file = true, .requests = 100},
    {"cluster-size=64k,data-file-raw=on", 3000320, GROWS ",jitter=1", "", .data_file = true,
     .requests = 80},
    {"cluster-size=16k,extended-l2=on", 1000448, GROWS ",jitter=1", "", .data_file = true,
     .backing = 600001, .requests = 100},
    {"cluster-size=512,lazy-refcounts=on", 200192, GROWS ",write-zeroes=on", "", .data_file = true,
     .requests = 100},
};

static void co_rounds(struct qimage *w, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        co_qimage_open(w);
        co_qworkers(w, WORKERS, w->c->requests);
        co_qimage_close(w);
        co_qimage_verify(w);
    }
}

static void co_geometry(void *arg)
{
    struct qimage w;
    co_qimage_make(&w, arg);
    co_rounds(&w, 2);
    assert_true(w.done[Q_READ] && w.done[Q_WRITE] && w.done[Q_ZERO] && w.done[Q_DISCARD]);
    co_qimage_free(&w);
}

/* Once; STRONGROOM_LONG: a hundred times. */
static void run_cases(co_fn *fn, const struct qcase *c, unsigned n)
{
    unsigned times = getenv("STRONGROOM_LONG") ? 100 : 1;
    for (unsigned k = 0; k < n * times; k++) {
        struct qcase mine = c[k % n];
        test_random_seed(k + 1);
        if (k >= n)
            print_message("%u: %s\n", k, mine.create);
        test_co_run(fn, &mine);
    }
}

static void test_geometries(void **state)
{
    (void)state;
    run_cases(co_geometry, cases, ARRAY_LEN(cases));
}

/* ---- a snapshot ---- */

/* Through the snapshot's L1 table. */
static void co_compare_snapshot(struct qimage *w, uint8_t *model)
{
    uint8_t *f = memdisk_of(w->m)->data, *now = w->model;
    uint64_t l1 = get_be(f + 40, 8);
    put_be(f + 40, 8, get_be(f + get_be(f + 64, 8), 8));
    w->model = model;
    co_qimage_compare(w);
    w->model = now;
    put_be(f + 40, 8, l1);
}

static void co_snapshot(void *arg)
{
    struct qimage w;
    co_qimage_make(&w, arg);
    if (w.h.external || w.h.refcount_order < 3) {
        co_qimage_free(&w);
        return;
    }
    uint8_t *then = malloc(w.size);
    co_rounds(&w, 1);
    co_qimage_snapshot(&w);
    memcpy(then, w.model, w.size);
    co_rounds(&w, 2);
    co_compare_snapshot(&w, then);
    free(then);
    co_qimage_free(&w);
}

static void test_snapshots(void **state)
{
    (void)state;
    run_cases(co_snapshot, cases, ARRAY_LEN(cases));
}

/* ---- a full disk ---- */

static const struct qcase small[] = {
    {"cluster-size=512", 400384, "size=200k,jitter=1", "", .requests = 100},
    {"cluster-size=512,refcount-bits=64", 400384, "size=0,max-size=200k,jitter=1", "",
     .requests = 100},
    {"cluster-size=4096", 1000448, "size=500k,discards=on,jitter=1", "", .requests = 100},
    {"cluster-size=4096,version=v2", 1000448, "size=0,max-size=400k,write-zeroes=on", "",
     .requests = 100},
    {"cluster-size=4096,lazy-refcounts=on", 1000448, "size=300k,request-alignment=4096,jitter=2",
     "", .requests = 100},
    {"cluster-size=64k,compression-type=zstd", 4000256, "size=2M,discards=on,jitter=1", "",
     .requests = 80},
    {"cluster-size=16k,extended-l2=on", 1000448, "size=400k,jitter=2", "", .backing = 700001,
     .requests = 100},
};

/* Everything is given back, and can be used again: three times what the disk holds. */
static void co_go_on(struct qimage *w)
{
    uint64_t room = w->m->size / 2;
    for (unsigned i = 0; i < 6; i++) {
        struct qop op = {.kind = Q_WRITE, .len = align_down(MIN(room, w->size), w->cluster)};
        op.len = MIN(op.len, 256u << 10);
        assert_int_equal(co_qop(w, (struct qop){.kind = Q_DISCARD, .len = w->size}), 0);
        op.off = i * op.len % (w->size - op.len);
        assert_int_equal(co_qop(w, op), 0);
    }
}

static void co_small(void *arg)
{
    struct qcase c = *(struct qcase *)arg;
    struct qimage w;
    c.small = true;
    co_qimage_make(&w, &c);
    co_rounds(&w, 2);
    assert_true(w.full > 3);
    co_qimage_open(&w);
    co_go_on(&w);
    co_qimage_close(&w);
    co_qimage_verify(&w);
    co_qimage_free(&w);
}

static void test_small_disks(void **state)
{
    (void)state;
    run_cases(co_small, small, ARRAY_LEN(small));
}

/* ---- the header ---- */

/* Unknown autoclear bits are cleared by the first write, not by opening; all else stays. */
static void co_header(void *arg)
{
    static const struct qcase c = {"cluster-size=4096", 1000448, "size=0,max-size=8M", "",
                                   .requests = 0};
    struct qimage w;
    uint8_t before[4096];
    (void)arg;
    co_qimage_make(&w, &c);
    uint8_t *f = memdisk_of(w.m)->data;
    put_be(f + 88, 8, 1ull << 60 | 1 << 7);
    memmove(f + 112 + 16, f + 112, 1000); /* an extension that nobody knows comes first */
    put_be(f + 112, 4, 0x77777777);
    put_be(f + 116, 4, 8);
    memcpy(before, f, sizeof(before));
    co_qimage_open(&w);
    assert_int_equal(co_qop(&w, (struct qop){Q_READ, 0, 4096, 0}), 0);
    assert_int_equal(co_qop(&w, (struct qop){Q_FLUSH, 0, 0, 0}), 0);
    assert_memory_equal(f, before, sizeof(before));
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 4096, 100, 0}), 0);
    co_qimage_close(&w);
    memset(before + 88, 0, 8);
    assert_memory_equal(f, before, sizeof(before));
    co_qimage_verify(&w);
    co_qimage_free(&w);
}

static void test_header(void **state)
{
    (void)state;
    test_co_run(co_header, NULL);
}

/* A file that somebody cut in the midst of its last cluster, or left some bytes behind. */
static void co_odd_end(void *arg)
{
    static const struct qcase c = {"cluster-size=4096", 1000448, "size=0,max-size=8M", "",
                                   .requests = 60};
    static const int64_t more[] = {100, -3000, 4095};
    struct qimage w;
    (void)arg;
    co_qimage_make(&w, &c);
    for (unsigned k = 0; k < ARRAY_LEN(more); k++) {
        co_qimage_open(&w);
        struct qop op = {Q_WRITE, (200 + 10 * k) * 4096, 100, 0};
        assert_int_equal(co_qop(&w, op), 0);
        co_qimage_close(&w);
        co_disk_resize(w.m, (uint64_t)((int64_t)w.m->size + more[k]));
        co_rounds(&w, 1);
    }
    co_qimage_free(&w);
}

static void test_odd_end(void **state)
{
    (void)state;
    test_random_seed(5);
    test_co_run(co_odd_end, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_geometries),  cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_small_disks), cmocka_unit_test(test_header),
        cmocka_unit_test(test_odd_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

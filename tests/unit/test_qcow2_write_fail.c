/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The nth request to the disk, or the nth allocation, fails while a fixed script of requests runs on a
 * qcow2 image, for every n until nothing fails. Who fails leaves old or new bytes; the image has no
 * error afterwards, and no leak when there was a chance to give back; writing goes on.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "tests/unit/support_qwrite.h"
#include "formats/qcow2/qcow2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the script ---- */

#define KIB *1024u
static const struct qop script[] = {
    /* over what the image has: plain, compressed, zero clusters, nothing */
    {Q_WRITE, 0, 4 KIB, 0},
    {Q_WRITE, 5000, 300, 0},
    {Q_WRITE, 100 KIB + 77, 30 KIB, 0},
    {Q_READ, 0, 200 KIB, 0},
    {Q_WRITE, 300 KIB, 3 KIB, BLK_FUA},
    {Q_ZERO, 128 KIB, 32 KIB, BLK_MAY_UNMAP},
    {Q_ZERO, 33 KIB + 5, 2 KIB, 0},
    {Q_FLUSH, 0, 0, 0},
    {Q_WRITE, 192 KIB, 32 KIB, BLK_COMPRESSED},
    {Q_DISCARD, 64 KIB, 32 KIB, 0},
    {Q_WRITE, 64 KIB + 9, 17 KIB, BLK_SETTLED},
    {Q_WRITE, 192 KIB + 1000, 2 KIB, 0},
    {Q_DISCARD, 0, 16 KIB, 0},
    {Q_FLUSH, 0, 0, 0},
    {Q_WRITE, 352 KIB, 40 KIB, 0},
    {Q_WRITE, 0, 64 KIB, 0},
    {Q_READ, 0, 384 KIB, 0},
    {Q_ZERO, 0, 384 KIB, 0},
    {Q_WRITE, 210 KIB, 50 KIB, BLK_COMPRESSED},
    {Q_DISCARD, 0, 300 KIB, 0},
    {Q_WRITE, 200 KIB, 180 KIB, 0},
};

static void co_script(struct qimage *w)
{
    for (unsigned k = 0; k < ARRAY_LEN(script); k++) {
        struct qop op = script[k];
        if (op.flags & BLK_COMPRESSED || op.kind == Q_DISCARD) {
            op.len = align_up(op.off + op.len, w->cluster) - align_down(op.off, w->cluster);
            op.off = align_down(op.off, w->cluster);
        }
        op.len = MIN(op.len, w->size - op.off);
        (void)co_qop(w, op);
    }
}

/* ---- an image to begin with ---- */

struct start {
    uint8_t *file, *data, *model;
    uint64_t file_size, data_size;
};

static uint8_t *copy_of(const uint8_t *from, uint64_t len)
{
    uint8_t *p = malloc(len + 1);
    memcpy(p, from, len);
    return p;
}

/* Something of everything, shared with a snapshot where that can be. */
static void co_begin_image(struct qimage *w, const struct qcase *c, struct start *s)
{
    co_qimage_make(w, c);
    co_qimage_open(w);
    co_qworkers(w, 3, c->requests);
    co_qimage_close(w);
    if (!w->h.external && w->h.refcount_order >= 3)
        co_qimage_snapshot(w);
    co_qimage_verify(w);
    *s = (struct start){.file = copy_of(memdisk_of(w->m)->data, w->m->size),
                        .model = copy_of(w->model, w->size),
                        .file_size = w->m->size};
    if (w->d) {
        s->data = copy_of(memdisk_of(w->d)->data, w->d->size);
        s->data_size = w->d->size;
    }
}

static void co_put_back(struct qimage *w, const struct start *s)
{
    co_disk_resize(w->m, s->file_size);
    memcpy(memdisk_of(w->m)->data, s->file, s->file_size);
    memcpy(w->model, s->model, w->size);
    if (w->d)
        memcpy(memdisk_of(w->d)->data, s->data, s->data_size);
}

static void start_free(struct start *s)
{
    free(s->file);
    free(s->data);
    free(s->model);
}

/* ---- one failure ---- */

struct fail_case {
    struct qcase c;
    enum fault_kind kind;
    bool refuse;
};

/* The test's own allocations are none of the driver's. */
static bool co_open_failing(struct qimage *w, const struct fail_case *f, uint64_t nth)
{
    struct error err = {0}, none = {0};
    fault_arm(f->kind, nth, false);
    struct node *n = co_qimage_node(w, &err);
    uint64_t asked = fault_asked(f->kind);
    bool fired = fault_fired(f->kind);
    fault_arm(f->kind, 0, false);
    assert_int_equal(!n, fired);
    w->t = test_root_open(n ? n : co_qimage_node(w, &none));
    if (!fired)
        fault_arm(f->kind, nth - asked, false);
    return fired;
}

/* Closing failed: leaks are left, or the dirty bit is. Opening sees to the second, a check to both. */
static void co_mend(struct qimage *w)
{
    struct blk_check found = {0};
    struct error err = {0};
    struct image_check c = image_check(memdisk_of(w->m)->data, w->m->size);
    assert_false(c.corrupt);
    assert_true(!c.errors || c.dirty);
    co_qimage_compare(w);
    if (c.dirty) {
        co_qimage_open(w);
        co_qimage_close(w);
    } else if (c.leaks) {
        struct test_root t = test_root_open(w->m);
        if (blk_qcow2.co_check(t.c, BLK_FIX_LEAKS, &found, &err))
            fail_msg("%s", err.msg);
        assert_int_equal(found.leaks_fixed, c.leaks);
        test_root_done(&t);
    }
}

/* One round; true: there was something to fail. */
static bool co_once(struct qimage *w, const struct fail_case *f, uint64_t nth)
{
    w->bad = w->full = 0;
    bool fired = co_open_failing(w, f, nth);
    w->failures = true;
    co_script(w);
    (void)co_qop(w, (struct qop){.kind = Q_FLUSH});
    w->failures = false;
    fired |= fault_fired(f->kind);
    if (fired) {
        fault_arm(f->kind, 0, false);
        assert_true(w->bad + w->full <= 1);
        co_script(w);
    }
    co_qimage_close(w);
    bool at_close = fault_fired(f->kind);
    fault_arm(f->kind, 0, false);
    if (at_close)
        co_mend(w);
    co_qimage_verify(w);
    return fired || at_close;
}

/* All of them, a few in each run of the loop: its watchdog looks at one. */
struct series {
    struct fail_case f;
    struct qimage w;
    struct start s;
    size_t pages;
    uint64_t nth;
    bool fired;
};

static void co_series_begin(void *arg)
{
    struct series *k = arg;
    co_begin_image(&k->w, &k->f.c, &k->s);
    memdisk_of(k->w.m)->refuse = k->f.refuse;
    if (k->w.d)
        memdisk_of(k->w.d)->refuse = k->f.refuse;
    k->pages = page_free_bytes();
}

static void co_series_some(void *arg)
{
    struct series *k = arg;
    for (unsigned i = 0; i < 20 && k->fired; i++) {
        co_put_back(&k->w, &k->s);
        k->fired = co_once(&k->w, &k->f, ++k->nth);
        assert_int_equal(page_free_bytes(), k->pages);
    }
}

static void co_series_end(void *arg)
{
    struct series *k = arg;
    assert_true(k->nth > 10 || k->f.kind == FAULT_ALLOC);
    start_free(&k->s);
    co_qimage_free(&k->w);
}

static const struct qcase cases[] = {
    {"cluster-size=512", 400384, "size=0,max-size=4M,jitter=1", ",l2-cache-size=1", .requests = 25},
    {"cluster-size=4096,lazy-refcounts=on", 400384, "size=2M,write-zeroes=on,discards=on,jitter=1",
     ",l2-cache-size=1,l2-cache-entry-size=512", .requests = 25},
    {"cluster-size=4096,version=v2", 400384, "size=0,max-size=4M,request-alignment=4096,jitter=1",
     "", .requests = 25},
    {"cluster-size=16k,extended-l2=on,compression-type=zstd", 400384,
     "size=0,max-size=4M,write-zeroes=on", "", .backing = 300001, .requests = 25},
    {"cluster-size=4096", 400384, "size=0,max-size=4M,jitter=1", "", .data_file = true,
     .requests = 25},
};

static void run_all(enum fault_kind kind, bool refuse)
{
    for (unsigned k = 0; k < ARRAY_LEN(cases); k++) {
        struct series all = {.f = {cases[k], kind, refuse}, .fired = true};
        test_random_seed(k + 1);
        test_co_run(co_series_begin, &all);
        while (all.fired)
            test_co_run(co_series_some, &all);
        test_co_run(co_series_end, &all);
    }
}

static void test_reads(void **state)
{
    (void)state;
    run_all(FAULT_READ, false);
}

static void test_writes(void **state)
{
    (void)state;
    run_all(FAULT_WRITE, false);
    run_all(FAULT_WRITE, true);
}

static void test_flushes(void **state)
{
    (void)state;
    run_all(FAULT_FLUSH, true);
}

static void test_allocations(void **state)
{
    (void)state;
    run_all(FAULT_ALLOC, false);
}

/* ---- failures among many ---- */

static enum fault_kind any_kind(void)
{
    static const enum fault_kind kinds[] = {FAULT_READ, FAULT_WRITE, FAULT_WRITE, FAULT_FLUSH};
    return kinds[test_random() % ARRAY_LEN(kinds)];
}

/* Also for a while: all writes, or flushes. */
static void co_bad_weather(struct qimage *w)
{
    enum fault_kind kind = any_kind();
    bool on = kind != FAULT_READ && test_random() % 3 == 0;
    memdisk_of(w->m)->refuse = test_random() & 1;
    w->failures = true;
    fault_arm(kind, 1 + test_random() % 60, on);
    co_qworkers(w, 5, 8);
    fault_arm(kind, 0, false);
    w->failures = false;
    assert_int_equal(co_qop(w, (struct qop){.kind = Q_FLUSH}), 0);
}

static void co_storm(void *arg)
{
    struct qimage w;
    co_qimage_make(&w, arg);
    co_qimage_open(&w);
    for (unsigned i = 0; i < 40; i++)
        co_bad_weather(&w);
    assert_true(w.bad > 10);
    co_qworkers(&w, 5, 10);
    co_qimage_close(&w);
    co_qimage_verify(&w);
    co_qimage_free(&w);
}

static void test_storms(void **state)
{
    (void)state;
    for (unsigned k = 0; k < ARRAY_LEN(cases); k++) {
        struct qcase c = cases[k];
        test_random_seed(k + 1);
        test_co_run(co_storm, &c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),   cmocka_unit_test(test_writes),
        cmocka_unit_test(test_flushes), cmocka_unit_test(test_allocations),
        cmocka_unit_test(test_storms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

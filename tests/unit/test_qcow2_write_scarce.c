/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing qcow2 with little of everything: pools at their minimum, one big stack, hardly more stacks
 * than one request needs, tiny caches; also images that lie in images that are written, too. Nothing
 * here looks at time: what waits for itself is found by the watchdog.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qwrite.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACKS 4

/* ---- one image ---- */

#define TINY   ",l2-cache-size=1,l2-cache-entry-size=512"
static const struct qcase alone[] = {
    {"cluster-size=512", 200192, "size=0,max-size=8M,jitter=3", TINY, .requests = 60},
    {"cluster-size=64k", 3000320, "size=8M,request-alignment=4096,max-sg=1,jitter=2", TINY,
     .requests = 40},
    {"cluster-size=4096,compression-type=zstd", 500224, "size=0,max-size=8M,jitter=3", TINY,
     .backing = 400001, .requests = 60},
    {"cluster-size=16k,extended-l2=on", 1000448, "size=0,max-size=8M,jitter=3", TINY,
     .backing = 700001, .requests = 60},
    {"cluster-size=4096", 500224, "size=300k,discards=on,jitter=3", TINY, .small = true,
     .requests = 60},
    {"cluster-size=4096", 500224, "size=0,max-size=8M,jitter=3", TINY, .data_file = true,
     .requests = 60},
};

static void co_alone(void *arg)
{
    const struct qcase *c = arg;
    struct qimage w;
    co_qimage_make(&w, c);
    co_qimage_open(&w);
    co_qworkers(&w, 12, c->requests);
    co_qimage_close(&w);
    co_qimage_verify(&w);
    co_qimage_free(&w);
}

static void test_alone(void **state)
{
    (void)state;
    for (unsigned k = 0; k < ARRAY_LEN(alone); k++) {
        struct qcase c = alone[k];
        test_random_seed(k + 1);
        test_co_run(co_alone, &c);
    }
}

/* ---- images in images ---- */

#define DEEP 3
struct level {
    struct qimage w;
    char name[8], file[8]; /* nodes */
};

static struct test_root open_level(const struct level *l, const char *more)
{
    char text[200];
    snprintf(text, sizeof(text), "driver=qcow2,node-name=%s,file=%s%s%s", l->name, l->file,
             l->w.c->open, more);
    return test_root_open(test_open(text));
}

/* In what the level below shows. */
static void co_level_make(struct level *l, struct test_root below, const struct qcase *c)
{
    char text[200];
    struct error err = {0};
    uint8_t head[512];
    l->w = (struct qimage){.c = c, .size = c->size, .model = calloc(1, c->size)};
    list_init(&l->w.busy);
    snprintf(text, sizeof(text), "size=%llu,%s", (unsigned long long)c->size, c->create);
    if (co_image_create(below.c, text, &err))
        fail_msg("%s: %s", text, err.msg);
    assert_int_equal(co_blk_pread(below.c, 0, head, sizeof(head)), 0);
    l->w.h = image_header(head);
    l->w.cluster = 1ull << l->w.h.cluster_bits;
    l->w.t = open_level(l, ",discard=unmap");
}

/* Closed and read again, with its tables. */
static void co_level_check(struct level *l, struct test_root below)
{
    uint8_t *file = malloc(below.n->size), *content = malloc(l->w.size);
    test_root_close(&l->w.t);
    for (uint64_t at = 0; at < below.n->size; at += 65536)
        assert_int_equal(
            co_blk_pread(below.c, at, file + at, (size_t)MIN(65536u, below.n->size - at)), 0);
    struct image_check c = image_check(file, below.n->size);
    if (c.errors || c.leaks)
        fail_msg("%s: %u errors, %u leaks: %s", l->name, c.errors, c.leaks, c.first);
    struct test_root t = open_level(l, ",read-only=on");
    assert_int_equal(co_blk_pread(t.c, 0, content, l->w.size), 0);
    assert_memory_equal(content, l->w.model, l->w.size);
    test_root_close(&t);
    free(content);
    free(file);
    free(l->w.model);
}

/* Something compressed, shared with a snapshot or absent is everywhere when the next one is made. */
static void co_used_before(struct qimage *outer, const struct qcase *c)
{
    co_qimage_make(outer, c);
    co_qimage_open(outer);
    co_qworkers(outer, 3, 40);
    co_qimage_close(outer);
    co_qimage_snapshot(outer);
    co_qimage_open(outer);
}

static void co_nested(void *arg)
{
    static const struct qcase cases[DEEP] = {
        {"cluster-size=4096", 3 << 20, "size=0,max-size=24M,jitter=2", TINY, .requests = 0},
        {"cluster-size=16k,extended-l2=on", 1800192, "", TINY, .requests = 0},
        {"cluster-size=512", 700416, "", TINY, .small = true, .requests = 60},
    };
    struct qimage outer;
    struct level in[DEEP - 1] = {{.name = "q1", .file = "q"}, {.name = "q2", .file = "q1"}};
    (void)arg;
    co_used_before(&outer, &cases[0]);
    co_level_make(&in[0], outer.t, &cases[1]);
    co_qworkers(&in[0].w, 3, 20);
    co_level_make(&in[1], in[0].w.t, &cases[2]);
    co_qworkers(&in[1].w, 12, cases[2].requests);
    co_level_check(&in[1], in[0].w.t);
    assert_int_equal(co_blk_pread(in[0].w.t.c, 0, in[0].w.model, in[0].w.size), 0);
    co_level_check(&in[0], outer.t);
    co_qimage_close(&outer);
    struct image_check c = image_check(memdisk_of(outer.m)->data, outer.m->size);
    if (c.errors || c.leaks)
        fail_msg("%u errors, %u leaks: %s", c.errors, c.leaks, c.first);
    co_qimage_free(&outer);
}

static void test_nested(void **state)
{
    unsigned times = getenv("STRONGROOM_LONG") ? 100 : 4;
    (void)state;
    for (unsigned k = 0; k < times; k++) {
        test_random_seed(k + 1);
        test_co_run(co_nested, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_nested),
    };
    test_start_with(STACKS, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

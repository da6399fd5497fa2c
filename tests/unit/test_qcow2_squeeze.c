/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Clusters compressed for writing: what comes out reads back through the driver, the workspaces that
 * hold it are given back and waited for, and what they hold of a cluster can be forgotten.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "formats/qcow2/qcow2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct opened {
    struct image i;
    struct node *m;
    struct test_root t;
    struct qcow2 *s;
};

static void image_open(struct opened *o, enum image_kind kind, const char *more)
{
    char text[200];
    image_make(&o->i, kind);
    snprintf(text, sizeof(text), "driver=mem,node-name=m,size=%llu%s",
             (unsigned long long)o->i.file_size, more);
    o->m = test_open(text);
    image_put(&o->i, "m");
    o->t = test_root_open(test_open("driver=qcow2,node-name=q,read-only=on,file=m"));
    o->s = node_state(o->t.n);
}

static void image_close(struct opened *o)
{
    test_root_close(&o->t);
    o->m->monitor_owned = false;
    co_node_unref(o->m);
    image_free(&o->i);
}

static uint8_t *text(size_t len)
{
    uint8_t *p = malloc(len);
    for (size_t k = 0; k < len; k++)
        p[k] = "abcdefghijklmnop"[test_random() % 16];
    return p;
}

/* Puts what came out into the image by hand, lets go of it, and reads the cluster. */
static void co_check_stored(struct opened *o, struct squeezed *z, uint64_t guest,
                            const uint8_t *content, size_t len)
{
    uint64_t size = o->s->cluster_mask + 1;
    uint64_t host = align_up(o->i.end, size) + 13, last = (host % 512 + z->len - 1) / 512;
    uint8_t *data = memdisk_of(o->m)->data, *back = malloc(len);
    assert_in_range(z->len, 1, size - 1);
    assert_true(host + z->len <= o->i.file_size);
    memcpy(data + host, z->data, z->len);
    squeeze_done(o->s, z);
    put_be(data + image_l2_entry(&o->i, guest), 8,
           host | last << (62 - (o->i.cluster_bits - 8)) | 1ull << 62);
    assert_int_equal(co_blk_pread(o->t.c, guest, back, len), 0);
    assert_memory_equal(back, content, len);
    free(back);
}

/* In pieces; the last cluster of the disk is shorter. */
static void co_part(const struct image *i, bool tail)
{
    struct opened o = {.i = *i};
    struct squeezed z;
    image_open(&o, IMAGE_SEQUENTIAL, "");
    size_t len = (size_t)(tail ? o.i.size & o.s->cluster_mask : o.s->cluster_mask + 1);
    uint8_t *p = text(len);
    struct seg seg[3] = {{p, 1}, {p + 1, len / 2}, {p + 1 + len / 2, len - len / 2 - 1}};
    assert_int_equal(co_squeeze(o.s, (struct iov){.seg = seg, .len = len}, &z), 0);
    co_check_stored(&o, &z, tail ? o.i.size - len : 0, p, len);

    len = (size_t)o.s->cluster_mask + 1;
    uint8_t *noise = malloc(len);
    for (size_t k = 0; k < len; k++)
        noise[k] = (uint8_t)test_random();
    assert_int_equal(co_squeeze(o.s, iov_one(seg, noise, len), &z), SR_ENOSPC);
    free(p), free(noise);
    image_close(&o);
}

static void co_geometry(void *arg)
{
    co_part(arg, false);
    co_part(arg, true);
}

static void test_geometries(void **state)
{
    (void)state;
    for (unsigned bits = 9; bits <= 21; bits += 2)
        for (unsigned zstd = 0; zstd < 2; zstd++) {
            struct image i = {.version = 3,
                              .cluster_bits = bits,
                              .zstd = zstd,
                              .size = (5ull << bits) + 300,
                              .file_size = 40ull << bits};
            test_co_run(co_geometry, &i);
        }
}

static void co_no_memory(void *arg)
{
    struct opened o = {.i = {.version = 3, .cluster_bits = 16, .size = 100000}};
    uint8_t *p = text(65536);
    struct squeezed z;
    struct seg seg;
    (void)arg;
    image_open(&o, IMAGE_EMPTY, "");
    fault_arm(FAULT_ALLOC, 1, false);
    assert_int_equal(co_squeeze(o.s, iov_one(&seg, p, 65536), &z), SR_ENOMEM);
    assert_true(fault_fired(FAULT_ALLOC));
    fault_arm(FAULT_ALLOC, 0, false);
    assert_int_equal(co_squeeze(o.s, iov_one(&seg, p, 65536), &z), 0);
    squeeze_done(o.s, &z);
    free(p);
    image_close(&o);
}

static void test_no_memory(void **state)
{
    (void)state;
    test_co_run(co_no_memory, NULL);
}

/* ---- who holds, who waits ---- */

struct writer {
    struct co_start start;
    struct opened *o;
    struct co_join *join;
    uint8_t *p;
};

static void co_writer(void *arg)
{
    struct writer *w = arg;
    struct squeezed z;
    struct seg seg;
    assert_int_equal(co_squeeze(w->o->s, iov_one(&seg, w->p, 65536), &z), 0);
    uint8_t *copy = malloc(z.len);
    memcpy(copy, z.data, z.len);
    for (unsigned k = test_random() % 20; k; k--)
        co_reschedule(); /* as if it were written */
    assert_memory_equal(copy, z.data, z.len);
    squeeze_done(w->o->s, &z);
    free(copy);
    co_join_done(w->join, 0);
}

static void co_reader(void *arg)
{
    struct writer *w = arg;
    const struct image *i = &w->o->i;
    uint8_t buf[4096];
    for (unsigned k = 0; k < 10; k++) {
        uint64_t off = test_random() % (i->size - sizeof(buf));
        assert_int_equal(co_blk_pread(w->o->t.c, off, buf, sizeof(buf)), 0);
        assert_memory_equal(buf, i->model + off, sizeof(buf));
    }
    co_join_done(w->join, 0);
}

/* More writers and readers than there are workspaces. */
static void co_crowd(void *arg)
{
    struct opened o = {.i = {.version = 3, .cluster_bits = 16, .size = 2000000}};
    struct writer w[40];
    struct co_join join;
    (void)arg;
    image_open(&o, IMAGE_COMPRESSED, ",jitter=3");
    co_join_init(&join);
    for (unsigned k = 0; k < ARRAY_LEN(w); k++) {
        w[k] = (struct writer){.o = &o, .join = &join, .p = text(65536)};
        co_join_add(&join);
        co_start(&w[k].start, k & 1 ? co_reader : co_writer, &w[k]);
    }
    assert_int_equal(co_join_wait(&join), 0);
    for (unsigned k = 0; k < ARRAY_LEN(w); k++)
        free(w[k].p);
    image_close(&o);
}

static void test_crowd(void **state)
{
    (void)state;
    test_co_run(co_crowd, NULL);
}

/* ---- stale ---- */

static void co_stale(void *arg)
{
    struct opened o = {.i = {.version = 3, .cluster_bits = 16, .size = 65536}};
    uint8_t back[512];
    (void)arg;
    image_open(&o, IMAGE_COMPRESSED, "");
    assert_int_equal(co_blk_pread(o.t.c, 0, back, sizeof(back)), 0);
    assert_memory_equal(back, o.i.model, sizeof(back));

    uint64_t host = get_be(o.i.file + image_l2_entry(&o.i, 0), 8) & ((1ull << 54) - 1);
    memset(memdisk_of(o.m)->data + host, 0xff, 100);
    clusters_forget(o.s, host + 1, 100000);
    clusters_forget(o.s, 0, host);
    assert_int_equal(co_blk_pread(o.t.c, 0, back, sizeof(back)), 0);
    assert_memory_equal(back, o.i.model, sizeof(back)); /* not these */
    clusters_forget(o.s, host, 1);
    assert_int_equal(co_blk_pread(o.t.c, 0, back, sizeof(back)), SR_EIO);
    image_close(&o);
}

static void test_stale(void **state)
{
    (void)state;
    test_co_run(co_stale, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_geometries),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_stale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading qcow2: random images of every geometry against their model, what goes down to the file for
 * it, failure of each I/O and each allocation in turn, and images within images.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An image on memory disk "m" (data file on "d"), opened as node "q". */
struct opened {
    struct image i;
    struct node *m, *d;
    struct test_root t;
};

static void drop(struct node *n)
{
    n->monitor_owned = false;
    co_node_unref(n);
}

static struct node *mem(const char *name, uint64_t size, const char *more)
{
    char text[200];
    snprintf(text, sizeof(text), "driver=mem,node-name=%s,size=%llu%s", name,
             (unsigned long long)size, more);
    return test_open(text);
}

static void image_open(struct opened *o, enum image_kind kind, const char *disk, const char *more)
{
    char text[200];
    image_make(&o->i, kind);
    o->m = mem("m", o->i.file_size, disk);
    image_put(&o->i, "m");
    if (o->i.external) {
        o->d = mem("d", o->i.size, disk);
        memcpy(memdisk_of(o->d)->data, o->i.data, o->i.size);
    }
    snprintf(text, sizeof(text), "driver=qcow2,node-name=q,read-only=on,file=m%s%s",
             o->i.external ? ",data-file=d" : "", more);
    o->t = test_root_open(test_open(text));
}

static void image_close(struct opened *o)
{
    test_root_close(&o->t);
    drop(o->m);
    if (o->i.external)
        drop(o->d);
    image_free(&o->i);
}

/* ---- against the model ---- */

static void pick(uint64_t size, uint64_t *off, size_t *len)
{
    uint64_t grain = (test_random() & 1) ? 512 : 1;
    *off = align_down(test_random() % size, grain);
    *len = 1 + test_random() % ((test_random() & 3) ? 5000 : 300000);
    if (*len > size - *off)
        *len = (size_t)(size - *off);
}

/* Into two segments with a guard around. */
static int co_read_checked(const struct opened *o, uint64_t off, size_t len)
{
    uint8_t *buf = malloc(len + 3);
    size_t half = len > 1 ? len / 2 : len;
    struct seg seg[2] = {{buf + 1, half}, {buf + 1 + half + (half < len), len - half}};
    struct iov v = {.seg = seg, .len = len};
    memset(buf, 0xa5, len + 3);
    int r = co_blk_preadv(o->t.c, off, v, 0);
    if (!r) {
        assert_memory_equal(seg[0].base, o->i.model + off, half);
        if (half < len)
            assert_memory_equal(seg[1].base, o->i.model + off + half, len - half);
    }
    assert_int_equal(buf[0], 0xa5);
    assert_int_equal(buf[len + 1 + (half < len)], 0xa5);
    free(buf);
    return r;
}

struct reader {
    struct co_start start;
    const struct opened *o;
    unsigned count;
    struct co_join *join;
};

static void co_reader(void *arg)
{
    struct reader *r = arg;
    while (r->count--) {
        uint64_t off;
        size_t len;
        pick(r->o->i.size, &off, &len);
        origin_try_enter(r->o->t.origin);
        assert_int_equal(co_read_checked(r->o, off, len), 0);
        origin_leave(r->o->t.origin);
    }
    co_join_done(r->join, 0);
}

static void co_read_all(const struct opened *o, unsigned readers, unsigned each)
{
    struct reader r[8];
    struct co_join join;
    co_join_init(&join);
    for (unsigned k = 0; k < readers; k++) {
        r[k] = (struct reader){.o = o, .count = each, .join = &join};
        co_join_add(&join);
        co_start(&r[k].start, co_reader, &r[k]);
    }
    assert_int_equal(co_join_wait(&join), 0);
    for (uint64_t off = 0; off < o->i.size; off += 4096)
        assert_int_equal(co_read_checked(o, off, (size_t)MIN(4096u, o->i.size - off)), 0);
}

static void co_status_all(const struct opened *o)
{
    struct blk_status st;
    for (uint64_t off = 0; off < o->i.size; off += st.len) {
        assert_int_equal(co_blk_status(o->t.c, off, o->i.size - off, &st), 0);
        assert_true(st.len > 0 && st.len <= o->i.size - off);
        for (uint64_t k = off / 512; k < (off + st.len) / 512; k++) {
            assert_int_equal(!!(st.flags & BLK_DATA), o->i.kind[k] == IMAGE_DATA);
            assert_int_equal(!!(st.flags & BLK_ALLOCATED), o->i.kind[k] != IMAGE_NONE);
        }
        if (st.flags & BLK_OFFSET_VALID) {
            const struct memdisk *m = memdisk_of(st.map_child->node);
            uint64_t len = MIN(st.len, st.map_child->node->size - st.map);
            assert_memory_equal(m->data + st.map, o->i.model + off, len);
        }
    }
}

struct random_case {
    struct image i;
    const char *disk, *more;
};
static const struct random_case random_cases[] = {
    {{.version = 3, .cluster_bits = 9, .size = 100000}, "", ""},
    {{.version = 3, .cluster_bits = 9, .size = 400001}, ",jitter=2", ",l2-cache-size=512"},
    {{.version = 2, .cluster_bits = 9, .size = 200000}, ",request-alignment=512", ""},
    {{.version = 2, .cluster_bits = 16, .size = 5000000}, ",jitter=1", ""},
    {{.version = 3, .cluster_bits = 12, .size = 900000},
     ",request-alignment=4096,mem-align=512,max-sg=2",
     ",l2-cache-entry-size=512,l2-cache-size=1"},
    {{.version = 3, .cluster_bits = 12, .size = 900000, .zstd = true}, ",jitter=2", ""},
    {{.version = 3, .cluster_bits = 16, .size = 3000000, .zstd = true}, ",jitter=2", ""},
    {{.version = 3, .cluster_bits = 14, .size = 2000000, .extended = true}, "", ""},
    {{.version = 3, .cluster_bits = 16, .size = 6000000, .extended = true, .zstd = true},
     ",jitter=1",
     ",l2-cache-entry-size=512"},
    {{.version = 3, .cluster_bits = 10, .size = 300000, .external = true}, ",jitter=1", ""},
    {{.version = 3, .cluster_bits = 15, .size = 3000000, .external = true, .extended = true},
     "",
     ""},
    {{.version = 3, .cluster_bits = 21, .size = 9000000, .file_size = 60000000}, ",jitter=1", ""},
    {{.version = 3, .cluster_bits = 21, .size = 9000000, .zstd = true, .file_size = 60000000},
     "",
     ""},
};

static void co_random(void *arg)
{
    const struct random_case *c = arg;
    struct opened o = {.i = c->i};
    image_open(&o, IMAGE_RANDOM, c->disk, c->more);
    assert_int_equal(o.t.n->size, o.i.size);
    assert_true(o.t.n->read_only);
    co_status_all(&o);
    co_read_all(&o, 6, 30);
    image_close(&o);
}

static void test_random_images(void **state)
{
    (void)state;
    for (unsigned k = 0; k < ARRAY_LEN(random_cases); k++)
        for (unsigned seed = 0; seed < 3; seed++) {
            struct random_case c = random_cases[k];
            test_random_seed(100 * k + seed);
            test_co_run(co_random, &c);
        }
}

/* ---- backing ---- */

static void co_backing(void *arg)
{
    const uint64_t size = 300000, below = 150001;
    uint8_t *content = malloc(below);
    (void)arg;
    for (uint64_t k = 0; k < below; k++)
        content[k] = (uint8_t)(k * 7 + k / 4096);
    struct node *b = mem("base", below, ",jitter=1");
    memcpy(memdisk_of(b)->data, content, below);
    static const char *const ways[] = {",backing=base", "", ",backing="};
    for (unsigned k = 0; k < 6; k++) {
        struct opened o = {.i = {.version = 2 + k % 2, .cluster_bits = 9 + k, .size = size}};
        test_random_seed(k);
        if (k % 3 < 2) {
            o.i.below = content;
            o.i.below_size = below;
        }
        o.i.backing = k % 3 == 0 ? "nowhere:x" : "node:base";
        o.i.format = "raw";
        if (k % 3 == 2) /* null: what the image says does not count */
            o.i.backing = "nowhere:y";
        image_open(&o, IMAGE_RANDOM, ",jitter=1", ways[k % 3]);
        co_status_all(&o);
        co_read_all(&o, 4, 30);
        image_close(&o);
    }
    drop(b);
    free(content);
}

static void test_backing(void **state)
{
    (void)state;
    test_co_run(co_backing, NULL);
}

static void co_unnamed_format(void *arg)
{
    (void)arg;
    struct image i = {.version = 3, .cluster_bits = 9, .size = 5000, .backing = "node:x"};
    image_make(&i, IMAGE_EMPTY);
    struct node *m = mem("m", i.file_size, "");
    image_put(&i, "m");
    const char *said = test_open_error("driver=qcow2,node-name=q,read-only=on,file=m");
    assert_non_null(strstr(said, "give 'backing' explicitly"));
    image_free(&i);
    drop(m);
}

static void test_unnamed_format(void **state)
{
    (void)state;
    test_co_run(co_unnamed_format, NULL);
}

/* ---- what goes down ---- */

static void co_one_request(void *arg)
{
    struct opened o = {.i = {.version = 3, .cluster_bits = 9, .size = 60000, .file_size = 200000}};
    (void)arg;
    image_open(&o, IMAGE_EMPTY, "", "");
    /* Two L2 tables, then 100 clusters in a row: the read crosses from one slice to the next. */
    uint8_t *f = memdisk_of(o.m)->data;
    uint64_t l2 = 0x4000, data = 0x8000;
    put_be(f + o.i.l1, 8, l2);
    put_be(f + o.i.l1 + 8, 8, l2 + 512);
    for (unsigned k = 0; k < 100; k++)
        put_be(f + l2 + 8 * k, 8, (data + 512 * k) | 1ull << 63);
    for (unsigned k = 0; k < 100 * 512; k++)
        f[data + k] = o.i.model[k] = (uint8_t)(k >> 9);
    test_root_close(&o.t);
    o.t = test_root_open(test_open("driver=qcow2,node-name=q,read-only=on,file=m"));
    memdisk_forget(memdisk_of(o.m));
    assert_int_equal(co_read_checked(&o, 100, 51000), 0);
    assert_int_equal(memdisk_of(o.m)->count[MEM_READ], 3); /* two slices, one read of data */
    assert_int_equal(memdisk_of(o.m)->last_len, 51000);
    assert_int_equal(co_read_checked(&o, 512, 512), 0);
    assert_int_equal(memdisk_of(o.m)->count[MEM_READ], 4);
    image_close(&o);
}

static void test_one_request(void **state)
{
    (void)state;
    test_co_run(co_one_request, NULL);
}

static void co_coalesced(void *arg)
{
    struct opened o = {.i = {.version = 3, .cluster_bits = 12, .size = 100000}};
    struct reader r[6];
    struct co_join join;
    (void)arg;
    image_open(&o, IMAGE_SEQUENTIAL, "", "");
    memdisk_forget(memdisk_of(o.m));
    memdisk_hold(memdisk_of(o.m), MEM_READ);
    co_join_init(&join);
    for (unsigned k = 0; k < 6; k++) {
        r[k] = (struct reader){.o = &o, .count = 1, .join = &join};
        co_join_add(&join);
        co_start(&r[k].start, co_reader, &r[k]);
    }
    for (unsigned k = 0; k < 20; k++)
        co_reschedule();
    assert_int_equal(memdisk_of(o.m)->count[MEM_READ], 1); /* the L2 slice, for all six */
    memdisk_release(memdisk_of(o.m));
    co_join_wait(&join);
    image_close(&o);
}

static void test_coalesced(void **state)
{
    (void)state;
    test_co_run(co_coalesced, NULL);
}

static void co_decompressed_once(void *arg)
{
    struct opened o = {.i = {.version = 3, .cluster_bits = 16, .size = 65536}};
    (void)arg;
    image_open(&o, IMAGE_COMPRESSED, "", "");
    assert_int_equal(co_read_checked(&o, 0, 4096), 0);
    memdisk_forget(memdisk_of(o.m));
    for (uint64_t off = 0; off < 65536; off += 4096)
        assert_int_equal(co_read_checked(&o, off, 4096), 0);
    assert_int_equal(memdisk_of(o.m)->count[MEM_READ], 0);
    image_close(&o);
}

static void test_decompressed_once(void **state)
{
    (void)state;
    test_co_run(co_decompressed_once, NULL);
}

/* An image with compressed clusters in an image with compressed clusters in another: with one
 * workspace in the pool, and many readers. */
static void co_nested(void *arg)
{
    struct image in[3];
    struct opened o = {0};
    (void)arg;
    in[0] = (struct image){.version = 3, .cluster_bits = 9, .size = 60000, .file_size = 131072};
    image_make(&in[0], IMAGE_COMPRESSED);
    for (unsigned k = 1; k < 3; k++) {
        in[k] = (struct image){.version = 3,
                               .cluster_bits = 12,
                               .size = in[k - 1].file_size,
                               .content = in[k - 1].file};
        image_make(&in[k], IMAGE_COMPRESSED);
    }
    struct node *m = mem("m", in[2].file_size, ",jitter=2");
    image_put(&in[2], "m");
    struct node *outer = test_open("driver=qcow2,node-name=q2,read-only=on,file=m");
    struct node *middle = test_open("driver=qcow2,node-name=q1,read-only=on,file=q2");
    o.i = in[0];
    o.t = test_root_open(test_open("driver=qcow2,node-name=q0,read-only=on,file=q1"));
    co_read_all(&o, 8, 20);
    test_root_close(&o.t);
    drop(middle);
    drop(outer);
    drop(m);
    for (unsigned k = 0; k < 3; k++)
        image_free(&in[k]);
}

static void test_nested(void **state)
{
    (void)state;
    test_random_seed(9);
    test_co_run(co_nested, NULL);
}

/* ---- failures ---- */

static void co_each_read_fails(void *arg)
{
    struct random_case c = random_cases[(uintptr_t)arg];
    struct opened o = {.i = c.i};
    uint64_t asked = 1;
    bool some = false;
    test_random_seed(3);
    image_open(&o, IMAGE_RANDOM, c.disk, ",l2-cache-size=1");
    for (uint64_t nth = 1; nth < asked + 1; nth += 1 + nth / 16) {
        unsigned failed = 0;
        fault_arm(FAULT_READ, nth, false);
        for (uint64_t off = 0; off < o.i.size; off += 20000)
            failed += !!co_read_checked(&o, off, (size_t)MIN(20000u, o.i.size - off));
        asked = fault_asked(FAULT_READ);
        /* not the other way: a slice is also read to see how far an extent goes, and again later */
        assert_true(!failed || fault_fired(FAULT_READ));
        some |= failed > 0;
    }
    fault_arm(FAULT_READ, 0, false);
    assert_true(some);
    co_read_all(&o, 1, 1);
    image_close(&o);
}

static void test_each_read_fails(void **state)
{
    (void)state;
    for (uintptr_t k = 0; k < ARRAY_LEN(random_cases); k++)
        if (random_cases[k].i.size < 4000000)
            test_co_run(co_each_read_fails, (void *)k);
}

static int open_text(const char *text, struct node **n)
{
    struct error err = {0};
    struct value *def = schema_parse_keyval(text, "driver", &err);
    int r = def ? co_node_open(def, true, true, n, &err) : SR_ENOMEM;
    value_free(def);
    assert_true(!r || err.set);
    return r;
}

static void co_each_open_fails(void *arg)
{
    enum fault_kind kind = (enum fault_kind)(uintptr_t)arg;
    struct image i = {.version = 3, .cluster_bits = 9, .size = 50000, .external = true};
    struct node *n;
    image_make(&i, IMAGE_RANDOM);
    struct node *m = mem("m", i.file_size, ""), *d = mem("d", i.size, "");
    image_put(&i, "m");
    size_t pages = page_free_bytes();
    bool fired = true;
    for (uint64_t nth = 1; fired; nth++) {
        fault_arm(kind, nth, false);
        int r = open_text("driver=qcow2,node-name=q,read-only=on,file=m,data-file=d", &n);
        fired = fault_fired(kind);
        fault_arm(kind, 0, false);
        assert_int_equal(!!r, fired);
        if (!r)
            drop(n);
        assert_int_equal(page_free_bytes(), pages);
        assert_null(node_find("q"));
    }
    drop(m);
    drop(d);
    image_free(&i);
}

static void test_each_open_fails(void **state)
{
    (void)state;
    test_co_run(co_each_open_fails, (void *)(uintptr_t)FAULT_ALLOC);
    test_co_run(co_each_open_fails, (void *)(uintptr_t)FAULT_READ);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_images),   cmocka_unit_test(test_backing),
        cmocka_unit_test(test_unnamed_format),  cmocka_unit_test(test_one_request),
        cmocka_unit_test(test_coalesced),       cmocka_unit_test(test_decompressed_once),
        cmocka_unit_test(test_nested),          cmocka_unit_test(test_each_read_fails),
        cmocka_unit_test(test_each_open_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

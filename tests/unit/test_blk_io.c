/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dispatch: random operations against a flat model with every kind of limit, serialised
 * read-modify-write, the emulations, failure of each I/O in turn, and running out of buffers.
 */
#include "tests/unit/support.h"
#include "tests/unit/memdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- random operations against a model ---- */

struct limits_case {
    const char *options;
    unsigned operations;
};
static const struct limits_case cases[] = {
    {"size=100000", 3000},
    {"size=100000,fua=on,write-zeroes=on,discards=on", 3000},
    {"size=131072,request-alignment=512", 3000},
    {"size=100001,request-alignment=512,write-zeroes=on,fua=on,discards=on", 3000},
    {"size=131072,request-alignment=512,mem-align=512,jitter=1", 1500},
    {"size=262144,request-alignment=4096,mem-align=4096,max-sg=1", 3000},
    {"size=262145,request-alignment=4096,max-sg=3,max-transfer=8192,write-zeroes=on", 3000},
    {"size=100000,mem-align=16,max-sg=2,max-transfer=1000", 3000},
    {"size=262144,request-alignment=65536,write-zeroes=on,discards=on", 2000},
    {"size=262144,request-alignment=512,write-zeroes=on,write-zeroes-alignment=4096,"
     "max-write-zeroes=10000,discards=on,discard-alignment=3072,max-discard=7000",
     3000},
    {"size=262144,request-alignment=512,write-zeroes=on,max-write-zeroes=100,discards=on,"
     "max-discard=100",
     1000},
    {"size=700000,max-transfer=1M", 500},
    {"size=131072,request-alignment=512,write-zeroes=on,discards=on,discard=unmap,"
     "detect-zeroes=unmap",
     3000},
};

struct fuzz {
    struct test_root t;
    uint8_t *model;
    uint64_t size;
};

/* Memory for a request: random segments with gaps of poison between them. */
struct memory {
    uint8_t *base;
    size_t room;
    struct seg seg[8];
    struct iov v;
};

static void memory_make(struct memory *m, size_t len)
{
    size_t at = test_random() % 3 ? 0 : test_random() % 600, left = len;
    unsigned n = 0, max = 1 + test_random() % 8;
    m->room = len + 8 * 600 + 4096;
    if (posix_memalign((void **)&m->base, 4096, m->room))
        abort();
    memset(m->base, 0xa5, m->room);
    while (left) {
        size_t part = n + 1 == max ? left : 1 + test_random() % left;
        if (n + 1 < max && test_random() % 2 && part > 512)
            part = align_down(part, 512);
        m->seg[n++] = (struct seg){m->base + at, part};
        left -= part;
        at += part + (test_random() % 2 ? 0 : test_random() % 512);
    }
    m->v = (struct iov){.seg = m->seg, .len = len};
}

static void fill_random(struct iov v)
{
    uint8_t byte = (uint8_t)test_random();
    if (test_random() % 5 == 0)
        byte = 0;
    else if (test_random() % 2)
        iov_fill(v, 0, byte, v.len / 2);
    iov_fill(v, v.len / 2, byte, v.len - v.len / 2);
}

static void pick_range(const struct fuzz *f, uint64_t *off, uint64_t *len)
{
    static const unsigned grains[] = {1, 1, 512, 4096};
    unsigned grain = grains[test_random() % 4];
    *off = align_down(test_random() % f->size, grain);
    *len = 1 + test_random() % (test_random() % 4 ? 9000 : f->size);
    *len = align_up(*len, grain);
    if (test_random() % 8 == 0 || *len > f->size - *off)
        *len = f->size - *off;
}

static void co_fuzz_read(struct fuzz *f, uint64_t off, uint64_t len)
{
    struct memory m;
    uint8_t *flat = malloc(len);
    memory_make(&m, len);
    assert_int_equal(co_blk_preadv(f->t.c, off, m.v, 0), 0);
    iov_copy_out(flat, m.v, 0, len);
    assert_memory_equal(flat, f->model + off, len);
    free(flat);
    free(m.base);
}

static void co_fuzz_write(struct fuzz *f, uint64_t off, uint64_t len)
{
    struct memory m;
    memory_make(&m, len);
    if (test_random() % 6)
        fill_random(m.v);
    else
        iov_fill(m.v, 0, 0, len);
    iov_copy_out(f->model + off, m.v, 0, len);
    assert_int_equal(co_blk_pwritev(f->t.c, off, m.v, test_random() % 4 ? 0 : BLK_FUA), 0);
    free(m.base);
}

static void co_fuzz_zeroes(struct fuzz *f, uint64_t off, uint64_t len)
{
    unsigned flags = test_random() & (BLK_FUA | BLK_MAY_UNMAP | BLK_NO_FALLBACK);
    int r = co_blk_pwrite_zeroes(f->t.c, off, len, flags);
    if (r) {
        assert_int_equal(r, SR_ENOTSUP);
        assert_true(flags & BLK_NO_FALLBACK);
        return;
    }
    memset(f->model + off, 0, len);
}

static void co_fuzz_one(struct fuzz *f)
{
    uint64_t off, len;
    pick_range(f, &off, &len);
    switch (test_random() % 8) {
    case 0:
    case 1:
    case 2:
        co_fuzz_read(f, off, len);
        break;
    case 3:
    case 4:
        co_fuzz_write(f, off, len);
        break;
    case 5:
        co_fuzz_zeroes(f, off, len);
        break;
    case 6:
        assert_int_equal(co_blk_pdiscard(f->t.c, off, len), 0);
        break;
    default:
        assert_int_equal(co_blk_flush(f->t.c), 0);
    }
}

static void co_fuzz_node(const char *text, unsigned operations)
{
    struct fuzz f = {.t = test_root_open(test_open(text))};
    f.size = f.t.n->size;
    f.model = calloc(1, f.size);
    for (unsigned i = 0; i < operations; i++)
        co_fuzz_one(&f);
    co_fuzz_read(&f, 0, f.size);
    assert_true(list_empty(&f.t.n->writes));
    assert_int_equal(f.t.n->serialising, 0);
    free(f.model);
    test_root_close(&f.t);
}

static void co_fuzz_cases(void *arg)
{
    char text[512];
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        test_random_seed(i + 1);
        snprintf(text, sizeof(text), "mem,node-name=m,%s", cases[i].options);
        co_fuzz_node(text, cases[i].operations);
    }
}

static void test_model(void **state)
{
    (void)state;
    test_co_run(co_fuzz_cases, NULL);
}

static void co_fuzz_raw(void *arg)
{
    (void)arg;
    test_random_seed(77);
    co_fuzz_node("raw,node-name=r,offset=1000,size=65536,file.driver=mem,file.size=131072,"
                 "file.request-alignment=512,file.mem-align=4,file.max-sg=3",
                 2000);
    co_fuzz_node("raw,node-name=r,offset=1024,file.driver=raw,file.file.driver=mem,"
                 "file.file.size=131072,file.file.request-alignment=512,file.file.write-zeroes=on,"
                 "file.file.discards=on,discard=unmap",
                 2000);
}

static void test_model_raw(void **state)
{
    (void)state;
    test_co_run(co_fuzz_raw, NULL);
}

/* ---- many writers in the same blocks ---- */

#define WRITERS 40
#define STRIPE  37u
#define ROUNDS  60u

struct writer {
    struct co_start start;
    struct co_join *join;
    struct child *c;
    unsigned id;
};

/* Each writer owns the stripes with its number; blocks belong to everybody. */
static void co_writer(void *arg)
{
    struct writer *w = arg;
    uint8_t buf[STRIPE];
    int r = 0;
    for (unsigned round = 0; round < ROUNDS && !r; round++) {
        uint64_t off = (uint64_t)(round % 6) * WRITERS * STRIPE + w->id * STRIPE;
        memset(buf, (int)(w->id + round), sizeof(buf));
        r = co_blk_pwrite(w->c, off, buf, sizeof(buf), 0);
    }
    co_join_done(w->join, r);
}

static void co_stripes(void *arg)
{
    static struct writer writers[WRITERS];
    struct test_root t = test_root_open(
        test_open("mem,node-name=m,size=16384,request-alignment=4096,mem-align=512,jitter=3"));
    struct co_join join;
    (void)arg;
    co_join_init(&join);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.join = &join, .c = t.c, .id = i};
        co_join_add(&join);
        co_start(&writers[i].start, co_writer, &writers[i]);
    }
    assert_int_equal(co_join_wait(&join), 0);
    const uint8_t *data = memdisk_of(t.n)->data;
    for (unsigned i = 0; i < 6 * WRITERS * STRIPE; i++) {
        unsigned id = i / STRIPE % WRITERS, pass = i / STRIPE / WRITERS;
        assert_int_equal(data[i], (uint8_t)(id + pass + ROUNDS - 6));
    }
    assert_true(list_empty(&t.n->writes));
    test_root_close(&t);
}

static void test_stripes(void **state)
{
    (void)state;
    test_random_seed(5);
    test_co_run(co_stripes, NULL);
}

/* An aligned write in flight holds back a read-modify-write of its block, and only that. */
struct pending {
    struct co_start start;
    struct child *c;
    uint64_t off;
    size_t len;
    unsigned flags;
    int fill, result;
    bool done;
};

static void co_pending(void *arg)
{
    struct pending *p = arg;
    uint8_t *buf = malloc(p->len);
    memset(buf, p->fill, p->len);
    p->result = co_blk_pwrite(p->c, p->off, buf, p->len, p->flags);
    free(buf);
    p->done = true;
}

static void start_write(struct pending *p, struct child *c, uint64_t off, size_t len, int fill)
{
    *p = (struct pending){.c = c, .off = off, .len = len, .fill = fill, .flags = p->flags};
    co_start(&p->start, co_pending, p);
    for (unsigned i = 0; i < 10; i++)
        co_reschedule();
}

static void co_finish(struct pending *p)
{
    for (unsigned i = 0; i < 1000 && !p->done; i++)
        co_reschedule();
    assert_true(p->done);
}

static void co_holds_back(void *arg)
{
    static struct pending a, b, c, d;
    struct test_root t =
        test_root_open(test_open("mem,node-name=m,size=16384,request-alignment=512"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    memdisk_hold(m, MEM_WRITE);
    start_write(&a, t.c, 0, 512, 1);   /* parked in the driver */
    start_write(&b, t.c, 100, 10, 2);  /* waits for it */
    start_write(&c, t.c, 0, 512, 3);   /* waits for b: it overlaps a serialising one */
    start_write(&d, t.c, 1030, 20, 4); /* elsewhere: goes on to its write */
    assert_int_equal(m->nparked, 2);
    assert_int_equal(m->count[MEM_READ], 1);
    assert_int_equal(t.n->serialising, 2);
    memdisk_release(m);
    co_finish(&a), co_finish(&b), co_finish(&c), co_finish(&d);
    assert_int_equal(a.result | b.result | c.result | d.result, 0);
    for (unsigned i = 0; i < 512; i++)
        assert_int_equal(m->data[i], 3);
    assert_int_equal(m->data[1049], 4);
    assert_int_equal(m->data[1050], 0);
    test_root_close(&t);
}

static void test_holds_back(void **state)
{
    (void)state;
    test_co_run(co_holds_back, NULL);
}

static void co_serialising_flag(void *arg)
{
    static struct pending a, b;
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=16384"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    co_node_track(t.n, true);
    memdisk_hold(m, MEM_WRITE);
    a.flags = BLK_SERIALISING;
    start_write(&a, t.c, 0, 100, 1);
    start_write(&b, t.c, 50, 100, 2);
    assert_int_equal(m->nparked, 1);
    memdisk_release(m);
    co_finish(&a), co_finish(&b);
    assert_int_equal(m->data[49], 1);
    assert_int_equal(m->data[50], 2);
    co_node_track(t.n, false);
    assert_int_equal(t.n->tracking, 0);
    test_root_close(&t);
}

static void test_serialising_flag(void **state)
{
    (void)state;
    test_co_run(co_serialising_flag, NULL);
}

/* ---- emulations ---- */

static void co_fua(void *arg)
{
    uint8_t buf[512] = {1};
    struct test_root t = test_root_open(test_open("mem,node-name=m"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    assert_int_equal(co_blk_pwrite(t.c, 0, buf, 512, BLK_FUA), 0);
    assert_int_equal(m->count[MEM_FLUSH], 1);
    assert_int_equal(co_blk_flush(t.c), 0); /* nothing since */
    assert_int_equal(m->count[MEM_FLUSH], 1);
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 0, 512, BLK_FUA), 0);
    assert_int_equal(m->count[MEM_FLUSH], 2);
    test_root_close(&t);
    t = test_root_open(test_open("mem,node-name=m,fua=on"));
    m = memdisk_of(t.n);
    t.c->write_flags = BLK_FUA; /* a writethrough export */
    assert_int_equal(co_blk_pwrite(t.c, 0, buf, 512, 0), 0);
    assert_int_equal(m->count[MEM_FLUSH], 0);
    assert_int_equal(m->flags_seen, BLK_FUA);
    test_root_close(&t);
}

static void test_fua(void **state)
{
    (void)state;
    test_co_run(co_fua, NULL);
}

static void co_pieces(void *arg)
{
    size_t len = 1u << 20;
    uint8_t *buf = calloc(1, len);
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=2M"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    assert_int_equal(co_blk_pwrite(t.c, 1, buf, len, 0), 0);
    assert_int_equal(m->largest, BLK_MAX_PIECE);
    assert_int_equal(m->count[MEM_WRITE], 4);
    assert_int_equal(t.n->stats[0].wr_ops, 1);
    assert_int_equal(t.n->stats[0].wr_bytes, len);
    assert_int_equal(t.n->stats[0].wr_highest, len + 1);
    assert_int_equal(co_blk_pread(t.c, 1, buf, len), 0);
    assert_int_equal(m->count[MEM_READ], 4);
    free(buf);
    test_root_close(&t);
}

static void test_pieces(void **state)
{
    (void)state;
    test_co_run(co_pieces, NULL);
}

static void co_zeroes(void *arg)
{
    uint8_t buf[4096] = {0};
    struct test_root t = test_root_open(
        test_open("mem,node-name=m,write-zeroes=on,request-alignment=512,detect-zeroes=on"));
    struct memdisk *m = memdisk_of(t.n);
    (void)arg;
    assert_int_equal(co_blk_pwrite(t.c, 4096, buf, 4096, 0), 0); /* detected */
    assert_int_equal(m->count[MEM_ZEROES], 1);
    assert_int_equal(m->count[MEM_WRITE], 0);
    assert_int_equal(m->flags_seen, 0);
    /* MAY_UNMAP goes nowhere with discard=ignore */
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 0, 512, BLK_MAY_UNMAP), 0);
    assert_int_equal(m->flags_seen, 0);
    /* odd ends cannot be done without a buffer: refused before anything is changed */
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 1, 1023, BLK_NO_FALLBACK), SR_ENOTSUP);
    assert_int_equal(m->count[MEM_WRITE], 0);
    assert_int_equal(m->count[MEM_ZEROES], 2);
    test_root_close(&t);
    t = test_root_open(test_open("mem,node-name=m,write-zeroes=on,discard=unmap"));
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 0, 512, BLK_MAY_UNMAP), 0);
    assert_int_equal(memdisk_of(t.n)->flags_seen, BLK_MAY_UNMAP);
    test_root_close(&t);
    t = test_root_open(test_open("mem,node-name=m"));
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 0, 512, BLK_NO_FALLBACK), SR_ENOTSUP);
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 0, 1u << 20, 0), 0);
    assert_int_equal(memdisk_of(t.n)->count[MEM_WRITE], 4);
    test_root_close(&t);
}

static void test_zeroes(void **state)
{
    (void)state;
    test_co_run(co_zeroes, NULL);
}

static void co_discard(void *arg)
{
    struct test_root t = test_root_open(test_open("mem,node-name=m,discards=on"));
    (void)arg;
    assert_int_equal(co_blk_pdiscard(t.c, 0, 4096), 0); /* discard=ignore */
    assert_int_equal(memdisk_of(t.n)->count[MEM_DISCARD], 0);
    test_root_close(&t);
    t = test_root_open(test_open(
        "mem,node-name=m,discards=on,discard=unmap,request-alignment=512,discard-alignment=4096"));
    assert_int_equal(co_blk_pdiscard(t.c, 100, 4000), 0); /* no whole unit */
    assert_int_equal(memdisk_of(t.n)->count[MEM_DISCARD], 0);
    assert_int_equal(co_blk_pdiscard(t.c, 100, 10000), 0);
    assert_int_equal(memdisk_of(t.n)->last_off, 4096);
    assert_int_equal(memdisk_of(t.n)->last_len, 4096);
    assert_int_equal(t.n->stats[0].unmap_ops, 2);
    test_root_close(&t);
    t = test_root_open(test_open("mem,node-name=m,discard=unmap"));
    assert_int_equal(co_blk_pdiscard(t.c, 0, 4096), 0); /* unsupported is success */
    test_root_close(&t);
}

static void test_discard(void **state)
{
    (void)state;
    test_co_run(co_discard, NULL);
}

/* ---- refusals ---- */

static void co_refused(void *arg)
{
    uint8_t buf[16];
    struct test_root t = test_root_open(test_open("mem,node-name=m,size=1000"));
    const uint64_t huge = UINT64_MAX - 4;
    (void)arg;
    assert_int_equal(co_blk_pread(t.c, 985, buf, 16), SR_EIO);
    assert_int_equal(co_blk_pread(t.c, huge, buf, 16), SR_EIO);
    assert_int_equal(co_blk_pwrite(t.c, 985, buf, 16, 0), SR_EIO);
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 1, huge, 0), SR_EIO);
    assert_int_equal(co_blk_pdiscard(t.c, 1, huge), SR_EIO);
    assert_int_equal(co_blk_pread(t.c, 1000, buf, 0), 0);
    assert_int_equal(co_blk_pwrite(t.c, 0, buf, 16, BLK_COMPRESSED), SR_ENOTSUP);
    assert_int_equal(t.n->stats[0].invalid_rd, 2);
    assert_int_equal(t.n->stats[0].invalid_wr, 2);
    test_root_close(&t);
    t = test_root_open(test_open("mem,node-name=m,read-only=on"));
    assert_int_equal(co_blk_pwrite(t.c, 0, buf, 16, 0), SR_EPERM);
    assert_int_equal(co_blk_pwrite_zeroes(t.c, 0, 16, 0), SR_EPERM);
    assert_int_equal(co_blk_pdiscard(t.c, 0, 16), SR_EPERM);
    assert_int_equal(co_blk_pread(t.c, 0, buf, 16), 0);
    struct origin *o = blk_calloc(sizeof(*o));
    struct error err = {0};
    assert_int_equal(origin_open(o, t.n, true, &err), SR_EPERM);
    assert_string_equal(err.msg, "Block node is read-only");
    blk_free(o);
    test_root_close(&t);
}

static void test_refused(void **state)
{
    (void)state;
    test_co_run(co_refused, NULL);
}

/* ---- failure of the nth I/O ---- */

static int co_mix(struct child *c, int *result)
{
    uint8_t *buf = calloc(1, 300000);
    memset(buf, 7, 300000);
    int r = co_blk_pwrite(c, 100, buf, 300000, BLK_FUA);
    r = r ? r : co_blk_pread(c, 50, buf, 299999);
    r = r ? r : co_blk_pwrite_zeroes(c, 10, 200000, BLK_FUA);
    r = r ? r : co_blk_pdiscard(c, 10, 200000);
    r = r ? r : co_blk_pwrite(c, 5, buf, 3, 0);
    r = r ? r : co_blk_flush(c);
    free(buf);
    return *result = r;
}

static void co_nth(const char *text, enum fault_kind kind)
{
    int r;
    for (unsigned n = 1;; n++) {
        struct test_root t = test_root_open(test_open(text));
        fault_arm(kind, n, false);
        co_mix(t.c, &r);
        bool fired = fault_fired(kind);
        fault_arm(kind, 0, false);
        assert_int_equal(r, fired ? SR_EIO : 0);
        assert_true(list_empty(&t.n->writes));
        assert_int_equal(t.n->serialising, 0);
        assert_false(t.n->flushing);
        assert_int_equal(co_mix(t.c, &r), 0); /* and everything works again */
        test_root_close(&t);
        if (!fired)
            return;
        assert_true(n < 500);
    }
}

static void co_nth_all(void *arg)
{
    static const enum fault_kind kinds[] = {FAULT_READ, FAULT_WRITE, FAULT_FLUSH};
    static const char *const texts[] = {
        "mem,node-name=m",
        "mem,node-name=m,request-alignment=512,mem-align=512,max-sg=4,max-transfer=65536",
        "mem,node-name=m,request-alignment=4096,write-zeroes=on,discards=on,discard=unmap",
        "raw,node-name=r,offset=3,file.driver=mem,file.request-alignment=512",
    };
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++)
        for (unsigned k = 0; k < ARRAY_LEN(kinds); k++)
            co_nth(texts[i], kinds[k]);
}

static void test_nth_io(void **state)
{
    (void)state;
    test_co_run(co_nth_all, NULL);
}

/* ---- no bounce buffer to be had: the node's own one carries everybody ---- */

extern struct pool blk_bounce_pool;

static void co_starved(void *arg)
{
    void *taken[64];
    unsigned n = 0;
    while ((taken[n] = pool_try_get(&blk_bounce_pool, NULL)))
        n++;
    assert_true(n > 0);
    co_stripes(arg);
    co_fuzz_raw(arg);
    while (n)
        pool_put(&blk_bounce_pool, NULL, taken[--n]);
}

static void test_starved(void **state)
{
    (void)state;
    test_co_run(co_starved, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_model_raw),
        cmocka_unit_test(test_stripes),
        cmocka_unit_test(test_holds_back),
        cmocka_unit_test(test_serialising_flag),
        cmocka_unit_test(test_fua),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_zeroes),
        cmocka_unit_test(test_discard),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_nth_io),
        cmocka_unit_test(test_starved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

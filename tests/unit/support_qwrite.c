/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_qwrite.h"

#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST (512u << 10) /* of a request with data */

/* ---- nodes ---- */

void co_node_drop(struct node *n)
{
    n->monitor_owned = false;
    co_node_unref(n);
}

struct node *co_node_try(const char *text, struct error *err)
{
    struct node *n = NULL;
    struct value *def = schema_parse_keyval(text, "driver", err);
    int r = def ? co_node_open(def, true, true, &n, err) : SR_ENOMEM;
    value_free(def);
    assert_int_equal(!!r, err->set);
    return r ? NULL : n;
}

static const struct blk_driver *qcow2_driver(void)
{
    registry_for_each (blk_driver, d)
        if (!strcmp((*d)->name, "qcow2"))
            return *d;
    fail_msg("no driver qcow2");
    return NULL;
}

int co_image_create(struct child *file, const char *options, struct error *err)
{
    struct error mine = {0};
    const struct type *t = qcow2_driver()->create_options;
    struct arena arena;
    struct value *v = schema_parse_keyval(options, NULL, &mine);
    assert_non_null(v);
    arena_init(&arena);
    void *opts = arena_alloc(&arena, t->size);
    if (schema_decode(t, v, SCHEMA_TEXT, opts, &arena, &mine))
        fail_msg("%s: %s", options, mine.msg);
    int r = qcow2_driver()->co_create(file, opts, err);
    arena_free(&arena);
    value_free(v);
    return r;
}

/* What a disk held before, nobody knows. */
static struct node *disk(const char *name, const char *more)
{
    char text[300];
    snprintf(text, sizeof(text), "driver=mem,node-name=%s,discard=unmap,%s", name, more);
    struct node *n = test_open(text);
    memset(memdisk_of(n)->data, 0xee, n->size);
    memdisk_of(n)->scribble = true;
    return n;
}

void test_root_done(struct test_root *t)
{
    co_origin_close(t->origin);
    blk_free(t->origin);
}

void co_disk_resize(struct node *n, uint64_t size)
{
    struct test_root t = test_root_open(n);
    assert_int_equal(co_blk_truncate(t.c, size), 0);
    assert_true(n->size >= size);
    test_root_done(&t);
}

static void create(struct qimage *w)
{
    char text[300];
    struct error err = {0};
    struct test_root t = test_root_open(w->m);
    snprintf(text, sizeof(text), "size=%llu%s%s%s%s", (unsigned long long)w->c->size,
             w->d ? ",data-file=d" : "", *w->c->create ? "," : "", w->c->create, "");
    if (co_image_create(t.c, text, &err))
        fail_msg("%s: %s", text, err.msg);
    test_root_done(&t);
}

void co_qimage_make(struct qimage *w, const struct qcase *c)
{
    char text[100];
    *w = (struct qimage){.c = c, .size = c->size, .model = calloc(1, c->size + 1)};
    list_init(&w->busy);
    w->m = disk("m", c->disk);
    if (c->data_file)
        w->d = disk("d", "size=0,max-size=64M");
    if (c->backing) {
        snprintf(text, sizeof(text), "size=%llu", (unsigned long long)c->backing);
        w->b = disk("b", text);
        for (uint64_t k = 0; k < c->backing; k++)
            memdisk_of(w->b)->data[k] = (uint8_t)(k * 13 + k / 512);
        memcpy(w->model, memdisk_of(w->b)->data, MIN(c->backing, c->size));
    }
    create(w);
    w->h = image_header(memdisk_of(w->m)->data);
    w->cluster = 1ull << w->h.cluster_bits;
}

static void root_text(const struct qimage *w, const char *more, char *text, size_t size)
{
    snprintf(text, size, "driver=qcow2,node-name=q,file=m%s%s%s%s", w->d ? ",data-file=d" : "",
             w->b ? ",backing=b" : "", w->c->open, more);
}

static struct test_root open_root(const struct qimage *w, const char *more)
{
    char text[300];
    root_text(w, more, text, sizeof(text));
    return test_root_open(test_open(text));
}

void co_qimage_open(struct qimage *w)
{
    w->t = open_root(w, ",discard=unmap");
    assert_int_equal(w->t.n->size, w->size);
}

struct node *co_qimage_node(const struct qimage *w, struct error *err)
{
    char text[300];
    root_text(w, ",discard=unmap", text, sizeof(text));
    return co_node_try(text, err);
}

void co_qimage_close(struct qimage *w)
{
    test_root_close(&w->t);
}

void co_qimage_free(struct qimage *w)
{
    co_node_drop(w->m);
    if (w->d)
        co_node_drop(w->d);
    if (w->b)
        co_node_drop(w->b);
    free(w->model);
}

/* ---- what is in it ---- */

static void mismatch(const uint8_t *is, const uint8_t *should, uint64_t off, size_t len)
{
    size_t k = 0;
    while (k < len && is[k] == should[k])
        k++;
    if (k < len)
        fail_msg("offset 0x%llx: 0x%02x, not 0x%02x", (unsigned long long)off + k, is[k],
                 should[k]);
}

static void co_check_status(const struct qimage *w, const struct test_root *t)
{
    struct blk_status st;
    for (uint64_t off = 0; off < w->size; off += st.len) {
        assert_int_equal(co_blk_status_above(t->c, off, w->size - off, &st), 0);
        assert_true(st.len > 0 && st.len <= w->size - off);
        for (uint64_t k = off; (st.flags & BLK_ZERO) && k < off + st.len; k++)
            if (w->model[k])
                fail_msg("offset 0x%llx is said to be zero", (unsigned long long)k);
    }
}

void co_qimage_compare(struct qimage *w)
{
    static uint8_t buf[256 << 10];
    struct test_root t = open_root(w, ",read-only=on");
    for (uint64_t off = 0; off < w->size; off += sizeof(buf)) {
        size_t len = (size_t)MIN(sizeof(buf), w->size - off);
        assert_int_equal(co_blk_pread(t.c, off, buf, len), 0);
        mismatch(buf, w->model + off, off, len);
    }
    co_check_status(w, &t);
    test_root_close(&t);
}

void co_qimage_verify(struct qimage *w)
{
    struct image_check c = image_check(memdisk_of(w->m)->data, w->m->size);
    if (c.errors || c.leaks || c.dirty || c.corrupt)
        fail_msg("%s: %u errors, %u leaks, dirty %d, corrupt %d: %s", w->c->create, c.errors,
                 c.leaks, c.dirty, c.corrupt, c.first);
    co_qimage_compare(w);
}

void co_qimage_snapshot(struct qimage *w)
{
    uint64_t size = w->m->size;
    if (memdisk_of(w->m)->max_size)
        co_disk_resize(w->m, size + (8 << w->h.cluster_bits));
    image_snapshot(memdisk_of(w->m)->data, size, w->m->size);
    co_qimage_verify(w);
}

/* ---- requests ---- */

struct busy {
    struct list link;
    uint64_t start, end;
    bool writes;
};

static bool begin(struct qimage *w, struct busy *b, const struct qop *op)
{
    *b = (struct busy){.start = op->off, .end = op->off + op->len, .writes = op->kind != Q_READ};
    list_for_each (o, &w->busy, struct busy, link)
        if (o->start < b->end && b->start < o->end && (o->writes || b->writes))
            return false;
    list_append(&w->busy, &b->link);
    return true;
}

static void fill(uint8_t *p, size_t len)
{
    uint32_t v = test_random();
    unsigned how = test_random() % 3;
    for (size_t k = 0; k < len; k++)
        p[k] = (uint8_t)(how == 0 ? (v = v * 1664525 + 1013904223) >> 24 : how == 1 ? v : 0);
}

/* [off, off + len) as it is to be afterwards. */
static void new_content(const struct qimage *w, const struct qop *op, uint8_t *to)
{
    uint64_t first = align_up(op->off, w->cluster),
             last = align_down(op->off + op->len, w->cluster);
    memcpy(to, w->model + op->off, op->len);
    if (op->kind == Q_WRITE)
        fill(to, op->len);
    if (op->kind == Q_ZERO)
        memset(to, 0, op->len);
    if (op->off + op->len == w->size)
        last = MAX(last, align_down(w->size, w->cluster)); /* whose tail nobody sees */
    bool reads_zero = !w->h.raw && (w->h.version == 3 || !w->b);
    if (op->kind == Q_DISCARD && first < last && reads_zero)
        memset(to + (first - op->off), 0, last - first);
}

/* In pieces of any length, between guards. */
static int co_transfer(struct qimage *w, const struct qop *op, uint8_t *buf)
{
    struct seg seg[20];
    struct iov v = {.seg = seg, .len = op->len};
    unsigned n = 1 + test_random() % ARRAY_LEN(seg), k = 0;
    for (size_t at = 0; at < op->len; k++) {
        size_t left = op->len - at, len = k + 1 == n ? left : 1 + test_random() % left;
        seg[k] = (struct seg){.base = buf + at, .len = len};
        at += len;
    }
    if (op->kind == Q_READ)
        return co_blk_preadv(w->t.c, op->off, v, 0);
    return co_blk_pwritev(w->t.c, op->off, v, op->flags);
}

static int co_submit(struct qimage *w, const struct qop *op, uint8_t *buf)
{
    switch (op->kind) {
    case Q_ZERO:
        return co_blk_pwrite_zeroes(w->t.c, op->off, op->len, op->flags);
    case Q_DISCARD:
        return co_blk_pdiscard(w->t.c, op->off, op->len);
    case Q_FLUSH:
        return co_blk_flush(w->t.c);
    default:
        return co_transfer(w, op, buf);
    }
}

/* Each byte is old or new, and stays what it is. */
static void co_settle(struct qimage *w, const struct qop *op, const uint8_t *new)
{
    uint8_t *is = malloc(op->len);
    int r = co_blk_pread(w->t.c, op->off, is, op->len);
    if (r && w->failures)
        r = co_blk_pread(w->t.c, op->off, is, op->len);
    if (r)
        fail_msg("after a request %d at 0x%llx, 0x%llx bytes, that failed: %s", op->kind,
                 (unsigned long long)op->off, (unsigned long long)op->len, sr_strerror(r));
    for (uint64_t k = 0; k < op->len; k++)
        if (is[k] != new[k] && is[k] != w->model[op->off + k])
            fail_msg("failed request: offset 0x%llx is 0x%02x, neither 0x%02x nor 0x%02x",
                     (unsigned long long)(op->off + k), is[k], w->model[op->off + k], new[k]);
    memcpy(w->model + op->off, is, op->len);
    free(is);
}

static void judge(struct qimage *w, const struct qop *op, int r)
{
    if (r == SR_ENOTSUP && (op->flags & BLK_COMPRESSED) && w->h.external)
        return;
    w->full += r == SR_ENOSPC;
    w->bad += r && r != SR_ENOSPC;
    w->done[op->kind] += !r;
    if (w->failures || !r || (r == SR_ENOSPC && w->c->small))
        return;
    fail_msg("request %d at 0x%llx, 0x%llx bytes, flags 0x%x: %s", op->kind,
             (unsigned long long)op->off, (unsigned long long)op->len, op->flags, sr_strerror(r));
}

static int co_change(struct qimage *w, const struct qop *op)
{
    uint8_t *new = malloc(op->len + 1);
    new_content(w, op, new);
    int r = co_submit(w, op, new);
    if (r)
        co_settle(w, op, new);
    else
        memcpy(w->model + op->off, new, op->len);
    free(new);
    return r;
}

static int co_look(struct qimage *w, const struct qop *op)
{
    uint8_t *buf = malloc(op->len + 16);
    memset(buf, 0xa5, op->len + 16);
    int r = co_submit(w, op, buf);
    if (!r)
        mismatch(buf, w->model + op->off, op->off, op->len);
    for (unsigned k = 0; k < 16; k++)
        assert_int_equal(buf[op->len + k], 0xa5);
    free(buf);
    return r;
}

int co_qop(struct qimage *w, struct qop op)
{
    struct busy b;
    if (!begin(w, &b, &op))
        return SR_EBUSY;
    assert_true(origin_try_enter(w->t.origin));
    int r = op.kind == Q_READ    ? co_look(w, &op)
            : op.kind == Q_FLUSH ? co_submit(w, &op, NULL)
                                 : co_change(w, &op);
    origin_leave(w->t.origin);
    list_remove(&b.link);
    judge(w, &op, r);
    return r;
}

/* ---- random ones ---- */

static uint64_t random_offset(const struct qimage *w)
{
    uint64_t off = ((uint64_t)test_random() << 8) % w->size, hot = MIN(w->size, 6 * w->cluster);
    if (test_random() % 3 == 0) /* where others are */
        off = ((uint64_t)test_random() << 8) % hot;
    unsigned grain = test_random() % 4;
    return grain == 0 ? off : grain == 1 ? align_down(off, w->cluster) : align_down(off, 512);
}

static uint64_t random_length(const struct qimage *w)
{
    switch (test_random() % 8) {
    case 0:
        return 1 + test_random() % 700;
    case 1:
        return (1 + test_random() % 8) * w->cluster;
    case 2:
        return 1 + test_random() % (2 * w->cluster);
    case 3:
        return 1 + test_random() % 300000;
    default:
        return (1 + test_random() % 16) * 512;
    }
}

static void to_clusters(const struct qimage *w, struct qop *op)
{
    uint64_t end = align_up(op->off + op->len, w->cluster);
    op->off = align_down(op->off, w->cluster);
    op->len = MIN(end, w->size) - op->off;
}

struct qop qop_random(const struct qimage *w)
{
    static const enum qkind kinds[] = {Q_READ,  Q_READ,  Q_READ, Q_WRITE,  Q_WRITE,
                                       Q_WRITE, Q_WRITE, Q_ZERO, Q_DISCARD};
    struct qop op = {.kind = kinds[test_random() % ARRAY_LEN(kinds)], .off = random_offset(w)};
    op.len = random_length(w);
    op.len = MIN(op.len, w->size - op.off);
    if (test_random() % 30 == 0)
        return (struct qop){.kind = Q_FLUSH};
    if (op.kind == Q_WRITE || op.kind == Q_ZERO) {
        op.flags |= test_random() % 10 == 0 ? BLK_FUA : 0;
        op.flags |= test_random() % 10 == 0 ? BLK_SETTLED : 0;
    }
    if (op.kind == Q_ZERO && (test_random() & 1))
        op.flags |= BLK_MAY_UNMAP;
    if (op.kind == Q_WRITE && test_random() % 5 == 0)
        op.flags |= BLK_COMPRESSED;
    if (op.kind == Q_DISCARD || (op.flags & BLK_COMPRESSED))
        to_clusters(w, &op);
    if (op.kind == Q_READ || op.kind == Q_WRITE)
        op.len = MIN(op.len, MAX(LONGEST, w->cluster));
    if ((op.kind == Q_ZERO || op.kind == Q_DISCARD) && test_random() % 20 == 0)
        op.len = w->size - op.off;
    return op;
}

struct worker {
    struct co_start start;
    struct qimage *w;
    unsigned each;
    struct co_join *join;
};

static void co_worker(void *arg)
{
    struct worker *k = arg;
    for (unsigned i = 0, tries = 0; i < k->each && tries < 100 * k->each; tries++)
        if (co_qop(k->w, qop_random(k->w)) == SR_EBUSY)
            co_reschedule();
        else
            i++;
    co_join_done(k->join, 0);
}

void co_qworkers(struct qimage *w, unsigned workers, unsigned each)
{
    struct worker k[16];
    struct co_join join;
    assert_true(workers <= ARRAY_LEN(k));
    co_join_init(&join);
    for (unsigned i = 0; i < workers; i++) {
        k[i] = (struct worker){.w = w, .each = each, .join = &join};
        co_join_add(&join);
        co_start(&k[i].start, co_worker, &k[i]);
    }
    assert_int_equal(co_join_wait(&join), 0);
}

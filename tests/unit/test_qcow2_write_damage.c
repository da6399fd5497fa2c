/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Damaged qcow2 images that are opened for writing. Whoever comes across the damage gets SR_EIO, the
 * corrupt bit is written, who listens is told, and nothing else of the file changes, whatever is tried
 * afterwards; what is not damaged can be read; the image is not opened for writing again.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_duplex.h"
#include "tests/unit/support_qcow2.h"
#include "tests/unit/support_qwrite.h"
#include "control/qmp.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COPIED (1ull << 63)

/* ---- who listens ---- */

static struct stream *monitor;

static void co_say(const char *text)
{
    assert_int_equal(co_stream_write(monitor, text, strlen(text)), 0);
}

static void co_next_line(char *line, size_t size)
{
    size_t n = 0;
    do {
        if (co_stream_read(monitor, line + n, 1, board_clock_ns() + 5000000000ull))
            fail_msg("no line from the monitor in 5 s");
        assert_true(++n < size);
    } while (line[n - 1] != '\n');
    line[n] = 0;
}

static void co_monitor_open(void)
{
    char line[500];
    struct stream *end[2];
    duplex_open(end, &(struct duplex_options){0});
    monitor = end[0];
    qmp_serve(end[1], false);
    co_next_line(line, sizeof(line));
    co_say("{\"execute\": \"qmp_capabilities\"}");
    co_next_line(line, sizeof(line));
}

static void co_expect_event(const char *what)
{
    char line[1000];
    co_next_line(line, sizeof(line));
    if (!strstr(line, "\"event\": \"BLOCK_IMAGE_CORRUPTED\"") ||
        !strstr(line, "\"node-name\": \"q\"") || !strstr(line, "\"fatal\": true"))
        fail_msg("%s: the monitor says %s", what, line);
}

/* Nothing but the reply is under way. */
static void co_expect_no_event(const char *what)
{
    char line[1000];
    co_say("{\"execute\": \"query-version\"}");
    co_next_line(line, sizeof(line));
    if (strncmp(line, "{\"return\"", 9))
        fail_msg("%s: the monitor says %s", what, line);
}

static void co_monitor_close(void)
{
    co_stream_close(monitor);
    while (qmp_monitors() || duplex_ends)
        co_sleep_ns(1000000);
}

/* ---- what is wrong ---- */

/* The image has clusters of 512 bytes: guest clusters below FULL are data, the others unallocated; and
 * one snapshot of it when it was empty. */
struct damage {
    const char *name;
    void (*make)(uint8_t *f, const struct image_header *h);
    struct qop op;      /* that comes across it; offset and length in clusters; length 0: a part */
    unsigned lost, end; /* clusters [lost, end) cannot be read, or hold anything */
};
#define FULL 400u
#define ALL  500u

static uint64_t l1_entry(const uint8_t *f, const struct image_header *h, unsigned i)
{
    return get_be(f + h->l1 + i * 8, 8) & ~COPIED;
}

static void set_l1(uint8_t *f, const struct image_header *h, unsigned i, uint64_t value)
{
    put_be(f + h->l1 + i * 8, 8, value);
}

static uint64_t block(const uint8_t *f, const struct image_header *h, unsigned i)
{
    return get_be(f + h->reftable + i * 8, 8);
}

static uint64_t data_at(const uint8_t *f, unsigned guest)
{
    return get_be(f + image_entry(f, guest * 512), 8) & ~COPIED;
}

static void set_l2(uint8_t *f, unsigned guest, uint64_t value)
{
    put_be(f + image_entry(f, guest * 512), 8, value);
}

#define DAMAGE(name, ...)                                      \
    static void name(uint8_t *f, const struct image_header *h) \
    {                                                          \
        (void)h;                                               \
        __VA_ARGS__;                                           \
    }
DAMAGE(data_not_counted, image_set_refcount(f, data_at(f, 10) / 512, 0))
DAMAGE(data_shared, image_set_refcount(f, data_at(f, 10) / 512, 2))
DAMAGE(l2_on_l1, set_l1(f, h, 1, h->l1 | COPIED))
DAMAGE(l2_on_reftable, set_l1(f, h, 1, h->reftable | COPIED))
DAMAGE(l2_on_block, set_l1(f, h, 1, block(f, h, 1) | COPIED))
DAMAGE(l2_twice, set_l1(f, h, 1, l1_entry(f, h, 2) | COPIED))
DAMAGE(l2_on_snapshots, set_l1(f, h, 1, h->snapshots_at | COPIED))
DAMAGE(l2_on_snapshot_l1, set_l1(f, h, 1, get_be(f + h->snapshots_at, 8) | COPIED))
DAMAGE(l2_reserved, set_l1(f, h, 1, l1_entry(f, h, 1) | COPIED | 4))
DAMAGE(l2_high_bits, set_l1(f, h, 1, l1_entry(f, h, 1) | COPIED | 1ull << 58))
DAMAGE(l2_outside, set_l1(f, h, 1, COPIED | 1ull << 40))
DAMAGE(l2_not_counted, image_set_refcount(f, l1_entry(f, h, 1) / 512, 0))
DAMAGE(l2_shared, image_set_refcount(f, l1_entry(f, h, 1) / 512, 2))
DAMAGE(block_not_aligned, put_be(f + h->reftable + 8, 8, block(f, h, 1) + 8))
DAMAGE(block_outside, put_be(f + h->reftable + 8, 8, 1ull << 40))
DAMAGE(block_gone, put_be(f + h->reftable + 8, 8, 0))
DAMAGE(block_on_l1, put_be(f + h->reftable + 8, 8, h->l1))
DAMAGE(block_on_block, put_be(f + h->reftable + 8, 8, block(f, h, 0)))
DAMAGE(block_on_reftable, put_be(f + h->reftable + 8, 8, h->reftable))
DAMAGE(block_on_l2, put_be(f + h->reftable + 8, 8, l1_entry(f, h, 0)))
DAMAGE(block_on_data, put_be(f + h->reftable + 8, 8, data_at(f, 3)))
DAMAGE(block_not_counted, image_set_refcount(f, block(f, h, 1) / 512, 0))
DAMAGE(header_not_counted, image_set_refcount(f, 0, 0))
DAMAGE(l1_not_counted, image_set_refcount(f, h->l1 / 512, 0))
DAMAGE(reftable_not_counted, image_set_refcount(f, h->reftable / 512, 0))
DAMAGE(snapshots_not_counted, image_set_refcount(f, h->snapshots_at / 512, 0))
DAMAGE(snapshot_l1_not_counted, image_set_refcount(f, get_be(f + h->snapshots_at, 8) / 512, 0))
/* An L2 table of the snapshot. */
static void set_inactive(uint8_t *f, const struct image_header *h, uint64_t table)
{
    put_be(f + get_be(f + h->snapshots_at, 8), 8, table);
}
DAMAGE(inactive_is_active, set_inactive(f, h, l1_entry(f, h, 1)))
DAMAGE(inactive_is_data, set_inactive(f, h, data_at(f, 10)))
DAMAGE(inactive_is_block, set_inactive(f, h, block(f, h, 1)))
DAMAGE(inactive_not_counted, set_inactive(f, h, data_at(f, 10));
       image_set_refcount(f, data_at(f, 10) / 512, 0); set_l2(f, 10, 0))
DAMAGE(data_on_l1, set_l2(f, 10, h->l1 | COPIED))
DAMAGE(data_on_reftable, set_l2(f, 10, h->reftable | COPIED))
DAMAGE(data_on_block, set_l2(f, 10, block(f, h, 1) | COPIED))
DAMAGE(data_on_l2, set_l2(f, 10, l1_entry(f, h, 3) | COPIED))
DAMAGE(data_on_own_l2, set_l2(f, 10, l1_entry(f, h, 0) | COPIED))
DAMAGE(data_on_snapshots, set_l2(f, 10, h->snapshots_at | COPIED))
DAMAGE(data_on_snapshot_l1, set_l2(f, 10, get_be(f + h->snapshots_at, 8) | COPIED))
DAMAGE(zero_on_l1, set_l2(f, 10, h->l1 | COPIED | 1))
DAMAGE(data_outside, set_l2(f, 10, 1ull << 40 | COPIED))
DAMAGE(data_reserved, set_l2(f, 10, data_at(f, 10) | COPIED | 8))
DAMAGE(data_high_bits, set_l2(f, 10, data_at(f, 10) | COPIED | 1ull << 60))
DAMAGE(compressed_on_l2, set_l2(f, 10, l1_entry(f, h, 3) | 1ull << 62))
DAMAGE(compressed_on_header, set_l2(f, 10, 100 | 1ull << 62))
DAMAGE(compressed_not_counted, set_l2(f, 10, (450u * 512) | 1ull << 62))

#define WRITE(at)         \
    {                     \
        Q_WRITE, at, 1, 0 \
    }
#define PART(at)          \
    {                     \
        Q_WRITE, at, 0, 0 \
    }
#define NEW                      \
    {                            \
        Q_WRITE, FULL + 20, 3, 0 \
    }
#define ZERO                        \
    {                               \
        Q_ZERO, 8, 4, BLK_MAY_UNMAP \
    }
#define DISCARD            \
    {                      \
        Q_DISCARD, 8, 4, 0 \
    }
#define PACK                           \
    {                                  \
        Q_WRITE, 10, 1, BLK_COMPRESSED \
    }
static const struct damage damages[] = {
    {"data is not counted", data_not_counted, WRITE(10), 0, 0},
    {"data is not counted, part", data_not_counted, PART(10), 0, 0},
    {"data is not counted, neighbour", data_not_counted, WRITE(50), 0, 0},
    {"data is not counted, zeroes", data_not_counted, ZERO, 0, 0},
    {"data is not counted, discard", data_not_counted, DISCARD, 0, 0},
    {"data is not counted, compressed", data_not_counted, PACK, 0, 0},
    {"data is shared", data_shared, WRITE(10), 0, 0},
    {"data is shared, part", data_shared, PART(10), 0, 0},
    {"data is shared, discard", data_shared, DISCARD, 0, 0},
    {"L2 table on L1 table", l2_on_l1, WRITE(70), 64, 128},
    {"L2 table on refcount table", l2_on_reftable, WRITE(70), 64, 128},
    {"L2 table on refcount block", l2_on_block, WRITE(70), 64, 128},
    {"L2 table named twice", l2_twice, WRITE(70), 64, 128},
    {"L2 table named twice, the other", l2_twice, WRITE(130), 64, 128},
    {"L2 table on snapshot table", l2_on_snapshots, WRITE(70), 64, 128},
    {"L2 table on a snapshot's L1 table", l2_on_snapshot_l1, WRITE(70), 64, 128},
    {"L1 entry: reserved bit", l2_reserved, WRITE(70), 64, 128},
    {"L1 entry: high bit", l2_high_bits, WRITE(70), 64, 128},
    {"L1 entry outside", l2_outside, WRITE(70), 64, 128},
    {"L2 table is not counted", l2_not_counted, NEW, 0, 0},
    {"L2 table is not counted, in place", l2_not_counted, WRITE(70), 0, 0},
    {"L2 table is shared", l2_shared, WRITE(70), 0, 0},
    {"refcount block not aligned", block_not_aligned, NEW, 0, 0},
    {"refcount block outside", block_outside, NEW, 0, 0},
    {"refcount block gone", block_gone, NEW, 0, 0},
    {"refcount block gone, in place", block_gone, WRITE(300), 0, 0},
    {"refcount block on L1 table", block_on_l1, NEW, 0, 0},
    {"refcount block on another", block_on_block, NEW, 0, 0},
    {"refcount block on refcount table", block_on_reftable, NEW, 0, 0},
    {"refcount block on L2 table", block_on_l2, NEW, 0, 0},
    {"refcount block on data", block_on_data, NEW, 0, 0},
    {"refcount block is not counted", block_not_counted, NEW, 0, 0},
    {"header is not counted", header_not_counted, NEW, 0, 0},
    {"L1 table is not counted", l1_not_counted, NEW, 0, 0},
    {"refcount table is not counted", reftable_not_counted, NEW, 0, 0},
    {"snapshot table is not counted", snapshots_not_counted, NEW, 0, 0},
    {"snapshot's L1 table is not counted", snapshot_l1_not_counted, NEW, 0, 0},
    {"a snapshot's L2 table is ours", inactive_is_active, WRITE(70), 0, 0},
    {"a snapshot's L2 table is data", inactive_is_data, WRITE(10), 0, 0},
    {"a snapshot's L2 table is a refcount block", inactive_is_block, NEW, 0, 0},
    {"a snapshot's L2 table is not counted", inactive_not_counted, NEW, 10, 11},
    {"data on L1 table", data_on_l1, WRITE(10), 10, 11},
    {"data on L1 table, neighbour", data_on_l1, WRITE(20), 10, 11},
    {"data on L1 table, discard", data_on_l1, DISCARD, 10, 11},
    {"data on refcount table", data_on_reftable, WRITE(10), 10, 11},
    {"data on refcount block", data_on_block, WRITE(10), 10, 11},
    {"data on L2 table", data_on_l2, WRITE(10), 10, 11},
    {"data on its L2 table", data_on_own_l2, WRITE(10), 10, 11},
    {"data on snapshot table", data_on_snapshots, WRITE(10), 10, 11},
    {"data on a snapshot's L1 table", data_on_snapshot_l1, WRITE(10), 10, 11},
    {"zeroes on L1 table", zero_on_l1, WRITE(10), 10, 11},
    {"data outside", data_outside, WRITE(10), 10, 11},
    {"data outside, zeroes", data_outside, ZERO, 10, 11},
    {"data outside, discard", data_outside, DISCARD, 10, 11},
    {"L2 entry: reserved bit", data_reserved, WRITE(10), 10, 11},
    {"L2 entry: reserved bit, zeroes", data_reserved, ZERO, 10, 11},
    {"L2 entry: reserved bit, reading", data_reserved, {Q_READ, 10, 1, 0}, 10, 11},
    {"L2 entry: high bit", data_high_bits, WRITE(10), 10, 11},
    {"compressed on L2 table", compressed_on_l2, WRITE(10), 10, 11},
    {"compressed on header", compressed_on_header, WRITE(10), 10, 11},
    {"compressed, not counted", compressed_not_counted, WRITE(10), 10, 11},
    {"compressed, not counted, discard", compressed_not_counted, DISCARD, 10, 11},
};

/* ---- one damage ---- */

static const struct qcase plain = {"cluster-size=512", ALL * 512, "size=320k", "", .requests = 0};

struct good {
    struct qimage w;
    uint8_t *file; /* as it was made */
};

static void co_make_good(struct good *g, const struct qcase *c)
{
    co_qimage_make(&g->w, c);
    co_qimage_snapshot(&g->w);
    co_qimage_open(&g->w);
    uint64_t full = FULL * (g->w.size / ALL);
    assert_int_equal(co_qop(&g->w, (struct qop){.kind = Q_WRITE, .len = full}), 0);
    co_qimage_close(&g->w);
    co_qimage_verify(&g->w);
    g->w.h = image_header(memdisk_of(g->w.m)->data);
    g->file = malloc(g->w.m->size);
    memcpy(g->file, memdisk_of(g->w.m)->data, g->w.m->size);
}

static void good_free(struct good *g)
{
    free(g->file);
    co_qimage_free(&g->w);
}

static int co_try(struct qimage *w, struct qop op)
{
    static uint8_t buf[8 * 512];
    uint64_t unit = w->size / ALL, off = op.off * unit, len = op.len * unit;
    if (!len) {
        off += 100;
        len = 50;
    }
    assert_true(len <= sizeof(buf));
    memset(buf, 0x77, sizeof(buf));
    if (op.kind == Q_ZERO)
        return co_blk_pwrite_zeroes(w->t.c, off, len, op.flags);
    if (op.kind == Q_DISCARD)
        return co_blk_pdiscard(w->t.c, off, len);
    if (op.kind == Q_READ)
        return co_blk_pread(w->t.c, off, buf, len);
    return co_blk_pwrite(w->t.c, off, buf, len, op.flags);
}

/* Whatever one may want to write now. */
static void co_try_all(struct qimage *w, const char *name)
{
    static const struct qop tries[] = {
        WRITE(5), PART(200), NEW, ZERO, DISCARD, PACK, WRITE(390), {Q_WRITE, ALL - 3, 2, BLK_FUA},
    };
    for (unsigned k = 0; k < ARRAY_LEN(tries); k++)
        if (co_try(w, tries[k]) != SR_EIO)
            fail_msg("%s: writing goes on (%u)", name, k);
    (void)co_blk_flush(w->t.c);
}

static void co_read_rest(const struct qimage *w, const struct damage *d)
{
    static uint8_t buf[512];
    for (unsigned k = 0; k < ALL; k++) {
        bool lost = k >= d->lost && k < d->end;
        int r = co_blk_pread(w->t.c, k * 512, buf, 512);
        if (r && !lost)
            fail_msg("%s: cluster %u cannot be read", d->name, k);
        if (!lost)
            assert_memory_equal(buf, w->model + k * 512, 512);
    }
}

/* What is there now is what was there before, but for the corrupt bit. */
static void expect_only_bit(const struct qimage *w, uint8_t *before, const char *name)
{
    const uint8_t *now = memdisk_of(w->m)->data;
    if (w->h.version == 3)
        before[79] |= 2;
    for (uint64_t k = 0; k < w->m->size; k++)
        if (now[k] != before[k])
            fail_msg("%s: byte 0x%llx of the file was changed", name, (unsigned long long)k);
}

static void co_damaged(struct good *g, const struct damage *d)
{
    struct qimage *w = &g->w;
    struct memdisk *m = memdisk_of(w->m);
    uint8_t *before = malloc(w->m->size);
    memcpy(m->data, g->file, w->m->size);
    struct image_header h = image_header(m->data);
    d->make(m->data, &h);
    memcpy(before, m->data, w->m->size);
    co_qimage_open(w);
    int r = co_try(w, d->op);
    if (r != SR_EIO)
        fail_msg("%s: not seen: %s", d->name, sr_strerror(r));
    co_expect_event(d->name);
    co_try_all(w, d->name);
    co_read_rest(w, d);
    co_expect_no_event(d->name);
    co_qimage_close(w);
    expect_only_bit(w, before, d->name);
    assert_string_equal(test_open_error("driver=qcow2,node-name=q,file=m"),
                        "qcow2: Image is corrupt; cannot be opened read/write");
    w->t = test_root_open(test_open("driver=qcow2,node-name=q,file=m,read-only=on"));
    co_read_rest(w, d);
    test_root_close(&w->t);
    free(before);
}

static void co_damages(void *arg)
{
    struct good g;
    (void)arg;
    co_make_good(&g, &plain);
    co_monitor_open();
    for (unsigned k = 0; k < ARRAY_LEN(damages); k++)
        co_damaged(&g, &damages[k]);
    co_monitor_close();
    good_free(&g);
}

static void test_damages(void **state)
{
    (void)state;
    test_co_run(co_damages, NULL);
}

/* ---- other kinds of image ---- */

struct other {
    struct qcase c;
    void (*make)(uint8_t *f, const struct image_header *h);
};

static void set_entry(uint8_t *f, unsigned guest, unsigned word, uint64_t value)
{
    struct image_header h = image_header(f);
    put_be(f + image_entry(f, (uint64_t)guest << h.cluster_bits) + 8 * word, 8, value);
}

#define EXTENDED "cluster-size=16k,extended-l2=on"
#define OTHER(create, sz, data)                                       \
    {                                                                 \
        create, sz, "size=2M", "", .data_file = (data), .requests = 0 \
    }
DAMAGE(both_data_and_zero, set_entry(f, 0, 1, 3ull << 32 | 1))
DAMAGE(no_cluster, set_entry(f, 0, 0, 0))
DAMAGE(zero_flag, set_entry(f, 0, 0, get_be(f + image_entry(f, 0), 8) | 1))
DAMAGE(zero_flag_alone, set_entry(f, 0, 0, 1))
DAMAGE(elsewhere, set_entry(f, 0, 0, COPIED | 0x4000))
DAMAGE(compressed, set_entry(f, 0, 0, 1ull << 62 | 0x8000))
static const struct other others[] = {
    {OTHER(EXTENDED, 320000, false), both_data_and_zero},
    {OTHER(EXTENDED, 320000, false), no_cluster},
    {OTHER(EXTENDED, 320000, false), zero_flag},
    {OTHER("cluster-size=512,version=v2", 320000, false), zero_flag},
    {OTHER("cluster-size=512,version=v2", 320000, false), zero_flag_alone},
    {OTHER("cluster-size=512,version=v2", 320000, false), data_not_counted},
    {OTHER("cluster-size=4096", 320000, true), elsewhere},
    {OTHER("cluster-size=4096,data-file-raw=on", 320000, true), elsewhere},
    {OTHER("cluster-size=4096", 320000, true), compressed},
    {OTHER("cluster-size=16k,extended-l2=on", 320000, true), both_data_and_zero},
    {OTHER("cluster-size=4096,lazy-refcounts=on", 320000, false), data_on_own_l2},
};

static void co_other(const struct other *o, enum qkind kind)
{
    struct qimage w;
    uint8_t buf[512] = {7};
    co_qimage_make(&w, &o->c);
    co_qimage_open(&w);
    assert_int_equal(co_qop(&w, (struct qop){.kind = Q_WRITE, .len = w.size / 2}), 0);
    co_qimage_close(&w);
    uint8_t *before = malloc(w.m->size), *f = memdisk_of(w.m)->data;
    o->make(f, &w.h);
    memcpy(before, f, w.m->size);
    co_qimage_open(&w);
    uint64_t at = w.h.cluster_bits == 9 ? 10 * 512 : 0;
    int r = kind == Q_ZERO      ? co_blk_pwrite_zeroes(w.t.c, 0, 2 * 16384, 0)
            : kind == Q_DISCARD ? co_blk_pdiscard(w.t.c, 0, 2 * 16384)
                                : co_blk_pwrite(w.t.c, at, buf, 512, 0);
    if (r != SR_EIO)
        fail_msg("%s: request %d: %s", o->c.create, kind, sr_strerror(r));
    co_expect_event(o->c.create);
    assert_int_equal(co_blk_pwrite(w.t.c, w.size - 512, buf, 512, 0), SR_EIO);
    (void)co_blk_flush(w.t.c);
    co_qimage_close(&w);
    expect_only_bit(&w, before, o->c.create);
    free(before);
    co_qimage_free(&w);
}

static void co_others(void *arg)
{
    static const enum qkind kinds[] = {Q_WRITE, Q_ZERO, Q_DISCARD};
    (void)arg;
    co_monitor_open();
    for (unsigned k = 0; k < 3 * ARRAY_LEN(others); k++)
        if (!others[k / 3].c.data_file || !strstr(others[k / 3].c.create, "raw") || k % 3 == 0)
            co_other(&others[k / 3], kinds[k % 3]);
    co_monitor_close();
}

static void test_others(void **state)
{
    (void)state;
    test_co_run(co_others, NULL);
}

/* ---- in the midst of other work ---- */

struct doing {
    struct co_start start;
    struct qimage *w;
    struct qop op;
    bool done;
    int result;
};

static void co_doing(void *arg)
{
    struct doing *d = arg;
    d->result = d->op.kind == Q_FLUSH ? co_blk_flush(d->w->t.c) : co_try(d->w, d->op);
    d->done = true;
}

static void begin(struct doing *d, struct qimage *w, struct qop op)
{
    *d = (struct doing){.w = w, .op = op};
    co_start(&d->start, co_doing, d);
}

static void co_until_parked(const struct memdisk *m, unsigned n)
{
    for (unsigned k = 0; k < 1000 && m->nparked < n; k++)
        co_reschedule();
    assert_int_equal(m->nparked, n);
}

static void co_until_done(const struct doing *d)
{
    for (unsigned k = 0; k < 10000 && !d->done; k++)
        co_reschedule();
    assert_true(d->done);
}

/* A commit waits for its first flush when the damage is seen; its entries stay in memory. */
static void co_during_commit(struct good *g, const char *create)
{
    struct doing flush, bad;
    struct qimage *w = &g->w;
    struct memdisk *m = memdisk_of(w->m);
    uint8_t *before = malloc(w->m->size);
    memcpy(m->data, g->file, w->m->size);
    data_shared(m->data, &w->h);
    co_qimage_open(w);
    assert_int_equal(co_try(w, (struct qop){Q_WRITE, FULL + 20, 3, 0}), 0);
    memdisk_hold(m, MEM_FLUSH);
    begin(&flush, w, (struct qop){.kind = Q_FLUSH});
    co_until_parked(m, 1);
    begin(&bad, w, (struct qop)WRITE(10));
    co_until_done(&bad);
    assert_int_equal(bad.result, SR_EIO);
    co_expect_event(create);
    memcpy(before, m->data, w->m->size); /* with the bit, or without it still */
    memdisk_release(m);
    co_until_done(&flush);
    assert_int_equal(flush.result, SR_EIO);
    co_qimage_close(w);
    expect_only_bit(w, before, create);
    free(before);
}

/* The bit of lazy refcounts is on its way when the damage is seen: both bits are set at the end. */
static void co_during_dirty_bit(struct good *g)
{
    struct doing flush, bad;
    struct qimage *w = &g->w;
    struct memdisk *m = memdisk_of(w->m);
    memcpy(m->data, g->file, w->m->size);
    data_shared(m->data, &w->h);
    co_qimage_open(w);
    assert_int_equal(co_try(w, (struct qop){Q_WRITE, FULL + 20, 3, 0}), 0);
    memdisk_hold(m, MEM_WRITE);
    begin(&flush, w, (struct qop){.kind = Q_FLUSH});
    co_until_parked(m, 1);
    begin(&bad, w, (struct qop)WRITE(10));
    for (unsigned k = 0; k < 100; k++)
        co_reschedule();
    memdisk_release(m);
    co_until_done(&flush);
    co_until_done(&bad);
    assert_int_equal(bad.result, SR_EIO);
    co_expect_event("dirty bit");
    co_qimage_close(w);
    assert_int_equal(m->data[79], 3);
}

static void co_midst(void *arg)
{
    static const struct qcase lazy = {"cluster-size=512,lazy-refcounts=on", ALL * 512, "size=320k",
                                      "", .requests = 0};
    struct good g;
    (void)arg;
    co_monitor_open();
    co_make_good(&g, &plain);
    co_during_commit(&g, plain.create);
    good_free(&g);
    co_make_good(&g, &lazy);
    co_during_commit(&g, lazy.create);
    co_during_dirty_bit(&g);
    good_free(&g);
    co_monitor_close();
}

static void test_midst(void **state)
{
    (void)state;
    test_co_run(co_midst, NULL);
}

/* ---- the bit cannot be written ---- */

static void co_no_bit(void *arg)
{
    struct good g;
    (void)arg;
    co_make_good(&g, &plain);
    co_monitor_open();
    memdisk_of(g.w.m)->refuse = true;
    data_not_counted(memdisk_of(g.w.m)->data, &g.w.h);
    memcpy(g.file, memdisk_of(g.w.m)->data, g.w.m->size);
    co_qimage_open(&g.w);
    fault_arm(FAULT_WRITE, 1, true);
    assert_int_equal(co_try(&g.w, (struct qop)WRITE(10)), SR_EIO);
    co_expect_event("no bit");
    co_try_all(&g.w, "no bit");
    fault_arm(FAULT_WRITE, 0, false);
    co_try_all(&g.w, "no bit, later");
    co_qimage_close(&g.w);
    assert_memory_equal(memdisk_of(g.w.m)->data, g.file, g.w.m->size);
    co_monitor_close();
    good_free(&g);
}

static void test_no_bit(void **state)
{
    (void)state;
    test_co_run(co_no_bit, NULL);
}

/* ---- not opened for writing ---- */

static void co_refused(void *arg)
{
    struct good g;
    (void)arg;
    co_make_good(&g, &plain);
    uint8_t *f = memdisk_of(g.w.m)->data, *entry = f + g.w.h.snapshots_at;
    uint64_t l1 = get_be(entry, 8), at[] = {0, g.w.h.l1, g.w.h.reftable};
    for (unsigned k = 0; k < ARRAY_LEN(at); k++) {
        put_be(entry, 8, at[k]);
        assert_non_null(strstr(test_open_error("driver=qcow2,node-name=q,file=m"),
                               "qcow2: Snapshots overlap other metadata"));
        co_node_drop(test_open("driver=qcow2,node-name=q,file=m,read-only=on"));
    }
    put_be(entry, 8, l1);
    co_node_drop(test_open("driver=qcow2,node-name=q,file=m"));
    good_free(&g);
}

static void test_refused(void **state)
{
    (void)state;
    test_co_run(co_refused, NULL);
}

/* Two entries that each say that the cluster is theirs alone: both may be dropped before that is seen, but
 * the second drop finds nothing left to drop, whoever looks for space meanwhile. */
static void co_named_twice(void *arg)
{
    static const struct qcase c = {"cluster-size=512", ALL * 512, "size=320k,discards=on", "",
                                   .requests = 0};
    struct good g;
    (void)arg;
    co_make_good(&g, &c);
    struct memdisk *m = memdisk_of(g.w.m);
    put_be(m->data + image_entry(m->data, 20 * 512), 8, data_at(m->data, 10) | COPIED);
    co_qimage_open(&g.w);
    assert_int_equal(co_try(&g.w, (struct qop){Q_DISCARD, 10, 1, 0}), 0);
    assert_int_equal(co_try(&g.w, (struct qop){Q_DISCARD, 20, 1, 0}), 0);
    assert_int_equal(co_blk_flush(g.w.t.c), 0);
    unsigned ms = 0;
    while (ms < 5000 && co_try(&g.w, (struct qop)PART(5)) != SR_EIO) {
        co_sleep_ns(1000000);
        ms++;
    }
    assert_true(ms < 5000);
    co_try_all(&g.w, "named twice");
    co_qimage_close(&g.w);
    assert_true(get_be(m->data + 72, 8) & 2); /* the corrupt bit */
    good_free(&g);
}

static void test_named_twice(void **state)
{
    (void)state;
    test_co_run(co_named_twice, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damages), cmocka_unit_test(test_others),
        cmocka_unit_test(test_midst),   cmocka_unit_test(test_no_bit),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_named_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What goes down to the file when a qcow2 image is written: how many requests, with which segments,
 * and what has to be there before a request is told to be done.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "tests/unit/support_qwrite.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST(name)                        \
    static void co_##name(void *arg);     \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        test_co_run(co_##name, NULL);     \
    }                                     \
    static void co_##name(void *arg)

static const struct qcase grows = {"", 64 << 20, "size=0,max-size=80M", "", .requests = 0};
/* A disk that cannot zero by itself. */
static const struct qcase fixed = {"", 64 << 20, "size=80M", "", .requests = 0};
static const struct qcase backed = {"",           64 << 20, "size=80M", "", .backing = 32 << 20,
                                    .requests = 0};

#define CLUSTER 65536u

static struct memdisk *file_of(const struct qimage *w)
{
    return memdisk_of(w->m);
}

/* Open, and one cluster in the middle written, so that tables are there and slices loaded. */
static void co_warm(struct qimage *w, const struct qcase *c)
{
    co_qimage_make(w, c);
    co_qimage_open(w);
    assert_int_equal(co_qop(w, (struct qop){Q_WRITE, 8 << 20, CLUSTER, 0}), 0);
    assert_int_equal(co_qop(w, (struct qop){Q_FLUSH, 0, 0, 0}), 0);
    memdisk_forget(file_of(w));
}

static void co_done(struct qimage *w)
{
    co_qimage_close(w);
    co_qimage_verify(w);
    co_qimage_free(w);
}

static void expect_counts(const struct qimage *w, uint64_t reads, uint64_t writes, uint64_t zeroes,
                          uint64_t flushes)
{
    const struct memdisk *m = file_of(w);
    if (m->count[MEM_READ] != reads || m->count[MEM_WRITE] != writes ||
        m->count[MEM_ZEROES] != zeroes || m->count[MEM_FLUSH] != flushes)
        fail_msg("%llu reads, %llu writes, %llu zeroes, %llu flushes",
                 (unsigned long long)m->count[MEM_READ], (unsigned long long)m->count[MEM_WRITE],
                 (unsigned long long)m->count[MEM_ZEROES], (unsigned long long)m->count[MEM_FLUSH]);
}

/* ---- one request ---- */

static int co_write_segs(struct qimage *w, uint64_t off, struct seg *seg, unsigned n)
{
    struct iov v = {.seg = seg};
    for (unsigned k = 0; k < n; k++) {
        memcpy(w->model + off + v.len, seg[k].base, seg[k].len);
        v.len += seg[k].len;
    }
    return co_blk_pwritev(w->t.c, off, v, 0);
}

TEST(in_place)
{
    static uint8_t buf[40000];
    struct seg seg[3] = {{buf + 7, 1000}, {buf + 2000, 30000}, {buf + 33333, 77}};
    struct qimage w;
    (void)arg;
    memset(buf, 0x5a, sizeof(buf));
    co_warm(&w, &grows);
    assert_int_equal(co_write_segs(&w, (8 << 20) + 123, seg, 3), 0);
    expect_counts(&w, 0, 1, 0, 0);
    assert_int_equal(file_of(&w)->last_segs, 3);
    assert_ptr_equal(file_of(&w)->last_base, buf + 7);
    assert_int_equal(file_of(&w)->last_len, 31077);
    /* adjacent clusters are one request, too */
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 16 << 20, 3 * CLUSTER, 0}), 0);
    memdisk_forget(file_of(&w));
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, (16 << 20) + 99, 2 * CLUSTER, 0}), 0);
    expect_counts(&w, 0, 1, 0, 0);
    co_done(&w);
}

TEST(part_of_new)
{
    static uint8_t buf[4096];
    struct seg seg = {buf, sizeof(buf)};
    struct qimage w;
    (void)arg;
    memset(buf, 0x5a, sizeof(buf));
    /* what the file has grown by is zero: the data alone */
    co_warm(&w, &grows);
    assert_int_equal(co_write_segs(&w, (9 << 20) + 8192, &seg, 1), 0);
    expect_counts(&w, 0, 1, 0, 0);
    assert_int_equal(file_of(&w)->last_len, 4096);
    assert_ptr_equal(file_of(&w)->last_base, buf);
    co_done(&w);
    /* zeroes around */
    co_warm(&w, &fixed);
    assert_int_equal(co_write_segs(&w, (9 << 20) + 8192, &seg, 1), 0);
    expect_counts(&w, 0, 1, 0, 0);
    assert_int_equal(file_of(&w)->last_len, CLUSTER);
    assert_int_equal(file_of(&w)->last_segs, 3);
    co_done(&w);
    /* a copy around: one read for each side */
    co_warm(&w, &backed);
    memdisk_forget(memdisk_of(w.b));
    assert_int_equal(co_write_segs(&w, (9 << 20) + 8192, &seg, 1), 0);
    expect_counts(&w, 0, 1, 0, 0);
    assert_int_equal(file_of(&w)->last_len, CLUSTER);
    assert_int_equal(file_of(&w)->last_segs, 3);
    assert_int_equal(memdisk_of(w.b)->count[MEM_READ], 2);
    assert_int_equal(memdisk_of(w.b)->bytes[MEM_READ], CLUSTER - 4096);
    /* a whole cluster: nothing is read */
    memdisk_forget(memdisk_of(w.b));
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 10 << 20, CLUSTER, 0}), 0);
    assert_int_equal(memdisk_of(w.b)->count[MEM_READ], 0);
    co_done(&w);
}

/* ---- many ---- */

/* In any order: `step` and 1000 have no divisor in common. */
static void co_writes(const struct qcase *c, unsigned step)
{
    static uint8_t buf[4096];
    struct seg seg = {buf, sizeof(buf)};
    struct qimage w;
    co_warm(&w, c);
    struct memdisk *m = file_of(&w);
    for (unsigned k = 0; k < 1000; k++) {
        memset(buf, (int)k + 1, sizeof(buf));
        uint64_t off = (uint64_t)(k * step % 1000) * CLUSTER + 4096;
        assert_int_equal(co_write_segs(&w, off, &seg, 1), 0);
    }
    assert_int_equal(m->count[MEM_FLUSH], 0);
    assert_in_range(m->count[MEM_WRITE], 1000, 1010);
    assert_in_range(m->count[MEM_ZEROES], 0, 20); /* megabytes at once */
    assert_in_range(m->count[MEM_READ], 0, 4);
    memdisk_forget(m);
    assert_int_equal(co_qop(&w, (struct qop){Q_FLUSH, 0, 0, 0}), 0);
    assert_in_range(m->count[MEM_WRITE], 1, 10); /* all of their metadata */
    assert_in_range(m->count[MEM_FLUSH], 2, 3);
    memdisk_forget(m);
    assert_int_equal(co_qop(&w, (struct qop){Q_FLUSH, 0, 0, 0}), 0);
    expect_counts(&w, 0, 0, 0, 0);
    co_done(&w);
}

TEST(thousand)
{
    static const struct qcase zeroes = {"", 64 << 20, "size=80M,write-zeroes=on", "",
                                        .requests = 0};
    (void)arg;
    co_writes(&grows, 1);
    co_writes(&grows, 617);
    co_writes(&fixed, 617);
    co_writes(&zeroes, 617);
}

TEST(neighbours)
{
    struct qimage w;
    (void)arg;
    co_warm(&w, &grows);
    for (unsigned k = 0; k < 4 * 64; k++) /* 16 KiB each: four to a cluster */
        assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, (16 << 20) + k * 16384, 16384, 0}), 0);
    memdisk_forget(file_of(&w));
    for (unsigned k = 0; k < 16; k++)
        assert_int_equal(co_qop(&w, (struct qop){Q_READ, (16 << 20) + k * 262144, 262144, 0}), 0);
    expect_counts(&w, 16, 0, 0, 0);
    co_done(&w);
}

/* ---- at the same time ---- */

struct doing {
    struct co_start start;
    struct qimage *w;
    struct qop op;
    bool done, stable, there;
    int result;
};

/* Would somebody who opens a copy of the file now see it? */
static bool co_is_there(const struct qimage *w, const struct qop *op)
{
    static uint8_t buf[CLUSTER];
    char text[100];
    snprintf(text, sizeof(text), "driver=mem,node-name=copy,size=%llu",
             (unsigned long long)w->m->size);
    struct node *n = test_open(text);
    memcpy(memdisk_of(n)->data, memdisk_of(w->m)->data, w->m->size);
    struct test_root t =
        test_root_open(test_open("driver=qcow2,node-name=q2,file=copy,read-only=on"));
    assert_int_equal(co_blk_pread(t.c, op->off, buf, op->len), 0);
    test_root_close(&t);
    co_node_drop(n);
    return !memcmp(buf, w->model + op->off, op->len);
}

static void co_doing(void *arg)
{
    struct doing *d = arg;
    d->result = co_qop(d->w, d->op);
    d->stable = file_of(d->w)->changes == file_of(d->w)->flushed;
    d->done = true;
}

static void begin(struct doing *d, struct qimage *w, struct qop op)
{
    *d = (struct doing){.w = w, .op = op};
    co_start(&d->start, co_doing, d);
}

static void co_some_turns(void)
{
    for (unsigned k = 0; k < 300; k++)
        co_reschedule();
}

static void co_until_done(struct doing *d, unsigned n)
{
    for (unsigned k = 0; k < n; k++) {
        for (unsigned i = 0; i < 10000 && !d[k].done; i++)
            co_reschedule();
        assert_true(d[k].done);
        assert_int_equal(d[k].result, 0);
    }
}

TEST(one_commit)
{
    static const unsigned flags[] = {BLK_FUA, BLK_SETTLED};
    struct doing d[32];
    struct qimage w;
    (void)arg;
    co_warm(&w, &grows);
    for (unsigned f = 0; f < ARRAY_LEN(flags); f++) {
        memdisk_forget(file_of(&w));
        for (unsigned k = 0; k < ARRAY_LEN(d); k++)
            begin(&d[k], &w, (struct qop){Q_WRITE, (20 + k + 40 * f) << 18, 4096, flags[f]});
        co_until_done(d, ARRAY_LEN(d));
        assert_in_range(file_of(&w)->count[MEM_FLUSH], 1, flags[f] == BLK_FUA ? 4 : 2);
        assert_in_range(file_of(&w)->count[MEM_WRITE], ARRAY_LEN(d), ARRAY_LEN(d) + 6);
    }
    co_done(&w);
}

/* A commit that waits for its flush holds up nobody but those who change entries. */
TEST(held_commit)
{
    struct doing flush, other[4];
    struct qimage w;
    (void)arg;
    co_warm(&w, &grows);
    struct memdisk *m = file_of(&w);
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 9 << 20, 4096, 0}), 0);
    memdisk_hold(m, MEM_FLUSH);
    begin(&flush, &w, (struct qop){Q_FLUSH, 0, 0, 0});
    co_some_turns();
    assert_int_equal(m->nparked, 1);
    begin(&other[0], &w, (struct qop){Q_READ, 8 << 20, CLUSTER, 0});
    begin(&other[1], &w, (struct qop){Q_READ, (9 << 20) + 4096, 3 * CLUSTER, 0});
    begin(&other[2], &w, (struct qop){Q_WRITE, (8 << 20) + 512, 9000, 0});
    co_until_done(other, 3);
    memdisk_forget(m);
    begin(&other[3], &w, (struct qop){Q_WRITE, 10 << 20, 4096, 0});
    co_some_turns();
    assert_int_equal(m->count[MEM_WRITE], 1); /* its data */
    assert_false(other[3].done || flush.done);
    memdisk_release(m);
    co_until_done(&flush, 1);
    co_until_done(&other[3], 1);
    co_done(&w);
}

/* ---- promises ---- */

/* Writes of all kinds: done means there, and with FUA stable. */
static void co_promise(struct qimage *w, struct qop op)
{
    struct doing d;
    begin(&d, w, op);
    co_until_done(&d, 1);
    assert_true(d.stable || !(op.flags & BLK_FUA));
    if (!co_is_there(w, &op))
        fail_msg("request %d at 0x%llx, flags %x: done, but not there", op.kind,
                 (unsigned long long)op.off, op.flags);
}

TEST(promises)
{
    static const unsigned flags[] = {BLK_FUA, BLK_SETTLED, BLK_FUA | BLK_SETTLED};
    struct qimage w;
    (void)arg;
    co_warm(&w, &grows);
    for (unsigned f = 0; f < ARRAY_LEN(flags); f++) {
        uint64_t at = (9 + 10ull * f) << 20;
        co_promise(&w, (struct qop){Q_WRITE, at + 4096, 4096, flags[f]});
        co_promise(&w, (struct qop){Q_WRITE, at + 4096, 8192, flags[f]});
        co_promise(&w, (struct qop){Q_WRITE, at + CLUSTER, CLUSTER, flags[f] | BLK_COMPRESSED});
        co_promise(&w, (struct qop){Q_WRITE, at + CLUSTER + 4096, 4096, flags[f]});
        co_promise(&w, (struct qop){Q_ZERO, at, CLUSTER, flags[f] | BLK_MAY_UNMAP});
        co_promise(&w, (struct qop){Q_ZERO, at + CLUSTER + 8192, 4096, flags[f]});
        /* in place, when somebody else's entries wait */
        assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, at + (2 << 20), 4096, 0}), 0);
        co_promise(&w, (struct qop){Q_WRITE, 8 << 20, 4096, flags[f]});
        assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, at + (3 << 20), 4096, 0}), 0);
        co_promise(&w, (struct qop){Q_WRITE, at + (3 << 20), 512, flags[f]});
    }
    co_done(&w);
}

/* ... and not before: whatever is held, they wait. */
TEST(not_before)
{
    static const enum mem_op held[] = {MEM_FLUSH, MEM_WRITE};
    static const unsigned flags[] = {BLK_FUA, BLK_SETTLED};
    struct doing d;
    struct qimage w;
    (void)arg;
    co_warm(&w, &grows);
    for (unsigned k = 0; k < 4; k++) {
        struct memdisk *m = file_of(&w);
        struct qop op = {Q_WRITE, (20ull + k) << 20, 4096, 0};
        assert_int_equal(co_qop(&w, op), 0); /* the data; the entry is in memory only */
        op.flags = flags[k % 2];
        memdisk_hold(m, held[k / 2]);
        begin(&d, &w, op);
        co_some_turns();
        assert_true(m->nparked);
        assert_false(d.done);
        memdisk_release(m);
        co_until_done(&d, 1);
        assert_true(co_is_there(&w, &op));
    }
    co_done(&w);
}

/* When all that a FUA write needs is stable, it is one request, and the disk does the rest. */
TEST(fua_in_place)
{
    static const struct qcase fua = {"", 64 << 20, "size=80M,fua=on", "", .requests = 0};
    struct qimage w;
    (void)arg;
    co_warm(&w, &fua);
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 8 << 20, 4096, BLK_FUA}), 0);
    expect_counts(&w, 0, 1, 0, 0);
    assert_int_equal(file_of(&w)->flags_seen, BLK_FUA);
    memdisk_forget(file_of(&w));
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 8 << 20, 4096, BLK_SETTLED}), 0);
    expect_counts(&w, 0, 1, 0, 0);
    assert_int_equal(file_of(&w)->flags_seen, 0);
    co_done(&w);
}

/* What a settled write needs is the way to its own cluster: changes elsewhere wait for their own commit. */
TEST(settled_in_place)
{
    struct qimage w;
    (void)arg;
    co_warm(&w, &grows);
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 48 << 20, CLUSTER, 0}), 0);
    memdisk_forget(file_of(&w));
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 8 << 20, 4096, BLK_SETTLED}), 0);
    expect_counts(&w, 0, 1, 0, 0);
    memdisk_forget(file_of(&w));
    /* and of the slice that was changed: refcounts, flush, slice, sector of the L1 table */
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, (48 << 20) + 4096, 4096, BLK_SETTLED}), 0);
    assert_int_equal(file_of(&w)->count[MEM_FLUSH], 1);
    memdisk_forget(file_of(&w));
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 48 << 20, 4096, BLK_SETTLED}), 0);
    expect_counts(&w, 0, 1, 0, 0);
    co_done(&w);
}

/* ---- space that is given back ---- */

/* Not before the file has forgotten the cluster for good, and every read of it is over. */
TEST(discard_later)
{
    static const struct qcase c = {"", 64 << 20, "size=80M,discards=on", "", .requests = 0};
    struct doing read, flush;
    struct qimage w;
    (void)arg;
    co_warm(&w, &c);
    struct memdisk *m = file_of(&w);
    memdisk_hold(m, MEM_READ);
    begin(&read, &w, (struct qop){Q_READ, 8 << 20, CLUSTER / 2, 0});
    co_some_turns();
    assert_int_equal(m->nparked, 1);
    assert_int_equal(co_blk_pdiscard(w.t.c, 8 << 20, CLUSTER), 0);
    co_some_turns();
    assert_int_equal(m->count[MEM_DISCARD], 0);
    begin(&flush, &w, (struct qop){Q_FLUSH, 0, 0, 0});
    co_until_done(&flush, 1);
    co_some_turns();
    assert_int_equal(m->count[MEM_DISCARD], 0); /* the read may be there still */
    memdisk_release(m);
    co_until_done(&read, 1);
    for (unsigned ms = 0; ms < 5000 && !m->count[MEM_DISCARD]; ms++)
        co_sleep_ns(1000000);
    assert_int_equal(m->count[MEM_DISCARD], 1);
    assert_int_equal(m->bytes[MEM_DISCARD], CLUSTER);
    memset(w.model + (8 << 20), 0, CLUSTER);
    co_done(&w);
}

/* Who takes other clusters does not wait for a disk that is slow to discard. */
TEST(discard_alone)
{
    static const struct qcase c = {"", 64 << 20, "size=80M,discards=on", "", .requests = 0};
    struct doing flush;
    struct qimage w;
    (void)arg;
    co_warm(&w, &c);
    struct memdisk *m = file_of(&w);
    memdisk_hold(m, MEM_DISCARD);
    assert_int_equal(co_blk_pdiscard(w.t.c, 8 << 20, CLUSTER), 0);
    memset(w.model + (8 << 20), 0, CLUSTER);
    begin(&flush, &w, (struct qop){Q_FLUSH, 0, 0, 0});
    co_until_done(&flush, 1);
    for (unsigned ms = 0; ms < 5000 && !m->nparked; ms++)
        co_sleep_ns(1000000);
    assert_int_equal(m->nparked, 1);
    assert_int_equal(co_qop(&w, (struct qop){Q_WRITE, 12 << 20, CLUSTER, 0}), 0);
    memdisk_release(m);
    co_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_place),      cmocka_unit_test(test_part_of_new),
        cmocka_unit_test(test_thousand),      cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_one_commit),    cmocka_unit_test(test_held_commit),
        cmocka_unit_test(test_promises),      cmocka_unit_test(test_not_before),
        cmocka_unit_test(test_fua_in_place),  cmocka_unit_test(test_settled_in_place),
        cmocka_unit_test(test_discard_later), cmocka_unit_test(test_discard_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

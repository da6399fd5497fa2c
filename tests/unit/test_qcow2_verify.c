/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What it takes to look through a slice before it is written, in images that were made to make it
 * slow: as many snapshots as there may be; tables in each place of the L1 table; a
 * slice whose entries all name something that is counted and lies between the tables.
 *
 *     file    tables and their data | nothing | RUN_AT: snapshot table | L1 tables, every second
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "tests/unit/support_qwrite.h"
#include "formats/qcow2/writer.h"

#include <stdlib.h>
#include <string.h>

#define CLUSTER   4096u
#define ENTRIES   512u /* of an L2 table, and of a slice */
#define TABLES    1024u
#define TABLE     ((uint64_t)CLUSTER * ENTRIES) /* guest bytes of one */
#define SNAPSHOTS 65536u
#define LISTED    ((uint64_t)SNAPSHOTS * 40)
#define RUN_AT    (10ull << 20)
#define INSIDE    256u /* L1 tables in the file, every second cluster */
#define MASK      0x00fffffffffffe00ull

static uint8_t *file;

static uint64_t host_of(uint64_t guest)
{
    return get_be(file + image_entry(file, guest), 8) & MASK;
}

static uint64_t inside(unsigned k)
{
    return RUN_AT + align_up(LISTED, CLUSTER) + 2ull * k * CLUSTER;
}

static void co_fill(struct qimage *w)
{
    static uint8_t data[CLUSTER];
    co_qimage_open(w);
    for (uint64_t k = 0; k < TABLES; k++)
        assert_int_equal(co_blk_pwrite(w->t.c, k * TABLE, data, CLUSTER, 0), 0);
    co_qimage_close(w);
    file = memdisk_of(w->m)->data;
    for (uint64_t off = RUN_AT; off < inside(INSIDE); off += CLUSTER) {
        assert_int_equal(image_refcount(file, off / CLUSTER), 0);
        image_set_refcount(file, off / CLUSTER, 1);
    }
}

/* The first slice names what the others do: counted, not COPIED. */
static void crowd_slice(void)
{
    for (uint64_t k = 1; k < ENTRIES; k++)
        put_be(file + image_entry(file, k * CLUSTER), 8, host_of(k * TABLE));
}

/* Backwards, again and again. */
static void list_snapshots(void)
{
    memset(file + RUN_AT, 0, LISTED);
    for (unsigned k = 0; k < SNAPSHOTS; k++) {
        uint8_t *at = file + RUN_AT + 40ull * k;
        put_be(at, 8, inside(INSIDE - 1 - k % INSIDE));
        put_be(at + 8, 4, 1 + k % 7);
    }
    put_be(file + 60, 4, SNAPSHOTS);
    put_be(file + 64, 8, RUN_AT);
}

/* What was compared for the first write of the first slice. */
static uint64_t co_cost(struct qimage *w, int expected)
{
    uint8_t data[512] = {1};
    co_qimage_open(w);
    verify_scanned = 0;
    assert_int_equal(co_blk_pwrite(w->t.c, 0, data, sizeof(data), 0), expected);
    uint64_t cost = verify_scanned;
    co_qimage_close(w);
    return cost;
}

static void co_bound(struct qimage *w, const char *what, uint64_t most)
{
    uint64_t cost = co_cost(w, 0);
    if (cost > most)
        fail_msg("%s: %llu entries compared for one write, not %llu", what,
                 (unsigned long long)cost, (unsigned long long)most);
}

static void co_slow(void *arg)
{
    static const struct qcase c = {"cluster-size=4096", TABLES * TABLE, "size=16M", "",
                                   .requests = 0};
    struct qimage w;
    (void)arg;
    co_qimage_make(&w, &c);
    co_fill(&w);
    uint64_t look = TABLES + w.h.reftable_bytes / 8, entries = ENTRIES + 40 /* blocks, tables */;
    co_bound(&w, "many tables", look);
    crowd_slice();
    co_bound(&w, "a slice that is full", (ENTRIES / 100 + 3) * look);
    list_snapshots();
    co_bound(&w, "all snapshots", (ENTRIES / 100 + 3) * look + entries * 17);
    uint8_t *good = malloc(w.m->size);
    memcpy(good, file, w.m->size);
    for (unsigned k = 0; k < 2 * INSIDE; k += 15) { /* every second is an L1 table */
        put_be(file + image_entry(file, 5 * CLUSTER), 8, inside(0) + (uint64_t)k * CLUSTER);
        co_cost(&w, k % 2 ? 0 : SR_EIO);
        memcpy(file, good, w.m->size);
    }
    free(good);
    co_qimage_free(&w);
}

static void test_slow(void **state)
{
    (void)state;
    test_co_run(co_slow, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_slow)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

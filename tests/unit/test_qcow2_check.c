/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checking and repairing qcow2 images: damaged in each way, through windows of any size, with each
 * request and allocation failing, and with the power cut at any moment of a repair. Whether the numbers
 * are those of qemu-img, tests/interop/test_check.py knows.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "formats/qcow2/check.h"

#include <stdio.h>
#include <stdlib.h>

#define COPIED (1ull << 63)
#define OFFSET 0x00fffffffffffe00ull
#define ALL    (BLK_FIX_LEAKS | BLK_FIX_ERRORS)

/* ---- images with refcounts, by a second and simpler count ---- */

static uint64_t cluster(const struct image *i)
{
    return 1ull << i->cluster_bits;
}
static uint64_t allocate(struct image *i, uint64_t clusters)
{
    uint64_t at = align_up(i->end, cluster(i));
    i->end = at + clusters * cluster(i);
    assert_true(i->end <= i->file_size);
    return at;
}
static uint64_t get(const struct image *i, uint64_t at)
{
    return get_be(i->file + at, 8);
}
static void put(struct image *i, uint64_t at, uint64_t v)
{
    put_be(i->file + at, 8, v);
}
static void refer(const struct image *i, uint32_t *refs, uint64_t off, uint64_t len)
{
    for (uint64_t k = off / cluster(i); len && k <= (off + len - 1) / cluster(i); k++)
        refs[k]++;
}

static void refer_l2(const struct image *i, uint32_t *refs, uint64_t table)
{
    uint64_t shift = 62 - (i->cluster_bits - 8);
    for (uint64_t at = table; at < table + cluster(i); at += i->extended ? 16 : 8) {
        uint64_t e = get(i, at), host = e & ((1ull << shift) - 1);
        if (e >> 62 & 1)
            refer(i, refs, host, ((e & ~COPIED & ~(1ull << 62)) >> shift) * 512 + 512 - host % 512);
        else if ((e & OFFSET) && !i->external)
            refer(i, refs, e & OFFSET, cluster(i));
    }
}

static void refer_l1(const struct image *i, uint32_t *refs, uint64_t l1)
{
    uint64_t n = get_be(i->file + 36, 4);
    refer(i, refs, l1, 8 * n);
    for (uint64_t k = 0; k < n; k++) {
        uint64_t table = get(i, l1 + 8 * k) & OFFSET;
        refer(i, refs, table, table ? cluster(i) : 0);
        if (table)
            refer_l2(i, refs, table);
    }
}

static uint64_t snapshot_l1(const struct image *i)
{
    return get_be(i->file + 60, 4) ? get(i, get(i, 64)) : 0;
}

static uint32_t *count_refs(const struct image *i)
{
    uint32_t *refs = calloc(i->file_size / cluster(i) + 2, sizeof(*refs));
    refer(i, refs, 0, cluster(i));
    refer_l1(i, refs, i->l1);
    if (snapshot_l1(i)) {
        refer(i, refs, get(i, 64), 60);
        refer_l1(i, refs, snapshot_l1(i));
    }
    return refs;
}

static unsigned order_of(const struct image *i)
{
    return i->version == 3 ? (unsigned)get_be(i->file + 96, 4) : 4;
}
/* Clusters that a block counts. */
static uint64_t per_block(const struct image *i)
{
    return 8 * cluster(i) >> order_of(i);
}
/* Place of the block that counts cluster k; 0: none. */
static uint64_t block_of(const struct image *i, uint64_t k)
{
    return get(i, get(i, 48) + 8 * (k / per_block(i)));
}
static void set_ref(struct image *i, uint64_t k, uint64_t n)
{
    refs_set(i->file + block_of(i, k), order_of(i), k % per_block(i), n);
}
static uint64_t ref(const struct image *i, uint64_t k)
{
    return refs_get(i->file + block_of(i, k), order_of(i), k % per_block(i));
}

/* The table has its one cluster already. */
static void add_refcounts(struct image *i, unsigned order)
{
    uint64_t first = align_up(i->end, cluster(i)), n = 0;
    if (i->version == 3)
        put_be(i->file + 96, 4, order);
    while (n * per_block(i) < first / cluster(i) + n)
        n++;
    assert_true(8 * n <= cluster(i));
    allocate(i, n);
    uint32_t *refs = count_refs(i);
    refer(i, refs, get(i, 48), cluster(i));
    refer(i, refs, first, n * cluster(i));
    for (uint64_t k = 0; k < n; k++)
        put(i, get(i, 48) + 8 * k, first + k * cluster(i));
    for (uint64_t k = 0; k < i->end / cluster(i); k++)
        set_ref(i, k, refs[k]);
    free(refs);
}

static void share(struct image *i, uint64_t at, uint64_t bytes, unsigned step)
{
    for (uint64_t end = at + bytes; at < end; at += step)
        if (!(get(i, at) >> 62 & 1))
            put(i, at, get(i, at) & ~COPIED);
}

/* The active tables and the snapshot's share everything but the first L2 table. */
static void add_snapshot(struct image *i)
{
    uint64_t n = get_be(i->file + 36, 4), l1 = allocate(i, (8 * n + cluster(i) - 1) / cluster(i));
    uint64_t at = allocate(i, 1), table = get(i, i->l1) & OFFSET;
    for (uint64_t k = 0; k < n; k++)
        if (get(i, i->l1 + 8 * k))
            share(i, get(i, i->l1 + 8 * k) & OFFSET, cluster(i), i->extended ? 16 : 8);
    share(i, i->l1, 8 * n, 8);
    memcpy(i->file + l1, i->file + i->l1, 8 * n);
    put(i, at, l1);
    put_be(i->file + at + 8, 4, n);
    put_be(i->file + at + 12, 2, 1);
    put_be(i->file + at + 14, 2, 3);
    put_be(i->file + at + 36, 4, 16);
    put(i, at + 48, i->size);
    memcpy(i->file + at + 56, "1one", 4);
    put_be(i->file + 60, 4, 1);
    put(i, 64, at);
    if (table) {
        uint64_t own = allocate(i, 1);
        memcpy(i->file + own, i->file + table, cluster(i));
        put(i, i->l1, own | COPIED);
    }
}

struct shape {
    struct image i;
    unsigned order;
    bool snapshot;
};
static const struct shape shapes[] = {
    {{.version = 3, .cluster_bits = 9, .size = 100000}, 4, false},
    {{.version = 3, .cluster_bits = 9, .size = 100000}, 3, true},
    {{.version = 2, .cluster_bits = 10, .size = 200000}, 4, true},
    {{.version = 3, .cluster_bits = 12, .size = 400000}, 5, true},
    {{.version = 3, .cluster_bits = 9, .size = 100000}, 6, false},
    {{.version = 3, .cluster_bits = 11, .size = 300000}, 2, false},
    {{.version = 3, .cluster_bits = 14, .size = 900000, .extended = true}, 4, true},
    {{.version = 3, .cluster_bits = 9, .size = 60000, .external = true}, 0, false},
    {{.version = 3, .cluster_bits = 16, .size = 1500000}, 1, false},
};

static void make(struct image *i, const struct shape *s)
{
    *i = s->i;
    test_random_seed(s->order);
    /* packed clusters have more references than narrow refcounts can say */
    image_make(i, s->order < 3 ? IMAGE_SEQUENTIAL : IMAGE_RANDOM);
    if (s->snapshot)
        add_snapshot(i);
    add_refcounts(i, s->order);
}

/* ---- checking what is in a memory disk ---- */

static struct test_root disk(const struct image *i, uint64_t more)
{
    char text[120];
    snprintf(text, sizeof(text), "mem,node-name=m,size=%llu,max-size=%llu",
             (unsigned long long)i->file_size,
             (unsigned long long)(more ? i->file_size + more : 0));
    struct test_root t = test_root_open(test_open(text));
    image_put(i, "m");
    return t;
}

static struct blk_check co_check(struct child *c, unsigned fix)
{
    struct blk_check k;
    struct error err = {0};
    if (co_qcow2_check(c, fix, &k, &err))
        fail_msg("check: %s", err.msg);
    assert_int_equal(k.check_errors, 0);
    return k;
}

static void co_expect_clean(struct child *c)
{
    struct blk_check k = co_check(c, 0);
    if (k.corruptions | k.leaks)
        fail_msg("%llu corruptions, %llu leaks", (unsigned long long)k.corruptions,
                 (unsigned long long)k.leaks);
}

/* What a guest reads; `c` is the image's root. */
static void co_expect_content(const struct image *i)
{
    uint8_t *b = malloc(i->size);
    if (i->external)
        memcpy(memdisk_of(node_find("d"))->data, i->data, i->size);
    struct test_root q =
        test_root_open(test_open(i->external ? "qcow2,node-name=q,file=m,data-file=d,read-only=on"
                                             : "qcow2,node-name=q,file=m,read-only=on"));
    assert_int_equal(co_blk_pread(q.c, 0, b, i->size), 0);
    assert_memory_equal(b, i->model, i->size);
    test_root_close(&q);
    free(b);
}

static void set_memory(unsigned how)
{
    static const size_t windows[] = {512, 512, 2048, SIZE_MAX}, reaches[] = {0, 1 << 20, 8, 0};
    check_window_most = windows[how % 4];
    check_reach_most = reaches[how % 4];
}

/* ---- images that are right ---- */

static void co_right(void *arg)
{
    (void)arg;
    struct test_root d = test_root_open(test_open("mem,node-name=d,size=60000"));
    for (unsigned n = 0; n < ARRAY_LEN(shapes); n++) {
        struct image i;
        struct blk_check k[4];
        make(&i, &shapes[n]);
        struct test_root t = disk(&i, 0);
        for (unsigned how = 0; how < 4; how++) {
            set_memory(how);
            k[how] = co_check(t.c, ALL);
            if (k[how].corruptions | k[how].leaks)
                fail_msg("shape %u, memory %u", n, how);
            assert_memory_equal(&k[how], &k[0], sizeof(k[0]));
        }
        assert_int_equal(k[0].total_clusters, (i.size / 512 * 512 + cluster(&i) - 1) / cluster(&i));
        assert_int_equal(k[0].image_end_offset, i.end);
        assert_int_equal(memdisk_of(t.n)->count[MEM_WRITE], 0);
        co_expect_content(&i);
        test_root_close(&t);
        image_free(&i);
    }
    test_root_close(&d);
}

static void test_right(void **state)
{
    (void)state;
    test_co_run(co_right, NULL);
}

/* ---- images that are not ---- */

static uint64_t used(const struct image *i, unsigned nth)
{
    for (uint64_t k = 0; k < i->end / cluster(i); k++)
        if (ref(i, k) && !nth--)
            return k;
    fail_msg("no used cluster");
    return 0;
}
/* Place of the nth L2 entry that has a cluster of its own. */
static uint64_t entry(const struct image *i, unsigned nth)
{
    for (uint64_t g = 0; g < i->size; g += cluster(i)) {
        uint64_t at = image_l2_entry(i, g);
        if (at && !(get(i, at) >> 62 & 1) && (get(i, at) & OFFSET) && !nth--)
            return at;
    }
    fail_msg("no such entry");
    return 0;
}

static void low(struct image *i)
{
    for (unsigned n = 0; n < 9; n++)
        set_ref(i, used(i, n), 0);
}
static void high(struct image *i)
{
    for (uint64_t k = 0; k < i->end / cluster(i); k += 3)
        set_ref(i, k, ref(i, k) + 1 ? ref(i, k) + 1 : 1);
    set_ref(i, i->end / cluster(i) - 1, 7);
}
static void both(struct image *i)
{
    high(i);
    low(i);
}
static void no_block(struct image *i)
{
    put(i, get(i, 48), 0);
}
static void block_outside(struct image *i)
{
    put(i, get(i, 48), align_up(i->file_size, cluster(i)) + cluster(i));
}
static void block_far_outside(struct image *i)
{
    put(i, get(i, 48), ~0ull << 20);
}
static void block_misaligned(struct image *i)
{
    put(i, get(i, 48), get(i, get(i, 48)) + 512);
}
static void block_reserved(struct image *i)
{
    put(i, get(i, 48), get(i, get(i, 48)) | 1);
}
static void block_is_header(struct image *i)
{
    put(i, get(i, 48), 0 * cluster(i) + cluster(i));
}
static void block_twice(struct image *i)
{
    put(i, get(i, 48) + 8 * (cluster(i) / 8 - 1), get(i, get(i, 48)));
}
static void block_is_data(struct image *i)
{
    put(i, get(i, 48), get(i, entry(i, 1)) & OFFSET);
}
static void no_table(struct image *i)
{
    put_be(i->file + 56, 4, 0);
}
static void table_huge(struct image *i)
{
    put_be(i->file + 56, 4, ~0u);
}
static void table_misaligned(struct image *i)
{
    put(i, 48, 0x123);
}
static void table_outside(struct image *i)
{
    put(i, 48, 1ull << 61);
}
static void table_is_l1(struct image *i)
{
    put(i, 48, i->l1);
}
static void flags(struct image *i)
{
    for (unsigned n = 0; n < 20; n += 3)
        put(i, entry(i, n), get(i, entry(i, n)) ^ COPIED);
    put(i, i->l1, get(i, i->l1) ^ COPIED);
}
static void bits(struct image *i)
{
    put(i, 72, get(i, 72) | 3);
}
static void l2_outside(struct image *i)
{
    put(i, i->l1 + 8, 1ull << 50 | COPIED);
}
static void l2_gone(struct image *i)
{
    put(i, i->l1 + 8, COPIED);
}
static void l1_reserved(struct image *i)
{
    put(i, i->l1 + 8, get(i, i->l1 + 8) | 2);
}
static void data_outside(struct image *i)
{
    put(i, entry(i, 5), 1ull << 45 | COPIED);
}
static void data_reserved(struct image *i)
{
    put(i, entry(i, 5), get(i, entry(i, 5)) | 4);
}
static void data_twice(struct image *i)
{
    put(i, entry(i, 5), get(i, entry(i, 9)));
}
static void data_is_l1(struct image *i)
{
    put(i, entry(i, 5), i->l1 | COPIED);
}
static void compressed_copied(struct image *i)
{
    for (uint64_t g = 0; g < i->size; g += cluster(i))
        if (image_l2_entry(i, g) && get(i, image_l2_entry(i, g)) >> 62 & 1)
            put(i, image_l2_entry(i, g), get(i, image_l2_entry(i, g)) | COPIED);
}
/* Each entry leads to the same table, and there are more than the file has clusters. */
static void l1_everywhere(struct image *i)
{
    uint64_t n = 20000, l1 = allocate(i, 8 * n / cluster(i) + 1), table = get(i, i->l1);
    for (uint64_t k = 0; k < n; k++)
        put(i, l1 + 8 * k, table);
    put_be(i->file + 36, 4, n);
    put(i, 40, l1);
}

/* The cluster behind the file, which a repair may want for itself. */
static void data_behind(struct image *i)
{
    put(i, entry(i, 5), align_up(i->file_size, cluster(i)) | COPIED);
    no_block(i);
}
/* What a guest wrote, taken for an L2 table. */
static uint64_t victim(const struct image *i)
{
    return get(i, entry(i, 5)) & OFFSET;
}
static void l2_is_data(struct image *i)
{
    for (uint64_t k = 0; k < cluster(i); k += 8)
        put(i, victim(i) + k, (get(i, entry(i, 9)) & OFFSET) | (k & 8 ? COPIED : 0));
    put(i, i->l1 + 16, victim(i) | COPIED);
}

enum after { CLEAN, SAME, WRONG }; /* SAME: clean, with the content that it had */
struct damage {
    const char *name;
    void (*apply)(struct image *i);
    bool corrupt, leaks;
    enum after after;
};
static const struct damage damages[] = {
    {"refcounts too low", low, true, false, SAME},
    {"refcounts too high", high, true, true, SAME},
    {"refcounts all wrong", both, true, true, SAME},
    {"no refcount block", no_block, true, false, SAME},
    {"refcount block outside", block_outside, true, false, SAME},
    {"refcount block far outside", block_far_outside, true, false, SAME},
    {"refcount block misaligned", block_misaligned, true, false, SAME},
    {"reserved bits in the refcount table", block_reserved, true, true, SAME},
    {"refcount block in the refcount table", block_is_header, true, true, SAME},
    {"refcount block twice", block_twice, true, false, SAME},
    {"refcount block in data", block_is_data, true, true, SAME},
    {"no refcount table", no_table, true, false, SAME},
    {"refcount table too large", table_huge, true, false, SAME},
    {"refcount table misaligned", table_misaligned, true, false, SAME},
    {"refcount table outside", table_outside, true, false, SAME},
    {"refcount table in the L1 table", table_is_l1, true, false, SAME},
    {"copied flags", flags, true, false, SAME},
    {"dirty and corrupt", bits, false, false, SAME},
    {"L2 table outside", l2_outside, true, true, WRONG},
    {"L2 table gone", l2_gone, true, true, WRONG},
    {"reserved bits in an L1 entry", l1_reserved, true, false, WRONG},
    {"data outside", data_outside, true, true, WRONG},
    {"reserved bits in an L2 entry", data_reserved, true, false, WRONG},
    {"data shared", data_twice, true, true, CLEAN},
    {"data in the L1 table", data_is_l1, true, true, CLEAN},
    {"data right behind the file", data_behind, true, false, WRONG},
    {"L2 table in data", l2_is_data, true, true, WRONG},
    {"compressed and copied", compressed_copied, true, false, WRONG},
    {"the same L2 table everywhere", l1_everywhere, true, true, WRONG},
};

static void judge_damage(const struct damage *d, const struct blk_check *k, unsigned how)
{
    if (!!k->corruptions != d->corrupt || !!k->leaks != d->leaks)
        fail_msg("%s (memory %u): %llu corruptions, %llu leaks", d->name, how,
                 (unsigned long long)k->corruptions, (unsigned long long)k->leaks);
}

static void co_repair(const struct damage *d, const struct image *i, struct child *c,
                      const struct blk_check *before)
{
    struct memdisk *m = memdisk_of(c->node);
    struct blk_check k = co_check(c, ALL);
    if (!k.corruptions != (d->after != WRONG))
        fail_msg("%s: %llu corruptions after its repair", d->name,
                 (unsigned long long)k.corruptions);
    assert_true(!(k.leaks_fixed | k.corruptions_fixed) == !m->count[MEM_WRITE] || d->apply == bits);
    memdisk_forget(m);
    struct blk_check again = co_check(c, ALL);
    assert_int_equal(m->count[MEM_WRITE], 0);
    assert_int_equal(again.corruptions, k.corruptions);
    assert_int_equal(again.leaks, k.leaks);
    if (d->after == WRONG) { /* what may be lost is not freed, and what a guest wrote is its own */
        assert_true(k.leaks >= before->leaks || d->apply == l1_reserved || d->apply == l2_is_data);
        if (d->apply == l2_is_data)
            assert_memory_equal(m->data + victim(i), i->file + victim(i), cluster(i));
        return;
    }
    co_expect_clean(c);
    assert_int_equal(get_be(m->data + 72, 8) & 3, 0);
    if (d->after == SAME)
        co_expect_content(i);
}

static void co_damaged(void *arg)
{
    (void)arg;
    for (unsigned n = 0; n < 4 * ARRAY_LEN(damages); n++) {
        const struct damage *d = &damages[n / 4];
        struct image i;
        make(&i, &shapes[0]);
        d->apply(&i);
        struct test_root t = disk(&i, n % 3 ? 100 * cluster(&i) : 0);
        set_memory(n);
        struct blk_check k = co_check(t.c, 0);
        assert_int_equal(memdisk_of(t.n)->count[MEM_WRITE], 0);
        assert_true(memdisk_of(t.n)->bytes[MEM_READ] < 20 * (3 * i.file_size)); /* windows */
        judge_damage(d, &k, n % 4);
        co_repair(d, &i, t.c, &k);
        test_root_close(&t);
        image_free(&i);
    }
}

static void test_damaged(void **state)
{
    (void)state;
    test_co_run(co_damaged, NULL);
}

/* Leaks only: refcounts that are too low, and flags that nobody can judge then, stay. */
static void co_leaks(void *arg)
{
    struct image i;
    struct blk_check k;
    struct error err = {0};
    (void)arg;
    for (unsigned n = 0; n < 3; n++) {
        make(&i, &shapes[0]);
        if (n)
            low(&i);
        high(&i);
        if (n < 2)
            flags(&i);
        else
            no_block(&i);
        struct test_root t = disk(&i, 0);
        set_memory(n);
        if (n == 2) {
            assert_int_equal(co_qcow2_check(t.c, BLK_FIX_LEAKS, &k, &err), SR_EIO);
            assert_int_equal(k.check_errors, 1);
            assert_int_equal(memdisk_of(t.n)->count[MEM_WRITE], 0);
        } else {
            k = co_check(t.c, BLK_FIX_LEAKS);
            assert_int_equal(k.leaks, 0);
            assert_true(k.leaks_fixed);
            assert_true(n ? k.corruptions && !k.corruptions_fixed : !k.corruptions);
        }
        test_root_close(&t);
        image_free(&i);
    }
}

static void test_leaks(void **state)
{
    (void)state;
    test_co_run(co_leaks, NULL);
}

/* ---- what fails ---- */

static const char *const repaired[] = {"refcounts all wrong", "no refcount block", "copied flags",
                                       "dirty and corrupt", "refcount block in data"};

static const struct damage *find_damage(const char *name)
{
    for (unsigned n = 0; n < ARRAY_LEN(damages); n++)
        if (!strcmp(damages[n].name, name))
            return &damages[n];
    fail_msg("no damage %s", name);
    return NULL;
}

static void make_damaged(struct image *i, unsigned n)
{
    make(i, &shapes[n % 2]);
    bits(i);
    find_damage(repaired[n])->apply(i);
}

/* The nth request fails, from then on all do, or the nth allocation: an error is told, and what is
 * there can be repaired by the next. */
static bool co_fail(const struct image *i, enum fault_kind kind, unsigned nth, bool for_good)
{
    struct blk_check k;
    struct error err = {0};
    struct test_root t = disk(i, 100 * cluster(i));
    fault_arm(kind, nth, for_good);
    int r = co_qcow2_check(t.c, ALL, &k, &err);
    bool fired = fault_fired(kind);
    fault_arm(kind, 0, false);
    assert_int_equal(err.set, r != 0);
    assert_true(kind == FAULT_ALLOC || fired == (r != 0)); /* less memory is more windows */
    if (r == SR_ENOMEM)
        assert_int_equal(memdisk_of(t.n)->count[MEM_WRITE], 0);
    assert_true(k.check_errors || !r || r == SR_ENOMEM || kind == FAULT_WRITE);
    co_check(t.c, ALL);
    co_expect_clean(t.c);
    co_expect_content(i);
    test_root_close(&t);
    return fired;
}

static void co_failing(void *arg)
{
    (void)arg;
    for (unsigned n = 0; n < 4 * ARRAY_LEN(repaired); n++) {
        static const enum fault_kind kinds[] = {FAULT_READ, FAULT_WRITE, FAULT_FLUSH, FAULT_ALLOC};
        struct image i;
        make_damaged(&i, n / 4);
        set_memory(1);
        for (unsigned nth = 1; co_fail(&i, kinds[n % 4], nth, nth & 1);)
            nth += kinds[n % 4] == FAULT_READ ? 1 + nth / 8 : 1;
        image_free(&i);
    }
}

static void test_failing(void **state)
{
    (void)state;
    test_co_run(co_failing, NULL);
}

/* ---- power cuts ---- */

/* Driver "tape": a filter that remembers what was written, and when it was flushed. */
struct record {
    uint64_t off;
    size_t len; /* 0: a flush */
    uint8_t *data;
};
static struct tape {
    struct record record[4096];
    unsigned n;
} tape;

static int co_tape_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct record *r = &tape.record[tape.n++];
    assert_true(tape.n < ARRAY_LEN(tape.record));
    *r = (struct record){.off = off, .len = v.len, .data = malloc(v.len)};
    iov_copy_out(r->data, v, 0, v.len);
    return co_blk_pwritev(n->file, off, v, flags);
}

static int co_tape_flush(struct node *n)
{
    tape.record[tape.n++] = (struct record){0};
    return co_blk_flush(n->file);
}

static int co_tape_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    return co_blk_preadv(n->file, off, v, flags);
}

struct tape_options {
    struct schema_ref file;
};
static const struct field tape_fields[] = {
    FIELD_REQ(struct tape_options, file, "file", &type_blockdev_ref, "Test"),
    {0},
};
static const struct type tape_type =
    TYPE_STRUCT_OF("BlockdevOptionsTape", struct tape_options, tape_fields);

static int co_tape_open(struct node *n, const void *opts, struct error *err)
{
    int r =
        co_child_open(n, "file", &((const struct tape_options *)opts)->file, true, &n->file, err);
    n->size = r ? 0 : n->file->node->size;
    return r;
}

static const struct blk_driver blk_tape = {
    .name = "tape",
    .options = &tape_type,
    .state_size = 1,
    .filter = true,
    .co_open = co_tape_open,
    .co_preadv = co_tape_preadv,
    .co_pwritev = co_tape_pwritev,
    .co_flush = co_tape_flush,
};
REGISTER(blk_driver, blk_tape);

static void play_torn(uint8_t *to, const struct record *r)
{
    for (uint64_t at = 0; at < r->len;) {
        size_t part = (size_t)MIN(512 - (r->off + at) % 512, r->len - at);
        if (test_random() % 2)
            memcpy(to + r->off + at, r->data + at, part);
        at += part;
    }
}

/* The first n records: those before the last flush whole, of the others any sectors. */
static void play(uint8_t *to, unsigned n)
{
    unsigned stable = n;
    while (stable && tape.record[stable - 1].len)
        stable--;
    for (unsigned k = 0; k < n; k++) {
        const struct record *r = &tape.record[k];
        if (k < stable && r->len)
            memcpy(to + r->off, r->data, r->len);
        else
            play_torn(to, r);
    }
}

/* Not worse than it was, and good after another repair. */
static void co_cut_at(const struct image *before, uint64_t size, unsigned n,
                      const struct blk_check *was)
{
    struct image i = *before;
    i.file_size = size;
    i.file = calloc(1, size);
    memcpy(i.file, before->file, before->file_size);
    play(i.file, n);
    struct test_root t = disk(&i, 100 * cluster(&i));
    struct blk_check k = co_check(t.c, 0);
    if (k.corruptions > was->corruptions)
        fail_msg("after %u of %u writes: %llu corruptions", n, tape.n,
                 (unsigned long long)k.corruptions);
    if (!(get_be(i.file + 72, 8) & 3))
        co_expect_clean(t.c);
    co_expect_content(&i);
    k = co_check(t.c, ALL);
    co_expect_clean(t.c);
    co_expect_content(&i);
    test_root_close(&t);
    free(i.file);
}

static void co_cut(const struct image *i, uint64_t more)
{
    struct test_root m = disk(i, more), t = test_root_open(test_open("tape,node-name=t,file=m"));
    tape.n = 0;
    struct blk_check was = co_check(t.c, 0);
    co_check(t.c, ALL);
    co_expect_clean(t.c);
    uint64_t size = m.n->size;
    test_root_close(&t);
    test_root_close(&m);
    for (unsigned n = 0; n <= tape.n; n += 1 + n / 32)
        co_cut_at(i, size, n, &was);
    while (tape.n)
        free(tape.record[--tape.n].data);
}

static void co_cuts(void *arg)
{
    (void)arg;
    for (unsigned n = 0; n < 2 * ARRAY_LEN(repaired); n++) {
        struct image i;
        make_damaged(&i, n / 2);
        set_memory(n % 2 ? 2 : 1);
        co_cut(&i, n % 2 ? 100 * cluster(&i) : 0);
        image_free(&i);
    }
}

static void test_cuts(void **state)
{
    (void)state;
    test_co_run(co_cuts, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right), cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_leaks), cmocka_unit_test(test_failing),
        cmocka_unit_test(test_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

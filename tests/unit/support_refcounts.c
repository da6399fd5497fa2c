/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_refcounts.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- refcounts ---- */

static uint64_t allocate(struct image *i, uint64_t clusters)
{
    uint64_t at = align_up(i->end, cluster(i));
    i->end = at + clusters * cluster(i);
    assert_true(i->end <= i->file_size);
    return at;
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
void set_ref(struct image *i, uint64_t k, uint64_t n)
{
    refs_set(i->file + block_of(i, k), order_of(i), k % per_block(i), n);
}
uint64_t ref(const struct image *i, uint64_t k)
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

const struct shape shapes[SHAPES] = {
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

void image_with_refcounts(struct image *i, const struct shape *s)
{
    *i = s->i;
    test_random_seed(s->order);
    /* packed clusters have more references than narrow refcounts can say */
    image_make(i, s->order < 3 ? IMAGE_SEQUENTIAL : IMAGE_RANDOM);
    if (s->snapshot)
        add_snapshot(i);
    add_refcounts(i, s->order);
}

/* ---- damage ---- */

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

void damage_low(struct image *i)
{
    for (unsigned n = 0; n < 9; n++)
        set_ref(i, used(i, n), 0);
}
void damage_high(struct image *i)
{
    for (uint64_t k = 0; k < i->end / cluster(i); k += 3)
        set_ref(i, k, ref(i, k) + 1 ? ref(i, k) + 1 : 1);
    set_ref(i, i->end / cluster(i) - 1, 7);
}
static void both(struct image *i)
{
    damage_high(i);
    damage_low(i);
}
void damage_no_block(struct image *i)
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
void damage_flags(struct image *i)
{
    for (unsigned n = 0; n < 20; n += 3)
        put(i, entry(i, n), get(i, entry(i, n)) ^ COPIED);
    put(i, i->l1, get(i, i->l1) ^ COPIED);
}
void damage_bits(struct image *i)
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
void damage_l1_reserved(struct image *i)
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
void damage_data_twice(struct image *i)
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
    damage_no_block(i);
}
/* What a guest wrote, taken for an L2 table. */
uint64_t victim(const struct image *i)
{
    return get(i, entry(i, 5)) & OFFSET;
}
void damage_l2_is_data(struct image *i)
{
    for (uint64_t k = 0; k < cluster(i); k += 8)
        put(i, victim(i) + k, (get(i, entry(i, 9)) & OFFSET) | (k & 8 ? COPIED : 0));
    put(i, i->l1 + 16, victim(i) | COPIED);
}

const struct damage damages[DAMAGES] = {
    {"refcounts too low", damage_low, true, false, SAME},
    {"refcounts too high", damage_high, true, true, SAME},
    {"refcounts all wrong", both, true, true, SAME},
    {"no refcount block", damage_no_block, true, false, SAME},
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
    {"copied flags", damage_flags, true, false, SAME},
    {"dirty and corrupt", damage_bits, false, false, SAME},
    {"L2 table outside", l2_outside, true, true, WRONG},
    {"L2 table gone", l2_gone, true, true, WRONG},
    {"reserved bits in an L1 entry", damage_l1_reserved, true, false, WRONG},
    {"data outside", data_outside, true, true, WRONG},
    {"reserved bits in an L2 entry", data_reserved, true, false, WRONG},
    {"data shared", damage_data_twice, true, true, CLEAN},
    {"data in the L1 table", data_is_l1, true, true, CLEAN},
    {"data right behind the file", data_behind, true, false, WRONG},
    {"L2 table in data", damage_l2_is_data, true, true, WRONG},
    {"compressed and copied", compressed_copied, true, false, WRONG},
    {"the same L2 table everywhere", l1_everywhere, true, true, WRONG},
};

/* ---- checking what is in a memory disk ---- */

struct test_root image_disk(const struct image *i, uint64_t more)
{
    char text[120];
    snprintf(text, sizeof(text), "mem,node-name=m,size=%llu,max-size=%llu",
             (unsigned long long)i->file_size,
             (unsigned long long)(more ? i->file_size + more : 0));
    struct test_root t = test_root_open(test_open(text));
    image_put(i, "m");
    return t;
}

struct blk_check co_check(struct child *c, unsigned fix)
{
    struct blk_check k = {0};
    struct error err = {0};
    if (co_qcow2_check(c, fix, &k, &err))
        fail_msg("check: %s", err.msg);
    assert_int_equal(k.check_errors, 0);
    return k;
}

void co_expect_clean(struct child *c)
{
    struct blk_check k = co_check(c, 0);
    if (k.corruptions | k.leaks)
        fail_msg("%llu corruptions, %llu leaks", (unsigned long long)k.corruptions,
                 (unsigned long long)k.leaks);
}

/* What a guest reads; `c` is the image's root. */
void co_expect_content(const struct image *i)
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

void set_check_memory(unsigned how)
{
    static const size_t windows[] = {512, 512, 2048, SIZE_MAX}, reaches[] = {0, 1 << 20, 8, 0};
    check_window_most = windows[how % 4];
    check_reach_most = reaches[how % 4];
}

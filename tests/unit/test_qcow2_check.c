/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checking qcow2 images: damaged in each way, repaired, through windows of any size. Whether the
 * numbers are those of qemu-img, tests/interop/test_check.py knows.
 */
#include "tests/unit/support_refcounts.h"

/* ---- images that are right ---- */

static void co_right(void *arg)
{
    (void)arg;
    struct test_root d = test_root_open(test_open("mem,node-name=d,size=60000"));
    for (unsigned n = 0; n < ARRAY_LEN(shapes); n++) {
        struct image i;
        struct blk_check k[4] = {0};
        image_with_refcounts(&i, &shapes[n]);
        struct test_root t = image_disk(&i, 0);
        for (unsigned how = 0; how < 4; how++) {
            set_check_memory(how);
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
    assert_true(!(k.leaks_fixed | k.corruptions_fixed) == !m->count[MEM_WRITE] ||
                d->apply == damage_bits);
    memdisk_forget(m);
    struct blk_check again = co_check(c, ALL);
    assert_int_equal(m->count[MEM_WRITE], 0);
    assert_int_equal(again.corruptions, k.corruptions);
    assert_int_equal(again.leaks, k.leaks);
    if (d->after == WRONG) { /* what may be lost is not freed, and what a guest wrote is its own */
        assert_true(k.leaks >= before->leaks || d->apply == damage_l1_reserved ||
                    d->apply == damage_l2_is_data);
        if (d->apply == damage_l2_is_data)
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
        image_with_refcounts(&i, &shapes[0]);
        d->apply(&i);
        struct test_root t = image_disk(&i, n % 3 ? 100 * cluster(&i) : 0);
        set_check_memory(n);
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

/* Anything in any table: the same is found through windows of any size, a repair ends, and what
 * it says that it left is what there is. */
static uint64_t any_value(const struct image *i, uint64_t v)
{
    switch (test_random() % 6) {
    case 0:
        return v ^ 1ull << test_random() % 64;
    case 1:
        return v ^ COPIED;
    case 2:
        return test_random() % (i->end / cluster(i) + 2) * cluster(i) | (v & COPIED);
    case 3:
        return (uint64_t)test_random() << 32 | test_random();
    case 4:
        return v + 1;
    default:
        return 0;
    }
}

static void damage_anything(struct image *i)
{
    for (unsigned n = 1 + test_random() % 6; n; n--) {
        uint64_t at = test_random() % (i->end / 8) * 8;
        if (test_random() % 2)
            at = i->l1 + test_random() % 8 * 8;
        if (at >= cluster(i))
            put(i, at, any_value(i, get(i, at)));
    }
}

static void co_anything(void *arg)
{
    (void)arg;
    for (unsigned seed = 1; seed <= 200; seed++) {
        struct image i;
        struct blk_check k[4] = {0};
        image_with_refcounts(&i, &shapes[seed % SHAPES]);
        test_random_seed(1000 + seed);
        damage_anything(&i);
        struct test_root t = image_disk(&i, seed % 2 ? 100 * cluster(&i) : 0);
        for (unsigned how = 0; how < 4; how++) {
            set_check_memory(how);
            k[how] = co_check(t.c, 0);
            if (memcmp(&k[how], &k[0], sizeof(k[0])))
                fail_msg("seed %u: memory %u makes a difference: %llu corruptions, not %llu", seed,
                         how, (unsigned long long)k[how].corruptions,
                         (unsigned long long)k[0].corruptions);
        }
        set_check_memory(seed);
        struct error err = {0};
        int r = co_qcow2_check(t.c, ALL, &k[1], &err);
        assert_true(!r || r == SR_ENOSPC);
        k[2] = co_check(t.c, 0);
        assert_true(k[0].corruptions || !k[2].corruptions);
        assert_true(r || k[2].corruptions == k[1].corruptions);
        test_root_close(&t);
        image_free(&i);
    }
}

static void test_anything(void **state)
{
    (void)state;
    test_co_run(co_anything, NULL);
}

/* Leaks only: refcounts that are too low, and flags that nobody can judge then, stay. */
static void co_leaks(void *arg)
{
    struct image i;
    struct blk_check k = {0};
    struct error err = {0};
    (void)arg;
    for (unsigned n = 0; n < 3; n++) {
        image_with_refcounts(&i, &shapes[0]);
        if (n)
            damage_low(&i);
        damage_high(&i);
        if (n < 2)
            damage_flags(&i);
        else
            damage_no_block(&i);
        struct test_root t = image_disk(&i, 0);
        set_check_memory(n);
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

/* What version 3 requires of a snapshot is added; the rest of the entry stays. */
static void co_short_snapshot(void *arg)
{
    (void)arg;
    for (unsigned n = 0; n < 6; n++) {
        struct image i;
        image_with_refcounts(&i, &shapes[n % 2 ? 3 : 1]);
        uint64_t at = get(&i, 64), extra = n / 2 * 7; /* 0, 7, 14 */
        put_be(i.file + at + 32, 4, 99);              /* size of the VM state */
        put_be(i.file + at + 36, 4, extra);
        memset(i.file + at + 40, 0x55, extra);
        memcpy(i.file + at + 40 + extra, "1one", 4);
        struct test_root t = image_disk(&i, n < 3 ? 100 * cluster(&i) : 0);
        set_check_memory(n);
        assert_int_equal(co_check(t.c, 0).corruptions, 1);
        struct blk_check k = co_check(t.c, ALL);
        assert_int_equal(k.corruptions, 0);
        assert_true(k.corruptions_fixed >= 1);
        co_expect_clean(t.c);
        co_expect_content(&i);
        uint8_t *file = memdisk_of(t.n)->data, *entry_at = file + get_be(file + 64, 8);
        assert_memory_equal(entry_at, i.file + at, 36);
        assert_int_equal(get_be(entry_at + 36, 4), 16);
        assert_int_equal(get_be(entry_at + 40, 8), extra < 8 ? 99 : 0x5555555555555555);
        assert_int_equal(get_be(entry_at + 48, 8), i.size);
        assert_memory_equal(entry_at + 56, "1one", 4);
        test_root_close(&t);
        image_free(&i);
    }
}

static void test_short_snapshot(void **state)
{
    (void)state;
    test_co_run(co_short_snapshot, NULL);
}

/* What opening an image that was not closed does. */
static void co_open(void *arg)
{
    struct image i;
    struct error err = {0};
    (void)arg;
    set_check_memory(3);
    image_with_refcounts(&i, &shapes[0]);
    damage_low(&i);
    damage_bits(&i);
    struct test_root t = image_disk(&i, 0);
    assert_int_equal(co_qcow2_repair_open(t.c, &err), 0);
    co_expect_clean(t.c);
    assert_int_equal(get_be(memdisk_of(t.n)->data + 72, 8), 0);
    fault_arm(FAULT_READ, 3, false);
    assert_int_equal(co_qcow2_repair_open(t.c, &err), SR_EIO);
    fault_arm(FAULT_READ, 0, false);
    assert_non_null(strstr(err.msg, "Could not repair dirty image: Could not read the image at"));
    test_root_close(&t);
    image_free(&i);

    struct shape narrow = {{.version = 3, .cluster_bits = 9, .size = 50000}, 0, false};
    err = (struct error){0};
    image_with_refcounts(&i, &narrow);
    damage_bits(&i);
    damage_data_twice(&i);
    t = image_disk(&i, 0);
    assert_int_equal(co_qcow2_repair_open(t.c, &err), SR_EIO);
    assert_non_null(strstr(err.msg, "more references than a refcount can say"));
    assert_int_equal(get_be(memdisk_of(t.n)->data + 72, 8), 3);
    test_root_close(&t);
    image_free(&i);
}

static void test_open_repairs(void **state)
{
    (void)state;
    test_co_run(co_open, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),          cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_anything),       cmocka_unit_test(test_leaks),
        cmocka_unit_test(test_short_snapshot), cmocka_unit_test(test_open_repairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

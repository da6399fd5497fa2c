/* SPDX-License-Identifier: BSD-2-Clause */
/* Repairing qcow2 images: each request and allocation fails, and the power is cut at any moment. */
#include "tests/unit/support_refcounts.h"

#include <stdlib.h>

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
    image_with_refcounts(i, &shapes[n % 2]);
    damage_bits(i);
    find_damage(repaired[n])->apply(i);
}

/* The nth request fails, from then on all do, or the nth allocation: an error is told, and what is
 * there can be repaired by the next. */
static bool co_fail(const struct image *i, enum fault_kind kind, unsigned nth, bool for_good)
{
    struct blk_check k = {0};
    struct error err = {0};
    struct test_root t = image_disk(i, 100 * cluster(i));
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
        set_check_memory(1);
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
    struct test_root t = image_disk(&i, 100 * cluster(&i));
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
    struct test_root m = image_disk(i, more),
                     t = test_root_open(test_open("tape,node-name=t,file=m"));
    tape.n = 0;
    struct blk_check was = co_check(t.c, 0);
    co_check(t.c, ALL);
    co_expect_clean(t.c);
    uint64_t size = m.n->size;
    test_root_close(&t);
    test_root_close(&m);
    for (unsigned n = 0; n <= 3 * tape.n; n++)
        co_cut_at(i, size, n / 3, &was);
    while (tape.n)
        free(tape.record[--tape.n].data);
}

static void co_cuts(void *arg)
{
    (void)arg;
    for (unsigned n = 0; n < 2 * ARRAY_LEN(repaired); n++) {
        struct image i;
        make_damaged(&i, n / 2);
        set_check_memory(n % 2 ? 3 : 1);
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
        cmocka_unit_test(test_failing),
        cmocka_unit_test(test_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

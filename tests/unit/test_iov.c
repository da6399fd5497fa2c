/* SPDX-License-Identifier: BSD-2-Clause */
/* Lists of pieces, against flat memory. */
#include "tests/unit/support.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/iov.h"

#define MAX_PIECES 12
#define MAX_BYTES  600u

struct pieces {
    struct seg seg[MAX_PIECES];
    uint8_t memory[MAX_PIECES][64];
    struct iov v;
};

static unsigned seed = 7;
static unsigned rnd(unsigned n)
{
    return (unsigned)rand_r(&seed) % n;
}

static void make(struct pieces *p)
{
    unsigned n = 1 + rnd(MAX_PIECES);
    size_t sum = 0;
    for (unsigned i = 0; i < n; i++) {
        p->seg[i] = (struct seg){.base = p->memory[i], .len = 1 + rnd(50)};
        sum += p->seg[i].len;
    }
    size_t skip = rnd((unsigned)p->seg[0].len);
    p->v = (struct iov){.seg = p->seg, .skip = skip, .len = rnd((unsigned)(sum - skip) + 1)};
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < 64; k++)
            p->memory[i][k] = (uint8_t)rnd(256);
}

static size_t flatten(struct iov v, uint8_t *flat)
{
    size_t n = 0, len;
    void *p;
    while (iov_next(&v, &p, &len)) {
        assert_true(len > 0);
        memcpy(flat + n, p, len);
        n += len;
    }
    return n;
}

static void test_random(void **state)
{
    (void)state;
    static struct pieces a, b;
    uint8_t flat[MAX_BYTES], other[MAX_BYTES], copy[MAX_BYTES];
    for (unsigned round = 0; round < 20000; round++) {
        make(&a);
        assert_int_equal(flatten(a.v, flat), a.v.len);
        size_t off = rnd((unsigned)a.v.len + 1), len = rnd((unsigned)(a.v.len - off) + 1);

        struct iov s = iov_slice(a.v, off, len);
        assert_int_equal(flatten(s, other), len);
        assert_memory_equal(flat + off, other, len);
        iov_copy_out(copy, a.v, off, len);
        assert_memory_equal(flat + off, copy, len);

        for (size_t i = 0; i < len; i++)
            copy[i] = (uint8_t)rnd(256);
        iov_copy_in(a.v, off, copy, len);
        memcpy(flat + off, copy, len);
        flatten(a.v, other);
        assert_memory_equal(flat, other, a.v.len);

        iov_fill(a.v, off, 0x5a, len);
        memset(flat + off, 0x5a, len);
        flatten(a.v, other);
        assert_memory_equal(flat, other, a.v.len);

        make(&b);
        flatten(b.v, copy);
        iov_copy(b.v, a.v);
        memcpy(copy, flat, MIN(a.v.len, b.v.len));
        flatten(b.v, other);
        assert_memory_equal(copy, other, b.v.len);
    }
}

static void test_count(void **state)
{
    (void)state;
    char m[64];
    struct seg seg[] = {{m, 10}, {m + 10, 5}, {m + 15, 20}};
    struct iov v = {.seg = seg, .skip = 2, .len = 30};
    assert_int_equal(iov_count(v), 3);
    assert_int_equal(iov_count((struct iov){0}), 0);
    struct iov end = iov_slice(v, 30, 0);
    assert_int_equal(end.len, 0);
    assert_int_equal(iov_count(end), 0);
}

static void test_zero(void **state)
{
    (void)state;
    static uint8_t m[1024] __attribute__((aligned(512)));
    struct seg seg[] = {{m, 100}, {m + 100, 1}, {m + 101, 700}};
    struct iov v = {.seg = seg, .skip = 0, .len = 801};
    assert_true(iov_is_zero(v));
    for (unsigned i = 0; i < 1024; i++) {
        m[i] = 1;
        assert_int_equal(iov_is_zero(v), i >= 801);
        m[i] = 0;
    }
    assert_true(iov_is_zero((struct iov){0}));
}

static void copy_beyond(void *arg)
{
    struct seg s;
    char m[8], to[16];
    (void)arg;
    iov_copy_out(to, iov_one(&s, m, 8), 4, 5);
}

static void test_misuse_panics(void **state)
{
    (void)state;
    test_expect_panic(copy_beyond, NULL, "range_ok");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_count),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_misuse_panics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

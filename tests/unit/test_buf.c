/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support.h"

#include <string.h>

#include "kernel/buf.h"
#include "kernel/error.h"
#include "kernel/loop.h"

extern struct pool buf_pool_4k, buf_pool_32k, buf_pool_256k;

#define KIB 1024u

static void get_all_sizes(void *arg)
{
    static const struct {
        size_t want, size;
    } cases[] = {{0, 4 * KIB},       {1, 4 * KIB},          {4096, 4 * KIB},
                 {4097, 32 * KIB},   {32 * KIB, 32 * KIB},  {32 * KIB + 1, 256 * KIB},
                 {BUF_MAX, BUF_MAX}, {BUF_MAX + 1, BUF_MAX}};
    struct buf_credit c;
    (void)arg;
    assert_int_equal(buf_credit_open(&c, 4), 0);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf *b = co_buf_get_upto(&c, cases[i].want);
        assert_int_equal(b->size, cases[i].size);
        assert_true(is_aligned((uintptr_t)b->data, 512));
        assert_ptr_equal(b->owner, &c);
        memset(b->data - BUF_HEADROOM, 0xaa, BUF_HEADROOM + b->size);
        buf_put(b);
        b = buf_try_get(&c, cases[i].want);
        assert_true(cases[i].want > BUF_MAX ? !b : b && b->size == cases[i].size);
        if (b)
            b->hold.release(&b->hold); /* as a stream does it */
    }
    assert_int_equal(c.c4.held + c.c32.held + c.c256.held, 0);
    buf_credit_close(&c);
}

/* Large ones run out: smaller pieces, and for the smallest one waits. */
static void co_shortage(void *arg)
{
    struct buf_credit greedy, other;
    struct buf *large[8], *mid[8];
    unsigned nl = 0, nm = 0;
    (void)arg;
    assert_int_equal(buf_credit_open(&greedy, 2), 0);
    assert_int_equal(buf_credit_open(&other, 2), 0);
    for (struct buf *b; (b = co_buf_get_upto(&greedy, BUF_MAX))->size == BUF_MAX;)
        large[nl++] = b;
    assert_int_equal(nl, buf_pool_256k.total / 2); /* the last one got was smaller */
    struct buf *b = buf_try_get(&greedy, BUF_MAX);
    assert_null(b);
    b = buf_try_get(&other, BUF_MAX); /* the other still gets its share */
    assert_non_null(b);
    buf_put(b);
    while ((b = buf_try_get(&greedy, 32 * KIB)))
        mid[nm++] = b;
    b = co_buf_get_upto(&greedy, BUF_MAX);
    assert_int_equal(b->size, 4 * KIB);
    buf_put(b);
    while (nm)
        buf_put(mid[--nm]);
    while (nl)
        buf_put(large[--nl]);
}

static void test_sizes(void **state)
{
    (void)state;
    test_co_run(get_all_sizes, NULL);
}

static void test_shortage(void **state)
{
    (void)state;
    test_co_run(co_shortage, NULL);
}

static void test_too_many_guarantees(void **state)
{
    (void)state;
    struct buf_credit c;
    assert_int_equal(buf_credit_open(&c, buf_pool_4k.total + 1), SR_ENOMEM);
}

#if defined(SR_SANITIZED) && !defined(__SANITIZE_THREAD__)
static void use_after_put(void *arg)
{
    struct buf_credit c;
    (void)arg;
    buf_credit_open(&c, 1);
    struct buf *b = buf_try_get(&c, 1);
    volatile uint8_t *data = b->data;
    buf_put(b);
    data[100] = 1;
}

static void test_use_after_put(void **state)
{
    (void)state;
    assert_int_not_equal(test_in_child(use_after_put, NULL, NULL, 0), 0);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_too_many_guarantees),
#if defined(SR_SANITIZED) && !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(test_use_after_put),
#endif
        cmocka_unit_test(test_shortage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>

#include "kernel/loop.h"
#include "kernel/trace.h"

static char said[1 << 17];

static unsigned lines(void)
{
    unsigned n = 0;
    for (const char *p = said; (p = strchr(p, '\n')); p++)
        n++;
    return n;
}

static void dump(void *arg)
{
    trace_dump(*(unsigned *)arg);
}

static void test_order_and_names(void **state)
{
    (void)state;
    unsigned last = 2;
    TRACE(blk_read, 1, 2);
    TRACE(vq_submit, 0x10, UINT64_MAX);
    TRACE(drain, 3, 4);
    assert_int_equal(test_in_child(dump, &last, said, sizeof(said)), 0);
    assert_int_equal(lines(), 2);
    const char *a = strstr(said, " vq_submit 0x10 0xffffffffffffffff\n"),
               *b = strstr(said, " drain 0x3 0x4\n");
    assert_true(a && b && a < b);
    assert_null(strstr(said, "blk_read"));
}

static void test_ring_overwrites(void **state)
{
    (void)state;
    unsigned all = TRACE_RECORDS + 100;
    for (unsigned i = 0; i < 3 * TRACE_RECORDS; i++)
        TRACE(l2_load, i, 0);
    assert_int_equal(test_in_child(dump, &all, said, sizeof(said)), 0);
    assert_int_equal(lines(), TRACE_RECORDS);
    char want[64];
    snprintf(want, sizeof(want), " l2_load %#x 0\n", 2 * TRACE_RECORDS);
    assert_non_null(strstr(said, want)); /* the oldest that is left */
    snprintf(want, sizeof(want), " l2_load %#x 0\n", 2 * TRACE_RECORDS - 1);
    assert_null(strstr(said, want));
    assert_int_equal(sizeof(struct trace_record), 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_names),
        cmocka_unit_test(test_ring_overwrites),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/* Value trees: order, replacement, equality, and ownership when memory is out. */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>

#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/value.h"

static void test_scalars(void **state)
{
    (void)state;
    struct value *v = value_uint(7);
    assert_int_equal(value_kind(v), VALUE_INT);
    assert_int_equal(value_get_int(v), 7);
    assert_int_equal(value_get_uint(v), 7);
    value_free(v);
    v = value_uint(UINT64_MAX);
    assert_int_equal(value_kind(v), VALUE_UINT);
    assert_true(value_get_uint(v) == UINT64_MAX);
    value_free(v);
    v = value_strn("abcdef", 3);
    assert_string_equal(value_get_str(v), "abc");
    value_free(v);
    value_free(NULL);
}

static void test_dict(void **state)
{
    (void)state;
    struct value *d = value_dict();
    char key[16];
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(value_dict_set(d, key, value_int(i)), 0);
    }
    assert_int_equal(value_count(d), 100);
    assert_int_equal(value_dict_set(d, "k7", value_str("new")), 0);
    assert_int_equal(value_count(d), 100);
    assert_string_equal(value_get_str(value_get(d, "k7")), "new");
    assert_string_equal(value_key_at(d, 7), "k7"); /* order is that of the first insertion */
    value_dict_remove(d, "k0");
    value_dict_remove(d, "absent");
    assert_null(value_get(d, "k0"));
    assert_int_equal(value_count(d), 99);
    assert_string_equal(value_key_at(d, 0), "k1");
    assert_int_equal(value_get_int(value_at(d, 98)), 99);
    struct value *taken = value_dict_take(d, "k99");
    assert_int_equal(value_get_int(taken), 99);
    assert_null(value_dict_take(d, "k99"));
    value_free(taken);
    value_free(d);
}

static struct value *sample(void)
{
    struct value *d = value_dict(), *l = value_list();
    if (!d || !l || value_list_add(l, value_null()) || value_list_add(l, value_bool(true)) ||
        value_list_add(l, value_double(0.5)) || value_list_add(l, value_dict()) ||
        value_list_add(l, value_str("s"))) {
        value_free(d);
        value_free(l);
        return NULL;
    }
    if (value_dict_set(d, "l", l) || value_dict_set(d, "i", value_int(-1))) {
        value_free(d);
        return NULL;
    }
    return d;
}

static void test_copy_and_equal(void **state)
{
    (void)state;
    struct value *a = sample(), *b = value_copy(a);
    assert_true(value_equal(a, b));
    value_dict_set(b, "i", value_int(1));
    assert_false(value_equal(a, b));
    value_dict_set(b, "i", value_str("-1"));
    assert_false(value_equal(a, b));
    value_dict_remove(b, "i");
    assert_false(value_equal(a, b));
    value_free(b);
    b = value_dict(); /* the same in another order */
    value_dict_set(b, "i", value_int(-1));
    value_dict_set(b, "l", value_copy(value_get(a, "l")));
    assert_true(value_equal(a, b));
    value_list_add(value_get(b, "l"), value_null());
    assert_false(value_equal(a, b));
    value_free(a);
    value_free(b);
}

/* ASan finds what is lost or freed twice. */
static void test_allocation(void **state)
{
    (void)state;
    struct value *whole = sample();
    for (int copying = 0; copying < 2; copying++) {
        bool failed = true;
        for (uint64_t n = 1; failed; n++) {
            fault_arm(FAULT_ALLOC, n, false);
            struct value *v = copying ? value_copy(whole) : sample();
            failed = fault_fired(FAULT_ALLOC);
            fault_arm(FAULT_ALLOC, 0, false);
            assert_int_equal(!v, failed);
            value_free(v);
        }
    }
    value_free(whole);
}

static void test_no_item(void **state)
{
    (void)state;
    struct value *d = value_dict(), *l = value_list();
    assert_int_equal(value_dict_set(d, "k", NULL), SR_ENOMEM);
    assert_int_equal(value_list_add(l, NULL), SR_ENOMEM);
    assert_int_equal(value_count(d) + value_count(l), 0);
    value_free(d);
    value_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),        cmocka_unit_test(test_dict),
        cmocka_unit_test(test_copy_and_equal), cmocka_unit_test(test_allocation),
        cmocka_unit_test(test_no_item),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

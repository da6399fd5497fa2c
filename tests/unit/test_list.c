/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support.h"

#include "kernel/list.h"

struct item {
    struct list link;
    struct qlink qlink;
    char c;
};

static void is(struct list *head, const char *want)
{
    list_for_each (i, head, struct item, link)
        assert_int_equal(i->c, *want++);
    assert_int_equal(*want, 0);
}

static void test_list(void **state)
{
    (void)state;
    struct list head = LIST_INIT(head);
    struct item a = {.c = 'a'}, b = {.c = 'b'}, c = {.c = 'c'};
    assert_true(list_empty(&head));
    assert_null(list_first(&head, struct item, link));
    is(&head, "");
    list_append(&head, &b.link);
    list_append(&head, &c.link);
    list_insert(&head, &a.link);
    is(&head, "abc");
    assert_ptr_equal(list_first(&head, struct item, link), &a);
    list_remove(&b.link);
    list_remove(&b.link); /* twice is harmless */
    is(&head, "ac");
    list_for_each_safe (i, &head, struct item, link)
        list_remove(&i->link);
    assert_true(list_empty(&head));
    list_append(&head, &b.link);
    is(&head, "b");
}

static void test_queue(void **state)
{
    (void)state;
    struct queue q;
    struct item a = {.c = 'a'}, b = {.c = 'b'};
    queue_init(&q);
    assert_true(queue_empty(&q));
    assert_null(queue_pop(&q));
    for (unsigned round = 0; round < 2; round++) {
        queue_push(&q, &a.qlink);
        queue_push(&q, &b.qlink);
        assert_false(queue_empty(&q));
        assert_ptr_equal(queue_pop(&q), &a.qlink);
        queue_push(&q, &a.qlink);
        assert_ptr_equal(queue_pop(&q), &b.qlink);
        assert_ptr_equal(queue_pop(&q), &a.qlink);
        assert_null(queue_pop(&q));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

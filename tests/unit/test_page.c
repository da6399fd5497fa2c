/* SPDX-License-Identifier: BSD-2-Clause */
/* The page allocator, against a model of who owns which page. */
#include "tests/unit/support.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/board.h"
#include "kernel/loop.h"
#include "kernel/page.h"

#define RUNS 64u

static int setup(void **state)
{
    (void)state;
    setenv("STRONGROOM_MEM", "16M", 1);
    test_start();
    return 0;
}

static void test_basics(void **state)
{
    (void)state;
    size_t before = page_free_bytes();
    assert_int_equal(board_ram_bytes(), 16 << 20);
    assert_int_equal(page_total_bytes(), 16 << 20);
    char *a = page_alloc(1), *b = page_alloc(PAGE_SIZE + 1), *c = page_alloc_zeroed(3 * PAGE_SIZE);
    assert_true(a && b && c);
    assert_true(is_aligned((uintptr_t)a | (uintptr_t)b | (uintptr_t)c, PAGE_SIZE));
    assert_int_equal(before - page_free_bytes(), 6 * PAGE_SIZE);
    memset(a, 1, PAGE_SIZE);
    memset(b, 2, 2 * PAGE_SIZE);
    for (unsigned i = 0; i < 3 * PAGE_SIZE; i++)
        assert_int_equal(c[i], 0);
    memset(c, 3, 3 * PAGE_SIZE);
    assert_true(a[PAGE_SIZE - 1] == 1 && b[0] == 2 && b[2 * PAGE_SIZE - 1] == 2);
    page_free(b, PAGE_SIZE + 1);
    assert_ptr_equal(page_alloc(2 * PAGE_SIZE), b); /* first fit */
    page_free(a, 1);
    page_free(b, 2 * PAGE_SIZE);
    page_free(c, 3 * PAGE_SIZE);
    assert_int_equal(page_free_bytes(), before);
}

static void test_exhaustion(void **state)
{
    (void)state;
    size_t before = page_free_bytes();
    assert_null(page_alloc(before + PAGE_SIZE));
    assert_null(page_alloc(SIZE_MAX));
    assert_null(page_alloc_zeroed(SIZE_MAX - PAGE_SIZE));
    static void *all[4096];
    unsigned n = 0;
    while ((all[n] = page_alloc(PAGE_SIZE)))
        n++;
    assert_int_equal(n, before / PAGE_SIZE);
    assert_int_equal(page_free_bytes(), 0);
    for (unsigned i = 0; i < n; i += 2) /* every second page: no two in a row */
        page_free(all[i], PAGE_SIZE);
    assert_null(page_alloc(2 * PAGE_SIZE));
    for (unsigned i = 1; i < n; i += 2)
        page_free(all[i], PAGE_SIZE);
    assert_int_equal(page_free_bytes(), before);
}

struct owned {
    unsigned char *p;
    size_t pages;
};

/* Runs of all lengths around the word size come and go; each page keeps its owner's mark. */
static void test_random(void **state)
{
    (void)state;
    struct owned own[RUNS] = {{0}};
    size_t before = page_free_bytes();
    unsigned seed = 1;
    for (unsigned i = 0; i < 20000; i++) {
        unsigned at = (unsigned)rand_r(&seed) % RUNS;
        struct owned *o = &own[at];
        if (o->p) {
            for (size_t k = 0; k < o->pages; k++)
                assert_int_equal(o->p[k * PAGE_SIZE], at + 1);
            page_free(o->p, o->pages * PAGE_SIZE);
            o->p = NULL;
            continue;
        }
        o->pages = 1 + (unsigned)rand_r(&seed) % (i % 3 ? 5 : 200);
        o->p = page_alloc(o->pages * PAGE_SIZE);
        for (size_t k = 0; o->p && k < o->pages; k++)
            o->p[k * PAGE_SIZE] = (unsigned char)(at + 1);
    }
    for (unsigned i = 0; i < RUNS; i++)
        if (own[i].p)
            page_free(own[i].p, own[i].pages * PAGE_SIZE);
    assert_int_equal(page_free_bytes(), before);
}

static void free_twice(void *arg)
{
    (void)arg;
    void *p = page_alloc(PAGE_SIZE);
    page_free(p, PAGE_SIZE);
    page_free(p, PAGE_SIZE);
}
static void free_foreign(void *arg)
{
    page_free(arg, PAGE_SIZE);
}
static void free_beyond(void *arg)
{
    (void)arg;
    page_free(page_alloc(PAGE_SIZE), 64u << 20);
}

static void test_misuse_panics(void **state)
{
    (void)state;
    static char foreign[PAGE_SIZE];
    test_expect_panic(free_twice, NULL, "(*w & mask) ==");
    test_expect_panic(free_foreign, foreign, "is not ours");
    test_expect_panic(free_beyond, NULL, "is not ours");
}

static void touch(void *arg)
{
    *(volatile char *)arg = 1;
}

static void test_guard(void **state)
{
    (void)state;
    char *p = page_alloc(PAGE_SIZE);
    board_guard_page(p, true);
    int status = test_in_child(touch, p, NULL, 0);
    assert_true(status == -SIGSEGV || status == 1 /* ASan */ || status == 66 /* TSan */);
    board_guard_page(p, false);
    assert_int_equal(test_in_child(touch, p, NULL, 0), 0);
    page_free(p, PAGE_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_basics), cmocka_unit_test(test_exhaustion),
        cmocka_unit_test(test_random), cmocka_unit_test(test_misuse_panics),
        cmocka_unit_test(test_guard),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_H
#define TESTS_UNIT_SUPPORT_H
/*
 * For unit tests: a machine with one loop, every pool at its minimum, and test code that runs in a
 * coroutine.
 *
 *     static void co_body(void *arg) { ... assert_int_equal(...) ... }
 *     static void test_x(void **state) { (void)state; test_co_run(co_body, NULL); }
 *
 * cmocka's headers come with this one, in the order they need. An assertion that fails inside a
 * coroutine is reported, and ends the program when the next test begins: the loop cannot go on from
 * there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/co.h"

#define TEST_WATCHDOG_SECONDS 60 /* per test_co_run; STRONGROOM_TEST_SECONDS overrides it */
#define TEST_STACKS           64
#define TEST_BIG_STACKS       2

/* Memory, loop, pools, stacks. Once; test_co_run calls it. */
void test_start(void);
/* The same with another number of stacks, for tests of shortage; must come first. */
void test_start_with(unsigned stacks, unsigned big);
/* Runs fn in a coroutine until it ends, and the loop with it. A test that takes longer than the
 * watchdog allows is a panic. */
void test_co_run(co_fn *fn, void *arg);
/* Turns of the loop until nothing is left to do at once (bounded). Outside of coroutines. */
void test_settle(void);
/* Runs fn in a child process. Its exit status, or -signal. What it prints goes to `output` (NULL:
 * away), at most `size` bytes, with a terminator. */
int test_in_child(void (*fn)(void *arg), void *arg, char *output, size_t size);
/* The child must panic and say `text`. */
void test_expect_panic(void (*fn)(void *arg), void *arg, const char *text);
#endif

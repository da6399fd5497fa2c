/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/board.h"
#include "kernel/loop.h"
#include "kernel/page.h"
#include "kernel/pool.h"

static struct {
    bool started, running;
    co_fn *fn;
    void *arg;
    unsigned seconds;
    bool done;
    struct timer watchdog;
} test;

static void too_long(struct timer *t)
{
    (void)t;
    panic("test: not done after %u seconds", test.seconds);
}

void test_start_with(unsigned stacks, unsigned big)
{
    assert_false(test.started);
    test.started = true;
    page_init();
    loop_init(1);
    if (pools_init(0))
        panic("test: pools do not fit");
    co_init(stacks, big);
    timer_init(&test.watchdog, too_long);
    const char *seconds = getenv("STRONGROOM_TEST_SECONDS");
    test.seconds = seconds ? (unsigned)atoi(seconds) : TEST_WATCHDOG_SECONDS;
}

void test_start(void)
{
    if (!test.started)
        test_start_with(TEST_STACKS, TEST_BIG_STACKS);
}

static void run(void *arg)
{
    (void)arg;
    test.fn(test.arg);
    test.done = true;
    loop_stop();
}

void test_co_run(co_fn *fn, void *arg)
{
    static struct co_start start;
    test_start();
    if (test.running) {
        fprintf(stderr, "test: an earlier one failed inside a coroutine; cannot go on\n");
        _exit(1);
    }
    test.running = true;
    test.done = false;
    test.fn = fn;
    test.arg = arg;
    timer_set(&test.watchdog, board_clock_ns() + test.seconds * 1000000000ull);
    alarm(2 * test.seconds); /* for one that never returns to the loop */
    co_start(&start, run, NULL);
    while (!test.done)
        loop_run();
    alarm(0);
    timer_cancel(&test.watchdog);
    test.running = false;
}

void test_settle(void)
{
    for (unsigned i = 0; i < 100000 && loop_turn(); i++)
        ;
}

/* ---- children ---- */

static int status_of(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int test_in_child(void (*fn)(void *arg), void *arg, char *output, size_t size)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        signal(SIGSEGV, SIG_DFL); /* cmocka's handlers would go on with the next test */
        signal(SIGBUS, SIG_DFL);
        dup2(fds[1], STDERR_FILENO);
        dup2(fds[1], STDOUT_FILENO);
        close(fds[0]);
        close(fds[1]);
        fn(arg);
        _exit(0);
    }
    close(fds[1]);
    char sink[4096];
    size_t len = 0;
    for (ssize_t n; (n = read(fds[0], sink, sizeof(sink))) > 0;) {
        size_t keep = output ? MIN((size_t)n, size - 1 - len) : 0;
        if (keep)
            memcpy(output + len, sink, keep);
        len += keep;
    }
    if (output)
        output[len] = 0;
    close(fds[0]);
    return status_of(pid);
}

void test_expect_panic(void (*fn)(void *arg), void *arg, const char *text)
{
    static char said[65536];
    int status = test_in_child(fn, arg, said, sizeof(said));
    if (status != 5 || !strstr(said, text))
        print_error("child left with %d and said:\n%s\n", status, said);
    assert_int_equal(status, 5);
    assert_non_null(strstr(said, "panic: "));
    assert_non_null(strstr(said, text));
}

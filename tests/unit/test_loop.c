/* SPDX-License-Identifier: BSD-2-Clause */
/* The loop alone: pollers, timers, posts, hooks, sleep; board_idle and board_wake of the host. */
#include "tests/unit/support.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "board/host/host.h"
#include "kernel/board.h"
#include "kernel/loop.h"

#define MS 1000000ull

static char trail[64];
static void mark(char c)
{
    size_t n = strlen(trail);
    assert_true(n + 1 < sizeof(trail));
    trail[n] = c;
    trail[n + 1] = 0;
}
static void trail_is(const char *want)
{
    assert_string_equal(trail, want);
    trail[0] = 0;
}

static int setup(void **state)
{
    (void)state;
    test_start();
    test_settle();
    return 0;
}

/* ---- pollers ---- */

struct counted {
    struct poller poller;
    unsigned polls, arms, disarms, work; /* work: that many polls still find something */
    struct poller *kill, *add;
};

static bool count_poll(struct poller *p)
{
    struct counted *c = container_of(p, struct counted, poller);
    c->polls++;
    if (c->kill)
        poller_remove(c->kill);
    if (c->add)
        poller_add(c->add);
    c->kill = c->add = NULL;
    if (!c->work)
        return false;
    c->work--;
    return true;
}
static void count_arm(struct poller *p)
{
    container_of(p, struct counted, poller)->arms++;
}
static void count_disarm(struct poller *p)
{
    container_of(p, struct counted, poller)->disarms++;
}

#define COUNTED                                                                   \
    {                                                                             \
        .poller = {.poll = count_poll, .arm = count_arm, .disarm = count_disarm } \
    }

static void test_pollers(void **state)
{
    (void)state;
    struct counted a = COUNTED, b = COUNTED, c = COUNTED;
    poller_add(&a.poller);
    poller_add(&b.poller);
    assert_false(loop_turn());
    a.work = 1;
    assert_true(loop_turn());
    assert_false(loop_turn());
    assert_int_equal(a.polls, 3);
    assert_int_equal(b.polls, 3);

    a.kill = &b.poller; /* the one that comes next: must not be called any more */
    a.add = &c.poller;  /* must be called in this turn or the next */
    loop_turn();
    loop_turn();
    assert_int_equal(b.polls, 3);
    assert_true(c.polls >= 1);

    a.kill = &a.poller; /* itself */
    loop_turn();
    unsigned polls = a.polls;
    loop_turn();
    assert_int_equal(a.polls, polls);
    poller_remove(&c.poller);
    assert_int_equal(a.arms + b.arms + c.arms, 0); /* loop_turn does not sleep */
}

static void stop(struct timer *t)
{
    (void)t;
    loop_stop();
}

/* Armed, polled once more, disarmed; work found by that last poll keeps the loop awake. */
static void test_arm_and_sleep(void **state)
{
    (void)state;
    struct counted a = COUNTED;
    struct timer t;
    timer_init(&t, stop);
    poller_add(&a.poller);
    uint64_t before = board_clock_ns();
    timer_set(&t, before + 20 * MS);
    loop_run();
    assert_true(board_clock_ns() - before >= 20 * MS);
    assert_true(a.arms >= 1 && a.arms == a.disarms);
    assert_true(a.arms < 20); /* it has slept, not spun */
    assert_true(a.polls >= 2 * a.arms);
    poller_remove(&a.poller);
}

/* ---- timers ---- */

struct marker {
    struct timer timer;
    char c;
    struct timer *cancel;
    unsigned again;
};

static void fire(struct timer *t)
{
    struct marker *m = container_of(t, struct marker, timer);
    assert_false(t->pending);
    mark(m->c);
    if (m->cancel)
        timer_cancel(m->cancel);
    if (m->again) {
        m->again--;
        timer_set(t, 0);
    }
}

static void test_timers(void **state)
{
    (void)state;
    struct marker m[4];
    for (unsigned i = 0; i < ARRAY_LEN(m); i++) {
        m[i] = (struct marker){.c = (char)('a' + i)};
        timer_init(&m[i].timer, fire);
    }
    timer_set(&m[0].timer, 3);
    timer_set(&m[1].timer, 1);
    timer_set(&m[2].timer, 2);
    timer_set(&m[3].timer, UINT64_MAX);
    timer_set(&m[0].timer, 2); /* again: behind the other that has 2 */
    assert_true(m[0].timer.pending);
    loop_turn();
    trail_is("bca");
    timer_cancel(&m[3].timer);
    timer_cancel(&m[3].timer);
    assert_false(m[3].timer.pending);

    m[0].cancel = &m[1].timer; /* due in the same turn, but cancelled by who is first */
    timer_set(&m[0].timer, 1);
    timer_set(&m[1].timer, 2);
    loop_turn();
    trail_is("a");

    m[0].cancel = NULL;
    m[0].again = 2; /* sets itself into the past: once per turn */
    timer_set(&m[0].timer, 0);
    loop_turn();
    trail_is("a");
    loop_turn();
    loop_turn();
    loop_turn();
    trail_is("aa");
}

/* ---- posts, hooks ---- */

struct posted {
    struct loop_job job;
    char c;
    unsigned again;
};

static void run_posted(struct loop_job *job)
{
    struct posted *p = container_of(job, struct posted, job);
    mark(p->c);
    if (p->again) {
        p->again--;
        loop_post(0, job);
    }
}

static unsigned hooks_run;
static void run_hook(struct turn_hook *h)
{
    (void)h;
    hooks_run++;
}

static void test_posts_and_hooks(void **state)
{
    (void)state;
    static struct turn_hook hook = {.run = run_hook};
    struct posted a = {.job.run = run_posted, .c = 'a', .again = 1};
    struct posted b = {.job.run = run_posted, .c = 'b'};
    turn_hook_add(&hook);
    hooks_run = 0;
    assert_false(loop_turn());
    assert_int_equal(hooks_run, 0); /* no work, no hook */
    loop_post(0, &a.job);
    loop_post(0, &b.job);
    trail_is("");
    assert_true(loop_turn());
    trail_is("ab");
    assert_int_equal(hooks_run, 1);
    assert_true(loop_turn());
    trail_is("a");
    assert_false(loop_turn());
    assert_int_equal(hooks_run, 2);
}

static void test_clock(void **state)
{
    (void)state;
    loop_turn();
    uint64_t t = loop_now();
    usleep(1000);
    assert_int_equal(loop_now(), t);
    loop_turn();
    assert_true(loop_now() >= t + MS);
    assert_true(loop_id() == 0 && loop_count() == 1);
}

/* ---- waking from outside ---- */

static void *wake_soon(void *arg)
{
    usleep(20000);
    board_wake(0);
    return arg;
}

static bool awake_poll(struct poller *p)
{
    (void)p;
    return false;
}
static void awake_disarm(struct poller *p)
{
    (void)p;
    loop_stop();
}

static void test_wake(void **state)
{
    (void)state;
    struct poller p = {.poll = awake_poll, .disarm = awake_disarm};
    pthread_t thread;
    test_settle();
    poller_add(&p);
    uint64_t before = board_clock_ns();
    pthread_create(&thread, NULL, wake_soon, NULL);
    loop_run(); /* no timer: returns only because it was woken */
    pthread_join(thread, NULL);
    assert_true(board_clock_ns() - before < 5000 * MS);
    poller_remove(&p);
}

static void quit_hook(void)
{
    mark('q');
    loop_stop();
}

static void *signal_soon(void *arg)
{
    usleep(20000);
    kill(getpid(), SIGTERM);
    return arg;
}

static void test_quit_signal(void **state)
{
    (void)state;
    pthread_t thread;
    board_init();
    board_quit_hook = quit_hook;
    pthread_create(&thread, NULL, signal_soon, NULL);
    loop_run();
    pthread_join(thread, NULL);
    trail_is("q");
    board_quit_hook = NULL;
}

static void quit_without_hook(void *arg)
{
    (void)arg;
    kill(getpid(), SIGTERM);
    loop_run();
}

static void test_exit_statuses(void **state)
{
    (void)state;
    assert_int_equal(test_in_child(quit_without_hook, NULL, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pollers),     cmocka_unit_test(test_arm_and_sleep),
        cmocka_unit_test(test_timers),      cmocka_unit_test(test_posts_and_hooks),
        cmocka_unit_test(test_clock),       cmocka_unit_test(test_wake),
        cmocka_unit_test(test_quit_signal), cmocka_unit_test(test_exit_statuses),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

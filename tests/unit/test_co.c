/* SPDX-License-Identifier: BSD-2-Clause */
/* Coroutines on eight stacks, two of which are the reserve. */
#include "tests/unit/support.h"

#include <signal.h>
#include <string.h>

#include "kernel/board.h"
#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/loop.h"
#include "kernel/page.h"

#define STACKS  8u
#define RESERVE 2u
#define FREE    (STACKS - RESERVE) /* for ordinary starts */
#define MANY    10000u

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

/* A place that holds `c`, for the argument of a coroutine. */
static char *letter(char c)
{
    static char all[128];
    all[(unsigned char)c] = c;
    return &all[(unsigned char)c];
}

static int setup(void **state)
{
    (void)state;
    test_start_with(STACKS, 1);
    return 0;
}

/* ---- starting ---- */

static void co_mark_twice(void *arg)
{
    char c = *(const char *)arg;
    mark(c);
    co_reschedule();
    mark(c);
}

static void co_order(void *arg)
{
    struct co_start s[3];
    (void)arg;
    co_start(&s[0], co_mark_twice, letter('a'));
    co_start(&s[1], co_mark_twice, letter('b'));
    trail_is(""); /* co_start does not run it */
    co_start_now(&s[2], co_mark_twice, letter('c'));
    mark('-');
    co_reschedule();
    co_reschedule();
    mark('.');
    trail_is("c-abcab.");
}

static void test_order(void **state)
{
    (void)state;
    test_co_run(co_order, NULL);
    assert_int_equal(co_stacks_free(), FREE);
}

static unsigned ended;
static bool started[MANY];

static void co_one_of_many(void *arg)
{
    unsigned i = (unsigned)(uintptr_t)arg;
    assert_true(i <= STACKS || started[i - 1]); /* who waited: first come, first served */
    started[i] = true;
    if (i % 3 == 0)
        co_reschedule();
    if (i % 1000 == 0)
        co_sleep_ns(1000);
    ended++;
}

static void co_many(void *arg)
{
    static struct co_start s[MANY];
    (void)arg;
    ended = 0;
    for (unsigned i = 0; i < MANY; i++)
        (i % 2 ? co_start : co_start_now)(&s[i], co_one_of_many, (void *)(uintptr_t)i);
    assert_true(ended < MANY);
    assert_int_equal(co_stacks_free(), 0);
    while (ended < MANY)
        co_reschedule();
}

static void test_many_on_few_stacks(void **state)
{
    (void)state;
    test_co_run(co_many, NULL);
    assert_int_equal(ended, MANY);
    assert_int_equal(co_stacks_free(), FREE);
}

static void co_set(void *arg)
{
    *(bool *)arg = true;
}

static void co_spawn_body(void *arg)
{
    bool ran = false;
    (void)arg;
#ifdef SR_FAULTS
    fault_arm(FAULT_ALLOC, 1, false);
    assert_int_equal(co_spawn(co_set, &ran), SR_ENOMEM);
    assert_true(fault_fired(FAULT_ALLOC));
    fault_arm(FAULT_ALLOC, 0, false);
#endif
    co_reschedule();
    assert_false(ran);
    assert_int_equal(co_spawn(co_set, &ran), 0);
    assert_false(ran);
    co_reschedule();
    co_reschedule();
    assert_true(ran);
}

static void test_spawn(void **state)
{
    (void)state;
    test_co_run(co_spawn_body, NULL);
}

/* ---- yield and wake ---- */

struct sleeper {
    struct co_start start;
    struct co *co;
    unsigned resumed;
    bool stop;
};

static void co_sleeper(void *arg)
{
    struct sleeper *s = arg;
    s->co = co_self();
    while (!s->stop) {
        co_yield ();
        s->resumed++;
    }
}

static void co_tokens(void *arg)
{
    struct sleeper s = {0};
    (void)arg;
    co_wake(co_self()); /* a token for the yield to come */
    co_wake(co_self()); /* one, not two */
    co_yield ();
    co_start_now(&s.start, co_sleeper, &s);
    assert_non_null(s.co);
    co_wake(s.co);
    co_wake(s.co); /* it is ready already */
    assert_int_equal(s.resumed, 0);
    co_reschedule();
    co_reschedule();
    assert_int_equal(s.resumed, 1);
    s.stop = true;
    co_wake(s.co);
    co_reschedule();
    co_reschedule();
    assert_int_equal(s.resumed, 2);
}

static void test_tokens(void **state)
{
    (void)state;
    assert_null(co_self());
    test_co_run(co_tokens, NULL);
    assert_int_equal(co_stacks_free(), FREE);
}

static void co_wakes_its_starter(void *arg)
{
    co_wake(arg);
    mark('w');
}

/* The starter runs, nested: the wake-up is kept for its next yield. */
static void co_token_from_nested(void *arg)
{
    struct co_start s;
    (void)arg;
    co_start_now(&s, co_wakes_its_starter, co_self());
    co_yield ();
    trail_is("w");
}

static void test_token_from_nested(void **state)
{
    (void)state;
    test_co_run(co_token_from_nested, NULL);
}

static void co_nothing(void *arg)
{
    *(struct co **)arg = co_self();
}

static void wake_the_dead(void *arg)
{
    struct co_start s;
    struct co *co = NULL;
    (void)arg;
    co_start_now(&s, co_nothing, &co);
    co_wake(co);
}

static void yield_outside(void *arg)
{
    (void)arg;
    co_yield ();
}

static void test_misuse_panics(void **state)
{
    (void)state;
    test_expect_panic(wake_the_dead, NULL, "co->state == READY");
    test_expect_panic(yield_outside, NULL, "l->current != &l->main");
}

/* ---- sleeping ---- */

static void co_nap(void *arg)
{
    const char *c = arg;
    co_sleep_until(loop_now() + (uint64_t)(*c - '0') * 3000000);
    mark(*c);
}

static void co_naps(void *arg)
{
    struct co_start s[4];
    (void)arg;
    uint64_t before = board_clock_ns();
    co_start_now(&s[0], co_nap, letter('3'));
    co_start_now(&s[1], co_nap, letter('1'));
    co_start_now(&s[2], co_nap, letter('2'));
    co_start_now(&s[3], co_nap, letter('0'));
    co_wake(co_self()); /* a token must not cut the sleep short */
    co_sleep_ns(12000000);
    assert_true(board_clock_ns() - before >= 12000000);
    trail_is("0123");
}

static void test_sleep(void **state)
{
    (void)state;
    test_co_run(co_naps, NULL);
}

/* ---- queue, mutex, join ---- */

static struct co_queue queue;

static void co_wait_and_mark(void *arg)
{
    co_queue_wait(&queue);
    mark(*(const char *)arg);
}

static void co_queue_body(void *arg)
{
    struct co_start s[3];
    (void)arg;
    co_queue_init(&queue);
    assert_false(co_queue_wake_one(&queue));
    co_start_now(&s[0], co_wait_and_mark, letter('a'));
    co_start_now(&s[1], co_wait_and_mark, letter('b'));
    co_start_now(&s[2], co_wait_and_mark, letter('c'));
    assert_true(co_queue_wake_one(&queue));
    co_reschedule();
    trail_is("a");
    co_queue_wake_all(&queue);
    co_reschedule();
    trail_is("bc");
    assert_false(co_queue_wake_one(&queue));
}

static void test_queue(void **state)
{
    (void)state;
    test_co_run(co_queue_body, NULL);
}

static struct co_mutex mutex;
static unsigned inside;

static void co_locker(void *arg)
{
    co_mutex_lock(&mutex);
    assert_int_equal(inside++, 0);
    mark(*(const char *)arg);
    co_reschedule();
    inside--;
    co_mutex_unlock(&mutex);
}

static void co_mutex_body(void *arg)
{
    struct co_start s[3];
    (void)arg;
    co_mutex_init(&mutex);
    co_mutex_lock(&mutex);
    co_start_now(&s[0], co_locker, letter('a'));
    co_start_now(&s[1], co_locker, letter('b'));
    co_start_now(&s[2], co_locker, letter('c'));
    trail_is("");
    co_mutex_unlock(&mutex);
    co_mutex_lock(&mutex); /* fair: behind the three */
    trail_is("abc");
    co_mutex_unlock(&mutex);
    assert_null(mutex.owner);
}

static void lock_twice(void *arg)
{
    (void)arg;
    co_mutex_init(&mutex);
    co_mutex_lock(&mutex);
    co_mutex_lock(&mutex);
}

static void co_lock_twice(void *arg)
{
    test_expect_panic(lock_twice, arg, "m->owner != me");
}

static void test_mutex(void **state)
{
    (void)state;
    test_co_run(co_mutex_body, NULL);
    test_co_run(co_lock_twice, NULL);
}

struct child {
    struct co_start start;
    struct co_join *join;
    unsigned turns;
    int error;
};

static void co_child(void *arg)
{
    struct child *c = arg;
    for (unsigned i = 0; i < c->turns; i++)
        co_reschedule();
    co_join_done(c->join, c->error);
}

static void co_join_body(void *arg)
{
    struct co_join j;
    (void)arg;
    co_join_init(&j);
    assert_int_equal(co_join_wait(&j), 0);
    struct child c[4] = {{.turns = 3, .error = SR_EIO},
                         {.turns = 1, .error = SR_ENOSPC},
                         {.turns = 0},
                         {.turns = 5}};
    for (unsigned i = 0; i < ARRAY_LEN(c); i++) {
        c[i].join = &j;
        co_join_add(&j);
        co_start_child(&c[i].start, co_child, &c[i]);
    }
    assert_int_equal(co_join_wait(&j), SR_ENOSPC); /* the first to fail, not the first to start */
    assert_int_equal(j.running, 0);
}

static void test_join(void **state)
{
    (void)state;
    test_co_run(co_join_body, NULL);
}

/* ---- head-room, other stacks ---- */

struct deep {
    unsigned level, deepest, stacks;
    bool yield;
};

static void co_deeper(void *arg)
{
    struct deep *d = arg;
    volatile char frame[1500];
    frame[0] = (char)d->level;
    if (++d->level < d->deepest) {
        if (d->yield && d->level % 7 == 0)
            co_reschedule();
        unsigned before = co_stacks_free();
        bool short_ = co_headroom_short();
        co_call(co_deeper, d);
        d->stacks += short_;
        assert_int_equal(co_stacks_free(), before);
    }
    frame[1] = frame[0];
}

static void co_deep(void *arg)
{
    struct deep d = {.deepest = *(unsigned *)arg, .yield = true};
    co_deeper(&d);
    assert_int_equal(d.level, d.deepest);
    assert_true(d.stacks > 0);
    d = (struct deep){.deepest = *(unsigned *)arg};
    co_deeper(&d);
}

static void test_deep_calls(void **state)
{
    (void)state;
    unsigned levels = 5 * (unsigned)(co_stack_size / 1500);
    test_co_run(co_deep, &levels);
    assert_int_equal(co_stacks_free(), FREE);
}

static void co_parent(void *arg)
{
    struct co_join j;
    struct child c = {.join = &j, .turns = 2};
    unsigned *done = arg;
    co_join_init(&j);
    co_join_add(&j);
    co_start_child(&c.start, co_child, &c);
    assert_int_equal(co_join_wait(&j), 0);
    ++*done;
}

/* Every ordinary stack is a parent's, and every parent waits for a child that needs one, too. */
static void co_parents(void *arg)
{
    struct co_start s[40];
    unsigned done = 0;
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(s); i++)
        co_start(&s[i], co_parent, &done);
    while (done < ARRAY_LEN(s))
        co_reschedule();
}

static void test_parents_do_not_starve_children(void **state)
{
    (void)state;
    test_co_run(co_parents, NULL);
    unsigned grown = co_stacks_free();
    assert_int_equal(grown, FREE); /* what was made joined the reserve */
    test_co_run(co_parents, NULL);
    assert_int_equal(co_stacks_free(), grown); /* what was made stays and is enough */
}

#ifdef SR_FAULTS
/* No memory for another stack: the nested start waits for one that comes back. */
static void co_no_memory(void *arg)
{
    struct sleeper s[64] = {0};
    (void)arg;
    unsigned n = 0;
    fault_arm(FAULT_ALLOC, 1, true);
    do {
        co_start_child(&s[n].start, co_sleeper, &s[n]);
        co_reschedule();
        co_reschedule();
    } while (s[n++].co && n < ARRAY_LEN(s));
    assert_true(n > STACKS - 1 && n < ARRAY_LEN(s));
    assert_null(s[n - 1].co);
    s[0].stop = true;
    co_wake(s[0].co);
    co_reschedule();
    co_reschedule();
    assert_non_null(s[n - 1].co);
    for (unsigned i = 1; i < n; i++) {
        s[i].stop = true;
        co_wake(s[i].co);
    }
    co_reschedule();
    co_reschedule();
    fault_arm(FAULT_ALLOC, 0, false);
}

static void test_no_memory_for_stacks(void **state)
{
    (void)state;
    test_co_run(co_no_memory, NULL);
}
#endif

static void co_uses_much(void *arg)
{
    volatile char much[100 << 10];
    much[0] = *(const char *)arg;
    co_reschedule();
    mark(much[0]);
}

static void co_big_again(void *arg)
{
    co_on_big_stack(co_uses_much, arg); /* it is on one already */
}

static void co_wants_big(void *arg)
{
    co_on_big_stack(co_big_again, arg);
}

static void co_big(void *arg)
{
    struct co_start s;
    (void)arg;
    co_start_now(&s, co_wants_big, letter('a'));
    co_wants_big(letter('b')); /* there is one, and "a" has it */
    trail_is("ab");
}

static void test_big_stack(void **state)
{
    (void)state;
    test_co_run(co_big, NULL);
}

static unsigned overflow(unsigned n)
{
    volatile char frame[512];
    frame[n % sizeof(frame)] = 1;
    return n < 1u << 20 ? overflow(n + 1) + (unsigned)frame[0] : 0;
}

static void co_overflows(void *arg)
{
    *(volatile unsigned *)arg = overflow(0);
}

static void co_child_overflows(void *arg)
{
    unsigned v;
    (void)arg;
    int status = test_in_child(co_overflows, &v, NULL, 0);
    assert_true(status == -SIGSEGV || status == -SIGBUS || status == 1 /* ASan has caught it */ ||
                status == 66 /* TSan has */);
}

static void test_guard_page(void **state)
{
    (void)state;
    test_co_run(co_child_overflows, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_many_on_few_stacks),
        cmocka_unit_test(test_spawn),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_token_from_nested),
        cmocka_unit_test(test_misuse_panics),
        cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_mutex),
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_deep_calls),
        cmocka_unit_test(test_parents_do_not_starve_children),
#ifdef SR_FAULTS
        cmocka_unit_test(test_no_memory_for_stacks),
#endif
        cmocka_unit_test(test_big_stack),
        cmocka_unit_test(test_guard_page),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

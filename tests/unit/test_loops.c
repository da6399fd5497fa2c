/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two loops on two threads: posts, hops and wake-ups across, sleeping included. Meant for TSan.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_loops.h"

#include "kernel/loop.h"
#include "kernel/page.h"
#include "kernel/pool.h"

#define ROUNDS 2000u

static void run(co_fn *fn, void *arg)
{
    struct co_start s;
    co_start(&s, fn, arg);
    loop_run();
}

/* ---- hops ---- */

static unsigned visits[2];

static void co_hopper(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        co_hop(i % 2);
        assert_int_equal(loop_id(), i % 2);
        visits[i % 2]++;
        if (i % 100 == 0)
            co_sleep_ns(10000); /* so that both loops fall asleep now and then */
        if (i % 10 == 0)
            co_reschedule();
    }
    co_hop(0);
    loop_stop();
}

static void test_hop(void **state)
{
    (void)state;
    run(co_hopper, NULL);
    assert_int_equal(visits[0], ROUNDS / 2);
    assert_int_equal(visits[1], ROUNDS / 2);
    assert_int_equal(co_stacks_free(), co_stacks_total());
}

/* One that ends on the other loop: its stack comes home. */
static bool ended_there;
static void co_ends_elsewhere(void *arg)
{
    (void)arg;
    co_hop(1);
    __atomic_store_n(&ended_there, true, __ATOMIC_RELEASE);
}

static void co_end_elsewhere(void *arg)
{
    struct co_start s;
    (void)arg;
    unsigned before = co_stacks_free();
    co_start_now(&s, co_ends_elsewhere, NULL);
    while (!__atomic_load_n(&ended_there, __ATOMIC_ACQUIRE) || co_stacks_free() < before)
        co_sleep_ns(10000);
    loop_stop();
}

static void test_end_elsewhere(void **state)
{
    (void)state;
    run(co_end_elsewhere, NULL);
    assert_int_equal(co_stacks_free(), co_stacks_total());
}

/* ---- wake-ups across ---- */

static struct {
    unsigned ball; /* atomic: whose turn */
    struct co *co[2];
    bool there; /* atomic */
} game;

static void co_play(unsigned me)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        while (__atomic_load_n(&game.ball, __ATOMIC_ACQUIRE) != me)
            co_yield ();
        __atomic_store_n(&game.ball, !me, __ATOMIC_RELEASE);
        co_wake(game.co[!me]);
    }
}

static void co_partner(void *arg)
{
    (void)arg;
    game.co[1] = co_self();
    co_hop(1);
    __atomic_store_n(&game.there, true, __ATOMIC_RELEASE);
    co_play(1);
    co_hop(0);
    loop_stop();
}

static void co_game(void *arg)
{
    static struct co_start s;
    (void)arg;
    game.co[0] = co_self();
    co_start_now(&s, co_partner, NULL);
    while (!__atomic_load_n(&game.there, __ATOMIC_ACQUIRE))
        co_sleep_ns(1000);
    co_play(0);
}

static void test_ping_pong(void **state)
{
    (void)state;
    run(co_game, NULL);
    test_settle();
    assert_int_equal(co_stacks_free(), co_stacks_total());
}

/* ---- posts keep their order ---- */

struct numbered {
    struct loop_job job;
    unsigned n;
};
static unsigned arrived;

static void run_back(struct loop_job *job)
{
    assert_int_equal(container_of(job, struct numbered, job)->n, arrived++);
    if (arrived == ROUNDS)
        loop_stop();
}

static void run_there(struct loop_job *job)
{
    job->run = run_back;
    loop_post(0, job);
}

static void test_posts_in_order(void **state)
{
    (void)state;
    static struct numbered jobs[ROUNDS];
    for (unsigned i = 0; i < ROUNDS; i++) {
        jobs[i] = (struct numbered){.job.run = run_there, .n = i};
        loop_post(1, &jobs[i].job);
    }
    loop_run();
    assert_int_equal(arrived, ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hop),
        cmocka_unit_test(test_end_elsewhere),
        cmocka_unit_test(test_ping_pong),
        cmocka_unit_test(test_posts_in_order),
    };
    return cmocka_run_group_tests(tests, two_loops_start, two_loops_stop);
}

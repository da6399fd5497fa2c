/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_loops.h"

#include "tests/unit/support.h"

#include <pthread.h>
#include <semaphore.h>

#include "kernel/loop.h"
#include "kernel/page.h"
#include "kernel/pool.h"

static sem_t up;
static pthread_t thread;

static void *second(void *arg)
{
    loop_enter(1);
    co_init(16, 0); /* the first loop waits: nobody else allocates pages */
    sem_post(&up);
    loop_run();
    return arg;
}

int two_loops_start(void **state)
{
    (void)state;
    page_init();
    loop_init(2);
    assert_int_equal(pools_init(0), 0);
    co_init(TWO_LOOPS_STACKS, 2);
    sem_init(&up, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, second, NULL), 0);
    sem_wait(&up);
    return 0;
}

static void run_stop(struct loop_job *job)
{
    (void)job;
    loop_stop();
}

int two_loops_stop(void **state)
{
    static struct loop_job job = {.run = run_stop};
    (void)state;
    loop_post(1, &job);
    return pthread_join(thread, NULL);
}

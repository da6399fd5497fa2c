/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What coroutines wait with: sleep, queue, mutex, join. One loop each; built on co_yield and
 * co_wake only. Each wait is a loop around its own condition, because a yield may return early.
 */
#include "kernel/co.h"
#include "kernel/loop.h"

/* ---- sleeping ---- */

struct sleep {
    struct timer timer;
    struct co *co;
    bool over;
};

static void sleep_over(struct timer *t)
{
    struct sleep *s = container_of(t, struct sleep, timer);
    s->over = true;
    co_wake(s->co);
}

void co_sleep_until(uint64_t deadline_ns)
{
    struct sleep s = {.co = co_self()};
    timer_init(&s.timer, sleep_over);
    timer_set(&s.timer, deadline_ns);
    while (!s.over)
        co_yield ();
}

void co_sleep_ns(uint64_t ns)
{
    uint64_t deadline;
    if (add_overflow64(loop_now(), ns, &deadline))
        deadline = UINT64_MAX;
    co_sleep_until(deadline);
}

/* ---- queue ---- */

struct queued {
    struct qlink link;
    struct co *co;
    bool woken;
};

void co_queue_init(struct co_queue *q)
{
    queue_init(&q->q);
}

/* Not inlined: gcc 12 would warn that the queue keeps the address of a local variable. It is taken
 * out before the wait is over. */
__attribute__((noinline)) static void enqueue(struct co_queue *q, struct queued *w)
{
    queue_push(&q->q, &w->link);
}

void co_queue_wait(struct co_queue *q)
{
    struct queued w = {.co = co_self()};
    enqueue(q, &w);
    while (!w.woken)
        co_yield ();
}

bool co_queue_wake_one(struct co_queue *q)
{
    struct qlink *n = queue_pop(&q->q);
    if (!n)
        return false;
    struct queued *w = container_of(n, struct queued, link);
    w->woken = true;
    co_wake(w->co);
    return true;
}

void co_queue_wake_all(struct co_queue *q)
{
    while (co_queue_wake_one(q))
        ;
}

/* ---- mutex ---- */

void co_mutex_init(struct co_mutex *m)
{
    m->owner = NULL;
    co_queue_init(&m->waiters);
}

void co_mutex_lock(struct co_mutex *m)
{
    struct co *me = co_self();
    ASSERT(me && m->owner != me);
    if (!m->owner)
        m->owner = me;
    else
        co_queue_wait(&m->waiters); /* unlock has made us the owner */
}

void co_mutex_unlock(struct co_mutex *m)
{
    ASSERT(m->owner == co_self());
    struct qlink *first = m->waiters.q.first;
    m->owner = first ? container_of(first, struct queued, link)->co : NULL;
    co_queue_wake_one(&m->waiters);
}

/* ---- join ---- */

void co_join_init(struct co_join *j)
{
    *j = (struct co_join){0};
}

void co_join_add(struct co_join *j)
{
    j->running++;
}

void co_join_done(struct co_join *j, int error)
{
    ASSERT(j->running > 0);
    if (!j->error)
        j->error = error;
    if (!--j->running && j->waiter)
        co_wake(j->waiter);
}

int co_join_wait(struct co_join *j)
{
    j->waiter = co_self();
    while (j->running)
        co_yield ();
    j->waiter = NULL;
    return j->error;
}

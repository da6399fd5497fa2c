/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_CO_H
#define KERNEL_CO_H
/*
 * Coroutines. Block code is written straight down; a function that may yield starts with `co_` and
 * runs inside a coroutine. Stacks are pooled, CO_STACK_SIZE (16 KiB; more under sanitizers), with
 * an unmapped guard page below. A coroutine belongs to the loop it runs on until co_hop. It is
 * resumed only by its loop: co_wake puts it on the ready list (of its own loop, by loop_post when
 * called elsewhere) and never runs it at once. co_wake before the matching co_yield is not lost: it
 * makes that yield return at once (one token, not a count). A token is left over when the condition
 * came true without the yield; so every wait is a loop around its condition: while (!done)
 * co_yield().
 *
 * co_start never fails and never drops: when no stack is free the start waits in line (FIFO) until
 * one is. The caller must keep `arg` alive. Kinds of stacks: ordinary ones, and a few CO_BIG (128
 * KiB) for third-party code that needs more (zstd, TLS): co_on_big_stack().
 */
#include "kernel/compiler.h"
#include "kernel/list.h"

struct co;
typedef void co_fn(void *arg);

/* A start that may have to wait for a stack. Embed it in the request; reusable after the coroutine
 * has ended. */
struct co_start {
    struct qlink link;
    co_fn *fn;
    void *arg;
};
void co_start(struct co_start *s, co_fn *fn,
              void *arg); /* runs from the ready list of this loop, not at once */
/* The same for one-off control-path work: allocates its own co_start; SR_ENOMEM. */
int co_spawn(co_fn *fn, void *arg);
/* Starts and runs it now, until its first yield, when a stack is free (else as co_start). For the
 * data path: no trip through the ready list. Callable from a poller, or from a coroutine (nested:
 * control returns here at its first yield). */
void co_start_now(struct co_start *s, co_fn *fn, void *arg);

/* The same as co_start for a child whose end the caller will wait for (co_join). Ordinary starts
 * leave a reserve of stacks to such children and to co_call, and when that is used up a stack is
 * made from the page allocator; so parents that wait cannot starve their own children. */
void co_start_child(struct co_start *s, co_fn *fn, void *arg);

struct co *co_self(void); /* NULL outside */
void co_yield (void);     /* until co_wake */
void co_wake(struct co *co);
void co_sleep_until(uint64_t deadline_ns);
void co_sleep_ns(uint64_t ns);
void co_reschedule(void);   /* let the others run, continue in the next turn */
void co_hop(unsigned loop); /* continue on that loop */

/* Head-room: calls fn(arg) here when at least CO_HEADROOM bytes of stack are left, else on a fresh
 * coroutine, waiting for its end. Every dispatch into a child goes through it; graph depth is
 * bounded by the pool then, not by the stack. */
#ifdef SR_SANITIZED
#define CO_HEADROOM 24576
#else
#define CO_HEADROOM 4096
#endif
bool co_headroom_short(void);
void co_call(co_fn *fn, void *arg);
void co_on_big_stack(co_fn *fn, void *arg); /* waits for a big stack when all are in use */

/* Queue of waiting coroutines, FIFO. */
struct co_queue {
    struct queue q;
};
void co_queue_init(struct co_queue *q);
void co_queue_wait(struct co_queue *q);
bool co_queue_wake_one(struct co_queue *q); /* false: nobody waited */
void co_queue_wake_all(struct co_queue *q);

/* Fair mutex: unlock hands over to the first waiter. */
struct co_mutex {
    struct co *owner;
    struct co_queue waiters;
};
void co_mutex_init(struct co_mutex *m);
void co_mutex_lock(struct co_mutex *m);
void co_mutex_unlock(struct co_mutex *m);

/* Fork and join: co_join_wait returns when every child started through the join has ended; the
 * first error wins. */
struct co_join {
    unsigned running;
    int error;
    struct co *waiter;
};
void co_join_init(struct co_join *j);
void co_join_add(struct co_join *j);             /* one more child will end */
void co_join_done(struct co_join *j, int error); /* a child ended */
int co_join_wait(struct co_join *j);

/* Start-up: `count` ordinary and `big` big stacks on this loop, from the page allocator. */
void co_init(unsigned count, unsigned big);
extern const size_t co_stack_size;
/* Ordinary starts that would find a stack now (the reserve is not theirs), and that ever could: what
 * holds for the second is not changed by stacks that nested starts make. Of this loop. */
unsigned co_stacks_free(void);
unsigned co_stacks_total(void);
#endif

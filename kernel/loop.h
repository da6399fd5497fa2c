/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_LOOP_H
#define KERNEL_LOOP_H
/*
 * Event loops: one per core (one runs today; nothing may assume it). A loop turn is: posted work,
 * ready coroutines, pollers, due timers, ready coroutines again, end-of-turn hooks. With nothing to
 * do the loop arms every poller, polls each once more, and only then sleeps in board_idle; so no
 * wake-up is lost and no interrupt handler exists.
 *
 * Everything here acts on the calling loop and is called on it, except loop_post, which is the only
 * way across. No function here yields. Times are absolute nanoseconds of board_clock_ns(), cached
 * per turn in loop_now().
 */
#include "kernel/compiler.h"
#include "kernel/list.h"
#include "kernel/log.h"

#define MAX_LOOPS 16

struct poller {
    struct list link;
    /* Look for work; true when there was some. Never blocks; may wake coroutines. Must bound its
     * work per call. */
    bool (*poll)(struct poller *p);
    /* Ask the device for an interrupt. Called before sleeping; poll is called once more afterwards.
     * May be NULL. */
    void (*arm)(struct poller *p);
    /* Sleep is over; interrupts are no longer wanted. May be NULL. */
    void (*disarm)(struct poller *p);
};
void poller_add(struct poller *p);
void poller_remove(struct poller *p);

struct timer {
    struct list link;
    uint64_t deadline_ns;
    void (*fire)(struct timer *t);
    bool pending;
};
void timer_init(struct timer *t, void (*fire)(struct timer *));
void timer_set(struct timer *t, uint64_t deadline_ns); /* re-arms when already pending */
void timer_cancel(struct timer *t);

/* Work for another loop (or for this one, later). The job's memory belongs to the sender until
 * run() is called on the target. */
struct loop_job {
    struct qlink link;
    void (*run)(struct loop_job *job);
};
void loop_post(unsigned loop, struct loop_job *job);

/* Called once at the end of each turn in which work was done, before sleeping (lwIP output, ring
 * kicks). Reclaim of read-mostly tables too. */
struct turn_hook {
    struct list link;
    void (*run)(struct turn_hook *h);
};
void turn_hook_add(struct turn_hook *h);

/* Of the calling loop, 0 .. loop_count()-1. Firmware runs one today. On the host it is a function,
 * so that no compiler keeps the address of a thread's variable across a yield. */
#ifdef SR_FORM_FW
static inline unsigned loop_id(void)
{
    return 0;
}
#else
unsigned loop_id(void);
#endif
unsigned loop_count(void);
uint64_t loop_now(void); /* board_clock_ns() as of the start of this turn */
void loop_init(unsigned count);
/* The calling thread or core is this loop from now on; loop_init enters loop 0. */
void loop_enter(unsigned id);
/* Runs until loop_stop(). The calling context becomes the loop. */
void loop_run(void);
void loop_stop(void);
/* One turn without sleeping; true when anything was done. For tests, and for a panic that must
 * drain a ring. */
bool loop_turn(void);

#define ASSERT_LOOP(n) ASSERT(loop_id() == (n))
#endif

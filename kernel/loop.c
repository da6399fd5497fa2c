/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event loop.
 *
 * A turn is
 *
 *     posted jobs, ready coroutines, board_turn, pollers, due timers, ready coroutines, turn hooks
 *
 * and each of these takes what is there when it begins: what a step adds to its own list waits for
 * the next turn. So a turn ends, whatever its jobs do, and pollers are never starved by coroutines
 * that keep each other busy.
 *
 * Sleeping. After a turn without work the loop arms every poller (the device may now interrupt),
 * polls each once more (what arrived before the device was armed is found here), and only then
 * calls board_idle, which returns at once when an interrupt is already pending. No wake-up is lost,
 * and no code runs in an interrupt handler.
 *
 * Posting across loops. `remote` is a stack that any loop pushes to with compare-and-swap and that
 * its owner takes as a whole (and reverses, so that order is kept). The owner announces `sleeping`
 * before it looks at `remote` for the last time, the sender looks at `sleeping` after its push;
 * both are sequentially consistent, so at least one of them sees the other.
 *
 * Timers are a sorted list, searched from its end: there are a few dozen, most of them set to later
 * than all others. The data path sets none.
 */
#include "kernel/board.h"
#include "kernel/co_impl.h"
#include "kernel/loop.h"
#include "kernel/trace.h"

struct loop {
    uint64_t now;
    struct list pollers, *next_poller;
    struct list timers;
    struct queue posted;
    bool work; /* done outside a turn: by the last poll before sleeping */
    bool stop;
    struct list hooks;
    struct qlink *remote __attribute__((aligned(CACHE_LINE))); /* atomic */
    bool sleeping;                                             /* atomic */
} __attribute__((aligned(CACHE_LINE)));

static struct loop loops[MAX_LOOPS];
static unsigned nloops;

#ifdef SR_FORM_FW
void loop_enter(unsigned id)
{
    ASSERT(id == 0);
}
#else
static _Thread_local unsigned self_id;

unsigned loop_id(void)
{
    return self_id;
}

void loop_enter(unsigned id)
{
    ASSERT(id < nloops);
    self_id = id;
    loops[id].now = board_clock_ns();
}
#endif

static inline struct loop *self(void)
{
    return &loops[loop_id()];
}

unsigned loop_count(void)
{
    return nloops;
}

uint64_t loop_now(void)
{
    return self()->now;
}

void loop_init(unsigned count)
{
    ASSERT(count >= 1 && count <= MAX_LOOPS);
    nloops = count;
    for (unsigned i = 0; i < count; i++) {
        struct loop *l = &loops[i];
        *l = (struct loop){.now = board_clock_ns()};
        list_init(&l->pollers);
        list_init(&l->timers);
        list_init(&l->hooks);
        queue_init(&l->posted);
    }
    trace_init(count);
    co_loops_init(count);
    loop_enter(0);
}

/* ---- pollers ---- */

void poller_add(struct poller *p)
{
    list_append(&self()->pollers, &p->link);
}

/* Also from inside any poller: the walk below keeps its place in next_poller. */
void poller_remove(struct poller *p)
{
    struct loop *l = self();
    if (l->next_poller == &p->link)
        l->next_poller = p->link.next;
    list_remove(&p->link);
}

static inline struct poller *next_poller(struct loop *l)
{
    struct list *n = l->next_poller;
    if (n == &l->pollers)
        return NULL;
    l->next_poller = n->next;
    return list_entry(n, struct poller, link);
}

static bool run_pollers(struct loop *l)
{
    bool work = false;
    l->next_poller = l->pollers.next;
    for (struct poller *p; (p = next_poller(l));)
        work |= p->poll(p);
    return work;
}

static void arm_pollers(struct loop *l)
{
    l->next_poller = l->pollers.next;
    for (struct poller *p; (p = next_poller(l));)
        if (p->arm)
            p->arm(p);
}

static void disarm_pollers(struct loop *l)
{
    l->next_poller = l->pollers.next;
    for (struct poller *p; (p = next_poller(l));)
        if (p->disarm)
            p->disarm(p);
}

/* ---- timers ---- */

void timer_init(struct timer *t, void (*fire)(struct timer *))
{
    *t = (struct timer){.fire = fire};
    list_init(&t->link);
}

void timer_set(struct timer *t, uint64_t deadline_ns)
{
    struct list *head = &self()->timers, *at = head->prev;
    if (t->pending) {
        list_remove(&t->link);
        at = head->prev;
    }
    while (at != head && list_entry(at, struct timer, link)->deadline_ns > deadline_ns)
        at = at->prev;
    t->deadline_ns = deadline_ns;
    t->pending = true;
    list_insert(at, &t->link);
}

void timer_cancel(struct timer *t)
{
    if (t->pending)
        list_remove(&t->link);
    t->pending = false;
}

static bool timer_due(const struct loop *l)
{
    return !list_empty(&l->timers) &&
           list_entry(l->timers.next, struct timer, link)->deadline_ns <= l->now;
}

/* Due timers move to a list of their own first: one that sets itself again, even to a time that has
 * passed, fires in the next turn. Cancelling one that is on that list just takes it off. */
static bool run_timers(struct loop *l)
{
    if (!timer_due(l))
        return false;
    struct list due = LIST_INIT(due);
    while (timer_due(l)) {
        struct list *n = l->timers.next;
        list_remove(n);
        list_append(&due, n);
    }
    while (!list_empty(&due)) {
        struct timer *t = list_entry(due.next, struct timer, link);
        timer_cancel(t);
        t->fire(t);
    }
    return true;
}

/* ---- posted jobs, hooks ---- */

static void post_remote(struct loop *to, unsigned id, struct loop_job *job)
{
    struct qlink *head = __atomic_load_n(&to->remote, __ATOMIC_RELAXED);
    do {
        job->link.next = head;
    } while (!__atomic_compare_exchange_n(&to->remote, &head, &job->link, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
    if (__atomic_load_n(&to->sleeping, __ATOMIC_SEQ_CST))
        board_wake(id);
}

void loop_post(unsigned loop, struct loop_job *job)
{
    ASSERT(loop < nloops);
    if (loop == loop_id())
        queue_push(&loops[loop].posted, &job->link);
    else
        post_remote(&loops[loop], loop, job);
}

/* Everything that others have posted, oldest first, to the end of our own queue. */
static void take_remote(struct loop *l)
{
    struct qlink *n = __atomic_exchange_n(&l->remote, NULL, __ATOMIC_ACQUIRE), *rev = NULL;
    for (struct qlink *next; n; n = next) {
        next = n->next;
        n->next = rev;
        rev = n;
    }
    for (struct qlink *next; rev; rev = next) {
        next = rev->next;
        queue_push(&l->posted, rev);
    }
}

static bool run_posted(struct loop *l)
{
    if (__atomic_load_n(&l->remote, __ATOMIC_RELAXED))
        take_remote(l);
    if (queue_empty(&l->posted))
        return false;
    struct qlink *n = l->posted.first;
    queue_init(&l->posted);
    for (struct qlink *next; n; n = next) {
        struct loop_job *job = container_of(n, struct loop_job, link);
        next = n->next; /* run() may reuse or free the job */
        job->run(job);
    }
    return true;
}

void turn_hook_add(struct turn_hook *h)
{
    list_append(&self()->hooks, &h->link);
}

/* ---- the loop ---- */

bool loop_turn(void)
{
    struct loop *l = self();
    bool work = l->work;
    l->work = false;
    l->now = board_clock_ns();
    work |= run_posted(l);
    work |= co_run_ready();
    board_turn();
    work |= run_pollers(l);
    work |= run_timers(l);
    work |= co_run_ready();
    if (work) {
        list_for_each (h, &l->hooks, struct turn_hook, link)
            h->run(h);
    }
    co_turn_end();
    return work;
}

static bool anything_waits(struct loop *l)
{
    return l->work || l->stop || !queue_empty(&l->posted) || co_any_ready() ||
           __atomic_load_n(&l->remote, __ATOMIC_SEQ_CST);
}

static void sleep_until_work(struct loop *l)
{
    arm_pollers(l);
    l->work = run_pollers(l);
    __atomic_store_n(&l->sleeping, true, __ATOMIC_SEQ_CST);
    if (!anything_waits(l)) {
        const struct timer *t = list_first(&l->timers, struct timer, link);
        board_idle(t ? t->deadline_ns : UINT64_MAX);
    }
    __atomic_store_n(&l->sleeping, false, __ATOMIC_RELAXED);
    disarm_pollers(l);
}

void loop_run(void)
{
    struct loop *l = self();
    while (!l->stop)
        if (!loop_turn())
            sleep_until_work(l);
    l->stop = false;
}

void loop_stop(void)
{
    self()->stop = true;
}

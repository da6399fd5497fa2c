/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Coroutines: stacks, starting, switching.
 *
 *     low                                                                  high
 *     | guard page (unmapped) |  stack, grows down  <---------- | struct co |
 *
 * Each stack carries its own struct co, is made once, and runs co_main for ever: take a function,
 * run it, put the stack back, switch away. So a start is a pop from a list and one switch.
 *
 * Who runs whom. `back` is the context that resumed this one: the loop (loop->main), or the
 * coroutine that used co_start_now. A yield returns there; later resumptions come from the loop.
 * So at any time the contexts chained by `back` from `current` are the ones that run, nested.
 *
 * States. FREE: on a free list. READY: on a list of the loop, will be resumed. RUNNING: it, or
 * one that it started with co_start_now. WAITING: only co_wake will resume it. A wake-up of a
 * WAITING one makes it READY, of a READY one adds nothing, of a RUNNING one leaves a token that
 * its next yield takes: together a binary semaphore.
 *
 * Who gets a stack. An ordinary start is work from outside and may wait. A *nested* one (co_call,
 * co_start_child) is one that another coroutine waits for: were it to wait for its waiter's stack,
 * nobody would move. So ordinary starts leave `reserve` stacks alone; nested ones take any, are
 * served first, and when there is none a stack is made from the page allocator, and joins the
 * reserve. Only when that has no memory left does a nested start wait. It is not a proof: for 12
 * MiB and graphs some dozens of levels deep under full load, give the machine more stacks.
 *
 * Loops. A stack belongs to the loop that made it (`home`) and goes back there. A coroutine that
 * hops is posted to the other loop by whoever it switched back to, for only then is its state
 * saved.
 */
#include "boot/arch.h"
#include "kernel/board.h"
#include "kernel/co.h"
#include "kernel/co_impl.h"
#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/fiber.h"
#include "kernel/loop.h"
#include "kernel/page.h"

#ifdef SR_SANITIZED
#define STACK_SIZE     (128u << 10)
#define BIG_STACK_SIZE (512u << 10)
#else
#define STACK_SIZE     (16u << 10)
#define BIG_STACK_SIZE (128u << 10)
#endif
const size_t co_stack_size = STACK_SIZE;

enum state { FREE, READY, RUNNING, WAITING };

struct co {
    void *sp;        /* while it does not run */
    struct co *back; /* who resumed it */
    co_fn *fn;
    void *arg;
    struct stacks *stacks; /* its home's: where it comes from and returns to */
    struct qlink link;     /* of the ready list or the free list */
    uint8_t state;         /* enum state */
    bool token;
    bool wake_posted; /* atomic: `wake` is under way */
    unsigned home;
    unsigned loop; /* atomic: where it runs */
    char *low;     /* lowest usable byte of the stack */
    struct loop_job move, wake;
    struct fiber fiber;
};

struct stacks {
    struct qlink *free; /* last in, first out: the warmest stack */
    char *fresh;        /* the first that was never used; those behind it follow */
    unsigned nfree, reserve, total;
    struct queue nested, waiting; /* of struct co_start, for a stack */
    size_t size;
    bool big;
};

struct co_loop {
    struct co *current;
    struct co *moving; /* switched away for another loop: to be posted there */
    struct queue ready, later;
    struct stacks ordinary, big;
    struct co main; /* the loop itself */
} __attribute__((aligned(CACHE_LINE)));

static struct co_loop co_loops[MAX_LOOPS];

static inline struct co_loop *self(void)
{
    return &co_loops[loop_id()];
}

static inline struct co *co_of(struct qlink *n)
{
    return container_of(n, struct co, link);
}

static inline unsigned co_loop_of(const struct co *co)
{
    return __atomic_load_n(&co->loop, __ATOMIC_ACQUIRE);
}

struct co *co_self(void)
{
    struct co_loop *l = self();
    return l->current == &l->main ? NULL : l->current;
}

/* ---- switching ---- */

static inline void ready(struct co_loop *l, struct co *co)
{
    co->state = READY;
    queue_push(&l->ready, &co->link);
}

static void move_on(struct co_loop *l)
{
    struct co *co = l->moving;
    l->moving = NULL;
    loop_post(co_loop_of(co), &co->move);
}

/* Runs `co` until it yields or ends. */
static inline void resume(struct co_loop *l, struct co *co)
{
    struct co *from = l->current;
    co->back = from;
    co->state = RUNNING;
    l->current = co;
    fiber_switch(&from->fiber, &co->fiber);
    arch_switch(&from->sp, co->sp);
    fiber_back(&from->fiber);
    if (unlikely(l->moving))
        move_on(l);
}

/* Back to who resumed us. When it returns, this may be another loop. */
static inline void leave(struct co_loop *l, struct co *co)
{
    struct co *to = co->back;
    l->current = to;
    fiber_switch(&co->fiber, &to->fiber);
    arch_switch(&co->sp, to->sp);
    fiber_arrived(&co->fiber, &co->back->fiber);
}

static inline struct co *running(struct co_loop *l)
{
    ASSERT(l->current != &l->main);
    return l->current;
}

void co_yield (void)
{
    struct co_loop *l = self();
    struct co *co = running(l);
    if (unlikely(co->token)) {
        co->token = false;
        return;
    }
    co->state = WAITING;
    leave(l, co);
}

static void wake_elsewhere(struct co *co)
{
    if (!__atomic_exchange_n(&co->wake_posted, true, __ATOMIC_ACQ_REL))
        loop_post(co_loop_of(co), &co->wake);
}

static void run_wake(struct loop_job *job)
{
    struct co *co = container_of(job, struct co, wake);
    __atomic_store_n(&co->wake_posted, false, __ATOMIC_RELEASE);
    /* It may have seen its condition without us, and be gone; or have hopped away: co_wake posts
     * again. */
    if (co_loop_of(co) != loop_id() || co->state != FREE)
        co_wake(co);
}

void co_wake(struct co *co)
{
    unsigned here = loop_id();
    if (unlikely(co_loop_of(co) != here)) {
        wake_elsewhere(co);
        return;
    }
    if (likely(co->state == WAITING))
        ready(&co_loops[here], co);
    else if (co->state == RUNNING)
        co->token = true;
    else
        ASSERT(co->state == READY); /* else it has ended */
}

void co_reschedule(void)
{
    struct co_loop *l = self();
    struct co *co = running(l);
    co->state = READY;
    queue_push(&l->later, &co->link);
    leave(l, co);
}

static void run_arrival(struct loop_job *job)
{
    ready(self(), container_of(job, struct co, move));
}

static void leave_for(struct co_loop *l, struct co *co, unsigned loop,
                      void (*arrive)(struct loop_job *))
{
    co->state = READY;
    co->move.run = arrive;
    __atomic_store_n(&co->loop, loop, __ATOMIC_RELEASE);
    l->moving = co;
    leave(l, co);
}

void co_hop(unsigned loop)
{
    struct co_loop *l = self();
    struct co *co = running(l);
    ASSERT(loop < loop_count());
    if (loop != loop_id())
        leave_for(l, co, loop, run_arrival);
}

/* ---- the loop's side ---- */

#ifdef SR_SIM
/* One at a time, so that what becomes ready meanwhile may come before what was. */
bool co_run_ready(void)
{
    struct co_loop *l = self();
    if (queue_empty(&l->ready))
        return false;
    resume(l, co_of(sim_pick(&l->ready)));
    return true;
}
#else
bool co_run_ready(void)
{
    struct co_loop *l = self();
    struct qlink *n = l->ready.first;
    if (!n)
        return false;
    queue_init(&l->ready);
    for (struct qlink *next; n; n = next) {
        next = n->next;
        resume(l, co_of(n));
    }
    return true;
}
#endif

bool co_any_ready(void)
{
    struct co_loop *l = self();
    return !queue_empty(&l->ready) || !queue_empty(&l->later);
}

void co_turn_end(void)
{
    struct co_loop *l = self();
    if (likely(queue_empty(&l->later)))
        return;
    *l->ready.tail = l->later.first;
    l->ready.tail = l->later.tail;
    queue_init(&l->later);
}

/* ---- stacks ---- */

/* The start that gets the next free stack, or NULL. */
static struct qlink *next_waiting(struct stacks *s)
{
    struct qlink *n = queue_pop(&s->nested);
    return n || s->nfree < s->reserve ? n : queue_pop(&s->waiting);
}

/* The stack of a coroutine that has ended, on its home loop: to whoever waits for one. */
static inline void recycle(struct co_loop *l, struct co *co)
{
    struct stacks *s = co->stacks;
    co->token = false;
    if (unlikely(s->nested.first || s->waiting.first)) {
        struct qlink *n = next_waiting(s);
        if (n) {
            const struct co_start *start = container_of(n, struct co_start, link);
            co->fn = start->fn;
            co->arg = start->arg;
            ready(l, co);
            return;
        }
    }
    co->state = FREE;
    co->link.next = s->free;
    s->free = &co->link;
    s->nfree++;
}

static void run_homecoming(struct loop_job *job)
{
    recycle(self(), container_of(job, struct co, move));
}

NORETURN static void co_main(void *arg)
{
    struct co *co = arg;
    fiber_arrived(&co->fiber, &co->back->fiber);
    for (;;) {
        co->fn(co->arg);
        struct co_loop *l = self();
        if (likely(co->home == loop_id())) {
            recycle(l, co);
            leave(l, co);
        } else {
            leave_for(l, co, co->home, run_homecoming);
        }
    }
}

/* `mem`: a guard page and the stack. */
static struct co *stack_make(char *mem, struct stacks *s)
{
    char *low = mem + PAGE_SIZE;
    size_t room = align_up(sizeof(struct co), CACHE_LINE);
    struct co *co = (void *)(low + s->size - room);
    *co = (struct co){.stacks = s, .home = loop_id(), .loop = loop_id(), .low = low};
    co->wake.run = run_wake;
    fiber_init(&co->fiber, low, s->size);
    co->sp = arch_stack_init(co, co_main, co);
    return co;
}

static struct co *first_use(struct stacks *s)
{
    struct co *co = stack_make(s->fresh, s);
    s->fresh += PAGE_SIZE + s->size;
    return co;
}

/* There is one: s->nfree > 0. */
static inline struct co *pop(struct stacks *s)
{
    struct qlink *n = s->free;
    s->nfree--;
    if (unlikely(!n))
        return first_use(s);
    s->free = n->next;
    return co_of(n);
}

/* Only the guard pages are made now: a stack costs memory when it is used for the first time. */
static void stacks_init(struct stacks *s, unsigned count, size_t size, unsigned reserve)
{
    size_t each = PAGE_SIZE + size;
    s->size = size;
    s->nfree = count;
    s->reserve = reserve;
    s->total = count - reserve;
    s->fresh = count ? page_alloc(count * each) : NULL;
    if (count && !s->fresh)
        panic("no memory for %u coroutine stacks", count);
    for (unsigned i = 0; i < count; i++)
        board_guard_page(s->fresh + i * each, true);
}

void co_init(unsigned count, unsigned big)
{
    struct co_loop *l = self();
    stacks_init(&l->ordinary, count, STACK_SIZE, count < 2 ? 0 : count / 8 + 1);
    stacks_init(&l->big, big, BIG_STACK_SIZE, 0);
}

void co_loops_init(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct co_loop *l = &co_loops[i];
        *l = (struct co_loop){.current = &l->main};
        l->main.loop = l->main.home = i;
        l->main.state = RUNNING;
        queue_init(&l->ready);
        queue_init(&l->later);
        queue_init(&l->ordinary.nested);
        queue_init(&l->ordinary.waiting);
        queue_init(&l->big.nested);
        queue_init(&l->big.waiting);
        l->big.big = true;
    }
}

unsigned co_stacks_free(void)
{
    const struct stacks *s = &self()->ordinary;
    return s->nfree > s->reserve ? s->nfree - s->reserve : 0;
}

unsigned co_stacks_total(void)
{
    return self()->ordinary.total;
}

/* ---- starting ---- */

static inline struct co *ready_to_start(struct co *co, co_fn *fn, void *arg)
{
    co->fn = fn;
    co->arg = arg;
    return co;
}

/* Not inlined: gcc 12 would warn that the queue keeps the address of call_on's local variable. */
__attribute__((noinline)) static void wait_for_stack(struct queue *q, struct co_start *s, co_fn *fn,
                                                     void *arg)
{
    s->fn = fn;
    s->arg = arg;
    queue_push(q, &s->link);
}

void co_start(struct co_start *s, co_fn *fn, void *arg)
{
    struct co_loop *l = self();
    struct stacks *st = &l->ordinary;
    if (st->nfree > st->reserve)
        ready(l, ready_to_start(pop(st), fn, arg));
    else
        wait_for_stack(&st->waiting, s, fn, arg);
}

void co_start_now(struct co_start *s, co_fn *fn, void *arg)
{
    struct co_loop *l = self();
    struct stacks *st = &l->ordinary;
    if (likely(st->nfree > st->reserve))
        resume(l, ready_to_start(pop(st), fn, arg));
    else
        wait_for_stack(&st->waiting, s, fn, arg);
}

/* A stack for one whose end somebody waits for; NULL: it has to wait, too. */
static struct co *nested_stack(struct stacks *st)
{
    if (likely(st->nfree))
        return pop(st);
    if (st->big || loop_id() != 0) /* the page allocator is loop 0's */
        return NULL;
    char *mem = fault(FAULT_ALLOC) ? NULL : page_alloc(PAGE_SIZE + st->size);
    if (!mem)
        return NULL;
    board_guard_page(mem, true);
    st->reserve++; /* else the next ordinary start takes it, and wants a child, too */
    return stack_make(mem, st);
}

void co_start_child(struct co_start *s, co_fn *fn, void *arg)
{
    struct co_loop *l = self();
    struct co *co = nested_stack(&l->ordinary);
    if (co)
        ready(l, ready_to_start(co, fn, arg));
    else
        wait_for_stack(&l->ordinary.nested, s, fn, arg);
}

struct spawned {
    struct co_start start;
    co_fn *fn;
    void *arg;
};

static void run_spawned(void *arg)
{
    struct spawned s = *(struct spawned *)arg;
    sr_free(arg);
    s.fn(s.arg);
}

int co_spawn(co_fn *fn, void *arg)
{
    struct spawned *s = sr_malloc(sizeof(*s));
    if (!s)
        return SR_ENOMEM;
    s->fn = fn;
    s->arg = arg;
    co_start(&s->start, run_spawned, s);
    return 0;
}

/* ---- calls on another stack ---- */

struct call {
    struct co_start start;
    co_fn *fn;
    void *arg;
    struct co *caller; /* while it waits */
    bool done;
};

static void run_call(void *arg)
{
    struct call *c = arg;
    c->fn(c->arg);
    c->done = true;
    if (c->caller)
        co_wake(c->caller);
}

static void call_on(struct stacks *st, co_fn *fn, void *arg)
{
    struct co_loop *l = self();
    struct call c = {.fn = fn, .arg = arg};
    struct co *co = nested_stack(st);
    if (co)
        resume(l, ready_to_start(co, run_call, &c));
    else
        wait_for_stack(&st->nested, &c.start, run_call, &c);
    if (!c.done)
        c.caller = co_self();
    while (!c.done)
        co_yield ();
}

bool co_headroom_short(void)
{
    const struct co *co = self()->current;
    return (uintptr_t)arch_sp() - (uintptr_t)co->low < CO_HEADROOM;
}

void co_call(co_fn *fn, void *arg)
{
    if (likely(!co_headroom_short()))
        fn(arg);
    else
        call_on(&self()->ordinary, fn, arg);
}

void co_on_big_stack(co_fn *fn, void *arg)
{
    struct co_loop *l = self();
    if (running(l)->stacks->big)
        fn(arg);
    else
        call_on(&l->big, fn, arg);
}

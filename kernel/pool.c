/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pools.
 *
 *     object 0 | object 1 | ... | object total-1 | payload 0 | payload 1 | ...
 *                                ^ fresh: this one and those behind it were never handed out
 *
 * One run of pages per pool. Objects that came back are on a free list (last in, first out, so they
 * are warm); the rest lies untouched behind `fresh`, so that start-up costs nothing per object and
 * the host form pays for memory only when it uses it.
 *
 * Accounts. free = objects nobody holds. reserved = sum over the credits of what they still have in
 * guarantee, max(0, guaranteed - held). spare = free - reserved. Invariant: free >= reserved:
 * opening a credit needs spare >= guaranteed; a guaranteed take lowers both; a competing take needs
 * spare > 0; a put raises free, and raises reserved only with it.
 *
 *     A holder may take when    held < guaranteed                       (its own: always there)
 *                         or    spare > 0 and held < spare              (competing)
 *     Without a credit, when    spare > 0
 *
 * Waiting. Each credit has its own FIFO of waiting coroutines, and is on the pool's list of waiting
 * credits while that is not empty. (All that have no credit share one, `anyone`.) Invariant: none
 * of the waiting credits may take. It holds when one begins to wait; a take only lowers spare;
 * whatever makes a credit entitled is followed by serving:
 *
 *   - put by c: c itself may be below its guarantee now, or below its share: its first waiter is
 *     served. Here one must pass those before it, and the order of the list does not delay it.
 *   - put or close: spare grew: the list is walked from its head for one that may take. Who may
 *     not, because it holds its share, is passed over. It cannot starve: it waits for no other than
 *     itself to put something back, and when it holds less than spare again it stands before all
 *     that came later. A credit that was served goes to the end, so holders take turns whatever
 *     number of waiters they have.
 *
 * The object is handed to the waiter within the put, so no newcomer can take it in between; and a
 * newcomer that may take passes nobody who might have. The walk is over holders, not over waiters,
 * and happens only in shortage.
 *
 * Ranks are kept by review and by the tests that run with every pool at its minimum. The machine
 * does not check them: an object is often put back by another coroutine than the one that got it (a
 * request is handed on, a buffer is lent to a stream), so what one coroutine "holds" is not known
 * here.
 */
#include "kernel/error.h"
#include "kernel/log.h"
#include "kernel/page.h"
#include "kernel/poison.h"
#include "kernel/pool.h"

#include <string.h>

struct pool_free {
    struct pool_free *next;
};

struct waiter {
    struct qlink link;
    struct co *co;
    void *obj;
};

/* ---- sizes ---- */

static size_t slot(const struct pool *p)
{
    return align_up(MAX(p->size, sizeof(struct pool_free)), p->align);
}

static size_t payload_slot(const struct pool *p)
{
    return p->payload ? align_up(p->payload, p->payload_align) : 0;
}

static size_t each(const struct pool *p)
{
    return slot(p) + payload_slot(p);
}

static size_t bytes_of(const struct pool *p, unsigned n)
{
    size_t gap = p->payload ? p->payload_align : 0;
    return align_up(n * each(p) + gap, PAGE_SIZE);
}

size_t pools_min_bytes(void)
{
    size_t sum = 0;
    registry_for_each (pool, p)
        sum += bytes_of(*p, (*p)->min);
    return sum;
}

/* One round: what is left is shared by weight among those below their maximum. Returns what was
 * given. */
static size_t share_round(size_t left)
{
    size_t weights = 0, given = 0;
    registry_for_each (pool, p)
        if ((*p)->total < (*p)->max)
            weights += (*p)->weight;
    if (!weights)
        return 0;
    registry_for_each (pool, it) {
        struct pool *p = *it;
        if (p->total >= p->max)
            continue;
        size_t more = MIN(left / weights * p->weight / each(p), p->max - p->total);
        p->total += (unsigned)more;
        given += more * each(p);
    }
    return given;
}

static void share(size_t left)
{
    for (size_t given; (given = share_round(left)); left -= given)
        ;
}

/* Memory for p->total objects; for fewer, but not below the minimum, when there is no such run. */
static int take_memory(struct pool *p)
{
    char *mem;
    while (!(mem = page_alloc(bytes_of(p, p->total))) && p->total > p->min)
        p->total = p->min + (p->total - p->min) / 2;
    if (!mem)
        return SR_ENOMEM;
    p->fresh = mem;
    if (p->payload)
        p->fresh_payload = mem + (align_up((uintptr_t)mem + p->total * slot(p), p->payload_align) -
                                  (uintptr_t)mem);
    p->free = p->low_water = p->total;
    return 0;
}

static void credit_init(struct credit *c, struct pool *p, unsigned guaranteed)
{
    *c = (struct credit){.pool = p, .guaranteed = guaranteed};
    queue_init(&c->waiters);
    list_init(&c->link);
}

int pools_init(size_t budget)
{
    size_t need = pools_min_bytes();
    if (budget && budget < need)
        return SR_ENOMEM;
    registry_for_each (pool, it) {
        struct pool *p = *it;
        ASSERT(p->size && MAX(p->min, p->max) && is_pow2(p->align) && p->align <= PAGE_SIZE);
        p->max = MAX(p->max, p->min);
        p->total = p->min;
        list_init(&p->waiting);
        credit_init(&p->anyone, p, 0);
    }
    if (budget)
        share(budget - need);
    registry_for_each (pool, it)
        if (take_memory(*it))
            return SR_ENOMEM;
    return 0;
}

static const struct pool *next_by_name(const struct pool *after)
{
    const struct pool *best = NULL;
    registry_for_each (pool, it) {
        const struct pool *p = *it;
        if ((!after || strcmp(p->name, after->name) > 0) &&
            (!best || strcmp(p->name, best->name) < 0))
            best = p;
    }
    return best;
}

size_t pools_bytes(void)
{
    size_t sum = 0;
    registry_for_each (pool, it)
        sum += bytes_of(*it, (*it)->total);
    return sum;
}

void pools_print(void)
{
    for (const struct pool *p = NULL; (p = next_by_name(p));) {
        size_t bytes = bytes_of(p, p->total);
        log_line("pool", "%s: %u of %zu bytes, %zu KiB, used at most %u", p->name, p->total,
                 each(p), bytes >> 10, p->total - p->low_water);
    }
    log_line("pool", "sum %zu KiB, at least %zu KiB", pools_bytes() >> 10, pools_min_bytes() >> 10);
}

/* ---- get and put ---- */

static void *first_use(struct pool *p)
{
    void *obj = p->fresh;
    p->fresh += slot(p);
    if (p->made)
        p->made(p, obj, p->fresh_payload);
    if (p->payload) /* else a null pointer: adding to it is undefined */
        p->fresh_payload += payload_slot(p);
    return obj;
}

/* An object; the accounts have been settled. */
static inline void *pop(struct pool *p)
{
    struct pool_free *f = p->free_list;
    if (unlikely(!f))
        return first_use(p);
    p->free_list = f->next;
    if (!p->made)
        unpoison(f, p->size);
    return f;
}

static inline void push(struct pool *p, void *obj)
{
    struct pool_free *f = obj;
    if (!p->made)
        poison(f + 1, p->size - MIN(p->size, sizeof(*f)));
    f->next = p->free_list;
    p->free_list = f;
}

static inline bool may_take(const struct pool *p, const struct credit *c)
{
    unsigned spare = p->free - p->reserved;
    if (c == &p->anyone)
        return spare > 0;
    return c->held < c->guaranteed || c->held < spare;
}

static inline void *take(struct pool *p, struct credit *c)
{
    if (c->held++ < c->guaranteed)
        p->reserved--;
    if (--p->free < p->low_water)
        p->low_water = p->free;
    return pop(p);
}

static struct credit *credit_of(struct pool *p, struct credit *c)
{
    ASSERT(!c || c->pool == p);
    return c ? c : &p->anyone;
}

void *pool_try_get(struct pool *p, struct credit *c)
{
    if (unlikely(!c || c->pool != p))
        c = credit_of(p, c);
    return likely(may_take(p, c)) ? take(p, c) : NULL;
}

void *co_pool_get(struct pool *p, struct credit *c)
{
    void *obj = pool_try_get(p, c);
    if (likely(obj))
        return obj;
    c = credit_of(p, c);
    struct waiter w = {.co = co_self()};
    if (queue_empty(&c->waiters))
        list_append(&p->waiting, &c->link);
    queue_push(&c->waiters, &w.link);
    while (!w.obj)
        co_yield ();
    return w.obj;
}

/* c's first waiter gets an object, and c its place at the end. */
static void serve(struct pool *p, struct credit *c)
{
    struct waiter *w = container_of(queue_pop(&c->waiters), struct waiter, link);
    list_remove(&c->link);
    if (!queue_empty(&c->waiters))
        list_append(&p->waiting, &c->link);
    w->obj = take(p, c);
    co_wake(w->co);
}

static struct credit *first_entitled(struct pool *p)
{
    list_for_each (c, &p->waiting, struct credit, link)
        if (may_take(p, c))
            return c;
    return NULL;
}

static void serve_waiting(struct pool *p)
{
    for (struct credit *c; (c = first_entitled(p));)
        serve(p, c);
}

void pool_put(struct pool *p, struct credit *c, void *obj)
{
    if (unlikely(!c || c->pool != p))
        c = credit_of(p, c);
    ASSERT(c->held > 0);
    push(p, obj);
    p->free++;
    if (--c->held < c->guaranteed)
        p->reserved++;
    if (likely(list_empty(&p->waiting)))
        return;
    if (!queue_empty(&c->waiters) && may_take(p, c))
        serve(p, c);
    serve_waiting(p);
}

/* ---- credits ---- */

int credit_open(struct credit *c, struct pool *p, unsigned guaranteed)
{
    if (guaranteed > p->free - p->reserved)
        return SR_ENOMEM;
    credit_init(c, p, guaranteed);
    p->reserved += guaranteed;
    return 0;
}

void credit_close(struct credit *c)
{
    struct pool *p = c->pool;
    ASSERT(c->held == 0 && queue_empty(&c->waiters));
    p->reserved -= c->guaranteed;
    c->pool = NULL;
    serve_waiting(p);
}

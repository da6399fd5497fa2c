/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_POOL_H
#define KERNEL_POOL_H
/*
 * Pools: fixed-size objects, all memory taken at start. What the image needs is a sum, printed at
 * boot and by `make size`.
 *
 *     struct pool nbd_request_pool = POOL("nbd-request", POOL_RANK_REQUEST, sizeof(struct
 * nbd_request), .min = 160, .max = 12800, .weight = 2); REGISTER(pool, nbd_request_pool);
 *
 * A pool with a `min` of 0 is for who can do without: pool_try_get only.
 *
 * pools_init(budget) gives each pool its `min`, then shares what is left of the budget by `weight`
 * up to `max`. pools_init(0) gives the minimum: tests also run that way. Objects are cache-line
 * aligned (`align` for more), not zeroed, and are DMA targets.
 *
 * Order. Pools have ranks. A coroutine that holds objects of one rank waits only for pools of a
 * higher rank, so that the deepest request can always finish.
 *
 * Credits. A holder with a `struct credit` (a connection, an export, a queue) has `guaranteed`
 * objects of its own; above them it competes, and may take another only while it holds fewer than
 * are free and not promised to others (so one slow client never takes all, and a lone client may
 * take half). Nothing is dropped: who finds none waits, FIFO within a holder, in turns among
 * holders. Objects and waiting are per loop: get and put on the loop that owns the pool instance
 * (loop 0 today).
 *
 * Payload. A pool may give each object `payload` bytes of its own beside it, aligned to
 * `payload_align`; `made` is called once per object, before it is handed out for the first time,
 * and tells where they are. What it writes into the object behind the first word stays.
 */
#include "kernel/co.h"
#include "kernel/compiler.h"
#include "kernel/registry.h"

enum pool_rank { /* in order of acquisition */
                 POOL_RANK_CONNECTION = 10,
                 POOL_RANK_REQUEST = 20,
                 POOL_RANK_BUFFER = 30,
                 POOL_RANK_STACK = 40,
                 POOL_RANK_METADATA = 50,
                 POOL_RANK_BOUNCE = 60,
                 POOL_RANK_DRIVER = 70, /* virtqueue requests: the bottom */
};

struct credit {
    struct pool *pool;
    unsigned guaranteed, held;
    struct queue waiters;
    struct list link; /* in pool->waiting while it has waiters */
};

struct pool {
    const char *name;
    enum pool_rank rank;
    size_t size, align;
    unsigned min, max, weight;
    size_t payload, payload_align;
    void (*made)(struct pool *p, void *obj, void *payload);
    /* set by pools_init */
    unsigned total, free, reserved, low_water;
    struct pool_free *free_list;
    char *fresh, *fresh_payload; /* the first object that was never handed out */
    struct list waiting;         /* credits with waiters */
    struct credit anyone;        /* whoever has no credit of its own */
};
#define POOL(nm, rk, sz, ...)                                                      \
    {                                                                              \
        .name = (nm), .rank = (rk), .size = (sz), .align = CACHE_LINE, __VA_ARGS__ \
    }
REGISTRY(pool, struct pool);

/* Bytes needed with every pool at its minimum. */
size_t pools_min_bytes(void);
/* SR_ENOMEM when even the minimum does not fit. */
int pools_init(size_t budget);
size_t pools_bytes(void); /* what all pools hold */
void pools_print(void);   /* the table, one log line per pool, and the sum */

void *pool_try_get(struct pool *p, struct credit *c); /* NULL: none for this holder now; c may be
                                                         NULL (then only unreserved ones) */
void *co_pool_get(struct pool *p, struct credit *c);  /* waits */
void pool_put(struct pool *p, struct credit *c, void *obj);

/* Reserve `guaranteed` objects for a holder: SR_ENOMEM when they are not to be had. Release: all
 * objects are back. */
int credit_open(struct credit *c, struct pool *p, unsigned guaranteed);
void credit_close(struct credit *c);
#endif

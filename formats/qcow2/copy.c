/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Room for copies: what lies around a write to a new cluster, or an L2 table, on its way from one
 * place to another. An image that may be written has one buffer of its own, so that it always gets
 * ahead; more come from a pool that all share. Nobody waits for the pool, so images that lie in each
 * other cannot wait for each other's buffers.
 */
#include "formats/qcow2/writer.h"

#define COPY_SIZE (64u << 10)

struct copy_buf {
    void *pool_link; /* the pool's while it is free */
    char *data;
};

static void copy_made(struct pool *p, void *obj, void *payload)
{
    (void)p;
    ((struct copy_buf *)obj)->data = payload;
}

static struct pool qcow2_copy_pool =
    POOL("qcow2-copy", POOL_RANK_METADATA, sizeof(struct copy_buf), .payload = COPY_SIZE,
         .payload_align = PAGE_SIZE, .made = copy_made, .min = 0, .max = 64, .weight = 1);
REGISTER(pool, qcow2_copy_pool);

char *qcow2_zeroes;

void co_copy_get(struct qcow2 *s, struct copy *c)
{
    struct writer *w = s->w;
    *c = (struct copy){0};
    while (w->copy_taken && !(c->pooled = pool_try_get(&qcow2_copy_pool, NULL)))
        co_queue_wait(&w->copy_wait);
    if (c->pooled) {
        c->data = c->pooled->data;
        return;
    }
    w->copy_taken = true;
    c->data = w->copy;
}

void copy_put(struct qcow2 *s, struct copy *c)
{
    if (c->pooled)
        pool_put(&qcow2_copy_pool, NULL, c->pooled);
    else
        s->w->copy_taken = false;
    co_queue_wake_one(&s->w->copy_wait);
}

int copy_open(struct qcow2 *s)
{
    struct writer *w = s->w;
    w->copy_size = MIN((size_t)s->cluster_mask + 1, COPY_SIZE);
    co_queue_init(&w->copy_wait);
    if (!qcow2_zeroes && !fault(FAULT_ALLOC))
        qcow2_zeroes = page_alloc_zeroed(COPY_SIZE);
    w->copy = fault(FAULT_ALLOC) ? NULL : page_alloc(w->copy_size);
    return w->copy && qcow2_zeroes ? 0 : SR_ENOMEM;
}

void copy_close(struct qcow2 *s)
{
    if (s->w->copy)
        page_free(s->w->copy, s->w->copy_size);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compressed clusters. A workspace is the state of a decompressor, a window into the compressed
 * bytes, and room for one cluster; it keeps the last one it made, so that a cluster read in small
 * pieces is decompressed once.
 *
 *     file   ...|====[host ........ csize)====|...     32 KiB at a time, from a sector's start
 *                     |  |  |  |
 *     input           [32 KiB]  -> decompressor (on a big stack, never across a wait) -> cluster
 *
 * So the longest cluster (2 MiB) takes the same 2.3 MiB whatever it was compressed to. Workspaces
 * come from a pool that has one at least, are taken from it when first needed, and stay here: idle
 * ones are a cache, the least recently used is the next to be overwritten. One decompression per
 * cluster: who wants the same joins it. When all are at work, the next waits.
 *
 * Order. Who holds a workspace reads the file below, and that may be another qcow2 image, which
 * needs a workspace, too. So only images at the bottom use the pool's; one that lies in another
 * image gets one of its own at open. Who waits for the pool then waits for disks only. Who writes
 * compressed clusters holds one for what it writes, and is bound by the same rule: meanwhile it
 * reads no guest data and waits for no other request.
 *
 * Home loop only. Foreign bytes: the decompressor stops when the cluster is full or the input ends,
 * so time is bounded by both; what does not fill the cluster is SR_EIO.
 */
#include "formats/qcow2/qcow2.h"

#define CLUSTER_MAX         (1u << QCOW2_MAX_CLUSTER_BITS)
#define INPUT_SIZE          (32u << 10)
#define PAYLOAD_OF(cluster) (DECOMPRESSOR_SIZE + INPUT_SIZE + (cluster))

struct workspace {
    void *pool_link;     /* the pool's while it has it */
    struct list link;    /* in its set, most recently used first */
    struct list waiters; /* struct flight, while it works */
    struct qcow2 *image; /* whose cluster it has; NULL: none */
    uint64_t host;       /* which one */
    bool working;
    char *payload; /* decompressor, input, cluster */
};

struct cluster_set {
    struct list all;
    struct co_queue waiting;
    size_t own; /* bytes of the payload of a private set's only workspace; 0: the pool's */
};

static void workspace_made(struct pool *p, void *obj, void *payload)
{
    struct workspace *w = obj;
    (void)p;
    *w = (struct workspace){.payload = payload};
    list_init(&w->link);
    list_init(&w->waiters);
}

static struct pool qcow2_cluster_pool =
    POOL("qcow2-cluster", POOL_RANK_METADATA, sizeof(struct workspace),
         .payload = PAYLOAD_OF(CLUSTER_MAX), .payload_align = PAGE_SIZE, .made = workspace_made,
         .min = 1, .max = 8, .weight = 1);
REGISTER(pool, qcow2_cluster_pool);

static struct cluster_set shared = {.all = LIST_INIT(shared.all)};

static inline struct decompressor *decompressor_of(struct workspace *w)
{
    return (void *)w->payload;
}
static inline char *input_of(struct workspace *w)
{
    return w->payload + DECOMPRESSOR_SIZE;
}
static inline char *cluster_of(struct workspace *w)
{
    return w->payload + DECOMPRESSOR_SIZE + INPUT_SIZE;
}

/* ---- sets ---- */

static bool lies_in_image(const struct node *n)
{
    for (const struct child *c = n->file; c; c = c->node->file)
        if (c->node->drv == n->drv)
            return true;
    return false;
}

static struct cluster_set *private_set(size_t cluster_size)
{
    size_t bytes = PAYLOAD_OF(cluster_size);
    struct cluster_set *set = sr_calloc(1, sizeof(*set));
    struct workspace *w = sr_calloc(1, sizeof(*w));
    char *payload = set && w && !fault(FAULT_ALLOC) ? page_alloc(bytes) : NULL;
    if (!payload) {
        sr_free(set);
        sr_free(w);
        return NULL;
    }
    workspace_made(NULL, w, payload);
    list_init(&set->all);
    list_append(&set->all, &w->link);
    co_queue_init(&set->waiting);
    set->own = bytes;
    return set;
}

int clusters_open(struct qcow2 *s)
{
    s->clusters = &shared;
    if (!shared.waiting.q.tail)
        co_queue_init(&shared.waiting);
    if (lies_in_image(s->node))
        s->clusters = private_set((size_t)s->cluster_mask + 1);
    return s->clusters ? 0 : SR_ENOMEM;
}

void clusters_close(struct qcow2 *s)
{
    struct cluster_set *set = s->clusters;
    if (!set)
        return;
    if (set->own) {
        struct workspace *w = list_first(&set->all, struct workspace, link);
        page_free(w->payload, set->own);
        sr_free(w);
        sr_free(set);
        return;
    }
    list_for_each (w, &set->all, struct workspace, link)
        if (w->image == s)
            w->image = NULL;
}

static struct workspace *find(struct cluster_set *set, const struct qcow2 *s, uint64_t host)
{
    list_for_each (w, &set->all, struct workspace, link)
        if (w->image == s && w->host == host)
            return w;
    return NULL;
}

/* One that may be overwritten; NULL: all are at work. */
static struct workspace *take(struct cluster_set *set)
{
    struct workspace *w = set->own ? NULL : pool_try_get(&qcow2_cluster_pool, NULL);
    if (w) {
        list_insert(&set->all, &w->link);
        return w;
    }
    for (struct list *l = set->all.prev; l != &set->all; l = l->prev)
        if (!list_entry(l, struct workspace, link)->working)
            return list_entry(l, struct workspace, link);
    return NULL;
}

struct workspace *co_workspace_borrow(struct qcow2 *s, void **room)
{
    struct workspace *w;
    while (!(w = take(s->clusters)))
        co_queue_wait(&s->clusters->waiting);
    w->image = NULL;
    w->working = true;
    *room = cluster_of(w);
    return w;
}

void workspace_return(struct qcow2 *s, struct workspace *w)
{
    w->working = false;
    list_remove(&w->link); /* what is in it is of no use: the next to be taken */
    list_append(&s->clusters->all, &w->link);
    co_queue_wake_all(&s->clusters->waiting);
}

void clusters_forget(struct qcow2 *s, uint64_t host, uint64_t len)
{
    list_for_each (w, &s->clusters->all, struct workspace, link)
        if (w->image == s && w->host >= host && w->host - host < len)
            w->image = NULL; /* who waits for it makes it again */
}

/* ---- decompressing ---- */

struct step {
    struct decompressor *d;
    const char *in;
    size_t len;
    int result;
};

static void run_step(void *arg)
{
    struct step *p = arg;
    p->result = decompress(p->d, p->in, p->len);
}

static int co_decompress(struct qcow2 *s, struct workspace *w, const struct extent *e)
{
    uint64_t at = e->host, end = e->host + e->csize;
    decompress_begin(decompressor_of(w), s->compression, cluster_of(w),
                     (size_t)s->cluster_mask + 1);
    while (at < end) {
        size_t skip = at % QCOW2_SECTOR;
        size_t len = (size_t)MIN(end - at, INPUT_SIZE - skip);
        int r = co_blk_pread(s->node->file, at - skip, input_of(w), len + skip);
        if (r)
            return r;
        struct step step = {decompressor_of(w), input_of(w) + skip, len, 0};
        co_on_big_stack(run_step, &step);
        if (step.result)
            return step.result > 0 ? 0 : step.result;
        at += len;
    }
    return SR_EIO;
}

static int co_make(struct qcow2 *s, struct workspace *w, const struct extent *e)
{
    w->image = s;
    w->host = e->host;
    w->working = true;
    int r = co_decompress(s, w, e);
    w->working = false;
    if (r)
        w->image = NULL;
    flight_land(&w->waiters, r);
    co_queue_wake_all(&s->clusters->waiting); /* one alone might find its cluster and take none */
    return r;
}

int co_cluster_read(struct qcow2 *s, const struct extent *e, uint64_t in, struct iov v)
{
    struct cluster_set *set = s->clusters;
    struct workspace *w;
    int r = 0;
    while (!(w = find(set, s, e->host)) || w->working) {
        if (w) {
            r = co_flight_join(&w->waiters);
        } else if ((w = take(set))) {
            r = co_make(s, w, e);
        } else {
            co_queue_wait(&set->waiting);
        }
        if (r)
            return r;
    }
    list_remove(&w->link);
    list_insert(&set->all, &w->link);
    iov_copy_in(v, 0, cluster_of(w) + in, v.len);
    return 0;
}

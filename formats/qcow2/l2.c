/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The cache of L2 slices. A slice is a part of an L2 table (4 KiB, or the table when that is
 * smaller), known by the guest range that it maps: key = guest offset >> slice_shift. So a hit needs
 * no look at the L1 table.
 *
 *     bucket[key & mask] --> slice --> slice --> NULL        memory: one run of pages
 *                              |          |                  | entries of slice 0 | 1 | ... |
 *                              v          v                  | struct l2_slice 0 | 1 | ... | buckets |
 *                           entries    entries
 *
 * There are at least as many buckets as slices, and neighbours have neighbouring keys: a disk that
 * is covered as a whole has one slice per bucket.
 *
 * Who may what. Readers on any loop walk a bucket without lock and without writing (but for `used`,
 * when it is clear): slices are put at the head of a bucket with a release store, after their
 * entries are there. Only the home loop changes buckets. What a reader found it uses before it
 * yields; so when every other loop has come to the end of a turn, nobody looks at a slice that was
 * taken out before. That is how a slice is replaced:
 *
 *     victim (second chance) -> out of its bucket -> a turn of every other loop -> read -> published
 *
 * The slice that was taken out keeps its `next`, so a reader that stands on it finds the way on. A
 * read into memory that readers still see never happens.
 *
 * Misses. One load per key: those who come later join it and get its result. The loader goes on
 * without yielding between publishing and using the slice, so somebody always gets ahead, however
 * few slices there are. When all are being loaded, the next one waits.
 *
 * Writing. Entries change in place with single 64-bit stores on the home loop. A slice with changes
 * is dirty and stays where it is until a commit (commit.c) has written it. Some slices are always
 * clean, so that readers find room also while nothing can be written.
 */
#include "formats/qcow2/qcow2.h"

#include <string.h>

#define L2_MIN_SLICES 4u
#define L2_MAX_BYTES  (32u << 20) /* default, as QEMU's */

/* ---- size ---- */

/* A 256th of the RAM, but not much of what is left when there are many images: 48 KiB of 12 MiB. */
static uint64_t default_bytes(void)
{
    uint64_t bytes = MIN(page_total_bytes() / 256, page_free_bytes() / 16);
    return MIN(bytes, L2_MAX_BYTES);
}

static size_t memory_for(size_t slice_size, unsigned count, uint64_t *buckets)
{
    *buckets = 2ull << log2_floor(count * 2 - 1) >> 1; /* power of two, at least count */
    return count * (slice_size + sizeof(struct l2_slice)) +
           (size_t)*buckets * sizeof(struct l2_slice *);
}

static bool take_memory(struct l2_cache *c, unsigned count)
{
    uint64_t buckets;
    c->mem_size = memory_for(c->slice_size, count, &buckets);
    c->mem = fault(FAULT_ALLOC) ? NULL : page_alloc(c->mem_size);
    if (!c->mem)
        return false;
    char *at = c->mem;
    c->count = count;
    c->mask = buckets - 1;
    c->slices = (void *)(at + count * c->slice_size);
    c->bucket = (void *)(c->slices + count);
    memset(c->slices, 0, c->mem_size - count * c->slice_size);
    for (unsigned i = 0; i < count; i++) {
        c->slices[i].entries = (void *)(at + i * c->slice_size);
        list_init(&c->slices[i].waiters);
        list_init(&c->slices[i].link);
    }
    return true;
}

int l2_open(struct l2_cache *c, size_t slice_size, uint64_t bytes, uint64_t most)
{
    uint64_t count = (bytes ? bytes : default_bytes()) / slice_size;
    count = MAX(MIN(MIN(count, most), UINT32_MAX / 4), L2_MIN_SLICES);
    c->slice_size = slice_size;
    co_queue_init(&c->waiting);
    list_init(&c->dirty);
    while (!take_memory(c, (unsigned)count)) {
        if (bytes || count == L2_MIN_SLICES)
            return SR_ENOMEM;
        count = MAX(count / 2, L2_MIN_SLICES);
    }
    return 0;
}

void l2_close(struct l2_cache *c)
{
    if (c->mem)
        page_free(c->mem, c->mem_size);
    c->mem = NULL;
}

/* ---- in and out of buckets ---- */

static void publish(struct l2_cache *c, struct l2_slice *s, uint64_t key)
{
    struct l2_slice **head = &c->bucket[key & c->mask];
    s->published = true;
    __atomic_store_n(&s->used, true, __ATOMIC_RELAXED);
    __atomic_store_n(&s->key, key, __ATOMIC_RELAXED);
    __atomic_store_n(&s->next, *head, __ATOMIC_RELAXED);
    __atomic_store_n(head, s, __ATOMIC_RELEASE);
}

static void unpublish(struct l2_cache *c, struct l2_slice *s)
{
    struct l2_slice **at = &c->bucket[s->key & c->mask];
    while (*at != s)
        at = &(*at)->next;
    __atomic_store_n(at, s->next, __ATOMIC_RELEASE);
    s->published = false;
}

/* ---- a turn of every other loop ---- */

struct visit {
    struct loop_job job;
    unsigned home, next;
    struct co *waiter;
    bool done;
};

static void visit_next(struct loop_job *job)
{
    struct visit *v = container_of(job, struct visit, job);
    if (v->next == v->home)
        v->next++;
    if (v->next < loop_count()) {
        loop_post(v->next++, job);
    } else if (loop_id() != v->home) {
        loop_post(v->home, job);
    } else {
        v->done = true;
        co_wake(v->waiter);
    }
}

/* A posted job runs between turns' coroutines: where it has been, no look-up is under way. */
void co_l2_wait_readers(void)
{
    struct visit v = {.home = loop_id(), .waiter = co_self()};
    v.job.run = visit_next;
    if (loop_count() == 1)
        return;
    visit_next(&v.job);
    while (!v.done)
        co_yield ();
}

/* ---- loading ---- */

/* Second chance; NULL: all are dirty or being loaded. */
static struct l2_slice *victim(struct l2_cache *c)
{
    for (unsigned i = 0; i < 2 * c->count; i++) {
        struct l2_slice *s = &c->slices[c->hand];
        c->hand = c->hand + 1 < c->count ? c->hand + 1 : 0;
        if (s->loading || s->dirty)
            continue;
        if (!s->published || !__atomic_load_n(&s->used, __ATOMIC_RELAXED))
            return s;
        __atomic_store_n(&s->used, false, __ATOMIC_RELAXED);
    }
    /* Readers may have used them all meanwhile. */
    for (unsigned i = 0; i < c->count; i++)
        if (!c->slices[i].loading && !c->slices[i].dirty)
            return &c->slices[i];
    return NULL;
}

static struct l2_slice *find_load(struct l2_cache *c, uint64_t key)
{
    for (unsigned i = 0; i < c->count; i++)
        if (c->slices[i].loading && c->slices[i].load_key == key)
            return &c->slices[i];
    return NULL;
}

static int co_load_into(struct l2_cache *c, struct l2_slice *s, struct child *file, uint64_t key,
                        uint64_t host)
{
    s->loading = true;
    s->load_key = key;
    if (s->published) {
        unpublish(c, s);
        co_l2_wait_readers();
    }
    TRACE(l2_load, key, host);
    int r = co_blk_pread(file, host, s->entries, c->slice_size);
    s->loading = false;
    __atomic_store_n(&s->writable, false, __ATOMIC_RELAXED);
    if (!r)
        publish(c, s, key);
    flight_land(&s->waiters, r);
    co_queue_wake_all(&c->waiting); /* one alone might find its slice and take none */
    return r;
}

int co_l2_load(struct qcow2 *q, uint64_t key, uint64_t host)
{
    struct l2_cache *c = &q->l2;
    struct l2_slice *s = find_load(c, key);
    if (s)
        return co_flight_join(&s->waiters);
    s = victim(c);
    if (s)
        return co_load_into(c, s, q->node->file, key, host);
    co_queue_wait(&c->waiting); /* then look again: somebody may have loaded it */
    return 0;
}

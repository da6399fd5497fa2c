/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLK_IO_H
#define BLK_IO_H
/*
 * What the files of the dispatch layer share; nobody outside blk/ includes it.
 *
 * The straight path (io.c) runs on any loop and handles a request that fits the driver as it is.
 * Everything else, that is tracking, pieces, bouncing and flushing, runs on the node's home loop:
 * whoever finds that it is needed goes there (co_go_home) and afterwards back to where it came from.
 * Functions here take the node, checked requests, and leave accounting to the public functions.
 */
#include "blk/blk.h"

/* An operation that was entered with little stack left, on its way to a fresh one. */
enum far_op {
    FAR_READ,
    FAR_WRITE,
    FAR_ZEROES,
    FAR_DISCARD,
    FAR_FLUSH,
    FAR_TRUNCATE,
    FAR_STATUS,
    FAR_ABOVE
};
struct far {
    enum far_op op;
    unsigned flags;
    struct child *child;
    uint64_t off, len;
    struct iov v;
    struct blk_status *st;
    int result;
};
int co_far(struct far f);

/* To the node's home loop; returns the loop that the caller came from, for the way back. */
static inline unsigned co_go_home(struct node *n)
{
    unsigned from = loop_id();
    if (unlikely(from != n->home_loop))
        co_hop(n->home_loop);
    return from;
}
static inline void co_go_back(struct node *n, unsigned from)
{
    if (unlikely(from != n->home_loop))
        co_hop(from);
}

/* A node may be resized, on loop 0, while other loops work on it. */
static inline uint64_t node_size(const struct node *n)
{
    return __atomic_load_n(&n->size, __ATOMIC_RELAXED);
}

/* A write in flight, on its coroutine's stack. Waits for earlier overlapping ones when either of the
 * two is serialising. The range is widened to whole blocks. */
struct tracked {
    struct list link;
    uint64_t start, end;
    bool serialising;
    struct co_queue waiting;
};
void co_track_wait(struct node *n, struct tracked *t);
static inline void co_track_begin(struct node *n, struct tracked *t, uint64_t off, uint64_t len,
                                  bool serialising)
{
    uint64_t align = n->limits.request_alignment;
    t->start = align_down(off, align);
    t->end = align_up(off + len, align);
    t->serialising = serialising;
    co_queue_init(&t->waiting);
    list_append(&n->writes, &t->link);
    n->serialising += serialising;
    if (unlikely(n->serialising))
        co_track_wait(n, t);
}
static inline void track_end(struct node *n, struct tracked *t)
{
    n->serialising -= t->serialising;
    list_remove(&t->link);
    if (unlikely(!queue_empty(&t->waiting.q)))
        co_queue_wake_all(&t->waiting);
}

/* Bytes at the head of v that the driver takes at an aligned offset in one request: 0 when memory or
 * segments do not allow it. */
size_t direct_prefix(const struct node *n, struct iov v);

/* Aligned or not, of any length below the limits of a node; flags: only the driver's own. */
int co_read_pieces(struct node *n, uint64_t off, struct iov v);
int co_write_pieces(struct node *n, uint64_t off, struct iov v, unsigned flags);
/* A range of zeroes, tracked by the caller. flags: MAY_UNMAP, NO_FALLBACK, FUA as the user said. */
int co_zero_pieces(struct node *n, uint64_t off, uint64_t len, unsigned flags);
/* On the home loop. Skipped when nothing was written. */
int co_node_flush(struct node *n);

/* node.c, at open and close: the private bounce buffer of a node with limits; the page of zeroes. */
int reserve_open(struct node *n);
void reserve_close(struct node *n);
int zeroes_init(void);

/* A change was completed, well or not. Only this loop writes its number. */
static inline void node_wrote(struct node *n)
{
    uint64_t *gen = &n->stats[loop_id()].write_gen;
    __atomic_store_n(gen, *gen + 1, __ATOMIC_RELAXED);
}
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tracked writes: who has to wait for whom.
 *
 * A write that covers a block only in part reads the block, changes it and writes it back. Another
 * write to that block in between would be lost. So on nodes with a request_alignment above 1 every
 * write is on the list n->writes while it is in flight, in order of arrival, its range widened to
 * whole blocks; an unaligned one is *serialising*, as is a request with BLK_SERIALISING.
 *
 * Rule: of two overlapping writes of which at least one is serialising, the later waits for the end
 * of the earlier. Nobody waits for a later one, so there is no cycle; and nobody can overtake, so
 * there is no starvation. Two plain writes that overlap do not wait: their order is undefined, as on
 * any disk.
 *
 * Reads never wait. The list belongs to the node's home loop.
 */
#include "blk/io.h"

static bool conflict(const struct tracked *a, const struct tracked *b)
{
    return (a->serialising || b->serialising) && a->start < b->end && b->start < a->end;
}

/* The earliest write on the list, before t, that t has to wait for. */
static struct tracked *in_the_way(struct node *n, struct tracked *t)
{
    list_for_each (it, &n->writes, struct tracked, link) {
        if (it == t)
            break;
        if (conflict(it, t))
            return it;
    }
    return NULL;
}

void co_track_wait(struct node *n, struct tracked *t)
{
    struct tracked *other;
    while ((other = in_the_way(n, t)))
        co_queue_wait(&other->waiting);
}

void co_node_track(struct node *n, bool on)
{
    ASSERT_LOOP(0);
    co_drain_begin(n);
    n->tracking += on ? 1u : -1u;
    drain_end(n);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Truncation: a node made longer or shorter, in the midst of requests.
 *
 * The driver acts on the node's home loop; then loop 0 sets the new size and tells whoever is above,
 * as it does when a medium changes by itself. So a request finds the old size until what is new is
 * there, and a request is in range of a node that shrank until the driver is done: what lies behind
 * the smaller of the two sizes is the caller's to keep free of requests.
 *
 * A node of fixed size (a disk; whatever has no way to change) is no error as long as it is large
 * enough: formats take the end of their data from their own metadata.
 */
#include "blk/io.h"

/* What a driver without a way of its own does. */
static int co_truncate_else(struct node *n, uint64_t size)
{
    if (n->drv->filter)
        return co_blk_truncate(n->file, size);
    return size > n->size ? SR_ENOSPC : 0;
}

/* A node over a file that was truncated for it has followed already. */
static void co_set_size(struct node *n, uint64_t size)
{
    unsigned home = loop_id();
    if (home)
        co_hop(0);
    if (n->size != size)
        node_resized(n, size);
    if (home)
        co_hop(home);
}

static int co_truncate_home(struct node *n, uint64_t size)
{
    int r = n->drv->co_truncate ? n->drv->co_truncate(n, size) : SR_ENOTSUP;
    node_wrote(n);
    if (r == SR_ENOTSUP)
        return co_truncate_else(n, size);
    if (!r)
        co_set_size(n, size);
    return r;
}

int co_blk_truncate(struct child *c, uint64_t size)
{
    struct node *n = c->node;
    if (!c->writable)
        return SR_EPERM;
    if (size > BLK_MAX_REQUEST)
        return SR_ENOSPC;
    if (co_headroom_short())
        return co_far((struct far){.op = FAR_TRUNCATE, .child = c, .len = size});
    unsigned from = co_go_home(n);
    int r = co_truncate_home(n, size);
    co_go_back(n, from);
    return r;
}

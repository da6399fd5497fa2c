/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLK_GRAPH_H
#define BLK_GRAPH_H
/*
 * What the files of the graph share: opening and its tables (open.c), edges and life
 * (node.c), drain (origin.c). Loop 0 only; nobody outside blk/ includes it.
 */
#include "blk/blk.h"

/* node.c. QEMU's rule for names that users give: a letter, then letters, digits, "-._". */
bool blk_id_ok(const char *s);
/* A node on the list, opening, with one reference; NULL with err. */
struct node *node_new(const struct blk_driver *drv, const char *name, struct error *err);
/* Takes back a node that failed to open. */
void co_node_discard(struct node *n);
/* After the driver's co_open: limits made complete and checked, what they need allocated. */
int node_check_limits(struct node *n, struct error *err);

/* origin.c: without waiting, for an edge that is made or cut while its node is quiesced. */
void node_quiesce(struct node *n);
void node_unquiesce(struct node *n);

/* node.c: an edge as it would be: is there anybody with whom it cannot be? SR_EPERM. */
int node_may_attach(const struct child *c, struct error *err);
#endif

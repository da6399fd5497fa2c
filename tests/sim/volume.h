/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_VOLUME_H
#define TESTS_SIM_VOLUME_H
/*
 * The volume as its guest has it: open, with an origin for requests, and operations that the record
 * gets to know. All in coroutines.
 */
#include "blk/blk.h"
#include "tests/sim/record.h"

struct volume {
    struct node *node;
    struct origin *origin;
    struct child *root;
};
/* `text`: key=value of the node, which is named "vol". restart_safe: as an export with that option
 * has it. 0, or SR_E* with err. */
int co_volume_open(struct volume *v, const char *text, bool restart_safe, struct error *err);
void co_volume_close(struct volume *v);

/* Any number at once. Of OP_READ, the data go to memory of the record's heap. The result, which the
 * record has, too. OP_REOPEN is not for here. */
int co_volume_op(struct volume *v, struct record *r, struct op o);
/* The whole volume, in pieces of at most `step`, into `to`. */
int co_volume_read_all(struct volume *v, uint8_t *to, size_t step);
#endif

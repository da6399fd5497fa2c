/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block status: one extent, of this layer only. What is not allocated here is left to the backing
 * node, by whoever asks. Compressed clusters are data without a place of their own. A cluster that
 * holds zeroes by its entry is known without a look at the file; whether the file has a hole where
 * data is mapped is not asked (it is on a preallocated image only, and costs a question each time).
 */
#include "formats/qcow2/qcow2.h"

int co_qcow2_block_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    static const unsigned flags[] = {
        [EXTENT_UNALLOCATED] = 0,
        [EXTENT_ZERO] = BLK_ZERO | BLK_ALLOCATED,
        [EXTENT_DATA] = BLK_DATA | BLK_ALLOCATED | BLK_OFFSET_VALID,
        [EXTENT_COMPRESSED] = BLK_DATA | BLK_ALLOCATED,
    };
    struct qcow2 *s = n->state;
    struct extent e;
    int r = co_qcow2_map(s, off, len, true, &e);
    if (r)
        return r;
    st->flags = flags[e.type];
    st->len = e.len;
    if (e.type == EXTENT_DATA) {
        st->map = e.host;
        st->map_child = s->data;
    }
    return 0;
}

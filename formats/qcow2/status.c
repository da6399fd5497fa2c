/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block status: one extent, of this layer only. What is not allocated here is left to the backing
 * node, by whoever asks. Compressed clusters are data without a place of their own. Clusters that
 * hold zeroes by their entry are known without a look at the file; where data is mapped, the file
 * may know better (RECURSE): an image with preallocated metadata, or with clusters of which only a
 * part was written, has holes there. QEMU asks the file, too, when an image looks like one of these.
 */
#include "formats/qcow2/qcow2.h"

int co_qcow2_block_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    static const unsigned flags[] = {
        [EXTENT_UNALLOCATED] = 0,
        [EXTENT_ZERO] = BLK_ZERO | BLK_ALLOCATED,
        [EXTENT_DATA] = BLK_DATA | BLK_ALLOCATED | BLK_OFFSET_VALID | BLK_RECURSE,
        [EXTENT_COMPRESSED] = BLK_DATA | BLK_ALLOCATED,
    };
    struct qcow2 *s = n->state;
    struct extent e;
    unsigned epoch = qcow2_io_begin(s);
    int r = co_qcow2_map(s, off, len, true, &e);
    qcow2_io_end(s, epoch);
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

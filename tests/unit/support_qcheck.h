/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_QCHECK_H
#define TESTS_UNIT_SUPPORT_QCHECK_H
/*
 * A qcow2 image looked through, straight from the specification and sharing nothing with the driver:
 * how often each cluster is referred to, against its refcount. The image is a run of bytes in memory,
 * and it must have a header that can be believed.
 *
 *     struct image_check c = image_check(file, size);
 *     if (c.errors || c.leaks) fail_msg("%s", c.first);
 */
#include <stdbool.h>
#include <stdint.h>

struct image_check {
    unsigned errors; /* refcount too low, COPIED wrong, overlaps, entries that cannot be */
    unsigned leaks;  /* refcount too high */
    bool dirty, corrupt;
    uint64_t used;   /* clusters that are referred to */
    char first[200]; /* what was found first */
};
struct image_check image_check(const uint8_t *file, uint64_t size);
/* Writes the refcounts that it should have, and COPIED flags to match. Blocks must be there. */
void image_recount(uint8_t *file, uint64_t size);
/* The disk as it is becomes snapshot 1: clusters for its tables are found in what the refcount blocks
 * cover, below `room`. Returns the new size of the file. */
uint64_t image_snapshot(uint8_t *file, uint64_t size, uint64_t room);
/* A copy of the image (malloc) whose active disk is what snapshot 1 holds; to be read only. */
uint8_t *image_of_snapshot(const uint8_t *file, uint64_t size);

/* Fields of images. */
struct image_header {
    unsigned version, cluster_bits, refcount_order, snapshots;
    bool extended, external, raw;
    uint64_t size, l1, l1_entries, reftable, reftable_bytes, snapshots_at;
};
struct image_header image_header(const uint8_t *file);
/* Where the L2 entry of a guest offset is; 0: no table. */
uint64_t image_entry(const uint8_t *file, uint64_t guest);
/* Refcounts by cluster number; set: the block must be there. */
uint64_t image_refcount(const uint8_t *file, uint64_t cluster);
void image_set_refcount(uint8_t *file, uint64_t cluster, uint64_t value);
#endif

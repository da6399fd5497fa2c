/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_FUZZ_SUPPORT_AUDIT_H
#define TESTS_FUZZ_SUPPORT_AUDIT_H
/*
 * A second opinion on a qcow2 image: all of its tables are walked, from the specification and sharing
 * nothing with the driver, and what refers to each cluster of the file is counted. From that follows
 * what damage elsewhere in the image must not reach:
 *
 *   trusted cluster   it is used for one thing; as many refer to it as its refcount says, or fewer;
 *                     no COPIED flag says otherwise; and so it is for the block that counts it.
 *   trusted guest cluster   header, L1 and refcount table, its L2 table and its data are trusted.
 *
 * Doubtful cases count as references: then less is trusted. Clusters are numbers, host or guest.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum role {
    ROLE_HEADER = 1,
    ROLE_L1 = 2,
    ROLE_L2 = 4,
    ROLE_REFTABLE = 8,
    ROLE_REFBLOCK = 16,
    ROLE_SNAPSHOTS = 32,
    ROLE_BITMAPS = 64,
    ROLE_DATA = 128,
    ROLE_PACKED = 256,
};
struct spot {
    uint64_t stored; /* refcount in the file */
    uint32_t refs;   /* counted */
    uint16_t roles;
    bool snapshot; /* a snapshot leads to it */
    bool lied;     /* a COPIED flag does not fit */
    bool trusted;
};

#define AUDIT_FILE_MAX (8u << 20)
#define AUDIT_CLUSTERS (AUDIT_FILE_MAX / 512)
struct audit {
    const uint8_t *file;
    uint64_t len;
    bool usable; /* a header that says where the tables are; nothing else is set without */
    bool extended, external;
    bool misplaced; /* in the data file: a cluster of two guests, maybe */
    unsigned version, bits, order;
    uint64_t disk, clusters;
    uint64_t bad;      /* entries that point outside of the file, or at no cluster */
    uint64_t errors;   /* clusters whose refcount is too low, overlaps, flags that lie */
    uint64_t leaks;    /* clusters whose refcount is too high */
    uint64_t dangling; /* references to clusters that count as free */
    struct spot spot[AUDIT_CLUSTERS];
};

void audit(struct audit *a, const uint8_t *file, uint64_t len);
/* Of a guest cluster: may anything but a write to it change what it reads as? */
bool audit_trusts(const struct audit *a, uint64_t guest);
uint64_t audit_be(const uint8_t *at, unsigned bytes);
#endif

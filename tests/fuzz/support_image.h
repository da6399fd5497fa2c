/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_FUZZ_SUPPORT_IMAGE_H
#define TESTS_FUZZ_SUPPORT_IMAGE_H
/*
 * qcow2 images from a few bytes, whole and then damaged: so that a fuzzer's changes are changes of
 * features, layout and single entries, and not of bytes that fail the first check.
 *
 *     recipe   features, geometry, kinds of clusters, snapshots, seed: any bytes, missing ones are 0
 *     damage   one entry of one table (or field of the header) is changed, in ways that hurt
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECIPE_SIZE 8u
#define RECORD_SIZE 8u
#define IMAGE_ROOM  (6u << 20)
#define DISK_MAX    (1u << 20)
#define PARTS_MAX   4096u
#define GUEST_MAX   160u
#define SNAPSHOTS   3u

enum part_kind {
    PART_HEADER,
    PART_EXTENSIONS,
    PART_L1,
    PART_L2,
    PART_REFTABLE,
    PART_REFBLOCK,
    PART_SNAPSHOT,
    PART_SNAPSHOT_L1,
    PART_BITMAPS,
    PART_DATA,
    PART_PACKED,
    PART_KINDS,
};
/* `count` entries of `width` bytes in the file. */
struct part {
    enum part_kind kind;
    unsigned width;
    uint64_t off, count;
};

struct image {
    uint8_t *file; /* IMAGE_ROOM bytes, zeroes behind `len` */
    uint64_t len;
    uint8_t *data; /* external data file: `disk` bytes, rounded up to a cluster */
    uint8_t *model;
    uint64_t disk;
    unsigned version, bits, order;
    bool extended, zstd, external, backing, bitmaps, lazy, dirty, damaged;
    struct part part[PARTS_MAX];
    unsigned parts;
    /* While it is made. */
    uint32_t random;
    uint64_t guests, end, pack, l1, reftable;
    unsigned packed, nsnapshots;
    uint64_t snapshot_l1[SNAPSHOTS];
};

/* The backing, when there is one, has the byte 'b' everywhere. `file` and `data` are the caller's, of
 * IMAGE_ROOM and 2 * DISK_MAX bytes, zeroed; so is `model`, DISK_MAX. */
void image_make(struct image *i, const uint8_t *recipe);
void image_damage(struct image *i, const uint8_t *record);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_QCOW2_H
#define TESTS_UNIT_SUPPORT_QCOW2_H
/*
 * A small writer of qcow2 images, straight from the specification and sharing nothing with the
 * driver, and what a reader has to see in them.
 *
 *     struct image i = {.version = 3, .cluster_bits = 9, .size = 100000};
 *     image_make(&i, IMAGE_RANDOM);       i.file: the bytes, i.model: the content
 *     image_put(&i, "m");                 into memory disk m
 */
#include "tests/unit/memdisk.h"

enum image_kind { IMAGE_EMPTY, IMAGE_RANDOM, IMAGE_SEQUENTIAL, IMAGE_COMPRESSED };
struct image {
    /* wanted */
    unsigned version, cluster_bits;
    uint64_t size;
    bool extended, zstd, external;
    const char *backing, *format; /* names in the header */
    const uint8_t *below;         /* content of the backing, NULL: none */
    uint64_t below_size;
    const uint8_t *content; /* what to put into its clusters; NULL: anything */
    uint64_t file_size;     /* of `file`; a default is taken when 0 */
    /* made */
    uint8_t *file, *data, *model,
        *kind; /* data: external; kind: per 512 bytes, enum image_sector */
    uint64_t l1, end;
};
enum image_sector { IMAGE_NONE, IMAGE_ZERO, IMAGE_DATA };
void image_make(struct image *i, enum image_kind kind);
void image_free(struct image *i);
/* Copies to the memory disk of that name (its size must be i->file_size). */
void image_put(const struct image *i, const char *node);
/* Place of the L2 entry of a guest offset in i->file. */
uint64_t image_l2_entry(const struct image *i, uint64_t guest);
void put_be(uint8_t *at, unsigned bytes, uint64_t v);
uint64_t get_be(const uint8_t *at, unsigned bytes);
#endif

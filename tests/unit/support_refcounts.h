/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_REFCOUNTS_H
#define TESTS_UNIT_SUPPORT_REFCOUNTS_H
/*
 * For tests of the check: images of support_qcow2.h with refcounts and snapshots, by a second and
 * simpler count than the one that is tested, and the ways to damage them.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "formats/qcow2/check.h"

#define COPIED (1ull << 63)
#define OFFSET 0x00fffffffffffe00ull
#define ALL    (BLK_FIX_LEAKS | BLK_FIX_ERRORS)

struct shape {
    struct image i;
    unsigned order;
    bool snapshot;
};
#define SHAPES 9
extern const struct shape shapes[SHAPES];
void image_with_refcounts(struct image *i, const struct shape *s);

static inline uint64_t cluster(const struct image *i)
{
    return 1ull << i->cluster_bits;
}
static inline uint64_t get(const struct image *i, uint64_t at)
{
    return get_be(i->file + at, 8);
}
static inline void put(struct image *i, uint64_t at, uint64_t v)
{
    put_be(i->file + at, 8, v);
}
/* The stored refcount of cluster k. */
void set_ref(struct image *i, uint64_t k, uint64_t n);
uint64_t ref(const struct image *i, uint64_t k);

enum after { CLEAN, SAME, WRONG }; /* SAME: clean, with the content that it had */
struct damage {
    const char *name;
    void (*apply)(struct image *i);
    bool corrupt, leaks;
    enum after after;
};
#define DAMAGES 29
extern const struct damage damages[DAMAGES];
/* Some of them by themselves. */
void damage_low(struct image *i);
void damage_high(struct image *i);
void damage_no_block(struct image *i);
void damage_flags(struct image *i);
void damage_bits(struct image *i);
void damage_l1_reserved(struct image *i);
void damage_data_twice(struct image *i);
void damage_l2_is_data(struct image *i);
/* Of damage_l2_is_data: where the guest's data are. */
uint64_t victim(const struct image *i);

/* Into memory disk m, which can grow by `more` bytes. */
struct test_root image_disk(const struct image *i, uint64_t more);
/* It can be checked. */
struct blk_check co_check(struct child *c, unsigned fix);
void co_expect_clean(struct child *c);
/* What a guest reads is the model; memory disk d is the data file. */
void co_expect_content(const struct image *i);
/* 0, 1, ...: windows of the check, the least first. */
void set_check_memory(unsigned how);
#endif

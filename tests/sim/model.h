/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_MODEL_H
#define TESTS_SIM_MODEL_H
/*
 * What a guest may expect to read, sector by sector, at each moment of a recorded run: while it runs,
 * after a power cut, and after the death of the storage VM. See model.c for the rules.
 */
#include "tests/sim/record.h"

enum crash_kind { POWER_CUT, VM_DEATH };

struct candidate;
struct expected; /* of one sector */
struct model {
    const struct record *record;
    struct expected *sectors;
    uint64_t nsectors, size;
    uint32_t stable; /* operations that had returned by then are safe from a power cut */
    uint32_t oldest; /* operation: all before it have returned */
    struct heap *heap;
};

/* `content`: of the volume when the run began, whole sectors. All memory comes from h. */
void model_start(struct model *m, const struct record *r, const uint8_t *content, uint64_t size,
                 struct heap *h);
/* The operation is issued, has returned. model_return: NULL, or what is wrong with what it read. */
void model_call(struct model *m, uint32_t op);
const char *model_return(struct model *m, uint32_t op);
/* May a volume with these sector hashes be what a crash left? Else *bad is the first sector that may
 * not. */
bool model_allows(const struct model *m, enum crash_kind kind, const uint64_t *hashes,
                  uint64_t *bad);
/* What was promised for a sector, for people. */
const char *model_tell(const struct model *m, enum crash_kind kind, uint64_t sector);
#endif

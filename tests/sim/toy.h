/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_TOY_H
#define TESTS_SIM_TOY_H
/*
 * The toy format's defects: each must be found, `none` must not. See toy.c.
 */
#include "tests/sim/subject.h"

#define TOY_DEFECTS(X)                                                          \
    X(none)                                                                     \
    X(order)   /* the map is written before the data it points to are stable */ \
    X(below)   /* a flush does not flush the map that it has written */         \
    X(nomap)   /* a flush leaves the map behind */                              \
    X(fua)     /* a write with FUA leaves the map behind */                     \
    X(reuse)   /* a slot is given out again before the old map entry is gone */ \
    X(grace)   /* a slot is given out again while somebody reads it */          \
    X(padding) /* the rest of a new slot is what lay there */                   \
    X(lock)    /* two first writes to a block do not see each other */          \
    X(torn)    /* two sectors are taken to be written both or not at all */     \
    X(leak)    /* memory is not given back */                                   \
    X(stuck)   /* a lock is not let go of */

#define TOY_ENUM(d) TOY_##d,
enum toy_defect { TOY_DEFECTS(TOY_ENUM) TOY_COUNT };

/* A subject over the toy format with that defect. */
const struct subject *toy_subject(enum toy_defect d);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_MUTANT_H
#define KERNEL_MUTANT_H
/*
 * Deliberate defects, for one build only: the simulator's, which has to catch each of them. Each is
 * an ordering rule, or a promise kept by one line; where the code keeps it, it asks MUTANT(name), a
 * constant false in every other build. tests/sim runs its scenarios once for each name.
 */
#define MUTANTS(X)                                                                 \
    X(COMMIT_NO_FLUSH)   /* refcounts and data are not flushed before entries */   \
    X(COMMIT_REFS_LATE)  /* refcounts are written after the entries */             \
    X(COMMIT_OPEN)       /* entries change while a commit writes them */           \
    X(FLUSH_NO_COMMIT)   /* a guest's flush leaves dirty metadata behind */        \
    X(FLUSH_NOT_BELOW)   /* ... or is not passed on */                             \
    X(FREE_AT_ONCE)      /* space is used again before its entry is gone */        \
    X(FREE_NO_FLUSH)     /* ... before that is stable */                           \
    X(FREE_NO_GRACE)     /* ... while a read of it is under way */                 \
    X(TABLE_UNWRITTEN)   /* an L1 entry points to a table that was not written */  \
    X(REFBLOCK_NO_FLUSH) /* a table entry points to a block that may be lost */    \
    X(REFTABLE_NO_FLUSH) /* the header points to a table that may be lost */       \
    X(COW_NO_PADDING)    /* the rest of a new cluster is what lay there */         \
    X(COW_NO_WAIT)       /* two first writes to a cluster do not see each other */ \
    X(FUA_NO_METADATA)   /* a FUA write leaves its entry behind */                 \
    X(DIRTY_BIT_LATE)    /* lazy refcounts: the bit after the entries */           \
    X(DIRTY_BIT_EARLY)   /* ... cleared before refcounts are stable */             \
    X(SETTLE_EARLY)      /* restart-safe: done before its entry is written */      \
    X(ZERO_STALE)        /* a cluster taken for zeroed that is not */

#ifdef SR_MUTANTS
enum mutant {
    MUTANT_NONE, /* clang-format off */
#define MUTANT_ENUM(name) MUTANT_##name,
    MUTANTS(MUTANT_ENUM)
#undef MUTANT_ENUM
    MUTANT_COUNT /* clang-format on */
};
extern enum mutant mutant_chosen;
extern unsigned mutant_reached; /* how often it made a difference */
#define MUTANT(name) (mutant_chosen == MUTANT_##name && ++mutant_reached)
#else
#define MUTANT(name) 0
#endif
#endif

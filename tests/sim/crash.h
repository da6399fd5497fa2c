/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_CRASH_H
#define TESTS_SIM_CRASH_H
/*
 * From a record to everything that a crash may leave. See crash.c.
 */
#include "tests/sim/medium.h"
#include "tests/sim/model.h"

/* The media before the run. Shared by many runs: never written. */
struct snapshot {
    const uint8_t *data[MEDIA]; /* [capacity]; NULL: no such medium */
    uint64_t size[MEDIA], capacity[MEDIA];
    const uint64_t *hashes[MEDIA]; /* of each sector of the capacity */
    uint64_t digest[MEDIA];
};
/* Takes the media as they are. Memory comes from h. */
void snapshot_take(struct snapshot *s, struct heap *h);
/* Puts the media back: sizes and bytes; traits, record and faults stay. */
void snapshot_put(const struct snapshot *s);

/* What one crash may have left. */
struct crash;
struct state {
    struct crash *crash;
    uint64_t digest; /* equal states have equal ones */
};
/* The media get the state. */
void state_put(const struct state *s);
/* How it came to be: for people. */
const char *state_tell(const struct state *s, struct heap *h);

/* How thoroughly. */
struct thoroughness {
    unsigned all_subsets; /* of up to so many loose changes, all subsets; of more, those listed */
    unsigned samples;     /* random ones besides, at each crash point */
    unsigned one_in;      /* crash points that are looked at, at random; 1: all */
    bool none;            /* no crashes: only what was read while it ran */
    uint32_t from_op;     /* crashes before this operation was called are somebody else's */
};
struct crash_counts {
    uint64_t points, states; /* looked at; distinct ones are counted by who keeps them */
};
struct crash_walk {
    const struct record *record;
    const struct snapshot *before;
    struct model *model;
    enum crash_kind kind;
    struct thoroughness how;
    struct heap *heap; /* the walk's own */
    struct rng rng;
    /* Looks at a state; false: enough. */
    bool (*co_visit)(struct crash_walk *w, const struct state *s);
    /* A read of the run was wrong; false: enough. */
    bool (*misread)(struct crash_walk *w, uint32_t op, const char *what);
    void *arg;
    struct crash_counts counts;
};
/* Visits every state of every crash point. false: a visitor had enough. */
bool co_crash_walk(struct crash_walk *w);
#endif

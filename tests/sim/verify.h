/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_VERIFY_H
#define TESTS_SIM_VERIFY_H
/*
 * Crash states are looked at: the image is opened again for writing, as after a boot, everything is
 * read, and it is checked before and after. What comes out depends on the state only, so each is
 * looked at once (`seen`), whatever number of crash points lead to it; each time it is held against
 * what was promised there.
 */
#include "tests/sim/subject.h"

struct stats {
    uint64_t runs, operations, points, states, distinct, failures;
    uint64_t leaky, leaks; /* distinct states with leaks; their clusters */
    uint64_t repaired;     /* had to be repaired when they were opened */
    uint64_t reused, qemu,
        nested;               /* written to again; looked at by qemu-img; crashes of reopening */
    uint64_t checked;         /* given to the driver's own check, and repaired by it */
    uint64_t refused, faults; /* operations that failed; faults that were made */
};
void stats_add(struct stats *to, const struct stats *more);
extern struct stats stats;

/* One run, held against everything that a crash may have left of it. */
struct run {
    const struct bench *bench;
    struct record *record;
    struct thoroughness how;
    uint64_t seed; /* of the walk */
    bool faulty;   /* faults were made: closing may have failed, leaks are allowed */
};
/* Which samples are taken of distinct states: one in so many; 0: none. */
struct sampling {
    unsigned reuse, qemu, nested, check;
};
extern struct sampling sampling;

/* Forgets what was seen: for another bench. */
void verify_reset(void);
/* The media are as the run left them, the volume closed: no corruption, no leak, what the model
 * says. Then every crash. false: something was wrong, and has been reported. */
bool co_verify_run(const struct run *run);

/* Prints a failure of the current case, and counts it. */
void sim_fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_RUN_H
#define TESTS_SIM_RUN_H
/*
 * The cases, and who runs them.
 *
 *     SUBJECT:OPS:PLACES     of exhaustive.c: a sequence of operations, one letter each, and where
 *                            they go
 *     SUBJECT:NUMBER         of random.c: a long run that the number determines
 *     SUBJECT:create         of create.c: an image made over the subject's
 *     toy-DEFECT...          are subjects, too: selftest.c
 *
 * The name of a case says all about it; `make sim SEED=NAME` replays it.
 */
#include "tests/sim/verify.h"

/* How much of everything. */
enum effort { EFFORT_SHORT, EFFORT_TEST, EFFORT_LONG };

/* In coroutines, on the bench. false: it failed, and that has been reported. */
bool co_exhaustive(const struct bench *b, enum effort effort);
bool co_exhaustive_case(const struct bench *b, const char *ops_places);
bool co_random_case(const struct bench *b, uint64_t number);

bool co_create_case(const struct bench *b);

/* ---- what they share ---- */

/* The record of the case at hand. */
extern struct record the_record;
/* Media as the bench has them, recording, with that latency; the seed decides. */
void run_start(const struct bench *b, uint64_t seed, bool frantic, unsigned latency_ns);
/* The media do not record any more, and are quick. */
void run_stop(void);
/* Closes (and opens again): an operation like the others. SR_E* when it does not open. */
int co_run_close(struct volume *v);
int co_run_reopen(const struct bench *b, struct volume *v);
/* After the last: what was refused without a reason, then co_verify_run. */
bool co_run_verify(const struct run *run);

/* ---- pool.c ---- */

/* A piece of work for a process of its own. */
struct job {
    char name[SIM_NAME_MAX];
    void (*run)(const struct job *j); /* in the child */
    const struct subject *subject;
    enum effort effort; /* of exhaustive ones */
    uint64_t from, to;  /* numbers of seeded ones */
    int mutant;
    bool wanted; /* a failure is what is wanted */
};
struct job_result {
    struct stats stats;
    char current[SIM_NAME_MAX];
    double seconds;
    bool done, reached;
    int status;
};
/* Runs them, `workers` at a time, each at most `seconds`; prints a line for each. Results in the
 * order of the jobs. */
void jobs_run(const struct job *jobs, struct job_result *results, unsigned count, unsigned workers,
              unsigned seconds);
struct job_result *jobs_results(unsigned count); /* memory shared with children */
void jobs_forget(struct job_result *results, unsigned count);
extern struct job_result *my_result; /* in a child */
#endif

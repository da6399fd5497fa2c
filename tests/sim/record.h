/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_RECORD_H
#define TESTS_SIM_RECORD_H
/*
 * The record of one run: what the disks were asked and answered, what the guest was promised, in
 * order. A run is never cut short; what a crash leaves is worked out from here afterwards, for each
 * moment of the run (crash.c), and so is what the guest may then expect (model.c).
 *
 *     event      CHANGE    a change of a disk begins to be possible: from now on a crash may leave it
 *                ANSWER    a request of a disk is complete (or has failed)
 *                CALL      the guest has issued an operation
 *                RETURN    ... and has been told that it is complete (or has failed)
 *
 * `when` in all of this is the number of an event; NEVER has not come.
 *
 * Units: sectors of 512 bytes below, bytes above. Memory belongs to the record and lives until
 * record_reset. One record at a time is made: of the run, not of what is reopened after a crash.
 */
#include "tests/sim/sim.h"

#define NEVER UINT32_MAX

/* ---- the disks' side ---- */

/* Content of one sector. Data that are equal need not be one. */
struct version {
    uint64_t hash;
    const uint8_t *data;
};
enum request_kind { REQ_WRITE, REQ_ZERO, REQ_DISCARD, REQ_TRUNCATE, REQ_FLUSH };
struct request {
    uint8_t kind, medium;
    bool fua, failed;
    uint32_t issued, answered;
};
/* A request makes one, or two when its buffer changed while it was under way. */
struct change {
    uint32_t request;
    uint32_t order;         /* in which they took effect for readers: later ones lie over earlier */
    uint32_t sector, count; /* where; count is 0 for a change of the size */
    const struct version *v;
    uint64_t size; /* of REQ_TRUNCATE */
};

/* ---- the guest's side ---- */

enum op_kind { OP_WRITE, OP_ZERO, OP_DISCARD, OP_COMPRESSED, OP_FLUSH, OP_READ, OP_REOPEN };
struct op {
    uint8_t kind;
    bool fua;
    uint32_t seq; /* stamp of what is written (stamp.h) */
    uint64_t off, len;
    int result;
    uint32_t called, returned;
    const uint8_t *data; /* what a read gave */
};

enum event_kind { EV_CHANGE, EV_ANSWER, EV_CALL, EV_RETURN };
struct event {
    uint32_t kind, index; /* of the change, request, operation */
};

struct record {
    struct event *events;
    struct change *changes;
    struct request *requests;
    struct op *ops;
    size_t nevents, nchanges, nrequests, nops;
    size_t cap_events, cap_changes, cap_requests, cap_ops;
    struct heap heap;
    uint32_t order;
    uint64_t trace; /* hash of all so far: the same seed gives the same */
};

void record_reset(struct record *r);
void record_free(struct record *r);
uint32_t record_request(struct record *r, struct request q);
/* v and its data lie in the record's heap, or live as long. */
uint32_t record_change(struct record *r, struct change c);
/* The change is what readers see now. */
static inline void record_effect(struct record *r, uint32_t change)
{
    r->changes[change].order = r->order++;
}
void record_answer(struct record *r, uint32_t request, bool failed);
uint32_t record_call(struct record *r, struct op o);
void record_return(struct record *r, uint32_t op, int result);
/* All of it, a line for each event, to stdout. */
void record_print(const struct record *r);
extern const char *const request_names[], *const op_names[];
#endif

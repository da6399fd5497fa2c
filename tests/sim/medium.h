/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_MEDIUM_H
#define TESTS_SIM_MEDIUM_H
/*
 * The simulated disks. A medium is what survives: bytes, and how many. The node driver "sim" is what
 * opens one:
 *
 *     driver=sim,disk=file        file, data, backing: the media's names
 *
 * The volatile write cache is not here: a medium holds what readers see while the power is on, and
 * puts into the record (record.h), if there is one, what a crash may leave instead.
 *
 * A request takes effect at a moment of its own between its issue and its answer: a read sees then
 * what is there then, a write is seen from then on. Both waits are random. What a crash may leave of
 * a write, however, counts from its issue, because a disk may be that quick. (Writes that do not
 * cover whole sectors, which exist where alignment is 1, count from their effect: the rest of the
 * sector is what it is then.) A buffer that changes while it is written is a change of its own.
 *
 * A file on a host whose flush has failed has lost nobody knows what: until it is opened again no other
 * flush succeeds (board/host/file.c). A disk keeps what it could not make stable, and may do it later.
 *
 * What lies behind the size, or was discarded, is junk that says so (SEQ_JUNK), but for what a
 * medium grows by, which is zeroes. All on one loop; nothing here fails but by a fault asked for.
 */
#include "blk/blk.h"
#include "tests/sim/record.h"

enum medium_id { MEDIUM_FILE, MEDIUM_DATA, MEDIUM_BACKING, MEDIA };

/* What kind of disk. */
struct traits {
    unsigned align; /* request alignment: 512 or 1 */
    bool growable;  /* co_truncate; else of fixed size */
    bool zeroes;    /* write-zeroes of its own */
    bool discards, fua;
    bool clears; /* what is discarded reads as zeroes; else as junk */
};
enum sim_op { ON_READ, ON_WRITE, ON_FLUSH, ON_TRUNCATE, SIM_OPS };
struct sim_fault {
    uint64_t nth; /* request of its kind, from 1; 0: none */
    bool stays;   /* and all that follow */
    int error;
};
struct medium {
    enum medium_id id;
    uint8_t *data; /* [capacity] */
    uint64_t size, capacity;
    struct traits traits;
    struct record *record;  /* NULL: none */
    unsigned latency_ns;    /* at most, each of the two waits of a request; 0: none */
    unsigned slow[SIM_OPS]; /* one in so many waits takes 50 times as long; 0: none */
    struct sim_fault faults[SIM_OPS];
    uint64_t asked[SIM_OPS];
    unsigned fired; /* faults */
    bool lost;      /* a flush failed since it was opened */
    unsigned opened, inflight;
    uint64_t changes; /* that were asked for */
};
extern struct medium media[MEDIA];
extern const char *const medium_names[MEDIA];

/* Empty (capacity bytes are there, of junk), with those traits, no record and no faults. */
void medium_reset(struct medium *m, uint64_t size, uint64_t capacity, struct traits t);
extern const struct version zero_version;
/* The junk at that place; the data lie in h. */
struct version junk_version(struct heap *h, uint64_t off);
#endif

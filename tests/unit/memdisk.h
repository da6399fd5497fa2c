/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_MEMDISK_H
#define TESTS_UNIT_MEMDISK_H
/*
 * Test driver "mem": a protocol node over plain memory, whose limits are options, which panics when
 * the dispatch layer breaks one of them, and which can fail, wait and reorder.
 *
 *     driver=mem,node-name=m,size=1M,request-alignment=512,mem-align=512,max-sg=4,max-transfer=64k,
 *            write-zeroes=on,write-zeroes-alignment=4k,max-write-zeroes=1M,fua=on,discards=on,
 *            discard-alignment=4k,jitter=3,max-size=8M,backing=OTHER
 *
 * With max-size the disk can be truncated, to that size at most; without, its size is fixed. What was
 * discarded stays, or is scribbled over (`scribble`).
 *
 * Failure: every read, write (zeroes, discards and truncation too) and flush asks its fault point; it
 * fails when it has done its work, or without having begun (`refuse`). With
 * `backing`, sectors are unallocated until written, and reads of them go there. Memory behind the
 * size, up to the alignment, belongs to ASan. Inspect and steer through memdisk_of(node).
 */
#include "blk/blk.h"

enum mem_op { MEM_READ, MEM_WRITE, MEM_ZEROES, MEM_DISCARD, MEM_FLUSH, MEM_TRUNCATE, MEM_OPS };
#define MEM_SECTOR 512u

struct memdisk {
    struct node *node;
    uint8_t *data;
    uint8_t *sector; /* per sector: enum mem_sector */
    struct child *backing;
    unsigned jitter; /* each request waits a random number of turns up to this, twice */
    bool native_zeroes, native_discard;
    bool scribble, refuse;
    uint64_t max_size; /* 0: fixed */
    /* What happened. */
    uint64_t count[MEM_OPS], bytes[MEM_OPS];
    uint64_t largest; /* request */
    unsigned flags_seen;
    uint64_t last_off, last_len;
    unsigned last_segs; /* of the last read or write, and where its first one was */
    const void *last_base;
    uint64_t changes, flushed; /* that were completed; of them, how many are stable */
    unsigned inflight, most_inflight;
    /* While set, requests of that kind park here before they act. */
    bool hold[MEM_OPS];
    struct co_queue parked;
    unsigned nparked;
};
enum mem_sector { SECTOR_UNALLOCATED, SECTOR_DATA, SECTOR_ZERO, SECTOR_DISCARDED };

struct memdisk *memdisk_of(struct node *n);
void memdisk_hold(struct memdisk *m, enum mem_op op);
void memdisk_release(struct memdisk *m); /* all that are parked, and those to come */
void memdisk_forget(struct memdisk *m);  /* counters to zero */
extern unsigned memdisk_closes;          /* nodes closed so far */
extern char memdisk_close_order[256];    /* their names, "a b c " */
uint32_t test_random(void);              /* reproducible */
void test_random_seed(uint32_t seed);

/* A node from command-line text; fails the test when it does not open. Control path. */
struct node *test_open(const char *text);
/* The sentence with which opening fails; fails the test when it opens. */
const char *test_open_error(const char *text);

/* An origin on a node, for requests: opened writable unless the node is read-only. */
struct test_root {
    struct origin *origin;
    struct child *c; /* the root edge */
    struct node *n;
};
struct test_root test_root_open(struct node *n);
/* Closes the origin and lets go of the node's name. */
void test_root_close(struct test_root *t);
#endif

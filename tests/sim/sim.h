/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H
/*
 * The simulated machine: a board of its own (board.c) under the real kernel/, blk/ and formats/.
 *
 * One process, one loop, one thread. Time is virtual: it stands still while something is ready
 * (but for a few nanoseconds now and then, so that an interrupt may come before a coroutine that was
 * ready earlier) and jumps to the next deadline when nothing is. So a case takes as long as it
 * computes, the same seed gives the same run to the last detail, and "nothing is ready and no timer
 * is set" is a deadlock, known at once.
 *
 * The seed decides everything that a real machine leaves open: which of the ready coroutines runs
 * next (the one hook in the kernel: sim_pick, called by kernel/co.c when SR_SIM is defined), how
 * long each request of a disk takes, and what the crash leaves. Nothing may depend on addresses.
 *
 * A failure that leaves the machine unusable (a panic, a deadlock) ends the process, with a report
 * on stderr; pool.c runs cases in children. All others are reported through sim_fail.
 */
#include "kernel/co.h"
#include "kernel/log.h"
#include "tests/sim/util.h"

#define SECTOR 512u

/* Starts the machine; once per process. roomy: pools get more than the minimum. */
void sim_boot(bool roomy);
/* Runs fn in a coroutine on a big stack until it ends, and the loop with it. Outside of coroutines. */
void sim_run(co_fn *fn, void *arg);
/* From now on the seed decides. `frantic`: ready coroutines are picked at random, and time moves
 * between them; else they run in order, which is quicker. */
void sim_reseed(uint64_t seed, bool frantic);
/* The machine's own random numbers: for the scheduler and the disks. */
struct rng *sim_rng(void);
/* What the console said since sim_reseed. */
const char *sim_console(void);
/* Every page, pool object and stack is back: 0, else a sentence. Sets the mark when `mark`. */
const char *sim_leaks(bool mark);

/* What is being run, for the report of a process that dies; lives in memory shared with the parent
 * when that said so. */
#define SIM_NAME_MAX 200
extern char *sim_current;
extern bool sim_verbose;
#endif

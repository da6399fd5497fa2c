/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_CO_IMPL_H
#define KERNEL_CO_IMPL_H
/*
 * What the loop and the coroutines know of each other; for kernel/ only. All on the calling loop.
 */
#include "kernel/list.h"

void co_loops_init(unsigned count); /* before anything else of co.h */
bool co_run_ready(void);            /* runs those that are ready now, once each; false: none was */
bool co_any_ready(void);
void co_turn_end(void); /* who asked for the next turn becomes ready */
#ifdef SR_SIM
/* tests/sim chooses who runs next: takes one out of the list, which is not empty. */
struct qlink *sim_pick(struct queue *ready);
#endif
#endif

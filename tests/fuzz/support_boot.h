/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_FUZZ_SUPPORT_BOOT_H
#define TESTS_FUZZ_SUPPORT_BOOT_H
/* One loop in one process, for the targets that run coroutines. What cannot be is a panic: a find. */
#include "kernel/kernel.h"

/* Once: pages, loop 0, pools at their minimum, `stacks` ordinary stacks. */
void fuzz_boot(unsigned stacks);
/* Runs co(arg) until *done, which it sets at its end, and one turn more; panics when it does not end. */
void fuzz_run(co_fn *co, void *arg, bool *done);
#endif

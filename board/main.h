/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_MAIN_H
#define BOARD_MAIN_H
/*
 * Composition: what happens between "the machine is up" and "powered off", the same on every board.
 * The board calls strongroom_run on its first stack when board.h's functions work; it never
 * returns. Memory in bytes.
 */
#include "kernel/error.h"

/* Where the configuration comes from; runs in a coroutine after the devices were found. It
 * applies the words in their order and has printed the console line of the error that it
 * returns. `*configured` says whether anything was asked for at all (else the default is
 * served). */
typedef int co_configure_fn(void *ctx, bool *configured);

NORETURN void strongroom_run(co_configure_fn *co_configure, void *ctx);
/* The same start without devices or configuration, for programs that bring their own main
 * coroutine. */
void strongroom_memory(void);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_HOST_HOST_H
#define BOARD_HOST_HOST_H
/*
 * The host board's own interfaces, between its files. Process start-up: main() calls board_init
 * once after any fork.
 */
#include "kernel/co.h"

/* board.c: memory, ring, signal handling (SIGTERM, SIGINT, SIGHUP call the hook from a poller on loop
 * 0). */
void board_init(void);
extern void (*board_quit_hook)(void);

/* nbdcmd.c: turns `nbd -f raw ... FILE` into option words (*argc_out, *argv_out: static or
 * malloc'ed, for ever) and returns -1; or returns the status to leave with (usage errors 3,
 * --help 0). argv[0] is "nbd". */
int nbd_subcommand(int argc, char **argv, int *argc_out, char ***argv_out);

/* verb.c: for those that work on one image file and leave. Errors: SR_E*, err has the sentence where
 * there is one. The node of a file or block device is opened for co_work, and closed after it. */
struct blk_driver;
struct child;
struct error;
typedef int verb_work(struct child *file, const void *arg);
int co_verb_with_file(const char *path, bool writable, verb_work *co_work, const void *arg,
                      struct error *err);
const struct blk_driver *verb_driver(const char *name); /* NULL: there is none */
/* Runs co_main until it calls loop_stop(). cut_short: what a signal does; it does not return. */
void verb_run(co_fn *co_main, void (*cut_short)(void));

/* create.c: the whole of `create ... FILE [SIZE]`; argv[0] is "create". The status to leave with. */
int create_subcommand(int argc, char **argv);
/* check.c: the same for `check ... FILE`. */
int check_subcommand(int argc, char **argv);
#endif

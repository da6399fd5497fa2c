/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_HOST_HOST_H
#define BOARD_HOST_HOST_H
/*
 * The host board's own interfaces, between its files. Process start-up: main() calls board_init
 * once after any fork.
 */
#include "kernel/compiler.h"

/* board.c: memory, ring, signal handling (SIGTERM, SIGINT, SIGHUP call the hook from a poller on loop
 * 0). */
void board_init(void);
extern void (*board_quit_hook)(void);

/* nbdcmd.c: turns `nbd -f raw ... FILE` into option words (*argc_out, *argv_out: static or
 * malloc'ed, for ever) and returns -1; or returns the status to leave with (usage errors 3,
 * --help 0). argv[0] is "nbd". */
int nbd_subcommand(int argc, char **argv, int *argc_out, char ***argv_out);

/* create.c: the whole of `create ... FILE [SIZE]`; argv[0] is "create". The status to leave with. */
int create_subcommand(int argc, char **argv);
/* check.c: the same for `check ... FILE`. */
int check_subcommand(int argc, char **argv);
#endif

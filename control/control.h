/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H
/*
 * control/: what a user says, from words to calls. The command line, QMP and configuration files
 * are one thing: text becomes a value tree, the tree is decoded through the typed tables of
 * kernel/schema.h, and a registered option or command runs. It knows no option or command by name
 * but those of its own files.
 *
 * Loop 0, in a coroutine (co_), one caller at a time. Errors of the command line are printed here,
 * as "error: --OPT VALUE: SENTENCE", and the code is returned.
 */
#include "kernel/error.h"

/* The firmware's command line: words split at blanks outside quotes, braces and brackets; words
 * that do not begin with "--" are the boot loader's. Sets *configured when there was a
 * --blockdev, --export or --nbd-server. */
int co_control_apply_text(const char *cmdline, bool *configured);
/* A process's words; argv[0] is the first option. Stray words are errors. */
int co_control_apply_argv(int argc, char **argv);
/* A JSON list of QMP commands, run in order until one fails; err names its place. */
int co_control_config(const void *text, size_t len, struct error *err);
/* Nothing was configured: every disk over NBD on port 10809, raw, read-only, under its serial
 * number or diskN; says so. */
int co_control_default_config(void);
/* --help, from the tables: all options, or one of them with its keys. Host. Returns the exit
 * status. */
int control_print_help(const char *option);
#endif

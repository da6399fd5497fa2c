/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_DISPATCH_H
#define CONTROL_DISPATCH_H
/*
 * From a value tree to a call of a registered option or command. Arguments are checked as a whole,
 * inline definitions included, before anything runs; so a mistake leaves nothing half-open, and its
 * sentence has the full name. Commands and options run one at a time: who comes second waits.
 * Trees stay the caller's. 0, or a negative code with err set. Loop 0, in a coroutine.
 */
#include "kernel/command.h"

int co_option_run(const struct option_def *o, const struct value *v, bool text, struct error *err);

const struct command *command_find(const char *name);
/* The form of a QMP request: "execute" and at most "arguments" and "id". NULL with err. */
const char *request_command(const struct value *request, struct error *err);
/* Runs the request's command; `via` is what request_via() tells meanwhile. *result is the caller's. */
int co_request_run(const struct value *request, const struct command *c, void *via,
                   struct value **result, struct error *err);
/* The monitor whose command runs; NULL: it comes from a configuration. */
void *request_via(void);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_COMMAND_H
#define KERNEL_COMMAND_H
/*
 * What a user can say: command-line options, QMP commands, events. Rooms below control/ announce
 * theirs with these kinds; control/ parses, dispatches, lists and documents them from the tables.
 * All run on loop 0, in a coroutine, one after the other (control path). 0 or a negative code with
 * err set.
 */
#include "kernel/error.h"
#include "kernel/registry.h"
#include "kernel/schema.h"

/* --NAME key=value,... ; `raw` is the undecoded tree (for inline references). `text` tells whether
 * its leaves are strings (key=value) or JSON. */
struct option_def {
    const char *name; /* "blockdev" */
    const struct type *type;
    const char *implied; /* key of a first word without '=', or NULL */
    int (*co_apply)(const void *opts, const struct value *raw, bool text, struct error *err);
    const char *doc;
};
REGISTRY(option, const struct option_def);

struct command_result {
    const void *data; /* points to a struct of the command's result type; memory from the arena */
    struct arena *arena;
};
enum {
    COMMAND_UNSTABLE = 1,
    COMMAND_DEPRECATED = 2,
    COMMAND_PRECONFIG = 4 /* allowed before qmp_capabilities */
};
struct command {
    const char *name;          /* "query-version" */
    const struct type *args;   /* STRUCT or UNION; NULL: none */
    const struct type *result; /* NULL: {} */
    unsigned flags;
    int (*co_run)(const void *args, const struct value *raw, struct command_result *res,
                  struct error *err);
    const char *doc;
};
REGISTRY(command, const struct command);

struct event_def {
    const char *name;        /* "BLOCK_IO_ERROR" */
    const struct type *data; /* NULL: none */
    const char *doc;
};
REGISTRY(event, const struct event_def);
/* Encodes through the table and sends to every monitor in command mode. Control path (posts to loop
 * 0 from elsewhere are the caller's). */
void event_emit(const struct event_def *e, const void *data);

/* The life of the whole: hooks run in order of `order`, then of name. */
enum start_order { START_NETWORK = 10, START_MONITOR = 20, START_LISTEN = 30 };
struct start_hook { /* after all options, before "ready:" */
    const char *name;
    int order;
    int (*co_run)(struct error *err);
};
REGISTRY(start_hook, const struct start_hook);
enum stop_order {
    STOP_LISTENERS = 10,
    STOP_EXPORTS = 20,
    STOP_JOBS = 30,
    STOP_NODES = 40,
    STOP_MONITORS = 50,
    STOP_NETWORK = 60
};
struct stop_hook { /* on quit; each bounds its own time by `deadline_ns`, give or take a second */
    const char *name;
    int order;
    void (*co_run)(uint64_t deadline_ns);
};
REGISTRY(stop_hook, const struct stop_hook);
/* Ask for a clean power-off (QMP quit, power button, SIGTERM). Returns at once; idempotent; any
 * context of loop 0. */
void system_quit(void);
bool system_quitting(void);
/* A stop hook could not do its work in time: the power-off will not be called clean. */
void system_unclean(void);
#endif

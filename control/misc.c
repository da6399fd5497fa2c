/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands about ourselves: quit, query-version, query-commands.
 */
#include <string.h>

#include "control/qmp.h"
#include "kernel/command.h"
#include "kernel/fault.h"
#include "kernel/version.h"

/* ---- quit ------------------------------------------------------------------------------------ */

static int co_quit(const void *args, const struct value *raw, struct command_result *res,
                   struct error *err)
{
    (void)args, (void)raw, (void)res, (void)err;
    system_quit();
    return 0;
}
static const struct command command_quit = {
    .name = "quit",
    .co_run = co_quit,
    .doc = "Reply, finish what is in flight, flush and close every node, power off",
};
REGISTER(command, command_quit);

/* ---- query-version --------------------------------------------------------------------------- */

struct triple {
    int64_t major, minor, micro;
};
static const struct field triple_fields[] = {
    FIELD_REQ(struct triple, major, "major", &type_int, "Major number"),
    FIELD_REQ(struct triple, minor, "minor", &type_int, "Minor number"),
    FIELD_REQ(struct triple, micro, "micro", &type_int, "Micro number"),
    {0},
};
static const struct type type_triple =
    TYPE_STRUCT_OF("VersionTriple", struct triple, triple_fields);

struct version {
    struct triple qemu;
    const char *package;
};
static const struct field version_fields[] = {
    FIELD_REQ(struct version, qemu, "qemu", &type_triple,
              "The QEMU release whose schema and sentences we follow"),
    FIELD_REQ(struct version, package, "package", &type_str, "Our own name and version"),
    {0},
};
static const struct type type_version =
    TYPE_STRUCT_OF("VersionInfo", struct version, version_fields);
static const struct version version = {
    .qemu = {QEMU_SCHEMA_MAJOR, QEMU_SCHEMA_MINOR, QEMU_SCHEMA_MICRO},
    .package = "strongroom " STRONGROOM_VERSION,
};

struct value *version_value(void)
{
    return schema_encode(&type_version, &version);
}

static int co_query_version(const void *args, const struct value *raw, struct command_result *res,
                            struct error *err)
{
    (void)args, (void)raw, (void)err;
    res->data = &version;
    return 0;
}
static const struct command command_version = {
    .name = "query-version",
    .result = &type_version,
    .co_run = co_query_version,
    .doc = "Versions: QEMU's that we follow, and ours",
};
REGISTER(command, command_version);

/* ---- query-commands -------------------------------------------------------------------------- */

struct command_info {
    const char *name;
};
static const struct field command_info_fields[] = {
    FIELD_REQ(struct command_info, name, "name", &type_str, "Name of the command"),
    {0},
};
static const struct type type_command_info =
    TYPE_STRUCT_OF("CommandInfo", struct command_info, command_info_fields);
static const struct type type_command_list = TYPE_ARRAY_OF(&type_command_info);

static int co_query_commands(const void *args, const struct value *raw, struct command_result *res,
                             struct error *err)
{
    (void)args, (void)raw, (void)err;
    size_t most = 0;
    registry_for_each (command, it)
        most++;
    struct schema_array *list = arena_alloc(res->arena, sizeof(*list));
    struct command_info *info = arena_alloc(res->arena, most * sizeof(*info));
    if (!list || !info)
        return SR_ENOMEM;
    registry_for_each (command, it) {
        size_t i = list->count++;
        for (; i && strcmp(info[i - 1].name, (*it)->name) > 0; i--)
            info[i] = info[i - 1];
        info[i].name = (*it)->name;
    }
    list->items = info;
    res->data = list;
    return 0;
}
static const struct command command_commands = {
    .name = "query-commands",
    .result = &type_command_list,
    .co_run = co_query_commands,
    .doc = "Names of all commands",
};
REGISTER(command, command_commands);

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A configuration that is too long for a command line: a JSON list of QMP commands, run in order.
 *
 *     [{"execute": "blockdev-add", "arguments": {"driver": "virtio-blk", "node-name": "d", "index": 0}},
 *      {"execute": "nbd-server-start", "arguments": {"addr": {"type": "inet", "data": ...}}},
 *      {"execute": "block-export-add", "arguments": {"type": "nbd", "id": "e", "node-name": "d"}}]
 *
 * Those that add things are the options, under the names that QMP has for them; live, over a monitor,
 * they will come with reconfiguration. What is to listen does so when all was applied, as with the
 * command line.
 */
#include <string.h>

#include "control/control.h"
#include "control/dispatch.h"
#include "control/json.h"
#include "kernel/kernel.h"

static const struct option_def *option_of(const char *command)
{
    static const char *const names[][2] = {
        {"blockdev-add", "blockdev"}, {"block-export-add", "export"},
        {"netdev_add", "netdev"},     {"nbd-server-start", "nbd-server"},
        {"object-add", "object"},
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        registry_for_each (option, it)
            if (!strcmp(names[i][0], command) && !strcmp(names[i][1], (*it)->name))
                return *it;
    return NULL;
}

/* QMP nests what the option has flat: {"type": "inet", "data": {"host": ...}}. */
static int flatten_address(struct value *args)
{
    struct value *addr = value_get(args, "addr"), *data = addr ? value_get(addr, "data") : NULL;
    if (!data || value_kind(data) != VALUE_DICT)
        return 0;
    for (size_t i = 0; i < value_count(data); i++) {
        struct value *copy = value_copy(value_at(data, i));
        if (!copy || value_dict_set(addr, value_key_at(data, i), copy))
            return SR_ENOMEM;
    }
    value_dict_remove(addr, "data");
    return 0;
}

static int co_as_option(const struct option_def *o, const struct value *request, struct error *err)
{
    const struct value *given = value_get(request, "arguments");
    struct value *args = given ? value_copy(given) : value_dict();
    int rc = args && value_kind(args) == VALUE_DICT ? flatten_address(args) : 0;
    if (!args || rc)
        rc = SR_ENOMEM;
    else
        rc = co_option_run(o, args, false, err);
    value_free(args);
    return rc;
}

static int co_as_command(const char *name, const struct value *request, struct error *err)
{
    const struct command *c = command_find(name);
    struct value *result = NULL;
    if (!c)
        return error_set_class(err, ERR_COMMAND_NOT_FOUND, SR_EINVAL,
                               "The command %s has not been found", name);
    int rc = co_request_run(request, c, NULL, &result, err);
    value_free(result);
    return rc;
}

static int co_entry(const struct value *request, size_t place, struct error *err)
{
    const char *name = request_command(request, err);
    const struct option_def *o = name ? option_of(name) : NULL;
    int rc = SR_EINVAL;
    if (name)
        rc = o ? co_as_option(o, request, err) : co_as_command(name, request, err);
    if (rc) {
        error_set(err, rc, "%s", sr_strerror(rc)); /* unless it said why */
        error_prepend(err, "command %zu%s%s", place, name ? ", " : "", name ? name : "");
    }
    return rc;
}

int co_control_config(const void *text, size_t len, struct error *err)
{
    struct value *list = json_parse(text, len, err);
    if (!list)
        return SR_EINVAL;
    int rc = value_kind(list) == VALUE_LIST
                 ? 0
                 : error_set(err, SR_EINVAL, "Configuration must be a list of commands");
    for (size_t i = 0; !rc && i < value_count(list); i++)
        rc = co_entry(value_at(list, i), i + 1, err);
    value_free(list);
    return rc;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Options and commands are told apart here for the last time: both are a type, a function, and a
 * tree to decode.
 *
 * A definition can nest as deep as its text (64 levels), and each level costs the decoder three
 * frames. That is more than an ordinary stack has, so checking runs on a big one; it does not yield.
 * What a driver decodes again when it opens goes one level down only.
 */
#include "control/dispatch.h"

#include <string.h>

#include "kernel/kernel.h"

static struct {
    struct co_mutex lock; /* all zero is unlocked, but for the queue: see take() */
    bool ready;
    void *via;
} running;

static void take(void *via)
{
    if (!running.ready)
        co_mutex_init(&running.lock);
    running.ready = true;
    co_mutex_lock(&running.lock);
    running.via = via;
}

static void give_back(void)
{
    running.via = NULL;
    co_mutex_unlock(&running.lock);
}

void *request_via(void)
{
    return running.via;
}

struct decoding {
    const struct type *type;
    const struct value *v;
    unsigned flags;
    void *out;
    struct arena *arena;
    struct error *err;
    int rc;
};

static void decode(void *arg)
{
    struct decoding *d = arg;
    d->rc = schema_decode(d->type, d->v, d->flags, d->out, d->arena, d->err);
}

static int co_decode(const struct type *t, const struct value *v, bool text, struct arena *arena,
                     void **out, struct error *err)
{
    struct decoding d = {.type = t ? t : &type_empty,
                         .v = v,
                         .flags = SCHEMA_DEEP | (text ? SCHEMA_TEXT : 0),
                         .arena = arena,
                         .err = err};
    *out = d.out = arena_alloc(arena, schema_size(d.type));
    if (!d.out)
        return error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    co_on_big_stack(decode, &d);
    return d.rc;
}

/* Whoever failed without a word gets the code's. */
static int explained(int rc, struct error *err)
{
    return rc && !err->set ? error_set(err, rc, "%s", sr_strerror(rc)) : rc;
}

int co_option_run(const struct option_def *o, const struct value *v, bool text, struct error *err)
{
    struct arena arena;
    void *opts;
    arena_init(&arena);
    int rc = co_decode(o->type, v, text, &arena, &opts, err);
    if (!rc) {
        take(NULL);
        rc = o->co_apply(opts, v, text, err);
        give_back();
    }
    arena_free(&arena);
    return explained(rc, err);
}

/* ---- Commands -------------------------------------------------------------------------------- */

const struct command *command_find(const char *name)
{
    registry_for_each (command, it)
        if (!strcmp((*it)->name, name))
            return *it;
    return NULL;
}

static int check_member(const char *key, const struct value *v, struct error *err)
{
    if (!strcmp(key, "execute"))
        return value_kind(v) == VALUE_STR
                   ? 0
                   : error_set(err, SR_EINVAL, "QMP input member 'execute' must be a string");
    if (!strcmp(key, "arguments"))
        return value_kind(v) == VALUE_DICT
                   ? 0
                   : error_set(err, SR_EINVAL, "QMP input member 'arguments' must be an object");
    if (!strcmp(key, "id"))
        return 0;
    return error_set(err, SR_EINVAL, "QMP input member '%s' is unexpected", key);
}

const char *request_command(const struct value *request, struct error *err)
{
    if (value_kind(request) != VALUE_DICT) {
        error_set(err, SR_EINVAL, "QMP input must be a JSON object");
        return NULL;
    }
    for (size_t i = 0; i < value_count(request); i++)
        if (check_member(value_key_at(request, i), value_at(request, i), err))
            return NULL;
    const struct value *execute = value_get(request, "execute");
    if (!execute)
        error_set(err, SR_EINVAL, "QMP input lacks member 'execute'");
    return execute ? value_get_str(execute) : NULL;
}

static int co_run(const struct command *c, const struct value *args, struct value **result,
                  struct error *err)
{
    struct arena arena;
    void *opts;
    arena_init(&arena);
    struct command_result res = {.arena = &arena};
    int rc = co_decode(c->args, args, false, &arena, &opts, err);
    if (!rc)
        rc = c->co_run(opts, args, &res, err);
    if (!rc) {
        *result = c->result ? schema_encode(c->result, res.data) : value_dict();
        rc = *result ? 0 : SR_ENOMEM;
    }
    arena_free(&arena);
    return explained(rc, err);
}

int co_request_run(const struct value *request, const struct command *c, void *via,
                   struct value **result, struct error *err)
{
    const struct value *args = value_get(request, "arguments");
    struct value *none = args ? NULL : value_dict();
    if (!args && !none)
        return error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    take(via);
    int rc = co_run(c, args ? args : none, result, err);
    give_back();
    value_free(none);
    return rc;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports: what all types of them share. An export is an origin on a node, with a name of its own;
 * its type (NBD today) does the rest.
 *
 * A writethrough export completes a write only when it is stable: its edge adds FUA to each one, so
 * the type need not know. Removing an export closes its clients first and its origin, which waits
 * for requests in flight, last.
 */
#include "blk/graph.h"

#include <stdio.h>
#include <string.h>

/* Aligned like what it lists: the end of a walk takes the head for an export. */
static struct list exports __attribute__((aligned(CACHE_LINE))) = LIST_INIT(exports);

struct list *export_list(void)
{
    return &exports;
}

struct export *export_find(const char *id)
{
    list_for_each (e, &exports, struct export, link)
        if (!strcmp(e->id, id))
            return e;
    return NULL;
}

/* ---- tables ---- */

struct base {
    const char *type, *id, *node_name;
    bool writable, writethrough, restart_safe, has_restart_safe;
};
static const struct field base_fields[] = {
    FIELD_REQ(struct base, type, "type", &type_str, "Kind of export"),
    FIELD_REQ(struct base, id, "id", &type_str, "Name of the export in commands"),
    FIELD_REQ(struct base, node_name, "node-name", &type_str, "Node to export"),
    FIELD_DEF(struct base, writable, "writable", &type_bool, "off", "Clients may write"),
    FIELD_DEF(struct base, writethrough, "writethrough", &type_bool, "off",
              "Each write is stable before it completes"),
    FIELD_OPT(struct base, restart_safe, "restart-safe", &type_bool,
              "Each completed write outlives this process, though not a power cut; when absent: on "
              "for vhost-user-*, else off"),
    {0},
};

static const struct export_type *type_find(const char *name)
{
    registry_for_each (export_type, t)
        if (!strcmp((*t)->name, name))
            return *t;
    return NULL;
}

static const struct field no_fields[] = {{0}};
static const struct type type_no_options = {.kind = TYPE_STRUCT, .size = 0, .fields = no_fields};

static const struct type *type_options(const char *name)
{
    const struct export_type *t = type_find(name);
    if (!t)
        return NULL;
    return t->options ? t->options : &type_no_options;
}

static const char *type_name(size_t n)
{
    registry_for_each (export_type, t)
        if (!n--)
            return (*t)->name;
    return NULL;
}

const struct type type_export_options = {.kind = TYPE_UNION,
                                         .name = "BlockExportOptions",
                                         .size = sizeof(struct base),
                                         .fields = base_fields,
                                         .tag = "type",
                                         .branch = type_options,
                                         .iterate = type_name,
                                         .doc = "Definition of an export"};

/* ---- adding and removing ---- */

static void export_free(struct export *e)
{
    list_remove(&e->link);
    blk_free(e->state);
    blk_free(e);
}

static struct export *export_new(const struct export_type *type, const struct base *b)
{
    struct export *e = blk_calloc(sizeof(*e));
    if (!e)
        return NULL;
    list_init(&e->link);
    e->type = type;
    e->writable = b->writable;
    e->writethrough = b->writethrough;
    snprintf(e->id, sizeof(e->id), "%s", b->id);
    e->state = blk_calloc(type->state_size);
    if (e->state)
        return e;
    export_free(e);
    return NULL;
}

static int check(const struct base *b, struct node **n, struct error *err)
{
    struct export *any;
    if (!blk_id_ok(b->id) || strlen(b->id) >= sizeof(any->id))
        return error_set(err, SR_EINVAL, "Invalid block export id");
    if (export_find(b->id))
        return error_set(err, SR_EEXIST, "Block export id '%s' is already in use", b->id);
    *n = node_find(b->node_name);
    if (!*n)
        return error_set(err, SR_ENOENT, "Cannot find device='' nor node-name='%s'", b->node_name);
    if (b->writable && (*n)->read_only)
        return error_set(err, SR_EPERM, "Cannot export read-only node as writable");
    return 0;
}

/* What each write through the edge has to keep, beyond what its client asks for. */
static unsigned edge_flags(const struct node *n, const struct base *b)
{
    bool safe = b->has_restart_safe ? b->restart_safe : type_find(b->type)->restart_safe;
    unsigned settled = safe ? BLK_SETTLED & n->write_flags : 0;
    return settled | (b->writethrough ? BLK_FUA : 0);
}

static int co_add(const struct schema_union *u, struct error *err)
{
    const struct base *b = u->base;
    struct node *n = NULL;
    int r = check(b, &n, err);
    if (r)
        return r;
    struct export *e = export_new(type_find(u->tag), b);
    if (!e)
        return error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    e->origin.exported = true;
    r = origin_open(&e->origin, n, b->writable, err);
    if (r) {
        export_free(e);
        return r;
    }
    e->origin.root->write_flags = edge_flags(n, b);
    r = e->type->co_open(e, u->opts, err);
    if (r) {
        error_set(err, r, "Could not open export '%s': %s", e->id, sr_strerror(r));
        co_origin_close(&e->origin);
        export_free(e);
        return r;
    }
    list_append(&exports, &e->link);
    return 0;
}

int co_export_add(const struct value *def, bool text, struct error *err)
{
    struct schema_union u = {0};
    struct arena arena;
    ASSERT_LOOP(0);
    arena_init(&arena);
    int r = schema_decode(&type_export_options, def, text ? SCHEMA_TEXT : 0, &u, &arena, err);
    if (!r)
        r = co_add(&u, err);
    arena_free(&arena);
    return r;
}

void co_export_del(struct export *e, uint64_t deadline_ns)
{
    ASSERT_LOOP(0);
    e->shutting_down = true;
    e->type->co_close(e, deadline_ns);
    co_origin_close(&e->origin);
    export_free(e);
}

/* ---- --export, and the end ---- */

static int co_export(const void *opts, const struct value *raw, bool text, struct error *err)
{
    (void)opts;
    return co_export_add(raw, text, err);
}

static const struct option_def option_export = {
    .name = "export",
    .type = &type_export_options,
    .implied = "type",
    .co_apply = co_export,
    .doc = "Serve a block node",
};
REGISTER(option, option_export);

#define ABORT_NS (500ull * 1000000) /* to notice that a connection was cut */

struct ending {
    struct co_start start;
    uint64_t deadline_ns;
    bool done;
};
static struct ending ending;
static void co_end_all(void *arg)
{
    struct ending *end = arg;
    while (!list_empty(&exports))
        co_export_del(list_first(&exports, struct export, link), end->deadline_ns);
    end->done = true;
}

/* As with nodes: requests stuck in a dead disk are left behind at the deadline. */
static void co_stop_exports(uint64_t deadline_ns)
{
    ending = (struct ending){.deadline_ns = deadline_ns};
    co_start_child(&ending.start, co_end_all, &ending);
    while (!ending.done && board_clock_ns() < deadline_ns + ABORT_NS)
        co_sleep_ns(1000000);
    list_for_each (e, &exports, struct export, link) {
        log_line("blk", "export %s: requests still in flight", e->id);
        system_unclean();
    }
}

static const struct stop_hook stop_exports = {
    .name = "exports", .order = STOP_EXPORTS, .co_run = co_stop_exports};
REGISTER(stop_hook, stop_exports);

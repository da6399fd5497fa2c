/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From a definition to an open node: the tables of BlockdevOptions, and what they mean.
 *
 *     {"driver": "raw", "node-name": "vol0", "file": {"driver": "virtio-blk", "serial": "d0"}}
 *      common options -> struct base -> struct node      driver's own -> drv->co_open
 *
 * An inline child takes what it does not say from its parent, as in QEMU: caching, force-share and
 * read-only (`backing`: always read-only), and discard=unmap, because the parent's own setting has
 * decided already what reaches it. A child referred to by name has been told everything.
 *
 * When anything fails, whatever the definition had opened is closed again. Nested definitions
 * recurse through co_call when the stack gets short, no deeper than a graph may be.
 */
#include "blk/graph.h"
#include "blk/io.h"

#include <stdio.h>
#include <string.h>

/* ---- tables ---- */

struct cache {
    bool has_direct, direct, has_no_flush, no_flush;
};
struct base {
    const char *driver, *node_name;
    bool has_discard, has_cache, has_read_only, has_auto_read_only, has_force_share;
    bool read_only, auto_read_only, force_share;
    int discard, detect_zeroes; /* detect_zeroes: as in struct node */
    struct cache cache;
};
enum { DISCARD_IGNORE, DISCARD_UNMAP };

static const char *const discard_names[] = {"ignore", "unmap", NULL};
static const char *const detect_names[] = {"off", "on", "unmap", NULL};
static const struct type type_discard = TYPE_ENUM_OF("BlockdevDiscardOptions", discard_names);
static const struct type type_detect = TYPE_ENUM_OF("BlockdevDetectZeroesOptions", detect_names);

static const struct field cache_fields[] = {
    FIELD_OPT(struct cache, direct, "direct", &type_bool, "Bypass the host's page cache"),
    FIELD_OPT(struct cache, no_flush, "no-flush", &type_bool, "Ignore flush requests"),
    {0},
};
static const struct type type_cache =
    TYPE_STRUCT_OF("BlockdevCacheOptions", struct cache, cache_fields);

static const struct field base_fields[] = {
    FIELD_REQ(struct base, driver, "driver", &type_str, "Format, filter or protocol"),
    FIELD_OPTS(struct base, node_name, "node-name", &type_str,
               "Name of the node; 31 characters at most"),
    FIELD_OPT(struct base, discard, "discard", &type_discard,
              "What becomes of discard requests (default: ignore)"),
    FIELD_OPT(struct base, cache, "cache", &type_cache, "Caching of the medium"),
    FIELD_OPT(struct base, read_only, "read-only", &type_bool, "Never write (default: off)"),
    FIELD_OPT(struct base, auto_read_only, "auto-read-only", &type_bool,
              "Become read-only when the medium is (default: off)"),
    FIELD_OPT(struct base, force_share, "force-share", &type_bool,
              "Share the image with whoever wants it; needs read-only (default: off)"),
    FIELD_DEF(struct base, detect_zeroes, "detect-zeroes", &type_detect, "off",
              "Turn writes of zeroes into write-zeroes requests"),
    {0},
};

static const struct blk_driver *driver_find(const char *name)
{
    registry_for_each (blk_driver, d)
        if (!strcmp((*d)->name, name))
            return *d;
    return NULL;
}

static const struct field no_fields[] = {{0}};
static const struct type type_no_options = {.kind = TYPE_STRUCT, .size = 0, .fields = no_fields};

static const struct type *driver_options(const char *name)
{
    const struct blk_driver *d = driver_find(name);
    if (!d)
        return NULL;
    return d->options ? d->options : &type_no_options;
}

static const char *driver_name(size_t n)
{
    registry_for_each (blk_driver, d)
        if (!n--)
            return (*d)->name;
    return NULL;
}

const struct type type_blockdev_options = {.kind = TYPE_UNION,
                                           .name = "BlockdevOptions",
                                           .size = sizeof(struct base),
                                           .fields = base_fields,
                                           .tag = "driver",
                                           .branch = driver_options,
                                           .iterate = driver_name,
                                           .doc = "Definition of a block node"};
const struct type type_blockdev_ref = {.kind = TYPE_REF,
                                       .name = "BlockdevRef",
                                       .element = &type_blockdev_options,
                                       .doc = "Name of a node, or the definition of one"};
const struct type type_blockdev_ref_or_null = {.kind = TYPE_REF,
                                               .name = "BlockdevRefOrNull",
                                               .element = &type_blockdev_options,
                                               .null_ok = true,
                                               .doc = "Node, definition, or null for none"};

/* ---- common options ---- */

static void inherit(struct base *b, const struct node *parent, const char *role)
{
    bool backing = !strcmp(role, "backing");
    if (!b->has_read_only)
        b->read_only = backing || parent->read_only;
    if (!b->has_auto_read_only)
        b->auto_read_only = !backing && parent->auto_read_only;
    if (!b->has_discard)
        b->discard = DISCARD_UNMAP;
    if (!b->has_force_share)
        b->force_share = parent->force_share;
    if (!b->cache.has_direct)
        b->cache.direct = parent->cache_direct;
    if (!b->cache.has_no_flush)
        b->cache.no_flush = parent->cache_no_flush;
}

static int apply(struct node *n, const struct base *b, struct error *err)
{
    n->read_only = b->read_only;
    n->auto_read_only = b->auto_read_only;
    n->force_share = b->force_share;
    n->discard_unmap = b->discard == DISCARD_UNMAP;
    n->cache_direct = b->cache.direct;
    n->cache_no_flush = b->cache.no_flush;
    n->detect_zeroes = (__typeof__(n->detect_zeroes))b->detect_zeroes;
    if (n->detect_zeroes == DETECT_ZEROES_UNMAP && !n->discard_unmap)
        return error_set(err, SR_EINVAL,
                         "setting detect-zeroes to unmap is not allowed without setting discard "
                         "operation to unmap");
    if (n->force_share && !n->read_only)
        return error_set(err, SR_EINVAL, "force-share=on can only be used with read-only images");
    return 0;
}

/* ---- opening ---- */

struct opening {
    const struct value *def;
    bool text, named;
    struct node *parent; /* of an inline definition */
    const char *role;
    struct node *node; /* result */
    struct error *err;
    int result;
};

static void finish(struct node *n, bool named)
{
    if (!n->filename[0] && n->file)
        memcpy(n->filename, n->file->node->filename, sizeof(n->filename));
    n->monitor_owned = named;
    n->opening = false;
}

static int co_open_decoded(struct opening *o, const struct schema_union *u)
{
    struct base *b = u->base;
    if (o->named && !b->node_name)
        return error_set(o->err, SR_EINVAL, "'node-name' must be specified for the root node");
    struct node *n = node_new(driver_find(u->tag), b->node_name, o->err);
    if (!n)
        return SR_EINVAL;
    if (o->parent)
        inherit(b, o->parent, o->role);
    int r = apply(n, b, o->err);
    if (!r) {
        r = n->drv->co_open(n, u->opts, o->err);
        if (r) /* the first sentence wins; this is for drivers that said nothing */
            error_set(o->err, r, "Could not open '%s': %s", n->name, sr_strerror(r));
    }
    if (!r) {
        r = node_check_limits(n, o->err);
        if (r && n->drv->co_close)
            n->drv->co_close(n);
    }
    if (r) {
        co_node_discard(n);
        return r;
    }
    finish(n, o->named);
    o->node = n;
    return 0;
}

static unsigned nesting; /* definitions being opened, one inside the other: loop 0, one at a time */

static void co_open(void *arg)
{
    struct opening *o = arg;
    struct schema_union u = {0};
    struct arena arena;
    if (nesting >= BLK_MAX_DEPTH) {
        o->result = error_set(o->err, SR_EINVAL, "Definition is nested too deeply");
        return;
    }
    nesting++;
    arena_init(&arena);
    o->result = schema_decode(&type_blockdev_options, o->def, o->text ? SCHEMA_TEXT : 0, &u, &arena,
                              o->err);
    if (!o->result)
        o->result = co_open_decoded(o, &u);
    arena_free(&arena);
    nesting--;
}

static int co_open_any(struct opening *o)
{
    ASSERT_LOOP(0);
    if (co_headroom_short())
        co_call(co_open, o);
    else
        co_open(o);
    return o->result;
}

int co_node_open(const struct value *def, bool text, bool named, struct node **out,
                 struct error *err)
{
    struct opening o = {.def = def, .text = text, .named = named, .err = err};
    int r = co_open_any(&o);
    *out = o.node;
    return r;
}

static int co_open_inline(struct node *parent, const char *role, const struct schema_ref *ref,
                          struct node **out, struct error *err)
{
    struct opening o = {
        .def = ref->inl, .text = ref->text, .parent = parent, .role = role, .err = err};
    int r = co_open_any(&o);
    *out = o.node;
    return r;
}

int co_child_open(struct node *parent, const char *role, const struct schema_ref *ref,
                  bool writable, struct child **out, struct error *err)
{
    struct node *n;
    int r;
    if (ref->name) {
        n = node_find(ref->name);
        if (!n)
            return error_set(err, SR_ENOENT, "Cannot find device='%s' nor node-name='%s'",
                             ref->name, ref->name);
        return child_attach(parent, role, n, writable, out, err);
    }
    if (!ref->inl)
        return error_set(err, SR_EINVAL, "Node '%s' needs a node as its %s", parent->name, role);
    r = co_open_inline(parent, role, ref, &n, err);
    if (r)
        return r;
    r = child_attach(parent, role, n, writable, out, err);
    co_node_unref(n); /* the edge has its own reference; without one the child closes */
    return r;
}

/* ---- --blockdev, and the end ---- */

static int co_blockdev(const void *opts, const struct value *raw, bool text, struct error *err)
{
    struct node *n;
    (void)opts;
    return co_node_open(raw, text, true, &n, err);
}

static const struct option_def option_blockdev = {
    .name = "blockdev",
    .type = &type_blockdev_options,
    .implied = "driver",
    .co_apply = co_blockdev,
    .doc = "Open a block node: a disk, or a format or filter on top of another node",
};
REGISTER(option, option_blockdev);

static struct node *first_named(void)
{
    list_for_each (n, node_list(), struct node, link)
        if (n->monitor_owned)
            return n;
    return NULL;
}

/* What an export that did not end still holds cannot be closed; it is flushed all the same. It may
 * end meanwhile: the node at hand and the next are held. */
static void co_flush_rest(void)
{
    struct node *n = list_first(node_list(), struct node, link), *next;
    if (n)
        n->refs++;
    for (; n; n = next) {
        co_node_flush(n);
        next = n->link.next == node_list() ? NULL : list_entry(n->link.next, struct node, link);
        if (next)
            next->refs++;
        co_node_unref(n);
    }
}

static struct co_start closing;
static bool closing_done;
static void co_close_named(void *arg)
{
    struct node *n;
    (void)arg;
    while ((n = first_named())) {
        n->monitor_owned = false;
        co_node_unref(n);
    }
    co_flush_rest();
    closing_done = true;
}

/* A disk that never answers must not keep us from going: closing runs by itself, and is waited for
 * until the deadline. */
static void co_stop_nodes(uint64_t deadline_ns)
{
    closing_done = false;
    co_start_child(&closing, co_close_named, NULL);
    while (!closing_done && board_clock_ns() < deadline_ns)
        co_sleep_ns(1000000);
    list_for_each (n, node_list(), struct node, link)
        log_line("blk", "node %s: %s", n->name,
                 closing_done ? "flushed, not closed" : "not closed");
    if (!closing_done || !list_empty(node_list()))
        system_unclean();
}

static const struct stop_hook stop_nodes = {
    .name = "nodes", .order = STOP_NODES, .co_run = co_stop_nodes};
REGISTER(stop_hook, stop_nodes);

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Nodes and edges: life, names, sizes.
 *
 * A node is on the list from its making, so that a name is taken at once, but found by name only
 * when its driver has opened it: a definition cannot refer to the node that it defines. Edges are
 * made while the parent opens and nobody else knows it. Together: no cycle can be made, and the
 * depth of a node, one more than its deepest child's, is known for good.
 *
 * Each edge holds one reference, the user's name one more. The last one gone, the node leaves the
 * list, is flushed and closed, then lets go of its children: parents first. A chain is taken down in
 * a loop, not by recursion; depth costs no stack.
 */
#include "blk/graph.h"
#include "blk/io.h"

#include <stdio.h>
#include <string.h>

static struct list nodes = LIST_INIT(nodes);
static unsigned auto_names;

struct list *node_list(void)
{
    return &nodes;
}

/* ---- memory ---- */

/* The allocator's pointer is kept right before the aligned memory. */
void *blk_calloc(size_t n)
{
    char *raw = sr_calloc(1, n + 2 * CACHE_LINE);
    if (!raw)
        return NULL;
    char *p = raw + sizeof(void *);
    p += -(uintptr_t)p & (CACHE_LINE - 1);
    memcpy(p - sizeof(raw), &raw, sizeof(raw));
    return p;
}

void blk_free(void *p)
{
    char *raw;
    if (!p)
        return;
    memcpy(&raw, (char *)p - sizeof(raw), sizeof(raw));
    sr_free(raw);
}

/* ---- names ---- */

static struct node *find_any(const char *name)
{
    list_for_each (n, &nodes, struct node, link)
        if (!strcmp(n->name, name))
            return n;
    return NULL;
}

struct node *node_find(const char *name)
{
    struct node *n = find_any(name);
    return n && !n->opening ? n : NULL;
}

static bool letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* QEMU's rule for everything that a user names. */
bool blk_id_ok(const char *s)
{
    if (!letter(*s))
        return false;
    while (letter(*s) || (*s >= '0' && *s <= '9') || (*s && strchr("-._", *s)))
        s++;
    return !*s;
}

static int name_node(struct node *n, const char *name, struct error *err)
{
    if (!name) {
        do
            snprintf(n->name, sizeof(n->name), "#block%03u", auto_names++);
        while (find_any(n->name));
        return 0;
    }
    if (!blk_id_ok(name))
        return error_set(err, SR_EINVAL, "Invalid node-name: '%s'", name);
    if (find_any(name))
        return error_set(err, SR_EEXIST, "Duplicate nodes with node-name='%s'", name);
    if (strlen(name) > NODE_NAME_MAX)
        return error_set(err, SR_EINVAL, "Node name too long");
    strcpy(n->name, name);
    return 0;
}

/* ---- making and taking down ---- */

static void node_free(struct node *n)
{
    list_remove(&n->link);
    reserve_close(n);
    blk_free(n->state);
    blk_free(n->stats);
    blk_free(n);
}

struct node *node_new(const struct blk_driver *drv, const char *name, struct error *err)
{
    struct node *n = blk_calloc(sizeof(*n));
    if (!n)
        goto nomem;
    list_init(&n->link);
    list_init(&n->writes);
    list_init(&n->children);
    list_init(&n->parents);
    co_queue_init(&n->flush_wait);
    n->drv = drv;
    n->opening = true;
    n->depth = 1;
    n->refs = 1;
    n->stats = blk_calloc(loop_count() * sizeof(*n->stats));
    n->state = blk_calloc(drv->state_size);
    if (!n->stats || !n->state || zeroes_init())
        goto nomem;
    if (name_node(n, name, err)) {
        node_free(n);
        return NULL;
    }
    list_append(&nodes, &n->link);
    return n;
nomem:
    error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    if (n)
        node_free(n);
    return NULL;
}

/* Cuts the edge. The child, when nobody else holds it. */
static struct node *cut(struct child *c)
{
    struct node *n = c->node, *parent = c->parent;
    if (parent->file == c)
        parent->file = NULL;
    if (parent->backing == c)
        parent->backing = NULL;
    list_remove(&c->sibling);
    list_remove(&c->peer);
    if (n->quiesced)
        node_unquiesce(parent);
    sr_free(c);
    return --n->refs ? NULL : n;
}

/* Cuts all edges of n. Children that nobody holds any more leave the list of nodes for `closing`. */
static void cut_all(struct node *n, struct list *closing)
{
    while (!list_empty(&n->children)) {
        struct node *child = cut(list_first(&n->children, struct child, sibling));
        if (!child)
            continue;
        list_remove(&child->link);
        list_append(closing, &child->link);
    }
}

static void co_close(struct node *n)
{
    int r = co_node_flush(n);
    if (r) {
        log_line("blk", "node %s: flush at close: %s", n->name, sr_strerror(r));
        system_unclean();
    }
    if (n->drv->co_close)
        n->drv->co_close(n);
}

static void co_close_all(struct list *closing)
{
    struct node *n;
    while ((n = list_first(closing, struct node, link))) {
        co_close(n);
        cut_all(n, closing);
        node_free(n);
    }
}

void co_node_discard(struct node *n)
{
    struct list closing = LIST_INIT(closing);
    cut_all(n, &closing);
    node_free(n);
    co_close_all(&closing);
}

/* Nobody holds it. */
static void co_node_close(struct node *n)
{
    struct list closing = LIST_INIT(closing);
    list_remove(&n->link);
    list_append(&closing, &n->link);
    co_close_all(&closing);
}

void co_node_unref(struct node *n)
{
    ASSERT_LOOP(0);
    ASSERT(n->refs);
    if (!--n->refs)
        co_node_close(n);
}

/* ---- who may write ---- */

/* What has metadata in a node is its only writer. What has none (raw, filters) passes on what is asked
 * of it: the owner of it owns what is below, too. A backing file is only read. Who opens a node for
 * work of ours (a check, a job) knows what it does. */
static bool owns(const struct child *c)
{
    return c->parent && c->parent->drv->owner && strcmp(c->role, "backing") != 0;
}

static const struct child *owner_of(const struct node *n, const struct child *but)
{
    list_for_each (c, &n->parents, struct child, peer) {
        const struct child *o = owns(c) && c != but ? c : NULL;
        if (!o && c != but && c->parent && c == c->parent->file)
            o = owner_of(c->parent, but);
        if (o)
            return o;
    }
    return NULL;
}

static const struct child *writer_of(const struct node *n, const struct child *but)
{
    const struct child *from = NULL;
    for (; n; from = n->drv->owner ? NULL : n->file, n = from ? from->node : NULL)
        list_for_each (c, &n->parents, struct child, peer)
            if (c->writable && c != from && c != but && (c->parent || c->origin->exported))
                return c;
    return NULL;
}

static const char *user(const struct child *c, char *buf, size_t size)
{
    if (!c->parent)
        return "an unnamed block device";
    snprintf(buf, size, "node '%s'", c->parent->name);
    return buf;
}

int node_may_attach(const struct child *c, struct error *err)
{
    char a[80], b[80];
    bool writes = c->writable && (c->parent || c->origin->exported);
    const struct child *owner = writes ? owner_of(c->node, c) : NULL;
    const struct child *writer = !owner && owns(c) ? writer_of(c->node, c) : NULL;
    if (!owner && !writer)
        return 0;
    owner = owner ? owner : c;
    writer = writer ? writer : c;
    return error_set(
        err, SR_EPERM,
        "Permission conflict on node '%s': permissions 'write' are both required by %s "
        "(uses node '%s' as '%s' child) and unshared by %s (uses node '%s' as '%s' "
        "child).",
        c->node->name, user(writer, a, sizeof(a)), writer->node->name, writer->role,
        user(owner, b, sizeof(b)), owner->node->name, owner->role);
}

/* ---- edges ---- */

int child_attach(struct node *parent, const char *role, struct node *n, bool writable,
                 struct child **out, struct error *err)
{
    ASSERT(parent->opening && list_empty(&parent->parents));
    if (writable && n->read_only)
        return error_set(err, SR_EPERM, "Block node is read-only");
    if (n->depth >= BLK_MAX_DEPTH)
        return error_set(err, SR_EINVAL, "Node '%s' would be more than %d nodes deep", parent->name,
                         BLK_MAX_DEPTH);
    struct child *c = sr_calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    *c = (struct child){.node = n, .parent = parent, .role = role, .writable = writable};
    int r = node_may_attach(c, err);
    if (r) {
        sr_free(c);
        return r;
    }
    if (list_empty(&parent->children))
        parent->limits = n->limits;
    list_append(&parent->children, &c->sibling);
    list_append(&n->parents, &c->peer);
    n->refs++;
    parent->depth = MAX(parent->depth, n->depth + 1);
    if (!strcmp(role, "file"))
        parent->file = c;
    if (!strcmp(role, "backing"))
        parent->backing = c;
    if (n->quiesced)
        node_quiesce(parent);
    *out = c;
    return 0;
}

int child_allow_writes(struct child *c, struct error *err)
{
    c->writable = true;
    int r = node_may_attach(c, err);
    c->writable = !r;
    return r;
}

void co_child_detach(struct child *c)
{
    struct node *n = cut(c);
    if (n)
        co_node_close(n);
}

/* ---- limits, sizes ---- */

int node_check_limits(struct node *n, struct error *err)
{
    struct blk_limits *l = &n->limits;
    l->request_alignment = MAX(l->request_alignment, 1u);
    l->mem_align = MAX(l->mem_align, 1u);
    if (!l->max_transfer || l->max_transfer > BLK_MAX_PIECE)
        l->max_transfer = BLK_MAX_PIECE;
    if (!is_pow2(l->request_alignment) || l->request_alignment > 64u << 10 ||
        !is_pow2(l->mem_align) || l->mem_align > PAGE_SIZE)
        return error_set(err, SR_EINVAL,
                         "Node '%s' has an alignment that is not supported (%u, %u)", n->name,
                         l->request_alignment, l->mem_align);
    l->max_transfer = (uint32_t)align_down(l->max_transfer, l->request_alignment);
    l->discard_alignment = (uint32_t)align_up(l->discard_alignment, l->request_alignment);
    l->write_zeroes_alignment = (uint32_t)align_up(l->write_zeroes_alignment, l->request_alignment);
    if (!l->max_transfer)
        return error_set(err, SR_EINVAL, "Node '%s' transfers less than its alignment", n->name);
    if (n->size > BLK_MAX_REQUEST)
        return error_set(err, SR_EINVAL, "Node '%s' is too large", n->name);
    n->tracking = l->request_alignment > 1;
    if (reserve_open(n))
        return error_set(err, SR_ENOMEM, "%s", sr_strerror(SR_ENOMEM));
    return 0;
}

static uint64_t size_above(struct node *n, struct child *c)
{
    if (n->drv->child_resized)
        return n->drv->child_resized(n, c);
    return n->drv->filter ? c->node->size : n->size;
}

/* Other loops may be looking at it. */
static void set_size(struct node *n, uint64_t size)
{
    __atomic_store_n(&n->size, size, __ATOMIC_RELAXED);
}

static void tell_origin(struct origin *o)
{
    if (o->resized)
        o->resized(o);
}

/* Only along `file` edges: each node has one, so nobody is reached twice. */
void node_resized(struct node *n, uint64_t size)
{
    struct node *todo = n;
    ASSERT_LOOP(0);
    set_size(n, size);
    n->todo = NULL;
    while ((n = todo)) {
        todo = n->todo;
        list_for_each (c, &n->parents, struct child, peer) {
            if (c->origin)
                tell_origin(c->origin);
            if (!c->parent || c->parent->file != c)
                continue;
            uint64_t now = size_above(c->parent, c);
            if (now == c->parent->size)
                continue;
            set_size(c->parent, now);
            c->parent->todo = todo;
            todo = c->parent;
        }
    }
}

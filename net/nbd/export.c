/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports of type "nbd": a name, a description, and the connections that use it.
 *
 * Names are exact; the empty one is an alias while there is one export. What a client is told of
 * size is the node's, rounded down to whole blocks, so that every byte told of can be read. The
 * minimum block size is 1, since the graph aligns for itself; the alignment is in the preferred one.
 *
 * Closing. Requests that are under way end and are answered; new ones get ESHUTDOWN. When nothing
 * is left to be sent, or at the deadline, the streams are aborted, and the connections end by
 * themselves.
 */
#include "net/nbd/nbd.h"

#define POLL_NS  (2ull * 1000000)
#define GRACE_NS (10ull * 1000000) /* for replies that the stream copied: two turns are enough */

struct list nbd_exports = LIST_INIT(nbd_exports);
static uint64_t last_serial;

struct nbd_export_options {
    const char *name, *description;
};
static const struct field nbd_export_fields[] = {
    FIELD_OPTS(struct nbd_export_options, name, "name", &type_str,
               "Name that clients ask for; the node's name when absent"),
    FIELD_OPTS(struct nbd_export_options, description, "description", &type_str,
               "Text that clients can show"),
    {0},
};
static const struct type nbd_export_type_options =
    TYPE_STRUCT_OF("BlockExportOptionsNbd", struct nbd_export_options, nbd_export_fields);

/* ---- What is told about it -------------------------------------------------------------------- */

uint32_t nbd_export_alignment(const struct nbd_export *x)
{
    return x->e->origin.root->node->limits.request_alignment;
}

uint16_t nbd_export_flags(const struct nbd_export *x, const struct nbd_conn *c)
{
    uint16_t f = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
    if (x->e->writable)
        f |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    else
        f |= NBD_FLAG_READ_ONLY;
    if (nbd_server_multi_conn())
        f |= NBD_FLAG_CAN_MULTI_CONN;
    if (c->mode != NBD_SIMPLE)
        f |= NBD_FLAG_SEND_DF;
    if (c->mode == NBD_EXTENDED && c->status)
        f |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    return f;
}

/* ---- Finding ---------------------------------------------------------------------------------- */

static bool only_one(void)
{
    return !list_empty(&nbd_exports) && nbd_exports.next->next == &nbd_exports;
}

static struct nbd_export *find(const char *name, size_t len)
{
    list_for_each (x, &nbd_exports, struct nbd_export, link)
        if (x->name_len == len && !memcmp(x->name, name, len))
            return x;
    return NULL;
}

struct nbd_export *nbd_export_lookup(const char *name, size_t len)
{
    struct nbd_export *x = find(name, len);
    return !x && !len && only_one() ? list_first(&nbd_exports, struct nbd_export, link) : x;
}

struct nbd_export *nbd_export_by_serial(uint64_t serial)
{
    list_for_each (x, &nbd_exports, struct nbd_export, link)
        if (x->serial == serial)
            return x;
    return NULL;
}

void nbd_export_attach(struct nbd_export *x, struct nbd_conn *c)
{
    c->exp = x;
    list_append(&x->conns, &c->export_link);
}

/* ---- Open and close --------------------------------------------------------------------------- */

static int check_options(const char *name, const char *description, struct error *err)
{
    if (!nbd_server_running())
        return error_set(err, SR_EINVAL, "NBD server not running");
    if (strlen(name) > NBD_MAX_STRING)
        return error_set(err, SR_EINVAL, "export name '%s' too long", name);
    if (description && strlen(description) > NBD_MAX_STRING)
        return error_set(err, SR_EINVAL, "description '%s' too long", description);
    if (find(name, strlen(name)))
        return error_set(err, SR_EEXIST, "NBD server already has export named '%s'", name);
    return 0;
}

static int co_export_open(struct export *e, const void *opts, struct error *err)
{
    const struct nbd_export_options *o = opts;
    struct nbd_export *x = e->state;
    const char *name = o->name ? o->name : e->origin.root->node->name;
    int rc = check_options(name, o->description, err);
    if (rc)
        return rc;
    x->e = e;
    x->name = sr_strdup(name);
    x->description = o->description ? sr_strdup(o->description) : NULL;
    if (!x->name || (o->description && !x->description)) {
        sr_free(x->name);
        sr_free(x->description);
        return error_set(err, SR_ENOMEM, "out of memory");
    }
    x->name_len = strlen(name);
    x->serial = ++last_serial;
    list_init(&x->conns);
    list_append(&nbd_exports, &x->link);
    return 0;
}

/* Nothing under way, and every buffer that was lent is back. */
static bool idle(const struct nbd_conn *c)
{
    return !c->inflight && !c->bufs.c4.held && !c->bufs.c32.held && !c->bufs.c256.held;
}

static bool all_idle(const struct nbd_export *x)
{
    list_for_each (c, &x->conns, struct nbd_conn, export_link)
        if (!idle(c))
            return false;
    return true;
}

static void co_export_close(struct export *e, uint64_t deadline_ns)
{
    struct nbd_export *x = e->state;
    e->shutting_down = true; /* from here on: ESHUTDOWN */
    list_remove(&x->link);   /* and nobody new finds it */
    while (!all_idle(x) && board_clock_ns() < deadline_ns)
        co_sleep_ns(POLL_NS);
    if (!list_empty(&x->conns))
        co_sleep_ns(GRACE_NS);
    list_for_each (c, &x->conns, struct nbd_conn, export_link)
        stream_abort(c->stream);
    while (!list_empty(&x->conns))
        co_sleep_ns(POLL_NS);
    sr_free(x->name);
    sr_free(x->description);
}

static const struct export_type nbd_export_type = {
    .name = "nbd",
    .options = &nbd_export_type_options,
    .state_size = sizeof(struct nbd_export),
    .co_open = co_export_open,
    .co_close = co_export_close,
};
REGISTER(export_type, nbd_export_type);

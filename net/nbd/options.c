/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The options that have contents: EXPORT_NAME, LIST, INFO, GO, LIST_META_CONTEXT, SET_META_CONTEXT.
 *
 * Each reply is put together without yielding in between, since exports come and go: what is said
 * of an export is said at one moment, and GO attaches the connection to it in the same moment.
 *
 * Metadata contexts. There is one, "base:allocation". Queries of other namespaces and other leaves
 * are ignored, as the specification wants; "base:" is a wildcard in LIST and nothing in SET. A SET
 * that fails leaves nothing selected. What is selected counts for GO with the same export only.
 */
#include "net/nbd/handshake.h"

static const char context_name[] = "base:allocation";

/* What SET_META_CONTEXT selected counts for the export that it named. */
static void bind_contexts(struct nbd_conn *c, const struct nbd_export *x)
{
    c->status = c->status && c->status_for == x->serial;
}

/* ---- EXPORT_NAME ------------------------------------------------------------------------------ */

/* It cannot be answered with an error: every problem closes the connection. */
int co_opt_export_name(struct haggle *h)
{
    struct nbd_conn *c = h->c;
    uint32_t n = h->left;
    int rc = co_haggle_take_string(h, n);
    if (rc)
        return rc;
    struct nbd_export *x = nbd_export_lookup((const char *)h->name, n);
    if (!x || c->mode == NBD_EXTENDED)
        return HAGGLE_CLOSE;
    bind_contexts(c, x);
    nbd_export_attach(x, c);
    struct nbd_export_name_reply r;
    be64_set(&r.size, nbd_export_size(x));
    be16_set(&r.flags, nbd_export_flags(x, c));
    memset(h->reply, 0, sizeof(r) + NBD_EXPORT_PAD);
    memcpy(h->reply, &r, sizeof(r));
    h->reply_len = sizeof(r) + (c->no_zeroes ? 0 : NBD_EXPORT_PAD);
    rc = co_haggle_send(h);
    return rc ? rc : HAGGLE_TRANSMISSION;
}

/* ---- LIST ------------------------------------------------------------------------------------- */

static struct nbd_export *nth_export(unsigned n)
{
    list_for_each (x, &nbd_exports, struct nbd_export, link)
        if (!n--)
            return x;
    return NULL;
}

int co_opt_list(struct haggle *h)
{
    struct nbd_export *x;
    if (h->left)
        return SR_EINVAL;
    for (unsigned i = 0; (x = nth_export(i)); i++) {
        size_t description = x->description ? strlen(x->description) : 0;
        uint8_t head[sizeof(be32)];
        be32_set((be32 *)head, (uint32_t)x->name_len);
        haggle_reply2(h, NBD_REP_SERVER, head, sizeof(head), x->name, x->name_len);
        /* The description follows the name in the same reply. */
        struct nbd_option_reply *r = (struct nbd_option_reply *)h->reply;
        be32_set(&r->len, (uint32_t)(sizeof(head) + x->name_len + description));
        ASSERT(sizeof(h->reply) - h->reply_len >= description);
        if (description)
            memcpy(h->reply + h->reply_len, x->description, description);
        h->reply_len += description;
        int rc = co_haggle_send(h);
        if (rc)
            return rc;
    }
    haggle_reply(h, NBD_REP_ACK, NULL, 0);
    return co_haggle_send(h);
}

/* ---- INFO, GO --------------------------------------------------------------------------------- */

struct info_wanted {
    bool name, description, block_size;
};

/* u16 count, then as many u16. Unknown ones: "MUST ignore". */
static int co_take_info_list(struct haggle *h, struct info_wanted *w)
{
    be16 n, type;
    int rc = co_haggle_take(h, &n, sizeof(n));
    if (rc)
        return rc;
    if (h->left != sizeof(type) * be16_get(n))
        return SR_EINVAL;
    while (h->left) {
        rc = co_haggle_take(h, &type, sizeof(type));
        if (rc)
            return rc;
        w->name |= be16_get(type) == NBD_INFO_NAME;
        w->description |= be16_get(type) == NBD_INFO_DESCRIPTION;
        w->block_size |= be16_get(type) == NBD_INFO_BLOCK_SIZE;
    }
    return 0;
}

static void info_text(struct haggle *h, enum nbd_info type, const char *text, size_t len)
{
    be16 head;
    be16_set(&head, type);
    haggle_reply2(h, NBD_REP_INFO, &head, sizeof(head), text, len);
}

static void info_block_size(struct haggle *h, const struct nbd_export *x)
{
    struct nbd_info_block_size b;
    be16_set(&b.type, NBD_INFO_BLOCK_SIZE);
    be32_set(&b.minimum, 1); /* the graph aligns for itself */
    be32_set(&b.preferred, MAX(nbd_export_alignment(x), 4096u));
    be32_set(&b.maximum, NBD_MAX_PAYLOAD);
    haggle_reply(h, NBD_REP_INFO, &b, sizeof(b));
}

static void info_export(struct haggle *h, const struct nbd_export *x)
{
    struct nbd_info_export e;
    be16_set(&e.type, NBD_INFO_EXPORT);
    be64_set(&e.size, nbd_export_size(x));
    be16_set(&e.flags, nbd_export_flags(x, h->c));
    haggle_reply(h, NBD_REP_INFO, &e, sizeof(e));
}

static int co_take_name(struct haggle *h, uint32_t *len)
{
    be32 n;
    int rc = co_haggle_take(h, &n, sizeof(n));
    *len = be32_get(n);
    return rc ? rc : co_haggle_take_string(h, *len);
}

int co_opt_info(struct haggle *h)
{
    struct nbd_conn *c = h->c;
    struct info_wanted w = {0};
    uint32_t n;
    int rc = co_take_name(h, &n);
    if (!rc)
        rc = co_take_info_list(h, &w);
    if (rc)
        return rc;
    struct nbd_export *x = nbd_export_lookup((const char *)h->name, n);
    if (!x)
        return co_haggle_refuse(h, NBD_REP_ERR_UNKNOWN, "no such export");
    bool go = h->option == NBD_OPT_GO, status = c->status;
    bind_contexts(c, x); /* the flags depend on it */
    if (w.name)
        info_text(h, NBD_INFO_NAME, x->name, x->name_len);
    if (w.description && x->description)
        info_text(h, NBD_INFO_DESCRIPTION, x->description, strlen(x->description));
    if (w.block_size)
        info_block_size(h, x);
    info_export(h, x);
    haggle_reply(h, NBD_REP_ACK, NULL, 0);
    if (go) {
        nbd_export_attach(x, c);
    } else {
        c->status = status;
    }
    rc = co_haggle_send(h);
    return rc ? rc : go ? HAGGLE_TRANSMISSION : HAGGLE_ON;
}

/* ---- Metadata contexts ------------------------------------------------------------------------ */

static bool name_is(const struct haggle *h, uint32_t len, const char *s)
{
    return len == strlen(s) && !memcmp(h->name, s, len);
}

/* Reads the queries; *match: one of them means our context. A query without a colon is
 * "semantically invalid". */
static int co_take_queries(struct haggle *h, bool list, bool *match)
{
    be32 count;
    int rc = co_haggle_take(h, &count, sizeof(count));
    if (rc)
        return rc;
    *match = list && !be32_get(count);
    for (uint32_t i = be32_get(count), n; i; i--) {
        rc = co_take_name(h, &n);
        if (rc)
            return rc;
        if (!memchr(h->name, ':', n))
            return SR_EINVAL;
        *match |= name_is(h, n, context_name) || (list && name_is(h, n, "base:"));
    }
    return h->left ? SR_EINVAL : 0;
}

/* *out: the export, looked up again after the queries were read, for it may have gone meanwhile. */
static int co_meta(struct haggle *h, bool list, struct nbd_export **out, bool *match)
{
    uint32_t n;
    if (h->c->mode == NBD_SIMPLE)
        return SR_EINVAL; /* "MUST NOT be requested unless structured replies ..." */
    int rc = co_take_name(h, &n);
    if (rc)
        return rc;
    struct nbd_export *x = nbd_export_lookup((const char *)h->name, n);
    uint64_t serial = x ? x->serial : 0;
    rc = co_take_queries(h, list, match);
    *out = nbd_export_by_serial(serial);
    return rc;
}

static int co_answer_meta(struct haggle *h, bool match, uint32_t id)
{
    be32 head;
    be32_set(&head, id);
    if (match)
        haggle_reply2(h, NBD_REP_META_CONTEXT, &head, sizeof(head), context_name,
                      sizeof(context_name) - 1);
    haggle_reply(h, NBD_REP_ACK, NULL, 0);
    return co_haggle_send(h);
}

int co_opt_list_meta(struct haggle *h)
{
    struct nbd_export *x = NULL;
    bool match = false;
    int rc = co_meta(h, true, &x, &match);
    if (rc)
        return rc;
    if (!x)
        return co_haggle_refuse(h, NBD_REP_ERR_UNKNOWN, "no such export");
    return co_answer_meta(h, match, 0);
}

int co_opt_set_meta(struct haggle *h)
{
    struct nbd_conn *c = h->c;
    struct nbd_export *x = NULL;
    bool match = false;
    c->status = false;
    int rc = co_meta(h, false, &x, &match);
    if (rc)
        return rc;
    if (!x)
        return co_haggle_refuse(h, NBD_REP_ERR_UNKNOWN, "no such export");
    c->status = match;
    c->status_for = x->serial;
    return co_answer_meta(h, match, NBD_CONTEXT_ALLOCATION);
}

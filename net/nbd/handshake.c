/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fixed newstyle handshake: greeting, client flags, then options until one of them begins
 * transmission or ends the session.
 *
 * Bounds, since nobody has been let in yet: a time-out for the whole of it (after which the stream
 * is aborted, whatever it waits for), HANDSHAKE_BYTES of options in all, OPTION_BYTES for one that
 * is looked at (longer ones are skipped and answered TOO_BIG).
 *
 * The large object (struct haggle) is one option's, not the connection's: it is taken when an option
 * has arrived (whole, or as much of it as the stream holds) and given back after the reply, so
 * clients that say nothing hold none. Who holds one waits for nothing but its client; so when there
 * is none left, the oldest is disconnected, and clients that are slow in the middle of an option
 * hold up nobody.
 *
 * Without TLS, STARTTLS is an option like any other that we do not know: ERR_UNSUP ("NOTLS mode").
 * During shutdown every option but ABORT is answered ERR_SHUTDOWN.
 *
 * Spec: "Newstyle negotiation", "Fixed newstyle negotiation", "Termination of the session during
 * option haggling", "Option types".
 */
#include "net/nbd/handshake.h"
#include "kernel/command.h"

#define HANDSHAKE_BYTES (1u << 20)
#define OPTION_BYTES    (64u << 10)

static struct pool handshake_pool = POOL("nbd-handshake", POOL_RANK_REQUEST, sizeof(struct haggle),
                                         .min = 8, .max = 128, .weight = 1);
REGISTER(pool, handshake_pool);

static struct list haggles = LIST_INIT(haggles);

/* ---- Reading ---------------------------------------------------------------------------------- */

int co_haggle_take(struct haggle *h, void *dst, uint32_t n)
{
    if (n > h->left)
        return SR_EINVAL;
    h->left -= n;
    return co_stream_read(h->c->stream, dst, n, STREAM_FOREVER);
}

int co_haggle_take_string(struct haggle *h, uint32_t n)
{
    if (n > sizeof(h->name))
        return SR_EINVAL;
    int rc = co_haggle_take(h, h->name, n);
    return !rc && memchr(h->name, 0, n) ? SR_EINVAL : rc; /* "MUST NOT contain NUL" */
}

static int co_skip_rest(struct haggle *h)
{
    uint32_t n = h->left;
    h->left = 0;
    return n ? co_stream_skip(h->c->stream, n, STREAM_FOREVER) : 0;
}

/* ---- Replying --------------------------------------------------------------------------------- */

void haggle_reply2(struct haggle *h, uint32_t type, const void *head, size_t head_len,
                   const char *text, size_t text_len)
{
    struct nbd_option_reply r;
    ASSERT(sizeof(h->reply) - h->reply_len >= sizeof(r) + head_len + text_len);
    be64_set(&r.magic, NBD_REP_MAGIC);
    be32_set(&r.option, h->option);
    be32_set(&r.type, type);
    be32_set(&r.len, (uint32_t)(head_len + text_len));
    uint8_t *p = h->reply + h->reply_len;
    memcpy(p, &r, sizeof(r));
    if (head_len)
        memcpy(p + sizeof(r), head, head_len);
    if (text_len)
        memcpy(p + sizeof(r) + head_len, text, text_len);
    h->reply_len += sizeof(r) + head_len + text_len;
}

void haggle_reply(struct haggle *h, uint32_t type, const void *data, size_t len)
{
    haggle_reply2(h, type, data, len, NULL, 0);
}

int co_haggle_send(struct haggle *h)
{
    size_t n = h->reply_len;
    h->reply_len = 0;
    return co_stream_write(h->c->stream, h->reply, n);
}

int co_haggle_refuse(struct haggle *h, uint32_t error, const char *sentence)
{
    int rc = co_skip_rest(h);
    if (rc)
        return rc;
    h->reply_len = 0;
    haggle_reply2(h, error, NULL, 0, sentence, strlen(sentence));
    rc = co_haggle_send(h);
    return rc ? rc : HAGGLE_ON;
}

/* ---- Options without contents ----------------------------------------------------------------- */

static int co_ack(struct haggle *h)
{
    haggle_reply(h, NBD_REP_ACK, NULL, 0);
    return co_haggle_send(h);
}

/* "SHOULD ignore any data"; the reply must have left before the connection ends. */
static int co_opt_abort(struct haggle *h)
{
    int rc = co_skip_rest(h);
    if (!rc)
        rc = co_ack(h);
    return rc ? rc : HAGGLE_CLOSE;
}

static int co_opt_structured(struct haggle *h)
{
    if (h->left)
        return SR_EINVAL;
    if (h->c->mode == NBD_EXTENDED)
        return co_haggle_refuse(h, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers are in use");
    h->c->mode = NBD_STRUCTURED;
    return co_ack(h);
}

static int co_opt_extended(struct haggle *h)
{
    if (h->left)
        return SR_EINVAL;
    h->c->mode = NBD_EXTENDED;
    return co_ack(h);
}

static int co_opt_starttls(struct haggle *h)
{
    return h->left ? SR_EINVAL : co_haggle_refuse(h, NBD_REP_ERR_UNSUP, "TLS is not supported");
}

/* ---- The dialogue ----------------------------------------------------------------------------- */

static int co_by_type(struct haggle *h)
{
    switch (h->option) {
    case NBD_OPT_ABORT:
        return co_opt_abort(h);
    case NBD_OPT_LIST:
        return co_opt_list(h);
    case NBD_OPT_STARTTLS:
        return co_opt_starttls(h);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return co_opt_info(h);
    case NBD_OPT_STRUCTURED_REPLY:
        return co_opt_structured(h);
    case NBD_OPT_LIST_META_CONTEXT:
        return co_opt_list_meta(h);
    case NBD_OPT_SET_META_CONTEXT:
        return co_opt_set_meta(h);
    case NBD_OPT_EXTENDED_HEADERS:
        return co_opt_extended(h);
    default:
        return co_haggle_refuse(h, NBD_REP_ERR_UNSUP, "unknown option");
    }
}

static int co_run_option(struct haggle *h)
{
    if (h->option == NBD_OPT_EXPORT_NAME)
        return co_opt_export_name(h);
    if (!h->c->fixed) /* "the only valid option in nonfixed newstyle negotiation" */
        return HAGGLE_CLOSE;
    if (system_quitting() && h->option != NBD_OPT_ABORT)
        return co_haggle_refuse(h, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
    if (h->left > OPTION_BYTES)
        return co_haggle_refuse(h, NBD_REP_ERR_TOO_BIG, "option too long");
    int rc = co_by_type(h);
    return rc == SR_EINVAL ? co_haggle_refuse(h, NBD_REP_ERR_INVALID, "malformed option") : rc;
}

static struct haggle *co_haggle_get(void)
{
    struct haggle *h = pool_try_get(&handshake_pool, NULL);
    if (unlikely(!h)) {
        if (!list_empty(&haggles)) {
            struct haggle *oldest = list_first(&haggles, struct haggle, link);
            list_remove(&oldest->link); /* the next one who waits takes another's */
            log_limited("nbd", "%s: slow handshake: disconnected", oldest->c->stream->peer);
            stream_abort(oldest->c->stream);
        }
        h = co_pool_get(&handshake_pool, NULL);
    }
    list_append(&haggles, &h->link);
    return h;
}

/* *budget: bytes of options that the client may still send. */
static int co_option(struct nbd_conn *c, uint32_t *budget)
{
    struct nbd_option_header o;
    int rc = co_stream_read(c->stream, &o, sizeof(o), STREAM_FOREVER);
    if (rc)
        return rc;
    uint32_t len = be32_get(o.len);
    if (be64_get(o.magic) != NBD_OPTION_MAGIC || len > *budget)
        return SR_EIO; /* "huge length": a denial of service */
    *budget -= len;
    if (len)
        rc = co_stream_wait(c->stream, MIN((size_t)len, c->stream->max_wait), STREAM_FOREVER);
    if (rc)
        return rc;
    struct haggle *h = co_haggle_get();
    h->c = c;
    h->option = be32_get(o.option);
    h->left = len;
    h->reply_len = 0;
    rc = co_run_option(h);
    list_remove(&h->link);
    pool_put(&handshake_pool, NULL, h);
    return rc;
}

static int co_greet(struct nbd_conn *c)
{
    struct nbd_greeting g;
    be32 flags;
    be64_set(&g.init_magic, NBD_INIT_MAGIC);
    be64_set(&g.option_magic, NBD_OPTION_MAGIC);
    be16_set(&g.flags, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    int rc = co_stream_write(c->stream, &g, sizeof(g));
    if (!rc)
        rc = co_stream_read(c->stream, &flags, sizeof(flags), STREAM_FOREVER);
    if (rc)
        return rc;
    uint32_t f = be32_get(flags);
    if (f & ~(uint32_t)(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES))
        return HAGGLE_CLOSE; /* "MUST drop the TCP connection" */
    c->fixed = f & NBD_FLAG_C_FIXED_NEWSTYLE;
    c->no_zeroes = f & NBD_FLAG_C_NO_ZEROES;
    return HAGGLE_ON;
}

struct limit {
    struct timer timer;
    struct stream *stream;
    bool passed;
};

static void time_out(struct timer *t)
{
    struct limit *l = container_of(t, struct limit, timer);
    l->passed = true;
    stream_abort(l->stream);
}

int co_nbd_handshake(struct nbd_conn *c)
{
    struct limit limit = {.stream = c->stream};
    uint64_t ns = nbd_handshake_ns();
    uint32_t budget = HANDSHAKE_BYTES;
    timer_init(&limit.timer, time_out);
    if (ns)
        timer_set(&limit.timer, board_clock_ns() + ns);
    int rc = co_greet(c);
    while (rc == HAGGLE_ON)
        rc = co_option(c, &budget);
    timer_cancel(&limit.timer);
    if (limit.passed)
        log_limited("nbd", "%s: no handshake in time: disconnected", c->stream->peer);
    return rc == HAGGLE_TRANSMISSION ? 0 : rc == HAGGLE_CLOSE ? HAGGLE_CLOSE : SR_EIO;
}

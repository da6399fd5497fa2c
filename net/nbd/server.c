/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD server: its option, its listener, and the life of connections.
 *
 *     accept -> handshake -> transmission -> requests ended -> stream closed -> object back
 *
 * Listening begins when all options were applied (START_LISTEN), so that the first client finds
 * every export, and ends first of all at shutdown.
 *
 * A client that is one too many (max-connections, or no memory or stacks for its guarantees) is
 * disconnected at once. The storage daemon leaves it in the listen queue instead, where it waits
 * without knowing for what; a closed connection is an answer. But it takes the place of the oldest
 * one that still is in its handshake, if that had EVICT_NS for it: silent clients keep no one out.
 */
#include "kernel/command.h"
#include "net/nbd/nbd.h"

#include <stdio.h>

#define BACKLOG  128
#define EVICT_NS (250ull * 1000000)

static struct pool conn_pool = POOL("nbd-conn", POOL_RANK_CONNECTION, sizeof(struct nbd_conn),
                                    .min = 8, .max = 1024, .weight = 1);
REGISTER(pool, conn_pool);

static struct {
    bool configured;
    struct listen_address addr; /* strings are ours, for ever */
    uint32_t max_connections;   /* 0: no limit but memory */
    uint32_t handshake_seconds; /* 0: no limit */
    struct listener *listener;
    struct list conns;
    unsigned nconns;
} server = {.conns = LIST_INIT(server.conns)};

unsigned nbd_stacks_promised, nbd_spare_stacks;

bool nbd_server_running(void)
{
    return server.configured;
}

bool nbd_server_multi_conn(void)
{
    return server.max_connections != 1;
}

uint64_t nbd_handshake_ns(void)
{
    return server.handshake_seconds * 1000000000ull;
}

/* ---- Connections ------------------------------------------------------------------------------ */

static int open_credits(struct nbd_conn *c)
{
    if (credit_open(&c->requests, &nbd_request_pool, NBD_OWN_REQUESTS))
        return SR_ENOMEM;
    if (credit_open(&c->pieces, &nbd_piece_pool, NBD_OWN_PIECES))
        goto no_pieces;
    if (buf_credit_open(&c->bufs, NBD_OWN_BUFFERS))
        goto no_bufs;
    return 0;
no_bufs:
    credit_close(&c->pieces);
no_pieces:
    credit_close(&c->requests);
    return SR_ENOMEM;
}

/* Spare stacks of all long reads beyond a connection's first; set aside once for all. */
static unsigned spare_stacks(void)
{
    return co_stacks_total() / 16;
}

static bool stacks_left(void)
{
    return (server.nconns + 1) * NBD_OWN_STACKS + spare_stacks() + NBD_STACK_RESERVE <=
           co_stacks_total();
}

/* Taken together with what nobody has yet: a little more than there is need to leave, and one number
 * for the data path. */
static void count_conn(int by)
{
    if (!server.nconns)
        nbd_spare_stacks = spare_stacks();
    server.nconns += (unsigned)by;
    nbd_stacks_promised = server.nconns * (NBD_OWN_STACKS - 1) + spare_stacks() + NBD_STACK_RESERVE;
}

static struct nbd_conn *conn_open(struct stream *s)
{
    if (!stacks_left())
        return NULL;
    struct nbd_conn *c = pool_try_get(&conn_pool, NULL);
    if (!c)
        return NULL;
    *c = (struct nbd_conn){.stream = s, .since = board_clock_ns()};
    if (open_credits(c)) {
        pool_put(&conn_pool, NULL, c);
        return NULL;
    }
    queue_init(&c->replies);
    queue_init(&c->long_waiting);
    list_init(&c->export_link);
    list_append(&server.conns, &c->link);
    count_conn(1);
    return c;
}

static void give_guarantees(struct nbd_conn *c)
{
    count_conn(-1);
    buf_credit_close(&c->bufs);
    credit_close(&c->pieces);
    credit_close(&c->requests);
}

static void conn_free(struct nbd_conn *c)
{
    list_remove(&c->link);
    list_remove(&c->export_link);
    ASSERT(!c->stacks && !c->longs);
    if (!c->evicted)
        give_guarantees(c);
    pool_put(&conn_pool, NULL, c);
}

/* In its handshake a connection holds nothing of what it was guaranteed. */
static bool evict_one(void)
{
    uint64_t now = board_clock_ns();
    list_for_each (c, &server.conns, struct nbd_conn, link)
        if (!c->let_in && !c->evicted && now - c->since >= EVICT_NS) {
            log_limited("nbd", "%s: slow handshake: disconnected for another", c->stream->peer);
            c->evicted = true;
            give_guarantees(c);
            stream_abort(c->stream);
            return true;
        }
    return false;
}

/* Ends gracefully after DISC and ABORT; after anything else what is queued is of no use to anyone,
 * and an aborted stream lets go of those who wait for it. */
static void co_conn(void *arg)
{
    struct nbd_conn *c = arg;
    TRACE(stream_open, c, 0);
    int rc = co_nbd_handshake(c);
    if (c->evicted)
        rc = SR_ECANCELED;
    c->let_in = true;
    if (!rc)
        rc = co_nbd_transmission(c);
    if (rc < 0)
        stream_abort(c->stream);
    co_nbd_idle(c);
    co_stream_close(c->stream);
    TRACE(stream_close, c, rc);
    conn_free(c);
}

/* A stream is closed in a coroutine, and a refused one has no connection to bring it along. As many
 * as TCP can have streams: there is always one. */
struct refusal {
    struct co_start start;
    struct stream *stream;
};
static struct pool refusal_pool =
    POOL("nbd-refusal", POOL_RANK_CONNECTION, sizeof(struct refusal), .min = 256, .max = 256);
REGISTER(pool, refusal_pool);

static void co_refuse(void *arg)
{
    struct refusal *r = arg;
    co_stream_close(r->stream);
    pool_put(&refusal_pool, NULL, r);
}

static void refuse(struct stream *s, const char *why)
{
    struct refusal *r = pool_try_get(&refusal_pool, NULL);
    log_limited("nbd", "%s: refused: %s", s->peer, why);
    stream_abort(s);
    if (!r)
        return;
    r->stream = s;
    co_start(&r->start, co_refuse, r);
}

static bool too_many(void)
{
    return server.max_connections && server.nconns >= server.max_connections;
}

void nbd_accepted(void *ctx, struct stream *s)
{
    (void)ctx;
    struct nbd_conn *c = NULL;
    if (system_quitting()) {
        refuse(s, "leaving");
        return;
    }
    if (!too_many())
        c = conn_open(s);
    if (!c && evict_one())
        c = conn_open(s);
    if (c)
        co_start(&c->start, co_conn, c);
    else
        refuse(s, too_many() ? "too many connections" : "no room for another connection");
}

/* ---- --nbd-server ----------------------------------------------------------------------------- */

struct inet_options {
    const char *host, *port;
    bool has_ipv4, ipv4, has_ipv6, ipv6;
};
static const struct field inet_fields[] = {
    FIELD_REQ(struct inet_options, host, "host", &type_str, "Address to listen on"),
    FIELD_REQ(struct inet_options, port, "port", &type_str, "TCP port, or a service's name"),
    FIELD_OPT(struct inet_options, ipv4, "ipv4", &type_bool, "Accept IPv4"),
    FIELD_OPT(struct inet_options, ipv6, "ipv6", &type_bool, "Accept IPv6"),
    {0},
};
static const struct type type_inet =
    TYPE_STRUCT_OF("InetSocketAddress", struct inet_options, inet_fields);

struct unix_options {
    const char *path;
};
static const struct field unix_fields[] = {
    FIELD_REQ(struct unix_options, path, "path", &type_str, "Path of the socket"),
    {0},
};
static const struct type type_unix =
    TYPE_STRUCT_OF("UnixSocketAddress", struct unix_options, unix_fields);

static const char *const addr_types[] = {"inet", "unix", NULL};
static const struct type *const addr_branches[] = {&type_inet, &type_unix};

static const struct type *addr_branch(const char *tag)
{
    for (unsigned i = 0; addr_types[i]; i++)
        if (!strcmp(tag, addr_types[i]))
            return addr_branches[i];
    return NULL;
}

static const char *addr_iterate(size_t n)
{
    return n < ARRAY_LEN(addr_branches) ? addr_types[n] : NULL;
}

struct addr_base {
    const char *type;
};
static const struct field addr_fields[] = {
    FIELD_REQ(struct addr_base, type, "type", &type_str, "Kind of address"),
    {0},
};
static const struct type type_addr = {
    .kind = TYPE_UNION,
    .name = "SocketAddress",
    .size = sizeof(struct addr_base),
    .fields = addr_fields,
    .tag = "type",
    .branch = addr_branch,
    .iterate = addr_iterate,
};

struct server_options {
    struct schema_union addr;
    int64_t max_connections, handshake_seconds;
};
static const struct field server_fields[] = {
    FIELD_REQ(struct server_options, addr, "addr", &type_addr, "Address to listen on"),
    FIELD_DEF(struct server_options, max_connections, "max-connections", &type_uint32, "100",
              "Connections at a time; 0 is no limit, 1 also means no multi-conn"),
    FIELD_DEF(struct server_options, handshake_seconds, "handshake-max-seconds", &type_uint32, "10",
              "Time for the handshake; 0 is no limit"),
    {0},
};
static const struct type type_server =
    TYPE_STRUCT_OF("NbdServerOptions", struct server_options, server_fields);

/* Name of the start hook, so that an error says which option is at fault, and its value. */
static char hook_name[160] = "--nbd-server";

static int set_inet(struct listen_address *a, const struct inet_options *o)
{
    a->type = ADDR_INET;
    a->host = sr_strdup(o->host);
    a->port = sr_strdup(o->port);
    a->ipv4_off = o->has_ipv4 ? !o->ipv4 : o->has_ipv6 && o->ipv6;
    a->ipv6_off = o->has_ipv6 ? !o->ipv6 : o->has_ipv4 && o->ipv4;
    snprintf(hook_name, sizeof(hook_name), "--nbd-server addr.type=inet,addr.host=%s,addr.port=%s",
             o->host, o->port);
    return a->host && a->port ? 0 : SR_ENOMEM;
}

static int set_unix(struct listen_address *a, const struct unix_options *o)
{
    a->type = ADDR_UNIX;
    a->path = sr_strdup(o->path);
    snprintf(hook_name, sizeof(hook_name), "--nbd-server addr.type=unix,addr.path=%s", o->path);
    return a->path ? 0 : SR_ENOMEM;
}

static int co_server_apply(const void *opts, const struct value *raw, bool text, struct error *err)
{
    (void)raw, (void)text;
    const struct server_options *o = opts;
    if (server.configured)
        return error_set(err, SR_EBUSY, "NBD server already running");
    int rc = o->addr.type == &type_unix ? set_unix(&server.addr, o->addr.opts)
                                        : set_inet(&server.addr, o->addr.opts);
    if (rc)
        return error_set(err, rc, "out of memory");
    server.max_connections = (uint32_t)o->max_connections;
    server.handshake_seconds = (uint32_t)o->handshake_seconds;
    server.configured = true;
    return 0;
}
static const struct option_def nbd_server_option = {
    .name = "nbd-server",
    .type = &type_server,
    .co_apply = co_server_apply,
    .doc = "Serve exports of type nbd at this address",
};
REGISTER(option, nbd_server_option);

/* ---- Start and stop --------------------------------------------------------------------------- */

static int co_listen_hook(struct error *err)
{
    if (!server.configured)
        return 0;
    server.listener = co_listen(&server.addr, BACKLOG, nbd_accepted, NULL, err);
    return server.listener ? 0 : SR_EIO;
}
static const struct start_hook nbd_listen = {
    .name = hook_name,
    .order = START_LISTEN,
    .co_run = co_listen_hook,
};
REGISTER(start_hook, nbd_listen);

static void co_close_listener(uint64_t deadline_ns)
{
    (void)deadline_ns;
    if (server.listener)
        listener_close(server.listener);
    server.listener = NULL;
}
static const struct stop_hook nbd_unlisten = {
    .name = "nbd listener",
    .order = STOP_LISTENERS,
    .co_run = co_close_listener,
};
REGISTER(stop_hook, nbd_unlisten);

/* Exports have closed theirs: what is left is in its handshake. */
static void co_close_conns(uint64_t deadline_ns)
{
    list_for_each (c, &server.conns, struct nbd_conn, link)
        stream_abort(c->stream);
    while (!list_empty(&server.conns) && board_clock_ns() < deadline_ns)
        co_sleep_ns(1000000);
}
static const struct stop_hook nbd_close = {
    .name = "nbd connections",
    .order = STOP_EXPORTS + 1,
    .co_run = co_close_conns,
};
REGISTER(stop_hook, nbd_close);

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A monitor: one stream, two coroutines.
 *
 *     stream ──► reader: lexer ─► request ─► command ─┐            ┌─► writer ──► stream
 *                                                     ├─► out queue┤
 *     events, of all rooms ───────────────────────────┘            └─ pending bytes
 *
 *     NEGOTIATING ── qmp_capabilities ──► COMMANDS          (a new stream starts over)
 *
 * The reader runs one command after the other and takes the next only when little of its output is
 * pending, so a peer that does not read stops being served. Events do not wait: a peer that leaves
 * 1 MiB of output unread is cut off.
 *
 * End. Who closes his side may still want his replies (a shell's pipe): the reader waits for the
 * writer, which ends when all is said or the stream fails, closes the stream, and frees everything.
 *
 * quit. No command runs after it, but the stream stays open until every node is flushed and closed: a
 * client takes the end of its connection for the end of us.
 *
 * Time stamps of events count from our start: there is no calendar here.
 *
 * Missing on purpose: out-of-band execution ("oob" is not offered), rate limits of events.
 */
#include "control/qmp.h"

#include <string.h>

#include "control/dispatch.h"
#include "control/json.h"
#include "kernel/kernel.h"

#define MAX_MONITORS 8u
#define PENDING_MAX  (1u << 20)    /* a peer that leaves more unread is cut off */
#define PENDING_GOOD (64u << 10)   /* below it the next command may run */
#define CLOSE_NS     2000000000ull /* when all ends: for the last replies, then for closing */
#define IN_BYTES     512u

struct message {
    struct qlink link;
    char *text;
    size_t len;
};
struct monitor {
    struct list link;
    struct stream *stream;
    bool pretty, negotiated;
    bool ending; /* nothing more is queued; the writer ends when the queue is empty */
    bool failed; /* output is lost: the stream was aborted */
    bool writer_done;
    bool idle; /* the reader waits for bytes, which only an abort can end */
    struct json_lexer lexer;
    struct queue out;
    size_t pending;
    struct co *reader, *writer; /* while they run */
    struct co_start start_reader, start_writer;
    char in[IN_BYTES];
};
static struct list monitors = LIST_INIT(monitors);
static unsigned count;
static bool closing; /* the machine goes off, and everything else is closed already */

unsigned qmp_monitors(void)
{
    return count;
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void wake(struct co *co)
{
    if (co)
        co_wake(co);
}

static void cut_off(struct monitor *m)
{
    if (m->failed)
        return;
    m->failed = true;
    stream_abort(m->stream);
    wake(m->reader);
    wake(m->writer);
}

static void message_free(struct message *msg)
{
    sr_free(msg->text);
    sr_free(msg);
}

static struct message *message_new(const struct value *v, bool pretty)
{
    struct message *msg = sr_malloc(sizeof(*msg));
    if (!msg)
        return NULL;
    msg->text = v ? json_print(v, pretty, &msg->len) : NULL;
    if (msg->text)
        return msg;
    sr_free(msg);
    return NULL;
}

/* Queues `v`, which it frees; NULL stands for memory that was not there. What cannot be said ends the monitor: a peer that waits for a
 * reply must not wait for ever. */
static void send_value(struct monitor *m, struct value *v)
{
    struct message *msg = m->failed || m->ending ? NULL : message_new(v, m->pretty);
    value_free(v);
    if (m->failed || m->ending)
        return;
    if (!msg || m->pending > PENDING_MAX) {
        log_limited("qmp", "%s: %s: closing", m->stream->peer,
                    msg ? "does not read its replies" : sr_strerror(SR_ENOMEM));
        if (msg)
            message_free(msg);
        cut_off(m);
        return;
    }
    m->pending += msg->len;
    queue_push(&m->out, &msg->link);
    wake(m->writer);
}

static struct message *next_message(struct monitor *m)
{
    struct qlink *l = queue_pop(&m->out);
    return l ? container_of(l, struct message, link) : NULL;
}

static void co_writer(void *arg)
{
    struct monitor *m = arg;
    struct message *msg;
    m->writer = co_self();
    while (!m->ending || !queue_empty(&m->out)) {
        while (!(msg = next_message(m)) && !m->ending)
            co_yield ();
        if (!msg)
            break;
        if (!m->failed && (co_stream_write(m->stream, msg->text, msg->len) ||
                           co_stream_write(m->stream, "\r\n", 2)))
            cut_off(m);
        m->pending -= msg->len;
        message_free(msg);
        wake(m->reader);
    }
    m->writer = NULL;
    m->writer_done = true;
    wake(m->reader);
}

/* ---- Replies and events ---------------------------------------------------------------------- */

/* {"NAME": item}; both may be NULL for memory that was not there. */
static struct value *wrapped(const char *name, struct value *item)
{
    struct value *v = value_dict();
    if (!v) {
        value_free(item);
        return NULL;
    }
    if (!value_dict_set(v, name, item))
        return v;
    value_free(v);
    return NULL;
}

/* Sets another key, or gives all up. */
static struct value *with(struct value *v, const char *name, struct value *item)
{
    if (!v) {
        value_free(item);
        return NULL;
    }
    if (!value_dict_set(v, name, item))
        return v;
    value_free(v);
    return NULL;
}

static struct value *error_value(const struct error *err)
{
    static const char *const classes[] = {
        [ERR_GENERIC] = "GenericError",
        [ERR_COMMAND_NOT_FOUND] = "CommandNotFound",
        [ERR_DEVICE_NOT_FOUND] = "DeviceNotFound",
        [ERR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
    };
    return with(wrapped("class", value_str(classes[err->class])), "desc", value_str(err->msg));
}

static void reply(struct monitor *m, const struct value *request, struct value *v)
{
    const struct value *id =
        request && value_kind(request) == VALUE_DICT ? value_get(request, "id") : NULL;
    if (id)
        v = with(v, "id", value_copy(id));
    send_value(m, v);
}

static void reply_error(struct monitor *m, const struct value *request, const struct error *err)
{
    reply(m, request, wrapped("error", error_value(err)));
}

static void greet(struct monitor *m)
{
    struct value *inner = wrapped("version", version_value());
    send_value(m, wrapped("QMP", with(inner, "capabilities", value_list())));
}

static struct value *timestamp(void)
{
    uint64_t us = board_clock_ns() / 1000;
    struct value *v = wrapped("seconds", value_uint(us / 1000000));
    return with(v, "microseconds", value_uint(us % 1000000));
}

void event_emit(const struct event_def *e, const void *data)
{
    ASSERT_LOOP(0);
    list_for_each_safe (m, &monitors, struct monitor, link) {
        if (!m->negotiated)
            continue;
        struct value *v = with(wrapped("timestamp", timestamp()), "event", value_str(e->name));
        if (e->data)
            v = with(v, "data", schema_encode(e->data, data));
        send_value(m, v);
    }
}

/* ---- Requests -------------------------------------------------------------------------------- */

static const struct command *find(const struct monitor *m, const char *name, struct error *err)
{
    const struct command *c = command_find(name);
    if (!m->negotiated && !(c && (c->flags & COMMAND_PRECONFIG)))
        error_set_class(err, ERR_COMMAND_NOT_FOUND, SR_EINVAL,
                        "Expecting capabilities negotiation with 'qmp_capabilities'");
    else if (!c)
        error_set_class(err, ERR_COMMAND_NOT_FOUND, SR_EINVAL, "The command %s has not been found",
                        name);
    return err->set ? NULL : c;
}

static void co_request(struct monitor *m, const struct value *request, struct error *err)
{
    struct value *result = NULL;
    const char *name = request_command(request, err);
    const struct command *c = name ? find(m, name, err) : NULL;
    if (c && !co_request_run(request, c, m, &result, err))
        reply(m, request, wrapped("return", result));
    else
        reply_error(m, request, err);
}

static void co_input(struct monitor *m, size_t n)
{
    for (size_t at = 0; at < n && !m->failed && !system_quitting();) {
        struct value *v;
        struct error err = {0};
        at += json_feed(&m->lexer, m->in + at, n - at, &v, &err);
        if (v)
            co_request(m, v, &err);
        else if (err.set)
            reply_error(m, NULL, &err);
        value_free(v);
        while (m->pending > PENDING_GOOD && !m->failed && !closing)
            co_yield ();
    }
}

/* ---- Life ------------------------------------------------------------------------------------ */

static void co_finish(struct monitor *m)
{
    m->ending = true;
    wake(m->writer);
    while (!m->writer_done)
        co_yield ();
    m->reader = NULL;
    list_remove(&m->link);
    co_stream_close(m->stream);
    json_lexer_free(&m->lexer);
    sr_free(m);
    count--;
}

/* Bytes into m->in; 0: no more will come. */
static size_t co_receive(struct monitor *m)
{
    m->idle = true;
    int rc = co_stream_wait(m->stream, 1, STREAM_FOREVER);
    m->idle = false;
    if (rc || m->failed)
        return 0;
    size_t n = MIN(m->stream->ops->available(m->stream), sizeof(m->in));
    m->stream->ops->copy(m->stream, m->in, n, true);
    return n;
}

static void co_reader(void *arg)
{
    struct monitor *m = arg;
    size_t n;
    m->reader = co_self();
    greet(m);
    while (!m->failed && !system_quitting() && (n = co_receive(m)))
        co_input(m, n);
    while (system_quitting() && !closing && !m->failed)
        co_yield ();
    co_finish(m);
}

static void co_refuse(void *arg)
{
    co_stream_close(arg);
}

void qmp_serve(struct stream *s, bool pretty)
{
    ASSERT_LOOP(0);
    struct monitor *m = count < MAX_MONITORS ? sr_calloc(1, sizeof(*m)) : NULL;
    if (!m) {
        log_limited("qmp", "%s: no room for another monitor", s->peer);
        stream_abort(s);
        if (co_spawn(co_refuse, s))
            log_limited("qmp", "%s: not closed: %s", s->peer, sr_strerror(SR_ENOMEM));
        return;
    }
    count++;
    m->stream = s;
    m->pretty = pretty;
    json_lexer_init(&m->lexer);
    queue_init(&m->out);
    list_append(&monitors, &m->link);
    co_start(&m->start_writer, co_writer, m);
    co_start(&m->start_reader, co_reader, m);
}

/* Who is idle and has said everything goes at once; the others finish by themselves, or late. */
void co_qmp_close_all(uint64_t deadline_ns)
{
    uint64_t late = MIN(deadline_ns, board_clock_ns() + CLOSE_NS);
    closing = true;
    while (count && board_clock_ns() < late + CLOSE_NS) {
        list_for_each (m, &monitors, struct monitor, link) {
            if ((m->idle && !m->pending) || board_clock_ns() >= late)
                cut_off(m);
            else
                wake(m->reader);
        }
        co_sleep_ns(1000000);
    }
}

/* ---- qmp_capabilities ------------------------------------------------------------------------ */

struct capabilities_args {
    struct schema_array enable;
};
static const char *const capability_names[] = {"oob", NULL};
static const struct type type_capability = TYPE_ENUM_OF("QMPCapability", capability_names);
static const struct type type_capabilities = TYPE_ARRAY_OF(&type_capability);
static const struct field capabilities_fields[] = {
    FIELD_OPTS(struct capabilities_args, enable, "enable", &type_capabilities,
               "Capabilities to switch on; none is offered"),
    {0},
};
static const struct type type_capabilities_args =
    TYPE_STRUCT_OF("q_obj_qmp_capabilities-arg", struct capabilities_args, capabilities_fields);

static int co_capabilities(const void *args, const struct value *raw, struct command_result *res,
                           struct error *err)
{
    (void)raw, (void)res;
    const struct capabilities_args *a = args;
    struct monitor *m = request_via();
    if (!m || m->negotiated)
        return error_set_class(err, ERR_COMMAND_NOT_FOUND, SR_EINVAL,
                               "Capabilities negotiation is already complete, command ignored");
    if (a->enable.count)
        return error_set(err, SR_EINVAL, "Capability %s not available",
                         capability_names[*(const int *)a->enable.items]);
    m->negotiated = true;
    return 0;
}
static const struct command command_capabilities = {
    .name = "qmp_capabilities",
    .args = &type_capabilities_args,
    .flags = COMMAND_PRECONFIG,
    .co_run = co_capabilities,
    .doc = "Leave negotiation: commands and events from now on",
};
REGISTER(command, command_capabilities);

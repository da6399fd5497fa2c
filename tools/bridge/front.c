/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A sibling: its messages are taken one at a time, recorded, and told to the storage VM, and what
 * the storage VM answers goes back. A sibling's QEMU stands still while it waits for an answer, so
 * it never waits for ever: see front_timeout.
 *
 *     the message        with a storage VM (LIVE)              without, or late
 *     ──────────────     ────────────────────────────────      ────────────────────────────────
 *     sets something     recorded, told, taken                 recorded, taken
 *     with NEED_REPLY    recorded, told; at the answer taken   recorded, acknowledged, taken
 *     GET_VRING_BASE     told; at the answer taken             answered: the used index
 *     other GET_...      told; at the answer taken             waits; then the connection is closed
 *
 * Kicks and calls go to the storage VM in ring.c's words, when a ring starts; ERR and the socket for
 * our requests stay here.
 */
#include "worker.h"

#define PROTOCOL_FEATURES                                                      \
    (1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_CONFIG | \
     1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | 1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ)

/* ------------------------------------------------------------------------------------------------
 * Coming and going */

static void drop_calls(struct sibling *s, unsigned n)
{
    keep_drop(key_of(s, KEY_CALL + 2 * n));
    keep_drop(key_of(s, KEY_CALL + 2 * n + 1));
}

/* Adds the steps that forget a connection; the record follows. */
static void forget(struct sibling *s)
{
    struct state *st = &s->st;
    bool was_told = st->view != UNTOLD;
    keep_drop(key_of(s, KEY_VHOST));
    keep_drop(key_of(s, KEY_BACKEND));
    for (unsigned n = 0; n < BRIDGE_QUEUES; n++) {
        struct queue *q = &st->queue[n];
        keep_drop(key_of(s, KEY_KICK + n));
        drop_calls(s, n);
        *q = (struct queue){.bell_ready = q->bell_ready};
    }
    st->view = was_told ? STALE : UNTOLD;
    st->waiting = 0;
    st->todo = 0;
    st->regions = st->config_len = 0;
    st->has_features = st->has_protocol = st->has_memory = false;
    s->since = 0;
    s->late = false;
    s->look = true;
}

void front_closed(struct sibling *s, const char *why)
{
    if (why)
        sibling_say(s, "sent %s: its connection is closed", why);
    keep_begin();
    forget(s);
    sibling_commit(s);
}

static void accept_sibling(struct sibling *s)
{
    s->st.fresh = true;
    keep_begin();
    keep_accept(key_of(s, KEY_VHOST_LISTEN), key_of(s, KEY_VHOST));
    if (sibling_commit(s) == 0)
        s->look = true;
}

/* A listener is there exactly while a sibling would be served at once. */
static enum progress listener(struct sibling *s)
{
    bool want = in_session(s) && s->st.exported && !connected(s);
    bool have = fd_of(s, KEY_VHOST_LISTEN) >= 0;
    if (want && have && s->knock) {
        s->knock = false;
        accept_sibling(s);
        return connected(s) ? MOVED : IDLE;
    }
    if (want == have)
        return IDLE;
    keep_begin();
    if (want)
        keep_listen(key_of(s, KEY_VHOST_LISTEN));
    else
        keep_drop(key_of(s, KEY_VHOST_LISTEN));
    int r = keep_commit();
    if (r < 0)
        sibling_say(s, "%s: %s", s->conf->vhost, strerror(-r));
    return IDLE;
}

void front_export(struct sibling *s, bool on, unsigned vectors, size_t bytes)
{
    struct state *st = &s->st;
    if (st->epoch != relay.epoch)
        st->view = UNTOLD; /* whatever an earlier storage VM knew */
    if (st->view != UNTOLD && on)
        st->view = STALE;
    st->epoch = relay.epoch;
    st->exported = on;
    st->vectors = (uint16_t)vectors;
    st->waiting = 0;
    keep_begin();
    if (!on && connected(s))
        forget(s);
    keep_eat(KEY_RELAY, bytes);
    sibling_commit(s);
    s->look = true;
}

/* ------------------------------------------------------------------------------------------------
 * What the storage VM knows */

static enum progress told(struct sibling *s)
{
    return sibling_commit(s) < 0 ? BLOCKED : MOVED;
}

static enum progress tell_connected(struct sibling *s)
{
    struct bridge_connected c = {0};
    le32_set(&c.resumed, !s->st.fresh);
    s->st.view = s->st.fresh ? LIVE : REPLAY;
    s->st.cursor = 0;
    s->st.waiting = 0;
    relay_frame(&(struct frame){
        .kind = BRIDGE_CONNECTED, .sibling = s->number, .payload = &c, .len = sizeof(c)});
    return told(s);
}

static enum progress tell_disconnected(struct sibling *s)
{
    s->st.view = UNTOLD;
    relay_frame(&(struct frame){.kind = BRIDGE_DISCONNECTED, .sibling = s->number});
    return told(s);
}

/* Tells what is not told yet. IDLE: it knows all, or is not there. */
static enum progress inform(struct sibling *s)
{
    if (!in_session(s))
        return IDLE;
    switch (s->st.view) {
    case STALE:
        return tell_disconnected(s);
    case UNTOLD:
        return s->st.exported && connected(s) ? tell_connected(s) : IDLE;
    case REPLAY:
        return ring_replay(s);
    default:
        return ring_todo(s);
    }
}

static bool live(const struct sibling *s)
{
    return in_session(s) && s->st.view == LIVE && !s->late;
}

/* ------------------------------------------------------------------------------------------------
 * A message */

static void stop_ring(struct sibling *s, unsigned n)
{
    struct queue *q = &s->st.queue[n];
    q->started = q->kick_ready = q->silent = false;
    q->call[0].ready = q->call[1].ready = false;
    keep_drop(key_of(s, KEY_KICK + n));
    drop_calls(s, n);
}

/* Begins a commit with an answer to the sibling. */
static void answer(struct sibling *s, uint32_t request, const void *payload, size_t len)
{
    uint8_t msg[sizeof(struct vhost_user_header) + MESSAGE_PAYLOAD];
    struct vhost_user_header h;
    le32_set(&h.request, request);
    le32_set(&h.flags, VHOST_USER_VERSION | VHOST_USER_REPLY);
    le32_set(&h.size, (uint32_t)len);
    memcpy(msg, &h, sizeof(h));
    memcpy(msg + sizeof(h), payload, len);
    keep_begin();
    keep_send(key_of(s, KEY_VHOST), msg, sizeof(h) + len, KEY_NONE);
}

/* The rest of a commit that ends a message: descriptors, record, and the message goes. */
static enum progress finish(struct sibling *s, struct message *m)
{
    if (m->take != KEY_NONE)
        keep_take(m->take, m->fd[0]);
    if (m->drop != KEY_NONE)
        keep_drop(m->drop);
    keep_eat(key_of(s, KEY_VHOST), sizeof(struct vhost_user_header) + m->len);
    s->st.fresh = false;
    int r = sibling_commit(s);
    if (r == 0 && m->take != KEY_NONE)
        m->fds = 0; /* held now */
    return r < 0 ? BLOCKED : MOVED;
}

/* The answer that we give ourselves. */
static enum progress answer_here(struct sibling *s, struct message *m)
{
    struct vhost_user_vring_state base = m->vring;
    le64 ok = {{0}};
    if (m->request == VHOST_USER_GET_VRING_BASE) {
        unsigned n = le32_get(base.index);
        le32_set(&base.num, ring_used(s, &s->st.queue[n]));
        answer(s, m->request, &base, sizeof(base));
        stop_ring(s, n);
    } else {
        answer(s, m->request, &ok, sizeof(ok));
    }
    if (finish(s, m) == MOVED)
        return MOVED;
    front_closed(s, "so much and read nothing");
    return MOVED;
}

static bool can_answer_here(const struct message *m)
{
    return m->request == VHOST_USER_GET_VRING_BASE || m->flags & VHOST_USER_NEED_REPLY;
}

/* Without the storage VM. */
static enum progress take_here(struct sibling *s, struct message *m)
{
    if (wants_answer(m) && !can_answer_here(m))
        return BLOCKED;
    s->st.todo = 0; /* a replay will tell */
    s->st.waiting = 0;
    if (s->st.view != UNTOLD)
        s->st.view = STALE;
    if (wants_answer(m))
        return answer_here(s, m);
    keep_begin();
    return finish(s, m);
}

static void begin_passing(struct sibling *s, const struct message *m, unsigned tag)
{
    uint8_t msg[sizeof(struct vhost_user_header) + MESSAGE_PAYLOAD];
    struct vhost_user_header h;
    le32_set(&h.request, m->request);
    le32_set(&h.flags, m->flags);
    le32_set(&h.size, m->len);
    memcpy(msg, &h, sizeof(h));
    memcpy(msg + sizeof(h), m->payload, m->len);
    relay_frame(&(struct frame){.kind = BRIDGE_VHOST,
                                .sibling = s->number,
                                .tag = tag,
                                .payload = msg,
                                .len = sizeof(h) + m->len,
                                .handle = m->handle,
                                .handles = m->handles});
}

/* With the storage VM. What wants an answer stays in the socket until that comes. */
static enum progress take_live(struct sibling *s, struct message *m)
{
    if (!message_passes(m)) {
        if (m->flags & VHOST_USER_NEED_REPLY)
            return answer_here(s, m);
        keep_begin();
        return finish(s, m);
    }
    if (!wants_answer(m)) {
        begin_passing(s, m, 0);
        return finish(s, m);
    }
    s->st.fresh = false;
    s->st.tag = s->st.tag == UINT16_MAX ? 1 : s->st.tag + 1;
    s->st.waiting = s->st.tag;
    begin_passing(s, m, s->st.tag);
    return told(s);
}

static enum progress take(struct sibling *s)
{
    struct message m;
    const char *why;
    int r = message_peek(fd_of(s, KEY_VHOST), &m, &why);
    if (r == 0)
        return IDLE;
    if (r > 0)
        why = message_record(s, &m);
    if (r < 0 || why) {
        if (r > 0)
            message_close_fds(&m);
        s->st = s->kept;
        front_closed(s, why);
        return MOVED;
    }
    enum progress p = live(s) ? take_live(s, &m) : take_here(s, &m);
    if (p == BLOCKED)
        s->st = s->kept;
    message_close_fds(&m);
    return p;
}

/* ------------------------------------------------------------------------------------------------
 * Steps and time */

static bool something_waits(struct sibling *s)
{
    struct message m;
    int r = message_peek_header(fd_of(s, KEY_VHOST), &m);
    if (r < 0)
        front_closed(s, NULL);
    return r > 0;
}

static enum progress blocked(struct sibling *s)
{
    if (connected(s) && !s->since && something_waits(s))
        s->since = now_ms();
    return BLOCKED;
}

static enum progress front_move(struct sibling *s)
{
    enum progress p = ivshmem_hello(s);
    if (p == MOVED)
        return p;
    p = listener(s);
    if (p != IDLE)
        return p;
    if (s->late && take(s) == MOVED)
        return MOVED; /* first what has waited too long */
    p = inform(s);
    if (p == MOVED)
        s->late = false;
    if (p == MOVED || !connected(s))
        return p;
    if (p == BLOCKED || (live(s) && s->st.waiting))
        return blocked(s);
    p = take(s);
    return p == BLOCKED ? blocked(s) : p;
}

enum progress front_step(struct sibling *s)
{
    enum progress p = front_move(s);
    if (p == MOVED || p == IDLE)
        s->since = 0;
    return p;
}

void front_timeout(struct sibling *s)
{
    struct message m;
    s->since = 0;
    s->look = true;
    if (!connected(s) || message_peek_header(fd_of(s, KEY_VHOST), &m) <= 0)
        return;
    if (wants_answer(&m) && !can_answer_here(&m)) {
        sibling_say(s, "waited too long for an answer to %s", message_name(m.request));
        front_closed(s, NULL);
        return;
    }
    sibling_say(s, "goes on without the storage VM, which does not answer (%s)",
                message_name(m.request));
    s->late = true;
}

/* ------------------------------------------------------------------------------------------------
 * Answers */

static const char *check_u64(const struct message *m, uint8_t *payload, size_t len)
{
    le64 v;
    if (len != sizeof(v))
        return "an answer of the wrong size";
    memcpy(&v, payload, sizeof(v));
    if (m->request == VHOST_USER_GET_FEATURES)
        le64_set(&v, le64_get(v) & ~(1ull << VHOST_F_LOG_ALL));
    if (m->request == VHOST_USER_GET_PROTOCOL_FEATURES)
        le64_set(&v, le64_get(v) & PROTOCOL_FEATURES);
    if (m->request == VHOST_USER_GET_QUEUE_NUM && le64_get(v) > BRIDGE_QUEUES)
        le64_set(&v, BRIDGE_QUEUES);
    memcpy(payload, &v, sizeof(v));
    return NULL;
}

/* Makes an answer one that QEMU survives. *len: as it goes to the sibling. */
static const char *check_answer(const struct message *m, uint8_t *payload, size_t *len)
{
    if (m->request == VHOST_USER_GET_VRING_BASE)
        return *len == sizeof(struct vhost_user_vring_state) ? NULL : "an answer of the wrong size";
    if (m->request != VHOST_USER_GET_CONFIG)
        return check_u64(m, payload, *len);
    if (*len < m->len)
        memset(payload + *len, 0, m->len - *len);
    *len = m->len; /* QEMU insists on what it asked for */
    return NULL;
}

static void eat_frame(size_t bytes)
{
    keep_begin();
    keep_eat(KEY_RELAY, bytes);
    relay_commit();
}

/* The message at the head of the sibling's socket has this answer: both go. */
static void pass_answer(struct sibling *s, const struct message *m, const uint8_t *payload,
                        size_t len, size_t bytes)
{
    answer(s, m->request, payload, len);
    if (m->request == VHOST_USER_GET_VRING_BASE)
        stop_ring(s, le32_get(m->vring.index));
    s->st.waiting = 0;
    keep_eat(KEY_RELAY, bytes);
    keep_eat(key_of(s, KEY_VHOST), sizeof(struct vhost_user_header) + m->len);
    if (sibling_commit(s) < 0) {
        eat_frame(bytes);
        front_closed(s, "so much and read nothing");
    }
    s->since = 0;
    s->look = true;
}

void front_answer(struct sibling *s, unsigned tag, const uint8_t *msg, size_t len, size_t bytes)
{
    uint8_t payload[BRIDGE_PAYLOAD] = {0};
    struct vhost_user_header h;
    struct message m;
    const char *why = NULL;
    if (len < sizeof(h)) {
        relay_nonsense("a message without a header", bytes);
        return;
    }
    memcpy(&h, msg, sizeof(h));
    if (!connected(s) || !in_session(s) || !s->st.waiting || tag != s->st.waiting ||
        message_peek(fd_of(s, KEY_VHOST), &m, &why) <= 0) {
        eat_frame(bytes); /* too late */
        return;
    }
    message_close_fds(&m);
    len -= sizeof(h);
    memcpy(payload, msg + sizeof(h), len);
    why = le32_get(h.request) != m.request ? "an answer to something else"
                                           : check_answer(&m, payload, &len);
    if (why) {
        relay_nonsense(why, bytes);
        return;
    }
    pass_answer(s, &m, payload, len, bytes);
}

void front_backend(struct sibling *s, const uint8_t *msg, size_t len, size_t bytes)
{
    struct vhost_user_header h;
    if (len < sizeof(h)) {
        relay_nonsense("a message without a header", bytes);
        return;
    }
    memcpy(&h, msg, sizeof(h));
    if (le32_get(h.request) != VHOST_USER_BACKEND_CONFIG_CHANGE_MSG || le32_get(h.size) != 0 ||
        len != sizeof(h) || le32_get(h.flags) != VHOST_USER_VERSION) {
        relay_nonsense("a message to a sibling that does not exist", bytes);
        return;
    }
    if (in_session(s) && fd_of(s, KEY_BACKEND) >= 0) {
        keep_begin();
        keep_send(key_of(s, KEY_BACKEND), msg, len, KEY_NONE);
        keep_eat(KEY_RELAY, bytes);
        if (sibling_commit(s) == 0)
            return;
    }
    eat_frame(bytes);
}

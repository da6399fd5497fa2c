/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The storage VM's end of the relay (bridge_spec.h): a session with the bridge over the console port
 * `org.strongroom.bridge`.
 *
 *     reader   frames -> exports -> replies, in a coroutine of the session
 *     writer   everything that is not the reply to the frame just read: HELLO, EXPORT, changed
 *              configurations, replies that had to wait for a ring
 *
 * There is no queue of frames to be sent: the writer looks at what is true (an export that the
 * bridge does not know of, a ring that has come to rest) and says one thing after the other until
 * nothing is left. Each frame is made in one go and holds no pointer into an export, so exports may
 * come and go while it is sent.
 *
 * The bridge is trusted with the host's descriptors, but not believed: a frame that makes no sense
 * ends the session, all rings come to rest in silence, and another HELLO begins a new one. What a
 * sibling's QEMU says wrong ends its connection only (EXPORT off, then on).
 */
#include "virtio/device/sibling.h"

#include "kernel/port.h"
#include <stdio.h>

#define BRIDGE_PORT "org.strongroom.bridge"

static struct relay {
    struct stream *s; /* NULL: no session */
    bool deaf;        /* the bridge speaks another version */
    bool greeted;     /* its HELLO has come; else bytes are skipped */
    bool hello_due, ending;
    bool writing;               /* until the writer has ended */
    struct co *writer, *reader; /* writer NULL: waits for a stack, or has ended */
    struct {                    /* of the bridge's siblings */
        char name[BRIDGE_NAME_BYTES];
        uint64_t memory;
    } known[BRIDGE_SIBLINGS];
    struct frame {
        struct bridge_frame h;
        uint8_t bytes[8 * BRIDGE_HANDLES + BRIDGE_PAYLOAD];
    } in, reply, out;
} relay;
static struct co_queue idle = {{NULL, &idle.q.first}}; /* apart, so that the rest is .bss */
static_assert(sizeof(struct frame) == BRIDGE_FRAME_MAX, "a frame of the largest size");

static size_t frame_make(struct frame *f, enum bridge_kind kind, unsigned sibling, size_t len)
{
    f->h = (struct bridge_frame){0};
    le32_set(&f->h.magic, BRIDGE_MAGIC);
    le16_set(&f->h.kind, (uint16_t)kind);
    le16_set(&f->h.sibling, (uint16_t)sibling);
    le32_set(&f->h.len, (uint32_t)len);
    return sizeof(f->h) + len;
}

void relay_wake(void)
{
    if (relay.writer)
        co_wake(relay.writer);
}

/* ---- What is to be said ----------------------------------------------------------------------- */

static size_t say_hello(struct frame *f)
{
    struct bridge_hello h = {0};
    le32_set(&h.version, BRIDGE_VERSION);
    memcpy(f->bytes, &h, sizeof(h));
    relay.hello_due = false;
    return frame_make(f, BRIDGE_HELLO, BRIDGE_ITSELF, sizeof(h));
}

/* An export that goes finishes first what it took. */
static bool wants_export(const struct sibling *s)
{
    return !s->refused && !(s->e->shutting_down && vhost_at_rest(&s->vhost));
}

/* When we power off, the bridge keeps the sibling for whoever comes after us. */
static bool export_due(const struct sibling *s)
{
    return s->exported != wants_export(s) && !system_quitting();
}

static size_t say_export(struct frame *f, struct sibling *s)
{
    struct bridge_export x = {0};
    s->exported = wants_export(s);
    le16_set(&x.on, s->exported);
    le16_set(&x.vectors, (uint16_t)s->at->vectors);
    memcpy(f->bytes, &x, sizeof(x));
    return frame_make(f, BRIDGE_EXPORT, s->at->number, sizeof(x));
}

static size_t say_of(struct frame *f, struct sibling *s)
{
    uint16_t tag;
    if (!s->at)
        return 0;
    if (export_due(s))
        return say_export(f, s);
    size_t len = vhost_base_reply(&s->vhost, f->bytes, &tag);
    if (len) {
        len = frame_make(f, BRIDGE_VHOST, s->at->number, len);
        le16_set(&f->h.tag, tag);
        return len;
    }
    if (s->changed && s->connected && vhost_hears_changes(&s->vhost)) {
        s->changed = false;
        return frame_make(f, BRIDGE_BACKEND, s->at->number, vhost_config_change(f->bytes));
    }
    return 0;
}

static size_t say_next(struct frame *f)
{
    size_t len = 0;
    if (relay.hello_due)
        return say_hello(f);
    list_for_each (s, &siblings, struct sibling, link)
        if (!len && relay.greeted)
            len = say_of(f, s);
    return len;
}

static void co_write(void *arg)
{
    (void)arg;
    relay.writer = co_self();
    while (!relay.ending) {
        size_t len = say_next(&relay.out);
        if (!len)
            co_yield ();
        else if (co_stream_write(relay.s, &relay.out, len))
            stream_abort(relay.s); /* the reader hears of it */
    }
    relay.writer = NULL;
    relay.writing = false;
    co_wake(relay.reader);
}

/* ---- Siblings come and go --------------------------------------------------------------------- */

/* Finds who of the bridge's siblings the export is for. */
void relay_meet(struct sibling *s)
{
    for (unsigned i = 0; relay.greeted && i < BRIDGE_SIBLINGS; i++) {
        if (strcmp(relay.known[i].name, s->name))
            continue;
        struct sibling_link *l = sibling_link_find(i);
        if (!l || l->size != relay.known[i].memory) {
            log_line("bridge", "sibling %s: there is no device that shows its %llu MiB of memory",
                     s->name, (unsigned long long)(relay.known[i].memory >> 20));
            return;
        }
        s->at = l;
        s->vhost.memory = l->memory;
        s->vhost.memory_size = l->size;
        relay_wake();
        return;
    }
}

static void forget_all(void)
{
    memset(relay.known, 0, sizeof(relay.known));
    list_for_each (s, &siblings, struct sibling, link)
        sibling_forget(s);
}

static int on_hello(const uint8_t *p)
{
    struct bridge_hello h;
    memcpy(&h, p, sizeof(h));
    forget_all();
    relay.greeted = le32_get(h.version) == BRIDGE_VERSION;
    if (relay.greeted)
        return 0;
    log_line("bridge", "it speaks version %u, and we speak version %u", le32_get(h.version),
             BRIDGE_VERSION);
    relay.deaf = true;
    return 0;
}

static int on_sibling(unsigned number, const uint8_t *p)
{
    struct bridge_sibling b;
    memcpy(&b, p, sizeof(b));
    if (number >= BRIDGE_SIBLINGS || !b.name[0] || b.name[sizeof(b.name) - 1])
        return SR_EINVAL;
    memcpy(relay.known[number].name, b.name, sizeof(b.name));
    relay.known[number].memory = le64_get(b.memory);
    struct sibling *s = sibling_by_name(b.name);
    if (s && !s->at)
        relay_meet(s);
    return 0;
}

static int on_connected(struct sibling *s, const uint8_t *p)
{
    struct bridge_connected c;
    memcpy(&c, p, sizeof(c));
    bool resumed = le32_get(c.resumed);
    log_limited("bridge", "sibling %s: %s", s->name, resumed ? "here still" : "connected");
    vhost_reset(&s->vhost, resumed);
    s->connected = true;
    s->changed = false;
    return 0;
}

static int on_disconnected(struct sibling *s)
{
    if (s->connected)
        log_limited("bridge", "sibling %s: disconnected", s->name);
    vhost_reset(&s->vhost, false);
    s->connected = s->refused = false;
    relay_wake();
    return 0;
}

/* ---- Messages --------------------------------------------------------------------------------- */

static void refuse(struct sibling *s)
{
    vhost_reset(&s->vhost, false);
    s->refused = true;
    s->connected = false;
    relay_wake();
}

/* SR_EINVAL: no vhost-user message. */
static int parse(const struct frame *f, const uint8_t *payload, size_t len, uint64_t *handle,
                 struct vhost_message *m)
{
    struct vhost_user_header h;
    if (len < sizeof(h))
        return SR_EINVAL;
    memcpy(&h, payload, sizeof(h));
    uint32_t flags = le32_get(h.flags);
    if (le32_get(h.size) != len - sizeof(h) || flags & VHOST_USER_REPLY ||
        (flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
        return SR_EINVAL;
    for (unsigned i = 0; i < le16_get(f->h.handles); i++) {
        le64 value;
        memcpy(&value, f->bytes + 8 * i, sizeof(value));
        handle[i] = le64_get(value);
    }
    *m = (struct vhost_message){.request = le32_get(h.request),
                                .need_reply = flags & VHOST_USER_NEED_REPLY,
                                .tag = le16_get(f->h.tag),
                                .payload = payload + sizeof(h),
                                .size = le32_get(h.size),
                                .handle = handle,
                                .handles = le16_get(f->h.handles)};
    return 0;
}

/* The reply is sent from here; s may be gone by then. */
static int co_on_vhost(struct sibling *s, const struct frame *f, const uint8_t *payload,
                       size_t payload_len)
{
    uint64_t handle[BRIDGE_HANDLES];
    struct vhost_message m;
    if (!s->connected || s->e->shutting_down)
        return 0;
    unsigned number = s->at->number;
    int len = parse(f, payload, payload_len, handle, &m);
    if (!len)
        len = vhost_message(&s->vhost, &m, relay.reply.bytes);
    if (len < 0) {
        log_limited("bridge", "sibling %s: thrown out", s->name);
        refuse(s);
    }
    if (len <= 0)
        return 0;
    size_t n = frame_make(&relay.reply, BRIDGE_VHOST, number, (size_t)len);
    relay.reply.h.tag = f->h.tag;
    return co_stream_write(relay.s, &relay.reply, n);
}

/* ---- Frames ----------------------------------------------------------------------------------- */

/* Bytes of payload that a kind has; UINT32_MAX: the bridge does not say that. */
static uint32_t payload_of(unsigned kind)
{
    switch (kind) {
    case BRIDGE_HELLO:
        return sizeof(struct bridge_hello);
    case BRIDGE_SIBLING:
        return sizeof(struct bridge_sibling);
    case BRIDGE_CONNECTED:
        return sizeof(struct bridge_connected);
    case BRIDGE_DISCONNECTED:
    case BRIDGE_REPLAYED:
    case BRIDGE_END:
        return 0;
    default:
        return UINT32_MAX;
    }
}

static bool head_ok(const struct bridge_frame *h)
{
    unsigned kind = le16_get(h->kind), sibling = le16_get(h->sibling);
    bool itself = kind == BRIDGE_HELLO || kind == BRIDGE_END;
    if (le32_get(h->magic) != BRIDGE_MAGIC || itself != (sibling == BRIDGE_ITSELF))
        return false;
    if (kind == BRIDGE_VHOST)
        return le32_get(h->len) <= BRIDGE_PAYLOAD && le16_get(h->handles) <= BRIDGE_HANDLES;
    return le32_get(h->len) == payload_of(kind) && !le16_get(h->handles) && !le16_get(h->tag);
}

/* SR_EINVAL: the session makes no sense. Other errors: the stream's. */
static int co_dispatch(const struct frame *f)
{
    unsigned kind = le16_get(f->h.kind), number = le16_get(f->h.sibling);
    const uint8_t *payload = f->bytes + 8 * le16_get(f->h.handles);
    struct sibling *s = sibling_by_number(number);
    if (kind == BRIDGE_HELLO)
        return on_hello(payload);
    if (kind == BRIDGE_SIBLING)
        return on_sibling(number, payload);
    if (kind == BRIDGE_END)
        return SR_EINVAL;
    if (!s) /* of an export that has just been removed */
        return 0;
    if (kind == BRIDGE_VHOST)
        return co_on_vhost(s, f, payload, le32_get(f->h.len));
    if (kind == BRIDGE_CONNECTED)
        return on_connected(s, payload);
    if (kind == BRIDGE_DISCONNECTED)
        return on_disconnected(s);
    vhost_replayed(&s->vhost);
    return 0;
}

static void lost_thread(void)
{
    log_limited("bridge", "the session has ended");
    forget_all();
    relay.greeted = false;
    relay.hello_due = true;
    relay_wake();
}

static bool head_expected(const struct bridge_frame *h)
{
    return head_ok(h) && (relay.greeted || (!relay.deaf && le16_get(h->kind) == BRIDGE_HELLO));
}

/* The next header that may come now; what is none is skipped byte by byte. */
static int co_head(struct stream *s, struct bridge_frame *h)
{
    uint8_t *bytes = (uint8_t *)h;
    int rc = co_stream_read(s, h, sizeof(*h), STREAM_FOREVER);
    while (!rc && !head_expected(h)) {
        if (relay.greeted)
            lost_thread();
        memmove(bytes, bytes + 1, sizeof(*h) - 1);
        rc = co_stream_read(s, bytes + sizeof(*h) - 1, 1, STREAM_FOREVER);
    }
    return rc;
}

/* One frame. Errors are the stream's. */
static int co_take(struct stream *s, struct frame *f)
{
    int rc = co_head(s, &f->h);
    if (!rc)
        rc = co_stream_read(s, f->bytes, 8 * le16_get(f->h.handles) + le32_get(f->h.len),
                            STREAM_FOREVER);
    if (rc)
        return rc;
    rc = co_dispatch(f);
    if (rc != SR_EINVAL)
        return rc;
    lost_thread();
    return 0;
}

/* ---- The session ------------------------------------------------------------------------------ */

static void begin(struct stream *s)
{
    static struct co_start start;
    relay.s = s;
    relay.deaf = relay.greeted = relay.ending = false;
    relay.hello_due = true;
    relay.reader = co_self();
    relay.writing = true;
    co_start_now(&start, co_write, NULL);
}

static void co_end(void)
{
    relay.ending = true;
    relay.greeted = false;
    forget_all();
    stream_abort(relay.s);
    relay_wake();
    while (relay.writing)
        co_yield ();
    co_stream_close(relay.s);
    relay.s = NULL;
    co_queue_wake_one(&idle);
}

void co_relay(void *stream)
{
    while (relay.s)
        co_queue_wait(&idle);
    begin(stream);
    while (!co_take(relay.s, &relay.in))
        ;
    co_end();
}

static void on_port(void *ctx, struct port *p, bool connected)
{
    (void)ctx;
    if (connected && co_spawn(co_relay, p->stream))
        log_line("bridge", "no memory for a session");
}

static int co_start_relay(struct error *err)
{
    (void)err;
    return port_watch(BRIDGE_PORT, on_port, NULL);
}
static const struct start_hook start_relay = {
    .name = "bridge", .order = START_LISTEN, .co_run = co_start_relay};
REGISTER(start_hook, start_relay);

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames to and from the storage VM (bridge_spec.h). Like every message, a frame stays in the socket
 * until the commit that does what it says. Nothing is queued here: when the socket to the storage VM
 * is full, the messages of the siblings wait in theirs.
 *
 * A session is an epoch; what a sibling's record says about the storage VM counts only in the epoch
 * that it names, so that a HELLO voids the state of all siblings in one commit.
 */
#include "worker.h"

#include <sys/socket.h>
#include <sys/stat.h>

struct relay relay;
static struct relay kept;

void relay_restore(const void *data, size_t len)
{
    if (len == sizeof(relay))
        memcpy(&relay, data, len);
    kept = relay;
}

int relay_commit(void)
{
    keep_put(RECORD_RELAY, &relay, sizeof(relay));
    int r = keep_commit();
    if (r < 0)
        relay = kept;
    else
        kept = relay;
    return r;
}

/* ------------------------------------------------------------------------------------------------
 * To the storage VM */

void relay_frame(const struct frame *f)
{
    uint8_t data[BRIDGE_FRAME_MAX];
    struct bridge_frame h;
    size_t at = sizeof(h);
    le32_set(&h.magic, BRIDGE_MAGIC);
    le16_set(&h.kind, (uint16_t)f->kind);
    le16_set(&h.sibling, (uint16_t)f->sibling);
    le32_set(&h.len, (uint32_t)f->len);
    le16_set(&h.handles, (uint16_t)f->handles);
    le16_set(&h.tag, (uint16_t)f->tag);
    memcpy(data, &h, sizeof(h));
    for (unsigned i = 0; i < f->handles; i++, at += sizeof(le64))
        le64_set((le64 *)(data + at), f->handle[i]);
    if (f->len)
        memcpy(data + at, f->payload, f->len);
    keep_begin();
    keep_send(KEY_RELAY, data, at + f->len, KEY_NONE);
}

static enum progress told(void)
{
    return relay_commit() < 0 ? BLOCKED : MOVED;
}

static enum progress send_end(void)
{
    relay.end_due = false;
    relay_frame(&(struct frame){.kind = BRIDGE_END, .sibling = BRIDGE_ITSELF});
    return told();
}

static enum progress greet(void)
{
    unsigned n = relay.greeted++;
    struct bridge_hello hello = {0};
    struct bridge_sibling about = {0};
    struct frame f = {
        .kind = BRIDGE_HELLO, .sibling = BRIDGE_ITSELF, .payload = &hello, .len = sizeof(hello)};
    le32_set(&hello.version, BRIDGE_VERSION);
    if (n > 0) {
        const struct sibling *s = &sibling[n - 1];
        struct stat st = {0};
        fstat(fd_of(s, KEY_MEMORY), &st);
        le64_set(&about.memory, (uint64_t)st.st_size);
        strncpy(about.name, s->conf->name, sizeof(about.name) - 1);
        f = (struct frame){
            .kind = BRIDGE_SIBLING, .sibling = s->number, .payload = &about, .len = sizeof(about)};
    }
    relay_frame(&f);
    return told();
}

/* ------------------------------------------------------------------------------------------------
 * From the storage VM */

void relay_nonsense(const char *what, size_t bytes)
{
    say("storage VM: %s: the session ends", what);
    relay.up = false;
    relay.end_due = true;
    keep_begin();
    keep_eat(KEY_RELAY, bytes);
    relay_commit();
    look_at_all();
}

void relay_closed(void)
{
    if (relay.up)
        say("storage VM: gone");
    relay.up = relay.end_due = false;
    keep_begin();
    keep_drop(KEY_RELAY);
    relay_commit();
    look_at_all();
}

static bool is_hello(const struct bridge_frame *h)
{
    return le32_get(h->magic) == BRIDGE_MAGIC && le16_get(h->kind) == BRIDGE_HELLO &&
           le32_get(h->len) == sizeof(struct bridge_hello) && le16_get(h->handles) == 0;
}

static void hello(const uint8_t *payload, size_t bytes)
{
    struct bridge_hello h;
    memcpy(&h, payload, sizeof(h));
    if (le32_get(h.version) != BRIDGE_VERSION) {
        say("storage VM: it speaks version %u of the relay, this bridge version %u",
            le32_get(h.version), BRIDGE_VERSION);
    }
    relay.up = le32_get(h.version) == BRIDGE_VERSION;
    relay.end_due = !relay.up;
    relay.epoch++;
    relay.greeted = 0;
    keep_begin();
    keep_eat(KEY_RELAY, bytes);
    relay_commit();
    look_at_all();
}

/* Outside of a session: everything up to the next HELLO goes. */
static enum progress skip(const uint8_t *data, size_t got)
{
    const struct bridge_frame *h = (const struct bridge_frame *)data;
    size_t bytes = sizeof(*h) + sizeof(struct bridge_hello), n = 1;
    if (got >= sizeof(*h) && is_hello(h)) {
        if (got < bytes)
            return IDLE;
        hello(data + sizeof(*h), bytes);
        return MOVED;
    }
    static const uint8_t magic[] = {'S', 'R', 'b', 'r'};
    if (got < sizeof(*h) && memcmp(data, magic, got < 4 ? got : 4) == 0)
        return IDLE; /* may become one */
    while (n < got && data[n] != magic[0])
        n++;
    keep_begin();
    keep_eat(KEY_RELAY, n);
    return told();
}

static void of_sibling(struct sibling *s, const struct bridge_frame *h, const uint8_t *payload,
                       size_t bytes)
{
    struct bridge_export e;
    size_t len = le32_get(h->len);
    switch (le16_get(h->kind)) {
    case BRIDGE_EXPORT:
        if (len != sizeof(e))
            break;
        memcpy(&e, payload, sizeof(e));
        front_export(s, le16_get(e.on), le16_get(e.vectors), bytes);
        return;
    case BRIDGE_VHOST:
        front_answer(s, le16_get(h->tag), payload, len, bytes);
        return;
    case BRIDGE_BACKEND:
        front_backend(s, payload, len, bytes);
        return;
    }
    relay_nonsense("a frame of a kind or size that does not exist", bytes);
}

/* In a session, `got` bytes at the head of the socket. */
static enum progress frame(const uint8_t *data, size_t got)
{
    const struct bridge_frame *h = (const struct bridge_frame *)data;
    if (got < sizeof(*h))
        return IDLE;
    size_t len = le32_get(h->len), number = le16_get(h->sibling), bytes = sizeof(*h) + len;
    if (le32_get(h->magic) != BRIDGE_MAGIC || len > BRIDGE_PAYLOAD || le16_get(h->handles) != 0) {
        relay_nonsense("a frame with a bad header", 1);
        return MOVED;
    }
    if (got < bytes)
        return IDLE;
    if (is_hello(h))
        hello(data + sizeof(*h), bytes);
    else if (number >= config.siblings)
        relay_nonsense("a frame about a sibling that does not exist", bytes);
    else
        of_sibling(&sibling[number], h, data + sizeof(*h), bytes);
    return MOVED;
}

enum progress relay_step(void)
{
    uint8_t data[BRIDGE_FRAME_MAX];
    if (held[KEY_RELAY] < 0)
        return IDLE;
    if (relay.end_due)
        return send_end();
    if (relay.up && relay.greeted <= config.siblings)
        return greet();
    ssize_t n = recv(held[KEY_RELAY], data, sizeof(data), MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return IDLE;
    if (n <= 0) {
        relay_closed();
        return MOVED;
    }
    return relay.up ? frame(data, (size_t)n) : skip(data, (size_t)n);
}

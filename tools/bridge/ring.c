/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the storage VM is told about rings: the start of one, with its vector and peer, and, to a new
 * storage VM, everything that is recorded, in the order in which a front end says it:
 *
 *     SET_PROTOCOL_FEATURES, SET_FEATURES, SET_CONFIG, SET_MEM_TABLE,
 *     for each queue: SET_VRING_NUM, _BASE, _ADDR, _CALL, _KICK, _ENABLE        then REPLAYED
 *
 * The cursor of a replay counts these pieces. SET_VRING_BASE is then the used index in the ring
 * itself: everything before it was completed, and everything from it on is done (again), which is
 * the same because used entries come in the order of the available ones.
 */
#include "worker.h"

#include <unistd.h>

enum { /* pieces of a replay; of each queue; behind the last queue comes REPLAYED */
       AT_PROTOCOL,
       AT_FEATURES,
       AT_CONFIG,
       AT_MEMORY,
       AT_QUEUES,
       AT_NUM = 0,
       AT_BASE,
       AT_ADDR,
       AT_CALL,
       AT_KICK,
       AT_ENABLE,
       AT_EACH,
       AT_END = AT_QUEUES + AT_EACH * BRIDGE_QUEUES,
};

static const struct region *find_user(const struct state *st, uint64_t user, uint64_t len)
{
    for (uint32_t i = 0; i < st->regions; i++) {
        const struct region *r = &st->region[i];
        if (r->local && user >= r->user && user - r->user <= r->size &&
            len <= r->size - (user - r->user))
            return r;
    }
    return NULL;
}

uint16_t ring_used(const struct sibling *s, const struct queue *q)
{
    struct vring_used ring;
    const struct region *r = find_user(&s->st, q->used, sizeof(ring));
    if (!r || !(q->has & HAS_ADDR) ||
        pread(fd_of(s, KEY_MEMORY), &ring, sizeof(ring), (off_t)(r->offset + q->used - r->user)) !=
            sizeof(ring))
        return (uint16_t)q->base;
    return le16_get(ring.idx);
}

/* ------------------------------------------------------------------------------------------------
 * Messages of our own making */

static void begin(struct sibling *s, unsigned request, const void *payload, size_t len,
                  const uint64_t *handle, unsigned handles)
{
    uint8_t msg[sizeof(struct vhost_user_header) + MESSAGE_PAYLOAD];
    struct vhost_user_header h;
    le32_set(&h.request, request);
    le32_set(&h.flags, VHOST_USER_VERSION);
    le32_set(&h.size, (uint32_t)len);
    memcpy(msg, &h, sizeof(h));
    memcpy(msg + sizeof(h), payload, len);
    relay_frame(&(struct frame){.kind = BRIDGE_VHOST,
                                .sibling = s->number,
                                .payload = msg,
                                .len = sizeof(h) + len,
                                .handle = handle,
                                .handles = handles});
}

static void begin_u64(struct sibling *s, unsigned request, uint64_t v)
{
    le64 payload;
    le64_set(&payload, v);
    begin(s, request, &payload, sizeof(payload), NULL, 0);
}

static void begin_vring(struct sibling *s, unsigned request, unsigned n, uint32_t num)
{
    struct vhost_user_vring_state v;
    le32_set(&v.index, n);
    le32_set(&v.num, num);
    begin(s, request, &v, sizeof(v), NULL, 0);
}

static void begin_addr(struct sibling *s, unsigned n, const struct queue *q)
{
    struct vhost_user_vring_addr a;
    le32_set(&a.index, n);
    le32_set(&a.flags, q->addr_flags);
    le64_set(&a.desc, q->desc);
    le64_set(&a.used, q->used);
    le64_set(&a.avail, q->avail);
    le64_set(&a.log, q->log);
    begin(s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), NULL, 0);
}

static void begin_memory(struct sibling *s)
{
    struct {
        struct vhost_user_memory head;
        struct vhost_user_region region[VHOST_USER_REGIONS];
    } m = {0};
    uint64_t handle[VHOST_USER_REGIONS];
    le32_set(&m.head.count, s->st.regions);
    for (uint32_t i = 0; i < s->st.regions; i++) {
        const struct region *r = &s->st.region[i];
        le64_set(&m.region[i].guest_addr, r->guest);
        le64_set(&m.region[i].size, r->size);
        le64_set(&m.region[i].user_addr, r->user);
        le64_set(&m.region[i].offset, r->offset);
        handle[i] = r->local ? 0 : BRIDGE_ELSEWHERE;
    }
    begin(s, VHOST_USER_SET_MEM_TABLE, &m,
          sizeof(m.head) + s->st.regions * sizeof(struct vhost_user_region), handle, s->st.regions);
}

static void begin_eventfd(struct sibling *s, unsigned request, unsigned n, int fd, uint64_t value)
{
    le64 payload;
    le64_set(&payload, fd < 0 ? n | VHOST_USER_VRING_NOFD : n);
    begin(s, request, &payload, sizeof(payload), &value, fd >= 0);
}

/* True: there is something to tell, and the commit has been begun with it. */
static bool begin_head(struct sibling *s, unsigned piece)
{
    const struct state *st = &s->st;
    if (piece == AT_PROTOCOL && st->has_protocol)
        begin_u64(s, VHOST_USER_SET_PROTOCOL_FEATURES, st->protocol);
    else if (piece == AT_FEATURES && st->has_features)
        begin_u64(s, VHOST_USER_SET_FEATURES, st->features);
    else if (piece == AT_CONFIG && st->config_len)
        begin(s, VHOST_USER_SET_CONFIG, st->config, st->config_len, NULL, 0);
    else if (piece == AT_MEMORY && st->has_memory)
        begin_memory(s);
    else
        return false;
    return true;
}

static bool begin_queue(struct sibling *s, unsigned n, unsigned piece)
{
    const struct queue *q = &s->st.queue[n];
    if (piece == AT_NUM && q->has & HAS_NUM)
        begin_vring(s, VHOST_USER_SET_VRING_NUM, n, q->num);
    else if (piece == AT_BASE && q->has & HAS_BASE)
        begin_vring(s, VHOST_USER_SET_VRING_BASE, n, q->started ? ring_used(s, q) : q->base);
    else if (piece == AT_ADDR && q->has & HAS_ADDR)
        begin_addr(s, n, q);
    else if (piece == AT_CALL && q->started)
        begin_eventfd(s, VHOST_USER_SET_VRING_CALL, n, call_fd(s, n),
                      (uint64_t)q->call[q->current].peer << 16);
    else if (piece == AT_KICK && q->started)
        begin_eventfd(s, VHOST_USER_SET_VRING_KICK, n, fd_of(s, KEY_KICK + n), q->vector);
    else if (piece == AT_ENABLE && q->has & HAS_ENABLE)
        begin_vring(s, VHOST_USER_SET_VRING_ENABLE, n, q->enabled);
    else
        return false;
    return true;
}

static enum progress told(struct sibling *s)
{
    return sibling_commit(s) < 0 ? BLOCKED : MOVED;
}

/* ------------------------------------------------------------------------------------------------
 * The two occasions */

enum progress ring_todo(struct sibling *s)
{
    struct state *st = &s->st;
    unsigned n = st->todo_queue;
    bool call = st->todo & TODO_CALL;
    if (!st->todo)
        return IDLE;
    enum progress p = call ? ivshmem_call(s, n) : ivshmem_kick(s, n);
    if (p != IDLE)
        return p;
    st->todo &= (uint8_t) ~(call ? TODO_CALL : TODO_KICK);
    begin_queue(s, n, call ? AT_CALL : AT_KICK);
    return told(s);
}

/* Skips what there is nothing to say about. */
static bool begin_piece(struct sibling *s, unsigned cursor)
{
    return cursor < AT_QUEUES
               ? begin_head(s, cursor)
               : begin_queue(s, (cursor - AT_QUEUES) / AT_EACH, (cursor - AT_QUEUES) % AT_EACH);
}

static enum progress device_first(struct sibling *s, unsigned cursor)
{
    unsigned n = (cursor - AT_QUEUES) / AT_EACH, piece = (cursor - AT_QUEUES) % AT_EACH;
    if (cursor < AT_QUEUES || !s->st.queue[n].started)
        return IDLE;
    return piece == AT_CALL ? ivshmem_call(s, n) : piece == AT_KICK ? ivshmem_kick(s, n) : IDLE;
}

enum progress ring_replay(struct sibling *s)
{
    struct state *st = &s->st;
    while (st->cursor < AT_END) {
        enum progress p = device_first(s, st->cursor);
        if (p != IDLE)
            return p;
        if (begin_piece(s, st->cursor++))
            return told(s);
    }
    st->view = LIVE;
    st->todo = 0;
    relay_frame(&(struct frame){.kind = BRIDGE_REPLAYED, .sibling = s->number});
    return told(s);
}

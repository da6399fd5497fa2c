/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages of a sibling: how they lie in the socket, which exist, and what of them is recorded.
 *
 * A message is looked at (MSG_PEEK) until all is done that it asks for. The kernel ends a peek
 * behind a piece that carries descriptors, so a message that was sent in pieces is peeked on with
 * SO_PEEK_OFF. It does not end one before such a piece, and then hands out the descriptors of what
 * follows: so only messages that have some are asked for them. Each peek makes new descriptors;
 * they are closed or kept.
 */
#include "worker.h"

#include <linux/kcmp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PASSES = 1, QUEUE = 2, NEEDS_FDS = 4, MAY_FD = 8 };

static const struct rule {
    const char *name;
    uint16_t min, max; /* bytes of payload */
    uint8_t flags;
} rules[] = {
    [VHOST_USER_GET_FEATURES] = {"GET_FEATURES", 0, 0, PASSES},
    [VHOST_USER_SET_FEATURES] = {"SET_FEATURES", 8, 8, PASSES},
    [VHOST_USER_SET_OWNER] = {"SET_OWNER", 0, 0, PASSES},
    [VHOST_USER_RESET_OWNER] = {"RESET_OWNER", 0, 0, 0}, /* "should be ignored" */
    [VHOST_USER_SET_MEM_TABLE] = {"SET_MEM_TABLE", 8, 8 + 32 * VHOST_USER_REGIONS,
                                  PASSES | NEEDS_FDS},
    [VHOST_USER_SET_VRING_NUM] = {"SET_VRING_NUM", 8, 8, PASSES | QUEUE},
    [VHOST_USER_SET_VRING_ADDR] = {"SET_VRING_ADDR", 40, 40, PASSES | QUEUE},
    [VHOST_USER_SET_VRING_BASE] = {"SET_VRING_BASE", 8, 8, PASSES | QUEUE},
    [VHOST_USER_GET_VRING_BASE] = {"GET_VRING_BASE", 8, 8, PASSES | QUEUE},
    [VHOST_USER_SET_VRING_KICK] = {"SET_VRING_KICK", 8, 8, MAY_FD},
    [VHOST_USER_SET_VRING_CALL] = {"SET_VRING_CALL", 8, 8, MAY_FD},
    [VHOST_USER_SET_VRING_ERR] = {"SET_VRING_ERR", 8, 8, MAY_FD},
    [VHOST_USER_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", 0, 0, PASSES},
    [VHOST_USER_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", 8, 8, PASSES},
    [VHOST_USER_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", 0, 0, PASSES},
    [VHOST_USER_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", 8, 8, PASSES | QUEUE},
    [VHOST_USER_SET_BACKEND_REQ_FD] = {"SET_BACKEND_REQ_FD", 0, 0, NEEDS_FDS},
    [VHOST_USER_GET_CONFIG] = {"GET_CONFIG", 12, 12 + VHOST_USER_CONFIG_BYTES, PASSES},
    [VHOST_USER_SET_CONFIG] = {"SET_CONFIG", 12, 12 + VHOST_USER_CONFIG_BYTES, PASSES},
};
static_assert(MESSAGE_PAYLOAD >= 12 + VHOST_USER_CONFIG_BYTES, "the longest message");

static const struct rule *rule_of(uint32_t request)
{
    return request < LEN(rules) && rules[request].name ? &rules[request] : NULL;
}

const char *message_name(uint32_t request)
{
    return rule_of(request) ? rule_of(request)->name : "an unknown request";
}

bool message_passes(const struct message *m)
{
    return rule_of(m->request)->flags & PASSES;
}

/* ------------------------------------------------------------------------------------------------
 * In the socket */

/* 1: `want` bytes; 0: not yet; -1: closed. */
static int peek(int sock, void *data, size_t want, struct message *m)
{
    int off = 0;
    size_t got = 0;
    if (setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof(off)) < 0)
        return -1;
    while (got < want) {
        unsigned room = m ? (unsigned)LEN(m->fd) - m->fds : 0;
        int n = datagram_receive(sock, (uint8_t *)data + got, want - got, m ? m->fd + m->fds : NULL,
                                 &room, MSG_PEEK | MSG_DONTWAIT);
        if (n <= 0)
            return n < 0 && errno == EAGAIN ? 0 : -1;
        if (m)
            m->fds += room;
        got += (size_t)n;
    }
    return 1;
}

int message_peek_header(int sock, struct message *m)
{
    struct vhost_user_header h;
    int r = peek(sock, &h, sizeof(h), NULL);
    if (r <= 0)
        return r;
    *m = (struct message){.request = le32_get(h.request),
                          .flags = le32_get(h.flags),
                          .len = le32_get(h.size),
                          .take = KEY_NONE,
                          .drop = KEY_NONE};
    return 1;
}

static const char *check_header(const struct message *m)
{
    const struct rule *r = rule_of(m->request);
    if (!r)
        return "a request that we do not know";
    if ((m->flags & ~VHOST_USER_NEED_REPLY) != VHOST_USER_VERSION)
        return "flags that we do not know";
    return m->len < r->min || m->len > r->max ? "a message of the wrong size" : NULL;
}

static uint64_t queue_of(const struct message *m)
{
    return rule_of(m->request)->flags & MAY_FD ? le64_get(m->u64) & VHOST_USER_VRING_INDEX
                                               : le32_get(m->vring.index);
}

static bool has_fds(const struct message *m)
{
    unsigned flags = rule_of(m->request)->flags;
    return flags & NEEDS_FDS || (flags & MAY_FD && !(le64_get(m->u64) & VHOST_USER_VRING_NOFD));
}

static const char *check_body(const struct message *m)
{
    unsigned flags = rule_of(m->request)->flags;
    if (flags & (QUEUE | MAY_FD) && queue_of(m) >= BRIDGE_QUEUES)
        return "a queue that is out of range";
    if (flags & MAY_FD && m->fds != has_fds(m))
        return "a ring's message without its descriptor";
    if (m->request == VHOST_USER_SET_BACKEND_REQ_FD && m->fds != 1)
        return "no socket for our requests";
    if ((m->request == VHOST_USER_GET_CONFIG || m->request == VHOST_USER_SET_CONFIG) &&
        le32_get(m->config.size) != m->len - sizeof(m->config))
        return "a configuration of another size";
    return NULL;
}

static int peek_body(int sock, struct message *m, const char **why)
{
    uint8_t all[sizeof(struct vhost_user_header) + MESSAGE_PAYLOAD];
    size_t len = sizeof(struct vhost_user_header) + m->len;
    int r = peek(sock, all, len, NULL);
    if (r <= 0)
        return r;
    memcpy(m->payload, all + sizeof(struct vhost_user_header), m->len);
    if (has_fds(m) && peek(sock, all, len, m) <= 0)
        return -1;
    *why = check_body(m);
    return *why ? -1 : 1;
}

int message_peek(int sock, struct message *m, const char **why)
{
    *why = NULL;
    int r = message_peek_header(sock, m);
    if (r <= 0)
        return r;
    *why = check_header(m);
    r = *why ? -1 : peek_body(sock, m, why);
    if (r <= 0)
        message_close_fds(m);
    return r;
}

void message_close_fds(struct message *m)
{
    for (unsigned i = 0; i < m->fds; i++)
        close(m->fd[i]);
    m->fds = 0;
}

/* ------------------------------------------------------------------------------------------------
 * What is recorded */

/* Only an eventfd is passed on, read or written: anything else could make its reader wait. */
static bool is_eventfd(int fd)
{
    char path[40], link[40] = "";
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return readlink(path, link, sizeof(link) - 1) > 0 && strcmp(link, "anon_inode:[eventfd]") == 0;
}

static void region_set(struct region *to, const struct vhost_user_region *from, int fd, int memory)
{
    struct stat a, b;
    *to = (struct region){.guest = le64_get(from->guest_addr),
                          .size = le64_get(from->size),
                          .user = le64_get(from->user_addr),
                          .offset = le64_get(from->offset)};
    to->local = fstat(fd, &a) == 0 && fstat(memory, &b) == 0 && a.st_dev == b.st_dev &&
                a.st_ino == b.st_ino && to->offset <= (uint64_t)b.st_size &&
                to->size <= (uint64_t)b.st_size - to->offset;
}

static const char *record_memory(struct sibling *s, struct message *m)
{
    struct vhost_user_memory head;
    struct vhost_user_region region;
    memcpy(&head, m->payload, sizeof(head));
    uint32_t n = le32_get(head.count);
    if (n > VHOST_USER_REGIONS || m->len != sizeof(head) + n * sizeof(region) || m->fds != n)
        return "a memory table that does not add up";
    for (uint32_t i = 0; i < n; i++) {
        memcpy(&region, m->payload + sizeof(head) + i * sizeof(region), sizeof(region));
        region_set(&s->st.region[i], &region, m->fd[i], fd_of(s, KEY_MEMORY));
        m->handle[i] = s->st.region[i].local ? 0 : BRIDGE_ELSEWHERE;
        if (!s->st.region[i].local)
            sibling_say(s, "has memory outside of its file %s", s->conf->memory);
    }
    m->handles = n;
    s->st.regions = n;
    s->st.has_memory = true;
    return NULL;
}

static void record_addr(struct queue *q, const struct vhost_user_vring_addr *a)
{
    q->addr_flags = le32_get(a->flags);
    q->desc = le64_get(a->desc);
    q->used = le64_get(a->used);
    q->avail = le64_get(a->avail);
    q->log = le64_get(a->log);
    q->has |= HAS_ADDR;
}

static void record_vring(struct queue *q, const struct message *m)
{
    uint32_t num = le32_get(m->vring.num);
    if (m->request == VHOST_USER_SET_VRING_NUM) {
        q->num = num;
        q->has |= HAS_NUM;
    } else if (m->request == VHOST_USER_SET_VRING_BASE) {
        q->base = num;
        q->has |= HAS_BASE;
    } else if (m->request == VHOST_USER_SET_VRING_ENABLE) {
        q->enabled = num;
        q->has |= HAS_ENABLE;
    } else if (m->request == VHOST_USER_SET_VRING_ADDR) {
        record_addr(q, &m->addr);
    }
}

/* One and the same eventfd, though received twice? */
static bool is_same(int fd, int other)
{
    pid_t me = getpid();
    return other >= 0 && syscall(SYS_kcmp, me, me, KCMP_FILE, fd, other) == 0;
}

/* A kick is told to the storage VM when it comes: it starts the ring. */
static void record_kick(struct sibling *s, struct message *m, unsigned n)
{
    struct queue *q = &s->st.queue[n];
    *(m->fds ? &m->take : &m->drop) = key_of(s, KEY_KICK + n);
    q->kick_ready = false;
    q->started = true;
    s->st.todo = TODO_CALL | TODO_KICK;
}

/* A call is told with the start of its ring, or if that runs. */
static void record_call(struct sibling *s, struct message *m, unsigned n)
{
    struct queue *q = &s->st.queue[n];
    s->st.todo = q->started ? TODO_CALL : 0;
    q->silent = !m->fds;
    if (q->silent || is_same(m->fd[0], held[call_key(s, n)]))
        return;
    q->current = !q->current;
    if (is_same(m->fd[0], held[call_key(s, n)]))
        return;
    q->call[q->current].ready = false;
    m->take = call_key(s, n);
}

static const char *record_eventfd(struct sibling *s, struct message *m)
{
    unsigned n = (unsigned)queue_of(m);
    if (m->fds && !is_eventfd(m->fd[0]))
        return "a ring's descriptor that is no eventfd";
    s->st.todo_queue = (uint8_t)n;
    if (m->request == VHOST_USER_SET_VRING_KICK)
        record_kick(s, m, n);
    else
        record_call(s, m, n);
    return NULL;
}

static const char *record_config(struct state *st, const struct message *m)
{
    st->config_len = m->len;
    memcpy(st->config, m->payload, m->len);
    return NULL;
}

const char *message_record(struct sibling *s, struct message *m)
{
    struct state *st = &s->st;
    switch (m->request) {
    case VHOST_USER_SET_FEATURES:
        st->features = le64_get(m->u64);
        st->has_features = true;
        return NULL;
    case VHOST_USER_SET_PROTOCOL_FEATURES:
        st->protocol = le64_get(m->u64);
        st->has_protocol = true;
        return NULL;
    case VHOST_USER_SET_MEM_TABLE:
        return record_memory(s, m);
    case VHOST_USER_SET_VRING_KICK:
    case VHOST_USER_SET_VRING_CALL:
        return record_eventfd(s, m);
    case VHOST_USER_SET_BACKEND_REQ_FD:
        m->take = key_of(s, KEY_BACKEND);
        return NULL;
    case VHOST_USER_SET_CONFIG:
        return record_config(st, m);
    }
    if (rule_of(m->request)->flags & QUEUE)
        record_vring(&st->queue[queue_of(m)], m);
    return NULL;
}

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TOOLS_BRIDGE_WORKER_H
#define TOOLS_BRIDGE_WORKER_H
/*
 * The worker's state, and what its parts offer each other. main.c draws the whole.
 *
 * struct state and struct relay are *records*: what a new worker needs to go on. They change only
 * together with a commit: a part edits the copy in `st`, adds the steps, and calls sibling_commit or
 * relay_commit; when the commit fails the copy is what it was before.
 *
 * What the storage VM knows of a sibling is its *view*. LIVE: everything; messages are passed on as
 * they come. REPLAY: the recorded state is being told. STALE: something else than what is true;
 * DISCONNECTED comes next. UNTOLD: nothing. While the view is not LIVE and no session is there to
 * make it so (or it takes too long: `late`), the sibling's messages are recorded, and answered here
 * as far as that is possible.
 *
 * Functions that may have to wait for a peer return a `progress`.
 */
#include "keep.h"

#include <errno.h>
#include <string.h>

enum progress {
    IDLE,    /* nothing to do */
    MOVED,   /* something was done: call again */
    BLOCKED, /* a peer has to read, or to answer, first */
};

enum view { UNTOLD, REPLAY, LIVE, STALE };

struct region {
    uint64_t guest, size, user, offset;
    bool local; /* of the memory file */
};

enum { /* queue.has */
       HAS_NUM = 1,
       HAS_ADDR = 2,
       HAS_BASE = 4,
       HAS_ENABLE = 8,
};

struct queue {
    uint32_t num, base, addr_flags;
    uint64_t desc, used, avail, log; /* addresses in the sibling's QEMU */
    uint16_t vector;                 /* what the kick is to the storage VM, if ready */
    uint8_t has;
    bool enabled, started; /* started: from SET_VRING_KICK to GET_VRING_BASE */
    bool kick_ready;       /* the ivshmem device has it */
    struct call {          /* the two newest: QEMU goes to and fro when a vector is masked */
        uint16_t peer;     /* what it is to the storage VM, if ready */
        bool ready;
    } call[2];
    uint8_t current; /* of them */
    bool silent;     /* there is no call */
    bool bell_ready; /* the device has the queue's KEY_BELL */
};

enum { TODO_CALL = 1, TODO_KICK = 2 };

struct state {
    /* the session with the storage VM */
    uint32_t epoch; /* the session that the next five belong to */
    bool exported;
    uint16_t vectors;
    uint8_t view;     /* enum view */
    uint16_t cursor;  /* of the replay */
    uint16_t waiting; /* tag of the message that is answered next; it still lies in the socket */
    /* the ivshmem device */
    uint8_t stage; /* of its hello */
    uint16_t next_vector, next_peer;
    /* the sibling */
    bool fresh; /* has said nothing since it connected */
    uint16_t tag;
    uint8_t todo, todo_queue; /* TODO_*: to be told before the next message is taken */
    bool has_features, has_protocol, has_memory;
    uint64_t features, protocol;
    uint32_t regions;
    struct region region[VHOST_USER_REGIONS];
    uint32_t config_len;
    uint8_t config[sizeof(struct vhost_user_config) + VHOST_USER_CONFIG_BYTES];
    struct queue queue[BRIDGE_QUEUES];
};
static_assert(sizeof(struct state) <= RECORD_BYTES, "a record");

struct relay {
    uint32_t epoch;   /* counts sessions */
    bool up;          /* the storage VM has said HELLO */
    bool end_due;     /* END is to be sent */
    uint16_t greeted; /* frames of our answer to HELLO that were sent */
};
static_assert(sizeof(struct relay) <= RECORD_BYTES, "a record");

struct sibling {
    struct state st, kept; /* kept: as the keeper has it */
    const struct sibling_config *conf;
    unsigned number;
    bool look;        /* something may have happened to it */
    bool knock;       /* somebody connects */
    bool late;        /* the storage VM takes too long: go on without */
    bool settling;    /* waits for QEMU to take what was sent to its ivshmem device */
    uint64_t since;   /* milliseconds: it has been waiting from then on, or 0 */
    uint64_t line_at; /* of the log's rate limit */
    unsigned lines;
};
extern struct sibling sibling[BRIDGE_SIBLINGS];
extern struct relay relay;

/* worker.c */
void worker_begin(int keeper);
/* What has happened, and what can be done about it. more: do not wait. True: there is more. */
bool worker_turn(bool more);
int sibling_commit(struct sibling *); /* adds the record and commits; 0 or a negative errno */
int relay_commit(void);
uint64_t now_ms(void);
void look_at_all(void);
void watch(uint32_t key, uint32_t events); /* EPOLL*; the key comes back with the event */
/* A line about a sibling, a few per second at most. */
void sibling_say(struct sibling *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline uint32_t key_of(const struct sibling *s, unsigned key)
{
    return KEY(s->number, key);
}
static inline int fd_of(const struct sibling *s, unsigned key)
{
    return held[KEY(s->number, key)];
}
static inline uint32_t call_key(const struct sibling *s, unsigned q)
{
    return KEY(s->number, KEY_CALL + 2 * q + s->st.queue[q].current);
}
static inline int call_fd(const struct sibling *s, unsigned q)
{
    return s->st.queue[q].silent ? -1 : held[call_key(s, q)];
}
static inline bool in_session(const struct sibling *s)
{
    return relay.up && s->st.epoch == relay.epoch;
}
static inline bool connected(const struct sibling *s)
{
    return fd_of(s, KEY_VHOST) >= 0;
}

/* relay.c. relay_frame begins a commit with a frame to the storage VM. */
struct frame {
    unsigned kind, sibling, tag;
    const uint64_t *handle;
    unsigned handles;
    const void *payload;
    size_t len;
};
void relay_frame(const struct frame *);
enum progress relay_step(void);
void relay_closed(void);
void relay_restore(const void *data, size_t len);
/* The frame of `bytes` bytes at the head of the relay cannot be: the session is over. */
void relay_nonsense(const char *what, size_t bytes);

/* front.c */
enum progress front_step(struct sibling *);
void front_timeout(struct sibling *);
void front_closed(struct sibling *, const char *why); /* NULL: it closed */
/* The storage VM's answer, which is the frame of `bytes` bytes at the head of the relay. */
void front_answer(struct sibling *, unsigned tag, const uint8_t *msg, size_t len, size_t bytes);
void front_backend(struct sibling *, const uint8_t *msg, size_t len, size_t bytes);
void front_export(struct sibling *, bool on, unsigned vectors, size_t bytes);

/* message.c: one message of a sibling. */
#define MESSAGE_PAYLOAD 320u
struct message {
    uint32_t request, flags;
    uint32_t len; /* of the payload */
    union {
        uint8_t payload[MESSAGE_PAYLOAD];
        struct vhost_user_vring_state vring;
        struct vhost_user_vring_addr addr;
        struct vhost_user_config config;
        le64 u64;
    };
    int fd[VHOST_USER_REGIONS];
    unsigned fds;
    uint64_t handle[VHOST_USER_REGIONS];
    unsigned handles;
    uint32_t take, drop; /* keys; take: fd[0] goes there */
};
static inline bool wants_answer(const struct message *m)
{
    return m->request == VHOST_USER_GET_FEATURES ||
           m->request == VHOST_USER_GET_PROTOCOL_FEATURES ||
           m->request == VHOST_USER_GET_QUEUE_NUM || m->request == VHOST_USER_GET_VRING_BASE ||
           m->request == VHOST_USER_GET_CONFIG || (m->flags & VHOST_USER_NEED_REPLY);
}
/* 1: a whole message, which stays in the socket; 0: not yet; -1: *why (NULL: closed). */
int message_peek(int fd, struct message *, const char **why);
/* The same, without descriptors and payload. */
int message_peek_header(int fd, struct message *);
void message_close_fds(struct message *);
/* Is it to be passed on as it is? (Others are kept here, or told in ring.c's words.) */
bool message_passes(const struct message *);
/* Writes what it says into s->st, m->handle, m->take and m->drop. NULL, or what is wrong. */
const char *message_record(struct sibling *, struct message *);
const char *message_name(uint32_t request);

/* ring.c */
/* The ring's used index, from memory; or its base when that is out of reach. */
uint16_t ring_used(const struct sibling *, const struct queue *);
enum progress ring_todo(struct sibling *);   /* tells TODO_* */
enum progress ring_replay(struct sibling *); /* tells the next piece of the recorded state */

/* ivshmem.c */
enum progress ivshmem_hello(struct sibling *);
void ivshmem_accept(struct sibling *);
/* Makes kick or call of a queue known to the device. MOVED: so far, go on; IDLE: it is known. */
enum progress ivshmem_kick(struct sibling *, unsigned q);
enum progress ivshmem_call(struct sibling *, unsigned q);

/* signal.c */
void signal_kick(struct sibling *, unsigned q); /* the sibling's eventfd can be read */
void signal_bell(struct sibling *, unsigned q); /* the storage VM's can */
void signal_watch(struct sibling *, unsigned q);
void signal_all(struct sibling *); /* after a restart: nothing may be lost */
void nonblocking(int fd);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The server of the storage VM's ivshmem-doorbell devices, one device and one socket for each
 * sibling. A message is a number of 8 bytes, perhaps with a descriptor (QEMU,
 * docs/specs/ivshmem-spec.txt):
 *
 *     0                        version of the protocol
 *     number + 1               who the device is, its IVPosition
 *     -1, memory file          BAR2
 *     number + 1, eventfd      the device's next MSI-X vector; the first is the wake vector
 *     peer, eventfd            what its doorbell rings for that peer, vector 0
 *
 * in this order: QEMU crashes when a vector precedes the memory. It also crashes when a peer is
 * removed and its number used again, and vectors cannot be taken back. So numbers only grow while a
 * device lives. The first `--direct` starts get a vector and a peer each. Later ones share: kicks
 * come as the wake vector, and every queue has one peer for good, BELL + queue, whose eventfd is the
 * worker's (signal.c).
 *
 * QEMU makes every descriptor that it receives blocking, for all who share it: also for the
 * sibling, which would then hang in a read. The device makes it non-blocking again, but in between
 * lies a moment. So when QEMU has taken a message, we look.
 */
#include "worker.h"

#include <linux/sockios.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BELL        0x100u /* + queue: the lasting peers; own numbers lie below */
#define FIRST_PEER  0x200u
#define HELLO_STAGE 4u
static_assert(BELL > BRIDGE_SIBLINGS && FIRST_PEER >= BELL + BRIDGE_QUEUES, "numbers of peers");

/* Adds to the commit; the record follows. */
static void send_number(struct sibling *s, int64_t number, uint32_t fd_key)
{
    le64 v;
    le64_set(&v, (uint64_t)number);
    keep_begin();
    keep_send(key_of(s, KEY_IVSHMEM), &v, sizeof(v), fd_key);
}

static enum progress sent(struct sibling *s)
{
    return sibling_commit(s) < 0 ? BLOCKED : MOVED;
}

void ivshmem_accept(struct sibling *s)
{
    struct state *st = &s->st;
    st->stage = 0;
    st->next_vector = 1;
    st->next_peer = FIRST_PEER;
    for (unsigned q = 0; q < BRIDGE_QUEUES; q++) {
        struct queue *of = &st->queue[q];
        of->kick_ready = of->bell_ready = of->call[0].ready = of->call[1].ready = false;
    }
    keep_begin();
    keep_accept(key_of(s, KEY_IVSHMEM_LISTEN), key_of(s, KEY_IVSHMEM));
    if (sibling_commit(s) == 0 && in_session(s) && st->view != UNTOLD)
        relay_nonsense("an ivshmem device came while its sibling was served", 0);
}

static bool have_wake(struct sibling *s)
{
    if (fd_of(s, KEY_WAKE) >= 0)
        return true;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return false;
    keep_begin();
    keep_take(key_of(s, KEY_WAKE), fd);
    return keep_commit() == 0;
}

enum progress ivshmem_hello(struct sibling *s)
{
    int64_t own = s->number + 1;
    if (fd_of(s, KEY_IVSHMEM) < 0 || s->st.stage == HELLO_STAGE || !have_wake(s))
        return IDLE;
    switch (s->st.stage++) {
    case 0:
        send_number(s, 0, KEY_NONE);
        break;
    case 1:
        send_number(s, own, KEY_NONE);
        break;
    case 2:
        send_number(s, -1, key_of(s, KEY_MEMORY));
        break;
    default:
        send_number(s, own, key_of(s, KEY_WAKE));
    }
    return sent(s);
}

/* IDLE: QEMU has read everything, and what it did to the flags is undone. */
static enum progress settled(struct sibling *s, int fd)
{
    int unread = 0;
    s->settling = fd_of(s, KEY_IVSHMEM) >= 0 &&
                  ioctl(fd_of(s, KEY_IVSHMEM), SIOCOUTQ, &unread) == 0 && unread >= 256;
    if (s->settling)
        return BLOCKED;
    nonblocking(fd);
    return IDLE;
}

static bool device_ready(const struct sibling *s)
{
    return fd_of(s, KEY_IVSHMEM) >= 0 && s->st.stage == HELLO_STAGE;
}

enum progress ivshmem_kick(struct sibling *s, unsigned n)
{
    struct state *st = &s->st;
    struct queue *q = &st->queue[n];
    uint32_t key = key_of(s, KEY_KICK + n);
    if (held[key] < 0 || q->kick_ready)
        return held[key] < 0 ? IDLE : settled(s, held[key]);
    if (!device_ready(s))
        return BLOCKED;
    q->kick_ready = true;
    q->vector = 0;
    if (st->next_vector <= config.direct && st->next_vector < st->vectors) {
        q->vector = st->next_vector++;
        send_number(s, s->number + 1, key);
    } else {
        keep_begin();
    }
    enum progress p = sent(s);
    signal_watch(s, n);
    return p;
}

static bool have_bell(struct sibling *s, unsigned n)
{
    uint32_t key = key_of(s, KEY_BELL + n);
    int fd = held[key] >= 0 ? -1 : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd >= 0) {
        keep_begin();
        keep_take(key, fd);
        if (keep_commit() < 0)
            return false;
        signal_watch(s, n);
    }
    return held[key] >= 0;
}

static enum progress call_by_bell(struct sibling *s, unsigned n)
{
    struct queue *q = &s->st.queue[n];
    if (!have_bell(s, n))
        return BLOCKED;
    struct call *c = &q->call[q->current];
    c->peer = (uint16_t)(BELL + n);
    c->ready = true;
    if (q->bell_ready)
        keep_begin();
    else
        send_number(s, c->peer, key_of(s, KEY_BELL + n));
    q->bell_ready = true;
    return sent(s);
}

enum progress ivshmem_call(struct sibling *s, unsigned n)
{
    struct state *st = &s->st;
    struct call *c = &st->queue[n].call[st->queue[n].current];
    int fd = call_fd(s, n);
    if (fd < 0 || c->ready)
        return fd < 0 ? IDLE : settled(s, fd);
    if (!device_ready(s))
        return BLOCKED;
    if (st->next_peer - FIRST_PEER >= config.direct)
        return call_by_bell(s, n);
    c->ready = true;
    c->peer = st->next_peer++;
    send_number(s, c->peer, call_key(s, n));
    return sent(s);
}

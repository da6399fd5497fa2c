/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Rings that have no vector or no peer of their own: the worker reads one eventfd and writes the
 * other. A read comes before its write, so that no signal falls between; what a dying worker read
 * and did not write is made up for by its successor, who signals everybody once.
 *
 * The sibling's descriptors are shared with it, and it can make them blocking (or fill their
 * counter) at any moment; limit_waits ends whatever waits.
 */
#include "worker.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

static bool take(int fd)
{
    uint64_t count;
    limit_waits();
    return fd >= 0 && read(fd, &count, sizeof(count)) == sizeof(count);
}

static bool give(int fd)
{
    uint64_t one = 1;
    limit_waits();
    return fd < 0 || write(fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN;
}

void nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || flags & O_NONBLOCK)
        return;
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    give(fd); /* who is already caught in a read of it, comes free */
}

static bool by_wake(const struct sibling *s, unsigned n)
{
    const struct queue *q = &s->st.queue[n];
    return q->started && q->kick_ready && q->vector == 0;
}

void signal_kick(struct sibling *s, unsigned n)
{
    if (take(fd_of(s, KEY_KICK + n)))
        give(fd_of(s, KEY_WAKE));
}

void signal_bell(struct sibling *s, unsigned n)
{
    if (take(fd_of(s, KEY_BELL + n)) && !give(call_fd(s, n)))
        front_closed(s, "a call that cannot be written");
}

void signal_watch(struct sibling *s, unsigned n)
{
    if (fd_of(s, KEY_KICK + n) >= 0)
        watch(key_of(s, KEY_KICK + n), by_wake(s, n) ? EPOLLIN : 0);
    if (fd_of(s, KEY_BELL + n) >= 0)
        watch(key_of(s, KEY_BELL + n), EPOLLIN);
}

void signal_all(struct sibling *s)
{
    bool wake = false;
    for (unsigned n = 0; n < BRIDGE_QUEUES; n++) {
        const struct queue *q = &s->st.queue[n];
        signal_watch(s, n);
        wake |= by_wake(s, n);
        if (q->call[q->current].ready && fd_of(s, KEY_BELL + n) >= 0)
            give(call_fd(s, n));
    }
    if (wake)
        give(fd_of(s, KEY_WAKE));
}

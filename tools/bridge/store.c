/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The worker's side of keep.h: commits are built in one buffer, sent, and waited for. When the
 * keeper is gone there is nothing to do any more: the worker ends.
 */
#include "keep.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int held[KEYS];
static int sock;

static struct {
    uint8_t data[KEEP_BYTES];
    size_t len;
    uint32_t take[KEEP_FDS], drop[3 * BRIDGE_QUEUES + 16];
    int fd[KEEP_FDS];
    unsigned takes, drops;
    uint32_t gets; /* the key of what comes with the answer */
} commit;

void keep_begin(void)
{
    commit.len = commit.takes = commit.drops = 0;
    commit.gets = KEY_NONE;
}

static void step(uint32_t op, uint32_t key, uint32_t arg, const void *data, size_t len)
{
    struct keep_step s = {.op = op, .key = key, .arg = arg, .len = (uint32_t)len};
    if (len > sizeof(commit.data) - commit.len - sizeof(s))
        abort(); /* a defect of ours */
    memcpy(commit.data + commit.len, &s, sizeof(s));
    if (len)
        memcpy(commit.data + commit.len + sizeof(s), data, len);
    commit.len += sizeof(s) + len;
}

void keep_send(uint32_t key, const void *data, size_t len, uint32_t fd_key)
{
    step(KEEP_SEND, key, fd_key, data, len);
}

void keep_accept(uint32_t listener, uint32_t key)
{
    step(KEEP_ACCEPT, listener, key, NULL, 0);
    commit.gets = key;
}

void keep_listen(uint32_t key)
{
    step(KEEP_LISTEN, key, 0, NULL, 0);
    commit.gets = key;
}

void keep_take(uint32_t key, int fd)
{
    step(KEEP_TAKE, key, 0, NULL, 0);
    commit.take[commit.takes] = key;
    commit.fd[commit.takes++] = fd;
}

void keep_drop(uint32_t key)
{
    if (held[key] < 0)
        return;
    step(KEEP_DROP, key, 0, NULL, 0);
    commit.drop[commit.drops++] = key;
}

void keep_put(uint32_t record, const void *data, size_t len)
{
    step(KEEP_PUT, record, 0, data, len);
}

void keep_eat(uint32_t key, size_t bytes)
{
    step(KEEP_EAT, key, (uint32_t)bytes, NULL, 0);
}

static void hold(uint32_t key, int fd)
{
    if (held[key] >= 0) {
        held_closing(key);
        close(held[key]);
    }
    held[key] = fd;
    if (fd >= 0)
        held_changed(key);
}

int keep_commit(void)
{
    int status = 0, fd = -1;
    unsigned nfds = 1;
    if (datagram_send(sock, commit.data, commit.len, commit.fd, commit.takes, 0) < 0 ||
        datagram_receive(sock, &status, sizeof(status), &fd, &nfds, 0) != sizeof(status))
        exit(1); /* no keeper */
    if (status < 0)
        return status;
    for (unsigned i = 0; i < commit.drops; i++)
        hold(commit.drop[i], -1);
    for (unsigned i = 0; i < commit.takes; i++)
        hold(commit.take[i], commit.fd[i]);
    if (nfds)
        hold(commit.gets, fd);
    return 0;
}

void keep_restore(int keeper, void (*put)(uint32_t record, const void *data, size_t len))
{
    static uint8_t data[KEEP_BYTES];
    struct keep_step s;
    sock = keeper;
    memset(held, 0xff, sizeof(held));
    for (;;) {
        int fd;
        unsigned nfds = 1;
        int n = datagram_receive(sock, data, sizeof(data), &fd, &nfds, 0);
        if (n < (int)sizeof(s))
            exit(1);
        memcpy(&s, data, sizeof(s));
        if (s.op == KEEP_START)
            return;
        if (s.op == KEEP_TAKE && nfds)
            hold(s.key, fd);
        if (s.op == KEEP_PUT)
            put(s.key, data + sizeof(s), s.len);
    }
}

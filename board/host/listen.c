/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Listening sockets of the host form. A host name can mean several addresses ("localhost" has two
 * families): all of them are listened on, as the storage daemon does. A unix socket's path is
 * unlinked before (left over from a process that died) and after.
 *
 * One accept at a time is under way per socket. A listener is freed when the last of them has
 * completed, which shutdown(2) brings about.
 */
#include "board/host/socket.h"
#include "board/host/uring.h"
#include "kernel/kernel.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_SOCKETS 8
#define RETRY_NS    (100ull * 1000000) /* after an accept for which descriptors or memory lacked */

struct listening {
    struct uring_op op;
    struct timer retry;
    struct listener *listener;
    int fd;
    bool busy;
    union {
        struct sockaddr sa;
        struct sockaddr_storage storage;
    } peer;
    socklen_t peer_len;
};
struct listener {
    void (*accepted)(void *ctx, struct stream *s);
    void *ctx;
    char *path; /* to unlink, or NULL */
    bool closed;
    unsigned n;
    struct listening socket[MAX_SOCKETS];
};

/* ---- Accepting -------------------------------------------------------------------------------- */

static void post_accept(struct listening *l)
{
    l->peer_len = sizeof(l->peer);
    /* Not SOCK_NONBLOCK: the ring would hand us EAGAIN instead of waiting. */
    io_uring_prep_accept(uring_sqe(&l->op), l->fd, &l->peer.sa, &l->peer_len, SOCK_CLOEXEC);
    l->busy = true;
}

static void retry_accept(struct timer *t)
{
    post_accept(container_of(t, struct listening, retry));
}

static void name_peer(const struct listening *l, char *out, size_t size)
{
    char host[48], port[8];
    if (l->peer.sa.sa_family == AF_UNIX)
        snprintf(out, size, "unix");
    else if (getnameinfo(&l->peer.sa, l->peer_len, host, sizeof(host), port, sizeof(port),
                         NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(out, size, "%s:%s", host, port);
    else
        snprintf(out, size, "unknown");
}

static void hand_over(struct listening *l, int fd)
{
    char peer[64];
    int one = 1;
    name_peer(l, peer, sizeof(peer));
    if (l->peer.sa.sa_family != AF_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    }
    struct stream *s = socket_stream(fd, peer);
    if (s)
        l->listener->accepted(l->listener->ctx, s);
    else
        close(fd);
}

static void listener_settle(struct listener *l)
{
    for (unsigned i = 0; i < l->n; i++)
        if (l->socket[i].busy)
            return;
    free(l->path);
    free(l);
}

static void accept_done(struct uring_op *op, int res, uint32_t flags)
{
    struct listening *l = container_of(op, struct listening, op);
    (void)flags;
    l->busy = false;
    if (l->listener->closed) {
        if (res >= 0)
            close(res);
        listener_settle(l->listener);
        return;
    }
    if (res >= 0)
        hand_over(l, res);
    if (res >= 0 || res == -EINTR || res == -EAGAIN || res == -ECONNABORTED)
        post_accept(l);
    else
        timer_set(&l->retry, board_clock_ns() + RETRY_NS);
}

void listener_close(struct listener *l)
{
    l->closed = true;
    for (unsigned i = 0; i < l->n; i++) {
        timer_cancel(&l->socket[i].retry);
        shutdown(l->socket[i].fd, SHUT_RDWR);
        close(l->socket[i].fd);
    }
    if (l->path)
        unlink(l->path);
    listener_settle(l);
}

/* ---- Opening ---------------------------------------------------------------------------------- */

static int open_socket(const struct sockaddr *sa, socklen_t len, unsigned backlog)
{
    int one = 1, fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (sa->sa_family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (!bind(fd, sa, len) && !listen(fd, (int)backlog))
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

static void add_socket(struct listener *l, int fd)
{
    struct listening *s = &l->socket[l->n++];
    s->listener = l;
    s->fd = fd;
    s->op.done = accept_done;
    timer_init(&s->retry, retry_accept);
}

static int listen_unix(struct listener *l, const struct listen_address *a, unsigned backlog,
                       struct error *err)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (strlen(a->path) >= sizeof(un.sun_path))
        return error_set(err, SR_EINVAL, "UNIX socket path '%s' is too long", a->path);
    strcpy(un.sun_path, a->path);
    if (unlink(a->path) < 0 && errno != ENOENT)
        return error_set(err, SR_EIO, "Failed to unlink socket %s: %s", a->path, strerror(errno));
    int fd = open_socket((struct sockaddr *)&un, sizeof(un), backlog);
    if (fd < 0)
        return error_set(err, SR_EIO, "Failed to bind socket to %s: %s", a->path, strerror(errno));
    add_socket(l, fd);
    l->path = strdup(a->path);
    return 0;
}

static void close_sockets(struct listener *l)
{
    while (l->n)
        close(l->socket[--l->n].fd);
}

static int listen_inet(struct listener *l, const struct listen_address *a, unsigned backlog,
                       struct error *err)
{
    struct addrinfo hint = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *list = NULL;
    hint.ai_family = a->ipv6_off ? AF_INET : a->ipv4_off ? AF_INET6 : AF_UNSPEC;
    const char *host = a->host && *a->host ? a->host : NULL;
    int e = getaddrinfo(host, a->port, &hint, &list);
    if (e)
        return error_set(err, SR_EIO, "address resolution failed for %s:%s: %s", a->host, a->port,
                         gai_strerror(e));
    int code = 0;
    for (struct addrinfo *i = list; i && l->n < MAX_SOCKETS && !code; i = i->ai_next) {
        int fd = open_socket(i->ai_addr, i->ai_addrlen, backlog);
        if (fd >= 0)
            add_socket(l, fd);
        else if (!(l->n && errno == EADDRINUSE) && errno != EAFNOSUPPORT && errno != EADDRNOTAVAIL)
            code = errno; /* but "::" may have taken both families */
    }
    freeaddrinfo(list);
    if (!code && l->n)
        return 0;
    close_sockets(l);
    return error_set(err, SR_EIO, "Failed to find an available port: %s",
                     strerror(code ? code : EADDRNOTAVAIL));
}

static int listen_fd(struct listener *l, const struct listen_address *a, unsigned backlog,
                     struct error *err)
{
    if (listen(a->fd, (int)backlog))
        return error_set(err, SR_EIO, "Failed to listen on file descriptor %d: %s", a->fd,
                         strerror(errno));
    add_socket(l, a->fd);
    return 0;
}

struct listener *co_listen(const struct listen_address *a, unsigned backlog,
                           void (*accepted)(void *ctx, struct stream *s), void *ctx,
                           struct error *err)
{
    struct listener *l = calloc(1, sizeof(*l));
    if (!l) {
        error_set(err, SR_ENOMEM, "out of memory");
        return NULL;
    }
    l->accepted = accepted;
    l->ctx = ctx;
    int rc = a->type == ADDR_UNIX   ? listen_unix(l, a, backlog, err)
             : a->type == ADDR_INET ? listen_inet(l, a, backlog, err)
                                    : listen_fd(l, a, backlog, err);
    if (rc) {
        free(l);
        return NULL;
    }
    for (unsigned i = 0; i < l->n; i++)
        post_accept(&l->socket[i]);
    return l;
}

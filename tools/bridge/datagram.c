/* SPDX-License-Identifier: BSD-2-Clause */
/* Messages with descriptors, over any Unix socket (keep.h). */
#include "keep.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int datagram_send(int s, const void *data, size_t len, const int *fds, unsigned nfds, int flags)
{
    union {
        char buf[CMSG_SPACE(KEEP_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds) {
        msg.msg_control = control.buf;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(s, &msg, flags | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return (int)n;
}

int datagram_receive(int s, void *data, size_t size, int *fds, unsigned *nfds, int flags)
{
    union {
        char buf[CMSG_SPACE(BRIDGE_HANDLES * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf};
    msg.msg_controllen = *nfds ? CMSG_SPACE(*nfds * sizeof(int)) : 0;
    *nfds = 0;
    ssize_t n;
    do
        n = recvmsg(s, &msg, flags | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        *nfds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), *nfds * sizeof(int));
    }
    return (int)n;
}

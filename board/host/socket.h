/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_HOST_SOCKET_H
#define BOARD_HOST_SOCKET_H
/*
 * Streams over connected sockets (socket.c); listening is co_listen of kernel/stream.h (listen.c).
 * Loop 0.
 */
struct stream;

/* Takes the connected socket `fd`, which is closed with the stream. NULL: no memory; fd is the
 * caller's still. */
struct stream *socket_stream(int fd, const char *peer);
#endif

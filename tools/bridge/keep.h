/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TOOLS_BRIDGE_KEEP_H
#define TOOLS_BRIDGE_KEEP_H
/*
 * What the worker asks of the keeper. The keeper holds descriptors under keys and records (blobs
 * that it does not understand) under numbers. The worker changes them by *commits*: one datagram
 * with a list of steps, which the keeper carries out completely or not at all. Because sending a
 * message to a peer and consuming one are steps, too, the worker may be killed at any instruction:
 * either a message was answered, recorded and taken from its socket, or none of it.
 *
 * Steps are carried out in order. Only SEND, ACCEPT and LISTEN can fail (the peer is gone or does
 * not read; -EAGAIN, -EPIPE, ...), so at most one of those stands in a commit, as its first step.
 * The keeper answers every commit with a status, and for ACCEPT and LISTEN the descriptor.
 *
 * A new worker gets everything as TAKE and PUT steps, one datagram each, and then START.
 */
#include "bridge.h"

/* Keys: KEYS_EACH for each sibling, and those of the relay behind them. */
enum key_of_sibling {
    KEY_MEMORY,
    KEY_IVSHMEM_LISTEN,
    KEY_IVSHMEM, /* the storage VM's device */
    KEY_VHOST_LISTEN,
    KEY_VHOST,                               /* the sibling */
    KEY_BACKEND,                             /* its socket for our requests */
    KEY_WAKE,                                /* eventfd behind vector 0 */
    KEY_KICK,                                /* newest of each queue */
    KEY_CALL = KEY_KICK + BRIDGE_QUEUES,     /* the two newest of each queue: see call_key */
    KEY_BELL = KEY_CALL + 2 * BRIDGE_QUEUES, /* eventfd of each queue that the storage VM rings */
    KEYS_EACH = KEY_BELL + BRIDGE_QUEUES,
};
#define KEY(sibling, key) ((sibling)*KEYS_EACH + (key))
#define KEY_RELAY_LISTEN  KEY(BRIDGE_SIBLINGS, 0)
#define KEY_RELAY         KEY(BRIDGE_SIBLINGS, 1)
#define KEYS              KEY(BRIDGE_SIBLINGS, 2)
#define KEY_NONE          UINT32_MAX

#define RECORD_RELAY      BRIDGE_SIBLINGS /* below it, the siblings' */
#define RECORDS           (BRIDGE_SIBLINGS + 1)
#define RECORD_BYTES      6144

enum keep_op {
    KEEP_SEND = 1, /* data to the socket `key`, with the descriptor `arg` (a key) or none */
    KEEP_ACCEPT,   /* a connection from the listener `key`, to be held as `arg` */
    KEEP_LISTEN,   /* as `key`, a sibling's KEY_VHOST_LISTEN, at the path of the command line */
    KEEP_TAKE,     /* the next descriptor of this datagram, to be held as `key` */
    KEEP_DROP,     /* close `key`; a listener's path is unlinked */
    KEEP_PUT,      /* data is record `key` from now on */
    KEEP_EAT,      /* consume `arg` bytes from the socket `key` */
    KEEP_START,    /* to the worker: that was all */
};

struct keep_step {
    uint32_t op, key, arg, len; /* len bytes of data follow */
};

#define KEEP_FDS   4
#define KEEP_BYTES (2 * RECORD_BYTES + 4096) /* of a commit */

/* Messages with descriptors, between the two and to peers (datagram.c). Receive: bytes, 0 at the end, -1 with errno;
 * *nfds: room in, count out; what does not fit is closed by the kernel. */
int datagram_send(int sock, const void *data, size_t len, const int *fds, unsigned nfds, int flags);
int datagram_receive(int sock, void *data, size_t size, int *fds, unsigned *nfds, int flags);

/* The worker's side (store.c). One commit is built at a time. held[] are the worker's own copies of
 * what the keeper holds, or -1. */
extern int held[KEYS];

void keep_begin(void);
void keep_send(uint32_t key, const void *data, size_t len, uint32_t fd_key);
void keep_accept(uint32_t listener, uint32_t key);
void keep_listen(uint32_t key);
void keep_take(uint32_t key, int fd); /* held[key] is fd, if the commit succeeds */
void keep_drop(uint32_t key);         /* nothing to do if not held */
void keep_put(uint32_t record, const void *data, size_t len);
void keep_eat(uint32_t key, size_t bytes);
/* 0, or the negative errno of the first step; then nothing has happened. */
int keep_commit(void);
/* The worker is told of changes of held[]: after one was set, and before one is closed. */
void held_changed(uint32_t key);
void held_closing(uint32_t key);
/* Receives everything held, and the records by way of `put`. */
void keep_restore(int keeper, void (*put)(uint32_t record, const void *data, size_t len));
#endif

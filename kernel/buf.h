/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_BUF_H
#define KERNEL_BUF_H
/*
 * Data buffers: physically contiguous, in three classes (4 KiB, 32 KiB, 256 KiB), each with
 * BUF_HEADROOM bytes in front of the data, so that a protocol header and its payload leave as one
 * contiguous piece. Data starts 512-byte aligned. Requests longer than a buffer flow through in
 * pieces.
 *
 * buf_get_upto gives the largest buffer useful for `want` bytes that can be had now, and waits only
 * for the 4 KiB class (of which holders have guaranteed credits); so every request can always
 * proceed, in small pieces when memory is short. The buffer's owner calls buf_put.
 */
#include "kernel/pool.h"
#include "kernel/stream.h"

#define BUF_HEADROOM 512u
#define BUF_MAX      (256u << 10)

struct buf {
    struct stream_hold hold; /* for lending it to a stream: release puts it back by itself */
    uint8_t *data;           /* BUF_HEADROOM writable bytes before it */
    size_t size;             /* of the data area */
    struct pool *pool;
    struct buf_credit *owner;
};
/* A holder of data buffers (a connection): one credit per class. */
struct buf_credit {
    struct credit c4, c32, c256;
};
int buf_credit_open(struct buf_credit *b, unsigned guaranteed_4k);
void buf_credit_close(struct buf_credit *b);
struct buf *co_buf_get_upto(struct buf_credit *b, size_t want);
struct buf *buf_try_get(struct buf_credit *b,
                        size_t want); /* NULL: none that holds want bytes now */
void buf_put(struct buf *b);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FORMATS_COMPRESS_H
#define FORMATS_COMPRESS_H
/*
 * Compression for image formats: the only users of zlib and zstd. No call allocates or yields; state
 * lies in memory that the caller owns, and there is nothing to free. compress_all() and decompress()
 * need a big stack (zstd). Lengths are bytes.
 *
 * Decompressing: input comes in pieces, output is one buffer that is to be filled exactly; what the
 * stream has beyond it is not looked at. Foreign bytes: anything is allowed as input. Work is bounded
 * by the input and the output buffer.
 *
 * Compressing: from one buffer to another, in the way of QEMU's qcow2, so that every reader takes it.
 */
#include "kernel/compiler.h"

enum compression {
    COMPRESSION_ZLIB, /* raw deflate: RFC 1951 without the header of RFC 1950 */
    COMPRESSION_ZSTD, /* frames of RFC 8878, one after the other */
};

/* zstd's context and one input block, the larger of the two. A multiple of a page, so that what the
 * caller puts behind it is aligned. */
#define DECOMPRESSOR_SIZE (232u << 10)
struct decompressor;

/* `d`: 16-byte aligned. */
void decompress_begin(struct decompressor *d, enum compression method, void *out, size_t len);
/* 1: the output is full, and the stream says nothing against it. 0: more input is needed. SR_EIO:
 * the stream is damaged, or ends before the output is full. */
int decompress(struct decompressor *d, const void *in, size_t len);

/* The longest input that is compressed in one piece. */
#define COMPRESS_MAX (2u << 20)
struct compressor;

/* State to compress `len` bytes, in bytes: 1.3 MiB at most. */
size_t compressor_size(enum compression method, size_t len);
/* The bytes written to `out`, or SR_ENOSPC: they do not fit into `room`, of which the libraries may
 * want 16 more. `c`: 16-byte aligned, of compressor_size(); nothing in it is kept. */
int compress_all(struct compressor *c, enum compression method, const void *in, size_t len,
                 void *out, size_t room);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FORMATS_COMPRESS_H
#define FORMATS_COMPRESS_H
/*
 * Decompression for image formats: the only users of zlib and zstd. Input comes in pieces, output is
 * one buffer that is to be filled exactly; what the stream has beyond it is not looked at. State
 * lies in DECOMPRESSOR_SIZE bytes that the caller owns; there is nothing to free. No call allocates
 * or yields. decompress() needs a big stack (zstd).
 *
 * Foreign bytes: anything is allowed as input. Work is bounded by the input and the output buffer.
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
#endif

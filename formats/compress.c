/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * zlib and zstd behind one small interface, without an allocator.
 *
 *     | struct decompressor | heap: handed out once, from its start; never back |
 *     | struct compressor   | the same                                        |
 *
 * Decompressing. zlib asks for its state and, when input comes in pieces, a window. That is made
 * 32 KiB, the largest of the format, although qcow2's writers use 4 KiB: QEMU reads whole clusters at
 * once, needs no window then, and so takes streams of any.
 *
 * zstd gets a static context, and is promised that the output stays where it is
 * (ZSTD_d_stableOutBuffer): so it needs no window, whatever the frame says, only a copy of one block
 * of input (128 KiB). A frame may end before the output is full: the next one follows, as in QEMU.
 *
 * Compressing. The window of zlib is 4 KiB and the levels are the libraries' defaults, as in QEMU;
 * so zstd's has one strategy only (third_party/zstd/dfast.h). Its static context takes all memory.
 */
#include "formats/compress.h"

#include "kernel/error.h"
#include "kernel/log.h"

#include <string.h>
#define ZLIB_CONST
#include <zlib.h>
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

/* What zlib takes its memory from. */
struct heap {
    char *at;
    size_t left;
};

struct decompressor {
    enum compression method;
    struct heap heap;
    z_stream z;
    ZSTD_DCtx *ctx;
    ZSTD_outBuffer out;
};

struct compressor {
    struct heap heap;
    z_stream z;
};

#define HEADER(type) ((size_t)align_up(sizeof(type), 64))
#define HEAP_SIZE    (DECOMPRESSOR_SIZE - HEADER(struct decompressor))

/* ---- zlib ---- */

static void *take(void *opaque, unsigned items, unsigned size)
{
    struct heap *h = opaque;
    size_t n = (size_t)align_up((uint64_t)items * size, 64);
    if (n > h->left)
        return NULL;
    h->at += n;
    h->left -= n;
    return h->at - n;
}

static void give(void *opaque, void *p)
{
    (void)opaque, (void)p;
}

static void zlib_begin(struct decompressor *d, void *out, size_t len)
{
    d->heap = (struct heap){(char *)d + HEADER(*d), HEAP_SIZE};
    d->z = (z_stream){.zalloc = take, .zfree = give, .opaque = &d->heap};
    d->z.next_out = out;
    d->z.avail_out = (unsigned)len;
    int r = inflateInit2(&d->z, -15);
    ASSERT(r == Z_OK);
}

static int zlib_run(struct decompressor *d, const void *in, size_t len)
{
    d->z.next_in = in;
    d->z.avail_in = (unsigned)len;
    int r = inflate(&d->z, Z_SYNC_FLUSH);
    if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
        return SR_EIO;
    if (!d->z.avail_out)
        return 1;
    return r == Z_STREAM_END ? SR_EIO : 0;
}

/* Its state, the window twice, two tables, and room for the symbols of a block. */
#define ZLIB_WINDOW_BITS 12
#define ZLIB_MEM_LEVEL   9
#define ZLIB_STATE       ((8u << 10) + (4u << ZLIB_WINDOW_BITS) + (6u << (ZLIB_MEM_LEVEL + 7)))

static int zlib_compress(struct compressor *c, const void *in, size_t len, void *out, size_t room)
{
    c->heap = (struct heap){(char *)c + HEADER(*c), ZLIB_STATE};
    c->z = (z_stream){.zalloc = take, .zfree = give, .opaque = &c->heap};
    int r = deflateInit2(&c->z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -ZLIB_WINDOW_BITS,
                         ZLIB_MEM_LEVEL, Z_DEFAULT_STRATEGY);
    ASSERT(r == Z_OK);
    c->z.next_in = in;
    c->z.avail_in = (unsigned)len;
    c->z.next_out = out;
    c->z.avail_out = (unsigned)room;
    r = deflate(&c->z, Z_FINISH);
    return r == Z_STREAM_END ? (int)(room - c->z.avail_out) : SR_ENOSPC;
}

/* ---- zstd ---- */

static void zstd_begin(struct decompressor *d, void *out, size_t len)
{
    d->ctx = ZSTD_initStaticDCtx((char *)d + HEADER(*d), HEAP_SIZE);
    ASSERT(d->ctx);
    ZSTD_DCtx_setParameter(d->ctx, ZSTD_d_stableOutBuffer, 1);
    d->out = (ZSTD_outBuffer){.dst = out, .size = len};
}

static int zstd_run(struct decompressor *d, const void *in, size_t len)
{
    ZSTD_inBuffer src = {.src = in, .size = len};
    for (;;) {
        size_t from = src.pos, to = d->out.pos;
        size_t r = ZSTD_decompressStream(d->ctx, &d->out, &src);
        if (ZSTD_isError(r))
            return SR_EIO;
        if (d->out.pos == d->out.size && !r)
            return 1;
        if (src.pos == src.size)
            return 0;
        if (src.pos == from && d->out.pos == to)
            return SR_EIO; /* it wants to write more than there is room for */
    }
}

static int zstd_compress(struct compressor *c, size_t size, const void *in, size_t len, void *out,
                         size_t room)
{
    ZSTD_CCtx *ctx = ZSTD_initStaticCCtx(c, size);
    ASSERT(ctx);
    size_t r = ZSTD_compressCCtx(ctx, out, room, in, len, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(r) ? SR_ENOSPC : (int)r;
}

/* ---- both ---- */

void decompress_begin(struct decompressor *d, enum compression method, void *out, size_t len)
{
    memset(d, 0, sizeof(*d));
    d->method = method;
    if (method == COMPRESSION_ZSTD)
        zstd_begin(d, out, len);
    else
        zlib_begin(d, out, len);
}

int decompress(struct decompressor *d, const void *in, size_t len)
{
    return d->method == COMPRESSION_ZSTD ? zstd_run(d, in, len) : zlib_run(d, in, len);
}

size_t compressor_size(enum compression method, size_t len)
{
    ASSERT(len <= COMPRESS_MAX);
    if (method == COMPRESSION_ZLIB)
        return HEADER(struct compressor) + ZLIB_STATE;
    return ZSTD_estimateCCtxSize_usingCParams(ZSTD_getCParams(ZSTD_CLEVEL_DEFAULT, len, 0));
}

int compress_all(struct compressor *c, enum compression method, const void *in, size_t len,
                 void *out, size_t room)
{
    if (method == COMPRESSION_ZLIB)
        return zlib_compress(c, in, len, out, room);
    return zstd_compress(c, compressor_size(method, len), in, len, out, room);
}

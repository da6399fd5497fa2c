/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * zlib and zstd behind one small interface, without an allocator.
 *
 *     | struct decompressor | heap: handed out once, from its start; never back |
 *
 * zlib asks for its state and, when input comes in pieces, a window. That is made 32 KiB, the
 * largest of the format, although qcow2's writers use 4 KiB: QEMU reads whole clusters at once, needs
 * no window then, and so takes streams of any.
 *
 * zstd gets a static context, and is promised that the output stays where it is
 * (ZSTD_d_stableOutBuffer): so it needs no window, whatever the frame says, only a copy of one block
 * of input (128 KiB). A frame may end before the output is full: the next one follows, as in QEMU.
 */
#include "formats/compress.h"

#include "kernel/error.h"
#include "kernel/log.h"

#include <string.h>
#define ZLIB_CONST
#include <zlib.h>
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

struct decompressor {
    enum compression method;
    size_t used; /* of the heap */
    z_stream z;
    ZSTD_DCtx *ctx;
    ZSTD_outBuffer out;
};

static char *heap(struct decompressor *d)
{
    return (char *)d + align_up(sizeof(*d), 64);
}

#define HEAP_SIZE (DECOMPRESSOR_SIZE - (size_t)align_up(sizeof(struct decompressor), 64))

/* ---- zlib ---- */

static void *take(void *opaque, unsigned items, unsigned size)
{
    struct decompressor *d = opaque;
    size_t n = (size_t)align_up((uint64_t)items * size, 64);
    if (!range_ok(d->used, n, HEAP_SIZE))
        return NULL;
    d->used += n;
    return heap(d) + d->used - n;
}

static void give(void *opaque, void *p)
{
    (void)opaque, (void)p;
}

static void zlib_begin(struct decompressor *d, void *out, size_t len)
{
    d->z.zalloc = take;
    d->z.zfree = give;
    d->z.opaque = d;
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

/* ---- zstd ---- */

static void zstd_begin(struct decompressor *d, void *out, size_t len)
{
    d->ctx = ZSTD_initStaticDCtx(heap(d), HEAP_SIZE);
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

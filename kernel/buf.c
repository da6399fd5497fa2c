/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Data buffers in three classes, each a pool of struct buf whose payload is the memory:
 *
 *     struct buf  --data-->  | 512 bytes head-room | data: 4, 32 or 256 KiB |
 *
 * The headers lie apart, so that the data of every class starts 512-byte aligned and nothing is
 * lost to alignment. Only the small class has guarantees and is waited for; of the larger ones one
 * takes what is there. So with the pools at their minimum every request still moves, 4 KiB at a
 * time.
 */
#include "kernel/buf.h"
#include "kernel/error.h"
#include "kernel/log.h"
#include "kernel/poison.h"

#define BUF_ALIGN 512u

static void made(struct pool *p, void *obj, void *payload);

#define BUF_POOL(nm, bytes, ...)                                                      \
    POOL(nm, POOL_RANK_BUFFER, sizeof(struct buf), .payload = BUF_HEADROOM + (bytes), \
         .payload_align = BUF_ALIGN, .made = made, __VA_ARGS__)

struct pool buf_pool_4k = BUF_POOL("buf-4k", 4u << 10, .min = 176, .max = 16384, .weight = 4);
struct pool buf_pool_32k = BUF_POOL("buf-32k", 32u << 10, .min = 4, .max = 1024, .weight = 2);
struct pool buf_pool_256k = BUF_POOL("buf-256k", BUF_MAX, .min = 4, .max = 256, .weight = 2);
REGISTER(pool, buf_pool_4k);
REGISTER(pool, buf_pool_32k);
REGISTER(pool, buf_pool_256k);

static void made(struct pool *p, void *obj, void *payload)
{
    *(struct buf *)obj = (struct buf){
        .data = (uint8_t *)payload + BUF_HEADROOM, .size = p->payload - BUF_HEADROOM, .pool = p};
}

static struct credit *credit_in(struct buf_credit *b, const struct pool *p)
{
    return p == &buf_pool_4k ? &b->c4 : p == &buf_pool_32k ? &b->c32 : &b->c256;
}

int buf_credit_open(struct buf_credit *b, unsigned guaranteed_4k)
{
    int e = credit_open(&b->c4, &buf_pool_4k, guaranteed_4k);
    if (e)
        return e;
    e = credit_open(&b->c32, &buf_pool_32k, 0);
    ASSERT(!e);
    e = credit_open(&b->c256, &buf_pool_256k, 0);
    ASSERT(!e);
    return 0;
}

void buf_credit_close(struct buf_credit *b)
{
    credit_close(&b->c4);
    credit_close(&b->c32);
    credit_close(&b->c256);
}

static void release(struct stream_hold *h)
{
    buf_put(container_of(h, struct buf, hold));
}

static struct buf *got(struct buf *buf, struct buf_credit *b)
{
    if (buf) {
        buf->owner = b;
        buf->hold.release = release;
        unpoison(buf->data - BUF_HEADROOM, buf->size + BUF_HEADROOM);
    }
    return buf;
}

static struct buf *try_class(struct buf_credit *b, struct pool *p)
{
    return got(pool_try_get(p, credit_in(b, p)), b);
}

struct buf *co_buf_get_upto(struct buf_credit *b, size_t want)
{
    struct buf *buf = NULL;
    if (want > buf_pool_32k.payload - BUF_HEADROOM)
        buf = try_class(b, &buf_pool_256k);
    if (!buf && want > buf_pool_4k.payload - BUF_HEADROOM)
        buf = try_class(b, &buf_pool_32k);
    return buf ? buf : got(co_pool_get(&buf_pool_4k, &b->c4), b);
}

struct buf *buf_try_get(struct buf_credit *b, size_t want)
{
    struct pool *const classes[] = {&buf_pool_4k, &buf_pool_32k, &buf_pool_256k};
    struct buf *buf = NULL;
    for (unsigned i = 0; !buf && i < ARRAY_LEN(classes); i++)
        if (want <= classes[i]->payload - BUF_HEADROOM)
            buf = try_class(b, classes[i]);
    return buf;
}

void buf_put(struct buf *b)
{
    poison(b->data - BUF_HEADROOM, b->size + BUF_HEADROOM);
    pool_put(b->pool, credit_in(b->owner, b->pool), b);
}

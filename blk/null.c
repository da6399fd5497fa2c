/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * null-co: a disk that is not there. Writes vanish, reads give zeroes, or with read-zeroes=off
 * whatever the buffer held: for measuring everything above a disk. `latency-ns` makes each request
 * take that long.
 */
#include "blk/blk.h"

struct null_options {
    uint64_t size, latency_ns;
    bool read_zeroes;
};
static const struct field null_fields[] = {
    FIELD_DEF(struct null_options, size, "size", &type_size, "1073741824", "Size in bytes"),
    FIELD_DEF(struct null_options, latency_ns, "latency-ns", &type_size, "0",
              "Nanoseconds that each request takes"),
    FIELD_DEF(struct null_options, read_zeroes, "read-zeroes", &type_bool, "off",
              "Reads give zeroes; else buffers are left as they are"),
    {0},
};
static const struct type null_type =
    TYPE_STRUCT_OF("BlockdevOptionsNull", struct null_options, null_fields);

static int co_null_open(struct node *n, const void *opts, struct error *err)
{
    const struct null_options *o = opts;
    struct null_options *s = n->state;
    if (o->size > BLK_MAX_REQUEST)
        return error_set(err, SR_EINVAL, "Parameter 'size' is too large");
    *s = *o;
    n->size = o->size;
    n->write_flags = BLK_FUA;
    n->zero_flags = BLK_FUA | BLK_MAY_UNMAP | BLK_NO_FALLBACK;
    return 0;
}

static int co_null_wait(struct node *n)
{
    const struct null_options *s = n->state;
    if (s->latency_ns)
        co_sleep_until(board_clock_ns() + s->latency_ns);
    return 0;
}

static int co_null_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    const struct null_options *s = n->state;
    (void)off, (void)flags;
    if (s->read_zeroes)
        iov_fill(v, 0, 0, v.len);
    return co_null_wait(n);
}

static int co_null_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)off, (void)v, (void)flags;
    return co_null_wait(n);
}

static int co_null_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    (void)off, (void)len, (void)flags;
    return co_null_wait(n);
}

static int co_null_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    (void)off, (void)len;
    return co_null_wait(n);
}

static int co_null_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    const struct null_options *s = n->state;
    st->flags = (s->read_zeroes ? BLK_ZERO : BLK_DATA) | BLK_OFFSET_VALID;
    st->map = off;
    st->len = len;
    return 0;
}

static const struct blk_driver blk_null_co = {
    .name = "null-co",
    .options = &null_type,
    .state_size = sizeof(struct null_options),
    .protocol = true,
    .co_open = co_null_open,
    .co_preadv = co_null_preadv,
    .co_pwritev = co_null_pwritev,
    .co_pwrite_zeroes = co_null_pwrite_zeroes,
    .co_pdiscard = co_null_pdiscard,
    .co_flush = co_null_wait,
    .co_block_status = co_null_status,
};
REGISTER(blk_driver, blk_null_co);

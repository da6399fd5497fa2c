/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * raw: the bytes of its file, or of a part of it.
 *
 *     file   |......[offset .......... offset + size)......|
 *     node          [0 .................... size)
 *
 * Every request goes down as it is, shifted. Limits are the file's; where `offset` or `size` do not
 * agree with its alignment this node asks for none, and the file's dispatch does what is needed.
 * Without `size` the node follows its file when that is resized, and resizes it when asked to; with
 * it the node is a disk of fixed size.
 */
#include "blk/blk.h"

struct raw_options {
    struct schema_ref file;
    uint64_t offset;
    bool has_size;
    uint64_t size;
};
static const struct field raw_fields[] = {
    FIELD_REQ(struct raw_options, file, "file", &type_blockdev_ref, "Node to take the bytes from"),
    FIELD_DEF(struct raw_options, offset, "offset", &type_size, "0", "First byte"),
    FIELD_OPT(struct raw_options, size, "size", &type_size, "Length (default: to the end)"),
    {0},
};
static const struct type raw_type =
    TYPE_STRUCT_OF("BlockdevOptionsRaw", struct raw_options, raw_fields);

struct raw {
    uint64_t offset;
    bool fixed_size;
};

static int raw_range(struct node *n, const struct raw_options *o, struct error *err)
{
    uint64_t have = n->file->node->size;
    if (o->offset > have)
        return error_set(err, SR_EINVAL,
                         "Offset (%llu) cannot be greater than size of the containing file (%llu)",
                         (unsigned long long)o->offset, (unsigned long long)have);
    if (o->has_size && o->size > have - o->offset)
        return error_set(err, SR_EINVAL,
                         "The sum of offset (%llu) and size (%llu) has to be smaller or equal to "
                         "the  actual size of the containing file (%llu)",
                         (unsigned long long)o->offset, (unsigned long long)o->size,
                         (unsigned long long)have);
    if (o->has_size && o->size % 512)
        return error_set(err, SR_EINVAL, "Specified size is not multiple of 512");
    n->size = o->has_size ? o->size : have - o->offset;
    return 0;
}

static void raw_limits(struct node *n, uint64_t offset)
{
    struct blk_limits *l = &n->limits; /* the file's, so far */
    if ((offset | n->size) & (l->request_alignment - 1)) {
        l->request_alignment = l->mem_align = 1;
        l->max_sg = 0;
        l->max_transfer = 0;
    }
    if (l->discard_alignment && offset % l->discard_alignment)
        l->discard_alignment = 0;
    if (l->write_zeroes_alignment && offset % l->write_zeroes_alignment)
        l->write_zeroes_alignment = 0;
}

static int co_raw_open(struct node *n, const void *opts, struct error *err)
{
    const struct raw_options *o = opts;
    struct raw *s = n->state;
    int r = co_child_open(n, "file", &o->file, false, &n->file, err);
    if (r)
        return r;
    r = raw_range(n, o, err);
    if (r)
        return r;
    s->offset = o->offset;
    s->fixed_size = o->has_size;
    raw_limits(n, o->offset);
    /* Whether anybody will write is not known yet; a read-only file is no error before. */
    n->read_only |= n->file->node->read_only;
    r = n->read_only ? 0 : child_allow_writes(n->file, err);
    n->write_flags = BLK_FUA | BLK_WRITE_UNCHANGED | (n->file->node->write_flags & BLK_SETTLED);
    n->zero_flags =
        BLK_FUA | BLK_MAY_UNMAP | BLK_NO_FALLBACK | (n->file->node->zero_flags & BLK_SETTLED);
    return r;
}

static inline uint64_t below(const struct node *n, uint64_t off)
{
    return off + ((const struct raw *)n->state)->offset;
}

static int co_raw_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    return co_blk_preadv(n->file, below(n, off), v, flags);
}

static int co_raw_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    return co_blk_pwritev(n->file, below(n, off), v, flags);
}

static int co_raw_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return co_blk_pwrite_zeroes(n->file, below(n, off), len, flags);
}

static int co_raw_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    return co_blk_pdiscard(n->file, below(n, off), len);
}

/* A size that is not aligned would have to change the limits, which the parents rely on. */
static int co_raw_truncate(struct node *n, uint64_t size)
{
    const struct raw *s = n->state;
    if (s->fixed_size)
        return SR_ENOTSUP;
    if (!is_aligned(size, n->limits.request_alignment))
        return SR_EINVAL;
    return co_blk_truncate(n->file, below(n, size));
}

static int co_raw_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    st->flags = BLK_RAW | BLK_OFFSET_VALID;
    st->len = len;
    st->map = below(n, off);
    st->map_child = n->file;
    return 0;
}

static int co_raw_prefetch(struct node *n, uint64_t off, uint64_t len)
{
    return co_blk_preadv(n->file, below(n, off), (struct iov){.len = len}, BLK_PREFETCH);
}

static uint64_t raw_child_resized(struct node *n, struct child *c)
{
    const struct raw *s = n->state;
    uint64_t have = c->node->size > s->offset ? c->node->size - s->offset : 0;
    return s->fixed_size ? n->size : have;
}

/* ---- creation ---- */

struct raw_create {
    uint64_t size;
};
static const struct field create_fields[] = {
    FIELD_REQ(struct raw_create, size, "size", &type_size, "Bytes of the disk"),
    {0},
};
static const struct type create_type =
    TYPE_STRUCT_OF("BlockdevCreateOptionsRaw", struct raw_create, create_fields);

/* What a disk holds is as good a content as any other. */
static int co_raw_create(struct child *file, const void *opts, struct error *err)
{
    const struct raw_create *o = opts;
    int r = co_blk_truncate(file, 0);
    if (!r)
        r = co_blk_truncate(file, o->size);
    if (!r)
        r = co_blk_flush(file);
    if (r)
        error_set(err, r, "Could not resize file: %s", sr_strerror(r));
    return r;
}

static const struct blk_driver blk_raw = {
    .name = "raw",
    .options = &raw_type,
    .state_size = sizeof(struct raw),
    .co_open = co_raw_open,
    .co_preadv = co_raw_preadv,
    .co_pwritev = co_raw_pwritev,
    .co_pwrite_zeroes = co_raw_pwrite_zeroes,
    .co_pdiscard = co_raw_pdiscard,
    .co_truncate = co_raw_truncate,
    .co_block_status = co_raw_status,
    .co_prefetch = co_raw_prefetch,
    .create_options = &create_type,
    .co_create = co_raw_create,
    .child_resized = raw_child_resized,
};
REGISTER(blk_driver, blk_raw);

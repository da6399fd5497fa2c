/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * BLOCK_STATUS for "base:allocation": one chunk, of as many merged extents as one 4 KiB buffer
 * holds. Clients ask on from where a reply ends, so a small bound costs a round trip and saves the
 * others from one client's walk through a large map.
 *
 * An extent never leaves the range that was asked for, so REQ_ONE is simply a bound of one.
 */
#include "net/nbd/nbd.h"

#define EXTENTS_PER_TURN 64

struct extents {
    uint8_t *at; /* the first */
    unsigned n, max;
    bool ext;       /* 64 bits wide */
    uint64_t limit; /* longest that one descriptor can say */
};

static uint64_t extent_len(const struct extents *x, unsigned i)
{
    return x->ext ? be64_get(((struct nbd_extent_ext *)x->at)[i].len)
                  : be32_get(((struct nbd_extent *)x->at)[i].len);
}

static uint32_t extent_flags(const struct extents *x, unsigned i)
{
    return x->ext ? (uint32_t)be64_get(((struct nbd_extent_ext *)x->at)[i].flags)
                  : be32_get(((struct nbd_extent *)x->at)[i].flags);
}

static void extent_put(struct extents *x, unsigned i, uint64_t len, uint32_t flags)
{
    if (x->ext) {
        struct nbd_extent_ext *e = &((struct nbd_extent_ext *)x->at)[i];
        be64_set(&e->len, len);
        be64_set(&e->flags, flags);
    } else {
        struct nbd_extent *e = &((struct nbd_extent *)x->at)[i];
        be32_set(&e->len, (uint32_t)len);
        be32_set(&e->flags, flags);
    }
}

/* Appends, or lengthens the last. Returns how much of `len` found room. */
static uint64_t extents_add(struct extents *x, uint64_t len, uint32_t flags)
{
    uint64_t have;
    if (x->n && extent_flags(x, x->n - 1) == flags && (have = extent_len(x, x->n - 1)) < x->limit) {
        uint64_t more = MIN(len, x->limit - have);
        extent_put(x, x->n - 1, have + more, flags);
        return more;
    }
    if (x->n == x->max)
        return 0;
    len = MIN(len, x->limit);
    extent_put(x, x->n++, len, flags);
    return len;
}

static int co_status_at(struct nbd_request *r, uint64_t off, uint64_t len, struct blk_status *st)
{
    struct child *root = co_nbd_gate(r);
    int rc = co_blk_status_above(root, off, len, st);
    nbd_gate_leave(r);
    return rc;
}

static int co_collect(struct nbd_request *r, struct extents *x)
{
    uint64_t off = r->offset, left = r->len;
    for (unsigned turn = 1; left; turn++) {
        struct blk_status st;
        int rc = co_status_at(r, off, left, &st);
        if (rc)
            return x->n ? 0 : rc; /* what is known is known */
        uint32_t flags = (st.flags & BLK_DATA ? 0u : NBD_STATE_HOLE) |
                         (st.flags & BLK_ZERO ? NBD_STATE_ZERO : 0u);
        uint64_t len = MIN(st.len, left), done = 0, n;
        while (done < len && (n = extents_add(x, len - done, flags)))
            done += n;
        if (done < len)
            return 0;
        off += len;
        left -= len;
        if (turn % EXTENTS_PER_TURN == 0)
            co_reschedule();
    }
    return 0;
}

void co_nbd_status(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    bool ext = c->mode == NBD_EXTENDED;
    size_t head = ext ? sizeof(struct nbd_chunk_status_ext) : sizeof(struct nbd_chunk_status);
    size_t size = ext ? sizeof(struct nbd_extent_ext) : sizeof(struct nbd_extent);
    struct extents x = {
        .at = r->buf->data + head,
        .max = r->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : (unsigned)((NBD_STATUS_BUF - head) / size),
        .ext = ext,
        .limit = ext ? UINT64_MAX : UINT32_MAX,
    };
    r->error = co_collect(r, &x);
    if (r->error) {
        co_nbd_reply(r);
        return;
    }
    struct nbd_chunk_status_ext *h = (struct nbd_chunk_status_ext *)r->buf->data;
    be32_set(&h->context, NBD_CONTEXT_ALLOCATION);
    if (ext)
        be32_set(&h->count, x.n);
    co_nbd_reply_chunk(r, ext ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
                       head + x.n * size);
}

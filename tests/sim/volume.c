/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/sim/volume.h"
#include "tests/sim/stamp.h"

int co_volume_open(struct volume *v, const char *text, bool restart_safe, struct error *err)
{
    *v = (struct volume){0};
    struct value *def = schema_parse_keyval(text, "driver", err);
    int r = def ? co_node_open(def, true, true, &v->node, err) : SR_EINVAL;
    value_free(def);
    if (r)
        return r;
    v->origin = blk_calloc(sizeof(*v->origin));
    r = v->origin ? origin_open(v->origin, v->node, !v->node->read_only, err) : SR_ENOMEM;
    if (!r) {
        v->root = v->origin->root;
        v->root->write_flags = restart_safe ? BLK_SETTLED : 0;
        return 0;
    }
    blk_free(v->origin);
    v->node->monitor_owned = false;
    co_node_unref(v->node);
    return r;
}

void co_volume_close(struct volume *v)
{
    co_origin_close(v->origin);
    blk_free(v->origin);
    v->node->monitor_owned = false;
    co_node_unref(v->node);
    *v = (struct volume){0};
}

/* ---- operations ---- */

static int co_write(struct volume *v, struct record *r, const struct op *o, unsigned flags)
{
    struct seg seg;
    uint8_t *data = heap_alloc(&r->heap, o->len);
    stamp_fill(data, o->seq, o->off, o->len);
    return co_blk_pwritev(v->root, o->off, iov_one(&seg, data, o->len), flags);
}

static int co_do(struct volume *v, struct record *r, const struct op *o)
{
    unsigned fua = o->fua ? BLK_FUA : 0;
    struct seg seg;
    switch ((enum op_kind)o->kind) {
    case OP_WRITE:
        return co_write(v, r, o, fua);
    case OP_COMPRESSED:
        return co_write(v, r, o, fua | BLK_COMPRESSED);
    case OP_ZERO:
        return co_blk_pwrite_zeroes(v->root, o->off, o->len,
                                    fua | (o->seq & 1 ? BLK_MAY_UNMAP : 0));
    case OP_DISCARD:
        return co_blk_pdiscard(v->root, o->off, o->len);
    case OP_FLUSH:
        return co_blk_flush(v->root);
    case OP_READ:
        return co_blk_preadv(v->root, o->off, iov_one(&seg, (uint8_t *)(uintptr_t)o->data, o->len),
                             0);
    case OP_REOPEN:
        break;
    }
    panic("sim: no such operation");
}

int co_volume_op(struct volume *v, struct record *r, struct op o)
{
    if (o.kind == OP_READ)
        o.data = heap_alloc(&r->heap, o.len);
    co_origin_enter(v->origin);
    uint32_t index = record_call(r, o);
    int result = co_do(v, r, &o);
    record_return(r, index, result);
    origin_leave(v->origin);
    return result;
}

int co_volume_read_all(struct volume *v, uint8_t *to, size_t step)
{
    uint64_t size = v->node->size;
    int r = 0;
    co_origin_enter(v->origin);
    for (uint64_t off = 0; off < size && !r; off += step)
        r = co_blk_pread(v->root, off, to + off, (size_t)MIN(step, size - off));
    origin_leave(v->origin);
    return r;
}

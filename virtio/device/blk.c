/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk in memory, for the loopback arrangement (virtio 1.2, 5.2). Checks what a driver must not do
 * (limits, ranges, read-only, flags) and answers VIRTIO_BLK_S_IOERR to it, so that tests see it.
 */
#include "kernel/error.h"
#include "kernel/fault.h"
#include "virtio/device/models.h"

#define SECTOR VIRTIO_BLK_SECTOR
#define STATUS 1u /* the last byte of what can be written */

static struct vblk *vblk_of(struct vdev *v)
{
    return container_of(v, struct vblk, v);
}

static bool has(const struct vblk *b, unsigned bit)
{
    return b->v.features >> bit & 1;
}

struct virtio_blk_config *vblk_config(struct vblk *b)
{
    return (struct virtio_blk_config *)(void *)b->v.config;
}

static bool in_disk(const struct vblk *b, uint64_t sector, uint64_t bytes)
{
    return bytes % SECTOR == 0 && range_ok(sector, bytes / SECTOR, b->size / SECTOR);
}

/* 5.2.3: no segment longer than size_max, no more of them than seg_max. */
static bool within_limits(struct vblk *b, struct iov v)
{
    const struct virtio_blk_config *cfg = vblk_config(b);
    unsigned n = 0;
    void *p;
    size_t len;
    while (iov_next(&v, &p, &len)) {
        b->max_seg_len = MAX(b->max_seg_len, (uint32_t)len);
        if (has(b, VIRTIO_BLK_F_SIZE_MAX) && len > le32_get(cfg->size_max))
            return false;
        n++;
    }
    b->max_segs = MAX(b->max_segs, n);
    return !has(b, VIRTIO_BLK_F_SEG_MAX) || n <= le32_get(cfg->seg_max);
}

static uint8_t transfer(struct vblk *b, uint64_t sector, struct iov v, bool write)
{
    if (!in_disk(b, sector, v.len) || !v.len || !within_limits(b, v))
        return VIRTIO_BLK_S_IOERR;
    if (write && has(b, VIRTIO_BLK_F_RO))
        return VIRTIO_BLK_S_IOERR;
    uint8_t *at = b->data + sector * SECTOR;
    if (write)
        iov_copy_out(at, v, 0, v.len);
    else
        iov_copy_in(v, 0, at, v.len);
    return VIRTIO_BLK_S_OK;
}

static uint8_t range(struct vblk *b, uint32_t type, struct iov v)
{
    bool discard = type == VIRTIO_BLK_T_DISCARD;
    struct virtio_blk_range r;
    const struct virtio_blk_config *cfg = vblk_config(b);
    if (!has(b, discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES))
        return VIRTIO_BLK_S_UNSUPP;
    if (v.len != sizeof(r) || has(b, VIRTIO_BLK_F_RO))
        return VIRTIO_BLK_S_IOERR;
    iov_copy_out(&r, v, 0, sizeof(r));
    uint32_t n = le32_get(r.num_sectors);
    uint32_t max = le32_get(discard ? cfg->max_discard_sectors : cfg->max_write_zeroes_sectors);
    b->last_flags = le32_get(r.flags);
    if (b->last_flags & ~(discard ? 0 : VIRTIO_BLK_RANGE_UNMAP))
        return VIRTIO_BLK_S_UNSUPP;
    if (!n || n > max || !in_disk(b, le64_get(r.sector), (uint64_t)n * SECTOR))
        return VIRTIO_BLK_S_IOERR;
    memset(b->data + le64_get(r.sector) * SECTOR, discard ? 0xdd : 0, (size_t)n * SECTOR);
    return VIRTIO_BLK_S_OK;
}

static uint8_t get_id(struct vblk *b, struct iov in)
{
    if (in.len != VIRTIO_BLK_ID_BYTES)
        return VIRTIO_BLK_S_IOERR;
    iov_copy_in(in, 0, b->serial, VIRTIO_BLK_ID_BYTES);
    return VIRTIO_BLK_S_OK;
}

static uint8_t answer(struct vblk *b, struct iov out, struct iov in)
{
    struct virtio_blk_req h;
    iov_copy_out(&h, out, 0, sizeof(h));
    out = iov_slice(out, sizeof(h), out.len - sizeof(h));
    uint32_t type = le32_get(h.type);
    if (type < ARRAY_LEN(b->requests))
        b->requests[type]++;
    if (b->fail_left && !b->fail_skip) {
        b->fail_left--;
        return (uint8_t)b->fail_status;
    }
    if (b->fail_skip)
        b->fail_skip--;
    switch (type) {
    case VIRTIO_BLK_T_IN:
        return transfer(b, le64_get(h.sector), in, false);
    case VIRTIO_BLK_T_OUT:
        return transfer(b, le64_get(h.sector), out, true);
    case VIRTIO_BLK_T_FLUSH:
        return has(b, VIRTIO_BLK_F_FLUSH) ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_UNSUPP;
    case VIRTIO_BLK_T_GET_ID:
        return get_id(b, in);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return range(b, type, out);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

static void complete(struct vblk *b, const struct vchain *c)
{
    uint32_t written = 0;
    if (c->out_len >= sizeof(struct virtio_blk_req) && c->in_len >= STATUS) {
        struct iov in = vchain_in(c);
        size_t data = c->in_len - STATUS;
        uint8_t status = answer(b, vchain_out(c), iov_slice(in, 0, data));
        if (!b->no_status)
            iov_copy_in(in, data, &status, STATUS);
        written = (uint32_t)c->in_len;
    }
    vring_push(&b->v.ring[0], c->id, written);
}

static void complete_held(struct vblk *b)
{
    unsigned n = b->nheld;
    b->nheld = 0;
    for (unsigned i = 0; i < n; i++)
        complete(b, &b->held[b->backwards ? n - 1 - i : i]);
    vdev_interrupt(&b->v, 0);
}

static void work(struct vdev *v, unsigned queue)
{
    struct vblk *b = vblk_of(v);
    while (b->nheld < VBLK_HELD && vdev_next(v, queue, &b->held[b->nheld])) {
        b->nheld++;
        b->max_held = MAX(b->max_held, b->nheld);
    }
    if (!b->hold)
        complete_held(b);
}

static void reset(struct vdev *v)
{
    vblk_of(v)->nheld = 0;
}

static const struct vdev_ops ops = {.work = work, .reset = reset};

void vblk_release(struct vblk *b)
{
    b->hold = false;
    complete_held(b);
}

void vblk_resize(struct vblk *b, uint8_t *data, uint64_t size)
{
    b->data = data;
    b->size = size;
    le64_set(&vblk_config(b)->capacity, size / SECTOR);
    vdev_config_changed(&b->v);
}

int vblk_init(struct vblk *b, uint8_t *data, uint64_t size, const char *serial)
{
    *b = (struct vblk){.data = data, .size = size, .fail_status = -1};
    b->v = (struct vdev){.ops = &ops, .id = VIRTIO_ID_BLOCK, .nqueues = 1, .queue_max = 256};
    b->v.offered = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_INDIRECT_DESC |
                   1ull << VIRTIO_F_EVENT_IDX | 1ull << VIRTIO_BLK_F_SEG_MAX |
                   1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
                   1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
    strncpy(b->serial, serial, VIRTIO_BLK_ID_BYTES);
    struct virtio_blk_config *c = vblk_config(b);
    le64_set(&c->capacity, size / SECTOR);
    le32_set(&c->seg_max, 126);
    le32_set(&c->blk_size, 512);
    le32_set(&c->max_discard_sectors, 1024);
    le32_set(&c->max_write_zeroes_sectors, 1024);
    c->write_zeroes_may_unmap = 1;
    b->held = sr_calloc(VBLK_HELD, sizeof(*b->held));
    return b->held ? 0 : SR_ENOMEM;
}

void vblk_free(struct vblk *b)
{
    sr_free(b->held);
}

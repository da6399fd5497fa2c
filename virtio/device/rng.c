/* SPDX-License-Identifier: BSD-2-Clause */
/* Bytes that are not random at all, for the loopback arrangement (virtio 1.2, 5.4). */
#include "virtio/device/models.h"

static void work(struct vdev *v, unsigned queue)
{
    struct vrng *r = container_of(v, struct vrng, v);
    struct vchain c;
    while (!r->silent && vdev_next(v, queue, &c)) {
        iov_fill(vchain_in(&c), 0, 0x5a, c.in_len);
        r->given += c.in_len;
        vring_push(&v->ring[queue], c.id, (uint32_t)c.in_len);
    }
    vdev_interrupt(v, queue);
}

static const struct vdev_ops ops = {.work = work};

void vrng_init(struct vrng *r)
{
    *r = (struct vrng){.v = {.ops = &ops, .id = VIRTIO_ID_ENTROPY, .nqueues = 1, .queue_max = 8}};
    r->v.offered = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_EVENT_IDX;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The loopback transport: the registers of a device are the members of struct vdev. See loopback.h.
 */
#include "virtio/device/loopback.h"

#include "kernel/board.h"

#include <stdio.h>

static struct vdev *vdev_of(struct virtio_device *d)
{
    return container_of(d, struct vdev, dev);
}

static uint8_t get_status(struct virtio_device *d)
{
    return vdev_of(d)->status;
}

static void reset(struct vdev *v)
{
    v->resets++;
    if (v->ops->reset)
        v->ops->reset(v);
    memset(v->open, 0, sizeof(v->open));
    memset(v->notified, 0, sizeof(v->notified));
    v->status = v->isr = 0;
    v->features = 0;
}

static void set_status(struct virtio_device *d, uint8_t status)
{
    struct vdev *v = vdev_of(d);
    if (!status) {
        if (!v->no_reset)
            reset(v);
        return;
    }
    bool was_ok = v->status & VIRTIO_STATUS_DRIVER_OK;
    v->status = status;
    if (v->no_features_ok)
        v->status &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
    if (!was_ok && status & VIRTIO_STATUS_DRIVER_OK && v->ops->driver_ok)
        v->ops->driver_ok(v);
}

static uint64_t get_features(struct virtio_device *d)
{
    return vdev_of(d)->offered;
}

static void set_features(struct virtio_device *d, uint64_t features)
{
    struct vdev *v = vdev_of(d);
    v->features = features & v->offered;
}

static uint32_t cfg_read(struct virtio_device *d, unsigned off, unsigned width)
{
    uint32_t value = 0;
    if (range_ok(off, width, VDEV_CONFIG))
        memcpy(&value, vdev_of(d)->config + off, width);
    return value;
}

static void cfg_write(struct virtio_device *d, unsigned off, unsigned width, uint32_t value)
{
    if (range_ok(off, width, VDEV_CONFIG))
        memcpy(vdev_of(d)->config + off, &value, width);
}

static uint32_t cfg_generation(struct virtio_device *d)
{
    struct vdev *v = vdev_of(d);
    if (v->cfg_changing)
        v->generation++;
    return v->generation;
}

static unsigned queue_max(struct virtio_device *d, unsigned index)
{
    struct vdev *v = vdev_of(d);
    return index < v->nqueues ? v->queue_max : 0;
}

static int queue_enable(struct virtio_device *d, struct virtq *q)
{
    struct vdev *v = vdev_of(d);
    v->open[q->index] = false;
    int rc = vring_open(&v->ring[q->index], &v->memory, q->size, q->desc_addr, q->driver_addr,
                        q->device_addr, v->features);
    v->open[q->index] = !rc;
    return rc;
}

static void notify(struct virtio_device *d, struct virtq *q)
{
    struct vdev *v = vdev_of(d);
    v->notifications++;
    v->notified[q->index] = true;
}

static uint32_t interrupts(struct virtio_device *d)
{
    struct vdev *v = vdev_of(d);
    uint32_t isr = v->isr;
    v->isr = 0;
    return isr;
}

static void cut(struct virtio_device *d)
{
    vdev_of(d)->cut = true;
}

static const struct virtio_transport loopback = {
    .get_status = get_status,
    .set_status = set_status,
    .get_features = get_features,
    .set_features = set_features,
    .cfg_read = cfg_read,
    .cfg_write = cfg_write,
    .cfg_generation = cfg_generation,
    .queue_max = queue_max,
    .queue_enable = queue_enable,
    .notify = notify,
    .interrupts = interrupts,
    .cut = cut,
};

static bool poll(struct poller *p)
{
    struct vdev *v = container_of(p, struct vdev, poller);
    bool some = false;
    for (unsigned i = 0; i < v->nqueues; i++) {
        if (!v->notified[i] || !v->open[i])
            continue;
        v->notified[i] = false;
        v->ops->work(v, i);
        some = true;
    }
    return some;
}

bool vdev_next(struct vdev *v, unsigned queue, struct vchain *c)
{
    struct vring *r = &v->ring[queue];
    vring_notify_me(r, false);
    int rc = vring_pop(r, c);
    if (!rc) {
        vring_notify_me(r, true);
        rc = vring_pop(r, c);
    }
    if (rc < 0) {
        v->status |= VIRTIO_STATUS_NEEDS_RESET;
        vdev_config_changed(v);
    }
    return rc > 0;
}

void vdev_interrupt(struct vdev *v, unsigned queue)
{
    if (!v->open[queue] || !vring_interrupt(&v->ring[queue]))
        return;
    v->isr |= VIRTIO_ISR_QUEUE;
    v->interrupts++;
    board_wake(0);
}

void vdev_config_changed(struct vdev *v)
{
    v->generation++;
    v->isr |= VIRTIO_ISR_CONFIG;
    board_wake(0);
}

int co_vdev_attach(struct vdev *v, const char *name)
{
    v->window = (struct vwindow){.base = 4096, .len = (1ull << 47) - 4096};
    v->window.at = (uint8_t *)(uintptr_t)v->window.base;
    v->memory = (struct vmemory){&v->window, 1};
    v->dev = (struct virtio_device){.ops = &loopback, .id = v->id, .legacy = v->legacy};
    snprintf(v->dev.name, sizeof(v->dev.name), "%s", name);
    v->poller = (struct poller){.poll = poll};
    poller_add(&v->poller);
    int rc = co_virtio_probe(&v->dev);
    if (rc)
        poller_remove(&v->poller);
    return rc;
}

void co_vdev_detach(struct vdev *v)
{
    co_virtio_remove(&v->dev);
    poller_remove(&v->poller);
}

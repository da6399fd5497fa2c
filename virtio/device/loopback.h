/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_LOOPBACK_H
#define VIRTIO_DEVICE_LOOPBACK_H
/*
 * Loopback: our drivers against our device models, in one process, so that both meet the sanitizers.
 *
 *     driver (virtio/blk.c) -- virtq, virtio_device -- loopback transport -- struct vdev -- model
 *
 * A model is told by the driver's notification, not by the call that made it: it works from a poller
 * in the next turn, so requests are really in flight, and a notification that was wrongly left out
 * shows as a test that hangs. Memory and timing belong to whoever made the model; all on one loop.
 */
#include "kernel/loop.h"
#include "virtio/device/vring.h"
#include "virtio/virtio.h"

#define VDEV_QUEUES VIRTIO_MAX_QUEUES
#define VDEV_CONFIG 64u

struct vdev;
struct vdev_ops {
    /* Queue `index` was notified and is open. */
    void (*work)(struct vdev *v, unsigned index);
    void (*driver_ok)(struct vdev *v); /* NULL: nothing to do */
    void (*reset)(struct vdev *v);     /* NULL: nothing to do */
};
struct vdev {
    const struct vdev_ops *ops;
    uint32_t id;
    unsigned nqueues;
    uint16_t queue_max;
    uint64_t offered; /* VERSION_1 included, unless legacy */
    bool legacy;      /* as behind the legacy transport */
    uint8_t config[VDEV_CONFIG];
    /* Faults a test may order. */
    bool no_features_ok; /* refuses what the driver chose */
    bool no_reset;       /* never confirms one */
    bool cfg_changing;   /* another generation at each look */

    /* state */
    struct virtio_device dev; /* the driver's view */
    uint64_t features;
    uint8_t status, isr;
    uint32_t generation;
    struct vmemory memory;
    struct vwindow window;
    struct vring ring[VDEV_QUEUES];
    bool open[VDEV_QUEUES], notified[VDEV_QUEUES];
    bool dead; /* no poller, no answers */
    bool cut;  /* its bus was taken away */
    struct poller poller;
    uint64_t notifications, interrupts, resets;
};

/* Offers the model to the drivers: SR_E* as co_virtio_probe. name: "loop blk0". */
int co_vdev_attach(struct vdev *v, const char *name);
/* Takes the device away: from the driver, with co_virtio_remove, and from the loop. */
void co_vdev_detach(struct vdev *v);
/* Like an interrupt for used buffers, if the driver wants one; and for the configuration. */
void vdev_interrupt(struct vdev *v, unsigned queue);
void vdev_config_changed(struct vdev *v);
/* Pops, and keeps notifications off while there is something. For the loops of models:
 *     while (vdev_next(v, q, &chain)) { ...; vring_push(...); }  vdev_interrupt(v, q); */
bool vdev_next(struct vdev *v, unsigned queue, struct vchain *c);
#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_VIRTIO_H
#define VIRTIO_VIRTIO_H
/*
 * virtio/: drivers for virtio 1.x devices. Source: virtio 1.2 (oasis-tcs/virtio-spec).
 *
 *     transport (pci.c, mmio.c, device/loopback.c)   finds a device, fills struct virtio_device
 *     core (virtio.c)                                negotiates, owns queues, events and failure
 *     driver (blk.c, net.c, console.c, rng.c)        by device type, from the registry
 *
 * A device is in one of three states. Working. Broken: something it said was impossible, or it asked
 * for a reset; `broken` is set at once and for good, one line says why. Stopped: reset is confirmed
 * (or its bus access is cut), so its memory is ours again, and the driver's `lost` has been called,
 * which fails what was in flight. What the device says can never do more than break it.
 *
 * Context: probing is control path, in a coroutine on loop 0. Queues: see virtq.h. Configuration
 * reads are control path too; each may cost a trip to the device. Errors: SR_E*. The device's memory
 * belongs to the transport, which never frees one that was probed with success.
 */
#include "kernel/co.h"
#include "kernel/error.h"
#include "kernel/loop.h"
#include "kernel/registry.h"
#include "virtio/virtio_spec.h"
#include "virtio/virtq.h"

struct virtio_device;

struct virtio_transport {
    uint8_t (*get_status)(struct virtio_device *d);
    void (*set_status)(struct virtio_device *d, uint8_t status);
    uint64_t (*get_features)(struct virtio_device *d); /* what the device offers */
    void (*set_features)(struct virtio_device *d, uint64_t features);
    /* width 1, 2 or 4, aligned; zeroes behind the end of the device's configuration. */
    uint32_t (*cfg_read)(struct virtio_device *d, unsigned off, unsigned width);
    void (*cfg_write)(struct virtio_device *d, unsigned off, unsigned width, uint32_t value);
    uint32_t (*cfg_generation)(struct virtio_device *d);
    unsigned (*queue_max)(struct virtio_device *d, unsigned index); /* 0: no such queue */
    /* Tells the device where the rings are, gives it an interrupt, and enables the queue. */
    int (*queue_enable)(struct virtio_device *d, struct virtq *q);
    void (*notify)(struct virtio_device *d, struct virtq *q);
    /* Reads and acknowledges the interrupt status (VIRTIO_ISR_*). */
    uint32_t (*interrupts)(struct virtio_device *d);
    /* A wired line stays up until `interrupts` was called: do so after each sleep. */
    bool wired;
    /* Last resort against a device that ignores reset: take its bus away. NULL: cannot. */
    void (*cut)(struct virtio_device *d);
};

#define VIRTIO_MAX_QUEUES 68

struct virtio_device {
    const struct virtio_transport *ops;
    char name[24]; /* "pci 00:02.0" */
    uint32_t id;   /* VIRTIO_ID_* */
    uint64_t features;
    const struct virtio_driver *driver;
    void *priv; /* the driver's */
    struct virtq *queue[VIRTIO_MAX_QUEUES];
    bool
        legacy; /* by the transport: the interface from before virtio 1.0, split rings of its layout */
    bool broken, stopped;
    uint64_t events_ns;  /* when the device was last asked for events */
    struct timer events; /* asks again, when it was too soon */
    struct co_start failing;
    const struct virtq *events_queue; /* looks for events after each sleep: the first started */
};

struct virtio_driver {
    const char *name; /* "virtio-blk" */
    uint32_t id;
    uint64_t features; /* understood; those of rings and transport are the core's */
    /* From those that are offered and understood, what is wanted. NULL: all. */
    uint64_t (*choose)(uint64_t features);
    /* Features are negotiated. Make queues, call virtio_ready, announce. */
    int (*co_probe)(struct virtio_device *d);
    void (*config_changed)(struct virtio_device *d); /* NULL: does not matter */
    /* The device has stopped: fail what is in flight (virtq_detach) and all that comes. Runs in a
     * coroutine on loop 0, once. NULL: nothing can be. */
    void (*lost)(struct virtio_device *d);
    /* The device has stopped, lost was called: withdraw what was announced, free what was
     * allocated. Also after co_probe has failed. */
    void (*forget)(struct virtio_device *d);
};
REGISTRY(virtio_driver, const struct virtio_driver);

/* ---- For drivers ----------------------------------------------------------------------------- */

static inline bool virtio_has(const struct virtio_device *d, unsigned bit)
{
    return d->features >> bit & 1;
}
/* Makes and enables queue `index` on `loop`, with at most `size` entries. pieces: most in one chain
 * (VIRTIO_F_INDIRECT_DESC: a table of that length per entry); 1: chains are single pieces.
 * SR_EINVAL: the device has no such queue (a line says so); SR_ENOMEM. */
int virtio_queue(struct virtio_device *d, unsigned index, unsigned size, unsigned pieces,
                 unsigned loop, struct virtq **q);
/* DRIVER_OK: the device may work. */
void virtio_ready(struct virtio_device *d);

uint8_t virtio_cfg8(struct virtio_device *d, unsigned off);
uint16_t virtio_cfg16(struct virtio_device *d, unsigned off);
uint32_t virtio_cfg32(struct virtio_device *d, unsigned off);
uint64_t virtio_cfg64(struct virtio_device *d, unsigned off);
/* Runs `load` until the device did not change its configuration meanwhile; SR_EIO when it never
 * stops changing. */
int virtio_cfg_load(struct virtio_device *d, void (*load)(struct virtio_device *d, void *out),
                    void *out);

/* The device is broken: prints why, resets it, then calls lost. Any loop, any number of times. */
void virtio_fail(struct virtio_device *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Looks for configuration changes; rate-limited. By queues, after sleep. */
void virtio_events(struct virtio_device *d);

/* ---- For transports -------------------------------------------------------------------------- */

/* Offers a device to the drivers. d->ops, name and id are set, the rest is zero. On failure the
 * device has been stopped, nothing refers to it, and the caller frees it. SR_ENODEV: no driver. */
int co_virtio_probe(struct virtio_device *d);
/* Stops a probed device, fails what is in flight, withdraws what the driver announced, and frees the
 * driver's memory. Nobody may use that disk, card or port any more. */
void co_virtio_remove(struct virtio_device *d);
#endif

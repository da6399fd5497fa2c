/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all virtio devices share: negotiation, queues, events, failure.
 *
 * Start (virtio 1.2, 3.1.1): reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK and look whether it
 * stayed, queues, DRIVER_OK. A device behind a modern transport that does not offer VERSION_1 is
 * refused. One behind the legacy transport (mmio.c) has no FEATURES_OK (3.1.2), its rings lie as in
 * 2.7.2, and its configuration has no generation: one that changes under our eyes says so afterwards,
 * and is loaded again.
 *
 * Events. An interrupt only wakes the loop, and nobody knows whose it was; so after each sleep
 * one queue asks its device whether its configuration changed. That is a trip to the device, so
 * message-signalled ones are asked at most every EVENTS_NS, and a timer makes up for a question
 * that was left out. A wired interrupt line has to be acknowledged each time. 4.1.4.5.1: the
 * configuration bit of the interrupt status is set also when messages are in use.
 *
 * Failure, in this order: `broken` is set, and from here queues give nothing out and kick nothing; a
 * coroutine resets the device and waits until it says that it has stopped (2.4.2), else cuts it off
 * from the bus; only then are buffers given back, by the driver's `lost`.
 */
#include "virtio/virtio.h"

#include "kernel/board.h"
#include "kernel/fault.h"
#include "kernel/log.h"
#include <stdarg.h>
#include <stdio.h>

#define EVENTS_NS (10ull * 1000000)
#define STOP_NS   (1000ull * 1000000)
#define CFG_TRIES 16u
#define BIT(n)    (1ull << (n))
#define GONE      0xffu /* what reads of a device give that is not there */
#define RING_FEATURES                                                                  \
    (BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_VERSION_1) | \
     BIT(VIRTIO_F_ACCESS_PLATFORM) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_ORDER_PLATFORM))
#define LEGACY_FEATURES \
    (BIT(VIRTIO_F_ANY_LAYOUT) | BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX))

/* ---- Configuration space --------------------------------------------------------------------- */

uint8_t virtio_cfg8(struct virtio_device *d, unsigned off)
{
    return (uint8_t)d->ops->cfg_read(d, off, 1);
}

uint16_t virtio_cfg16(struct virtio_device *d, unsigned off)
{
    return (uint16_t)d->ops->cfg_read(d, off, 2);
}

uint32_t virtio_cfg32(struct virtio_device *d, unsigned off)
{
    return d->ops->cfg_read(d, off, 4);
}

uint64_t virtio_cfg64(struct virtio_device *d, unsigned off)
{
    return virtio_cfg32(d, off) | (uint64_t)virtio_cfg32(d, off + 4) << 32;
}

int virtio_cfg_load(struct virtio_device *d, void (*load)(struct virtio_device *d, void *out),
                    void *out)
{
    for (unsigned i = 0; i < CFG_TRIES; i++) {
        uint32_t before = d->ops->cfg_generation(d);
        load(d, out);
        if (d->ops->cfg_generation(d) == before)
            return 0;
    }
    return SR_EIO;
}

/* ---- Queues ---------------------------------------------------------------------------------- */

int virtio_queue(struct virtio_device *d, unsigned index, unsigned size, unsigned pieces,
                 unsigned loop, struct virtq **out)
{
    ASSERT(index < VIRTIO_MAX_QUEUES && !d->queue[index]);
    unsigned max = MIN(d->ops->queue_max(d, index), VRING_MAX_SIZE);
    if (!max) {
        log_line("virtio", "%s: has no queue %u", d->name, index);
        return SR_EINVAL;
    }
    struct virtq *q = sr_calloc(1, sizeof(*q));
    if (!q)
        return SR_ENOMEM;
    q->dev = d;
    q->index = (uint16_t)index;
    q->loop = loop;
    bool indirect = pieces > 1 && virtio_has(d, VIRTIO_F_INDIRECT_DESC);
    size = 1u << log2_floor(MIN(size, max));
    int rc = virtq_init(q, size, indirect ? pieces : 0);
    if (!rc) {
        rc = d->ops->queue_enable(d, q);
        if (rc)
            virtq_free(q);
    }
    if (rc) {
        sr_free(q);
        return rc;
    }
    d->queue[index] = *out = q;
    return 0;
}

static void co_free_queues(struct virtio_device *d)
{
    for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
        if (!d->queue[i])
            continue;
        co_hop(d->queue[i]->loop);
        virtq_stop(d->queue[i]);
        co_hop(0);
        virtq_free(d->queue[i]);
        sr_free(d->queue[i]);
        d->queue[i] = NULL;
    }
}

/* ---- Failure --------------------------------------------------------------------------------- */

static bool has_stopped(struct virtio_device *d)
{
    uint8_t status = d->ops->get_status(d);
    return status == 0 || status == GONE;
}

static void co_stop(struct virtio_device *d)
{
    uint64_t deadline = board_clock_ns() + STOP_NS;
    d->ops->set_status(d, 0);
    while (!has_stopped(d)) {
        if (board_clock_ns() >= deadline) {
            log_line("virtio", "%s: does not stop", d->name);
            if (d->ops->cut)
                d->ops->cut(d);
            return;
        }
        co_sleep_ns(STOP_NS / 1000);
    }
}

static void co_fail(void *arg)
{
    struct virtio_device *d = arg;
    co_hop(0);
    co_stop(d);
    timer_cancel(&d->events);
    if (d->driver->lost)
        d->driver->lost(d);
    d->stopped = true;
}

void virtio_fail(struct virtio_device *d, const char *fmt, ...)
{
    if (__atomic_exchange_n(&d->broken, true, __ATOMIC_RELAXED))
        return;
    char why[96];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    log_line(d->driver->name, "%s: device is broken: %s", d->name, why);
    /* As a child, because all stacks may be held by requests that wait for this device. */
    co_start_child(&d->failing, co_fail, d);
}

/* ---- Events ---------------------------------------------------------------------------------- */

static void look(struct virtio_device *d)
{
    d->events_ns = board_clock_ns();
    timer_cancel(&d->events);
    if (!(d->ops->interrupts(d) & VIRTIO_ISR_CONFIG))
        return;
    uint8_t status = d->ops->get_status(d);
    if (status == GONE)
        virtio_fail(d, "it is gone");
    else if (status & VIRTIO_STATUS_NEEDS_RESET)
        virtio_fail(d, "it asks for a reset");
    else if (d->driver->config_changed)
        d->driver->config_changed(d);
}

static void events_due(struct timer *t)
{
    struct virtio_device *d = container_of(t, struct virtio_device, events);
    if (!d->broken)
        look(d);
}

void virtio_events(struct virtio_device *d)
{
    if (d->broken)
        return;
    if (d->ops->wired || board_clock_ns() - d->events_ns >= EVENTS_NS)
        look(d);
    else if (!d->events.pending)
        timer_set(&d->events, d->events_ns + EVENTS_NS);
}

/* ---- Start ----------------------------------------------------------------------------------- */

static const struct virtio_driver *find_driver(uint32_t id)
{
    registry_for_each (virtio_driver, it)
        if ((*it)->id == id)
            return *it;
    return NULL;
}

static uint8_t base_status(const struct virtio_device *d)
{
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    return d->legacy ? status : status | VIRTIO_STATUS_FEATURES_OK;
}

static int negotiate(struct virtio_device *d)
{
    uint64_t offered = d->ops->get_features(d);
    if (!d->legacy && !(offered & BIT(VIRTIO_F_VERSION_1))) {
        log_line("virtio", "%s: a legacy device; its machine must offer version 1", d->name);
        return SR_ENOTSUP;
    }
    uint64_t wanted = offered & d->driver->features;
    if (d->driver->choose)
        wanted = d->driver->choose(wanted);
    d->features = wanted | (offered & (d->legacy ? LEGACY_FEATURES : RING_FEATURES));
    d->ops->set_features(d, d->features);
    if (d->legacy)
        return 0; /* 3.1.2: takes what it has offered */
    d->ops->set_status(d, base_status(d));
    if (d->ops->get_status(d) & VIRTIO_STATUS_FEATURES_OK)
        return 0;
    log_line("virtio", "%s: refuses features %llx of %llx", d->name,
             (unsigned long long)d->features, (unsigned long long)offered);
    return SR_ENOTSUP;
}

void virtio_ready(struct virtio_device *d)
{
    d->ops->set_status(d, base_status(d) | VIRTIO_STATUS_DRIVER_OK);
}

/* What went wrong may be going through co_fail at this moment; it ends with `stopped`. */
void co_virtio_remove(struct virtio_device *d)
{
    if (!d->broken) {
        d->broken = true;
        co_fail(d);
    }
    while (!d->stopped)
        co_sleep_ns(STOP_NS / 1000);
    d->driver->forget(d);
    co_free_queues(d);
}

int co_virtio_probe(struct virtio_device *d)
{
    d->driver = find_driver(d->id);
    if (!d->driver) {
        log_line("virtio", "%s: no driver for device type %u", d->name, d->id);
        return SR_ENODEV;
    }
    timer_init(&d->events, events_due);
    co_stop(d);
    d->ops->set_status(d, VIRTIO_STATUS_ACKNOWLEDGE);
    d->ops->set_status(d, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    int rc = negotiate(d);
    if (rc) {
        d->ops->set_status(d, VIRTIO_STATUS_FAILED);
        return rc;
    }
    rc = d->driver->co_probe(d);
    if (rc)
        co_virtio_remove(d);
    return rc;
}

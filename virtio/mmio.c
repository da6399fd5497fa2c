/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The MMIO transport (virtio 1.2, 4.2): one page of 32-bit registers per slot, the device's
 * configuration behind them, one wired interrupt. An empty slot has device id 0 and is passed over
 * in silence.
 *
 * Version 1, the legacy interface (4.2.4), is what machines offer that were not told otherwise. It has
 * 32 feature bits, is told of a queue by one page number (the rings lie as virtq_split.c says), knows
 * no generation of its configuration, and no FEATURES_OK. Its integers have the byte order of the
 * machine, which is ours.
 *
 * The line of an interrupt stays up until it is acknowledged, so `wired` makes the core ask after
 * each sleep.
 */
#include "virtio/mmio.h"

#include "kernel/fault.h"
#include "kernel/page.h"
#include "kernel/pci.h"
#include "virtio/mmio_spec.h"
#include "virtio/virtio.h"
#include <stdio.h>
#include <string.h>

struct virtio_mmio {
    struct virtio_device dev;
    volatile void *regs;
    size_t len;
    struct irq irq;
};

static struct virtio_mmio *mmio_of(struct virtio_device *d)
{
    return container_of(d, struct virtio_mmio, dev);
}

static uint32_t rd(struct virtio_device *d, unsigned off)
{
    return reg_read(mmio_of(d)->regs, off, 4);
}

static void wr(struct virtio_device *d, unsigned off, uint32_t v)
{
    reg_write(mmio_of(d)->regs, off, 4, v);
}

static uint8_t get_status(struct virtio_device *d)
{
    return (uint8_t)rd(d, VIRTIO_MMIO_STATUS);
}

static void set_status(struct virtio_device *d, uint8_t status)
{
    wr(d, VIRTIO_MMIO_STATUS, status);
}

static uint64_t get_features(struct virtio_device *d)
{
    wr(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    uint64_t low = rd(d, VIRTIO_MMIO_DEVICE_FEATURES);
    if (d->legacy)
        return low;
    wr(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    return low | (uint64_t)rd(d, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
}

static void set_features(struct virtio_device *d, uint64_t features)
{
    wr(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    wr(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
    if (d->legacy)
        return;
    wr(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    wr(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
}

static bool cfg_ok(struct virtio_device *d, unsigned off, unsigned width)
{
    return range_ok(off, width, mmio_of(d)->len - VIRTIO_MMIO_CONFIG);
}

static uint32_t cfg_read(struct virtio_device *d, unsigned off, unsigned width)
{
    if (!cfg_ok(d, off, width))
        return 0;
    return reg_read(mmio_of(d)->regs, VIRTIO_MMIO_CONFIG + off, width);
}

static void cfg_write(struct virtio_device *d, unsigned off, unsigned width, uint32_t v)
{
    if (cfg_ok(d, off, width))
        reg_write(mmio_of(d)->regs, VIRTIO_MMIO_CONFIG + off, width, v);
}

static uint32_t cfg_generation(struct virtio_device *d)
{
    return d->legacy ? 0 : rd(d, VIRTIO_MMIO_CONFIG_GENERATION);
}

static unsigned queue_max(struct virtio_device *d, unsigned index)
{
    wr(d, VIRTIO_MMIO_QUEUE_SEL, index);
    bool taken = rd(d, d->legacy ? VIRTIO_MMIO_QUEUE_PFN : VIRTIO_MMIO_QUEUE_READY);
    return taken ? 0 : rd(d, VIRTIO_MMIO_QUEUE_NUM_MAX);
}

static int legacy_enable(struct virtio_device *d, const struct virtq *q)
{
    uint64_t page = q->desc_addr / PAGE_SIZE;
    if (page > UINT32_MAX)
        return SR_ENOTSUP;
    wr(d, VIRTIO_MMIO_GUEST_PAGE_SIZE, PAGE_SIZE);
    wr(d, VIRTIO_MMIO_QUEUE_ALIGN, PAGE_SIZE);
    wr(d, VIRTIO_MMIO_QUEUE_PFN, (uint32_t)page);
    return 0;
}

static int queue_enable(struct virtio_device *d, struct virtq *q)
{
    volatile void *regs = mmio_of(d)->regs;
    wr(d, VIRTIO_MMIO_QUEUE_SEL, q->index);
    wr(d, VIRTIO_MMIO_QUEUE_NUM, q->size);
    if (d->legacy)
        return legacy_enable(d, q);
    reg_write64(regs, VIRTIO_MMIO_QUEUE_DESC, q->desc_addr);
    reg_write64(regs, VIRTIO_MMIO_QUEUE_DRIVER, q->driver_addr);
    reg_write64(regs, VIRTIO_MMIO_QUEUE_DEVICE, q->device_addr);
    wr(d, VIRTIO_MMIO_QUEUE_READY, 1);
    return 0;
}

static void notify(struct virtio_device *d, struct virtq *q)
{
    wr(d, VIRTIO_MMIO_QUEUE_NOTIFY, q->index);
}

static uint32_t interrupts(struct virtio_device *d)
{
    uint32_t status = rd(d, VIRTIO_MMIO_INTERRUPT_STATUS);
    if (status)
        wr(d, VIRTIO_MMIO_INTERRUPT_ACK, status);
    return status;
}

static const struct virtio_transport mmio_transport = {
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
    .wired = true,
};

static int identify(const struct mmio_dev *m, struct virtio_mmio *v)
{
    if (strcmp(m->compatible, MMIO_VIRTIO) || m->len <= VIRTIO_MMIO_CONFIG)
        return SR_ENODEV;
    v->regs = mmio_map(m->phys, m->len);
    if (!v->regs)
        return SR_ENOMEM;
    if (rd(&v->dev, VIRTIO_MMIO_MAGIC) != VIRTIO_MMIO_MAGIC_VALUE)
        return SR_ENODEV;
    v->dev.id = rd(&v->dev, VIRTIO_MMIO_DEVICE_ID);
    if (!v->dev.id)
        return SR_ENODEV;
    uint32_t version = rd(&v->dev, VIRTIO_MMIO_VERSION);
    v->dev.legacy = version == 1;
    if (version == 1 || version == 2)
        return 0;
    log_line("virtio", "%s: version %u is not known", m->name, version);
    return SR_ENODEV;
}

static int co_attach(const struct mmio_dev *m, struct virtio_mmio *v)
{
    int rc = identify(m, v);
    if (rc)
        return rc;
    rc = irq_alloc(&v->irq, 0);
    if (!rc)
        rc = irq_route_gsi(&v->irq, m->gsi, m->level, m->low);
    return rc ? rc : co_virtio_probe(&v->dev);
}

static int co_probe(const struct mmio_dev *m)
{
    struct virtio_mmio *v = sr_calloc(1, sizeof(*v));
    if (!v)
        return SR_ENOMEM;
    v->dev.ops = &mmio_transport;
    v->len = m->len;
    snprintf(v->dev.name, sizeof(v->dev.name), "%s", m->name);
    int rc = co_attach(m, v);
    if (rc)
        sr_free(v);
    return rc;
}

static const struct mmio_driver virtio_mmio_driver = {.name = "virtio-mmio", .probe = co_probe};
REGISTER(mmio_driver, virtio_mmio_driver);

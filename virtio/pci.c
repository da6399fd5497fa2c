/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PCI transport, modern interface (virtio 1.2, 4.1). Vendor capabilities say in which BAR, at
 * which offset and how long each of four structures is; the first usable one of a kind wins
 * (4.1.4.1), and one that does not fit its BAR is not usable. Transitional devices have the same
 * capabilities and are driven by them.
 *
 * Interrupts are MSI-X: entry 0 for configuration changes, one more per queue as far as the table
 * reaches (the rest share the last). What they send is the same for all devices of a loop: an
 * interrupt only wakes the loop that polls, so a vector per device would buy nothing, and vectors
 * run out. Functions without MSI-X are refused: INTx needs routing tables that no other driver does.
 */
#include "kernel/pci.h"

#include "kernel/fault.h"
#include "virtio/mmio.h"
#include "virtio/pci_spec.h"
#include "virtio/virtio.h"
#include <stdio.h>

#define PCI_CAPABILITIES 0x34u
#define PCI_COMMAND      0x04u
#define COMMAND_MASTER   0x04u
#define MAX_CAPS         48u
#define CAP_TYPES        5u

struct region { /* one of the structures; len 0: absent */
    uint32_t bar, off, len, multiplier;
    volatile void *at;
};
struct virtio_pci {
    struct virtio_device dev;
    struct pci_dev *pci;
    volatile void *common, *isr;
    struct region region[CAP_TYPES];
};

static struct virtio_pci *pci_of(struct virtio_device *d)
{
    return container_of(d, struct virtio_pci, dev);
}

/* ---- Capabilities ---------------------------------------------------------------------------- */

static const uint32_t min_len[CAP_TYPES] = {
    [VIRTIO_PCI_CAP_COMMON] = VIRTIO_PCI_COMMON_SIZE,
    [VIRTIO_PCI_CAP_NOTIFY] = 2,
    [VIRTIO_PCI_CAP_ISR] = 1,
    [VIRTIO_PCI_CAP_DEVICE] = 1,
};

static void read_cap(struct virtio_pci *v, uint16_t at)
{
    const struct pci_dev *p = v->pci;
    unsigned type = pci_read(p, at + VIRTIO_PCI_CAP_TYPE, 1);
    unsigned cap_len = pci_read(p, at + VIRTIO_PCI_CAP_LEN, 1);
    bool notify = type == VIRTIO_PCI_CAP_NOTIFY;
    if (!type || type >= CAP_TYPES || v->region[type].len ||
        cap_len < (notify ? VIRTIO_PCI_NOTIFY_SIZE : VIRTIO_PCI_CAP_SIZE) || at + cap_len > 256)
        return;
    struct region r = {.bar = pci_read(p, at + VIRTIO_PCI_CAP_BAR, 1),
                       .off = pci_read(p, at + VIRTIO_PCI_CAP_OFFSET, 4),
                       .len = pci_read(p, at + VIRTIO_PCI_CAP_LENGTH, 4)};
    if (notify)
        r.multiplier = pci_read(p, at + VIRTIO_PCI_CAP_MULTIPLIER, 4);
    if (r.bar >= ARRAY_LEN(p->bar) || r.len < min_len[type] ||
        !range_ok(r.off, r.len, p->bar[r.bar].size) || r.off % (type == VIRTIO_PCI_CAP_ISR ? 1 : 4))
        return;
    v->region[type] = r;
}

static int read_caps(struct virtio_pci *v)
{
    uint16_t at = pci_read(v->pci, PCI_CAPABILITIES, 1) & 0xfc;
    for (unsigned i = 0; at >= 0x40 && i < MAX_CAPS; i++) {
        if (pci_read(v->pci, at, 1) == VIRTIO_PCI_CAP_ID)
            read_cap(v, at);
        at = pci_read(v->pci, at + VIRTIO_PCI_CAP_NEXT, 1) & 0xfc;
    }
    for (unsigned type = 1; type < CAP_TYPES; type++) {
        struct region *r = &v->region[type];
        if (!r->len && type == VIRTIO_PCI_CAP_DEVICE)
            continue; /* the entropy device has none */
        volatile uint8_t *bar = r->len ? pci_bar_map(v->pci, r->bar) : NULL;
        if (!bar) {
            log_line("virtio", "%s: no usable capability of type %u", v->dev.name, type);
            return SR_ENOTSUP;
        }
        r->at = bar + r->off;
    }
    v->common = v->region[VIRTIO_PCI_CAP_COMMON].at;
    v->isr = v->region[VIRTIO_PCI_CAP_ISR].at;
    return 0;
}

/* ---- Registers ------------------------------------------------------------------------------- */

static uint8_t get_status(struct virtio_device *d)
{
    return (uint8_t)reg_read(pci_of(d)->common, VIRTIO_PCI_STATUS, 1);
}

static void set_status(struct virtio_device *d, uint8_t status)
{
    reg_write(pci_of(d)->common, VIRTIO_PCI_STATUS, 1, status);
}

static uint64_t get_features(struct virtio_device *d)
{
    volatile void *c = pci_of(d)->common;
    reg_write(c, VIRTIO_PCI_DEVICE_FEATURE_SELECT, 4, 0);
    uint64_t low = reg_read(c, VIRTIO_PCI_DEVICE_FEATURE, 4);
    reg_write(c, VIRTIO_PCI_DEVICE_FEATURE_SELECT, 4, 1);
    return low | (uint64_t)reg_read(c, VIRTIO_PCI_DEVICE_FEATURE, 4) << 32;
}

static void set_features(struct virtio_device *d, uint64_t features)
{
    volatile void *c = pci_of(d)->common;
    reg_write(c, VIRTIO_PCI_DRIVER_FEATURE_SELECT, 4, 0);
    reg_write(c, VIRTIO_PCI_DRIVER_FEATURE, 4, (uint32_t)features);
    reg_write(c, VIRTIO_PCI_DRIVER_FEATURE_SELECT, 4, 1);
    reg_write(c, VIRTIO_PCI_DRIVER_FEATURE, 4, (uint32_t)(features >> 32));
}

static uint32_t cfg_read(struct virtio_device *d, unsigned off, unsigned width)
{
    const struct region *r = &pci_of(d)->region[VIRTIO_PCI_CAP_DEVICE];
    return range_ok(off, width, r->len) ? reg_read(r->at, off, width) : 0;
}

static void cfg_write(struct virtio_device *d, unsigned off, unsigned width, uint32_t value)
{
    const struct region *r = &pci_of(d)->region[VIRTIO_PCI_CAP_DEVICE];
    if (range_ok(off, width, r->len))
        reg_write(r->at, off, width, value);
}

static uint32_t cfg_generation(struct virtio_device *d)
{
    return reg_read(pci_of(d)->common, VIRTIO_PCI_GENERATION, 1);
}

static unsigned queue_max(struct virtio_device *d, unsigned index)
{
    volatile void *c = pci_of(d)->common;
    if (index >= reg_read(c, VIRTIO_PCI_NUM_QUEUES, 2))
        return 0;
    reg_write(c, VIRTIO_PCI_QUEUE_SELECT, 2, index);
    return reg_read(c, VIRTIO_PCI_QUEUE_SIZE, 2);
}

/* Writes a vector register and looks whether the device had the resources (4.1.5.1.2). */
static int set_vector(struct virtio_pci *v, unsigned reg, unsigned entry)
{
    reg_write(v->common, reg, 2, entry);
    return reg_read(v->common, reg, 2) == entry ? 0 : SR_ENOSPC;
}

/* One interrupt for all devices of a loop: it only wakes. */
static int wake_irq(unsigned loop, const struct irq **irq)
{
    static struct {
        struct irq irq;
        bool there;
    } wake[MAX_LOOPS];
    int rc = wake[loop].there ? 0 : irq_alloc(&wake[loop].irq, loop);
    wake[loop].there |= !rc;
    *irq = &wake[loop].irq;
    return rc;
}

static int program_entry(struct virtio_pci *v, unsigned entry, unsigned loop)
{
    const struct irq *irq;
    int rc = wake_irq(loop, &irq);
    return rc ? rc : pci_msix_set(v->pci, entry, irq);
}

static int queue_vector(struct virtio_pci *v, const struct virtq *q)
{
    if (v->dev.ops->wired)
        return q->loop ? SR_ENOTSUP : 0;
    unsigned entry = MIN(q->index + 1u, v->pci->msix_vectors - 1);
    int rc = program_entry(v, entry, q->loop);
    if (!rc)
        rc = set_vector(v, VIRTIO_PCI_QUEUE_VECTOR, entry);
    if (!rc && q->index == 0) /* every device has this queue, and reset has cleared the register */
        rc = set_vector(v, VIRTIO_PCI_CONFIG_VECTOR, 0);
    return rc;
}

static int queue_enable(struct virtio_device *d, struct virtq *q)
{
    struct virtio_pci *v = pci_of(d);
    volatile void *c = v->common;
    const struct region *n = &v->region[VIRTIO_PCI_CAP_NOTIFY];
    reg_write(c, VIRTIO_PCI_QUEUE_SELECT, 2, q->index);
    uint64_t off = (uint64_t)reg_read(c, VIRTIO_PCI_QUEUE_NOTIFY_OFF, 2) * n->multiplier;
    if (!range_ok(off, 2, n->len) || off % 2)
        return SR_EIO;
    q->notify = (volatile uint8_t *)n->at + off;
    reg_write(c, VIRTIO_PCI_QUEUE_SIZE, 2, q->size);
    reg_write64(c, VIRTIO_PCI_QUEUE_DESC, q->desc_addr);
    reg_write64(c, VIRTIO_PCI_QUEUE_DRIVER, q->driver_addr);
    reg_write64(c, VIRTIO_PCI_QUEUE_DEVICE, q->device_addr);
    int rc = queue_vector(v, q);
    if (!rc)
        reg_write(c, VIRTIO_PCI_QUEUE_ENABLE, 2, 1);
    return rc;
}

static void notify(struct virtio_device *d, struct virtq *q)
{
    (void)d;
    reg_write(q->notify, 0, 2, q->index);
}

static uint32_t interrupts(struct virtio_device *d)
{
    return reg_read(pci_of(d)->isr, 0, 1);
}

static void cut(struct virtio_device *d)
{
    const struct pci_dev *p = pci_of(d)->pci;
    pci_write(p, PCI_COMMAND, 2, pci_read(p, PCI_COMMAND, 2) & ~COMMAND_MASTER);
}

#define TRANSPORT                                                                           \
    .get_status = get_status, .set_status = set_status, .get_features = get_features,       \
    .set_features = set_features, .cfg_read = cfg_read, .cfg_write = cfg_write,             \
    .cfg_generation = cfg_generation, .queue_max = queue_max, .queue_enable = queue_enable, \
    .notify = notify, .interrupts = interrupts, .cut = cut
static const struct virtio_transport pci_transport = {TRANSPORT};
static const struct virtio_transport pci_wired_transport = {TRANSPORT, .wired = true};

/* ---- Probe ----------------------------------------------------------------------------------- */

static bool match(const struct pci_dev *p)
{
    return p->vendor == VIRTIO_PCI_VENDOR && p->device >= VIRTIO_PCI_DEVICE_FIRST &&
           p->device <= VIRTIO_PCI_DEVICE_LAST;
}

/* Messages, else the line, where the board knows where that ends. */
static int choose_interrupt(struct virtio_pci *v)
{
    const struct irq *irq;
    int rc = v->pci->msix_vectors ? pci_msix_enable(v->pci) : SR_ENOTSUP;
    if (!rc)
        rc = program_entry(v, 0, 0);
    if (rc != SR_ENOTSUP)
        return rc;
    rc = wake_irq(0, &irq);
    if (!rc)
        rc = pci_intx_set(v->pci, irq);
    if (rc)
        log_line("virtio", "%s: has no interrupt that this machine can take", v->dev.name);
    v->dev.ops = &pci_wired_transport;
    return rc;
}

static int co_attach(struct virtio_pci *v)
{
    int rc = read_caps(v);
    if (rc)
        return rc;
    pci_enable(v->pci);
    rc = choose_interrupt(v);
    return rc ? rc : co_virtio_probe(&v->dev);
}

static int co_probe(struct pci_dev *p)
{
    struct virtio_pci *v = sr_calloc(1, sizeof(*v));
    if (!v)
        return SR_ENOMEM;
    v->pci = p;
    v->dev.ops = &pci_transport;
    v->dev.id =
        p->device >= VIRTIO_PCI_DEVICE_BASE ? p->device - VIRTIO_PCI_DEVICE_BASE : p->subsys;
    snprintf(v->dev.name, sizeof(v->dev.name), "pci %s", p->name);
    int rc = co_attach(v);
    if (!rc)
        p->driver_data = v;
    else
        sr_free(v);
    return rc == SR_ENODEV ? 0 : rc; /* no driver for it: a line has said so */
}

static const struct pci_driver virtio_pci_driver = {
    .name = "virtio-pci", .match = match, .probe = co_probe};
REGISTER(pci_driver, virtio_pci_driver);

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Controllers that are no PCI function: registers at a place that the board knows, and a wired
 * line, which only wakes the loop. There is no switch for their way to memory.
 */
#include "ahci/ahci.h"
#include "kernel/irq.h"
#include "kernel/pci.h"

#include <stdio.h>
#include <string.h>

struct ahci_mmio {
    struct ahci_hba hba;
    volatile uint8_t *regs;
    struct irq irq;
};

static struct ahci_mmio *mmio_of(struct ahci_hba *h)
{
    return container_of(h, struct ahci_mmio, hba);
}

static uint32_t read(struct ahci_hba *h, unsigned reg)
{
    return *(volatile uint32_t *)(volatile void *)(mmio_of(h)->regs + reg);
}

static void write(struct ahci_hba *h, unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(volatile void *)(mmio_of(h)->regs + reg) = value;
}

/* It would go on writing to memory that is somebody else's by then. */
static void cut(struct ahci_hba *h)
{
    panic("ahci: %s: nothing stops it, and it reaches all memory", h->name);
}

static const struct ahci_bus bus = {.read = read, .write = write, .cut = cut};

static int co_attach(const struct mmio_dev *d, struct ahci_mmio *a)
{
    a->regs = mmio_map(d->phys, d->len);
    if (!a->regs)
        return SR_ENOMEM;
    int rc = irq_alloc(&a->irq, 0);
    if (!rc)
        rc = irq_route_gsi(&a->irq, d->gsi, d->level, d->low);
    return rc ? rc : co_ahci_attach(&a->hba);
}

static int co_probe(const struct mmio_dev *d)
{
    if (strcmp(d->compatible, MMIO_AHCI))
        return SR_ENODEV;
    struct ahci_mmio *a = sr_calloc(1, sizeof(*a));
    if (!a)
        return SR_ENOMEM;
    a->hba.bus = &bus;
    a->hba.regs = d->len;
    snprintf(a->hba.name, sizeof(a->hba.name), "%s", d->name);
    int rc = co_attach(d, a);
    if (rc)
        sr_free(a);
    return rc;
}

static const struct mmio_driver ahci_mmio_driver = {.name = "ahci", .probe = co_probe};
REGISTER(mmio_driver, ahci_mmio_driver);

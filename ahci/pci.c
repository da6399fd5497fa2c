/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Controllers on PCI: class 01.06.01, registers in BAR 5 (AHCI 1.3.1, chapter 2). One message for the
 * whole controller, MSI-X or MSI, or the wired line where the machine has no messages and knows
 * where lines end; it only wakes the loop.
 */
#include "ahci/ahci.h"
#include "kernel/irq.h"
#include "kernel/pci.h"

#include <stdio.h>

#define CLASS_AHCI     0x010601u
#define ABAR           5u
#define PCI_COMMAND    0x04u
#define COMMAND_MASTER 0x04u

struct ahci_pci {
    struct ahci_hba hba;
    struct pci_dev *pci;
    volatile uint8_t *regs;
};

static struct ahci_pci *pci_of(struct ahci_hba *h)
{
    return container_of(h, struct ahci_pci, hba);
}

static uint32_t read(struct ahci_hba *h, unsigned reg)
{
    return *(volatile uint32_t *)(pci_of(h)->regs + reg);
}

static void write(struct ahci_hba *h, unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(pci_of(h)->regs + reg) = value;
}

static void cut(struct ahci_hba *h)
{
    const struct pci_dev *p = pci_of(h)->pci;
    pci_write(p, PCI_COMMAND, 2, pci_read(p, PCI_COMMAND, 2) & ~COMMAND_MASTER);
}

static const struct ahci_bus bus = {.read = read, .write = write, .cut = cut};

static bool match(const struct pci_dev *d)
{
    return d->class_rev >> 8 == CLASS_AHCI;
}

static int route(struct pci_dev *d)
{
    static struct irq irq;
    static bool there;
    int rc = there ? 0 : irq_alloc(&irq, 0);
    if (rc)
        return rc;
    there = true;
    rc = SR_ENOTSUP;
    if (d->msix_vectors) {
        rc = pci_msix_enable(d);
        rc = rc ? rc : pci_msix_set(d, 0, &irq);
    }
    if (rc == SR_ENOTSUP)
        rc = pci_msi_set(d, &irq);
    return rc == SR_ENOTSUP ? pci_intx_set(d, &irq) : rc;
}

static int co_attach(struct ahci_pci *a)
{
    struct pci_dev *d = a->pci;
    a->regs = pci_bar_map(d, ABAR);
    if (!a->regs)
        return SR_ENODEV;
    a->hba.regs = d->bar[ABAR].size;
    pci_enable(d);
    int rc = route(d);
    if (rc) {
        log_line("ahci", "%s: has no interrupt that this machine can take", a->hba.name);
        return rc;
    }
    return co_ahci_attach(&a->hba);
}

static int co_probe(struct pci_dev *d)
{
    struct ahci_pci *a = sr_calloc(1, sizeof(*a));
    if (!a)
        return SR_ENOMEM;
    a->pci = d;
    a->hba.bus = &bus;
    snprintf(a->hba.name, sizeof(a->hba.name), "pci %s", d->name);
    int rc = co_attach(a);
    if (!rc)
        d->driver_data = a;
    else
        sr_free(a);
    return rc;
}

static const struct pci_driver ahci_pci_driver = {
    .name = "ahci", .match = match, .probe = co_probe};
REGISTER(pci_driver, ahci_pci_driver);

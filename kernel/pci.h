/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_PCI_H
#define KERNEL_PCI_H
/*
 * PCI functions as drivers see them. The board finds the ECAM (or port) access and the windows,
 * kernel/pci.c enumerates buses in order, sizes and (where firmware left them) assigns BARs, and
 * offers each function to the registered drivers: first match wins. Source: PCI Local Bus 3.0
 * chapter 6, PCI Express ECAM; MSI-X: PCI 3.0 section 6.8.2. Loop 0, control path.
 */
#include "kernel/compiler.h"
#include "kernel/irq.h"
#include "kernel/list.h"
#include "kernel/registry.h"

struct pci_bar {
    uint64_t phys, size; /* size 0: absent or I/O */
    bool prefetch, is64;
    volatile void *mapped; /* by pci_bar_map */
};
struct pci_dev {
    struct list link;
    uint8_t bus, dev, fn;
    uint16_t vendor, device, subsys_vendor, subsys;
    uint32_t class_rev;
    struct pci_bar bar[6];
    uint16_t msix_cap; /* config offset, 0: none */
    unsigned msix_vectors;
    volatile uint32_t *msix; /* table, mapped on first use */
    char name[8];            /* "00:02.0" */
    void *driver_data;
};
struct pci_driver {
    const char *name;
    bool (*match)(const struct pci_dev *d);
    int (*probe)(struct pci_dev *d); /* may yield; errors are logged with the reason, the function
                                        is left out */
};
REGISTRY(pci_driver, const struct pci_driver);

/* What the board supplies. width 1, 2 or 4; bus ranges outside what the board has read as all ones.
 */
struct pci_host {
    uint32_t (*cfg_read)(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width);
    void (*cfg_write)(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width, uint32_t v);
    uint8_t first_bus, last_bus;
    uint64_t mmio32_base, mmio32_size, mmio64_base,
        mmio64_size; /* for BARs that firmware left unassigned */
    unsigned intx;   /* global interrupt of INTA of device 0 on the first bus; the three behind it
                        are INTB to INTD. 0: not known */
};
void pci_init(const struct pci_host *host); /* enumerate; does not probe */
void co_pci_probe(void); /* offer each function to the drivers, in order of address */

uint32_t pci_read(const struct pci_dev *d, uint16_t off, unsigned width);
void pci_write(const struct pci_dev *d, uint16_t off, unsigned width, uint32_t v);
/* Next capability with this id at or after `from` (0: the first); 0 when there is none. Bounded: a
 * looping list ends. */
uint16_t pci_find_cap(const struct pci_dev *d, uint8_t id, uint16_t from);
volatile void *pci_bar_map(struct pci_dev *d,
                           unsigned bar); /* whole BAR, uncached; NULL when absent */
void pci_enable(struct pci_dev *d);       /* memory space + bus master */
int pci_msix_enable(struct pci_dev *d);
int pci_msix_set(struct pci_dev *d, unsigned entry,
                 const struct irq *irq); /* programs and unmasks one entry */
/* Plain MSI (PCI 3.0, 6.8.1), one message; SR_ENOTSUP: has none. */
int pci_msi_set(struct pci_dev *d, const struct irq *irq);

/* Its wired line, for machines without messages; level-triggered, shared, and routed as PCI-to-PCI
 * Bridge 1.2, table 9-1 swizzles it. SR_ENOTSUP: there is none, or where it ends is not known. */
int pci_intx_set(struct pci_dev *d, const struct irq *irq);

/* Map device memory (a BAR, a virtio-mmio page): uncached, non-executable. Board. NULL: cannot. */
volatile void *mmio_map(uint64_t phys, size_t len);
/* The same for a BAR that holds memory (a sibling's RAM): cached. */
volatile void *mmio_map_memory(uint64_t phys, size_t len);

/* virtio-mmio style devices without a bus: the board calls mmio_offer per device it found, drivers
 * register. */
#define MMIO_VIRTIO "virtio,mmio" /* what it is: the device tree's word for it */
#define MMIO_AHCI   "generic-ahci"
struct mmio_dev {
    const char *compatible;
    uint64_t phys;
    size_t len;
    unsigned gsi;
    bool level, low;
    char name[24]; /* "mmio feb00e00" */
};
struct mmio_driver {
    const char *name;
    int (*probe)(const struct mmio_dev *d); /* SR_ENODEV: not mine or empty slot (silent) */
};
REGISTRY(mmio_driver, const struct mmio_driver);
void co_mmio_offer(const struct mmio_dev *d);
/* By address, and each with its name. */
void mmio_sort(struct mmio_dev *d, unsigned n);
#endif

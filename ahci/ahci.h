/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef AHCI_AHCI_H
#define AHCI_AHCI_H
/*
 * ahci/: driver for SATA host controllers (Serial ATA AHCI 1.3.1) and what hangs on their ports.
 *
 *     bus (pci.c, device/model.c)    finds a controller, fills struct ahci_hba
 *     controller (controller.c)      capabilities, hand-off, ports in parallel, interrupts, failure
 *     port (port.c, recover.c)       engine, link, reset, identify; errors, time-outs, hot plug
 *     command (command.c)            slots, command tables, completions
 *     identify.c, disk.c, cd.c       what a device says it is; the node driver `ahci`; packets
 *
 * What a controller or a disk says can fail a request, take a port out of use, or the controller:
 * never more. DMA memory is given back only when the port's engine was seen stopped; if it never is,
 * the controller is reset, and when even that is not confirmed its bus access is cut.
 *
 * Context: attach and detach are control path, in a coroutine on loop 0. Everything a controller has
 * belongs to loop 0; requests of other loops hop there. Errors: SR_E*. The hba belongs to the bus,
 * which never frees one that was attached with success until it is detached.
 */
#include "ahci/ahci_hw.h"
#include "blk/blk.h"

struct ahci_hba;
struct ahci_port;

struct ahci_bus {
    uint32_t (*read)(struct ahci_hba *h, unsigned reg);
    void (*write)(struct ahci_hba *h, unsigned reg, uint32_t value);
    /* Last resort against a controller that does not stop: take its bus away. */
    void (*cut)(struct ahci_hba *h);
    /* Memory below 4 GiB for a controller that reaches no further; NULL: page_alloc, and look. */
    void *(*alloc_low)(size_t bytes);
    void (*free_low)(void *p, size_t bytes);
};

struct ahci_hba {
    /* By the bus. */
    const struct ahci_bus *bus;
    char name[24];  /* "pci 00:1f.2" */
    size_t regs;    /* bytes of registers */
    unsigned hurry; /* tests: all bounds of time are divided by it; 0 is 1 */
    /* By the controller. */
    uint32_t cap, implemented;
    unsigned slots;
    bool ncq, dma64;
    bool broken; /* for good: its bus was cut */
    struct ahci_port *port[AHCI_MAX_PORTS];
    uint32_t active; /* ports with something in flight */
    struct poller poller;
    struct timer look; /* for interrupts of ports with nothing in flight */
    uint64_t looked_ns;
};

/* Takes the controller over, probes all ports (together; a port has a few seconds), announces disks. */
int co_ahci_attach(struct ahci_hba *h);
/* Fails what is in flight, stops the controller, withdraws its disks: nobody may use them any more. */
void co_ahci_detach(struct ahci_hba *h);

static inline uint64_t hba_bound(const struct ahci_hba *h, uint64_t ns)
{
    return h->hurry ? ns / h->hurry : ns;
}
static inline uint32_t hba_read(struct ahci_hba *h, unsigned reg)
{
    return h->bus->read(h, reg);
}
static inline void hba_write(struct ahci_hba *h, unsigned reg, uint32_t value)
{
    h->bus->write(h, reg, value);
}
#endif

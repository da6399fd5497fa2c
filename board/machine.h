/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_MACHINE_H
#define BOARD_MACHINE_H
/*
 * What an Arm machine consists of, whoever said so: a device tree (board/fdt.c), ACPI tables
 * (board/arm/tables.c) or a documented map (board/arm/sbsa.c). Physical addresses, lengths in bytes;
 * 0 means "not there". Interrupts are GIC interrupt ids (INTIDs: PPIs from 16, SPIs from 32).
 *
 * The texts point into the tree and live as long as that.
 */
#include "boot/aarch64/gic.h"
#include "boot/aarch64/psci.h"
#include "kernel/compiler.h"
#include "kernel/pci.h"

#define MACHINE_MAX_RANGES 16
#define MACHINE_MAX_MMIO   64

struct machine_range {
    uint64_t base, len;
};

struct machine_pci {
    uint64_t ecam; /* of bus first_bus */
    uint8_t first_bus, last_bus;
    struct machine_range mmio32, mmio64; /* windows in which PCI and CPU addresses are the same */
    unsigned intx; /* interrupt of INTA of device 0; the other three follow, turned by device */
};

struct machine {
    size_t tree_len;        /* of what the tree really needs of its header's length */
    const char *compatible; /* the tree's first word for the whole, or NULL */
    unsigned cpus;
    unsigned ram_count, reserved_count;
    struct machine_range ram[MACHINE_MAX_RANGES], reserved[MACHINE_MAX_RANGES];
    const char *bootargs;
    struct machine_range initrd;
    uint8_t seed[32]; /* unpredictable bytes from the loader */
    unsigned seed_len;

    uint64_t pl011;
    struct gic_info gic;
    unsigned timer_irq; /* of the virtual timer */
    enum psci_conduit psci;
    struct machine_pci pci;
    uint64_t fw_cfg;
    struct {
        uint64_t pl061; /* a key on this line of it, or */
        unsigned line;
        uint64_t ged; /* the register of ACPI's generic event device */
    } button;

    unsigned mmio_count; /* in no order, without names */
    struct mmio_dev mmio[MACHINE_MAX_MMIO];
};
#endif

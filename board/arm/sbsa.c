/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QEMU's sbsa-ref: an Arm server by the Server Base System Architecture. It gives a tree with RAM,
 * processors and (when it loads us itself) /chosen; everything else is fixed by the machine
 * (hw/arm/sbsa-ref.c: sbsa_ref_memmap, sbsa_ref_irqmap), and its firmware knows it by heart.
 *
 * Its GIC (in version 7.2) has no ITS, so PCI functions get lines. It has no PSCI: that would be
 * its firmware's.
 */
#include "board/arm/arm.h"

#include <string.h>

#define SPI(n) (32u + (n))

bool sbsa_is(const struct machine *m)
{
    return m->compatible && !strcmp(m->compatible, "linux,sbsa-ref");
}

void sbsa_complete(struct machine *m)
{
    m->pl011 = 0x60000000;
    m->gic = (struct gic_info){
        .version = 3,
        .dist = 0x40060000,
        .redist_count = 1,
        .redist = {{0x40080000, 0x44080000}},
    };
    m->timer_irq = 27;
    m->button.pl061 = 0x60020000;
    m->button.line = 3;
    m->pci = (struct machine_pci){
        .ecam = 0xf0000000,
        .last_bus = 255,
        .mmio32 = {0x80000000, 0x70000000},
        .mmio64 = {0x100000000, 0xff00000000},
        .intx = SPI(3),
    };
    m->mmio[m->mmio_count++] = (struct mmio_dev){
        .compatible = MMIO_AHCI, .phys = 0x60100000, .len = 0x1000, .gsi = SPI(10), .level = true};
}

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_AARCH64_GIC_H
#define BOOT_AARCH64_GIC_H
/*
 * The interrupt controller, as the board found it. gic_init brings it up on the boot core; from
 * then on kernel/irq.h works. A `gsi` is the interrupt's INTID everywhere on this architecture: SPI
 * n of a device tree is 32 + n, ACPI's numbers are INTIDs already. A message's `requester` is the
 * PCI function (bus << 8 | device << 3 | function).
 *
 * Physical addresses; 0 means "not there". Boot core, start-up, before the page allocator: tables
 * are early pages. What does not answer as it should costs its part and a console line: without
 * `v2m` and `its` there are no messages, without a controller no interrupts (the loop then
 * never sleeps).
 */
#include "boot/boot.h"

#define GIC_MAX_REDISTS 4

struct gic_info {
    unsigned version; /* 2 or 3; 0: none */
    uint64_t dist;
    uint64_t cpu; /* version 2: the processor interface */
    unsigned redist_count;
    struct phys_range redist[GIC_MAX_REDISTS]; /* version 3: regions of redistributors */
    uint64_t v2m;                              /* MSI frame of GICv2m */
    uint64_t its; /* control frame of an interrupt translation service */
};

void gic_init(const struct gic_info *info);

/* The clock's alarm is the virtual timer; its interrupt (a PPI: 16 to 31, usually 27). After gic_init. */
void clock_init(unsigned intid);

/* Between gic.c and its users in boot/aarch64. */
void gic_enable(unsigned intid, bool level); /* unmasked, to this core */
void gic_acknowledge(void);                  /* takes and ends everything that is pending */
bool gic_present(void);
#endif
